"""Requests as arrays, and both ways through recorded signatures of TensorRT-LLM: it cannot run without its GPU."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from score_edge.core import Grid, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language import tensorrt_llm as module
from score_edge.runtime.language import tensorrt_llm_request as request
from score_edge.runtime.language import tensorrt_llm_ways as ways
from score_edge.runtime.language.base import LanguageModel, Question, Rows
from score_edge.runtime.language.mrope import mrope_positions
from score_edge.runtime.language.tensorrt_llm import TensorRtLlm, usable_ways, way_of

RECORDED = Path(__file__).parent / "recorded"
MODEL = {
    "hidden_size": 128,
    "vocab_size": 400,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "max_position_embeddings": 512,
}


def kept(width: int = 128, seed: int = 0, steps: int = 3) -> Rows:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((steps, 6, width), dtype=np.float32)
    mask = rng.random((steps, 6)) < 0.5
    mask[0, 0] = True
    return Rows.of(KeptTokens.gather(rows, mask, Grid(2, 3)))


@pytest.fixture
def package(monkeypatch):
    """The recorded signatures in place of the package."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(RECORDED))
    monkeypatch.setattr(module, "installed_version", lambda: "1.2.1")
    monkeypatch.setattr(module, "require_gpu", lambda what: None)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]


@pytest.fixture
def engine(tokenizer, tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    (folder / "rank0.engine").touch()
    model = {**MODEL, "rotary_base": 1e6, "dtype": "bfloat16", "rotary_scaling": {"mrope_section": [4, 6, 6]}}
    build = {"max_seq_len": 80, "max_input_len": 64, "max_prompt_embedding_table_size": 20}
    (folder / "config.json").write_text(json.dumps({"pretrained_config": model, "build_config": build}))
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").touch()
    config = {**MODEL, "rope_theta": 1e6, "rope_scaling": {"mrope_section": [4, 6, 6]}, "image_token_id": 398}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_fake_ids_count_on_behind_the_vocabulary():
    one, two = kept(), kept(seed=1)
    ids = request.fake_ids([np.array([7, 8], np.int32), one, np.array([9], np.int32), two], 400)
    assert ids.dtype == np.int32
    assert ids[:2].tolist() == [7, 8] and ids[2 + len(one)] == 9
    fake = ids[ids >= 400]
    assert fake.tolist() == list(range(400, 400 + len(one) + len(two)))
    # Every fake id finds its row.
    table = request.prompt_table([one, two], 128)
    assert table.shape == (1, len(one) + len(two), 128) and table.flags.c_contiguous
    np.testing.assert_array_equal(table[0, fake - 400], np.concatenate([one.embeddings, two.embeddings]))


def test_placeholders_stand_for_every_visual_token():
    ids = request.placeholder_ids([np.array([7], np.int32), kept()], 401)
    assert ids.tolist() == [7] + [401] * len(kept())


def test_blocks_are_shared_only_by_equal_videos():
    text = np.array([1, 2], np.int32)
    ids = request.extra_ids([text, kept(), text])
    assert ids[:2] == ids[-2:] == [0, 0] and all(0 < extra < 1 << 63 for extra in ids[2:-2])
    assert ids == request.extra_ids([text, kept(), text])
    assert len(set(ids[2:-2])) == len(kept())
    moved = Rows(kept().embeddings, kept().places + np.int32([0, 0, 1]) % 3, 3)
    longer = Rows(kept().embeddings, kept().places, 9)  # moves the text behind it
    for other in (kept(seed=1), moved, longer):
        assert not set(request.extra_ids([other])) & set(ids[2:-2])


def test_rows_that_would_poison_the_cache_are_refused():
    bad = kept()
    bad.embeddings[1, 3] = np.nan
    with pytest.raises(ScoreEdgeError, match="not finite"):
        request.prompt_table([bad], 128)
    with pytest.raises(ScoreEdgeError, match="takes rows of 64"):
        request.prompt_table([kept()], 64)


@pytest.mark.parametrize(
    ("version", "ways"),
    [
        ("0.12.0", ()),
        ("0.16.0", ("engine",)),
        ("1.0.0", ("engine",)),
        ("1.1.0rc5", ("engine", "checkpoint")),
        ("1.2.1", ("engine", "checkpoint")),
        ("1.3.0", ("checkpoint",)),
        ("2.0", ()),
        ("unknown", ()),
    ],
)
def test_versions(version, ways):
    assert usable_ways(version) == ways


def test_an_engine_is_called_with_what_it_takes(package, engine, tokenizer):
    with TensorRtLlm(engine) as opened:
        backend: LanguageModel = opened
        model = opened.sequence()
        assert (backend.capabilities.width, backend.capabilities.context) == (128, 64)
        assert backend.capabilities.keeps_positions and not backend.capabilities.incremental
        assert backend.capabilities.cell_bytes == 2 * 3 * 2 * 32 * 2
        n, after = opened.count("What moved?"), opened.count(" It did.")
        video = kept()
        model.append("What moved?", video, " It did.")
        assert "".join(model.generate(3)) == tokenizer.decode([5, 6, 7], skip_special_tokens=True)
    from tensorrt_llm.runtime import model_runner_cpp

    call = model_runner_cpp.calls[-1]
    length = n + len(video) + after
    assert call["batch_input_ids"][0].shape == (length,) and str(call["batch_input_ids"][0].dtype) == "torch.int32"
    assert call["prompt_table"].shape == (1, len(video), 128) and str(call["prompt_table"].dtype) == "torch.bfloat16"
    assert call["prompt_tasks"] == "0" and len(call["input_token_extra_ids"][0]) == length
    rotations = call["mrope_params"].mrope_rotary_cos_sin
    assert rotations.shape == (1, 512 * 32) and str(rotations.dtype) == "torch.float32"
    following = n + video.extent + after
    assert call["mrope_params"].mrope_position_deltas.tolist() == [[following - length]]
    assert str(call["mrope_params"].mrope_position_deltas.dtype) == "torch.int32"


def test_a_checkpoint_gets_true_positions_instead_of_an_invented_grid(package, checkpoint):
    video = kept()
    with TensorRtLlm(checkpoint, context=200) as opened:
        model, n = opened.sequence(), opened.count("hi")
        model.append("hi", video, "?")
        assert "".join(model.generate(2)) == "it moved"
    from tensorrt_llm.llmapi import llm

    ids, extra = llm.calls[-1]["prepared"]
    assert ids == [*b"hi", *[401] * len(video), *b"?"]
    data = extra["multimodal_data"]
    np.testing.assert_array_equal(data["multimodal_embedding"].numpy(), video.embeddings)
    places = data["mrope_config"]["mrope_position_ids"]
    assert places.shape == (3, 1, len(ids)) and str(places.dtype) == "torch.int64"
    expected, following = mrope_positions([np.zeros(n, np.int32), video, np.zeros(1, np.int32)])
    np.testing.assert_array_equal(places[:, 0].numpy(), expected)
    assert data["mrope_config"]["mrope_position_deltas"].tolist() == [[following - len(ids)]]


def test_newer_processors_keep_the_placeholder_in_the_vocabulary(package, checkpoint):
    from tensorrt_llm._torch.models.modeling_qwen2vl import Qwen2VLInputProcessorBase

    def attach_multimodal_embeddings(self, inputs, multimodal_embedding, sampling_params):
        return self._attach_multimodal_embeddings_impl(inputs, multimodal_embedding, sampling_params)

    Qwen2VLInputProcessorBase._attach_multimodal_embeddings_impl = lambda self, *rest: None
    Qwen2VLInputProcessorBase.attach_multimodal_embeddings = attach_multimodal_embeddings
    with TensorRtLlm(checkpoint) as opened:
        model = opened.sequence()
        model.append(kept())
        list(model.generate(1))
    from tensorrt_llm.llmapi import llm

    ids, extra = llm.calls[-1]["prepared"]
    assert set(ids) == {398} and isinstance(extra["multimodal_data"]["multimodal_embedding"], list)


def test_a_question_is_forgotten_and_the_video_is_not(package, engine):
    with TensorRtLlm(engine) as opened:
        model = opened.sequence()
        model.append(kept())
        video = model.mark()
        model.append("What?")
        later = model.mark()
        model.rollback(video)
        assert model.mark() == video
        with pytest.raises(ScoreEdgeError, match="not of this sequence"):
            model.rollback(later)
        model.clear()
        assert model.mark().cells == 0
        with pytest.raises(ScoreEdgeError, match="nothing to continue from"):
            list(model.generate(1))
        with pytest.raises(ScoreEdgeError, match="no logits"):
            model.logits()


def test_what_does_not_fit_is_refused_before_the_engine_sees_it(package, engine):
    with TensorRtLlm(engine) as opened:
        model = opened.sequence()
        with pytest.raises(ScoreEdgeError, match="do not fit into the engine's table of 20") as caught:
            model.append(kept(steps=20))
        assert "--max_multimodal_len" in caught.value.hint
        with pytest.raises(ScoreEdgeError, match="context of 64 tokens is full"):
            for _ in range(40):
                model.append("What moved?")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no config.json"),
        ({"config.json": "{}"}, "neither an engine"),
        ({"config.json": "{", "a.engine": ""}, "not valid JSON"),
        ({"config.json": "[]", "a.engine": ""}, "holds no configuration"),
        ({"config.json": '{"pretrained_config": {}}', "a.engine": ""}, "not of a TensorRT-LLM engine"),
        ({"config.json": '{"hidden_size": "x"}', "a.safetensors": ""}, "not of a language model"),
    ],
)
def test_folders_that_hold_something_else(package, tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ScoreEdgeError, match=message):
        TensorRtLlm(tmp_path)


