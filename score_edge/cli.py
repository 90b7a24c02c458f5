"""The command line: parse, call one public function, print."""

import contextlib
import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import score_edge
from score_edge.errors import ScoreEdgeError

app = typer.Typer(
    help="A video vision-language model on a small board, fast, because it reads only the visual tokens that matter.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
train_app = typer.Typer(help="Train the models that score-edge ships.", no_args_is_help=True)
app.add_typer(train_app, name="train")

out = Console()
err = Console(stderr=True)

BundleArgument = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="Bundle folder, or 'reference' for the shipped one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Retention = Annotated[
    float | None,
    typer.Option(min=0.001, max=1, help="Share of visual tokens to keep, 0.1 = 10 %. Default: the bundle's."),
]
SelectorName = Annotated[str | None, typer.Option("--selector", help="What scores the tokens. Default: the bundle's.")]


def main() -> None:
    """Entry point: a user's error is a message and a hint on stderr and exit code 1, never a traceback."""
    logging.basicConfig(format="%(message)s", handlers=[_Warnings(logging.WARNING)])
    try:
        app()
    except ScoreEdgeError as error:
        err.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True, highlight=False)
        if error.hint:
            err.print(f"[bold]hint:[/] {escape(error.hint)}", soft_wrap=True, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        err.print(f"[yellow]warning:[/] {escape(record.getMessage())}", soft_wrap=True, highlight=False)


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def _numbers(text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list like 1,0.25,0.1") from None


def _seconds(text: str) -> float:
    number, unit = text.rstrip("smh"), text[-1:]
    try:
        return float(number) * {"m": 60.0, "h": 3600.0}.get(unit, 1.0)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time like 10s, 2m or 1h") from None


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(score_edge.__version__)
        raise typer.Exit


@app.command()
def ask(
    bundle: BundleArgument,
    video: Annotated[str, typer.Argument(help="Video file, image, or folder of images.")],
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    retention: Retention = None,
    selector: SelectorName = None,
    steps: Annotated[int, typer.Option(min=1, help="Encoder steps at most; a longer video is sampled thinner.")] = 64,
    compare: Annotated[bool, typer.Option("--compare", help="Run unpruned as well and print the speed-ups.")] = False,
    runs: Annotated[int, typer.Option(min=1, help="Repeat and report the median; --compare alternates.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    save_overlay: Annotated[
        Path | None, typer.Option(help="Paint the kept tokens over the frames: out.png or out.mp4.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer a question about a video."""
    from score_edge import asking
    from score_edge.bundle import Bundle
    from score_edge.report import answer_line, comparison_table, reply_json
    from score_edge.runtime.overlay import write_overlay
    from score_edge.runtime.pipeline import Pipeline

    opened = Bundle.open(bundle)
    keep_share = opened.manifest.selector.retention if retention is None else retention
    with Pipeline(opened) as pipeline:
        chosen = pipeline.selector(selector)
        encode = asking.clip_reader(pipeline, video, steps)
        if compare:
            with _progress() as progress:
                task = progress.add_task("pruned and unpruned, in turns", total=2 * runs)
                result = asking.compare(
                    pipeline,
                    encode,
                    question,
                    selector=chosen,
                    retention=keep_share,
                    max_tokens=max_tokens,
                    runs=runs,
                    on_run=lambda: progress.advance(task),
                )
            reply = result.pruned
        else:
            reply = asking.ask(
                pipeline,
                encode,
                question,
                selector=chosen,
                retention=keep_share,
                max_tokens=max_tokens,
                runs=runs,
                on_text=(lambda piece: None) if as_json else (lambda piece: print(piece, end="", flush=True)),
            )
    if save_overlay:
        grid = opened.manifest.vision.token_grid
        keeps = list(reply.keep.reshape(-1, grid.height, grid.width))
        write_overlay(save_overlay, reply.frames, keeps)
    if as_json:
        speed = {"unpruned": reply_json(result.unpruned), "speedup": result.speedup} if compare else {}
        _print_json({"question": question, **reply_json(reply), **speed})
        return
    if compare:
        out.print(comparison_table(result))
    else:
        print()
    err.print(answer_line(reply), highlight=False, soft_wrap=True)
    if save_overlay:
        err.print(f"kept tokens painted into {escape(str(save_overlay))}", highlight=False)


@app.command()
def evaluate(
    bundle: BundleArgument,
    selectors: Annotated[str, typer.Option(help="Comma-separated selectors.")] = "score,evs,last-kept,uniform,random",
    retention: Annotated[str, typer.Option(help="Comma-separated shares of tokens to keep.")] = "1,0.5,0.25,0.1,0.05",
    clips: Annotated[int, typer.Option(min=1, help="Clips per length.")] = 500,
    steps: Annotated[str, typer.Option(help="Comma-separated clip lengths in encoder steps.")] = "8,32",
    seed: Annotated[int, typer.Option(min=2, help="Of the clips; 1 is what the reference model was trained on.")] = 3,
    plot: Annotated[Path | None, typer.Option(help="Draw accuracy over retention: out.png, .svg or .pdf.")] = None,
    video: Annotated[
        Path | None, typer.Option(help="Instead: a real clip, and whether kept tokens lie in its --boxes.")
    ] = None,
    boxes: Annotated[Path | None, typer.Option(help="JSON with labelled boxes of --video.")] = None,
    causal: Annotated[bool, typer.Option("--causal", help="Decide step by step, as a stream must.")] = False,
    as_json: Json = False,
) -> None:
    """Accuracy on clips of the reference world with 95 % intervals, or where kept tokens of a real clip lie."""
    from score_edge import evaluation
    from score_edge.report import accuracy_tables

    if (video is None) != (boxes is None):
        raise typer.BadParameter("--video and --boxes belong together")
    if video and boxes:
        _selectivity(bundle, video, boxes, tuple(selectors.split(",")), _numbers(retention, float), as_json)
        return
    plan = evaluation.Plan(
        tuple(selectors.split(",")),
        _numbers(retention, float),
        _numbers(steps, int),
        clips=clips,
        seed=seed,
        budget="causal" if causal else "clip",
    )
    with _progress() as progress:
        task = progress.add_task("clips", total=clips * len(plan.steps))
        rows = evaluation.evaluate(bundle, plan, on_clip=lambda: progress.advance(task))
    if plot:
        from score_edge.pictures import plot_retention

        plot_retention([dataclasses.asdict(row) for row in rows], plot)
    if as_json:
        _print_json({"plan": dataclasses.asdict(plan), "rows": [dataclasses.asdict(row) for row in rows]})
        return
    for table in accuracy_tables(rows):
        out.print(table)


def _selectivity(
    bundle: str, video: Path, boxes: Path, selectors: tuple[str, ...], retentions: tuple[float, ...], as_json: bool
) -> None:
    from score_edge.bundle import Bundle
    from score_edge.report import selectivity_table
    from score_edge.runtime.pipeline import Pipeline
    from score_edge.selectivity import measure, read_boxes

    labelled = read_boxes(boxes)
    with Pipeline(Bundle.open(bundle)) as pipeline:
        rows = measure(pipeline, video, labelled, selectors, [share for share in retentions if share < 1])
    if as_json:
        _print_json({"video": str(video), "rows": [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows]})
    else:
        out.print(selectivity_table(rows))


@app.command()
def demo(
    source: Annotated[str | None, typer.Option(help="Your own video instead of a rendered clip.")] = None,
    overlay: Annotated[Path, typer.Option(help="Where the picture of the kept tokens goes.")] = Path(
        "score-edge-demo.png"
    ),
    as_json: Json = False,
) -> None:
    """The whole chain on the shipped bundle: pruned beside unpruned, right answers, speed, and a picture."""
    from score_edge.demo import run_demo
    from score_edge.report import demo_report

    with _progress() as progress:
        task = progress.add_task("demo", total=None)
        result = run_demo(source, overlay, on_stage=lambda stage: progress.update(task, description=stage))
    if as_json:
        _print_json(dataclasses.asdict(result))
        return
    for part in demo_report(result):
        out.print(part)


@app.command()
def inspect(bundle: BundleArgument, as_json: Json = False) -> None:
    """What a bundle holds, after checking that all of it is whole."""
    from score_edge.bundle import Bundle
    from score_edge.inspection import check_graphs, describe
    from score_edge.report import inspection_table

    opened = Bundle.open(bundle)
    check_graphs(opened)
    description = describe(opened)
    if as_json:
        _print_json(description)
    else:
        out.print(inspection_table(description))


@app.command()
def profile(
    bundle: BundleArgument = "reference",
    source: Annotated[
        str, typer.Option(help="Video file, image, folder or other source; 'synthetic' renders a clip.")
    ] = "synthetic",
    retention: Annotated[
        str, typer.Option(help="Comma-separated shares of tokens; they take turns.")
    ] = "1,0.25,0.1,0.05",
    selector: SelectorName = None,
    steps: Annotated[int, typer.Option(min=1, help="Encoder steps at most.")] = 64,
    runs: Annotated[int, typer.Option(min=1, help="Measured turns per retention, after the warm-up.")] = 5,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Decoded in every turn.")] = 16,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: every CPU.")] = None,
    llm_shape: Annotated[
        str | None,
        typer.Option(
            help="Instead of the bundle: a language model of this shape, random weights. For example "
            "qwen2.5-0.5b, smollm2-360m, qwen2.5-3b."
        ),
    ] = None,
    visual_tokens: Annotated[int, typer.Option(min=1, help="With --llm-shape: before pruning.")] = 4096,
    trt_llm: Annotated[
        str | None, typer.Option(help="Folder of a TensorRT-LLM engine or checkpoint, in place of the bundle's GGUF.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="With --trt-llm: folder of an engine's tokenizer.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write everything as JSON, for --against.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures, in one file.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a Chrome trace; ui.perfetto.dev opens it.")] = None,
    against: Annotated[Path | None, typer.Option(help="Compare with a file that --report wrote.")] = None,
    as_json: Json = False,
) -> None:
    """Where time, memory and energy of an answer go, per stage and retention; compare two machines or versions."""
    from score_edge.profiling.comparison import compare_reports
    from score_edge.profiling.profiler import Outputs, Subject, run_profile
    from score_edge.profiling.report import Report
    from score_edge.profiling.run import Plan
    from score_edge.profiling.tables import comparison_tables, profile_tables

    old = Report.read(against) if against else None
    with _progress() as progress:
        task = progress.add_task("profile", total=None)
        result = run_profile(
            Subject(bundle, source, steps, llm_shape, visual_tokens, threads, trt_llm, tokenizer),
            Plan(_numbers(retention, float), runs, answer_tokens, selector),
            Outputs(report, html, trace),
            on_turn=lambda text: progress.update(task, description=text),
        )
    changes = compare_reports(result, old) if old else None
    if as_json:
        _print_json({**result.to_json(), **({"against": dataclasses.asdict(changes)} if changes else {})})
        return
    for part in profile_tables(result):
        out.print(part, highlight=False)
    for part in comparison_tables(changes, str(against)) if changes else ():
        out.print(part, highlight=False)
    for kind, path in (("report", report), ("page", html), ("trace", trace)):
        if path:
            err.print(f"{kind} written to {escape(str(path))}", highlight=False)


@app.command()
def doctor(
    bundle: Annotated[
        str | None, typer.Argument(metavar="[BUNDLE]", help="A bundle to hold against this machine.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What is on this machine, whether it fits together, and the command that mends what does not."""
    from score_edge.doctor.check import MARKS, Check, healthy, report_block
    from score_edge.doctor.doctor import examine, to_json

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    checks: list[Check] = []
    for check in examine(bundle):
        checks.append(check)
        if not as_json:
            mark = f"[{colours[check.status]}]{MARKS[check.status]}[/]"
            out.print(f"{mark} [bold]{check.area}[/] {escape(check.finding)}", highlight=False, soft_wrap=True)
            if check.fix:
                out.print(f"    {escape(check.fix)}", style="cyan", highlight=False, soft_wrap=True)
    if as_json:
        _print_json(to_json(checks))
    else:
        err.print("\nfor a bug report:", style="dim")
        err.print(escape(report_block(checks)), highlight=False, soft_wrap=True, style="dim")
    if not healthy(checks):
        raise typer.Exit(1)


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
    from score_edge.report import export_table

    sides = _numbers((resolution or "").replace("x", ","), int) if resolution else ()
    if len(sides) > 2 or any(side < 1 for side in sides):
        raise typer.BadParameter(f"{resolution!r} is no resolution like 448 or 360x640")
    with _progress() as progress:
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
        _print_json({"bundle": str(made.bundle.folder), "differences": rows, "notes": made.notes})
        return
    out.print(export_table(made.differences))
    for note in made.notes:
        err.print(f"[bold]note:[/] {escape(note)}", highlight=False, soft_wrap=True)
    err.print(f"bundle written to {escape(str(made.bundle.folder))}", highlight=False, soft_wrap=True)


@app.command()
def stream(
    bundle: BundleArgument,
    source: Annotated[
        str,
        typer.Option(
            help="A path, v4l2:///dev/video0, csi://0, rtsp://…, http(s)://…, synthetic://, or - (raw frames)."
        ),
    ],
    fps: Annotated[float | None, typer.Option(help="Frames per second to take. Default: the bundle's.")] = None,
    retention: Retention = None,
    selector: SelectorName = None,
    ask: Annotated[str, typer.Option(help="A question to ask again and again.")] = "",
    every: Annotated[str, typer.Option(help="How often, in stream time: 10s, 2m. Default 10s.")] = "",
    when_surprised: Annotated[
        bool, typer.Option("--when-surprised", help="Ask it when far more changed than usual.")
    ] = False,
    gate: Annotated[bool, typer.Option(help="Spare the encoder steps in which nothing changed.")] = True,
    gate_threshold: Annotated[
        float | None, typer.Option(min=0, help="Grey levels that count as no change. Default: the bundle's, or 0.")
    ] = None,
    context: Annotated[
        int, typer.Option(min=1, help="KV cells, at most the bundle's: video, question, answer.")
    ] = 4096,
    window: Annotated[int, typer.Option(min=1, help="Newest steps that are remembered, as far as cells allow.")] = 64,
    span: Annotated[
        int | None, typer.Option(min=2, help="Steps after which positions restart. Default 2 windows.")
    ] = None,
    keep_memorable: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the memory for the most surprising tokens of older steps.")
    ] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    record: Annotated[Path | None, typer.Option(help="Record what is seen, kept tokens painted: out.mp4.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per event on stdout.")] = False,
) -> None:
    """Watch a camera without end; type a question at any time."""
    from score_edge import live
    from score_edge.bundle import Bundle
    from score_edge.runtime.pipeline import Pipeline
    from score_edge.runtime.recorder import Recorder
    from score_edge.runtime.source import open_source
    from score_edge.runtime.stream import Stream, StreamOptions

    opened = Bundle.open(bundle)
    every_s = _seconds(every or ("10s" if ask and not when_surprised else "0s"))
    options = StreamOptions(
        fps=fps,
        retention=retention,
        selector=selector,
        gate=gate,
        gate_threshold=gate_threshold,
        window=window,
        span=span,
        memorable=keep_memorable,
        question=ask,
        every_s=every_s,
        when_surprised=when_surprised,
        max_tokens=max_tokens,
    )
    vision = opened.manifest.vision
    steps_per_second = (fps or vision.fps) / vision.frames_per_step
    recorder = Recorder(record, vision.token_grid, steps_per_second) if record else None
    with (
        open_source(source) as frames,
        Pipeline(opened, context=min(context, opened.manifest.language.context)) as pipeline,
        contextlib.closing(recorder) if recorder else contextlib.nullcontext(),
    ):
        watching = Stream(pipeline, frames, options)
        if recorder:
            watching.listen(recorder)
        with live.signals(watching):
            live.watch(watching, source, vision.token_grid.width, out, as_json=as_json)


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
    with _progress() as progress, Pipeline(opened, context=512) as pipeline:
        task = progress.add_task("encoding", total=len(video))
        footage = []
        for path in video:
            footage.append(read_footage(pipeline, path, fps or opened.manifest.vision.fps))
            progress.advance(task)
        report = find_threshold(footage, error)
    if save:
        save_threshold(opened, report.threshold)
    if as_json:
        _print_json(dataclasses.asdict(report))
    else:
        out.print(gate_table(report))
        err.print("written into the bundle" if save else "not saved: add --save, or stream with --gate-threshold")


@train_app.command("reference")
def train_reference(
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for weights, metrics and the finished bundle.")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Train the shipped reference model from nothing and write its bundle."""
    from score_edge.learning.reference_bundle import write_reference_bundle
    from score_edge.learning.reference_training import Recipe
    from score_edge.learning.reference_training import train_reference as train

    recipe = Recipe(threads=threads)
    with _progress() as progress:
        task = progress.add_task("training", total=recipe.see_steps + recipe.answer_steps)

        def on_step(row: dict[str, float]) -> None:
            shown = " ".join(
                f"{name} {value:.2f}" for name, value in row.items() if name in ("loss", "whole", "pruned")
            )
            progress.update(task, completed=row["step"] + (row["stage"] == 2) * recipe.see_steps, description=shown)

        weights = train(folder, recipe, on_log=on_step)
    bundle = write_reference_bundle(weights, folder / "bundle", overwrite=True)
    err.print(f"bundle written to {escape(str(bundle.folder))}", highlight=False)


@train_app.command("policy")
def train_policy(
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for policy, metrics, checkpoint and bundle.")],
    bundle: Annotated[str, typer.Option(metavar="BUNDLE", help="Bundle the policy is for.")] = "reference",
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint folder of its language model. Default: the bundle's own GGUF.")
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Folder of footage to learn from. Default: the reference world.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(help='JSON lines {"video", "question", "answer"}; without answers the model\'s own are taken.'),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of stills for stage 1.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates of the policy.")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Clips per update, over all processes.")] = None,
    rollouts: Annotated[int | None, typer.Option(min=2, help="Masks per clip.")] = None,
    advantage: Annotated[str | None, typer.Option(help="split or product.")] = None,
    still_share: Annotated[float | None, typer.Option(min=0, max=1, help="Share of updates in stage 1.")] = None,
    residual: Annotated[bool, typer.Option(help="Let the policy see the change from the step before.")] = True,
    warm_steps: Annotated[int | None, typer.Option(min=0, help="Of regression on the size of the change.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="Of Adam.")] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="Width of the policy's hidden layer.")] = None,
    clip_steps: Annotated[int | None, typer.Option(min=2, help="Encoder steps of a clip.")] = None,
    scenes: Annotated[int | None, typer.Option(min=1, help="Different clips to learn from.")] = None,
    cache_mb: Annotated[int | None, typer.Option(min=1, help="MiB of visual tokens on disk, per stage.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per process.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
) -> None:
    """Learn a policy for a bundle by reinforcement against its frozen model, and write the bundle that uses it."""
    from score_edge.learning.policy_run import Data, learn_policy
    from score_edge.learning.policy_training import Recipe

    def given(**options: Any) -> dict[str, Any]:
        return {name: value for name, value in options.items() if value is not None}

    recipe = Recipe(
        **given(steps=steps, clips=clips, rollouts=rollouts, still_share=still_share, seed=seed, advantage=advantage),
        **given(warm_steps=warm_steps, learning_rate=learning_rate, hidden=hidden),
        residual=residual,
    )
    data = Data(videos, questions, images, **given(clip_steps=clip_steps, scenes=scenes, cache_mb=cache_mb))
    with _progress() as progress:
        encoding = progress.add_task("clips encoded", total=None)
        task = progress.add_task("learning", total=recipe.steps)

        def on_log(row: dict[str, float]) -> None:
            shown = " ".join(f"{name} {row[name]:.2f}" for name in ("reward", "quality", "sparsity", "keep"))
            progress.update(task, completed=row["step"] + 1, description=shown)

        learned = learn_policy(
            bundle,
            folder,
            recipe,
            data,
            checkpoint=model,
            resume=resume,
            threads=threads,
            on_clip=lambda done, total: progress.update(encoding, completed=done, total=total),
            on_log=on_log,
        )
    err.print(f"bundle written to {escape(str(learned.folder))}", highlight=False)
