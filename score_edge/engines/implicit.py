"""INT8 by TensorRT's own calibration, which it had up to 10: footage in, ranges out. Only on request.

Every TensorRT takes what `score-edge calibrate` makes, which leaves harmful layers in FP32 and says what INT8 costs.
"""

from dataclasses import dataclass
from pathlib import Path

from score_edge.bundle.folder import Bundle
from score_edge.calibration.frames import choose_steps, group_steps, read_clips
from score_edge.engines.plan import JUDGED_ON
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.base import Array
from score_edge.runtime.graphs.engine_files import calibration_cache
from score_edge.runtime.preprocess import Preprocessing
from score_edge.runtime.sources.sample_steps import sample_steps

FRAMES = 256


@dataclass(frozen=True, slots=True)
class ImplicitCalibration:
    """What TensorRT calibrates on and is then judged by.

    Attributes:
        steps: encoder inputs, float32, one behind the other; None where the cache has the ranges already.
        cache: ranges as TensorRT writes them; in the folder that is being filled.
        filed: where the cache stays.
        held_out: encoder inputs that were not calibrated on.
    """

    steps: Path | None
    cache: Path
    filed: Path
    held_out: list[dict[str, Array]]


def collect(bundle: Bundle, tensorrt: str, video: str | Path | None, folder: Path) -> ImplicitCalibration:
    """Choose steps by content as `score-edge calibrate` does, or take along the ranges of an earlier build.

    Args:
        bundle: opened.
        tensorrt: version that will calibrate.
        video: footage, or a folder of it; None takes the cache of an earlier build.
        folder: to write into.

    Raises:
        ScoreEdgeError: no footage and no cache, or footage that cannot calibrate.
        OSError: a full disk.
    """
    vision = bundle.manifest.vision
    filed = calibration_cache(bundle, tensorrt)
    cache = folder / filed.name
    if video is None:
        if not filed.is_file():
            raise ScoreEdgeError(
                f"--implicit finds the ranges of INT8 on footage, and there are none from before ({filed.name})",
                "add --video FOOTAGE, of the camera the bundle is for",
            )
        cache.write_bytes(filed.read_bytes())
        return ImplicitCalibration(None, cache, filed, sample_steps(vision, None, JUDGED_ON))
    preprocessing = Preprocessing.of(vision)
    choice = choose_steps((group_steps(clip, preprocessing) for clip in read_clips([video], vision.fps)), FRAMES)
    steps = folder / "steps.f32"
    with steps.open("wb") as file:
        for pixels in choice.calibration:
            file.write(preprocessing.encoder_input(pixels)[vision.input_name].tobytes())
    kept_back = [pixels for run in choice.held_out for pixels in run][:JUDGED_ON]
    held_out = [dict(preprocessing.encoder_input(pixels)) for pixels in kept_back]
    return ImplicitCalibration(steps, cache, filed, held_out)
