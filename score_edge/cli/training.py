"""Commands that train."""

from pathlib import Path
from typing import Annotated, Any

import typer

from score_edge.bundle.atomic import check_writable, only_writer
from score_edge.cli.options import BackendName, ProviderName, finite, refuse_unused
from score_edge.cli.terminal import err, progress_bar
from score_edge.errors import ScoreEdgeError

app = typer.Typer()

Bundle = Annotated[str, typer.Option(metavar="BUNDLE", help="Bundle to learn for.")]
Videos = Annotated[Path | None, typer.Option(help="Folder of footage to learn from. Default: the reference world.")]
Questions = Annotated[
    Path | None,
    typer.Option(help='JSON lines {"video", "question", "answer"}; without answers the model\'s own are taken.'),
]
Worlds = Annotated[
    str, typer.Option("--world", help="Comma-separated regimes of the reference world, as of `evaluate`, or all.")
]
LearningRate = Annotated[float | None, typer.Option(min=0, callback=finite, help="Of Adam.")]
ClipSteps = Annotated[int | None, typer.Option(min=2, help="Encoder steps of a clip.")]
Scenes = Annotated[int | None, typer.Option(min=1, help="Different clips to learn from.")]
CacheMb = Annotated[int | None, typer.Option(min=1, help="MiB of visual tokens on disk, per stage.")]
Checkpoint = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Folder or hub id that the bundle was exported from; reference needs none."),
]
Device = Annotated[str, typer.Option(help="Of the language model in torch: cpu, cuda, or auto.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
Seed = Annotated[int | None, typer.Option(help="Of everything random.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")]


def _given(**options: Any) -> dict[str, Any]:
    """Those that were named; the rest is as the recipe has it."""
    return {name: value for name, value in options.items() if value is not None}


def _check_device(device: str) -> None:
    if device not in ("auto", "cpu", "cuda"):
        raise ScoreEdgeError(f"there is no device {device!r}", "cpu, cuda, or auto")


def _check_places(bundle: str, folder: Path) -> None:
    """Refuse, before torch is loaded, what could not be written or would be written over."""
    if Path(bundle).resolve() == (folder / "bundle").resolve():
        raise ScoreEdgeError(f"{bundle} would be overwritten by the bundle that is written", "name another --out")
    check_writable(folder / "metrics.jsonl")


def _data(
    context_: typer.Context, videos: Path | None, questions: Path | None, worlds: str, **numbers: int | None
) -> Any:
    """What is learned from, without stills; videos leave nothing to say about the world."""
    if videos:
        refuse_unused(context_, "with --videos, all of which are learned from", "scenes")
        refuse_unused(context_, "with --videos", "worlds")
    from score_edge.learning.data import Data
    from score_edge.reference.nuisance import read_regimes

    return Data(videos, questions, worlds=read_regimes(worlds), **_given(**numbers))


@app.command("reference")
def train_reference(
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for weights, metrics and the finished bundle.")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    start: Annotated[
        str | None, typer.Option(metavar="BUNDLE", help="A reference bundle to go on from, with the long stage alone.")
    ] = None,
    device: Annotated[str, typer.Option(help="Of the long stage: cpu, cuda, or auto.")] = "auto",
) -> None:
    """Train the shipped reference model from nothing and write its bundle; a run that was cut off goes on."""
    _check_device(device)
    check_writable(folder / "metrics.jsonl")
    with only_writer(folder):
        _train_reference(folder, threads, start, device)


def _train_reference(folder: Path, threads: int, start: str | None, device: str) -> None:
    """Go on from whatever the folder holds."""
    from safetensors.torch import load_file

    from score_edge.bundle.folder import Bundle
    from score_edge.learning.long_training import pick_device, train_long
    from score_edge.learning.reference_bundle import read_reference_bundle, write_reference_bundle
    from score_edge.learning.reference_model import reading_weights

    device = pick_device(device)  # not after the first stages
    trained, state = folder / "long" / "model.safetensors", folder / "long" / "state.safetensors"
    if trained.exists() and not state.exists():
        if start is not None:
            raise ScoreEdgeError(f"{folder} already holds a run", "choose another folder")
        bundle = write_reference_bundle(trained, folder / "bundle", overwrite=True)
        err.print(f"trained already; bundle written to {bundle.folder}", soft_wrap=True)
        return
    if start is not None:
        weights = read_reference_bundle(Bundle.open(start))
    elif state.exists():
        if not (folder / "model.safetensors").exists():
            raise ScoreEdgeError(f"the run in {folder} went on from a bundle", "name it again, with --start")
        with reading_weights(folder / "model.safetensors"):
            weights = load_file(folder / "model.safetensors")
    else:
        weights = load_file(_train_short(folder, threads))
    with progress_bar() as progress:
        task = progress.add_task("long clips", total=1.0)

        def on_row(row: dict[str, Any]) -> None:
            shown = " ".join(f"{name} {row[name]:.2f}" for name in ("mean", "lowest", "whole", "shape") if name in row)
            progress.update(task, completed=row.get("share", 0.0), description=shown or "long clips")

        trained = train_long(folder / "long", weights, device, threads, on_row)
    bundle = write_reference_bundle(trained, folder / "bundle", overwrite=True)
    err.print(f"bundle written to {bundle.folder}", soft_wrap=True)


def _train_short(folder: Path, threads: int) -> Path:
    """The first two stages."""
    from score_edge.learning.reference_training import ReferenceRecipe
    from score_edge.learning.reference_training import train_reference as train

    recipe = ReferenceRecipe(threads=threads)
    with progress_bar() as progress:
        task = progress.add_task("training", total=recipe.see_steps + recipe.answer_steps)

        def on_step(row: dict[str, float]) -> None:
            shown = " ".join(
                f"{name} {value:.2f}" for name, value in row.items() if name in ("loss", "whole", "pruned")
            )
            progress.update(task, completed=row["step"] + (row["stage"] == 2) * recipe.see_steps, description=shown)

        return train(folder, recipe, on_log=on_step)


@app.command("policy")
def train_policy(
    context_: typer.Context,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for policy, metrics, checkpoint and bundle.")],
    bundle: Bundle = "reference",
    videos: Videos = None,
    questions: Questions = None,
    images: Annotated[Path | None, typer.Option(help="Folder of stills for stage 1.")] = None,
    worlds: Worlds = "plain",
    steps: Annotated[int | None, typer.Option(min=1, help="Updates of the policy.")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Clips per update, over all processes.")] = None,
    rollouts: Annotated[int | None, typer.Option(min=2, help="Masks per clip.")] = None,
    advantage: Annotated[str | None, typer.Option(help="split or product.")] = None,
    still_share: Annotated[
        float | None, typer.Option(min=0, max=1, callback=finite, help="Share of updates in stage 1.")
    ] = None,
    residual: Annotated[bool, typer.Option(help="Let the policy see the change from the step before.")] = True,
    warm_steps: Annotated[int | None, typer.Option(min=0, help="Of regression on the size of the change.")] = None,
    learning_rate: LearningRate = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="Width of the policy's hidden layer.")] = None,
    clip_steps: ClipSteps = None,
    scenes: Scenes = None,
    cache_mb: CacheMb = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per process.")] = None,
    seed: Seed = None,
    backend: BackendName = "llama.cpp",
    provider: ProviderName = "auto",
    resume: Resume = False,
) -> None:
    """Learn a policy for a bundle by reinforcement through the model it serves, and write the bundle that uses it."""
    if still_share == 0:
        refuse_unused(context_, "with --still-share 0", "images")
    if videos and not images:
        refuse_unused(context_, "with --videos, all of which are learned from", "scenes")
        still_share = 0.0 if still_share is None else still_share  # there are no stills
    if videos:
        refuse_unused(context_, "with --videos", "worlds")
    _check_places(bundle, folder)
    from score_edge.learning.data import Data
    from score_edge.learning.policy_run import learn_policy
    from score_edge.learning.recipe import PolicyRecipe
    from score_edge.reference.nuisance import read_regimes

    recipe = PolicyRecipe(
        **_given(steps=steps, clips=clips, rollouts=rollouts, still_share=still_share, seed=seed, advantage=advantage),
        **_given(warm_steps=warm_steps, learning_rate=learning_rate, hidden=hidden),
        residual=residual,
    )
    data = Data(
        videos,
        questions,
        images,
        worlds=read_regimes(worlds),
        **_given(clip_steps=clip_steps, scenes=scenes, cache_mb=cache_mb),
    )
    with progress_bar() as progress:
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
            backend=backend,
            provider=provider,
            resume=resume,
            threads=threads,
            on_clip=lambda done, total: progress.update(encoding, completed=done, total=total),
            on_log=on_log,
        )
    err.print(f"bundle written to {learned.folder}", soft_wrap=True)