def test_an_engine_without_room_for_visual_tokens(package, engine):
    config = json.loads((engine / "config.json").read_text())
    config["build_config"]["max_prompt_embedding_table_size"] = 0
    (engine / "config.json").write_text(json.dumps(config))
    with pytest.raises(ScoreEdgeError, match="no room for visual tokens") as caught:
        TensorRtLlm(engine)
    assert "--max_multimodal_len" in caught.value.hint


def test_servers_other_versions_and_machines_without_a_gpu(engine, monkeypatch):
    with pytest.raises(ScoreEdgeError, match="cannot travel through an OpenAI-compatible"):
        way_of("http://localhost:8000/v1")
    monkeypatch.setattr(module, "installed_version", lambda: None)
    with pytest.raises(ScoreEdgeError, match="tensorrt-llm is not installed"):
        TensorRtLlm(engine)
    monkeypatch.setattr(module, "installed_version", lambda: "0.12.0")
    with pytest.raises(ScoreEdgeError, match=r"tensorrt-llm 0\.12\.0 cannot run this engine") as caught:
        TensorRtLlm(engine)
    assert "0.16 to 1.2" in caught.value.hint
    monkeypatch.setattr(module, "installed_version", lambda: "1.2.1")
    monkeypatch.setattr(module, "require_gpu", lambda what: (_ for _ in ()).throw(ScoreEdgeError(f"{what} needs one")))
    with pytest.raises(ScoreEdgeError, match="TensorRT-LLM needs one"):
        TensorRtLlm(engine)


def test_an_engine_without_its_tokenizer(package, engine):
    for path in engine.glob("*token*"):
        path.unlink()
    with pytest.raises(ScoreEdgeError, match="no tokenizer in"):
        TensorRtLlm(engine)


def test_what_a_question_says_is_text(tokenizer):
    inner = "what does <|im_end|> mean?"
    ids = ways.ids_of(tokenizer, Question("<|vision_end|>Say: ", inner, "<|im_end|>\n"))
    control = [tokenizer.convert_tokens_to_ids(name) for name in ("<|vision_end|>", "<|im_end|>")]
    assert [token for token in ids if token in tokenizer.all_special_ids] == control
    assert tokenizer.decode(ids) == f"<|vision_end|>Say: {inner}<|im_end|>\n"
