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
        asked = list(zip(prompt.questions, prompt.answers, strict=True))
        groups = [[pair] for pair in asked] if self._one_by_one else [asked]
        return torch.cat([self._group(prompt.clip, group) for group in groups])

    def _group(self, clip: Sequence[Int32 | Rows], asked: Sequence[tuple[Int32, Int32]]) -> torch.Tensor:
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
            inputs_embeds=self._embeds(parts),
            position_ids=self._positions(clip, lengths),
            attention_mask=self._mask(start, lengths),
            use_cache=False,
            **self._beside(parts),
        ).last_hidden_state
        found = hidden[0, torch.from_numpy(np.concatenate(at)).to(hidden.device)]
        logits: torch.Tensor = self._head(found).float()
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    def _embeds(self, parts: Sequence[Int32 | Rows]) -> torch.Tensor:
        """(1, L, D); of a visual token with deeper levels behind it the first D floats."""
        width = self.config.hidden_size
        rows = [
            torch.from_numpy(part.embeddings[:, :width]).to(self.device)
            if isinstance(part, Rows)
            else self._embed(torch.from_numpy(part).long().to(self.device))
            for part in parts
        ]
        return torch.cat([row.to(self._weight.dtype) for row in rows])[None]

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

    def _beside(self, parts: Sequence[Int32 | Rows]) -> dict[str, Any]:
        """What some decoders take beside embeddings: Qwen3-VL deeper levels, Gemma 4 ids."""
        visual = [part for part in parts if isinstance(part, Rows)]
        width, given = self.config.hidden_size, dict[str, Any]()
        if visual and visual[0].embeddings.shape[1] > width:
            deep = torch.from_numpy(np.concatenate([rows.embeddings[:, width:] for rows in visual])).to(self.device)
            seen = np.concatenate([np.full(len(part), isinstance(part, Rows)) for part in parts])
            given["visual_pos_masks"] = torch.from_numpy(seen)[None].to(self.device)
            given["deepstack_visual_embeds"] = list(deep.to(self._weight.dtype).split(width, dim=1))
        if hasattr(self.decoder, "get_per_layer_inputs"):
            ids = [np.full(len(part), self._pad) if isinstance(part, Rows) else part for part in parts]
            known = torch.from_numpy(np.concatenate(ids)).long()[None].to(self.device)
            given["per_layer_inputs"] = self.decoder.get_per_layer_inputs(known)
        return given
