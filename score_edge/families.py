"""The models that `score-edge export` takes: one row each, whose claims `tests/export/test_families_table.py` asserts.

Data only: `export --list` shows it where torch is not installed.
"""

from dataclasses import dataclass

AGAIN = "re-prefill"  # old steps leave by prefilling again what stays


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """One kind of checkpoint.

    Attributes:
        case: its name in the tests.
        family: the checkpoint's model_type, and the file in `export/`.
        checkpoints: what people call them.
        decoder: llama.cpp's architecture.
        frame: (width, height) in pixels where none is named; of the smallest checkpoint.
        tokens: visual tokens of a step at that frame.
        live: whether `stream` works, and how old steps leave where they cannot just be dropped.
        learnable: whether `train policy` does.
        adaptable: whether `train adapter` does.
        incremental: whether only the cells that changed are encoded, and why not.
        verified: on which weights pixels, tokens, logits and a stream were compared with transformers.
    """

    case: str
    family: str
    checkpoints: str
    decoder: str
    frame: tuple[int, int]
    tokens: int
    live: str = "yes"
    learnable: str = "yes"
    adaptable: str = "yes"
    incremental: str = "yes"
    verified: str = "random"


ROWS = (
    FamilyRow("qwen2_vl", "qwen2_vl", "Qwen2-VL", "qwen2vl", (588, 336), 252),
    FamilyRow("qwen2_5_vl", "qwen2_5_vl", "Qwen2.5-VL", "qwen2vl", (588, 336), 252),
    FamilyRow("qwen3_vl", "qwen3_vl", "Qwen3-VL", "qwen3vl", (576, 320), 180),
    FamilyRow("cosmos_reason2", "qwen3_vl", "Cosmos-Reason2", "qwen3vl", (576, 320), 180),
    FamilyRow("qwen3_5", "qwen3_5", "Qwen3.5, dense", "qwen35", (576, 320), 180, live=AGAIN),
    FamilyRow("smolvlm", "smolvlm", "SmolVLM2", "llama", (512, 512), 64),
    FamilyRow("llava_onevision", "llava_onevision", "LLaVA-OneVision", "qwen2", (384, 384), 196),
    FamilyRow("internvl", "internvl", "InternVL3", "qwen2", (448, 448), 256),
    FamilyRow("internvl3_5", "internvl", "InternVL3.5, Qwen3", "qwen3", (448, 448), 256),
    FamilyRow("gemma4", "gemma4", "Gemma 4 E2B, E4B", "gemma4", (528, 288), 66),
    FamilyRow("lfm2_vl", "lfm2_vl", "LFM2-VL, LFM2.5-VL", "lfm2", (672, 384), 252, live=AGAIN),
    FamilyRow(
        "fast_vlm",
        "fast_vlm",
        "FastVLM",
        "qwen2",
        (1024, 1024),
        256,
        incremental="no: convolutions",
    ),
)
