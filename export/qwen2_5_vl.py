"""Qwen2.5-VL: Qwen2-VL with windows of attention in most layers, and time positions that count seconds."""

from typing import Any

import torch

from score_edge.export.qwen2_vl import Qwen2VL, StepEncoder


class WindowEncoder(StepEncoder):
    """The encoder of a Qwen2.5-VL checkpoint with the grid of one step baked in.

    transformers sorts patches into windows and attends to each window alone. Nothing in a layer but attention looks at
    the order, so the patches stay where they are and a mask keeps the windows apart.
    """

    windows: torch.Tensor

    def __init__(self, visual: Any, height: int, width: int, frames: int = 2) -> None:
        from transformers.vision_utils import get_vision_window_index

        super().__init__(visual, height, width, frames)
        merge = visual.spatial_merge_size
        tokens, ends = get_vision_window_index(
            torch.tensor([[1, height, width]]), merge, visual.window_size, visual.patch_size
        )
        # tokens: in the order of their windows; ends: where each window ends, in patches.
        window = torch.empty_like(tokens)
        window[tokens] = torch.searchsorted(ends, torch.arange(len(tokens)) * merge**2, right=True)
        patch = window.repeat_interleave(merge**2)
        self.register_buffer("windows", patch[:, None] == patch, persistent=False)

    def mask(self, layer: int) -> torch.Tensor | None:
        """Windows, but for the few layers that see everything."""
        return None if layer in self.visual.fullatt_block_indexes else self.windows


class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL."""

    name = "qwen2_5_vl"
    model_class = "Qwen2_5_VLForConditionalGeneration"
    step_encoder = WindowEncoder

    def time_scale(self, config: Any) -> float | None:
        """Its `tokens_per_second`."""
        return float(config.vision_config.tokens_per_second)


FAMILY = Qwen25VL()
