"""What the commands share: options of one meaning, and what is refused about options before anything starts."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from score_edge.errors import ScoreEdgeError

if TYPE_CHECKING:
    from score_edge.runtime.language.sampling import Sampling

_UNITS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|s|m|h|)")


def finite(value: float | None) -> float | None:
    """For every option that is a number: bounds let `nan` through."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number to work with")
    return value


def not_reference(folder: Path | None) -> Path | None:
    """Refuse to write a bundle under the name by which every command takes the shipped one."""
    if str(folder) == "reference":
        raise typer.BadParameter("'reference' is the shipped bundle in every command: choose another name")
    return folder


BundleArgument = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="Bundle folder, or 'reference' for the shipped one.")
]
BundleOut = Annotated[
    Path, typer.Option("--out", "-o", metavar="BUNDLE", callback=not_reference, help="The bundle to write.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Retention = Annotated[
    float | None,
    typer.Option(
        min=0.001, max=1, callback=finite, help="Share of visual tokens to keep, 0.1 = 10 %. Default: the bundle's."
    ),
]
SelectorName = Annotated[str | None, typer.Option("--selector", help="What scores the tokens. Default: the bundle's.")]
ProviderName = Annotated[
    Literal["auto", "tensorrt", "cuda", "cpu"],
    typer.Option("--provider", help="What runs the encoder. auto: the first of these that works here."),
]
BackendName = Annotated[
    str,
    typer.Option("--backend", help="What runs the language model: llama.cpp, or tensorrt-llm:FOLDER of an engine."),
]
FullEncoder = Annotated[
    bool, typer.Option("--full-encoder", help="Encode every cell of every frame, not only those that changed.")
]
ChangeThreshold = Annotated[
    float | None,
    typer.Option(
        "--change-threshold",
        min=0,
        callback=finite,
        help="Grey levels that a cell must change by to be encoded again. Default: the bundle's.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads. Default: as many as CPUs are free at any time."),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", min=0, max=100, callback=finite, help="How freely to draw; 0: the likeliest token."),
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", min=0, max=1, callback=finite, help="Draw from the likeliest tokens of this probability."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of the draws. Default: another one each time.")]
RepeatPenalty = Annotated[
    float | None,
    typer.Option("--repeat-penalty", min=0.01, max=100, callback=finite, help="1.1 makes repetition less likely."),
]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="A text that ends the answer; again for each.")]


def sampling(
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    repeat_penalty: float | None,
    stop: list[str] | None,
) -> "Sampling":
    """How to generate an answer; what was not given is as `Sampling` has it."""
    from score_edge.runtime.language.sampling import Sampling

    if not temperature and (top_p is not None or seed is not None):
        option = "--top-p" if top_p is not None else "--seed"
        raise typer.BadParameter(f"{option} does nothing without --temperature: the likeliest token is taken")
    return Sampling(
        temperature or 0.0,
        1.0 if top_p is None else top_p,
        seed,
        1.0 if repeat_penalty is None else repeat_penalty,
        tuple(stop or ()),
    )


def numbers(text: str, kind: type) -> tuple[Any, ...]:
    """A comma-separated list of finite numbers."""
    try:
        found = tuple(kind(part) for part in text.split(","))
    except (ValueError, OverflowError):
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise typer.BadParameter(f"{text!r} is not a list like 1,0.25,0.1")
    return found


def seconds(text: str) -> float:
    """A duration above 0 like 500ms, 10s, 2m or 1h; a number alone is seconds."""
    found = _DURATION.fullmatch(text.strip())
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"{text!r} is not a time like 500ms, 10s, 2m or 1h")
    return value


def refuse_unused(context: typer.Context, why: str, *options: str) -> None:
    """Refuse options that were given and would do nothing.

    Args:
        context: of the command.
        why: completes "--every does nothing …", for example "without --ask".
        options: names of the command's parameters.
    """
    for name in options:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = next(parameter.opts[0] for parameter in context.command.params if parameter.name == name)
            raise typer.BadParameter(f"{option} does nothing {why}")


def refuse_retention_of_all(retention: float | None, selector: str | None) -> None:
    """The selector `all` keeps every token, whatever share is asked for."""
    if selector == "all" and retention is not None and retention < 1:
        raise typer.BadParameter("--retention does nothing with --selector all, which keeps every token")


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[str | Path | None]) -> None:
    """Refuse files to write that cannot be written, that are read by the same command, or that are one and the same.

    Args:
        outputs: of the command, before anything long starts.
        inputs: its sources, bundles and files, as the user named them.
    """
    from score_edge.bundle.atomic import check_writable

    given = [path for path in outputs if path is not None]
    if len({path.resolve() for path in given}) < len(given):
        raise ScoreEdgeError("two outputs have the same name", "give each a file of its own")
    read = [Path(str(source).removeprefix("file://")) for source in inputs if source is not None]
    for path in given:
        check_writable(path, read)
