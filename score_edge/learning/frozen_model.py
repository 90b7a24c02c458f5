"""The frozen half of policy learning: frames in, visual tokens out; kept tokens and answers in, cross-entropies out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from score_edge.bundle.folder import Bundle, check_shapes
from score_edge.core import Float32, Uint8
from score_edge.errors import ScoreEdgeError
from score_edge.learning.gguf_reading import read_qwen2_vl, read_tokenizer
from score_edge.learning.packing import Clip, Packed, Question, pack
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.preprocess import Preprocessing

ROWS = 16384  # positions per pass of the decoder, padding included: bounds memory and, sorted by length, padding


class Decoder(Protocol):
    """A family's language model in torch: all that policy learning asks of it."""

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(...) ids -> (..., D) rows."""
        ...

    def hidden(self, rows: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L, D) rows, (3, B, L) positions, (B, 1, L, L) bool mask -> (B, L, D)."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., V)."""
        ...


class Qwen2Vl:
    """`Qwen2VLForConditionalGeneration` behind the interface."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(...) ids -> (..., D) rows."""
        rows: torch.Tensor = self._model.get_input_embeddings()(ids)
        return rows

    def hidden(self, rows: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L, D) hidden states behind the last layer."""
        hidden: torch.Tensor = self._model.model.language_model(
            inputs_embeds=rows, position_ids=positions, attention_mask={"full_attention": mask}, use_cache=False
        ).last_hidden_state
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., V)."""
        logits: torch.Tensor = self._model.lm_head(hidden)
        return logits


