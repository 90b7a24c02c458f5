"""The command that serves."""

import difflib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from score_edge.cli.camera_names import named_sources
from score_edge.cli.options import (
    BundleArgument,
    Retention,
    SelectorName,
    Threads,
    finite,
    refuse_retention_of_all,
    refuse_unused,
)
from score_edge.cli.terminal import err, say
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.sources.address import Address

app = typer.Typer()


@app.command()
def serve(
    context_: typer.Context,
    bundle: BundleArgument,
    host: Annotated[str | None, typer.Option(help="Address to listen at. Default: 127.0.0.1, this machine.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one. Default: 8090.")] = None,
    key: Annotated[
        str | None,
        typer.Option(envvar="SCORE_EDGE_KEY", help="What every request must bring; required where others can connect."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="A camera to watch, with a name: front=rtsp://…; again for each. See stream --source."),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(callback=finite, help="Frames per second of each camera. Default: the bundle's.")
    ] = None,
    alert_above: Annotated[
        float | None,
        typer.Option(min=0.1, callback=finite, help="Kept tokens over their usual number that alert. Default: 3."),
    ] = None,
    when_surprised: Annotated[str | None, typer.Option(help="A question to ask the camera at every alert.")] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(
            envvar="SCORE_EDGE_MQTT",
            help="Broker to publish cameras at, for Home Assistant to discover: mqtt://user:password@host:1883/prefix",
        ),
    ] = None,
    media_root: Annotated[
        str | None, typer.Option(help="Folder whose videos requests may name. Default: they may name none.")
    ] = None,
    retention: Retention = None,
    selector: SelectorName = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="KV cells of each clip, at most the bundle's. Default: 4096.")
    ] = None,
    clips: Annotated[
        int | None, typer.Option(min=1, help="Clips that stay prefilled for another question. Default: 2.")
    ] = None,
    waiting: Annotated[int | None, typer.Option(min=0, help="Requests at most that wait. Default: 8.")] = None,
    deadline_s: Annotated[
        float | None, typer.Option(min=0.1, callback=finite, help="Longest a request may take. Default: 120.")
    ] = None,
    body_mb: Annotated[int | None, typer.Option(min=1, help="Largest request, MiB. Default: 32.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Pictures of a request at most. Default: 64.")] = None,
    pixels_m: Annotated[
        float | None, typer.Option(min=0.001, callback=finite, help="Million pixels of a picture. Default: 16.")
    ] = None,
    threads: Threads = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with the same names: port = 8090.")] = None,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Print a systemd unit that serves so, without key and password, and end.")
    ] = False,
) -> None:
    """Watch cameras, and answer OpenAI's chat requests: Frigate, Home Assistant, your own programs."""
    from score_edge.bundle.folder import Bundle
    from score_edge.runtime.runs_on import describe_pipeline
    from score_edge.serve.options import read_options
    from score_edge.serve.run import serve as run
    from score_edge.serve.systemd import systemd_unit

    _say_misspelt()
    others = ("bundle", "config", "systemd", "source")
    named = {name: value for name, value in context_.params.items() if name not in others}
    given = {name: value for name, value in named.items() if value is not None}
    if source:
        addresses = named_sources(source)
        given["source"] = {name or "camera": address.raw() for name, address in addresses.items()}
    options = read_options(config, given)
    if not options.source:
        refuse_unused(context_, "without a camera in --source", "fps", "alert_above")
    refuse_retention_of_all(options.retention, options.selector)
    if systemd:
        print(systemd_unit(_arguments(bundle, config, given)), end="")
        return
    run(
        Bundle.open(bundle),
        options,
        lambda address, pipeline: err.print(
            f"{bundle} at {address}/v1 · page at {address}/ · {describe_pipeline(pipeline)} · Ctrl-C ends it",
            soft_wrap=True,
        ),
    )


def _say_misspelt() -> None:
    """Name variables of the environment that are nearly ours: one that is misspelt does nothing, silently."""
    ours = ("KEY", "MQTT")
    for name in sorted(os.environ):
        given = name.removeprefix("SCORE_EDGE_")
        if given != name and given not in ours and (close := difflib.get_close_matches(given, ours, n=1)):
            say("note", "bold", f"{name} is not read; did you mean SCORE_EDGE_{close[0]}?")


def _arguments(bundle: str, config: Path | None, given: dict[str, Any]) -> list[str]:
    """The same command with absolute paths and without key and password, which everybody could read there."""
    from score_edge.serve.mqtt_address import Broker

    found = [sys.executable, "-c", "from score_edge.cli import main; main()", "serve"]
    found += [bundle if bundle == "reference" else str(Path(bundle).resolve())]
    if config is not None:
        found += ["--config", str(config.resolve())]
    for name, value in given.items():
        if name == "source":
            found += [word for camera, raw in value.items() for word in ("--source", f"{camera}={_public(raw)}")]
        elif name != "key" and not (name == "mqtt" and Broker.parse(value).password):
            shown = Path(value).resolve() if name == "media_root" else value
            found += [f"--{name.replace('_', '-')}", str(shown)]
    return found


def _public(raw: str) -> str:
    """An address for everybody to read, absolute where it is a path."""
    address = Address(raw)
    if "***" in str(address):
        hint = "write it into a file that only you can read: --config serve.toml with [source] front = 'rtsp://...'"
        raise ScoreEdgeError(f"{address} may hold a password, and every user of this machine can read a unit", hint)
    return raw if "://" in raw or address.path is None else str(address.path.resolve())
