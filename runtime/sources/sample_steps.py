"""A few steps of real frames, as the encoder takes them: what a graph is compared on."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from score_edge.bundle.manifest import Vision
from score_edge.errors import ScoreEdgeError
from score_edge.reference import world
from score_edge.runtime.preprocess import Preprocessing
from score_edge.runtime.sources.base import sample
from score_edge.runtime.sources.open_source import open_source

STEPS = 2


def sample_steps(vision: Vision, video: str | Path | None, steps: int = STEPS) -> list[dict[str, NDArray[Any]]]:
    """The encoder's inputs for the first steps of a video, through the bundle's own preprocessing.

    Args:
        vision: of the bundle.
        video: any source; None renders a clip of the reference world.
        steps: at most.

    Returns:
        Per step: `vision.input_name` to an array of `vision.input_shape`, float32.

    Raises:
        ScoreEdgeError: the video cannot be read or has no frames.
    """
    per_step = vision.frames_per_step
    count = steps * per_step
    if video is None:
        frames = world.make_clip(world.TEST_SEED, 0, max(count, 3)).frames()[:count]
    else:
        with open_source(video) as source:
            frames = list(islice(sample(source, vision.fps), count))
    if not frames:
        raise ScoreEdgeError(f"{video} has no frames", "give another video to compare on")
    preprocessing = Preprocessing.of(vision)
    return [preprocessing.prepare(frames[i : i + per_step]) for i in range(0, len(frames), per_step)]


def cells_of(vision: Vision, step: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """What the incremental graph takes for all cells of a step that was prepared for the plain graph.

    Args:
        vision: of the bundle.
        step: `vision.input_name` to an array of `vision.input_shape`.

    Returns:
        (N, M, patch_values) float32.
    """
    (array,) = step.values()
    preprocessing, p = Preprocessing.of(vision), vision.patch
    if vision.layout == "patches":
        return np.asarray(array).reshape(vision.token_grid.tokens, -1, vision.patch_values)
    rows, columns = vision.height // p, vision.width // p
    whole = array[:, :, : rows * p, : columns * p].reshape(-1, 3, rows, p, columns, p)
    patches = whole.transpose(2, 4, 1, 0, 3, 5).reshape(rows * columns, -1)
    return np.asarray(patches[preprocessing.cell_patches()])
