"""What scoring a clip costs beside encoding it. Run on its own: ``make benchmark``."""

import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from score_edge.core import Grid, KeptTokens
from score_edge.runtime.changed_cells import cell_change, changed_cells, small_picture
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.preprocess import Preprocessing
from score_edge.selection.base import Selector
from score_edge.selection.causal_budget import CausalBudget
from score_edge.selection.registry import get_selector, selector_names, step_scorer
from score_edge.selection.residual import Residual
from score_edge.selection.score import Score

STEPS, TOKENS, WIDTH = 64, 196, 896
SIDE = 28  # patches; merged two by two they are the 196 tokens


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> OnnxGraph:
    """An encoder of SigLIP-base's size (12 layers of 768) with 196 tokens of 896 per step, random weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from score_edge.export.onnx_export import export_onnx
    from score_edge.export.qwen2_vl import StepEncoder

    config = transformers.Qwen2VLConfig(
        vision_config={"depth": 12, "embed_dim": 768, "num_heads": 12, "hidden_size": WIDTH},
        text_config={"hidden_size": WIDTH, "num_hidden_layers": 1},
    ).vision_config
    visual = transformers.models.qwen2_vl.modeling_qwen2_vl.Qwen2VisionTransformerPretrainedModel(config)
    path: Path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    patches = torch.randn(SIDE * SIDE, 3 * 2 * 14 * 14)
    export_onnx(StepEncoder(visual, SIDE, SIDE), {"patches": patches}, "tokens", path, tolerance=1e-3)
    return OnnxGraph(path, threads=1)


def clip() -> np.ndarray:
    """A scene in which one token in twenty jumps per step and all of them drift: (64, 196, 896) float32."""
    rng = np.random.default_rng(0)
    scene = rng.standard_normal((TOKENS, WIDTH), np.float32)
    tokens = np.empty((STEPS, TOKENS, WIDTH), np.float32)
    for t in range(STEPS):
        jumps = rng.random(TOKENS) < 0.05
        scene[jumps] = rng.standard_normal((jumps.sum(), WIDTH), np.float32)
        scene += 0.02 * rng.standard_normal(scene.shape, np.float32)
        tokens[t] = scene + 0.02 * rng.standard_normal(scene.shape, np.float32)
    return tokens


def without_policy(name: str) -> Selector:
    """``score`` here costs what it adds to the policy's own arithmetic, which depends on the policy."""
    return (
        Score(lambda tokens, previous: tokens[:, 0] - previous[:, 0])
        if name.startswith("score")
        else get_selector(name)
    )


@pytest.mark.benchmark
def test_scoring_costs_under_a_hundredth_of_the_encoder(encoder: OnnxGraph) -> None:
    """Medians of five, in CPU seconds, encoder and selector interleaved so that drift hits both alike."""
    tokens = clip()
    patches = np.random.default_rng(1).standard_normal((SIDE * SIDE, 1176), np.float32)
    shares: dict[str, float] = {}
    for name in selector_names():
        selector = without_policy(name)
        encoding, scoring = [], []
        for _ in range(5):
            began = time.process_time()
            encoder.run(patches=patches)
            between = time.process_time()
            selector.score(tokens, round(0.1 * STEPS * TOKENS))
            encoding.append((between - began) * STEPS)
            scoring.append(time.process_time() - between)
        shares[name] = statistics.median(scoring) / statistics.median(encoding)
        print(
            f"{name:10} {statistics.median(scoring) * 1e3:7.1f} ms beside {statistics.median(encoding):5.1f} s "
            f"of encoding 64 steps: {shares[name]:.3%}"
        )
    assert {name: share for name, share in shares.items() if share > 0.01} == {}


@pytest.mark.benchmark
def test_a_live_step_costs_under_a_twentieth_of_the_encoder(encoder: OnnxGraph) -> None:
    """Two 640 x 480 frames to kept tokens, everything but the encoder; medians interleaved with it, CPU seconds."""
    preprocessing = Preprocessing(392, 392, 14, 2, 2, (0.5,) * 3, (0.5,) * 3)
    grid, scorer, budget = Grid(14, 14), step_scorer(get_selector("last-kept")), CausalBudget(196, 0.1)
    residual, rng = Residual(), np.random.default_rng(0)
    frames = rng.integers(0, 255, (16, 2, 480, 640, 3)).astype(np.uint8)
    own, encoding = [], []
    for step, tokens in zip(frames, clip(), strict=False):
        began = time.process_time()
        pixels = preprocessing.fit(step)
        small = np.stack([small_picture(image, grid) for image in step]).astype(np.int16)
        changed_cells(cell_change(small, small, grid), 6.0)
        inputs = preprocessing.encoder_input(pixels)
        between = time.process_time()
        encoder.run(**inputs)
        after = time.process_time()
        keep = budget.keep(scorer.score(tokens, residual.advance(tokens)))
        scorer.kept(tokens, keep)
        KeptTokens.gather(tokens[None], keep[None], Grid(14, 14))
        own.append(between - began + time.process_time() - after)
        encoding.append(after - between)
    share = statistics.median(own) / statistics.median(encoding)
    print(f"own {statistics.median(own) * 1e3:.1f} ms beside {statistics.median(encoding):.2f} s: {share:.2%}")
    assert share < 0.05
