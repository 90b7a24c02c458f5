"""Whether the kept tokens of real footage lie on people, vehicles and animals: kept per area inside boxes over outside.

No question is asked, so this needs no model that understands the footage; it also works on footage nothing was trained
on. Boxes are JSON: `width`, `height` and `frames`, {frame index: [{"box": [x1, y1, x2, y2]}, …]}, pixels of the file.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from score_edge.core import Float32, Grid, Mask
from score_edge.errors import ScoreEdgeError
from score_edge.evaluation.comparison import clip_reader
from score_edge.runtime.pipeline import Pipeline
from score_edge.selection.registry import knows_question

FINE = 16  # cells per side of a token in which the area of overlapping boxes is counted


@dataclass(frozen=True, slots=True)
class Boxes:
    """Labelled frames of a video.

    Attributes:
        frames: (n, 4) float32 boxes by frame index, x1 y1 x2 y2 as shares of width and height; n may be 0.
        size: (height, width) of a frame in pixels.
    """

    frames: dict[int, Float32]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Selectivity:
    """Where one selector keeps its tokens.

    Attributes:
        inside, outside: share of the area in, and not in, boxes whose token is kept.
        steps: labelled steps of the clip, the only ones that count.
        area: share of their area that is in boxes.
    """

    selector: str
    retention: float
    inside: float
    outside: float
    steps: int
    area: float

    @property
    def ratio(self) -> float | None:
        """How many times denser kept tokens lie inside; None when none lies outside."""
        return self.inside / self.outside if self.outside else None


def read_boxes(path: Path) -> Boxes:
    """Read a file of boxes.

    Raises:
        ScoreEdgeError: it is not such a file, or labels no frame.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        height, width = int(document["height"]), int(document["width"])
        if height < 1 or width < 1:
            raise ValueError(f"a frame of {width} x {height} pixels")
        size = np.array([width, height] * 2, np.float32)
        frames = {
            int(index): np.array([item["box"] for item in items], np.float32).reshape(-1, 4) / size
            for index, items in document["frames"].items()
        }
    except OSError as error:
        raise ScoreEdgeError(f"cannot read the boxes {path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ScoreEdgeError(
            f"{path} is not a file of boxes: {error!r}",
            'it is {"width": W, "height": H, "frames": {"0": [{"box": [x1, y1, x2, y2]}]}}',
        ) from error
    if not frames or not all(np.isfinite(boxes).all() for boxes in frames.values()):
        raise ScoreEdgeError(f"{path} labels no frame, or with boxes that are not finite")
    return Boxes(frames, (height, width))


def measure_selectivity(
    pipeline: Pipeline,
    video: str | Path,
    boxes: Boxes,
    selectors: Sequence[str],
    retentions: Sequence[float],
    *,
    steps: int = 64,
) -> list[Selectivity]:
    """Run selectors over a clip and see where what they keep lies.

    Args:
        pipeline: an open bundle.
        video: the file the boxes belong to.
        boxes: from `read_boxes`.
        selectors: names.
        retentions: shares of tokens to keep, in (0, 1].
        steps: encoder steps at most, spread over the whole clip.

    Raises:
        ScoreEdgeError: a selector that chooses for a question; no step of the clip has a labelled frame.
    """
    if knowing := next((name for name in selectors if knows_question(name)), None):
        raise ScoreEdgeError(
            f"{knowing} chooses for one question, and with boxes none is asked", "take score in its place"
        )
    clip = clip_reader(pipeline, video, steps)()
    grid = pipeline.bundle.manifest.vision.token_grid
    labelled = _labelled_steps([frame.index for frame in clip.frames], boxes)
    if not labelled:
        raise ScoreEdgeError(f"none of the boxes is on a frame of {video}", "do the boxes belong to this video?")
    place, vision = pipeline.preprocessing.place(*boxes.size), pipeline.bundle.manifest.vision
    size = np.array([vision.width, vision.height] * 2, np.float32)
    scale = np.array([place.width, place.height] * 2, np.float32) / size
    shift = np.array([place.left, place.top] * 2, np.float32) / size
    in_frame = cover(np.array([[0, 0, 1, 1]], np.float32) * scale + shift, grid)  # padding is neither in nor out
    labels = (boxes.frames[frame].clip(0, 1) for frame in labelled.values())
    inside = np.stack([cover(each * scale + shift, grid) for each in labels])
    outside = in_frame - inside
    if not (inside.any() and outside.any()):
        raise ScoreEdgeError(f"the boxes cover all or nothing of {video}: there is nothing to tell apart")
    found = []
    for name in selectors:
        for retention in retentions:
            keep = pipeline.select(clip.tokens, pipeline.selector(name), retention)[list(labelled)]
            within, without = (float((keep * area).sum() / area.sum()) for area in (inside, outside))
            found.append(Selectivity(name, retention, within, without, len(labelled), float(inside.mean())))
    return found


def cover(boxes: Float32, grid: Grid) -> Float32:
    """(N,) float32: the share of each token's cell that lies in any of some boxes (n, 4), x1 y1 x2 y2 in 0..1."""
    y = (np.arange(grid.height * FINE) + 0.5) / (grid.height * FINE)
    x = (np.arange(grid.width * FINE) + 0.5) / (grid.width * FINE)
    covered: Mask = np.zeros((len(y), len(x)), np.bool_)
    for x1, y1, x2, y2 in boxes:
        covered |= ((y1 <= y) & (y < y2))[:, None] & ((x1 <= x) & (x < x2))
    cells = covered.reshape(grid.height, FINE, grid.width, FINE).mean(axis=(1, 3), dtype=np.float32)
    return np.asarray(cells.ravel(), np.float32)


def _labelled_steps(newest: Sequence[int], boxes: Boxes) -> dict[int, int]:
    """Step to the last labelled frame that is no later than the step's newest frame and later than that before it."""
    steps = {}
    for step, index in enumerate(newest):
        first = newest[step - 1] + 1 if step else 0
        if inside := [frame for frame in boxes.frames if first <= frame <= index]:
            steps[step] = max(inside)
    return steps
