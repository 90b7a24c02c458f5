"""`score-edge build`: TensorRT engines, their plan, and the check that needs no GPU."""

import dataclasses
from typing import Annotated, Any, Literal

import typer

from score_edge.cli.options import BundleArgument, Json, refuse_unused
from score_edge.cli.terminal import err, out, print_json, progress_bar

app = typer.Typer()


@app.command()
def build(
    context_: typer.Context,
    bundle: BundleArgument,
    precision: Annotated[
        Literal["int8", "fp16", "fp32"] | None,
        typer.Option(help="Of the encoder. Default: int8 where the bundle was calibrated, else fp16."),
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(min=1, metavar="MIB", help="Memory the builder may use. Default: TensorRT's.")
    ] = None,
    dla: Annotated[
        int | None, typer.Option(min=0, help="Core of the deep learning accelerator; fp16 or --implicit.")
    ] = None,
    video: Annotated[
        str | None, typer.Option(help="Compare with ONNX Runtime on this video's first frames. Default: rendered ones.")
    ] = None,
    implicit: Annotated[
        bool,
        typer.Option(
            "--implicit", help="INT8 by TensorRT's own calibration on --video; up to TensorRT 10, unreported."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be built; needs no GPU.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Have TensorRT for RTX parse and build the graphs; needs no GPU.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a bundle's graphs into TensorRT engines for this board, and prove them against ONNX Runtime."""
    from score_edge.bundle.folder import Bundle
    from score_edge.cli.tables import difference_table
    from score_edge.engines.build import build_engines, describe_plan

    if dry_run and check:
        raise typer.BadParameter("--dry-run and --check exclude each other")
    if implicit and (check or precision not in (None, "int8")):
        raise typer.BadParameter("--implicit is INT8 of TensorRT up to 10: without --check, and no other --precision")
    if check:
        refuse_unused(context_, "with --check", "workspace", "dla", "video")
    opened = Bundle.open(bundle)
    if dry_run:
        plan = describe_plan(opened, precision, workspace=workspace, dla=dla, video=video, implicit=implicit)
        _show_plan(plan, as_json)
        return
    if check:
        _check(opened, precision, as_json)
        return
    with progress_bar() as progress:
        task = progress.add_task("build", total=None)
        built = build_engines(
            opened,
            precision,
            workspace=workspace,
            dla=dla,
            video=video,
            implicit=implicit,
            on_progress=lambda phase, step, steps: progress.update(
                task, description=phase, completed=step, total=steps or None
            ),
        )
    if as_json:
        rows = [dataclasses.asdict(row) for row in built.differences]
        print_json({"folder": str(built.folder), **dataclasses.asdict(built.record), "differences": rows})
        return
    out.print(difference_table(built.differences, "TensorRT against ONNX Runtime"))
    for graph, seconds in built.seconds.items():
        err.print(f"{graph}: built in {seconds:.0f} s")
    err.print(f"engines written to {built.folder}", soft_wrap=True)


def _show_plan(plan: dict[str, Any], as_json: bool) -> None:
    from score_edge.cli.tables import plan_table

    if as_json:
        print_json(plan)
        return
    out.print(plan_table(plan))
    files = ", ".join(graph["engine"] for graph in plan["graphs"])
    for line in (f"files: {plan['folder']}/ {files}", f"here: {plan['machine']}", f"build: {plan['command']}"):
        out.print(line, soft_wrap=True)


def _check(opened: Any, precision: Any, as_json: bool) -> None:
    from score_edge.cli.tables import verdict_table
    from score_edge.engines.rtx_check import parse_and_build

    with progress_bar() as progress:
        task = progress.add_task("check", total=None)
        rows = parse_and_build(
            opened,
            precision,
            on_progress=lambda phase, step, steps: progress.update(
                task, description=phase, completed=step, total=steps or None
            ),
        )
    if as_json:
        print_json({"verdicts": [dataclasses.asdict(row) for row in rows]})
    else:
        out.print(verdict_table(rows))
    if any(row.problem for row in rows):
        raise typer.Exit(1)
