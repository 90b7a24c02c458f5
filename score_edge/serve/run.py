"""Starting a server and ending it."""

import contextlib
import errno
import signal
import socket
import time
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from score_edge.bundle.folder import Bundle
from score_edge.errors import ScoreEdgeError
from score_edge.profiling.meters import open_meters
from score_edge.runtime.live.options import StreamOptions
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.address import Address
from score_edge.serve.app import Server
from score_edge.serve.connections import connection_config
from score_edge.serve.engine import Engine, GenerationRequest, Job
from score_edge.serve.lasting_source import LastingSource
from score_edge.serve.live import Live
from score_edge.serve.metrics import Metrics
from score_edge.serve.mqtt_address import Broker
from score_edge.serve.options import ServeOptions

_CAMERA_TOKENS = 256  # of an answer about a camera where none are asked for; that many cells are kept free

_HINTS: dict[int | None, str] = {
    errno.EADDRINUSE: "--port 0 takes a free one",
    errno.EACCES: "take a port above 1023: those below are the administrator's",
}


@contextlib.contextmanager
def opened(bundle: Bundle, options: ServeOptions) -> Iterator[Server]:
    """A server over a bundle, not listening yet; its cameras are watched already."""
    sources = {name: LastingSource(Address(address)) for name, address in options.source.items()}
    context = min(options.context, bundle.manifest.language.context)
    # One for each, and one more for a question to all of them; a lone camera is asked where it is.
    watched = len(sources) + (len(sources) > 1)
    watch = StreamOptions(
        fps=options.fps, retention=options.retention, selector=options.selector, max_tokens=_CAMERA_TOKENS
    )
    with contextlib.ExitStack() as stack:
        pipeline = stack.enter_context(
            Pipeline(bundle, context=context, threads=options.threads, sequences=options.clips + watched)
        )
        sequences = [pipeline.model.sequence() for _ in range(options.clips - (not sources))]
        engine = Engine(
            pipeline, sequences if sources else [pipeline.sequence, *sequences], options.selector, options.retention
        )
        stack.callback(engine.close)
        meters = open_meters()
        for meter in meters:
            stack.callback(meter.close)
        metrics = Metrics(meters)
        live = Live(pipeline, sources, watch, options.alert_above, options.when_surprised, [metrics.on_event])
        stack.callback(live.close)
        if options.mqtt:
            from score_edge.serve.mqtt import Publisher

            ask = _asker(live, options.deadline_s)
            stack.enter_context(Publisher(Broker.parse(options.mqtt), live.feed, live.names, bundle.manifest.name, ask))
        yield Server(engine, live, metrics, options)


def _asker(live: Live, deadline_s: float) -> Callable[[str, str], None]:
    """Asks a camera, or all of them; the answer is an event of the feed, what cannot be asked raises."""

    def ask(camera: str, question: str) -> None:
        live.check(camera)
        job = Job(GenerationRequest(None, question, camera=camera), lambda _: None, time.monotonic() + deadline_s)
        live.put(job)
        if job.done.done():
            job.done.result()

    return ask


def serve(bundle: Bundle, options: ServeOptions, on_ready: Callable[[str, Pipeline], None]) -> None:
    """Serve until a signal ends it.

    Args:
        bundle: to answer with.
        options: how.
        on_ready: called with the address once the model is open.

    Raises:
        ScoreEdgeError: the address is taken or not this machine's.
    """
    host, port = options.host, options.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with _refusing(host, port):
            sock.bind((host, port))
        with opened(bundle, options) as server:
            with _refusing(host, port):  # another server may have been opening, too
                sock.listen()  # whoever reads the address may connect
            shown = f"[{host}]" if ":" in host else host
            on_ready(f"http://{shown}:{sock.getsockname()[1]}", server.pipeline)
            _Uvicorn(connection_config(server.app), server).run(sockets=[sock])


@contextlib.contextmanager
def _refusing(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a machine
        hint = _HINTS.get(
            getattr(error, "errno", None), "--host 127.0.0.1 is this machine alone, 0.0.0.0 every address"
        )
        reason = getattr(error, "strerror", None) or error
        raise ScoreEdgeError(f"{host}:{port} cannot be listened at: {reason}", hint) from error


class _Uvicorn(uvicorn.Server):
    """Tells the server of the signal that ends it, and returns: uvicorn's own would raise it again and end all of us.

    A CSI camera that is not closed stays taken until its daemon is started again.
    """

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._told = server

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        self._told.stopping = True
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
