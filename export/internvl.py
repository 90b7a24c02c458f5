"""InternVL3: InternViT and pixel shuffle, one square frame per step, numbered in the prompt."""

from typing import Any

import torch
from torch import nn

from score_edge.bundle.manifest import TOKENS, Incremental, Prompt, Vision
from score_edge.errors import ScoreEdgeError
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
    """InternViT, pixel shuffle and projector at one resolution.

    Args:
        model: the inner model (`InternVLModel`).
        vision: sizes.
    """

    places: torch.Tensor
    table: torch.Tensor
    order: torch.Tensor

    def __init__(self, model: Any, vision: Vision) -> None:
        super().__init__()
        side = vision.height
        self.model = model
        self.vision = model.vision_tower
        patches = side // self.vision.config.patch_size[0]
        embeddings = self.vision.embeddings
        with torch.no_grad():
            # Only the number of rows is looked at.
            rows = torch.zeros(1, 1 + patches**2, self.vision.config.hidden_size)
            places = embeddings.interpolate_pos_encoding(rows, side, side)
        self.register_buffer("places", places.detach().clone(), persistent=False)
        self.patches = patches
        self.register_buffer("table", cell_table(vision), persistent=False)
        # In which order a pixel shuffle puts the patches of a cell side by side.
        cell = torch.arange(vision.merge**2, dtype=torch.float32).view(1, vision.merge, vision.merge, 1)
        self.register_buffer("order", self._shuffle(cell).flatten().long(), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, side, side) pixels to (N, D) tokens, raster order."""
        embeddings = self.vision.embeddings
        hidden = torch.cat([embeddings.cls_token, embeddings.patch_embeddings(pixels)], dim=1) + self.places
        for layer in self.vision.encoder.layer:
            hidden = layer(hidden)
        hidden = self.vision.layernorm(hidden)[:, 1:]
        image = hidden.unflatten(1, (self.patches, self.patches))
        tokens: torch.Tensor = self.model.multi_modal_projector(self._shuffle(image).flatten(1, 2))[0]
        return tokens

    def encode_cells(self, patches: torch.Tensor, cells: torch.Tensor, attention: CachedAttention) -> torch.Tensor:
        """The class row sees every patch and is seen by all: it is encoded with whatever is."""
        embeddings = self.vision.embeddings
        attention.rows = torch.cat([torch.zeros(1, dtype=torch.int64), self.table[cells].flatten() + 1])
        hidden = as_product(embeddings.patch_embeddings.projection, patches.flatten(0, 1))
        hidden = torch.cat([embeddings.cls_token[0], hidden]) + self.places[0, attention.rows]
        hidden = hidden[None]
        with attention_of(self.vision.config, attention):
            for layer in self.vision.encoder.layer:
                hidden = layer(hidden)
        hidden = self.vision.layernorm(hidden)[0, 1:]
        shuffled = hidden.unflatten(0, (-1, patches.shape[1]))[:, self.order].flatten(1)
        tokens: torch.Tensor = self.model.multi_modal_projector(shuffled)
        return tokens

    def cache(self) -> Incremental:
        """A row per patch and one for the class row."""
        return Incremental(INCREMENTAL, len(self.vision.encoder.layer), self.places.shape[1], self.places.shape[2])

    def _shuffle(self, image: torch.Tensor) -> torch.Tensor:
        shuffled: torch.Tensor = self.model.pixel_shuffle(image, scale_factor=self.model.config.downsample_ratio)
        return shuffled


class InternVL(Family):
    """InternVL3 as transformers has it (checkpoints whose name ends in -hf)."""

    name = "internvl"
    model_class = "InternVLForConditionalGeneration"

    def vision(self, checkpoint: Checkpoint, size: tuple[int, int] | None, frames_per_step: int | None) -> Vision:
        """Square frames of any multiple of patch * shuffle; the encoder's own size where none is named."""
        one_frame(checkpoint, frames_per_step)
        config = checkpoint.config
        vision = config.vision_config
        if config.vision_feature_layer != -1 or config.vision_feature_select_strategy != "default":
            raise ScoreEdgeError(
                f"{checkpoint.name} reads another layer of its encoder than the last, or its first row"
            )
        patch, shuffle = vision.patch_size[0], round(1 / config.downsample_ratio)
        side = square(checkpoint, size or tuple(vision.image_size), patch, shuffle)
        return Vision(
            graph=ENCODER,
            height=side,
            width=side,
            patch=patch,
            merge=shuffle,
            frames_per_step=1,
            fps=float(checkpoint.setting("fps", 1.0)),
            dim=config.text_config.hidden_size,
            grid=(side // patch // shuffle,) * 2,
            layout="pixels",
            **checkpoint.normalisation,
        )

    def encoder(self, model: Any, vision: Vision) -> nn.Module:
        """The encoder at one resolution."""
        return FrameEncoder(model.model, vision)

    def prompt(self, checkpoint: Checkpoint, tokenizer: Any) -> Prompt:
        """Every frame between its wrappers, behind its number."""
        video = getattr(tokenizer, "video_token", "<video>")
        chat = split_chat(checkpoint, tokenizer, video)
        start, end = (getattr(tokenizer, f"{side}_image_token", None) for side in ("start", "end"))
        if start is None or end is None:
            raise ScoreEdgeError(f"{checkpoint.name}: its tokenizer names no start_image_token and end_image_token")
        # InternVLProcessor writes the number in code; there is nothing to read it from.
        return Prompt(chat.before, chat.after, step=f"Frame{{number}}: {start}{TOKENS}{end}", between="\n")


FAMILY = InternVL()
