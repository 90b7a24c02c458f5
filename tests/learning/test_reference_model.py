"""The shipped model in llama.cpp against the same weights in transformers."""

from pathlib import Path

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")

from score_edge.bundle.folder import Bundle  # noqa: E402
from score_edge.core import KeptTokens  # noqa: E402
from score_edge.export.gguf_model import named_tensors, write_gguf  # noqa: E402
from score_edge.learning.batches import EncoderBatch, collate, hidden_states, predict  # noqa: E402
from score_edge.learning.reference_model import GRID, MERGE, SAME_CELL_LAGS, build_model, step_encoder  # noqa: E402
from score_edge.learning.world_data import Prompts  # noqa: E402
from score_edge.reference import world  # noqa: E402
from score_edge.runtime.language.base import Rows  # noqa: E402
from score_edge.runtime.language.llama_cpp import LlamaCpp  # noqa: E402
from score_edge.runtime.pipeline import Pipeline  # noqa: E402

BUNDLE = Bundle.open("reference")
PROMPT = BUNDLE.manifest.prompt
STEPS = 24


@pytest.fixture(scope="module")
def model():
    model = build_model().eval()
    weights = {tensor.name: tensor.data for tensor in gguf.GGUFReader(BUNDLE.gguf_path).tensors}
    for name, tensor in named_tensors(model):
        tensor.data.copy_(torch.from_numpy(weights[name].astype(np.float32)))
    return model


@pytest.fixture(scope="module")
def clip():
    return world.make_clip(world.TEST_SEED, 11, STEPS)


