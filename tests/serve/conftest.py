"""A real server on loopback over the shipped bundle, and pictures of a camera that sees the reference world."""

import base64
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import pytest

from score_edge.reference import world

pytest.importorskip("llama_cpp")
pytest.importorskip("fastapi")


@contextmanager
def _served(**options: Any) -> Iterator[str]:
    import uvicorn

    from score_edge.bundle.folder import Bundle
    from score_edge.serve.connections import connection_config
    from score_edge.serve.options import ServeOptions
    from score_edge.serve.run import opened

    with opened(Bundle.open("reference"), ServeOptions(**{"threads": 1, **options})) as server:
        config = connection_config(server.app)
        config.port = 0
        sock = config.bind_socket()
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        running.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def served() -> Callable[..., Any]:
    """``with served(key=...) as address:`` runs a server with these options."""
    return _served


@pytest.fixture(scope="module")
def address(served: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a media folder that holds clip.mp4 and notes.mp4, which is none; beside it secret.mp4."""
    with served(media_root=str(_videos(tmp_path_factory.mktemp("media")))) as found:
        yield found


def _videos(folder: Any) -> Any:
    inside = folder / "inside"
    inside.mkdir()
    for path in (inside / "clip.mp4", folder / "secret.mp4"):
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), world.FPS, (world.SIZE, world.SIZE))
        for image in world.make_clip(world.TEST_SEED, 1, 8).images:
            writer.write(image[..., ::-1])
        writer.release()
    (inside / "link.mp4").symlink_to(folder / "secret.mp4")
    (inside / "notes.mp4").write_text("no video")
    return inside


@pytest.fixture(scope="session")
def frames() -> list[str]:
    """20 JPEG frames of one scene, as data URIs."""
    return [data_uri(image) for image in world.make_clip(world.TEST_SEED, 1, 10).images]


def data_uri(image: Any, suffix: str = "jpeg") -> str:
    encoded = cv2.imencode(f".{suffix}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    return f"data:image/{suffix};base64,{base64.b64encode(encoded).decode()}"


@pytest.fixture(scope="session")
def as_uri() -> Callable[..., str]:
    """(H, W, 3) RGB -> data URI."""
    return data_uri