@app.command("adapter")
def train_adapter(
    context_: typer.Context,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for adapter, metrics, checkpoint and bundle.")],
    bundle: Bundle = "reference",
    checkpoint: Checkpoint = None,
    videos: Videos = None,
    questions: Questions = None,
    worlds: Worlds = "plain",
    selector: Annotated[str | None, typer.Option(help="What keeps the tokens. Default: the bundle's.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, max=512, help="Of the adapter's matrices.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates of the adapter.")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Clips per update.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, callback=finite, help="Of Adam. Default: 0.384 / the hidden size.")
    ] = None,
    clip_steps: ClipSteps = None,
    scenes: Scenes = None,
    cache_mb: CacheMb = None,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = None,
    provider: ProviderName = "auto",
    resume: Resume = False,
) -> None:
    """Teach a bundle's language model to answer from few visual tokens as from all of them. Its weights stay."""
    _check_device(device)
    _check_places(bundle, folder)
    data = _data(context_, videos, questions, worlds, clip_steps=clip_steps, scenes=scenes, cache_mb=cache_mb)
    from score_edge.learning.adapter_run import learn_adapter
    from score_edge.learning.recipe import AdapterRecipe

    recipe = AdapterRecipe(
        **_given(steps=steps, clips=clips, rank=rank, learning_rate=learning_rate, selector=selector, seed=seed)
    )
    with progress_bar() as progress:
        encoding = progress.add_task("clips prepared", total=None)
        task = progress.add_task("learning", total=recipe.steps)

        def on_log(row: dict[str, float]) -> None:
            progress.update(task, completed=row["step"])
            if "held" in row:
                progress.update(task, description=f"learning, {row['held']:.3f} nats held out")

        learned = learn_adapter(
            bundle,
            folder,
            recipe,
            data,
            checkpoint=checkpoint,
            device=device,
            provider=provider,
            resume=resume,
            threads=threads,
            on_clip=lambda done, total: progress.update(encoding, completed=done, total=total),
            on_log=on_log,
        )
    err.print(f"bundle written to {learned.folder}", soft_wrap=True)


@app.command("query")
def train_query(
    context_: typer.Context,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for policy, metrics, checkpoint and bundle.")],
    bundle: Bundle = "reference",
    checkpoint: Checkpoint = None,
    videos: Videos = None,
    questions: Questions = None,
    worlds: Worlds = "plain",
    steps: Annotated[int | None, typer.Option(min=1, help="Updates of the policy.")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Clips per update.")] = None,
    learning_rate: LearningRate = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="Width of the policy's hidden layers.")] = None,
    clip_steps: ClipSteps = None,
    scenes: Scenes = None,
    cache_mb: CacheMb = None,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = None,
    provider: ProviderName = "auto",
    resume: Resume = False,
) -> None:
    """Learn a policy that knows the question, for `--selector score-query`, and write the bundle with it."""
    _check_device(device)
    _check_places(bundle, folder)
    data = _data(context_, videos, questions, worlds, clip_steps=clip_steps, scenes=scenes, cache_mb=cache_mb)
    from score_edge.learning.query_run import learn_query
    from score_edge.learning.recipe import QueryRecipe

    recipe = QueryRecipe(**_given(steps=steps, clips=clips, learning_rate=learning_rate, hidden=hidden, seed=seed))
    with progress_bar() as progress:
        encoding = progress.add_task("clips prepared", total=None)
        task = progress.add_task("learning", total=recipe.steps)

        def on_log(row: dict[str, float]) -> None:
            progress.update(task, completed=row["step"])
            if "held" in row:
                shown = f"learning, a twentieth holds {row['held_share']:.0%} of the saliency"
                progress.update(task, description=shown)

        learned, answered = learn_query(
            bundle,
            folder,
            recipe,
            data,
            checkpoint=checkpoint,
            device=device,
            provider=provider,
            resume=resume,
            threads=threads,
            on_clip=lambda done, total: progress.update(encoding, completed=done, total=total),
            on_log=on_log,
        )
    err.print("how likely the answers about the clips held out are:")
    for row in answered:
        err.print(f"  {row.share:6.1%} of the tokens, {row.selector}: {row.probability:.3f}")
    err.print(f"bundle written to {learned.folder}", soft_wrap=True)
