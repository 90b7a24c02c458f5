"""Every family's incremental graph: all cells, some cells over stale keys and values, none that is not asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from score_edge.families import ROWS
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.preprocess import Preprocessing

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def graph(bundled: Any) -> OnnxGraph:
    path, name = bundled.bundle.incremental_path, bundled.bundle.manifest.family
    row = next(row for row in ROWS if row.family == name)
    assert (path is not None) == (row.incremental == "yes")
    if path is None:
        pytest.skip(f"{name} has no incremental graph: {row.incremental}")
    return OnnxGraph(path, threads=1)


@pytest.fixture
def steps(case: Any, clip: np.ndarray) -> np.ndarray:
    """(2, F, H, W, 3): two steps whose pictures differ everywhere."""
    images = clip[: 2 * case.per_step].reshape(2, case.per_step, *clip.shape[1:])
    return np.stack([images[0], 255 - images[1]])


def encode(graph: OnnxGraph, bundle: Any, cache: Any, step: np.ndarray, cells: np.ndarray) -> np.ndarray:
    ours = Preprocessing.of(bundle.manifest.vision)
    found: np.ndarray = graph.run_cached(cache, patches=ours.cut_cells(ours.fit(step), cells), cells=cells)["tokens"]
    return found


def test_all_cells_are_the_plain_graph(bundled: Any, graph: OnnxGraph, steps: np.ndarray) -> None:
    bundle = bundled.bundle
    vision, cache = bundle.manifest.vision, graph.start()
    plain, ours = OnnxGraph(bundle.encoder_path, threads=1), Preprocessing.of(vision)
    for step in steps:  # whatever was in the cache before
        expected = plain.run(**ours.prepare(list(step)))["tokens"]
        found = encode(graph, bundle, cache, step, np.arange(vision.token_grid.tokens))
        assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()


@contextmanager
def stale(case: Any, rows: np.ndarray, kept: list[Any] | None) -> Iterator[list[Any]]:
    """transformers' own encoder, in which keys and values of some patches are those of another run.

    Args:
        rows: (patches,) bool, the patches whose keys and values are replaced by `kept`; in the order of the layers.
        kept: what another run of this gave; None replaces nothing.
    """
    seen: list[Any] = []
    vision = [module for name, module in case.model.named_modules() if "vision" in name or "visual" in name]
    layers = {id(m): m for m in vision if hasattr(m, "qkv") or hasattr(m, "k_proj")}.values()

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        seen.append(output.detach().clone())
        if kept is None:
            return None
        flat, old = output.clone().reshape(len(rows), -1), kept[len(seen) - 1].reshape(len(rows), -1)
        first = flat.shape[1] // 3 if getattr(module, "joint", False) else 0  # queries stand before keys and values
        flat[rows, first:] = old[rows, first:]
        return flat.reshape(output.shape)

    handles = []
    for layer in layers:
        for name in ("qkv", "k_proj", "v_proj"):
            if hasattr(layer, name):
                getattr(layer, name).joint = name == "qkv"
                handles.append(getattr(layer, name).register_forward_hook(hook))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def patch_rows(case: Any, vision: Any, cells: np.ndarray) -> np.ndarray:
    """Which rows of transformers' layers belong to none of these cells."""
    patches, merge = (vision.height // vision.patch) * (vision.width // vision.patch), vision.merge**2
    if vision.layout == "patches":
        order = np.arange(vision.token_grid.tokens)
        if case.name == "qwen2_5_vl":
            from transformers.vision_utils import get_vision_window_index

            visual, grid = case.model.model.visual, [1, vision.height // vision.patch, vision.width // vision.patch]
            index, _ = get_vision_window_index(
                torch.tensor([grid]), visual.spatial_merge_size, visual.window_size, visual.patch_size
            )
            order = index.numpy()
        return ~np.isin(order, cells).repeat(merge)
    inactive = np.ones(patches, bool)
    inactive[Preprocessing.of(vision).cell_patches()[cells]] = False
    if case.name == "gemma4":  # its processor fills up to as many patches as a frame has at most
        return np.concatenate([inactive, np.zeros(630 - patches, bool)])
    return np.concatenate([[False], inactive]) if case.name.startswith("internvl") else inactive


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_some_cells_see_the_others_as_they_were(
    case: Any, bundled: Any, graph: OnnxGraph, steps: np.ndarray, share: float
) -> None:
    bundle = bundled.bundle
    vision = bundle.manifest.vision
    count = vision.token_grid.tokens
    chosen = np.random.default_rng(0).permutation(count)[: max(1, int(share * count))]
    rows = patch_rows(case, vision, chosen)
    with stale(case, rows, None) as kept:
        before = case.features(steps[:1])[0][:count]  # without the row that closes a clip
    with stale(case, rows, kept):
        expected = case.features(steps[1:])[0][chosen]
    cache = graph.start()
    first = encode(graph, bundle, cache, steps[0], np.arange(count))
    found = encode(graph, bundle, cache, steps[1], chosen)
    assert np.abs(first - before).max() <= 1e-4 * np.abs(before).max()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    fresh = case.features(steps[1:])[0][chosen]
    assert np.abs(fresh - expected).max() > 1e-2 * np.abs(expected).max()  # stale is not fresh