class FrozenModel:
    """A vision-language model whose weights stay as they are.

    Args:
        bundle: gives preprocessing, encoder, prompt and positions, all exactly as they are at run time.
        decoder: the language model in torch.
        tokenizer: a transformers tokenizer.
        source: what the decoder's weights are, for `fingerprint`.
        device: where the decoder is.

    Attributes:
        fingerprint: the same for the same encoder, decoder and prompt.
    """

    def __init__(self, bundle: Bundle, decoder: Decoder, tokenizer: Any, source: str, device: torch.device) -> None:
        vision = bundle.manifest.vision
        self.bundle, self.device = bundle, device
        self.fingerprint = f"{vision.graph.sha256} {source} {bundle.manifest.prompt}"
        self.width, self.grid = vision.dim, vision.grid
        self._decoder, self._tokenizer = decoder, tokenizer
        self._compact = bundle.manifest.language.positions == "plain"
        self._encoder = OnnxGraph(bundle.encoder_path)
        check_shapes(bundle.manifest, "encoder", self._encoder.inputs, self._encoder.outputs)
        self._preprocessing = Preprocessing.of(vision)
        self._before = self.ids(bundle.manifest.prompt.before)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text; special tokens are parsed."""
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def question(self, text: str, answer: str | list[int]) -> Question:
        """Tokenise a question and its answer (text, or ids as `answer` gives them)."""
        ids = self.ids(answer) if isinstance(answer, str) else answer
        if not ids:
            raise ScoreEdgeError(f"the answer to {text!r} is empty", "give every question an answer, or none at all")
        return Question(self.ids(self.bundle.manifest.prompt.ask(text)), ids)

    def encode(self, images: Sequence[Uint8]) -> Float32:
        """(T, N, D) float32 visual tokens of RGB images, the runtime's own."""
        per_step = self._preprocessing.frames_per_step
        groups = [images[i : i + per_step] for i in range(0, len(images), per_step)]
        inputs = (self._preprocessing.prepare(group) for group in groups)
        return np.stack([self._encoder.run(**step)["tokens"] for step in inputs])

    def losses(self, clips: Sequence[Clip], keeps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """CE of every answer, teacher-forced, given the kept tokens at their places in the unpruned clip.

        Args:
            clips: one per mask.
            keeps: (T, N) bool each, at least one token kept.

        Returns:
            Per mask (Q,) float32, nats per answer token, on the CPU.
        """
        lengths = [
            int(keep.sum()) + sum(len(question.prompt) + len(question.answer) for question in clip.questions)
            for clip, keep in zip(clips, keeps, strict=True)
        ]
        groups: list[list[int]] = [[]]
        for i in sorted(range(len(keeps)), key=lengths.__getitem__):
            if groups[-1] and lengths[i] * (len(groups[-1]) + 1) > ROWS:
                groups.append([])
            groups[-1].append(i)
        found: dict[int, torch.Tensor] = {}
        for group in filter(None, groups):
            losses = self._losses([clips[i] for i in group], [keeps[i] for i in group])
            found.update(zip(group, losses, strict=True))
        return [found[i] for i in range(len(keeps))]

    @torch.inference_mode()
    def _losses(self, clips: list[Clip], keeps: list[torch.Tensor]) -> list[torch.Tensor]:
        packed = pack(clips, keeps, len(self._before), self.grid, compact=self._compact)
        logits = self._predict(packed)
        loss = functional.cross_entropy(logits, packed.target.to(self.device), reduction="none").cpu()
        most = max(len(clip.questions) for clip in clips)
        slot = packed.row * most + packed.question
        total = torch.zeros(len(clips) * most).index_add_(0, slot, loss)
        tokens = torch.zeros(len(clips) * most).index_add_(0, slot, torch.ones_like(loss))
        mean = (total / tokens.clamp(min=1)).view(len(clips), most)
        return [mean[b, : len(clip.questions)] for b, clip in enumerate(clips)]

    @torch.inference_mode()
    def answer(self, tokens: torch.Tensor, questions: Sequence[str], most: int) -> list[list[int]]:
        """Greedy answers, ids without the end of turn, to questions about the unpruned clip: self-distillation.

        Args:
            tokens: (T, N, D) float16.
            questions: plain text.
            most: longest answer in tokens.
        """
        end = self._end()
        keep = torch.ones(tokens.shape[:2], dtype=torch.bool)
        answers = []
        for text in questions:
            prompt, said = self.ids(self.bundle.manifest.prompt.ask(text)), list[int]()
            while len(said) < most:
                # The last id is only a target, so any will do.
                clip = Clip(tokens, [Question([*prompt, *said], [0])], torch.zeros(1))
                packed = pack([clip], [keep], len(self._before), self.grid, compact=self._compact)
                best = int(self._predict(packed)[0].argmax())
                if best in end:
                    break
                said.append(best)
            answers.append(said)
        return answers

    def _predict(self, packed: Packed) -> torch.Tensor:
        """(M, V) float32 logits at every place that predicts."""
        decoder, device = self._decoder, self.device
        head = decoder.embed(torch.tensor(self._before, dtype=torch.long, device=device))
        text = decoder.embed(packed.text.to(device))
        visual = packed.visual.to(device, text.dtype)
        rows = torch.cat([head.expand(len(text), -1, -1), visual, text], dim=1)
        hidden = decoder.hidden(rows, packed.positions.to(device), packed.mask.to(device))
        return decoder.logits(hidden[packed.row, packed.at]).float()

    def _end(self) -> set[int]:
        known = self._tokenizer.get_vocab()
        return {i for i in (known.get("<|im_end|>"), self._tokenizer.eos_token_id) if i is not None}


def _qwen2_vl(bundle: Bundle, checkpoint: Path | None, device: torch.device) -> tuple[Decoder, Any]:
    if checkpoint is None:
        model, tokenizer = read_qwen2_vl(bundle.gguf_path), read_tokenizer(bundle.gguf_path)
    else:
        from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

        if not checkpoint.is_dir():
            raise ScoreEdgeError(f"there is no folder {checkpoint}", "download the checkpoint and name its folder")
        try:
            model = Qwen2VLForConditionalGeneration.from_pretrained(checkpoint, dtype="auto")
            tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        except (OSError, ValueError) as error:
            raise ScoreEdgeError(
                f"{checkpoint} is not a Qwen2-VL checkpoint: {str(error).splitlines()[0]}",
                "name the folder that the bundle was exported from",
            ) from error
    width = model.config.text_config.hidden_size
    if width != bundle.manifest.vision.dim:
        raise ScoreEdgeError(
            f"the checkpoint takes visual tokens of {width}, the bundle's encoder makes {bundle.manifest.vision.dim}",
            "name the checkpoint that the bundle was exported from",
        )
    return Qwen2Vl(model.requires_grad_(False).eval().to(device)), tokenizer


FAMILIES: dict[str, Callable[[Bundle, Path | None, torch.device], tuple[Decoder, Any]]] = {"qwen2_vl": _qwen2_vl}


def load_frozen(bundle: Bundle, checkpoint: Path | None = None, device: torch.device | str = "cpu") -> FrozenModel:
    """Open a bundle's model for policy learning.

    Args:
        bundle: its family must be known here.
        checkpoint: folder with the original weights; None reads the bundle's GGUF (f16 or f32) back into torch.
        device: for the decoder.

    Raises:
        ScoreEdgeError: an unknown family, quantised weights, a checkpoint of another model.
    """
    family = bundle.manifest.family
    if family not in FAMILIES:
        raise ScoreEdgeError(
            f"policies for models of the family {family} cannot be learned yet", f"known: {', '.join(FAMILIES)}"
        )
    place = torch.device(device)
    gguf = bundle.manifest.language.gguf
    source = str(checkpoint.resolve()) if checkpoint else gguf.sha256 if gguf else str(bundle.gguf_path)
    return FrozenModel(bundle, *FAMILIES[family](bundle, checkpoint, place), source, place)
