"""What is encoded of a step, and that its tokens are those of an independent computation."""

from typing import Any

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle
from score_edge.errors import ScoreEdgeError
from score_edge.reference import world
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.preprocess import Preprocessing
from score_edge.runtime.stopwatch import Stopwatch
from score_edge.runtime.vision_encoder import MAX_AGE, VisionEncoder

BUNDLE = Bundle.open("reference")
VISION = BUNDLE.manifest.vision
OURS = Preprocessing.of(VISION)


@pytest.fixture(scope="module")
def graphs() -> dict[str, OnnxGraph]:
    paths = {"plain": BUNDLE.encoder_path, "incremental": BUNDLE.incremental_path}
    return {name: OnnxGraph(path, threads=1) for name, path in paths.items() if path}


def encoder(graphs: dict[str, OnnxGraph], name: str, threshold: float) -> VisionEncoder:
    return VisionEncoder(OURS, VISION.dim, graphs[name], threshold)


def steps(seed: int, count: int = 12) -> list[list[np.ndarray]]:
    images = [frame.image for frame in world.make_clip(seed, 0, count).frames()]
    return [images[i : i + 2] for i in range(0, len(images), 2)]


def run(ours: VisionEncoder, clip: list[list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    state = ours.start()
    tokens, encoded = zip(*(ours.encode(step, state, Stopwatch()) for step in clip), strict=True)
    return np.stack(tokens), np.stack(encoded)


def test_all_cells_are_the_plain_graph(graphs: dict[str, OnnxGraph]) -> None:
    expected, _ = run(encoder(graphs, "plain", -1), steps(1))
    tokens, encoded = run(encoder(graphs, "incremental", -1), steps(1))
    assert encoded.all()
    assert np.abs(tokens - expected).max() <= 1e-6 * np.abs(expected).max()


def test_what_did_not_change_keeps_its_tokens_and_costs_nothing(graphs: dict[str, OnnxGraph]) -> None:
    for name in graphs:
        ours = encoder(graphs, name, 6)
        tokens, encoded = run(ours, [steps(1)[0]] * 3)
        assert encoded.mean(1).tolist() == [1, 0, 0]
        assert (tokens == tokens[0]).all()


def test_cells_that_changed_see_the_others_as_they_were_encoded_last(graphs: dict[str, OnnxGraph]) -> None:
    """By hand over the same graph: the chosen cells' patches, cut from a whole resized step, over the cache so far."""
    clip = steps(2)
    tokens, encoded = run(encoder(graphs, "incremental", 6), clip)
    assert 0.05 < encoded[1:].mean() < 0.8
    graph = graphs["incremental"]
    caches = {name: np.zeros(shape, np.float32) for name, shape in graph.inputs.items() if "." in name}
    expected = np.zeros_like(tokens[0])
    for step, found, cells in zip(clip, tokens, encoded, strict=True):
        if cells.any():
            patches = OURS.patchify(step).reshape(VISION.token_grid.tokens, -1, VISION.patch_values)
            outputs = graph.run(patches=patches[cells], cells=np.flatnonzero(cells), **caches)
            expected[cells] = outputs["tokens"]
            caches = {name: outputs[f"new_{name}"] for name in caches}
        assert np.array_equal(found, expected)


def test_a_cut_encodes_everything(graphs: dict[str, OnnxGraph]) -> None:
    _, encoded = run(encoder(graphs, "incremental", 6), [steps(1)[0], steps(3)[0], steps(3)[0]])
    assert encoded.mean(1).tolist() == [1, 1, 0]


def test_slow_drift_adds_up(graphs: dict[str, OnnxGraph]) -> None:
    image = np.full((96, 96, 3), 60, np.uint8)
    clip = [[image + np.uint8(level)] * 2 for level in range(40)]
    _, encoded = run(encoder(graphs, "incremental", 6), clip)
    assert 2 <= encoded[1:].any(1).sum() <= 20


def test_what_comes_to_rest_is_encoded_once_more_and_then_nothing(graphs: dict[str, OnnxGraph]) -> None:
    clip = steps(1, 24)[:12]
    still = [clip[-1]] * 12
    ours = encoder(graphs, "incremental", 12)
    tokens, encoded = run(ours, [*clip, *still])
    expected = graphs["plain"].run(**OURS.prepare(clip[-1]))["tokens"]
    before, after = (float(np.linalg.norm(found - expected)) for found in (tokens[len(clip) + 2], tokens[-1]))
    assert after < 0.6 * before and after < 0.05 * float(np.linalg.norm(expected))
    assert not encoded[-4:].any()


def test_no_cell_grows_older_than_the_bound(graphs: dict[str, OnnxGraph]) -> None:
    ours = encoder(graphs, "incremental", 6)
    state = ours.start()
    image = steps(1)[0][0]
    for number in range(MAX_AGE + 60):
        flicker = image.copy()
        flicker[:16, :16] = 255 * (number % 2)
        ours.encode([flicker, flicker], state, Stopwatch())
        assert state.age.max() <= MAX_AGE + len(state.age)


def test_a_graph_of_whole_steps_encodes_all_or_nothing(graphs: dict[str, OnnxGraph]) -> None:
    _, encoded = run(encoder(graphs, "plain", 6), steps(2))
    assert set(encoded.mean(1)) <= {0.0, 1.0} and encoded[0].all()


def test_two_sources_share_a_graph_and_nothing_else(graphs: dict[str, OnnxGraph]) -> None:
    ours = encoder(graphs, "incremental", 6)
    alone = [run(ours, steps(seed))[0] for seed in (1, 2)]
    states = [ours.start(), ours.start()]
    for number in range(len(alone[0])):
        for seed, state, expected in zip((1, 2), states, alone, strict=True):
            found, _ = ours.encode(steps(seed)[number], state, Stopwatch())
            assert np.array_equal(found, expected[number])
    held = [{value.data_ptr() for value in state.cache.current.values()} for state in states]
    assert held[0].isdisjoint(held[1]) and all(len(each) == len(graphs["incremental"].inputs) - 2 for each in held)


def test_each_source_holds_one_copy_of_its_cache(graphs: dict[str, OnnxGraph]) -> None:
    """What is written is a copy more for all of them together."""
    ours = encoder(graphs, "incremental", 6)
    states, seen = [ours.start() for _ in range(3)], set[int]()
    for step in steps(1):
        for state in states:
            ours.encode(step, state, Stopwatch())
            seen |= {value.data_ptr() for value in state.cache.current.values()}
    assert len(seen) <= (len(states) + 1) * len(states[0].cache.current)


def test_a_step_that_fails_leaves_the_next_one_to_be_encoded_whole(
    graphs: dict[str, OnnxGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, clip = encoder(graphs, "incremental", 6), steps(2)
    state = ours.start()
    ours.encode(clip[0], state, Stopwatch())
    run_cached = graphs["incremental"].run_cached

    def broken(cache: Any, **inputs: Any) -> dict[str, Any]:
        return {name: array * np.nan for name, array in run_cached(cache, **inputs).items()}

    monkeypatch.setattr(graphs["incremental"], "run_cached", broken)
    with pytest.raises(ScoreEdgeError, match="not finite"):
        ours.encode(clip[3], state, Stopwatch())
    monkeypatch.undo()
    tokens, encoded = ours.encode(clip[4], state, Stopwatch())
    assert encoded.all()
    assert np.array_equal(tokens, run(encoder(graphs, "incremental", -1), clip[4:5])[0][0])


def test_tokens_that_were_handed_out_stay_as_they_are(graphs: dict[str, OnnxGraph]) -> None:
    ours, clip = encoder(graphs, "incremental", 6), steps(2)
    state = ours.start()
    first, _ = ours.encode(clip[0], state, Stopwatch())
    before = first.copy()
    ours.encode(clip[3], state, Stopwatch())
    assert np.array_equal(first, before)


@pytest.mark.parametrize("count", [0, 3])
def test_a_wrong_number_of_frames(graphs: dict[str, OnnxGraph], count: int) -> None:
    ours = encoder(graphs, "incremental", 6)
    with pytest.raises(ScoreEdgeError, match=f"{count} frames do not make a step of 2"):
        ours.encode([steps(1)[0][0]] * count, ours.start(), Stopwatch())
