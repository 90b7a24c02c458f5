"""The frozen half of policy learning: the bundle itself, run as it is deployed.

REINFORCE needs no gradient of the language model, only how likely it makes an answer. So frames go through the
runtime's own encoder, and kept tokens through its own prompt layout and language backend: any family, any quantisation,
also on the board.
"""

from collections.abc import Sequence

import numpy as np
import torch

from score_edge.bundle.external import model_parts
from score_edge.bundle.folder import Bundle
from score_edge.core import Float32, Frame, Int32, KeptTokens, Mask
from score_edge.errors import ScoreEdgeError
from score_edge.learning.prepared_clip import PreparedClip
from score_edge.learning.text_decoder import AskedPrompt
from score_edge.runtime.graphs.open_graph import Provider
from score_edge.runtime.language.backends import DEFAULT
from score_edge.runtime.language.base import Rows
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.pipeline import Pipeline
from score_edge.selection.base import Selector

_TEXT_CELLS = 512  # of a prompt beside its steps, of a question and an answer


class FrozenModel:
    """A bundle whose weights stay as they are.

    Args:
        bundle: validated.
        steps: most encoder steps of a clip.
        backend: what runs the language model, see `open_language_model`.
        provider: what runs the encoder, see `open_graph`.
        threads: CPU threads; None lets each backend decide.

    Attributes:
        fingerprint: the same for the same encoder, preprocessing, language model and prompt.
        grid, width: of the visual tokens.

    Raises:
        ScoreEdgeError: something cannot be opened, or the backend gives no likelihoods.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        steps: int = 64,
        backend: str = DEFAULT,
        provider: Provider = "auto",
        threads: int | None = None,
    ) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.width, self.grid = manifest.vision.dim, manifest.vision.grid
        weights = "".join(f" {ref.sha256}" for ref in manifest.extra if not ref.file.endswith(".json"))  # beside graphs
        self.fingerprint = f"{manifest.vision}{weights} {_language_of(bundle)} {backend} {manifest.prompt}"
        # A step's own text is some dozen tokens at most.
        cells = steps * (manifest.vision.token_grid.tokens + 32) + _TEXT_CELLS
        self._pipeline = Pipeline(
            bundle, context=cells, backend=backend, provider=provider, threads=threads, full_encoder=True
        )
        if not self._pipeline.model.capabilities.incremental:
            self.close()
            raise ScoreEdgeError(f"{backend} gives no likelihoods to learn from", "learn through llama.cpp")

    def __enter__(self) -> "FrozenModel":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self._pipeline.model.close()

    def encode(self, frames: Sequence[Frame]) -> tuple[Float32, list[float]]:
        """(T, N, D) float32 visual tokens of a clip, and the times of its steps."""
        clip = self._pipeline.encode(frames)
        return clip.tokens, clip.times

    def losses(self, clips: Sequence[PreparedClip], keeps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """CE of every answer, teacher-forced, given the kept tokens at their places in the unpruned clip.

        Args:
            clips: one per mask.
            keeps: (T, N) bool each, at least one token kept.

        Returns:
            Per mask (Q,) float32, nats per answer token.
        """
        sequence, layout = self._pipeline.sequence, self._pipeline.layout
        found = []
        for clip, keep in zip(clips, keeps, strict=True):
            tail = self._watch(clip.tokens, keep, clip.times)
            scores = [sequence.score(qa.answer, layout.question(tail, qa.question)) for qa in clip.asked]
            found.append(torch.tensor([-float(score.mean()) for score in scores]))
        return found

    def answer(self, tokens: torch.Tensor, times: list[float], questions: Sequence[str], most: int) -> list[str]:
        """Greedy answers to questions about the unpruned clip, for self-distillation.

        Args:
            tokens: (T, N, D) float16.
            times: of the steps.
            questions: plain text.
            most: longest answer in tokens.
        """
        sequence, layout = self._pipeline.sequence, self._pipeline.layout
        tail = self._watch(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), times)
        video, answers = sequence.mark(), []
        for question in questions:
            sequence.append(layout.question(tail, question))
            answers.append("".join(sequence.generate(most)))
            sequence.rollback(video)
        return answers

    def selector(self, name: str | None, question: str | None = None) -> Selector:
        """A selector, for a question if it needs one; None takes the bundle's own.

        Raises:
            ScoreEdgeError: there is no such selector, or it lacks something.
        """
        return self._pipeline.selector(name, question=question)

    def select(self, tokens: torch.Tensor, selector: Selector, retention: float) -> Mask:
        """(T, N) bool: what a selector keeps of a clip (T, N, D)."""
        return self._pipeline.select(tokens.numpy().astype(np.float32), selector, retention)

    def words(self, questions: Sequence[str]) -> torch.Tensor:
        """(Q, D) float32, what a policy that knows the question is told of each.

        Raises:
            ScoreEdgeError: the token table of this language model cannot be read, or a question has no token.
        """
        return torch.from_numpy(np.concatenate([self._pipeline.words(question) for question in questions]))

    def prompt(self, clip: PreparedClip, keep: Mask) -> AskedPrompt:
        """What goes into the language model: the kept tokens of a clip, (T, N) bool, and all that is asked about it.

        Raises:
            ScoreEdgeError: the backend is not llama.cpp, whose tokenizer this is.
        """
        layout, model = self._pipeline.layout, self._pipeline.model
        if not isinstance(model, LlamaCpp):
            raise ScoreEdgeError("TensorRT-LLM does not tell the tokens of a text", "learn through llama.cpp")
        rows: Float32 = clip.tokens.numpy().astype(np.float32)
        laid_out = layout.clip(KeptTokens.gather(rows, keep, layout.grid), clip.times)
        parts: list[Int32 | Rows] = [
            segment if isinstance(segment, Rows) else model.tokenize(segment, at_start=i == 0)
            for i, segment in enumerate(laid_out.segments)
        ]
        at_start = not parts
        questions = [
            model.tokenize(layout.question(laid_out.tail, qa.question), at_start=at_start) for qa in clip.asked
        ]
        return AskedPrompt(parts, questions, [model.plain_tokens(qa.answer) for qa in clip.asked])

    def first_logits(self, clip: PreparedClip, keep: Mask) -> list[Float32]:
        """(V,) float32 for each question about a clip: of the first token of its answer."""
        sequence, layout = self._pipeline.sequence, self._pipeline.layout
        tail = self._watch(clip.tokens, torch.from_numpy(keep), clip.times)
        video, found = sequence.mark(), []
        for qa in clip.asked:
            sequence.append(layout.question(tail, qa.question))
            found.append(sequence.logits())
            sequence.rollback(video)
        return found

    def _watch(self, tokens: torch.Tensor, keep: torch.Tensor, times: list[float]) -> str:
        """Prefill a clip; returns the text that leads a question behind it."""
        sequence, layout = self._pipeline.sequence, self._pipeline.layout
        rows: Float32 = tokens.numpy().astype(np.float32)
        prompt = layout.clip(KeptTokens.gather(rows, keep.numpy(), layout.grid), times)
        sequence.clear()
        sequence.append(*prompt.segments)
        return prompt.tail


def _language_of(bundle: Bundle) -> str:
    """The checksums of the language model and its adapter; where an older bundle has none, its place and size."""
    language = bundle.manifest.language
    refs = (language.gguf,) if language.gguf else language.parts
    adapter = (language.adapter.sha256,) if language.adapter else ()
    if refs:
        return " ".join([*(ref.sha256 for ref in refs), *adapter])
    return " ".join([*(f"{part} {part.stat().st_size}" for part in model_parts(bundle.gguf_path)), *adapter])
