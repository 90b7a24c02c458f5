"""Commands that make a bundle fit: from a checkpoint, for a camera, in INT8."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from score_edge.cli.options import BundleArgument, BundleOut, Json, check_outputs, finite, numbers, refuse_unused
from score_edge.cli.terminal import err, out, print_json, progress_bar, say
from score_edge.errors import ScoreEdgeError

app = typer.Typer()
_LONGEST_SIDE = 8192  # pixels; no encoder of a board sees more


def _list_families(wanted: bool) -> None:
    if wanted:
        from score_edge.cli.family_table import family_table
        from score_edge.families import ROWS

        out.print(family_table(ROWS))
        raise typer.Exit


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Checkpoint: a folder, or a Hugging Face id (OWNER/NAME).")],
    folder: BundleOut,
    llm: Annotated[Path, typer.Option(help="GGUF of the checkpoint's language model; the bundle points to it.")],
    resolution: Annotated[
        str, typer.Option(help="Pixels of a frame, WIDTHxHEIGHT or one SIDE. auto: the family's, at --aspect.")
    ] = "auto",
    aspect: Annotated[
        str | None, typer.Option(metavar="W:H", help="Of the camera, where the family takes any grid. Default: 16:9.")
    ] = None,
    frames_per_step: Annotated[int | None, typer.Option(min=1, help="Frames the encoder merges, where legal.")] = None,
    policy: Annotated[Path | None, typer.Option(help="A trained policy (.onnx). Without one: last-kept.")] = None,
    precision: Annotated[Literal["fp32", "fp16"], typer.Option(help="Weights and arithmetic of the encoder.")] = "fp32",
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=finite,
            help="Largest difference from torch, over its largest value. Default: 1e-4, fp16 2e-2.",
        ),
    ] = None,
    video: Annotated[Path | None, typer.Option(help="Compare with torch on this video's first frames too.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: Json = False,
    list_: Annotated[
        bool, typer.Option("--list", is_eager=True, callback=_list_families, help="Which checkpoints, and what works.")
    ] = False,
) -> None:
    """Turn a Hugging Face checkpoint and its GGUF into a bundle, and prove the graph against torch."""
    from score_edge.cli.tables import difference_table
    from score_edge.export.bundle_export import export_bundle

    sides = () if resolution == "auto" else numbers(resolution.replace("x", ","), int)
    if len(sides) > 2 or any(not 0 < side <= _LONGEST_SIDE for side in sides):
        raise typer.BadParameter(f"{resolution!r} is no resolution like auto, 448 or 640x360")
    shape = numbers(aspect.replace(":", ","), int) if aspect else ()
    if aspect and (len(shape) != 2 or min(shape) < 1 or not 1 / 8 <= shape[0] / shape[1] <= 8):
        raise typer.BadParameter(f"{aspect!r} is no aspect like 16:9 or 4:3")
    if aspect and sides:
        raise typer.BadParameter("--resolution has an aspect of its own: leave --aspect out")
    with progress_bar() as progress:
        task = progress.add_task("export", total=None)
        made = export_bundle(
            model,
            folder,
            llm=llm,
            size=(sides[-1], sides[0]) if sides else None,
            aspect=(shape[0], shape[1]) if shape else None,
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
        say("note", "bold", note)
    moving = f"on another machine put its language model, {llm.name}, beside it"
    err.print(f"bundle written to {made.bundle.folder}; {moving}", soft_wrap=True)


@app.command()
def gate(
    bundle: BundleArgument,
    video: Annotated[list[str], typer.Option(help="Footage of the place to watch; may be given several times.")],
    divergence: Annotated[
        float, typer.Option(min=1e-6, callback=finite, help="How far the next word may be off, in nats.")
    ] = 0.05,
    fps: Annotated[
        float | None, typer.Option(callback=finite, help="Frames per second to sample. Default: the bundle's.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Write the threshold into the bundle.")] = False,
    as_json: Json = False,
) -> None:
    """Find from footage how little a cell may change without being encoded again."""
    from score_edge.bundle.folder import Bundle
    from score_edge.calibration.change_threshold import check_saving, find_threshold, read_footage, save_threshold
    from score_edge.cli.tables import change_table
    from score_edge.runtime.pipeline import Pipeline

    opened = Bundle.open(bundle)
    if save:
        check_saving(opened)
    with progress_bar() as progress, Pipeline(opened) as pipeline:
        task = progress.add_task("encoding", total=len(video))
        footage = []
        for path in video:
            footage.append(read_footage(pipeline, path, fps or opened.manifest.vision.fps))
            progress.advance(task)
        report = find_threshold(pipeline, footage, divergence)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        out.print(change_table(report))
    if save:
        save_threshold(opened, report.threshold)
    if not as_json:
        err.print("written into the bundle" if save else "not saved: add --save, or give --change-threshold")


@app.command()
def calibrate(
    context_: typer.Context,
    bundle: BundleArgument,
    video: Annotated[
        list[str], typer.Option(help="Footage: a video, a folder of videos or images; may be given several times.")
    ],
    folder: BundleOut,
    form: Annotated[
        Literal["int8", "int8-cpu"], typer.Option(help="int8: for TensorRT. int8-cpu: for ONNX Runtime on this CPU.")
    ] = "int8",
    frames: Annotated[int, typer.Option(min=2, help="Encoder steps to calibrate on, spread by content.")] = 256,
    method: Annotated[
        Literal["minmax", "percentile", "entropy"], typer.Option(help="How activation ranges meet outliers.")
    ] = "minmax",
    max_loss: Annotated[
        float,
        typer.Option(
            min=0,
            max=2,
            callback=finite,
            help="Largest 1 - cosine of the worst token; layers stay FP32 till then.",
        ),
    ] = 0.001,
    exclude: Annotated[list[str] | None, typer.Option(metavar="LAYER", help="Leave in FP32; * and ? match.")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="LAYER", help="Quantise no others; * and ? match.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of frames.")] = 0,
    clips: Annotated[
        int, typer.Option(min=0, help="On the reference bundle: clips whose questions FP32 and INT8 both answer.")
    ] = 60,
    plot: Annotated[Path | None, typer.Option(help="Draw the error of every layer: out.png, .svg or .pdf.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Make the encoder INT8 from footage of the camera, and report what that costs, layer by layer."""
    from score_edge.bundle.folder import Bundle
    from score_edge.calibration.calibrate import calibrate_bundle, knows_the_world
    from score_edge.calibration.frames import read_clips
    from score_edge.cli.calibration_tables import calibration_tables
    from score_edge.evaluation.pictures import check_picture, plot_layers

    check_outputs([plot], [bundle, *video])
    if plot:
        check_picture(plot)
    opened = Bundle.open(bundle)
    if folder.resolve() == opened.folder.resolve():
        raise ScoreEdgeError(f"{folder} is the bundle that is calibrated, and would be lost", "name another folder")
    if not knows_the_world(opened):
        refuse_unused(context_, "with a bundle that is not the reference bundle", "clips")
    with progress_bar() as progress:
        task = progress.add_task("calibrate", total=None)
        report = calibrate_bundle(
            opened,
            folder,
            read_clips(video, opened.manifest.vision.fps),
            form=form,
            method=method,
            frames=frames,
            max_loss=max_loss,
            exclude=exclude or (),
            only=only or (),
            seed=seed,
            clips=clips,
            overwrite=overwrite,
            on_stage=lambda name, parts: progress.reset(task, description=name, total=parts),
            on_advance=lambda: progress.advance(task),
        )
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        for table in calibration_tables(report):
            out.print(table)
        for note in report.notes:
            say("note", "bold", note)
        err.print(f"bundle written to {report.folder}", soft_wrap=True)
    if plot:  # last: the figures are shown whatever becomes of the picture
        plot_layers([dataclasses.asdict(layer) for layer in report.layers], report.excluded, plot)
