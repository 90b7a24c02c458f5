"""Everything that must be equal for two profiles to be comparable, and where it is not."""

import dataclasses
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import score_edge
from score_edge.bundle.provenance import git_commit
from score_edge.profiling.board import Board
from score_edge.runtime.threads import other_load

PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "llama-cpp-python",
    "tensorrt",
    "tensorrt-llm",
    "opencv-python-headless",
)
_MOMENTARY = {"created", "load"}
_BUSY = 0.3


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and with what a profile was made.

    Attributes:
        created: ISO 8601.
        git_commit: of score-edge; empty outside a checkout.
        versions: of the packages that do the work; absent ones are absent.
        providers: what runs each part, as it says itself.
        board: settings of the machine.
        model: file hashes, or the shape of a random model.
        random_weights: whether the language model's weights are random.
        load: work of others when the profile began, in CPUs.
    """

    created: str
    score_edge: str
    git_commit: str
    python: str
    versions: dict[str, str]
    providers: dict[str, str]
    board: Board
    model: dict[str, str]
    random_weights: bool
    load: float

    @staticmethod
    def now(providers: dict[str, str], model: dict[str, str], *, random_weights: bool) -> "Environment":
        """This process on this machine."""
        return Environment(
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            score_edge=score_edge.__version__,
            git_commit=git_commit(),
            python=platform.python_version(),
            versions=installed(),
            providers=providers,
            board=Board.read(),
            model=model,
            random_weights=random_weights,
            load=round(other_load(), 2),
        )

    @property
    def busy(self) -> bool:
        """Whether other programs took a noticeable part of the machine when the profile began."""
        return self.load > _BUSY * self.board.cpus


def installed() -> dict[str, str]:
    """Versions of the packages that do the work."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def differences(new: Environment, old: Environment) -> list[str]:
    """What is not the same, one line each; moments and loads aside."""
    ours, theirs = (dict(_flat(dataclasses.asdict(one))) for one in (new, old))
    return [
        f"{key}: {theirs.get(key, 'absent')} then, {ours.get(key, 'absent')} now"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if not prefix and key in _MOMENTARY:
            continue
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if item is None else str(item)
