"""Starting a server and ending it."""

import contextlib
import signal
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
    with opened(bundle, options) as server:
        config = connection_config(server.app)
        config.host, config.port = options.host, options.port
        try:
            sock = config.bind_socket()
        except SystemExit:
            raise ScoreEdgeError(
                f"{options.host}:{options.port} cannot be listened at",
                "is it taken? --port 0 takes a free one",
            ) from None
        sock.listen()  # whoever reads the address may connect
        host = f"[{options.host}]" if ":" in options.host else options.host
        on_ready(f"http://{host}:{sock.getsockname()[1]}", server.pipeline)
        _Uvicorn(config, server).run(sockets=[sock])


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
