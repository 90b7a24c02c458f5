"""Cameras and network streams: they come and go, so they are opened again for as long as anybody listens."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from score_edge.core import Frame, Uint8
from score_edge.errors import ScoreEdgeError
from score_edge.install import gstreamer_command, on_jetson
from score_edge.runtime.sources.base import Source, uri_options, whole_number
from score_edge.runtime.sources.files import quiet_cv2, rgb

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
OPEN_MS: Final = 15000  # FFmpeg alone looks at a stream for five seconds before it knows what it is
SILENT_MS: Final = 5000
"""Without a frame for this long a network stream is lost."""
_BROKEN_IN_A_ROW: Final = 30
_GRABS: Final = 3


class Camera(Source):
    """A live source. Times are those of arrival: a camera's own clock jumps, also backwards, when it restarts.

    Args:
        name: what messages call it.
        connect: opens a capture of OpenCV; one that is not opened when there is nothing.
        hint: what to do when the first attempt fails.

    Attributes:
        broken: frames that came and could not be decoded; they are passed over.
        reconnects: how often the signal came back.

    Raises:
        ScoreEdgeError: there is nothing at the beginning. What is lost later is waited for.
    """

    live = True

    def __init__(self, name: str, connect: Callable[[], Any], hint: str) -> None:
        self._name, self._connect = name, connect
        self._closed = threading.Event()
        self._reading = False
        self.broken = self.reconnects = 0
        self._capture = connect()
        if not self._capture.isOpened() or not self._capture.grab():
            self._capture.release()
            raise ScoreEdgeError(f"{name} gives no picture", hint)

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """Due frames, without end until `close`; after an interruption the first one says so."""
        self._reading = True
        began, index, gap, bad = time.monotonic(), 0, False, 0
        try:
            grabbed = True
            while not self._closed.is_set():
                if not grabbed or bad >= _BROKEN_IN_A_ROW:
                    if not self._reconnect():
                        return
                    gap, bad = True, 0
                time_s = time.monotonic() - began
                if due(time_s):
                    image = self._decode()
                    if image is None:
                        bad += 1
                        self.broken += 1
                    else:
                        yield Frame(image, time_s, index, gap)
                        gap, bad = False, 0
                index += 1
                # A packet that cannot be decoded looks like the end; only if it goes on is the signal lost.
                grabbed = any(self._capture.grab() for _ in range(_GRABS))
        finally:
            self._capture.release()

    def close(self) -> None:
        """Make `read` end; it frees the decoder itself, which another thread must not do while it decodes."""
        self._closed.set()
        if not self._reading:
            self._capture.release()

    def _decode(self) -> Uint8 | None:
        decoded, image = self._capture.retrieve()
        if not decoded or image is None or not image.size:
            return None
        return rgb(image) if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)

    def _reconnect(self) -> bool:
        """Try until there is a frame again; False when closed meanwhile."""
        wait, tries = FIRST_WAIT_S, 0
        while not self._closed.is_set():
            tries += 1
            self.state = f"no signal from {self._name}, attempt {tries} to reconnect"
            self._capture.release()
            if self._closed.wait(wait):
                break
            wait = min(2 * wait, LONGEST_WAIT_S)
            self._capture = self._connect()
            if self._capture.isOpened() and self._capture.grab():
                self.reconnects += 1
                self.state = ""
                return True
        return False


def open_camera(uri: str) -> Source:
    """Open ``v4l2://``, ``csi://``, ``rtsp://``, ``rtsps://``, ``http://`` or ``https://``.

    Raises:
        ScoreEdgeError: there is no such camera or stream, or OpenCV was built without what it takes.
    """
    scheme = urlsplit(uri).scheme.lower()
    return {"v4l2": _open_v4l2, "csi": _open_csi}.get(scheme, _open_network)(uri)


def csi_pipeline(sensor: int, width: int, height: int, fps: int) -> str:
    """GStreamer's words for a CSI camera on a Jetson: frames stay in NVIDIA's memory until they are BGRx."""
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1,format=NV12 ! "
        "nvvidconv ! video/x-raw,format=BGRx ! queue leaky=downstream max-size-buffers=1 ! "
        "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )


def rtsp_pipeline(uri: str, jetson: bool) -> str:
    """GStreamer's words for a network camera; on a Jetson decodebin takes the hardware decoder."""
    convert = "nvvidconv ! video/x-raw,format=BGRx ! videoconvert" if jetson else "videoconvert"
    return (
        f'rtspsrc location="{uri}" latency=100 protocols=tcp ! decodebin ! '
        f"queue leaky=downstream max-size-buffers=1 ! {convert} ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )


def has_gstreamer() -> bool:
    """Whether the installed OpenCV was built with GStreamer; the wheels of PyPI are not."""
    return re.search(r"GStreamer:\s+YES", quiet_cv2().getBuildInformation()) is not None


def _open_v4l2(uri: str) -> Source:
    place = urlsplit(uri)
    path = Path(f"/{(place.netloc + place.path).lstrip('/')}")
    if not path.exists():
        cameras = ", ".join(f"v4l2://{camera}" for camera in sorted(Path("/dev").glob("video*")))
        raise ScoreEdgeError(f"there is no camera at {path}", f"there are: {cameras}" if cameras else "plug one in")
    cv2 = quiet_cv2()
    options = uri_options(uri, {"width": "", "height": ""})
    size = {name: whole_number(uri, name, text) for name, text in options.items() if text}

    def connect() -> Any:
        capture = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
        for name, value in size.items():
            capture.set(getattr(cv2, f"CAP_PROP_FRAME_{name.upper()}"), value)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture

    return Camera(str(path), connect, "is it a camera, free, and may you open it (group video)?")


def _open_csi(uri: str) -> Source:
    options = uri_options(uri, {"width": "1280", "height": "720", "fps": "30"})
    width, height, fps = (whole_number(uri, name, options[name]) for name in ("width", "height", "fps"))
    sensor = whole_number(uri, "sensor", urlsplit(uri).netloc or "0")
    if not has_gstreamer():
        raise ScoreEdgeError(
            "a CSI camera needs an OpenCV built with GStreamer, and the installed one is not",
            gstreamer_command(),
        )
    cv2 = quiet_cv2()
    pipeline = csi_pipeline(sensor, width, height, fps)
    hint = "is the ribbon cable in, and is nvargus-daemon running?"
    return Camera(f"csi://{sensor}", lambda: cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER), hint)


def _open_network(uri: str) -> Source:
    cv2 = quiet_cv2()
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, SILENT_MS]
    through_gstreamer = urlsplit(uri).scheme.lower().startswith("rtsp") and has_gstreamer()

    def connect() -> Any:
        if through_gstreamer:
            return cv2.VideoCapture(rtsp_pipeline(uri, on_jetson()), cv2.CAP_GSTREAMER)
        return cv2.VideoCapture(uri, cv2.CAP_FFMPEG, timeouts)

    return Camera(
        _without_password(uri), connect, "check the address, name and password, and that it is a video stream"
    )


def _without_password(uri: str) -> str:
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", uri)
