"""Where the long stage of the reference training goes on after it was cut off: weights, optimizer, seconds spent."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from score_edge.bundle.atomic import atomic_file, make_folder
from score_edge.learning.adam_state import moments_of, restore_moments
from score_edge.learning.reference_model import reading_weights

PARTS = "see", "answer", "few"


class Checkpoint:
    """Two files, each replaced in one go: state.safetensors while the run lasts, model.safetensors to use at any time.

    Args:
        folder: created if need be.
        model: gets the weights of a checkpoint that is there.

    Raises:
        ScoreEdgeError: that checkpoint is damaged.

    Attributes:
        part: of PARTS, what is to be done next.
        clips: how many the run has taken from the world.
    """

    def __init__(self, folder: Path, model: nn.Module) -> None:
        make_folder(folder)
        self._weights, self._state, self._model = folder / "model.safetensors", folder / "state.safetensors", model
        self.part, self.clips = "see", 0
        self._spent, self._tensors = 0.0, dict[str, torch.Tensor]()
        if self._state.exists():
            with reading_weights(self._state):
                with safe_open(self._state, "pt") as file:
                    about = json.loads(file.metadata()["about"])
                    self._tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                self.part, self.clips, self._spent = about["part"], about["clips"], about["seconds"]
                weights = {name[6:]: tensor for name, tensor in self._tensors.items() if name.startswith("model.")}
                model.load_state_dict(weights)
        else:  # what was trained before is not trained again, however soon the run is cut off
            self.save(self.part, 0.0, {})

    def covers(self, row: Mapping[str, Any]) -> bool:
        """A row of metrics tells of what the checkpoint holds: what comes behind it is done and told again."""
        if row["part"] not in PARTS:
            return True
        reached, told = PARTS.index(self.part), PARTS.index(row["part"])
        return told < reached or (told == reached and bool(row["seconds"] <= self._spent))

    def begin(
        self, part: str, heads: nn.Module, optimizer: torch.optim.Optimizer, seconds: float, every: float
    ) -> "Clock":
        """Start a part, or go on with it where the checkpoint ends."""
        clock = Clock(self, part, heads, optimizer, seconds, every, self._spent if part == self.part else 0.0)
        if clock.spent:
            clock.restore(self._tensors)
        self._tensors = {}
        return clock

    def save(self, part: str, seconds: float, tensors: dict[str, torch.Tensor]) -> None:
        """Write both files."""
        weights = {name: tensor.contiguous() for name, tensor in self._model.state_dict().items()}
        about = {"part": part, "clips": self.clips, "seconds": seconds}
        named = {f"model.{name}": tensor for name, tensor in weights.items()} | tensors
        with atomic_file(self._state) as unfinished:
            save_file(named, unfinished, {"about": json.dumps(about)})
        with atomic_file(self._weights) as unfinished:  # last: without a state beside it, the run is over
            save_file(weights, unfinished)

    def done(self, following: str) -> None:
        """A part is finished; the next one starts from nothing."""
        self.part, self._spent = following, 0.0
        self.save(following, 0.0, {})

    def finish(self) -> Path:
        """The run is over: only the weights stay."""
        self.save(self.part, 0.0, {})
        self._state.unlink()
        return self._weights


class Clock:
    """How much of a part's time is over; saves it now and then."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        part: str,
        heads: nn.Module,
        optimizer: torch.optim.Optimizer,
        seconds: float,
        every: float,
        spent: float,
    ) -> None:
        self._checkpoint, self._part, self._heads, self._optimizer = checkpoint, part, heads, optimizer
        self._seconds, self._every, self.spent = seconds, every, spent
        self._began = self._saved = time.monotonic()

    def _elapsed(self) -> float:
        return self.spent + time.monotonic() - self._began

    def share(self) -> float:
        """0 at the start of the part, 1 and more at its end."""
        return self._elapsed() / self._seconds if self._seconds else 1.0

    def due(self) -> bool:
        """It is time to save and to report."""
        return time.monotonic() - self._saved > self._every

    def times(self) -> dict[str, float]:
        """For a log."""
        return {"seconds": self._elapsed(), "share": self.share()}

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = {f"heads.{name}": tensor.contiguous() for name, tensor in self._heads.state_dict().items()}
        self._checkpoint.save(self._part, self._elapsed(), tensors | moments_of(self._optimizer))
        self._saved = time.monotonic()

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put heads and optimizer back."""
        self._heads.load_state_dict({name[6:]: t for name, t in tensors.items() if name.startswith("heads.")})
        restore_moments(self._optimizer, tensors)
