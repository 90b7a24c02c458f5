"""What a model family must say about itself to be exported, and the list of those that do."""

import importlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from torch import nn

from score_edge.bundle.manifest import FileRef, Prompt, Vision
from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError, did_you_mean, require
from score_edge.export.checkpoint import QUESTION, Checkpoint

# The model_type of a checkpoint names the file of this package that exports it.
FAMILIES = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_5",
    "smolvlm",
    "llava_onevision",
    "internvl",
    "gemma4",
    "lfm2_vl",
    "fast_vlm",
)
CAMERA = (16, 9)  # width to height where the user says nothing
ENCODER = FileRef("encoder.onnx")


class Family(ABC):
    """The contract of one family; a file of this package holds a subclass and an instance called FAMILY.

    Attributes:
        name: its model_type in transformers.
        model_class: the transformers class that has the vision encoder and the projector.
        positions: ``"mrope"`` where kept tokens keep their (t, h, w), else ``"plain"``.
        attention: ``"causal"``, or ``"block"`` where the visual tokens attend to each other in the language model,
            which the runtime cannot do.
        grids: ``"any"`` where a frame may have any whole number of tokens per side, else ``"fixed"``.
        needs: packages the export needs beside torch and transformers.
        incremental: ``"yes"`` where its encoder is a `CellEncoder`; else what stands in the way.
    """

    name: ClassVar[str]
    model_class: ClassVar[str]
    positions: ClassVar[Literal["mrope", "plain"]] = "plain"
    attention: ClassVar[Literal["causal", "block"]] = "causal"
    grids: ClassVar[Literal["any", "fixed"]] = "fixed"
    needs: ClassVar[tuple[str, ...]] = ()
    incremental: ClassVar[str] = "yes"

    def cell(self, checkpoint: Checkpoint) -> int:
        """Pixels per side of a visual token, for families of any grid."""
        raise NotImplementedError

    def tokens(self, checkpoint: Checkpoint) -> int:
        """Visual tokens of a step where no size is named, at most; for families of any grid."""
        raise NotImplementedError

    def size(self, checkpoint: Checkpoint, aspect: tuple[int, int] = CAMERA) -> tuple[int, int]:
        """(height, width) in pixels of a frame of an aspect (width, height) with about `tokens` tokens.

        As many rows as a grid of that aspect and that many tokens has, rounded down, and as many columns as the aspect
        then asks for, rounded, as long as the tokens do not become more.
        """
        cell, tokens, ratio = self.cell(checkpoint), self.tokens(checkpoint), aspect[0] / aspect[1]
        short = max(1, int((tokens / max(ratio, 1 / ratio)) ** 0.5))
        long = max(1, min(round(short * max(ratio, 1 / ratio)), tokens // short))
        return (short * cell, long * cell) if ratio >= 1 else (long * cell, short * cell)

    @abstractmethod
    def vision(self, checkpoint: Checkpoint, size: tuple[int, int] | None, frames_per_step: int | None) -> Vision:
        """Sizes and preprocessing, with what the user left open filled in.

        Args:
            checkpoint: the checkpoint.
            size: (height, width) in pixels.
            frames_per_step: frames of a step.

        Raises:
            ScoreEdgeError: the model cannot run at that size.
        """

    @abstractmethod
    def encoder(self, model: Any, vision: Vision) -> nn.Module:
        """A module whose forward takes `vision.input_name` of `vision.input_shape` to tokens (N, dim)."""

    @abstractmethod
    def prompt(self, checkpoint: Checkpoint, tokenizer: Any) -> Prompt:
        """The text around the tokens, from the checkpoint's own chat template."""

    def newline(self, model: Any) -> Float32 | None:
        """(k, D) rows that close a clip; None for most."""
        return None

    def time_scale(self, config: Any) -> float | None:
        """M-RoPE time positions per second of video; None counts steps."""
        return None


def find_family(model_type: str) -> Family:
    """The family of a checkpoint.

    Raises:
        ScoreEdgeError: nobody wrote it yet.
    """
    if model_type not in FAMILIES:
        raise ScoreEdgeError(f"the family {model_type!r} cannot be exported", did_you_mean(model_type, FAMILIES))
    family: Family = importlib.import_module(f"score_edge.export.{model_type}").FAMILY
    for package in family.needs:
        require(package, model_type.replace("_", "-"))
    return family


def split_chat(
    checkpoint: Checkpoint,
    tokenizer: Any,
    placeholder: str,
    template: str | None = None,
    kind: Literal["video", "image"] = "video",
) -> Prompt:
    """The rendered chat template, cut at the placeholder of the visual tokens.

    Raises:
        ScoreEdgeError: the template shows no video, or image, before the question.
    """
    before, found, after = checkpoint.chat(tokenizer, template, kind).partition(placeholder)
    if not found or after.count(QUESTION) != 1:
        raise ScoreEdgeError(
            f"{checkpoint.name}: its chat template does not put {placeholder} before the question",
            "this needs the chat template of the vision-language model",
        )
    return Prompt(before, after.replace(QUESTION, "{question}"))


def square(checkpoint: Checkpoint, size: tuple[int, int], patch: int, merge: int) -> int:
    """The side of a model that takes square frames only; pixels beyond the last whole patch are not seen.

    Raises:
        ScoreEdgeError: not square, or its patches are no multiple of merge.
    """
    height, width = size
    if height != width or not height // patch or height // patch % merge:
        cell = patch * merge
        raise ScoreEdgeError(
            f"{checkpoint.model_type} takes square frames of a multiple of {cell} pixels, not {width}x{height}",
            f"--resolution {max(cell, round((height * width) ** 0.5 / cell) * cell)}",
        )
    return height


def check_cells(height: int, width: int, cell: int) -> None:
    """Refuse a frame that is no whole number of tokens.

    Raises:
        ScoreEdgeError: with the nearest that is.
    """
    if height % cell or width % cell or min(height, width) < cell:
        nearest = "x".join(str(max(cell, round(side / cell) * cell)) for side in (width, height))
        raise ScoreEdgeError(
            f"{width}x{height} pixels are no multiple of patch * merge = {cell}", f"--resolution {nearest}"
        )


def one_frame(checkpoint: Checkpoint, frames_per_step: int | None) -> None:
    """Refuse a step of several frames where the encoder sees one at a time."""
    if frames_per_step not in (None, 1):
        raise ScoreEdgeError(f"{checkpoint.model_type} encodes one frame per step, not {frames_per_step}")
