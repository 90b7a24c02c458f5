import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.core import Float32, Grid, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language import llama_cpp, llama_library, llama_sequence
from score_edge.runtime.language.base import LanguageModel, Mark, Question, Rows
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.language.llama_sequence import LlamaSequence
from score_edge.runtime.threads import FreeThreads

pytest.importorskip("llama_cpp")

BEFORE = "<|im_start|>user\n<|vision_start|>"
QUESTION = "<|vision_end|>What moved in the video, and where did it go?<|im_end|>\n<|im_start|>assistant\n"
LONG = (12, 4, 5)  # more steps than rows or columns
WIDE = (4, 5, 6)


@contextmanager
def open_sequence(path: Path, **options: Any) -> Iterator[LlamaSequence]:
    with LlamaCpp(path, **options) as model:
        yield model.sequence()


@pytest.fixture
def vl(gguf_files: dict[str, Path]) -> Iterator[LlamaSequence]:
    with open_sequence(gguf_files["f32"], context=1024, threads=1) as sequence:
        yield sequence


def clip(shape: tuple[int, int, int], retention: float, seed: int = 0) -> KeptTokens:
    """Random rows, of which `retention` are kept at random places."""
    steps, height, width = shape
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((steps, height * width, 128), dtype=np.float32)
    mask = np.zeros(tokens.shape[:2], bool)
    mask.flat[rng.choice(mask.size, round(mask.size * retention), replace=False)] = True
    return KeptTokens.gather(tokens, mask, Grid(height, width))


def unpruned_positions(tiny: Any, before: list[int], shape: tuple[int, int, int], after: list[int]) -> Any:
    """(3, L) int64 from transformers, for the whole grid."""
    import torch

    steps, height, width = shape
    video = [tiny.model.config.video_token_id] * (steps * height * width)
    ids = torch.tensor([before + video + after])
    kinds = torch.tensor([[0] * len(before) + [2] * len(video) + [0] * len(after)])
    merge = tiny.model.config.vision_config.spatial_merge_size
    grid = torch.tensor([[steps, height * merge, width * merge]])
    positions = tiny.model.model.get_rope_index(ids, kinds, video_grid_thw=grid)[0][:, 0]
    if steps > max(height, width):
        # Since 5.3 transformers lets text start at max(H, W), on top of the video's last steps. Qwen2-VL, as published
        # and trained, starts it behind everything: one past the largest position.
        end = len(before) + len(video)
        positions[:, end:] = positions[:, :end].max() + 1 + torch.arange(len(after))
    return positions


def reference(tiny: Any, kept: KeptTokens, question: str, tokens: int) -> tuple[np.ndarray, list[int]]:
    """(V,) logits of the first answer token and the greedy answer, by transformers on the same rows and positions."""
    import torch

    before, after = (tiny.tokenizer(text).input_ids for text in (BEFORE, question))
    shape = (kept.steps, kept.grid.height, kept.grid.width)
    start, total = len(before), len(before) + kept.total
    seen = [*range(start), *(start + np.ravel_multi_index(tuple(kept.positions.T), shape)), *range(total, 10**6)]
    embed, answer, first = tiny.model.get_input_embeddings(), [], None
    with torch.no_grad():
        for _ in range(tokens):
            positions = unpruned_positions(tiny, before, shape, after + answer)
            text = embed(torch.tensor(before)), embed(torch.tensor(after + answer))
            rows = torch.cat([text[0], torch.from_numpy(kept.embeddings), text[1]])[None]
            hidden = tiny.model.get_decoder()(
                inputs_embeds=rows, position_ids=positions[:, None, seen[: rows.shape[1]]], use_cache=False
            )[0]
            logits = tiny.model.get_output_embeddings()(hidden[0, -1]).numpy()
            first = logits if first is None else first
            answer.append(int(logits.argmax()))
            if answer[-1] == tiny.tokenizer.eos_token_id:
                break
    return first, answer


def ask(model: LlamaSequence, question: str, tokens: int = 12) -> tuple[np.ndarray, str]:
    model.append(question)
    return model.logits(), "".join(model.generate(tokens))


