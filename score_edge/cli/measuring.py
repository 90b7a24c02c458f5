"""Commands that measure and look: accuracy, speed, the machine, a bundle."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from score_edge.cli.options import (
    BackendName,
    BundleArgument,
    Json,
    ProviderName,
    SelectorName,
    Threads,
    check_outputs,
    numbers,
    refuse_unused,
)
from score_edge.cli.terminal import err, out, print_json, progress_bar

app = typer.Typer()


@app.command()
def evaluate(
    context_: typer.Context,
    bundle: BundleArgument,
    selectors: Annotated[
        str,
        typer.Option(help="Comma-separated, with options like evs:dither=1:first=scored; the first is compared with."),
    ] = "score,evs,last-kept,newest,uniform,random",
    retention: Annotated[str, typer.Option(help="Comma-separated shares of tokens to keep.")] = "1,0.5,0.25,0.1,0.05",
    clips: Annotated[int, typer.Option(min=1, help="Clips per length.")] = 500,
    steps: Annotated[str, typer.Option(help="Comma-separated clip lengths in encoder steps.")] = "8,32",
    worlds: Annotated[
        str,
        typer.Option(
            "--world", help="Comma-separated regimes: plain, leaves, texture, screen, rain, pan, ...; or all."
        ),
    ] = "plain",
    seed: Annotated[int, typer.Option(min=2, help="Of the clips; 1 is what the reference model was trained on.")] = 3,
    plot: Annotated[Path | None, typer.Option(help="Draw accuracy over retention: out.png, .svg or .pdf.")] = None,
    video: Annotated[
        Path | None, typer.Option(help="Instead: a real clip, and whether kept tokens lie in its --boxes.")
    ] = None,
    boxes: Annotated[Path | None, typer.Option(help="JSON with labelled boxes of --video.")] = None,
    causal: Annotated[bool, typer.Option("--causal", help="Decide step by step, as a stream must.")] = False,
    tune: Annotated[
        int | None,
        typer.Option(min=1, metavar="CLIPS", help="Choose dithering and first-step rule of each selector on so many."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Accuracy on clips of the reference world with 95 % intervals, or where kept tokens of a real clip lie."""
    from score_edge.cli.tables import accuracy_tables, paired_table
    from score_edge.evaluation import accuracy, tuning
    from score_edge.evaluation.paired import paired_differences
    from score_edge.evaluation.pictures import check_picture, plot_retention
    from score_edge.reference.nuisance import read_regimes

    if (video is None) != (boxes is None):
        raise typer.BadParameter("--video and --boxes belong together")
    if video and boxes:
        refuse_unused(context_, "with --video", "clips", "steps", "worlds", "seed", "plot", "causal", "tune")
        shares = tuple(share for share in numbers(retention, float) if share < 1)
        if not shares:
            raise typer.BadParameter("--retention 1 keeps every token, inside the boxes and outside")
        _selectivity(bundle, video, boxes, tuple(selectors.split(",")), shares, as_json)
        return
    check_outputs([plot], [bundle])
    if plot:
        check_picture(plot)
    plan = accuracy.EvaluationPlan(
        tuple(selectors.split(",")),
        numbers(retention, float),
        numbers(steps, int),
        clips=clips,
        seed=seed,
        budget="causal" if causal else "clip",
        worlds=read_regimes(worlds),
    )
    with progress_bar() as progress:
        if tune:
            task = progress.add_task("tuning", total=tune * len(plan.worlds))
            plan = tuning.tune(bundle, plan, clips=tune, on_clip=lambda: progress.advance(task))
        task = progress.add_task("clips", total=clips * len(plan.steps) * len(plan.worlds))
        results = accuracy.ask_everything(bundle, plan, on_clip=lambda: progress.advance(task))
    rows, differences = accuracy.summarise(plan, results), paired_differences(results)
    if as_json:
        plain = [dataclasses.asdict(row) for row in rows]
        paired = [dataclasses.asdict(row) for row in differences]
        print_json({"plan": dataclasses.asdict(plan), "rows": plain, "differences": paired})
    else:
        for table in accuracy_tables(rows, out.width):
            out.print(table)
        if differences:
            out.print(paired_table(differences))
    if plot:  # last: the figures are shown whatever becomes of the picture
        shown = plan.worlds[0] if len(plan.worlds) == 1 else accuracy.MEAN
        drawn, paired = (
            [
                {**dataclasses.asdict(row), "selector": name}  # one line per selector, whatever it was tuned to
                for row in found
                if row.world == shown
                for name in plan.asked(row.selector, row.retention)
            ]
            for found in (rows, differences)
        )
        for row in paired:
            row["against"] = plan.asked(row["against"], row["retention"])[0]
        plot_retention(drawn, plot, paired)


