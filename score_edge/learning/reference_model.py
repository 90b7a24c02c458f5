"""The reference model: real Qwen2-VL classes in a small configuration."""

from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from score_edge.export.qwen2_vl import StepEncoder
from score_edge.reference import world
from score_edge.reference.tokenizer import build_tokenizer
from score_edge.runtime.preprocess import Preprocessing

PATCH, MERGE = 8, 2
GRID = world.SIZE // (PATCH * MERGE)  # visual tokens per side
CONTEXT = 32768
HALF = (0.5, 0.5, 0.5)
PREPROCESSING = Preprocessing(world.SIZE, world.SIZE, PATCH, MERGE, world.FRAMES_PER_STEP, mean=HALF, std=HALF)

# M-RoPE gives time the highest frequencies and columns the lowest. At the usual 10,000 and heads of 32, neighbouring
# columns lie 0.003 rad apart, which no attention head can tell; at 5 every pair turns so fast that a question no longer
# finds a token by its content at any distance. 1000 leaves 0.18 to 0.05 rad to the rows, 0.03 and less to the columns.
ROPE_THETA = 1000.0


def build_model() -> Qwen2VLForConditionalGeneration:
    """A freshly initialised reference model, about 2 M parameters."""
    tokenizer = build_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    end, pad = token("<|im_end|>"), token("<|endoftext|>")
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": CONTEXT,
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA, "mrope_section": [4, 4, 8]},
            "bos_token_id": None,
            "eos_token_id": end,
            "pad_token_id": pad,
        },
        vision_config={
            "depth": 3,
            "embed_dim": 96,
            "hidden_size": 192,
            "num_heads": 3,
            "mlp_ratio": 3,
            "hidden_act": "gelu",
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": world.FRAMES_PER_STEP,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    model = Qwen2VLForConditionalGeneration(config)
    model.model.language_model.embed_tokens.weight.data.normal_(std=0.5)  # the scale of the visual tokens
    # A third of the patch filters start as differences between the two frames of a step. From filters that all start at
    # random the tower learns where things are and never how they move.
    filters = model.model.visual.patch_embed.proj.weight.data
    filters[: len(filters) // 3, :, 1] = -filters[: len(filters) // 3, :, 0]
    return model


def step_encoder(model: Qwen2VLForConditionalGeneration) -> StepEncoder:
    """The model's own tower for one step of the world."""
    return StepEncoder(model.model.visual, GRID * MERGE, GRID * MERGE)
