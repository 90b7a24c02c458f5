"""The language model of a bundle in torch: what llama.cpp computes with the same prompt, with gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from score_edge.core import Int32
from score_edge.runtime.language.base import Rows
from score_edge.runtime.language.mrope import mrope_positions, plain_positions


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """A clip and what is asked about it, as it goes into the language model.

    Attributes:
        clip: token ids (n,) int32 and visual tokens, in order.
        questions: ids of each, up to where the answer begins.
        answers: ids of each answer.
    """

    clip: list[Int32 | Rows]
    questions: list[Int32]
    answers: list[Int32]


class TextDecoder:
    """A transformers decoder with its head, frozen.

    Args:
        model: a whole transformers model; of it the text side is held.
        keeps_positions: M-RoPE: visual tokens keep their (t, h, w).
        fingerprint: the same for the same weights; a few letters.
        save_memory: compute each block again for its gradient, and hold one block's activations at a time.

    Attributes:
        decoder: the frozen module, whose blocks an `Adapter` goes beside.
        config: of the text side.
        name: of the decoder in the whole model.
    """

    def __init__(self, model: Any, *, keeps_positions: bool, fingerprint: str = "", save_memory: bool = False) -> None:
        model.requires_grad_(False).eval()
        self.decoder: Any = model.get_decoder()
        self.name = next(name for name, module in model.named_modules() if module is self.decoder)
        self._embed: Any = model.get_input_embeddings()
        self._head: Any = model.get_output_embeddings()
        self.config = model.config.get_text_config()
        if save_memory:  # transformers does so in training only; none of these decoders drops anything out
            name = "activation_checkpointing_enable"
            enable = getattr(model, name, model.gradient_checkpointing_enable)  # its name before transformers 5.2x
            enable({"use_reentrant": False})
            self.decoder.train()
        self._keeps_positions, self.fingerprint = keeps_positions, fingerprint
        # Stands for a visual token where a decoder looks ids up in a second table (Gemma 4).
        self._pad = self.config.pad_token_id or 0
        self._cap = getattr(self.config, "final_logit_softcapping", None)
        # Questions behind one clip are told apart by an attention mask, which convolutions, recurrent states and
        # windows do not know.
        kinds = {*(getattr(self.config, "layer_types", None) or ["full_attention"])}
        self._one_by_one = kinds != {"full_attention"}

    @property
    def _weight(self) -> torch.Tensor:
        found: torch.Tensor = next(self.decoder.parameters())
        return found

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._weight.device

    def to(self, device: str) -> None:
        """Move the weights."""
        for part in (self.decoder, self._embed, self._head):
            part.to(device)

    def logits(self, prompt: AskedPrompt) -> torch.Tensor:
        """What follows each question and every token of its answer.

        Returns:
            (M, V) float32, question by question: n + 1 rows for an answer of n tokens; the last is its end.
        """
        visual = self._visual(prompt.clip)
        return torch.cat([self._group(prompt.clip, visual, group) for group in self._groups(prompt)])

    def gradients(self, prompt: AskedPrompt) -> torch.Tensor:
        """How much each visual token matters to each answer, as the gradient of its log-probability tells.

        Returns:
            (Q, n) float32, the norm over the floats of each visual token.
        """
        visual, found = self._visual(prompt.clip).requires_grad_(), list[torch.Tensor]()
        for group in self._groups(prompt):
            said = self._group(prompt.clip, visual, group).log_softmax(-1)
            for _, answer in group:
                own, said = said[: len(answer)], said[len(answer) + 1 :]
                likely = own.gather(1, torch.from_numpy(answer).long()[:, None].to(own.device)).mean()
                (gradient,) = torch.autograd.grad(likely, visual, retain_graph=True)
                found.append(gradient.norm(dim=-1))
        return torch.stack(found)

    def _groups(self, prompt: AskedPrompt) -> list[list[tuple[Int32, Int32]]]:
        """Questions with their answers that go behind one clip together."""
        asked = list(zip(prompt.questions, prompt.answers, strict=True))
        return [[pair] for pair in asked] if self._one_by_one else [asked]

    def _visual(self, clip: Sequence[Int32 | Rows]) -> torch.Tensor:
        """(n, D) float32, every visual token of a clip, with its deeper levels."""
        rows = [part.embeddings for part in clip if isinstance(part, Rows)]
        return torch.from_numpy(np.concatenate(rows)).to(self.device)

    def _group(
        self, clip: Sequence[Int32 | Rows], visual: torch.Tensor, asked: Sequence[tuple[Int32, Int32]]
    ) -> torch.Tensor:
        """All questions behind one clip; each sees the clip and itself."""
        texts = [np.concatenate(pair) for pair in asked]
        parts = [*clip, *texts]
        lengths = [len(text) for text in texts]
        start = sum(len(part) for part in clip)
        starts = start + np.cumsum([0, *lengths[:-1]])
        at = [
            np.arange(first + len(q) - 1, first + len(q) + len(a)) for first, (q, a) in zip(starts, asked, strict=True)
        ]
        hidden = self.decoder(
            inputs_embeds=self._embeds(parts, visual),
            position_ids=self._positions(clip, lengths),
            attention_mask=self._mask(start, lengths),
            use_cache=False,
            **self._beside(parts, visual),
        ).last_hidden_state
        found = hidden[0, torch.from_numpy(np.concatenate(at)).to(hidden.device)]
        logits: torch.Tensor = self._head(found).float()
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    def _embeds(self, parts: Sequence[Int32 | Rows], visual: torch.Tensor) -> torch.Tensor:
        """(1, L, D); of a visual token with deeper levels behind it the first D floats."""
        first = visual[:, : self.config.hidden_size]
        rows = iter(first.split([len(part) for part in parts if isinstance(part, Rows)]))
        embeds = [
            next(rows) if isinstance(part, Rows) else self._embed(torch.from_numpy(part).long().to(self.device))
            for part in parts
        ]
        return torch.cat([row.to(self._weight.dtype) for row in embeds])[None]

    def _positions(self, clip: Sequence[Int32 | Rows], lengths: Sequence[int]) -> torch.Tensor:
        """(3, 1, L) where positions are kept, else (1, L): every question goes on behind the clip."""
        place = mrope_positions if self._keeps_positions else lambda parts: plain_positions(sum(map(len, parts)))
        before, following = place(clip)
        texts = [np.broadcast_to(following + np.arange(length), (3, length)) for length in lengths]
        found = torch.from_numpy(np.concatenate([before, *texts], axis=1)).to(self.device)
        return found[:, None] if self._keeps_positions else found[:1]

    def _mask(self, start: int, lengths: Sequence[int]) -> torch.Tensor | None:
        """(1, 1, L, L) bool; None is causal."""
        if len(lengths) == 1:
            return None
        whose = torch.tensor([0] * start + [i + 1 for i, length in enumerate(lengths) for _ in range(length)])
        whose = whose.to(self.device)
        seen = (whose == 0) | (whose == whose[:, None])
        return seen.tril()[None, None]

    def _beside(self, parts: Sequence[Int32 | Rows], visual: torch.Tensor) -> dict[str, Any]:
        """What some decoders take beside embeddings: Qwen3-VL deeper levels, Gemma 4 ids."""
        width, given = self.config.hidden_size, dict[str, Any]()
        if visual.shape[1] > width:
            seen = np.concatenate([np.full(len(part), isinstance(part, Rows)) for part in parts])
            given["visual_pos_masks"] = torch.from_numpy(seen)[None].to(self.device)
            given["deepstack_visual_embeds"] = list(visual[:, width:].to(self._weight.dtype).split(width, dim=1))
        if hasattr(self.decoder, "get_per_layer_inputs"):
            ids = [np.full(len(part), self._pad) if isinstance(part, Rows) else part for part in parts]
            known = torch.from_numpy(np.concatenate(ids)).long()[None].to(self.device)
            given["per_layer_inputs"] = self.decoder.get_per_layer_inputs(known)
        return given
