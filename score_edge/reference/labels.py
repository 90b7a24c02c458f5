"""Dense labels of a clip of the reference world, per visual token: what the auxiliary losses of training ask.

numpy alone, so that the processes that render clips need no torch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from score_edge.reference import world

LOOK_BACK = 6  # steps
FARTHEST = 0.6  # cells of travel worth telling apart: more is no drift
ACTS = ("none", *world.DIRECTIONS, "flash", "drifter")


@dataclass(frozen=True, slots=True)
class Labels:
    """What the tokens of a clip show.

    Attributes:
        looks: (T, N, 2) int64: shape and colour of what a token shows, 0 = nothing.
        offsets: (T, N, 2 * frames per step) float32: where its centre is in each frame, from the token's centre, in
            cells; motion within a step is their difference.
        travelled: (T, N, 2) float32: how far what a token shows has come in the last LOOK_BACK steps, in cells, the
            camera's way taken off and a mover's cut short; NaN where it shows nothing.
        acts: (T, N) int64 index into ACTS: what the thing a token shows is doing in that step.
    """

    looks: NDArray[np.int64]
    offsets: NDArray[np.float32]
    travelled: NDArray[np.float32]
    acts: NDArray[np.int64]


def label(clip: world.Clip) -> Labels:
    """The labels of a clip."""
    cover = np.stack([thing.cover() for thing in clip.things])  # (things, T, N)
    owner, shown = cover.argmax(axis=0), cover.max(axis=0) > 0.12
    side, (steps, tokens) = world.SIZE // world.CELL, owner.shape
    when = np.arange(steps)[:, None]
    names = [(world.SHAPES.index(thing.shape) + 1, world.COLORS.index(thing.color) + 1) for thing in clip.things]
    # A drift cannot be seen in its first steps.
    acting = [thing.acting & ((thing.role != "drifter") | (when[:, 0] >= 3)) for thing in clip.things]
    acts = [thing.direction if thing.role == "mover" else thing.role.replace("still", "none") for thing in clip.things]
    paths = np.stack([thing.path.reshape(steps, -1) for thing in clip.things])  # (things, T, frames per step * 2)
    row, column = np.divmod(np.arange(tokens), side)
    middle = np.tile(np.stack([column, row], axis=1) * world.CELL + world.CELL / 2, (1, world.FRAMES_PER_STEP))
    offsets = ((paths[owner, when] - middle) / world.CELL).astype(np.float32)
    last = slice(world.FRAMES_PER_STEP - 1, None, world.FRAMES_PER_STEP)
    centres = np.stack([(thing.path - clip.camera)[last] for thing in clip.things])
    since = centres - centres[:, np.maximum(np.arange(steps) - LOOK_BACK, 0)]
    travelled = np.clip(since / world.CELL, -FARTHEST, FARTHEST)[owner, when]
    return Labels(
        np.where(shown[..., None], np.array(names)[owner], 0),
        offsets,
        np.where(shown[..., None], travelled, np.nan).astype(np.float32),
        np.where(shown & np.stack(acting)[owner, when], np.array([ACTS.index(act) for act in acts])[owner], 0),
    )
