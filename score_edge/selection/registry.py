"""Selectors by name: each gives every visual token of a clip a score."""

from collections.abc import Callable
from dataclasses import dataclass

from score_edge.core import Grid
from score_edge.errors import ScoreEdgeError, did_you_mean
from score_edge.selection.base import Causal, Selector, StepScorer
from score_edge.selection.change import Change
from score_edge.selection.dithered import Dithered, SelectorSpec
from score_edge.selection.dtd import Dtd
from score_edge.selection.every_token import EveryToken
from score_edge.selection.evs import Evs
from score_edge.selection.last_kept import LastKept
from score_edge.selection.newest import Newest
from score_edge.selection.random_tokens import RandomTokens
from score_edge.selection.score import KeepProbability, Score, ScoreQuery
from score_edge.selection.surge import Surge
from score_edge.selection.uniform import Uniform
from score_edge.selection.vidcom2 import VidCom2

__all__ = ["Selector", "StepScorer", "get_selector", "knows_question", "selector_names", "step_scorer"]


@dataclass(frozen=True, slots=True)
class _Settings:
    policy: KeepProbability | None
    seed: int
    grid: Grid | None


def _score(settings: _Settings) -> Selector:
    if settings.policy is None:
        raise ScoreEdgeError("selector score needs a learned policy", "use a bundle that has one, or another selector")
    return Score(settings.policy)


def _score_query(settings: _Settings) -> Selector:
    if settings.policy is None:
        raise ScoreEdgeError(
            "selector score-query chooses for one question, and none is known here",
            "`ask`, `stream` and `evaluate` know it; elsewhere, as in `serve`, take score",
        )
    return ScoreQuery(settings.policy)


_FACTORIES: dict[str, Callable[[_Settings], Selector]] = {
    "score": _score,
    "score-query": _score_query,
    "change": lambda settings: Change(),
    "evs": lambda settings: Evs(),
    "dtd": lambda settings: Dtd(),
    "surge": lambda settings: Surge(settings.grid),
    "last-kept": lambda settings: LastKept(),
    "vidcom2": lambda settings: VidCom2(),
    "uniform": lambda settings: Uniform(),
    "newest": lambda settings: Newest(),
    "random": lambda settings: RandomTokens(settings.seed),
    "all": lambda settings: EveryToken(),
}


OWN_DITHER = {"score": 0.5, "score-query": 0.5}
"""Weight of the dithering where none is asked for; chosen on validation clips (docs/results.md)."""


def knows_question(name: str | None) -> bool:
    """Whether a selector, named with or without options, chooses for one question.

    Example:
        >>> knows_question("score-query:dither=1"), knows_question("score"), knows_question(None)
        (True, False, False)
    """
    return name is not None and name.partition(":")[0] == "score-query"


def selector_names() -> list[str]:
    """The names ``get_selector`` knows, the learned one first."""
    return list(_FACTORIES)


def get_selector(
    name: str,
    *,
    policy: KeepProbability | None = None,
    seed: int = 0,
    grid: Grid | None = None,
) -> Selector:
    """Open a selector by name.

    Args:
        name: one of ``selector_names()``, with options behind colons: see `SelectorSpec`.
        policy: the learned policy, for ``score``; for ``score-query`` one that has its question.
        seed: for ``random``.
        grid: the grid of one step, for ``surge``; None takes a square one.

    Raises:
        ScoreEdgeError: there is no such selector, or it lacks its policy.

    Example:
        >>> get_selector("evs").name, get_selector("evs:first=scored:dither=1").name
        ('evs', 'evs:dither=1:first=scored')
    """
    spec = SelectorSpec.read(name)
    if spec.name not in _FACTORIES:
        raise ScoreEdgeError(f"there is no selector {spec.name!r}", did_you_mean(spec.name, _FACTORIES))
    selector = _FACTORIES[spec.name](_Settings(policy, seed, grid))
    own = OWN_DITHER.get(spec.name)
    if spec.dither is None and spec.first is None and own is None:
        return selector
    weight = own if spec.dither is None else spec.dither
    return Dithered(selector, spec, weight or 0.0, odds=spec.name in OWN_DITHER)


def step_scorer(selector: Selector) -> StepScorer:
    """What scores a live stream as this selector scores a clip.

    Raises:
        ScoreEdgeError: the selector needs the whole clip.

    Example:
        >>> scorer = step_scorer(get_selector("evs"))
        >>> scorer.score(np.ones((4, 8), np.float32), np.zeros((4, 8), np.float32))  # doctest: +SKIP
        array([inf, inf, inf, inf], dtype=float32)
    """
    if not isinstance(selector, Causal):
        raise ScoreEdgeError(
            f"selector {selector.name} needs a whole clip, and a stream has no end",
            "score, last-kept and evs need none",
        )
    return selector.by_step()
