"""What encoding some cells costs beside encoding all, on this machine. Run on its own: ``make benchmark``."""

import importlib.util
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from score_edge.bundle.manifest import FileRef, Vision
from score_edge.runtime.graphs.onnx_graph import OnnxGraph

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.benchmark

ROOT = Path(__file__).parents[2]
HALF = (0.5, 0.5, 0.5)
VISION = Vision(FileRef("encoder.onnx"), 512, 512, 16, 4, 1, HALF, HALF, "lanczos", 1.0, 960, (8, 8), layout="pixels")
RUNS = 5
SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[OnnxGraph, OnnxGraph]:
    """Plain and incremental: SigLIP-base at 1,024 patches with SmolVLM's connector, random weights."""
    from score_edge.export.incremental import export_incremental
    from score_edge.export.onnx_export import export_onnx

    spec = importlib.util.spec_from_file_location("siglip_bundle", ROOT / "tools" / "siglip_bundle.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    encoder = made.siglip_encoder()
    folder: Path = tmp_path_factory.mktemp("siglip")
    export_onnx(encoder, {"pixels": torch.randn(VISION.input_shape)}, "tokens", folder / "plain.onnx")
    export_incremental(encoder, VISION, folder / "incremental.onnx")
    return OnnxGraph(folder / "plain.onnx", threads=2), OnnxGraph(folder / "incremental.onnx", threads=2)


def test_the_price_of_a_share_of_the_cells(graphs: tuple[OnnxGraph, OnnxGraph]) -> None:
    plain, incremental = graphs
    pixels = np.random.default_rng(0).standard_normal(VISION.input_shape, np.float32)
    cache, cells = incremental.start(), VISION.token_grid.tokens
    spent: dict[float, list[float]] = {share: [] for share in (0.0, *SHARES)}
    for _ in range(RUNS + 1):  # in turns; the first of each warms up
        for share, seconds in spent.items():
            chosen = np.arange(max(1, round(share * cells)))
            patches = np.zeros((len(chosen), VISION.merge**2, VISION.patch_values), np.float32)
            began = time.perf_counter()
            if share:
                incremental.run_cached(cache, patches=patches, cells=chosen)
            else:
                plain.run(pixels=pixels)
            seconds.append(time.perf_counter() - began)
    found = {share: statistics.median(seconds[1:]) for share, seconds in spent.items()}
    for share in SHARES:
        faster = found[0.0] / found[share]
        print(f"{share:.0%} of the cells: {found[share] * 1e3:.0f} ms, {faster:.2f}x the plain graph")
    assert found[0.0] / found[0.1] > 5
