"""Qwen3-VL: Qwen2-VL with learned positions, time written out as text, and DeepStack levels beside every token."""

from typing import Any

import torch

from score_edge.bundle.manifest import TOKENS, Prompt
from score_edge.errors import ScoreEdgeError
from score_edge.export.checkpoint import Checkpoint
from score_edge.export.family import split_chat
from score_edge.export.qwen2_vl import Qwen2VL, StepEncoder


class DeepStackEncoder(StepEncoder):
    """The encoder of a Qwen3-VL checkpoint with the grid of one step baked in.

    A token's row is [token; level 1; level 2; ...], as llama.cpp takes it: whatever prunes the token prunes its levels.
    """

    places: torch.Tensor

    def __init__(self, visual: Any, height: int, width: int, frames: int = 2) -> None:
        from transformers.vision_utils import get_vision_interpolation_indices_and_weights

        super().__init__(visual, height, width, frames)
        indices, weights = get_vision_interpolation_indices_and_weights(
            torch.tensor([[1, height, width]]),
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=visual.spatial_merge_size,
        )
        with torch.no_grad():
            places = (visual.pos_embed(indices) * weights[:, :, None]).sum(1)
        self.register_buffer("places", places, persistent=False)

    def embed(self, patches: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
        """With the learned positions of these patches."""
        return super().embed(patches, rows) + self.places[rows]

    def merge(self, hidden: torch.Tensor) -> torch.Tensor:
        """Its merger reshapes by itself."""
        tokens: torch.Tensor = self.visual.merger(hidden)
        return tokens

    def levels(self, layer: int, hidden: torch.Tensor) -> list[torch.Tensor]:
        """The DeepStack level that is taken after this layer, if one is."""
        chosen = list(getattr(self.visual, "deepstack_visual_indexes", ()))  # Qwen3.5 has none
        return [self.visual.deepstack_merger_list[chosen.index(layer)](hidden)] if layer in chosen else []


class Qwen3VL(Qwen2VL):
    """Qwen3-VL."""

    name = "qwen3_vl"
    model_class = "Qwen3VLForConditionalGeneration"
    step_encoder = DeepStackEncoder

    def dim(self, config: Any) -> int:
        """D for the token and for each of its DeepStack levels."""
        levels = list(getattr(config.vision_config, "deepstack_visual_indexes", ()))
        if levels != sorted(levels):
            raise ScoreEdgeError(f"DeepStack levels out of order: {levels}", "this config.json is damaged")
        layers = config.get_text_config().num_hidden_layers
        if len(levels) >= layers:
            raise ScoreEdgeError(
                f"{len(levels)} DeepStack levels for a decoder of {layers} layers: llama.cpp wants fewer levels",
                "this config.json is damaged: published models have 3 levels and 28 layers or more",
            )
        return super().dim(config) * (1 + len(levels))

    def prompt(self, checkpoint: Checkpoint, tokenizer: Any) -> Prompt:
        """Every step between its own wrappers, behind its time, where the template has one placeholder."""
        ids = checkpoint.config
        start, video, end = tokenizer.convert_ids_to_tokens(
            [ids.vision_start_token_id, ids.video_token_id, ids.vision_end_token_id]
        )
        chat = split_chat(checkpoint, tokenizer, f"{start}{video}{end}")
        # Qwen3VLProcessor writes the time in code; there is nothing to read it from.
        return Prompt(chat.before, chat.after, step=f"<{{seconds}} seconds>{start}{TOKENS}{end}")


FAMILY = Qwen3VL()
