"""Starting a server and ending it."""

import contextlib
from collections.abc import Callable, Iterator

import uvicorn

from score_edge.bundle.folder import Bundle
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.pipeline import Pipeline
from score_edge.serve.app import Server
from score_edge.serve.engine import Engine
from score_edge.serve.options import ServeOptions

_LINGER_S = 5


@contextlib.contextmanager
def opened(bundle: Bundle, options: ServeOptions) -> Iterator[Server]:
    """A server over a bundle, not listening yet."""
    context = min(options.context, bundle.manifest.language.context)
    with Pipeline(bundle, context=context, threads=options.threads, sequences=options.clips) as pipeline:
        engine = Engine(pipeline, options.clips, options.selector, options.retention)
        try:
            yield Server(engine, options)
        finally:
            engine.close()


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
        config = uvicorn.Config(
            server.app,
            log_level="error",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_LINGER_S,
            h11_max_incomplete_event_size=64 << 10,
        )
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
        uvicorn.Server(config).run(sockets=[sock])
