"""Qwen3.5: Qwen3-VL's encoder without DeepStack, before a decoder that mixes recurrent layers with attention.

A recurrent state cannot be turned back, only copied: `runtime/language/saved_state.py`.
"""

from score_edge.export.qwen3_vl import Qwen3VL


class Qwen35(Qwen3VL):
    """Qwen3.5, dense."""

    name = "qwen3_5"
    model_class = "Qwen3_5ForConditionalGeneration"


FAMILY = Qwen35()
