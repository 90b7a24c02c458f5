"""What a frame of the camera's shape does to the choice of tokens, in a trained encoder: the reference model's.

    python tools/camera_shape.py FOLDER [--bundle reference] [--retention 0.1,0.25]

FOLDER holds 16:9 videos with files of boxes beside them (NAME.hand.json, see `evaluate --boxes`). The encoder is
exported at squares, which squash such frames, and at grids of their shape with no more tokens. The table shows kept
tokens per area inside the boxes over outside. Nothing is learned: weights and policy are the bundle's.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from score_edge.bundle.folder import Bundle, write_bundle
from score_edge.evaluation.selectivity import measure_selectivity, read_boxes
from score_edge.export.bundle_export import export_encoder
from score_edge.export.family import ENCODER
from score_edge.export.qwen2_vl import StepEncoder
from score_edge.learning.reference_bundle import read_reference_bundle
from score_edge.learning.reference_model import MERGE, PATCH, build_model
from score_edge.runtime.pipeline import Pipeline

GRIDS = ((6, 6), (4, 7), (12, 12), (9, 16))
SELECTORS = ("score", "last-kept", "evs", "random")


def main() -> None:
    """Export four times, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", default="reference")
    parser.add_argument("--retention", default="0.1,0.25")
    chosen = parser.parse_args()
    retentions = [float(share) for share in chosen.retention.split(",")]
    boxes = [path for path in sorted(chosen.folder.glob("*.hand.json")) if widescreen(path)]
    with tempfile.TemporaryDirectory() as scratch:
        for height, width in GRIDS:
            bundle = at_grid(Bundle.open(chosen.bundle), height, width, Path(scratch))
            print(f"{height} x {width} tokens, {bundle.manifest.vision.width}x{bundle.manifest.vision.height} pixels")
            for line in table(bundle, boxes, retentions):
                print(f"  {line}", flush=True)


def widescreen(boxes: Path) -> bool:
    """Whether a file of boxes belongs to a 16:9 video."""
    document = json.loads(boxes.read_text(encoding="utf-8"))
    return bool(document["width"] * 9 == document["height"] * 16)


def at_grid(reference: Bundle, height: int, width: int, folder: Path) -> Bundle:
    """The reference bundle with its encoder at another grid; frames of another shape than a square are letterboxed."""
    model = build_model()
    model.load_state_dict(read_reference_bundle(reference))
    cell = PATCH * MERGE
    vision = replace(
        reference.manifest.vision,
        graph=ENCODER,
        height=height * cell,
        width=width * cell,
        grid=(height, width),
        letterbox=height != width,
        incremental=None,
    )
    path = folder / f"{height}x{width}.onnx"
    with torch.no_grad():
        export_encoder(StepEncoder(model.model.visual, height * MERGE, width * MERGE).eval(), vision, path)
    manifest = replace(reference.manifest, vision=vision)
    files = {name: place for name, place in reference.paths.items() if place != reference.incremental_path}
    return write_bundle(folder / f"{height}x{width}", manifest, {**files, ENCODER.file: path})


def table(bundle: Bundle, boxes: Sequence[Path], retentions: Sequence[float]) -> list[str]:
    """A line per selector and retention, a figure per video."""
    lines: dict[str, list[str]] = {}
    with Pipeline(bundle) as pipeline:
        for path in boxes:
            video = path.parent / json.loads(path.read_text(encoding="utf-8"))["video"]
            for found in measure_selectivity(pipeline, video, read_boxes(path), SELECTORS, retentions):
                told = "all inside" if found.ratio is None else f"{found.ratio:.2f}"
                lines.setdefault(f"{found.selector:10} {found.retention:4.0%}", []).append(told)
    names = "  ".join(path.name.removesuffix(".hand.json") for path in boxes)
    return [f"{'':15}  {names}", *(f"{name}  {'  '.join(told)}" for name, told in lines.items())]


if __name__ == "__main__":
    main()
