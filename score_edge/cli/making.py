"""Commands that make a bundle fit: from a checkpoint, for a camera."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from score_edge.cli.options import BundleArgument, Json, err, numbers, out, print_json, progress_bar

app = typer.Typer()


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Checkpoint: a folder, or a Hugging Face id (OWNER/NAME).")],
    folder: Annotated[Path, typer.Option("--out", "-o", metavar="BUNDLE", help="The bundle to write.")],
    llm: Annotated[Path, typer.Option(help="GGUF of the checkpoint's language model; the bundle points to it.")],
    resolution: Annotated[
        str | None, typer.Option(help="Pixels of a frame, HEIGHTxWIDTH or one SIDE. Default: the checkpoint's.")
    ] = None,
    frames_per_step: Annotated[int | None, typer.Option(min=1, help="Frames the encoder merges, where legal.")] = None,
    policy: Annotated[Path | None, typer.Option(help="A trained policy (.onnx). Without one: last-kept.")] = None,
    precision: Annotated[Literal["fp32", "fp16"], typer.Option(help="Weights and arithmetic of the encoder.")] = "fp32",
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Largest difference from torch, over its largest value. Default: 1e-4, fp16 2e-2."),
    ] = None,
    video: Annotated[Path | None, typer.Option(help="Compare with torch on this video's first frames too.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a Hugging Face checkpoint and its GGUF into a bundle, and prove the graph against torch."""
    from score_edge.export.bundle_export import export_bundle
    from score_edge.report import difference_table

    sides = numbers((resolution or "").replace("x", ","), int) if resolution else ()
    if len(sides) > 2 or any(side < 1 for side in sides):
        raise typer.BadParameter(f"{resolution!r} is no resolution like 448 or 360x640")
    with progress_bar() as progress:
        task = progress.add_task("export", total=None)
        made = export_bundle(
            model,
            folder,
            llm=llm,
            size=(sides[0], sides[-1]) if sides else None,
            frames_per_step=frames_per_step,
            policy=policy,
            precision=precision,
            tolerance=tolerance,
            video=video,
            overwrite=overwrite,
            on_stage=lambda stage: progress.update(task, description=stage),
        )
    if as_json:
        rows = [dataclasses.asdict(row) for row in made.differences]
        print_json({"bundle": str(made.bundle.folder), "differences": rows, "notes": made.notes})
        return
    out.print(difference_table(made.differences))
    for note in made.notes:
        err.print(f"[bold]note:[/] {escape(note)}", highlight=False, soft_wrap=True)
    err.print(f"bundle written to {escape(str(made.bundle.folder))}", highlight=False, soft_wrap=True)


@app.command()
def gate(
    bundle: BundleArgument,
    video: Annotated[list[str], typer.Option(help="Footage of the place to watch; may be given several times.")],
    error: Annotated[float, typer.Option(min=1e-6, help="Largest relative error of reused tokens.")] = 0.01,
    fps: Annotated[float | None, typer.Option(help="Frames per second to sample. Default: the bundle's.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Write the threshold into the bundle.")] = False,
    as_json: Json = False,
) -> None:
    """Find from footage how little change `stream` may take for none and spare the encoder."""
    from score_edge.bundle import Bundle
    from score_edge.calibration.gate_threshold import find_threshold, read_footage, save_threshold
    from score_edge.report import gate_table
    from score_edge.runtime.pipeline import Pipeline

    opened = Bundle.open(bundle)
    with progress_bar() as progress, Pipeline(opened, context=512) as pipeline:
        task = progress.add_task("encoding", total=len(video))
        footage = []
        for path in video:
            footage.append(read_footage(pipeline, path, fps or opened.manifest.vision.fps))
            progress.advance(task)
        report = find_threshold(footage, error)
    if save:
        save_threshold(opened, report.threshold)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        out.print(gate_table(report))
        err.print("written into the bundle" if save else "not saved: add --save, or stream with --gate-threshold")
