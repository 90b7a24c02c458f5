import numpy as np
import pytest

from score_edge.core import Grid, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.profiling import llm_shapes
from score_edge.profiling.llm_decoders import GatedDelta, PerLayerInputs, ShortConvolutions
from score_edge.profiling.llm_shapes import LlmShape, check_memory, llm_shape, random_rows, shaped_gguf

pytest.importorskip("gguf")

PLAIN = LlmShape("plain", 2, 64, 4, 2, 128, 512, mrope=False, tied=False)
WIDE = LlmShape("wide", 2, 64, 4, 2, 128, 512, mrope=False, head_width=32)
WIDE_MROPE = LlmShape("wide-mrope", 2, 64, 4, 2, 128, 512, mrope=True, head_width=32)
DELTA = GatedDelta(value_heads=4, key_heads=2, state=16, interval=2)
# As published, but small: four layers of which some are of each kind.
NEWER = [
    LlmShape("delta", 4, 64, 4, 2, 128, 512, mrope=True, tied=False, head_width=32, decoder=DELTA),
    LlmShape("short", 4, 64, 4, 2, 128, 512, mrope=False, decoder=ShortConvolutions(attention=(2,))),
    LlmShape("inputs", 6, 64, 4, 1, 128, 512, False, head_width=32, decoder=PerLayerInputs(2, 2, True, 16, 64)),
]


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("smollm2-135m", 134),
        ("smollm2-360m", 362),
        ("smollm2-1.7b", 1711),
        ("qwen2.5-0.5b", 494),
        ("qwen2.5-1.5b", 1543),
        ("qwen2.5-3b", 3085),
        ("qwen2.5-7b", 7615),
        ("qwen3-0.6b", 596),
        ("qwen3-1.7b", 1720),
        ("qwen3-vl-2b", 1720),
        ("qwen3-vl-4b", 4022),
        ("qwen3-vl-8b", 8190),
        ("qwen3.5-0.8b", 752),
        ("qwen3.5-2b", 1880),
        ("qwen3.5-4b", 4206),
        ("qwen3.5-9b", 8953),
        ("lfm2-350m", 354),
        ("lfm2-1.2b", 1170),
        ("gemma4-e2b", 4630),
        ("gemma4-e4b", 7460),
    ],
)
def test_shapes_have_the_size_of_their_models(name, millions):
    assert llm_shape(name).parameters / 1e6 == pytest.approx(millions, rel=0.01)


def test_sections_are_those_of_qwen2_vl():
    def sections(name):
        shape = llm_shape(name)
        return shape.decoder.rope_sections(shape)

    assert sections("qwen2.5-3b") == [16, 24, 24, 0]
    assert sum(sections("qwen2.5-0.5b")) == 32
    assert sections("qwen3-vl-2b") == [24, 20, 20, 0]
    assert sections("qwen3.5-2b") == [11, 11, 10, 0]


def test_an_unknown_shape_names_the_nearest():
    with pytest.raises(ScoreEdgeError, match=r"no LLM shape 'qwen2\.5-05b'") as caught:
        llm_shape("qwen2.5-05b")
    assert "did you mean qwen2.5-0.5b?" in caught.value.hint


@pytest.mark.parametrize("shape", [llm_shape("tiny"), PLAIN, WIDE, WIDE_MROPE, *NEWER], ids=lambda s: s.name)
def test_llama_cpp_runs_a_shape(shape, tmp_path):
    pytest.importorskip("llama_cpp")
    from score_edge.runtime.language.base import Rows
    from score_edge.runtime.language.llama_cpp import LlamaCpp

    written = []
    path = shaped_gguf(shape, tmp_path, on_write=lambda: written.append(1))
    assert shaped_gguf(shape, tmp_path, on_write=lambda: written.append(1)) == path
    assert written == [1] and list(tmp_path.iterdir()) == [path]
    rows = random_rows(shape, 4, 6)
    assert rows.shape == (4, 6, 64) and rows.dtype == np.float32
    with LlamaCpp(path, context=128, threads=1) as model:
        assert model.capabilities.keeps_positions is shape.mrope
        assert model.capabilities.width == 64
        assert model.count("ab") == 2
        sequence = model.sequence()
        sequence.append("ab", Rows.of(KeptTokens.gather(rows, np.ones((4, 6), bool), Grid(2, 3))), "a")
        assert np.isfinite(sequence.logits()).all() and sequence.logits().std() > 0
        # The cache holds what the shape says: two rows of every KV head per layer, half precision.
        per_cell = None if shape in NEWER else 2 * 2 * 2 * shape.head * 2
        assert model.capabilities.cell_bytes == per_cell


def test_a_shape_that_does_not_fit_is_refused_before_it_is_written(tmp_path, monkeypatch):
    with pytest.raises(ScoreEdgeError, match=r"qwen2\.5-7b with 4096 tokens needs 14\.\d GiB") as caught:
        check_memory(llm_shape("qwen2.5-7b"), 4096, available=8 << 30)
    assert "smaller shape" in caught.value.hint
    monkeypatch.setattr(llm_shapes, "memory_bytes", lambda: (1 << 20, 1 << 30))
    with pytest.raises(ScoreEdgeError, match="needs"):
        shaped_gguf(llm_shape("tiny"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(llm_shapes.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10})())
    with pytest.raises(ScoreEdgeError, match="GiB free"):
        shaped_gguf(llm_shape("tiny"), tmp_path)