@pytest.mark.parametrize("batch", [512, 32])
@pytest.mark.parametrize("retention", [1.0, 0.25, 0.10])
@pytest.mark.parametrize("shape", [LONG, WIDE])
def test_equals_transformers(
    qwen2_vl: Any, gguf_files: dict[str, Path], shape: tuple[int, int, int], retention: float, batch: int
) -> None:
    kept = clip(shape, retention)
    logits, answer = reference(qwen2_vl, kept, QUESTION, tokens=12)
    for file, cache, tolerance in (("f32", "f32", 1e-3), ("f32", "f16", 2e-2), ("f16", "f16", 0.1)):
        with open_sequence(gguf_files[file], context=1024, batch=batch, threads=1, cache=cache) as model:
            model.append(BEFORE)
            model.append(Rows.of(kept))
            found, text = ask(model, QUESTION)
        assert np.abs(found - logits).max() <= tolerance
        assert found.argmax() == logits.argmax()
        if file == "f32":
            assert text == qwen2_vl.tokenizer.decode(answer, skip_special_tokens=True)


def test_batch_bounds_every_call(gguf_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, decode = [], llama_sequence.decode
    monkeypatch.setattr(
        llama_sequence, "decode", lambda h, content, *rest: sizes.append(len(content)) or decode(h, content, *rest)
    )
    with open_sequence(gguf_files["f32"], context=256, batch=32, threads=1) as model:
        model.append(Rows.of(clip(LONG, 70 / 240)))
    assert sizes == [32, 32, 6]


def test_rows_are_handed_over_without_a_copy(vl: LlamaSequence, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses, decode = [], llama_sequence.decode
    monkeypatch.setattr(
        llama_sequence, "decode", lambda h, rows, *rest: addresses.append(rows.ctypes.data) or decode(h, rows, *rest)
    )
    kept = clip(LONG, 0.25)
    vl.append(Rows.of(kept))
    assert addresses == [kept.embeddings.ctypes.data]


def test_other_layouts_give_the_same_logits(vl: LlamaSequence) -> None:
    kept = clip(LONG, 0.25)
    vl.append(Rows.of(kept))
    expected = ask(vl, QUESTION)[0]
    vl.clear()
    rows = np.asfortranarray(kept.embeddings.astype(np.float64))
    vl.append(Rows.of(KeptTokens(rows, kept.positions.astype(np.int64), kept.steps, kept.grid)))  # type: ignore[arg-type]
    assert np.array_equal(ask(vl, QUESTION)[0], expected)


def test_eleventh_question_after_rollback_is_bit_identical(gguf_files: dict[str, Path]) -> None:
    kept = clip(LONG, 0.25)

    def watch(model: LlamaSequence) -> Mark:
        model.append(BEFORE)
        model.append(Rows.of(kept))
        return model.mark()

    with open_sequence(gguf_files["f16"], context=512, threads=1) as fresh:
        watch(fresh)
        logits, text = ask(fresh, QUESTION)
    with open_sequence(gguf_files["f16"], context=512, threads=1) as model:
        video = watch(model)
        for i in range(10):
            ask(model, f"<|vision_end|>Question {'again ' * i}?", tokens=i + 1)
            model.rollback(video)
            assert model.mark() == video
        again = ask(model, QUESTION)
    assert np.array_equal(again[0], logits)
    assert again[1] == text


def test_rollback_to_before_the_video(vl: LlamaSequence) -> None:
    vl.append(BEFORE)
    start = vl.mark()
    vl.append(Rows.of(clip(WIDE, 0.5, seed=1)))
    expected = ask(vl, QUESTION)[0]
    vl.rollback(start)
    vl.append(Rows.of(clip(LONG, 0.5, seed=2)))
    ask(vl, QUESTION)
    vl.rollback(start)
    vl.append(Rows.of(clip(WIDE, 0.5, seed=1)))
    assert np.array_equal(ask(vl, QUESTION)[0], expected)


def test_mark_counts_cells_and_positions_apart(vl: LlamaSequence) -> None:
    vl.append(BEFORE)
    n = vl.mark().cells
    kept = clip(LONG, 0.10)
    vl.append(Rows.of(kept))
    end = n + int(kept.positions[-1, 0]) + 1
    assert vl.mark() == Mark(position=n + 12, cells=n + 24, block=n, end=end)
    vl.append(Rows.of(clip(WIDE, 0.0)))
    assert vl.mark() == Mark(position=n + 12 + 6, cells=n + 24, block=n + 12, end=n + 12)


def test_generated_tokens_continue_like_appended_ones(vl: LlamaSequence) -> None:
    vl.append(Rows.of(clip(LONG, 0.25)))
    video = vl.mark()
    n = vl.model.count(QUESTION)
    vl.append(QUESTION)
    text = "".join(vl.generate(6))
    assert (vl.mark().position, vl.mark().cells) == (video.position + n + 5, video.cells + n + 5)
    vl.rollback(video)
    vl.append(QUESTION)
    pieces = vl.generate(6)
    assert "".join(pieces) == text


def test_plain_rope_compacts_positions(qwen2: Any, gguf_files: dict[str, Path]) -> None:
    import torch

    kept = clip(LONG, 0.25)
    embed = qwen2.model.get_input_embeddings()
    with torch.no_grad():
        before, after = (embed(torch.tensor(qwen2.tokenizer(text).input_ids)) for text in (BEFORE, QUESTION))
        rows = torch.cat([before, torch.from_numpy(kept.embeddings), after])[None]
        expected = qwen2.model(inputs_embeds=rows, use_cache=False).logits[0, -1].numpy()
    with open_sequence(gguf_files["plain"], context=512, batch=32, threads=1, cache="f32") as model:
        assert not model.model.capabilities.keeps_positions
        model.append(BEFORE)
        model.append(Rows.of(kept))
        video = model.mark()
        assert video.position == video.cells
        model.append(QUESTION)
        assert np.abs(model.logits() - expected).max() <= 1e-3
        model.rollback(video)
        model.append(QUESTION)
        assert np.abs(model.logits() - expected).max() <= 1e-3


@pytest.mark.parametrize(
    "text",
    [
        "What moved in the video?",
        "don't DON'T we'll WE'LL it's 'S",
        "  two  spaces\t\ttabs \n\n newlines\r\n end  ",
        "numbers 1234567890 3.14 1e-5",
        "naïve café, Größe, Ελληνικά, русский, עברית, हिन्दी",
        "cafe\u0301 decomposed, 한국 jamo \u1112\u1161\u11ab",
        "日本語の質問です。中文问题？",
        "emoji 🙂 👩‍👩‍👧 🇫🇷 and \u200b zero width",
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Why?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|> <|im_end|>x<|im_start",
        "def f(x): return x**2  # comment {}[]()<>",
        "\u00a0no-break\u3000ideographic\u2028line",
        "nul\x00inside",
        "",
        " ",
        "a" * 500,
    ],
)
def test_tokenises_like_transformers(vl: LlamaSequence, tokenizer: Any, text: str) -> None:
    assert vl.model.tokenize(text).tolist() == tokenizer(text).input_ids


class Scripted(LlamaSequence):
    """Says what it is told to."""

    script: Iterator[int]

    def logits(self) -> Float32:
        likeliest = np.zeros(self.model.vocab_size, np.float32)
        likeliest[next(self.script)] = 1
        return likeliest


def test_streams_whole_characters_and_stops_at_the_end_token(gguf_files: dict[str, Path], tokenizer: Any) -> None:
    text = "naïve 🙂 日本"
    ids = tokenizer(text).input_ids
    with LlamaCpp(gguf_files["f32"], context=256, threads=1) as opened:
        model = Scripted(opened, 0)
        model.script = iter([*ids, tokenizer.convert_tokens_to_ids("<|video_pad|>"), tokenizer.eos_token_id])
        model.append(QUESTION)
        pieces = list(model.generate(100))
        assert "".join(pieces) == text
        assert all(pieces) and not any("\ufffd" in piece for piece in pieces)
        model.script = iter(ids)
        cut = tokenizer("naïve 🙂").input_ids[:-1]
        assert "".join(model.generate(len(cut))) == "naïve \ufffd"


def with_row(kept: KeptTokens, row: int, value: float) -> KeptTokens:
    rows = kept.embeddings.copy()
    rows[row, 3] = value
    return KeptTokens(rows, kept.positions, kept.steps, kept.grid)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_refused_and_leaves_no_trace(vl: LlamaSequence, value: float) -> None:
    kept = clip(LONG, 0.25)
    vl.append(BEFORE)
    start = vl.mark()
    vl.append(Rows.of(kept))
    expected = ask(vl, QUESTION)[0]
    vl.rollback(start)
    with pytest.raises(ScoreEdgeError, match="1 of 60 visual tokens are not finite, the first is token 7"):
        vl.append(Rows.of(with_row(kept, 7, value)))
    assert vl.mark() == start
    vl.append(Rows.of(kept))
    assert np.array_equal(ask(vl, QUESTION)[0], expected)


def moved(kept: KeptTokens, change: Any) -> KeptTokens:
    return KeptTokens(kept.embeddings, change(kept.positions.copy()), kept.steps, kept.grid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[::-1], "go backwards"),
        (lambda p: np.concatenate([p[:1], p[:1], p[2:]]), "go backwards"),
        (lambda p: p + 12, "outside their block"),
        (lambda p: p - 1, "outside their block"),
        (lambda p: p[:-1], "outside their block"),
        (lambda p: p.T, "outside their block"),
    ],
)
def test_wrong_positions_are_refused(vl: LlamaSequence, change: Any, message: str) -> None:
    with pytest.raises(ScoreEdgeError, match=message):
        vl.append(Rows.of(moved(clip(LONG, 0.25), change)))


