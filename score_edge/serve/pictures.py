"""Pictures of a camera's newest step, as JPEG."""

from score_edge.core import Frame, Mask
from score_edge.errors import require
from score_edge.runtime.overlay import paint, thumbnail

_WIDTH = 960
_LEAST_PAINTED = 640


def jpeg(frame: Frame, keep: Mask | None = None, encoded: Mask | None = None, width: int = _WIDTH) -> bytes:
    """A frame as JPEG, of about this width at most; where it is painted, a smaller one is enlarged.

    Args:
        frame: RGB.
        keep, encoded: (gh, gw) bool, see `paint`; None paints nothing.
    """
    cv2 = require("cv2")

    image = thumbnail(frame, width).image
    if keep is not None:
        enlarged = max(1, _LEAST_PAINTED // image.shape[1])
        image = paint(image.repeat(enlarged, 0).repeat(enlarged, 1), keep, encoded)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return bytes(data)
