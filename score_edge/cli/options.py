"""What the commands share: options of one meaning, progress, output."""

import json
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
ProviderName = Annotated[
    Literal["auto", "tensorrt", "cuda", "cpu"],
    typer.Option("--provider", help="What runs the encoder. auto: the first of these that works here."),
]
BackendName = Annotated[
    str,
    typer.Option("--backend", help="What runs the language model: llama.cpp, or tensorrt-llm:FOLDER of an engine."),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads. Default: as many as CPUs are free at any time."),
]


def progress_bar() -> Progress:
    """A bar on stderr; nothing where that is no terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def numbers(text: str, kind: type) -> tuple[Any, ...]:
    """A comma-separated list."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list like 1,0.25,0.1") from None


def seconds(text: str) -> float:
    """A duration like 10s, 2m or 1h."""
    number, unit = text.rstrip("smh"), text[-1:]
    try:
        return float(number) * {"m": 60.0, "h": 3600.0}.get(unit, 1.0)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time like 10s, 2m or 1h") from None


def print_json(value: Any) -> None:
    """One line on stdout."""
    print(json.dumps(value, ensure_ascii=False))