@pytest.fixture(scope="module")
def pipeline():
    with Pipeline(BUNDLE, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokens(pipeline, clip):
    return pipeline.encode(clip.frames()).tokens


@pytest.fixture(scope="module")
def f32_gguf(model, tmp_path_factory) -> Path:
    return write_gguf(model, Prompts().tokenizer, tmp_path_factory.mktemp("gguf") / "f32.gguf", dtype="f32")


def transformers_logits(model, kept: KeptTokens, question: str) -> np.ndarray:
    """(V,) by the plain forward of the text model: rows, (t, h, w) and causal order as DESIGN says, nothing of ours."""
    prompts = Prompts()
    before, after = prompts.before, prompts.ids(PROMPT.after.replace("{question}", question))
    embed = model.get_input_embeddings()
    with torch.no_grad():
        text = [embed(torch.tensor(ids)) for ids in (before, after)]
        rows = torch.cat([text[0], torch.from_numpy(kept.embeddings), text[1]])[None]
        start = len(before)
        behind = start + max(kept.steps, kept.grid.height, kept.grid.width)
        positions = torch.cat(
            [
                torch.arange(start).expand(3, -1),
                start + torch.from_numpy(kept.positions.T).long(),
                (behind + torch.arange(len(after))).expand(3, -1),
            ],
            dim=1,
        )
        hidden = model.get_decoder()(inputs_embeds=rows, position_ids=positions[:, None], use_cache=False)[0]
        return model.get_output_embeddings()(hidden[0, -1]).numpy()


def ask(model: LlamaCpp, kept: KeptTokens, question: str) -> np.ndarray:
    sequence = model.sequence()
    sequence.append(PROMPT.before, Rows.of(kept), PROMPT.after.replace("{question}", question))
    logits = sequence.logits()
    sequence.close()
    return logits


@pytest.mark.parametrize(("retention", "batch"), [(1.0, 512), (0.25, 64), (0.10, 512)])
def test_llama_cpp_computes_what_transformers_computes(pipeline, model, clip, tokens, f32_gguf, retention, batch):
    keep = pipeline.select(tokens, pipeline.selector("last-kept"), retention)
    kept = KeptTokens.gather(tokens, keep, BUNDLE.manifest.vision.token_grid)
    with (
        LlamaCpp(f32_gguf, cache="f32", batch=batch, threads=1) as exact,
        LlamaCpp(BUNDLE.gguf_path, batch=batch, threads=1) as shipped,
    ):
        for question in clip.questions:
            expected = transformers_logits(model, kept, question.text)
            assert np.abs(ask(exact, kept, question.text) - expected).max() <= 1e-2
            assert ask(shipped, kept, question.text).argmax() == expected.argmax()


def test_the_eleventh_question_answers_as_the_first_of_a_fresh_run(pipeline, clip, tokens):
    keep = pipeline.select(tokens, pipeline.selector("last-kept"), 0.25)
    pipeline.watch(tokens, keep)
    for i in range(10):
        list(pipeline.ask(clip.questions[i % len(clip.questions)].text, 8))
    pipeline.prefill_question(clip.questions[0].text)
    eleventh = pipeline.sequence.logits()
    with Pipeline(BUNDLE, threads=1) as fresh:
        fresh.watch(tokens, keep)
        fresh.prefill_question(clip.questions[0].text)
        assert np.array_equal(fresh.sequence.logits(), eleventh)


def test_the_step_encoder_is_the_tower_of_transformers():
    model = build_model().eval()
    patches = torch.randn(3, (GRID * MERGE) ** 2, 384, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        grid = torch.tensor([[3, GRID * MERGE, GRID * MERGE]])
        expected = model.model.visual(patches.flatten(0, 1), grid_thw=grid).pooler_output
        found = step_encoder(model)(patches)
    assert torch.allclose(found.flatten(0, 1), expected, atol=1e-6)


def test_the_first_heads_start_as_looks_at_the_same_cell():
    model = build_model().eval()
    model.set_attn_implementation("eager")
    steps, start = 8, 5
    place = torch.cartesian_prod(torch.arange(steps), torch.arange(GRID), torch.arange(GRID)) + start
    rows = torch.randn(1, len(place), 192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decoder = model.get_decoder()
        attention = decoder(inputs_embeds=rows, position_ids=place.T[:, None], output_attentions=True).attentions[0][0]
    per_step = GRID * GRID
    for head, lag in enumerate(SAME_CELL_LAGS):
        from_last_step = attention[head, -per_step:]
        assert from_last_step.argmax(dim=1).tolist() == [(steps - 1 - lag) * per_step + c for c in range(per_step)]
        assert from_last_step.max(dim=1).values.min() > 10 / len(place)


def test_training_asks_as_the_runtime_asks(model, pipeline, clip, tokens):
    """Many questions packed behind one video, each as if it were alone: the logits of the runtime."""
    prompts = Prompts()
    steps, per_step, _ = tokens.shape
    place = torch.arange(steps * per_step)
    cell = place % per_step
    positions = torch.stack([place // per_step, cell // GRID, cell % GRID], dim=1)
    zeros = torch.zeros(len(place))
    travelled = torch.zeros(len(place), 2)
    rows = torch.from_numpy(tokens).flatten(0, 1)
    questions = [prompts.question(question) for question in clip.questions]
    seen = EncoderBatch(rows, positions, travelled, zeros.long(), zeros, steps, questions)
    with torch.no_grad():
        batch = collate([seen], model.get_input_embeddings(), prompts, len(questions))
        logits, _, answers, _ = predict(model, batch, hidden_states(model, batch)[-1])
    kept = KeptTokens.gather(tokens, np.ones((steps, per_step), bool), BUNDLE.manifest.vision.token_grid)
    for question in clip.questions:
        expected = transformers_logits(model, kept, question.text)
        (answer,) = prompts.ids(question.answer)
        alike = [row for row, a in zip(logits.numpy(), answers.tolist(), strict=True) if a == answer]
        assert min(np.abs(row - expected).max() for row in alike) < 1e-3


def test_the_shipped_model_answers_right_unpruned(pipeline):
    right = []
    for index in range(12):
        clip = world.make_clip(world.TEST_SEED, index, 8)
        tokens = pipeline.encode(clip.frames()).tokens
        pipeline.watch(tokens, np.ones(tokens.shape[:2], bool))
        right += ["".join(pipeline.ask(q.text, 8)) == q.answer for q in clip.questions]
    assert np.mean(right) > 0.93


def test_the_bundle_is_small():
    assert sum(ref.bytes for ref in BUNDLE.manifest.files.values()) <= 12 * 2**20
