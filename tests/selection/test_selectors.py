"""Every selector against a plain second implementation in float64 loops, and what all of them promise."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from score_edge.core import Grid
from score_edge.errors import ScoreEdgeError
from score_edge.selection.base import Selector
from score_edge.selection.budget import clip_top_k, token_count
from score_edge.selection.registry import get_selector, selector_names
from score_edge.selection.residual import background_tokens, previous_tokens
from score_edge.selection.score import Score, ScoreQuery

GRID = Grid(3, 5)
RETENTIONS = [1.0, 0.5, 0.25, 0.17, 0.1, 0.05]
FREE_NAMES = [name for name in selector_names() if name not in ("score", "score-query")]


def clip(steps: int = 12, grid: Grid = GRID, width: int = 8, seed: int = 0) -> np.ndarray:
    """A scene that stands, drifts and jumps: (T, N, D) float32."""
    rng = np.random.default_rng(seed)
    scene = rng.standard_normal((grid.tokens, width))
    tokens = np.empty((steps, grid.tokens, width), np.float32)
    for t in range(steps):
        jumps = rng.random(grid.tokens) < 0.1
        scene[jumps] = rng.standard_normal((jumps.sum(), width))
        scene += 0.05 * rng.standard_normal(scene.shape)
        tokens[t] = scene
    return tokens


def open_selector(name: str, grid: Grid = GRID) -> Selector:
    if name in ("score", "score-query"):
        opened = Score if name == "score" else ScoreQuery
        return opened(lambda tokens, previous, *rest: 1 - np.exp(-np.abs(tokens - previous).mean(axis=1)))
    return get_selector(name, grid=grid)


def kept(name: str, tokens: np.ndarray, count: int) -> np.ndarray:
    return clip_top_k(open_selector(name).score(tokens, count), count)


def largest(scores: dict[tuple[int, int], float], count: int) -> set[tuple[int, int]]:
    return set(sorted(scores, key=lambda place: (-scores[place], place))[:count])


def places(mask: np.ndarray) -> set[tuple[int, int]]:
    return {(int(t), int(i)) for t, i in zip(*np.nonzero(mask), strict=True)}


def plain_cosine_change(tokens: np.ndarray) -> dict[tuple[int, int], float]:
    change = {}
    for t in range(1, tokens.shape[0]):
        for i in range(tokens.shape[1]):
            a, b = tokens[t, i].astype(float), tokens[t - 1, i].astype(float)
            lengths = max(math.sqrt(sum(a * a)), 1e-8) * max(math.sqrt(sum(b * b)), 1e-8)
            change[t, i] = 1 - sum(a * b) / lengths
    return change


def first_step(tokens: np.ndarray) -> dict[tuple[int, int], float]:
    return {(0, i): math.inf for i in range(tokens.shape[1])}


def plain_change(tokens: np.ndarray, count: int) -> set[tuple[int, int]]:
    rows = tokens.astype(float)
    sizes = {(t, i): np.linalg.norm(rows[t, i] - rows[t - 1, i]) for t, i in np.ndindex(tokens.shape[:2]) if t}
    best = sorted(sizes, key=lambda place: (-sizes[place], place))
    return set([*first_step(tokens), *best][:count])


def plain_evs(tokens: np.ndarray, count: int) -> set[tuple[int, int]]:
    return largest(first_step(tokens) | plain_cosine_change(tokens), count)


def plain_dtd(tokens: np.ndarray, count: int) -> set[tuple[int, int]]:
    """Step 0, then ``share`` per step, then the next in line of each step, most changed first."""
    steps, per_step = tokens.shape[:2]
    chosen = largest(first_step(tokens), min(count, per_step))
    if steps == 1:
        return chosen
    change = plain_cosine_change(tokens)
    share, rest = divmod(count - len(chosen), steps - 1)
    next_in_line = {}
    for t in range(1, steps):
        order = sorted(range(per_step), key=lambda i: (-change[t, i], i))
        chosen |= {(t, i) for i in order[:share]}
        next_in_line |= {(t, i): change[t, i] for i in order[share : share + 1]}
    return chosen | largest(next_in_line, rest)


def plain_surge_scores(tokens: np.ndarray, grid: Grid) -> np.ndarray:
    x = tokens.astype(float)
    scores = np.full(x.shape[:2], np.inf)
    design = np.array([[1, i % grid.width, i // grid.width] for i in range(grid.tokens)], float)
    usual = np.zeros(grid.tokens)
    for t in range(1, len(x)):
        prediction = x[t - 1].copy()
        if t >= 2:
            for channel in range(x.shape[2]):
                trend = x[t - 1, :, channel] - x[t - 2, :, channel]
                plane, *_ = np.linalg.lstsq(design, trend, rcond=None)
                prediction[:, channel] += trend - design @ plane
        for i in range(grid.tokens):
            surprise = sum((x[t, i] - prediction[i]) ** 2)
            usual[i] = surprise if t == 1 else 0.9 * usual[i] + 0.1 * surprise
            scores[t, i] = surprise / (usual[i] + 1e-8)
    return scores


def plain_gate(tokens: np.ndarray, threshold: float) -> np.ndarray:
    """(T, N) float64: the distance to the last row that reached the threshold."""
    x = tokens.astype(float)
    distance = np.full(x.shape[:2], np.inf)
    for i in range(x.shape[1]):
        reference = x[0, i]
        for t in range(1, len(x)):
            distance[t, i] = math.dist(x[t, i], reference)
            if distance[t, i] >= threshold:
                reference = x[t, i]
    return distance


def plain_vidcom2(tokens: np.ndarray, count: int) -> set[tuple[int, int]]:
    x = tokens.astype(float)
    steps, per_step, width = x.shape
    variances = [np.var(x[:, :, channel]) for channel in range(width)]
    x = x[:, :, sorted(range(width), key=lambda channel: variances[channel])[: max(1, width // 2)]]
    for t in range(steps):
        for i in range(per_step):
            x[t, i] /= max(math.sqrt(sum(x[t, i] ** 2)), 1e-12)

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        return sum(math.exp(-sum((a - b) ** 2) / (2 * width)) for width in (0.125, 0.25, 0.5, 1, 2))

    to_clip = {(t, i): similarity(x[t, i], x.mean(axis=(0, 1))) for t in range(steps) for i in range(per_step)}
    unlike = {(t, i): -to_clip[t, i] - similarity(x[t, i], x[t].mean(axis=0)) for t, i in to_clip}
    unusual = [-sum(to_clip[t, i] for i in range(per_step)) / per_step for t in range(steps)]
    weights = [math.exp((u - max(unusual)) / 0.01) for u in unusual]
    chosen = set()
    for t in range(steps):
        scale = min(1, count / (steps * per_step) * (1 + weights[t] / sum(weights) - 1 / steps))
        budget = min(max(round(scale * per_step), 1), per_step)
        chosen |= largest({(t, i): unlike[t, i] for i in range(per_step)}, budget)
    if len(chosen) > count:
        return largest({place: unlike[place] for place in chosen}, count)
    others = {place: value for place, value in unlike.items() if place not in chosen}
    return chosen | largest(others, count - len(chosen))


PLAIN: dict[str, Callable[[np.ndarray, int], set[tuple[int, int]]]] = {
    "change": plain_change,
    "evs": plain_evs,
    "dtd": plain_dtd,
    "vidcom2": plain_vidcom2,
    "all": lambda tokens, count: largest(dict.fromkeys(np.ndindex(tokens.shape[:2]), 1.0), count),
}


@pytest.mark.parametrize("retention", RETENTIONS)
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("shape", [(12, 8), (1, 8), (2, 3), (5, 2)])
def test_against_a_plain_implementation(name: str, retention: float, shape: tuple[int, int]) -> None:
    tokens = clip(steps=shape[0], width=shape[1], seed=shape[0])
    count = token_count(len(tokens), GRID.tokens, retention)
    assert places(kept(name, tokens, count)) == PLAIN[name](tokens, count)


@pytest.mark.parametrize("grid", [Grid(3, 5), Grid(4, 4), Grid(1, 6), Grid(6, 1), Grid(1, 1)])
def test_surge_against_a_plain_implementation(grid: Grid) -> None:
    tokens = clip(steps=10, grid=grid)
    scores = open_selector("surge", grid).score(tokens, 1)
    assert np.allclose(scores, plain_surge_scores(tokens, grid), rtol=1e-3)


def test_surge_asks_for_a_grid_that_is_not_square() -> None:
    with pytest.raises(ScoreEdgeError, match="15 visual tokens per step do not fill a square grid"):
        get_selector("surge").score(clip(), 5)
    with pytest.raises(ScoreEdgeError, match="do not fill the 2 x 7 grid"):
        get_selector("surge", grid=Grid(2, 7)).score(clip(), 5)


@pytest.mark.parametrize("retention", RETENTIONS)
@pytest.mark.parametrize("grid", [GRID, Grid(8, 9)])
@pytest.mark.parametrize("seed", range(3))
def test_last_kept_is_the_gate_at_the_nearest_threshold(retention: float, grid: Grid, seed: int) -> None:
    tokens = clip(steps=20, grid=grid, seed=seed)
    count = token_count(20, grid.tokens, retention)
    scores = open_selector("last-kept").score(tokens, count)
    levels = np.unique(np.append(scores, 0))[::-1]  # inf, then down to 0
    near = max(0, count - grid.tokens)
    between = (levels[:-1] + levels[1:])[max(0, near - 5) : near + 5] / 2
    gates = [(threshold, plain_gate(tokens, threshold)) for threshold in [0.0, *between]]
    excess = [
        int((gate >= threshold).sum()) - max(count, grid.tokens)
        for threshold, gate in gates
        if np.allclose(gate, scores, rtol=1e-4)
    ]
    assert excess, "the scores are not those of a gate"
    assert min(abs(value) for value in excess) <= 2


def test_last_kept_sees_slow_drift_and_evs_does_not() -> None:
    """Place 0 turns by a full quarter, a little per step; place 1 flickers; the others stand still."""
    steps, drifter, flicker = 32, 0, 1
    angle = np.linspace(0, np.pi / 2, steps)
    tokens = np.zeros((steps, 9, 4), np.float32)
    tokens[..., 2] = 1
    tokens[:, drifter] = np.stack([np.cos(angle), np.sin(angle), 0 * angle, 0 * angle], axis=1)
    tokens[::2, flicker, 3] = 0.1
    count = 9 + 8
    assert kept("last-kept", tokens, count)[1:, drifter].sum() >= 4
    assert kept("evs", tokens, count)[1:, drifter].sum() == 0
    assert kept("evs", tokens, count)[1:, flicker].sum() == 8


def test_a_threshold_per_clip_makes_dtd_evs() -> None:
    """The absolute form of DTD drops where cos > tau; tau between two tokens meets any count, and then it is EVS."""
    tokens = clip()
    change = plain_cosine_change(tokens)
    values = sorted(change.values(), reverse=True)
    for extra in (1, 10, 60):
        tau = 1 - (values[extra - 1] + values[extra]) / 2
        absolute = {place for place, value in change.items() if not 1 - value > tau}
        assert places(kept("evs", tokens, GRID.tokens + extra)) == set(first_step(tokens)) | absolute


def test_dtd_keeps_as_many_in_every_step() -> None:
    per_step = kept("dtd", clip(steps=11), 15 + 34).sum(axis=1)
    assert per_step[0] == 15
    assert sorted(per_step[1:]) == [3] * 6 + [4] * 4


@pytest.mark.parametrize(
    ("count", "expected"),
    [(30, {2: 15, 7: 15}), (15, {5: 15}), (33, {1: 15, 5: 15, 8: 3}), (4, {5: 4}), (150, dict.fromkeys(range(10), 15))],
)
def test_uniform_keeps_whole_steps(count: int, expected: dict[int, int]) -> None:
    per_step = kept("uniform", clip(steps=10), count).sum(axis=1)
    assert {t: int(n) for t, n in enumerate(per_step) if n} == expected


def test_random_is_fair_and_seeded() -> None:
    tokens = clip(steps=8)
    draws = [clip_top_k(get_selector("random", seed=seed).score(tokens, 30), 30) for seed in range(400)]
    assert abs(np.mean(draws, axis=0) - 0.25).max() < 0.1
    assert np.array_equal(draws[3], clip_top_k(get_selector("random", seed=3).score(tokens, 30), 30))


@pytest.mark.parametrize("name", selector_names())
@pytest.mark.parametrize("shape", [(12, 15), (1, 15), (12, 1), (1, 1), (2, 15)])
def test_exact_count_float32_and_determinism(name: str, shape: tuple[int, int]) -> None:
    steps, per_step = shape
    grid = Grid(1, 1) if per_step == 1 else GRID
    tokens = clip(steps, grid)
    before = tokens.copy()
    for retention in RETENTIONS:
        count = token_count(steps, per_step, retention)
        scores = open_selector(name, grid).score(tokens, count)
        assert scores.shape == shape
        assert scores.dtype == np.float32
        assert clip_top_k(scores, count).sum() == count
        assert np.array_equal(scores, open_selector(name, grid).score(tokens, count))
    assert np.array_equal(tokens, before)


@pytest.mark.parametrize("name", selector_names())
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_clip_without_change_or_content(name: str, value: float) -> None:
    tokens = np.full((6, 15, 8), value, np.float32)
    scores = open_selector(name).score(tokens, 20)
    assert not np.isnan(scores).any()
    assert clip_top_k(scores, 20).sum() == 20


@pytest.mark.parametrize("name", ["score", "evs", "dtd", "surge", "last-kept", "vidcom2"])
def test_what_is_not_finite_reaches_the_budget(name: str) -> None:
    tokens = clip()
    tokens[3, 2] = np.nan
    with pytest.raises(ScoreEdgeError, match="are not a number"):
        kept(name, tokens, 40)


def test_no_change_is_exactly_zero() -> None:
    tokens = np.repeat(clip(steps=1), 5, axis=0)
    assert not open_selector("evs").score(tokens, 20)[1:].any()


@pytest.mark.parametrize("name", ["change", "evs", "dtd", "surge", "last-kept"])
def test_the_one_token_that_moves_is_kept(name: str) -> None:
    tokens = np.repeat(clip(steps=1), 8, axis=0)
    tokens[4:, 7] += 1
    assert kept(name, tokens, 16 if name != "dtd" else 15 + 7)[4, 7]


def test_unknown_selector() -> None:
    with pytest.raises(ScoreEdgeError, match="there is no selector 'last_kept'") as caught:
        get_selector("last_kept")
    assert caught.value.hint.startswith("did you mean last-kept? known: score, score-query, change")
    with pytest.raises(ScoreEdgeError) as caught:
        get_selector("zzz")
    assert caught.value.hint.startswith("known: score, score-query, change")


@pytest.mark.parametrize("name", FREE_NAMES)
def test_names(name: str) -> None:
    assert get_selector(name).name == name


def test_score_asks_the_policy_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    for_token, for_residual = rng.standard_normal((2, 8), dtype=np.float32)
    sizes = []

    def policy(tokens: np.ndarray, previous: np.ndarray) -> np.ndarray:
        sizes.append(len(tokens))
        return 1 / (1 + np.exp(-(tokens @ for_token + (tokens - previous) @ for_residual)))

    monkeypatch.setattr("score_edge.selection.score._ROWS", 7)
    tokens = clip()
    scores = get_selector("score", policy=policy).score(tokens, 20)
    assert max(sizes) == 7 and sum(sizes) == scores.size
    for t, i in np.ndindex(scores.shape):
        x = tokens[t, i].astype(float)
        residual = x - tokens[t - 1, i] if t else x
        noise = (0.5 + t * 0.6180339887498949 + i * 1.4142135623730951) % 1
        odds = x @ for_token + residual @ for_residual
        assert scores[t, i] == pytest.approx(odds - 0.5 * math.log(-math.log(noise)), abs=1e-4, rel=1e-4)


def test_the_policy_that_knows_the_question_sees_the_background() -> None:
    tokens = clip()
    seen = []
    ScoreQuery(lambda *rows: (seen.append(rows), rows[0][:, 0] * 0 + 0.5)[1]).score(tokens, 20)
    ((rows, previous, background),) = seen
    assert np.array_equal(rows.reshape(tokens.shape), tokens)
    assert np.array_equal(previous.reshape(tokens.shape), previous_tokens(tokens))
    assert np.array_equal(background.reshape(tokens.shape), background_tokens(tokens))


def test_score_refuses_what_does_not_fit() -> None:
    with pytest.raises(ScoreEdgeError, match="needs a learned policy"):
        get_selector("score")
    with pytest.raises(ScoreEdgeError, match="not one value each"):
        Score(lambda tokens, previous: tokens).score(clip(), 20)
