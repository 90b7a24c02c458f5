"""SmolVLM and SmolVLM2: SigLIP and pixel shuffle, one square frame per step, a line of text with its time before it."""

from typing import Any

import torch
from torch import nn

from score_edge.bundle.manifest import TOKENS, Incremental, Prompt, Vision
from score_edge.export.checkpoint import Checkpoint
from score_edge.export.family import ENCODER, Family, one_frame, split_chat, square
from score_edge.export.incremental import (
    INCREMENTAL,
    CachedAttention,
    CellEncoder,
    as_product,
    attention_of,
    cell_table,
)


class FrameEncoder(CellEncoder):
    """SigLIP and the connector at one resolution.

    Args:
        model: the inner model (`SmolVLMModel`).
        vision: sizes.
    """

    places: torch.Tensor
    table: torch.Tensor

    def __init__(self, model: Any, vision: Vision) -> None:
        super().__init__()
        side = vision.height
        self.vision = model.vision_model
        self.connector = model.connector
        # Where each patch of a frame lies in the learned table depends on the resolution alone: transformers is asked
        # once, with a frame whose own embedding is taken off again.
        embeddings = self.vision.embeddings
        patches = side // self.vision.patch_size
        with torch.no_grad():
            blank = torch.zeros(1, 3, side, side)
            whole = embeddings(blank, torch.ones(1, patches, patches, dtype=torch.bool))
            places = whole - embeddings.patch_embedding(blank).flatten(2).transpose(1, 2)
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("table", cell_table(vision), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, side, side) pixels to (N, D) tokens, raster order."""
        hidden = self.vision.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2) + self.places
        for layer in self.vision.encoder.layers:
            hidden = layer(hidden, None)
        tokens: torch.Tensor = self.connector(self.vision.post_layernorm(hidden))[0]
        return tokens

    def encode_cells(self, patches: torch.Tensor, cells: torch.Tensor, attention: CachedAttention) -> torch.Tensor:
        """Pixel shuffle puts the patches of a cell side by side, in raster order."""
        attention.rows = self.table[cells].flatten()
        hidden = as_product(self.vision.embeddings.patch_embedding, patches.flatten(0, 1))
        hidden = hidden[None] + self.places[:, attention.rows]
        with attention_of(self.vision.config, attention):
            for layer in self.vision.encoder.layers:
                hidden = layer(hidden, None)
        shuffled = self.vision.post_layernorm(hidden)[0].unflatten(0, (-1, patches.shape[1])).flatten(1)
        tokens: torch.Tensor = self.connector.modality_projection(shuffled)
        return tokens

    def cache(self) -> Incremental:
        """A row per patch."""
        layers = len(self.vision.encoder.layers)
        return Incremental(INCREMENTAL, layers, self.places.shape[1], self.places.shape[2])


class SmolVLM(Family):
    """SmolVLM2."""

    name = "smolvlm"
    model_class = "SmolVLMForConditionalGeneration"

    def vision(self, checkpoint: Checkpoint, size: tuple[int, int] | None, frames_per_step: int | None) -> Vision:
        """Square frames of any multiple of patch * shuffle; its video mode's size where none is named."""
        one_frame(checkpoint, frames_per_step)
        config = checkpoint.config
        patch, shuffle = config.vision_config.patch_size, config.scale_factor
        whole = int(checkpoint.setting("max_image_size")["longest_edge"])
        side = square(checkpoint, size or (whole, whole), patch, shuffle)
        sampling = checkpoint.processing.get("video_sampling") or {}
        longest = (sampling.get("video_size") or checkpoint.setting("size"))["longest_edge"]
        return Vision(
            graph=ENCODER,
            height=side,
            width=side,
            patch=patch,
            merge=shuffle,
            frames_per_step=1,
            fps=float(sampling.get("fps") or checkpoint.setting("fps", 1.0)),
            dim=config.text_config.hidden_size,
            grid=(side // patch // shuffle,) * 2,
            layout="pixels",
            longest_edge=int(longest),
            **checkpoint.normalisation,
        )

    def encoder(self, model: Any, vision: Vision) -> nn.Module:
        """The encoder at one resolution."""
        return FrameEncoder(model.model, vision)

    def prompt(self, checkpoint: Checkpoint, tokenizer: Any) -> Prompt:
        """What transformers' SmolVLMProcessor makes of a video; its words are taken from there."""
        from transformers.models.smolvlm import processing_smolvlm as words

        chat = split_chat(checkpoint, tokenizer, "<video>", words.DEFAULT_CHAT_TEMPLATE)
        intro = words.DEFAULT_VIDEO_INTRO.format(frame_count="{frames}", video_duration="{duration}")
        fake = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        overview = getattr(tokenizer, "global_image_token", "<global-img>")
        frame = words.FRAME_TIMESTAMP_MESSAGE.format(timestamp="{clock}")
        return Prompt(
            chat.before + intro,
            words.DEFAULT_MEDIA_OUTTRO + chat.after,
            step=f"{frame}{fake}{overview}{TOKENS}{fake}",
        )


FAMILY = SmolVLM()
