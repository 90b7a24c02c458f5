"""Cameras: they come and go, so they are opened again for as long as anybody listens."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from score_edge.core import Frame, Uint8
from score_edge.errors import ScoreEdgeError
from score_edge.install import gstreamer_command
from score_edge.runtime.sources.address import Address
from score_edge.runtime.sources.background import Background
from score_edge.runtime.sources.base import DecodedSource, Source
from score_edge.runtime.sources.opencv import quiet_cv2, rgb

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
SILENT_S: Final = 5.0
"""Without a frame for this long a camera is lost."""
_BROKEN_IN_A_ROW: Final = 30
_GRABS: Final = 3
_AT_ONCE_S: Final = 1.0
"""A grab that fails sooner met a bad packet; one that fails later waited for the network in vain."""


class Camera(DecodedSource):
    """A live source. Times are those of arrival: a camera's own clock jumps, also backwards, when it restarts.

    Args:
        name: what messages call it.
        connect: opens a capture of OpenCV; one that is not opened when there is nothing. Called in a thread that may
            be left behind.
        hint: what to do when the first attempt fails.

    Attributes:
        broken: frames that came and could not be decoded; they are skipped.
        reconnects: how often the signal came back.

    Raises:
        ScoreEdgeError: there is nothing at the beginning. What is lost later is waited for.
    """

    live = endless = True

    def __init__(self, name: str, connect: Callable[[], Any], hint: str) -> None:
        super().__init__()
        self._name, self._connect = name, connect
        self._lost = ""
        self._grabbing_since: float | None = None
        self.broken = self.reconnects = 0
        self.capture = self._attempt()
        if self.capture is None:
            raise ScoreEdgeError(f"{name} gives no picture", hint)
        self._opened = time.monotonic()

    @property
    def state(self) -> str:  # type: ignore[override]
        """What it is doing while it gives no frames; also said by whoever asks while the reading thread is stuck."""
        since = self._grabbing_since
        if not self._lost and since is not None and time.monotonic() - since > SILENT_S:
            return f"no picture from {self._name} for {SILENT_S:.0f} s"
        return self._lost

    def frames(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """Due frames, without end until `close`; after an interruption the first one says so."""
        if time.monotonic() - self._opened > SILENT_S:  # a model was loaded meanwhile: what is buffered shows the past
            self.free()
            self.capture = self._attempt()
        began, index, gap, bad = time.monotonic(), 0, False, 0
        grabbed = self.capture is not None
        while not self.closed.is_set():
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
                    image, gap, bad = None, False, 0
            index += 1
            grabbed = self._grab()

    def _grab(self) -> bool:
        """A packet that cannot be decoded looks like the end; only if it goes on, or takes long, is the signal lost."""
        try:
            for _ in range(_GRABS):
                self._grabbing_since = began = time.monotonic()
                if self.closed.is_set():
                    return False
                if self.capture.grab():
                    return True
                if time.monotonic() - began > _AT_ONCE_S:
                    return False
        finally:
            self._grabbing_since = None
        return False

    def _decode(self) -> Uint8 | None:
        decoded, image = self.capture.retrieve()
        if not decoded or image is None or not image.size:
            return None
        return rgb(image) if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)

    def _attempt(self) -> Any:
        """A capture that gave a picture, or None."""

        def connect() -> Any:
            capture = self._connect()
            if capture.isOpened() and capture.grab():
                return capture
            capture.release()
            return None

        return Background(connect, lambda capture: capture.release()).wait(self.closed)

    def _reconnect(self) -> bool:
        """Try until there is a frame again; False when closed meanwhile."""
        wait, tries = FIRST_WAIT_S, 0
        self.free()
        while not self.closed.is_set():
            tries += 1
            self._lost = f"no signal from {self._name}, attempt {tries} to reconnect"
            if self.closed.wait(wait):
                break
            wait = min(2 * wait, LONGEST_WAIT_S)
            self.capture = self._attempt()
            if self.capture is not None:
                self.reconnects += 1
                self._lost = ""
                return True
        return False


def open_camera(address: Address) -> Source:
    """Open ``v4l2://`` or ``csi://``.

    Raises:
        ScoreEdgeError: there is no such camera, or OpenCV was built without what it takes.
    """
    return _open_v4l2(address) if address.scheme == "v4l2" else _open_csi(address)


def csi_pipeline(sensor: int, width: int, height: int, fps: int) -> str:
    """GStreamer's words for a CSI camera on a Jetson: frames stay in NVIDIA's memory until they are BGRx."""
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1,format=NV12 ! "
        "nvvidconv ! video/x-raw,format=BGRx ! queue leaky=downstream max-size-buffers=1 ! "
        "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )


def has_gstreamer() -> bool:
    """Whether the installed OpenCV was built with GStreamer; the wheels of PyPI are not."""
    return re.search(r"GStreamer:\s+YES", quiet_cv2().getBuildInformation()) is not None


def _place(address: Address) -> str:
    return address.raw().partition("://")[2].partition("?")[0]


def _open_v4l2(address: Address) -> Source:
    path = Path(f"/{_place(address).lstrip('/')}")
    if not path.exists():
        cameras = ", ".join(f"v4l2://{camera}" for camera in sorted(Path("/dev").glob("video*")))
        raise ScoreEdgeError(f"there is no camera at {path}", f"there are: {cameras}" if cameras else "plug one in")
    cv2 = quiet_cv2()
    options = address.options({"width": "", "height": ""})
    size = {name: address.whole_number(name, text) for name, text in options.items() if text}

    def connect() -> Any:
        capture = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
        for name, value in size.items():
            capture.set(getattr(cv2, f"CAP_PROP_FRAME_{name.upper()}"), value)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture

    return Camera(str(path), connect, "is it a camera, free, and may you open it (group video)?")


def _open_csi(address: Address) -> Source:
    options = address.options({"width": "1280", "height": "720", "fps": "30"})
    width, height, fps = (address.whole_number(name, options[name]) for name in ("width", "height", "fps"))
    sensor = address.whole_number("sensor", _place(address) or "0")
    if not has_gstreamer():
        raise ScoreEdgeError(
            "a CSI camera needs an OpenCV built with GStreamer, and the installed one is not",
            gstreamer_command(),
        )
    cv2 = quiet_cv2()
    pipeline = csi_pipeline(sensor, width, height, fps)
    hint = "is the ribbon cable in, and is nvargus-daemon running?"
    return Camera(f"csi://{sensor}", lambda: cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER), hint)
