"""Commands that answer: a clip, a stream, the demo."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from score_edge.cli.options import (
    BackendName,
    BundleArgument,
    ChangeThreshold,
    FullEncoder,
    Json,
    ProviderName,
    RepeatPenalty,
    Retention,
    Seed,
    SelectorName,
    Stop,
    Temperature,
    Threads,
    TopP,
    check_outputs,
    finite,
    refuse_retention_of_all,
    refuse_unused,
    sampling,
    seconds,
)
from score_edge.cli.terminal import err, out, print_json, print_piece, progress_bar, say
from score_edge.errors import ScoreEdgeError

app = typer.Typer()


@app.command()
def ask(
    context_: typer.Context,
    bundle: BundleArgument,
    video: Annotated[str, typer.Argument(help="Video file, image, folder of images, or a source as of stream.")],
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    retention: Retention = None,
    selector: SelectorName = None,
    steps: Annotated[int, typer.Option(min=1, help="Encoder steps at most; a longer video is sampled thinner.")] = 64,
    compare: Annotated[bool, typer.Option("--compare", help="Run unpruned as well and print the speed-ups.")] = False,
    look_again: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Read four times as many tokens while the answer is less probable than this; 0 never.",
        ),
    ] = 0.0,
    runs: Annotated[int, typer.Option(min=1, help="Repeat and report the median; --compare alternates.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    repeat_penalty: RepeatPenalty = None,
    stop: Stop = None,
    threads: Threads = None,
    full_encoder: FullEncoder = False,
    change_threshold: ChangeThreshold = None,
    backend: BackendName = "llama.cpp",
    provider: ProviderName = "auto",
    save_overlay: Annotated[
        Path | None, typer.Option(help="Paint the kept tokens over the frames: out.png or out.mp4.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer a question about a video."""
    from score_edge.bundle.folder import Bundle
    from score_edge.cli.tables import answer_line, comparison_table, reply_json
    from score_edge.evaluation import comparison
    from score_edge.runtime.language.context import cells_needed
    from score_edge.runtime.overlay import check_overlay, write_overlay
    from score_edge.runtime.pipeline import Pipeline
    from score_edge.runtime.runs_on import describe_pipeline

    if not question.strip():
        raise typer.BadParameter("the question is empty")
    refuse_retention_of_all(retention, selector)
    if full_encoder:
        refuse_unused(context_, "with --full-encoder", "change_threshold")
    if compare:
        refuse_unused(context_, "with --compare", "look_again")
    generated = sampling(temperature, top_p, seed, repeat_penalty, stop)
    check_outputs([save_overlay], [bundle, video])
    if save_overlay:
        check_overlay(save_overlay)
    opened = Bundle.open(bundle)
    keep_share = opened.manifest.selector.retention if retention is None else retention
    keeps_all = (selector or opened.manifest.selector.name) == "all"
    most = 1.0 if compare or look_again or keeps_all else keep_share
    with Pipeline(
        opened,
        context=cells_needed(opened.manifest, steps, most, max_tokens),
        threads=threads,
        backend=backend,
        provider=provider,
        full_encoder=full_encoder,
        threshold=change_threshold,
    ) as pipeline:
        chosen = pipeline.selector(selector, question=question)
        with progress_bar() as progress:
            reading = progress.add_task("reading and encoding", total=100)

            def read(share: float) -> None:
                progress.update(reading, completed=round(100 * share))

            def show(piece: str) -> None:
                progress.stop()
                print_piece(piece)

            encode = comparison.clip_reader(pipeline, video, steps, read)
            if compare:
                task = progress.add_task("pruned and unpruned, in turns", total=2 * runs)
                result = comparison.compare(
                    pipeline,
                    encode,
                    question,
                    selector=chosen,
                    retention=keep_share,
                    max_tokens=max_tokens,
                    sampling=generated,
                    runs=runs,
                    on_run=lambda: progress.advance(task),
                )
                reply = result.pruned
            else:
                reply = comparison.ask(
                    pipeline,
                    encode,
                    question,
                    selector=chosen,
                    retention=keep_share,
                    max_tokens=max_tokens,
                    sampling=generated,
                    runs=runs,
                    sure=look_again,
                    on_text=(lambda piece: None) if as_json else show,
                )
        runs_on = describe_pipeline(pipeline)
    if as_json:
        speed = {"unpruned": reply_json(result.unpruned), "speedup": result.speedup} if compare else {}
        print_json({"question": question, **reply_json(reply), **speed, "runs_on": runs_on.to_json()})
    else:
        if compare:
            out.print(comparison_table(result))
        else:
            print()
        err.print(f"{answer_line(reply, times=not compare)} · {runs_on}", soft_wrap=True)
    if save_overlay:  # last: the answer is shown whatever becomes of the picture
        grid = opened.manifest.vision.token_grid
        keeps, encoded = (list(mask.reshape(-1, grid.height, grid.width)) for mask in (reply.keep, reply.encoded))
        write_overlay(save_overlay, reply.frames, keeps, encoded=encoded)
        say("overlay", "bold", f"kept tokens painted into {save_overlay}")


