"""Network streams: RTSP, MJPEG and HLS cameras, a video file behind HTTP, a snapshot address."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.sources.address import Address
from score_edge.runtime.sources.background import Background
from score_edge.runtime.sources.base import Source
from score_edge.runtime.sources.camera import SILENT_S, Camera, has_gstreamer
from score_edge.runtime.sources.opencv import quiet_cv2
from score_edge.runtime.sources.snapshots import Snapshots, what_is_there
from score_edge.runtime.sources.video_file import VideoFile

OPEN_S: Final = 15.0  # FFmpeg alone looks at a stream for five seconds before it knows what it is
_JETSON: Final = Path("/etc/nv_tegra_release")
_TRANSPORTS: Final = ("tcp", "udp")
_HINT: Final = (
    "check the address, name and password (write @ / ? # [ ] in it as %40 %2F %3F %23 %5B %5D), and that it is a video"
)
_OPTIONS: Final = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


class _Environment:
    """OpenCV takes FFmpeg's options from the environment alone, at the moment it opens. Who wants the same ones opens
    at the same time: a camera that says nothing for a quarter of a minute keeps no other waiting.
    """

    def __init__(self) -> None:
        self._entrance = threading.Lock()  # held by one who waits, so that nobody passes it
        self._changed = threading.Condition()
        self._inside = 0
        self._options = ""
        self._before: str | None = None

    @contextlib.contextmanager
    def having(self, options: str) -> Iterator[None]:
        """The options are there in the block, or those that the user put there."""
        with self._entrance, self._changed:
            self._changed.wait_for(lambda: not self._inside or self._options == options)
            if not self._inside:
                self._options, self._before = options, os.environ.get(_OPTIONS)
                os.environ[_OPTIONS] = self._before or options
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                if not self._inside:
                    if self._before is None:
                        del os.environ[_OPTIONS]
                    self._changed.notify_all()


_ENVIRONMENT: Final = _Environment()


def open_network(address: Address) -> Source:
    """Open ``rtsp://``, ``rtsps://``, ``http://`` or ``https://``.

    ``rtsp://…?transport=udp`` takes UDP in place of TCP; the option is ours and is not sent to the camera.

    Returns:
        A camera; of HTTP also a file that plays once, or a snapshot that is fetched each time it is due.

    Raises:
        ScoreEdgeError: there is nothing, or not in time.
    """
    if address.scheme.startswith("rtsp"):
        return _open_rtsp(address)
    uri = address.raw()

    def connect() -> Any:
        return _through_ffmpeg(uri)

    never = threading.Event()
    found = Background(lambda: what_is_there(address), lambda kind: None).wait(never)
    if found == "picture":
        return Snapshots(address)
    if found == "file":
        video = Background(lambda: VideoFile(str(address), connect), VideoFile.close).wait(never)
        assert video is not None  # nobody closed it
        return video
    return Camera(str(address), connect, _HINT)


def _through_ffmpeg(uri: str, transport: str = _TRANSPORTS[0]) -> Any:
    """An OpenCV capture that gives up a server which says nothing; the transport is that of RTSP."""
    cv2 = quiet_cv2()
    opening, silent = int(1000 * OPEN_S), int(1000 * SILENT_S)
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, opening, cv2.CAP_PROP_READ_TIMEOUT_MSEC, silent]
    with _ENVIRONMENT.having(f"rtsp_transport;{transport}|allowed_media_types;video"):
        return cv2.VideoCapture(uri, cv2.CAP_FFMPEG, timeouts)


def rtsp_pipeline(uri: str, jetson: bool, transport: str = "tcp") -> str:
    """GStreamer's words for a network camera; on a Jetson decodebin takes the hardware decoder.

    Its sound is left alone, and a server that says nothing for 5 s is given up.
    """
    convert = "nvvidconv ! video/x-raw,format=BGRx ! videoconvert" if jetson else "videoconvert"
    place = uri.replace("\\", "\\\\").replace('"', '\\"')
    silent = int(1e6 * SILENT_S)
    return (
        f'rtspsrc location="{place}" latency=100 protocols={transport} timeout={silent} tcp-timeout={silent} ! '
        "application/x-rtp,media=video ! decodebin ! "
        f"queue leaky=downstream max-size-buffers=1 ! {convert} ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )


def take_transport(address: Address) -> tuple[str, str]:
    """An RTSP address without our option, and ``tcp`` or ``udp``. Raises ScoreEdgeError for another value.

    Example:
        >>> take_transport(Address("rtsp://camera/live?channel=1&transport=udp"))
        ('rtsp://camera/live?channel=1', 'udp')
    """
    # Cut out of the text and not written anew: what the camera reads is not ours to encode.
    options = address.query.split("&")
    ours = [option for option in options if option.startswith("transport=")]
    if not ours:
        return address.raw(), _TRANSPORTS[0]
    transport = ours[-1].removeprefix("transport=")
    if transport not in _TRANSPORTS:
        raise ScoreEdgeError(f"{address}: transport must be {' or '.join(_TRANSPORTS)}, not {transport[:20]!r}")
    rest = "&".join(option for option in options if option not in ours)
    return address.raw().replace(f"?{address.query}", f"?{rest}" if rest else "", 1), transport


def _open_rtsp(address: Address) -> Source:
    cv2 = quiet_cv2()
    uri, transport = take_transport(address)
    through_gstreamer = has_gstreamer()

    def connect() -> Any:
        if through_gstreamer:
            return cv2.VideoCapture(rtsp_pipeline(uri, _JETSON.exists(), transport), cv2.CAP_GSTREAMER)
        return _through_ffmpeg(uri, transport)

    return Camera(str(address), connect, _HINT)
