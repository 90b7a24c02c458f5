"""Pictures of a camera's newest step, as JPEG."""

import numpy as np

from score_edge.core import Frame, Mask, Uint8
from score_edge.errors import require
from score_edge.runtime.overlay import paint, thumbnail

_WIDTH = 960
_ENCODED = (255, 179, 0)


def jpeg(frame: Frame, keep: Mask | None = None, encoded: Mask | None = None, width: int = _WIDTH) -> bytes:
    """A frame as JPEG.

    Args:
        frame: RGB.
        keep: (gh, gw) bool, tokens that were kept, in colour and outlined, the others dark; None paints nothing.
        encoded: (gh, gw) bool, cells that were encoded, outlined too.
        width: of the picture at most.
    """
    cv2 = require("cv2")

    image = thumbnail(frame, width).image
    if keep is not None:
        image = paint(image, keep)
    if encoded is not None:
        image = _outlined(image, encoded)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert done
    return bytes(data)


def _outlined(image: Uint8, cells: Mask) -> Uint8:
    """A copy with a thin line around what these cells cover."""
    height, width = image.shape[:2]
    rows, columns = np.arange(height) * cells.shape[0] // height, np.arange(width) * cells.shape[1] // width
    inside = np.pad(cells[rows[:, None], columns], 1)
    core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    outlined = np.array(image)
    outlined[inside[1:-1, 1:-1] & ~core] = _ENCODED
    return np.asarray(outlined, np.uint8)
