"""`score-edge export`: a checkpoint and the GGUF of its language model become a bundle, proven against torch."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from score_edge.bundle.external import sealed_language
from score_edge.bundle.folder import Bundle, check_shapes, check_target, scratch_beside, write_bundle
from score_edge.bundle.manifest import FileRef, Language, Manifest, Selection, Vision
from score_edge.bundle.provenance import Provenance
from score_edge.errors import ScoreEdgeError
from score_edge.export.checkpoint import Checkpoint, first_line, reading_settings
from score_edge.export.family import CAMERA, ENCODER, Family, find_family
from score_edge.export.gguf_check import Gguf, check_gguf
from score_edge.export.incremental import INCREMENTAL, CellEncoder, export_incremental
from score_edge.export.onnx_export import OPSET, Precision, export_onnx
from score_edge.onnx_files.difference import Difference
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.sources.sample_steps import sample_steps

POLICY, NEWLINE = FileRef("policy.onnx"), FileRef("newline.npy")
CONTEXT = 8192  # KV cells of the language model where its training allows them
PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class Exported:
    """A written bundle and how it was proven.

    Attributes:
        differences: ONNX Runtime against torch, a row per kind of input.
        notes: what the user should know, a sentence each.
    """

    bundle: Bundle
    differences: list[Difference]
    notes: list[str]


def export_bundle(
    model: str,
    folder: str | Path,
    *,
    llm: str | Path,
    size: tuple[int, int] | None = None,
    aspect: tuple[int, int] | None = None,
    frames_per_step: int | None = None,
    policy: Path | None = None,
    precision: Precision = "fp32",
    tolerance: float | None = None,
    video: str | Path | None = None,
    overwrite: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Exported:
    """Write a bundle for a checkpoint.

    Args:
        model: folder or hub id of a safetensors checkpoint of a known family.
        folder: the bundle to write.
        llm: GGUF of the checkpoint's language model; the bundle points to it, it is not copied.
        size: (height, width) of a frame in pixels; None takes the checkpoint's, or where the family takes any grid, as
            many tokens as its square has, at the aspect of the camera.
        aspect: of the camera, (width, height), in place of a size; None is 16:9. Frames of another one are letterboxed.
        frames_per_step: None takes the model's.
        policy: ONNX of a trained policy; without one the bundle selects with `last-kept`.
        precision: of the encoder.
        tolerance: see `export_onnx`.
        video: whose first frames the graph is compared on too; None renders some.
        overwrite: replace a bundle that is there.
        on_stage: called with the name of every stage.

    Raises:
        ScoreEdgeError: anything that does not fit together; nothing is written then.

    Example:
        >>> export_bundle("Qwen/Qwen2.5-VL-3B-Instruct", "bundle", llm="qwen2.5-vl-3b-q4_k_m.gguf")  # doctest: +SKIP
    """
    check_target(Path(folder), overwrite)
    on_stage("checkpoint")
    checkpoint = Checkpoint.open(model)
    family = find_family(checkpoint.model_type)
    if family.attention != "causal":
        raise ScoreEdgeError(f"{family.name} attends to its visual tokens in both directions, the runtime cannot")
    tokenizer = checkpoint.tokenizer()
    on_stage("language model")
    gguf = Gguf.read(Path(llm))
    with reading_settings(checkpoint.name):
        check_gguf(gguf, checkpoint.config, tokenizer)
        vision = family.vision(checkpoint, size or _size(family, checkpoint, aspect), frames_per_step)
        prompt = family.prompt(checkpoint, tokenizer)
    manifest = Manifest(
        name=Path(folder).resolve().name,
        family=family.name,
        vision=vision,
        selector=_selection(policy),
        language=sealed_language(
            Language(
                family.positions,
                min(gguf.context or CONTEXT, CONTEXT),
                vision.dim,
                path=str(_real_place(Path(llm))),
                time_scale=family.time_scale(checkpoint.config),
            )
        ),
        prompt=prompt,
        provenance=Provenance.now(f"{model}, {precision}, opset {OPSET}", *PACKAGES),
    )
    manifest.check()  # before minutes of work, as it will be when it is written
    if policy is not None:
        graph = OnnxGraph(policy)
        check_shapes(manifest, "policy", graph.inputs, graph.outputs)
    on_stage("vision encoder")
    model = checkpoint.load(family.model_class)
    with scratch_beside(Path(folder)) as scratch:
        on_stage("ONNX graph")
        with reading_settings(checkpoint.name):
            encoder = family.encoder(model, vision)
        _try(encoder, vision, checkpoint)
        differences = export_encoder(encoder, vision, scratch / ENCODER.file, precision, tolerance, video)
        if isinstance(encoder, CellEncoder) and vision.token_grid.tokens > 1:  # of one token there are no others
            on_stage("incremental graph")
            differences += export_incremental(
                encoder, vision, scratch / INCREMENTAL.file, precision=precision, tolerance=tolerance
            )
            vision = dataclasses.replace(vision, incremental=encoder.cache())
            manifest = dataclasses.replace(manifest, vision=vision)
        if (rows := family.newline(model)) is not None:
            np.save(scratch / NEWLINE.file, rows)
            manifest = dataclasses.replace(manifest, vision=dataclasses.replace(vision, newline=NEWLINE))
        files: dict[str, Path | bytes] = {path.name: path for path in scratch.iterdir()}
        if policy is not None:
            files[POLICY.file] = policy
        on_stage("bundle")
        bundle = write_bundle(folder, manifest, files, overwrite=overwrite)
    return Exported(bundle, differences, _notes(policy, size, vision))


def export_encoder(
    encoder: nn.Module,
    vision: Vision,
    path: Path,
    precision: Precision = "fp32",
    tolerance: float | None = None,
    video: str | Path | None = None,
) -> list[Difference]:
    """The graph alone: trace, check and compare on random input and on real frames."""
    random = torch.randn(vision.input_shape, generator=torch.Generator().manual_seed(0))
    real = [{name: torch.from_numpy(array) for name, array in step.items()} for step in sample_steps(vision, video)]
    data: Mapping[str, Sequence[Mapping[str, torch.Tensor]]] = {"video" if video else "rendered": real}
    return export_onnx(
        encoder,
        {vision.input_name: random},
        "tokens",
        path,
        tolerance=tolerance,
        precision=precision,
        data=data,
    )


def _try(encoder: nn.Module, vision: Vision, checkpoint: Checkpoint) -> None:
    """Run it once in torch: where a number in the config does not fit the weights' shapes, it shows here."""
    try:
        with torch.no_grad():
            encoder.eval()(torch.zeros(vision.input_shape))
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ScoreEdgeError(
            f"{checkpoint.folder / 'config.json'}: a vision encoder of this vision_config and these weights does not "
            f"run: {type(error).__name__}: {first_line(error)}",
            "look at its numbers of heads and layers and its sizes, or download it again",
        ) from error


def _size(family: Family, checkpoint: Checkpoint, aspect: tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) of a frame where the user names none; None leaves it to the family."""
    if family.grids == "any":
        return family.size(checkpoint, aspect or CAMERA)
    if aspect is not None:
        raise ScoreEdgeError(f"{family.name} has a frame of its own and takes no aspect", "leave --aspect out")
    return None


def _real_place(llm: Path) -> Path:
    """An absolute path; of a link its own: a Hugging Face cache names the files themselves by hash."""
    return llm.parent.resolve() / llm.name


def _selection(policy: Path | None) -> Selection:
    return Selection("last-kept") if policy is None else Selection("score", POLICY)


def _notes(policy: Path | None, size: tuple[int, int] | None, vision: Vision) -> list[str]:
    notes = []
    if size is None:
        how = "and letterboxed where its shape is another" if vision.letterbox else "whatever its shape"
        notes.append(f"every frame is resized to {vision.width}x{vision.height} pixels, {how}")
    if policy is None:
        notes.append("no trained policy was given: the bundle selects with last-kept, a rule that needs no training")
    return notes