def _selectivity(
    bundle: str, video: Path, boxes: Path, selectors: tuple[str, ...], retentions: tuple[float, ...], as_json: bool
) -> None:
    from score_edge.bundle.folder import Bundle
    from score_edge.cli.tables import selectivity_table
    from score_edge.evaluation.selectivity import measure_selectivity, read_boxes
    from score_edge.runtime.pipeline import Pipeline

    labelled = read_boxes(boxes)
    with Pipeline(Bundle.open(bundle), full_encoder=True) as pipeline:
        rows = measure_selectivity(pipeline, video, labelled, selectors, retentions)
    if as_json:
        print_json({"video": str(video), "rows": [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows]})
    else:
        out.print(selectivity_table(rows))


@app.command()
def profile(
    context_: typer.Context,
    bundle: BundleArgument = "reference",
    source: Annotated[
        str, typer.Option(help="Video file, image, folder or other source; 'synthetic' renders a clip.")
    ] = "synthetic",
    retention: Annotated[str, typer.Option(help="Comma-separated shares of tokens; interleaved.")] = "1,0.25,0.1,0.05",
    selector: SelectorName = None,
    steps: Annotated[int, typer.Option(min=1, help="Encoder steps at most.")] = 64,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs per retention, after the warm-up.")] = 5,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Decoded in every run.")] = 16,
    threads: Threads = None,
    llm_shape: Annotated[
        str | None,
        typer.Option(
            help="Instead of the bundle: a language model of this shape, random weights. For example "
            "qwen2.5-0.5b, smollm2-360m, qwen2.5-3b."
        ),
    ] = None,
    visual_tokens: Annotated[int, typer.Option(min=1, help="With --llm-shape: before pruning.")] = 4096,
    backend: BackendName = "llama.cpp",
    provider: ProviderName = "auto",
    report: Annotated[Path | None, typer.Option(help="Write everything as JSON, for --against.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures, in one file.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a Chrome trace; ui.perfetto.dev opens it.")] = None,
    against: Annotated[Path | None, typer.Option(help="Compare with a file that --report wrote.")] = None,
    as_json: Json = False,
) -> None:
    """Where time, memory and energy of an answer go, per stage and retention; compare two machines or versions."""
    from score_edge.cli.profile_tables import comparison_tables, profile_tables
    from score_edge.profiling.comparison import compare_reports
    from score_edge.profiling.profiler import Outputs, Subject, run_profile
    from score_edge.profiling.report import Report
    from score_edge.profiling.run import ProfilePlan

    if llm_shape is None:
        refuse_unused(context_, "without --llm-shape", "visual_tokens")
    else:
        unused = () if bundle == "reference" else ("bundle",)
        refuse_unused(context_, "with --llm-shape", *unused, "source", "backend", "provider")
    check_outputs([report, html, trace], [bundle, source, against])
    old = Report.read(against) if against else None
    with progress_bar() as progress:
        task = progress.add_task("profile", total=None)
        measured = run_profile(
            Subject(bundle, source, steps, llm_shape, visual_tokens, threads, backend, provider),
            ProfilePlan(numbers(retention, float), runs, answer_tokens, selector),
            on_progress=lambda text: progress.update(task, description=text),
        )
    result = measured.report
    changes = compare_reports(result, old) if old else None
    if as_json:
        print_json({**result.to_json(), **({"against": dataclasses.asdict(changes)} if changes else {})})
    else:
        for part in profile_tables(result):
            out.print(part)
        for part in comparison_tables(changes, str(against)) if changes else ():
            out.print(part)
    measured.write(Outputs(report, html, trace))  # last: the figures are shown whatever becomes of the files
    for kind, path in (("report", report), ("page", html), ("trace", trace)):
        if path and not as_json:
            err.print(f"{kind} written to {path}", soft_wrap=True)


@app.command()
def doctor(
    bundle: Annotated[
        str | None, typer.Argument(metavar="[BUNDLE]", help="A bundle to check against this machine.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What is on this machine, whether it fits together, and the command that fixes what does not."""
    from score_edge.doctor.check import MARKS, Check, healthy, report_block
    from score_edge.doctor.doctor import examine, to_json

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    checks: list[Check] = []
    for check in examine(bundle):
        checks.append(check)
        if not as_json:
            mark = (MARKS[check.status], colours[check.status])
            out.print(Text.assemble(mark, " ", (check.area, "bold"), f" {check.finding}"), soft_wrap=True)
            if check.fix:
                out.print(f"    {check.fix}", style="cyan", soft_wrap=True)
    if as_json:
        print_json(to_json(checks))
    else:
        err.print("\nfor a bug report:", style="dim")
        err.print(report_block(checks), soft_wrap=True, style="dim")
    if not healthy(checks):
        raise typer.Exit(1)


@app.command()
def inspect(bundle: BundleArgument, as_json: Json = False) -> None:
    """What a bundle holds, after checking that all of it is whole."""
    from score_edge.bundle.folder import Bundle
    from score_edge.cli.tables import inspection_table
    from score_edge.doctor.inspection import check_graph_shapes, check_model, describe

    opened = Bundle.open(bundle)
    check_model(opened)
    check_graph_shapes(opened)
    description = describe(opened)
    if as_json:
        print_json(description)
    else:
        out.print(inspection_table(description))