@app.command()
def stream(
    context_: typer.Context,
    bundle: BundleArgument,
    source: Annotated[
        list[str],
        typer.Option(
            help="A path, v4l2:///dev/video0, csi://0, rtsp://…, http(s)://…, synthetic://, or - (raw frames). "
            "Several cameras, each with a name: --source front=rtsp://… --source yard=csi://0."
        ),
    ],
    fps: Annotated[
        float | None, typer.Option(callback=finite, help="Frames per second to take. Default: the bundle's.")
    ] = None,
    retention: Retention = None,
    selector: SelectorName = None,
    ask: Annotated[str, typer.Option(help="A question to ask again and again.")] = "",
    every: Annotated[str, typer.Option(help="How often, in stream time: 500ms, 10s, 2m. Default 10s.")] = "",
    when_surprised: Annotated[
        bool, typer.Option("--when-surprised", help="Put the question of --ask when far more changed than usual.")
    ] = False,
    full_encoder: FullEncoder = False,
    change_threshold: ChangeThreshold = None,
    context: Annotated[
        int, typer.Option(min=1, help="Tokens in the KV cache, at most the bundle's: video, question, answer.")
    ] = 4096,
    memory: Annotated[
        Literal["kept", "newest"],
        typer.Option(help="What is remembered: kept tokens, or the newest steps entirely (the baseline to beat)."),
    ] = "kept",
    window: Annotated[int, typer.Option(min=1, help="Newest steps that are remembered, as far as cells allow.")] = 64,
    pinned: Annotated[
        float,
        typer.Option(
            min=0, max=0.9, callback=finite, help="Share of the memory for the most surprising tokens of older steps."
        ),
    ] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    repeat_penalty: RepeatPenalty = None,
    stop: Stop = None,
    threads: Threads = None,
    backend: BackendName = "llama.cpp",
    provider: ProviderName = "auto",
    record: Annotated[Path | None, typer.Option(help="Record what is seen, kept tokens painted: out.mp4.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per event on stdout.")] = False,
) -> None:
    """Watch cameras without end; type a question at any time, to one of several as in "front> what moved?"."""
    from score_edge.bundle.folder import Bundle
    from score_edge.cli import live_panel, typed_questions
    from score_edge.cli.camera_names import named_sources
    from score_edge.runtime.live.events import Answered
    from score_edge.runtime.live.recorder import Recorder
    from score_edge.runtime.live.stream import Stream, StreamOptions
    from score_edge.runtime.pipeline import Pipeline
    from score_edge.runtime.runs_on import describe_pipeline
    from score_edge.runtime.sources.open_source import open_source
    from score_edge.selection.registry import knows_question

    every_s = seconds(every or "10s") if every or (ask and not when_surprised) else 0.0
    if not ask.strip():
        refuse_unused(context_, "without a question in --ask", "ask", "every", "when_surprised")
    if full_encoder:
        refuse_unused(context_, "with --full-encoder", "change_threshold")
    refuse_retention_of_all(retention, selector)
    if memory == "newest":
        refuse_unused(context_, "with --memory newest", "retention", "selector", "pinned")
    if knows_question(selector):
        refuse_unused(context_, "with --selector score-query", "pinned")
    addresses = named_sources(source)
    several = len(addresses) > 1
    records = {name: record.with_stem(f"{record.stem}-{name}") if several else record for name in addresses if record}
    check_outputs(records.values(), [bundle, *(address.raw() for address in addresses.values())])
    opened = Bundle.open(bundle)
    options = StreamOptions(
        fps=fps,
        retention=retention,
        selector=selector,
        memory=memory,
        window=window,
        pinned=pinned,
        question=ask,
        every_s=every_s,
        when_surprised=when_surprised,
        max_tokens=max_tokens,
        sampling=sampling(temperature, top_p, seed, repeat_penalty, stop),
    )
    vision = opened.manifest.vision
    steps_per_second = (fps or vision.fps) / vision.frames_per_step
    recorders = [Recorder(path, vision.token_grid, steps_per_second, name) for name, path in records.items()]
    with contextlib.ExitStack() as opening:
        frames = {name: opening.enter_context(open_source(address)) for name, address in addresses.items()}
        pipeline = opening.enter_context(
            Pipeline(
                opened,
                context=min(context, opened.manifest.language.context),
                threads=threads,
                backend=backend,
                full_encoder=full_encoder,
                threshold=change_threshold,
                # One more, for a question to all of them.
                sequences=len(frames) + 1 if several else 1,
                provider=provider,
            )
        )
        watching = Stream(pipeline, frames, options)
        for recorder in recorders:
            watching.listen(opening.enter_context(contextlib.closing(recorder)))
        whys: list[str] = []
        watching.listen(lambda event: whys.append(event.why) if isinstance(event, Answered) else None)
        with typed_questions.signals(watching):
            live_panel.watch(
                watching,
                ", ".join(f"{name}={address}" if name else str(address) for name, address in addresses.items()),
                vision.token_grid.width,
                out,
                as_json=as_json,
                runs_on=describe_pipeline(pipeline),
                takes_questions=all(address.scheme != "-" for address in addresses.values()),
            )
        if ask and not {"every", "surprise"} & set(whys):
            due = [f"every {every_s:g} s"] * bool(every_s) + ["when something surprises"] * when_surprised
            say("note", "bold", f"--ask was never due: it is asked {' and '.join(due)}")


@app.command()
def demo(
    source: Annotated[str | None, typer.Option(help="Your own video instead of a rendered clip.")] = None,
    overlay: Annotated[Path, typer.Option(help="Where the picture of the kept tokens goes.")] = Path(
        "score-edge-demo.png"
    ),
    as_json: Json = False,
) -> None:
    """The whole chain on the shipped bundle: pruned beside unpruned, right answers, speed, and a picture."""
    from score_edge.cli.tables import demo_report
    from score_edge.evaluation.demo import run_demo
    from score_edge.runtime.overlay import check_overlay

    check_outputs([overlay], [source])
    check_overlay(overlay)
    with progress_bar() as progress:
        task = progress.add_task("demo", total=None)
        result = run_demo(source, overlay, on_stage=lambda stage: progress.update(task, description=stage))
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        for part in demo_report(result):
            out.print(part)
    if result.problem:
        raise ScoreEdgeError(result.problem, "the figures above are complete; only the picture is missing")