@pytest.mark.parametrize("width", [64, 129, 256])
def test_rows_of_another_width_are_refused(vl: LlamaSequence, width: int) -> None:
    kept = clip(LONG, 0.25)
    rows = np.zeros((kept.kept, width), np.float32)
    with pytest.raises(ScoreEdgeError, match=f"{width}.*takes rows of 128"):
        vl.append(Rows.of(KeptTokens(rows, kept.positions, kept.steps, kept.grid)))


def test_a_full_context_is_an_error_and_the_model_goes_on(
    gguf_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_sequence(gguf_files["f32"], context=256, batch=64, threads=1) as model:
        model.append(Rows.of(clip(LONG, 0.25)))
        video = model.mark()
        expected = ask(model, QUESTION, tokens=1)[0]
        model.rollback(video)
        with monkeypatch.context() as patch:
            patch.delattr(llama_sequence, "decode")  # predicted, not tried: half a prefill would be wasted
            with pytest.raises(ScoreEdgeError, match="context of 256 tokens is full: 300 are needed"):
                model.append(Rows.of(clip(LONG, 1.0)))
        assert model.mark() == video
        with pytest.raises(ScoreEdgeError, match="is full"):
            model.append(QUESTION)
            for _ in model.generate(1000):
                pass
        model.rollback(video)
        assert np.array_equal(ask(model, QUESTION, tokens=1)[0], expected)


def test_llama_cpp_saying_full_is_the_same_error(gguf_files: dict[str, Path]) -> None:
    with open_sequence(gguf_files["f32"], context=256, batch=64, threads=1) as model:
        model.append(Rows.of(clip(LONG, 0.75)))
        full = model.mark()
        model._here = Mark(full.position, cells=0)  # as if cells had been miscounted
        with pytest.raises(ScoreEdgeError, match="is full"):
            model.append(Rows.of(clip(LONG, 0.5)))
        model._here = full
        assert ask(model, QUESTION, tokens=1)[1]


def test_a_refusal_carries_llama_cpps_own_words(vl: LlamaSequence, capfd: pytest.CaptureFixture[str]) -> None:
    vl.append(QUESTION)
    vl._here = Mark(position=2, cells=vl.mark().cells)
    with pytest.raises(ScoreEdgeError, match=r"code -1: .*position") as caught:
        vl.append("again")
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")


def test_logits_need_text_before_them(vl: LlamaSequence) -> None:
    with pytest.raises(ScoreEdgeError, match="nothing to continue from"):
        vl.logits()
    vl.append(BEFORE)
    assert vl.logits().shape == (405,)
    vl.append(Rows.of(clip(LONG, 0.1)))
    with pytest.raises(ScoreEdgeError, match="nothing to continue from"):
        next(vl.generate(1))


def test_a_mark_ahead_of_the_sequence_is_refused(vl: LlamaSequence) -> None:
    vl.append(QUESTION)
    mark = vl.mark()
    vl.clear()
    with pytest.raises(ScoreEdgeError, match="ahead"):
        vl.rollback(mark)


def test_capabilities(vl: LlamaSequence) -> None:
    model: LanguageModel = vl.model
    assert model.capabilities.width == 128
    assert model.capabilities.context == 1024
    assert model.capabilities.keeps_positions and model.capabilities.incremental


def test_a_model_is_freed_between_the_calls_of_a_thread_that_prefills(gguf_files: dict[str, Path]) -> None:
    model = LlamaCpp(gguf_files["f32"], context=4096, batch=16, threads=1)
    sequence, ended, inside = model.sequence(), list[BaseException](), threading.Event()
    decode = llama_sequence.decode

    def prefill() -> None:
        try:
            sequence.append(" moved" * 3000)
        except RuntimeError as error:
            ended.append(error)

    def noted(*given: Any) -> int:
        inside.set()
        return decode(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_sequence, "decode", noted)
        thread = threading.Thread(target=prefill)
        thread.start()
        inside.wait()
        model.close()
        thread.join(20)
    assert not thread.is_alive() and "closed" in str(ended)


def test_a_closed_model_says_so(gguf_files: dict[str, Path]) -> None:
    model = LlamaCpp(gguf_files["f32"], context=256, threads=1)
    sequence = model.sequence()
    model.close()
    model.close()
    for call in (sequence.clear, lambda: sequence.append("x"), lambda: sequence.append(Rows.of(clip(LONG, 0.1)))):
        with pytest.raises(RuntimeError, match="closed"):
            call()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: b"", "failed to read magic"),
        (lambda whole: b"hello, world" * 100, "invalid magic"),
        (lambda whole: whole[: len(whole) // 2], "corrupted or incomplete"),
        (lambda whole: whole[:99], "failed to read key-value pairs"),
        (lambda whole: whole.replace(b"qwen2vl", b"resnet7"), "unknown model architecture"),
    ],
)
def test_bad_files(
    gguf_files: dict[str, Path], tmp_path: Path, damage: Any, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(damage(gguf_files["f32"].read_bytes()))
    with pytest.raises(ScoreEdgeError, match=message) as caught:
        LlamaCpp(path)
    assert str(path) in caught.value.message and "\n" not in caught.value.message
    assert caught.value.hint
    assert capfd.readouterr() == ("", "")


def test_a_path_without_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.gguf"):
        with pytest.raises(ScoreEdgeError, match="no model file at"):
            LlamaCpp(path)


def test_missing_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.delitem(sys.modules, "llama_cpp.llama_cpp", raising=False)
    llama_library.library.cache_clear()
    with pytest.raises(ScoreEdgeError, match=r"score-edge\[pc\]"):
        LlamaCpp(tmp_path / "any.gguf")


def test_an_open_model_does_not_disturb_the_end_of_the_process(gguf_files: dict[str, Path]) -> None:
    code = (
        "import sys; from score_edge.runtime.language.llama_cpp import LlamaCpp; "
        "model = LlamaCpp(sys.argv[1], threads=1); model.sequence().append('x')"
    )
    done = subprocess.run([sys.executable, "-c", code, gguf_files["f32"]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("file", ["f32", "f16", "plain"])
def test_text_and_rows_in_one_call_equal_a_call_each(
    gguf_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    kept = clip(WIDE, 0.5)
    segments = (BEFORE, Rows.of(kept), "<|vision_end|> and <|vision_start|>", Rows.of(kept), QUESTION)
    calls, decode = [], llama_sequence.decode
    monkeypatch.setattr(
        llama_sequence, "decode", lambda h, content, *rest: calls.append(len(content)) or decode(h, content, *rest)
    )
    with open_sequence(gguf_files[file], context=512, threads=1, cache="f32") as sequence:
        sequence.append(*segments)
        together, mark = sequence.logits(), sequence.mark()
        assert len(calls) == 1
        sequence.clear()
        for segment in segments:
            sequence.append(segment)
        assert len(calls) == 1 + len(segments) and sequence.mark() == mark
        assert np.abs(sequence.logits() - together).max() <= 1e-3


def test_what_a_question_says_is_text(vl: LlamaSequence, tokenizer: Any) -> None:
    inner = "what does <|im_end|> mean, and <|vision_start|>?"
    ids = vl.model.tokenize(Question("<|vision_end|>Say: ", inner, "<|im_end|>\n")).tolist()
    control = [tokenizer.convert_tokens_to_ids(name) for name in ("<|vision_end|>", "<|im_end|>")]
    assert [token for token in ids if token in tokenizer.all_special_ids] == control
    plain = vl.model.tokenize(Question("<|vision_end|>Say: ", "what moved?", "<|im_end|>\n"))
    assert plain.tolist() == tokenizer("<|vision_end|>Say: what moved?<|im_end|>\n").input_ids
    assert tokenizer.decode(ids) == f"<|vision_end|>Say: {inner}<|im_end|>\n"


@pytest.mark.parametrize("batch", [512, 32])
def test_scores_are_the_log_probabilities_of_transformers(qwen2: Any, gguf_files: dict[str, Path], batch: int) -> None:
    import torch

    answer = "A blue square appeared for two steps."
    with torch.no_grad():
        asked, said = (qwen2.tokenizer(text).input_ids for text in (QUESTION, answer))
        logits = qwen2.model(torch.tensor([asked + said]), use_cache=False).logits[0, len(asked) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(said)[:, None])[:, 0].numpy()
    with open_sequence(gguf_files["plain"], context=512, batch=batch, threads=1, cache="f32") as sequence:
        sequence.append("<|vision_start|>")
        before = sequence.mark()
        sequence.clear()
        assert np.abs(sequence.score(answer, QUESTION) - expected).max() <= 1e-3
        sequence.append(QUESTION)
        assert np.abs(sequence.score(answer) - expected).max() <= 1e-3
        assert sequence.mark().cells == len(asked) and before.cells == 1


def test_sequences_share_a_model_and_nothing_else(gguf_files: dict[str, Path]) -> None:
    def ask_of(sequence: LlamaSequence, seed: int) -> np.ndarray:
        sequence.append(BEFORE, Rows.of(clip(LONG, 0.25, seed)))
        return ask(sequence, QUESTION)[0]

    alone = []
    for seed in (1, 2):
        with open_sequence(gguf_files["f32"], context=512, threads=1) as sequence:
            alone.append(ask_of(sequence, seed))
    with LlamaCpp(gguf_files["f32"], context=512, sequences=2, threads=1) as model:
        one, two = model.sequence(), model.sequence()
        found = [ask_of(one, 1), ask_of(two, 2)]
        with pytest.raises(ScoreEdgeError, match="every sequence"):
            model.sequence()
        again = two.logits()
        one.close()
        assert np.array_equal(two.logits(), again)
        third = model.sequence()
        assert np.abs(ask_of(third, 2) - alone[1]).max() <= 1e-3
    for expected, got in zip(alone, found, strict=True):
        assert np.abs(expected - got).max() <= 1e-3


def test_a_failed_step_longer_than_a_batch_is_rolled_back(
    gguf_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = clip((12, 8, 8), 1.0)
    first, later = (kept.positions[:, 0] == t for t in (0, 1))
    with open_sequence(gguf_files["f32"], context=512, batch=32, threads=1) as sequence:
        sequence.append(BEFORE, Rows(kept.embeddings[first], kept.positions[first], 8))
        before = ask(sequence, QUESTION, tokens=1)[0]
    calls = []

    def failing(*arguments: Any) -> int:
        calls.append(1)
        return 2 if len(calls) == 4 else decode(*arguments)

    decode = llama_sequence.decode
    with open_sequence(gguf_files["f32"], context=512, batch=32, threads=1) as sequence:
        sequence.append(BEFORE, Rows(kept.embeddings[first], kept.positions[first], 8))
        with monkeypatch.context() as patch:
            calls.clear()
            patch.setattr(llama_sequence, "decode", failing)
            calls += [1, 1]  # the second call of the two fails
            with pytest.raises(ScoreEdgeError, match="code 2"):
                sequence.append(Rows(kept.embeddings[later], kept.positions[later], 8, continues=True))
        assert np.array_equal(ask(sequence, QUESTION, tokens=1)[0], before)


def test_threads_follow_the_load_unless_their_number_is_given(
    gguf_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = llama_library.library()
    free = iter([3, 1, 1, 2])
    monkeypatch.setattr(FreeThreads, "count", lambda self: next(free))
    used = []
    with LlamaCpp(gguf_files["f32"], context=256) as model:
        sequence = model.sequence()
        for _ in range(4):
            sequence.append("x")
            used.append(llama.llama_n_threads_batch(model.handle))
    assert used == [3, 1, 1, 2]
    with LlamaCpp(gguf_files["f32"], context=256, threads=1) as model:
        model.sequence().append("x")
        assert llama.llama_n_threads_batch(model.handle) == 1


def test_a_llama_cpp_that_lies_elsewhere(tmp_path: Path) -> None:
    """As LLAMA_CPP_LIB_PATH names it, where the package was installed without one of its own."""
    import llama_cpp

    package = Path(llama_cpp.__file__).parent
    shutil.copytree(package, tmp_path / "llama_cpp", ignore=shutil.ignore_patterns("lib", "__pycache__"))
    program = (
        "import llama_cpp, numpy; from score_edge.bundle.folder import REFERENCE, Bundle\n"
        "from score_edge.runtime.language.llama_cpp import LlamaCpp\n"
        "with LlamaCpp(Bundle.open(REFERENCE).gguf_path, context=64) as model:\n"
        "    rows = model.token_rows(numpy.array([1, 2], numpy.int32), 192)\n"
        "    print(llama_cpp.__file__, rows.shape, bool(rows.any()))"
    )
    places = {"PYTHONPATH": str(tmp_path), "LLAMA_CPP_LIB_PATH": str(package / "lib")}
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **places}, capture_output=True, text=True)
    assert done.stdout == f"{tmp_path}/llama_cpp/__init__.py (2, 192) True\n", done.stderr


def test_a_cache_that_does_not_fit_is_refused_before_linux_kills(
    gguf_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LlamaCpp(gguf_files["plain"], context=256, threads=1) as small:
        cell_bytes = small.capabilities.cell_bytes
    assert cell_bytes
    monkeypatch.setattr(llama_library, "free_memory", lambda: 2**30)
    monkeypatch.setattr(llama_cpp, "open_context", lambda *_, **__: pytest.fail("memory would have been taken"))
    fitting = 2**30 // cell_bytes // 2
    with pytest.raises(pytest.fail.Exception):
        LlamaCpp(gguf_files["plain"], context=fitting, sequences=2)
    with pytest.raises(ScoreEdgeError, match=r"takes 1\.0 GiB, and 1\.0 GiB of memory are free") as caught:
        LlamaCpp(gguf_files["plain"], context=fitting + 1, sequences=2)
    assert "fewer steps" in caught.value.hint
    monkeypatch.setattr(llama_library, "free_memory", lambda: None)
    with pytest.raises(ScoreEdgeError, match=r"more than llama\.cpp can count"):
        LlamaCpp(gguf_files["plain"], context=2**32 + 256)  # the remainder would have been taken


def test_the_load_of_others_is_known_when_the_first_call_comes(
    gguf_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look cannot tell a load: were it taken after opening, the first prefill would use every CPU."""
    order: list[str] = []
    really_open = llama_cpp.open_model
    monkeypatch.setattr(llama_cpp, "FreeThreads", lambda most: order.append("look") or FreeThreads(most))
    monkeypatch.setattr(llama_cpp, "open_model", lambda *given: order.append("open") or really_open(*given))
    with LlamaCpp(gguf_files["plain"], context=256):
        assert order == ["look", "open"]
