"""Network streams: RTSP, MJPEG and HLS cameras, a video file behind HTTP, a snapshot address."""

import os
import threading
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

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
_ENVIRONMENT: Final = threading.Lock()


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
        with _ENVIRONMENT:
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


def _through_ffmpeg(uri: str) -> Any:
    """An OpenCV capture that gives up a server which says nothing."""
    cv2 = quiet_cv2()
    opening, silent = int(1000 * OPEN_S), int(1000 * SILENT_S)
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, opening, cv2.CAP_PROP_READ_TIMEOUT_MSEC, silent]
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
    query = address.query
    if "transport=" not in query:
        return address.raw(), _TRANSPORTS[0]
    options = parse_qsl(query, keep_blank_values=True)
    transport = dict(options)["transport"] if "transport" in dict(options) else _TRANSPORTS[0]
    if transport not in _TRANSPORTS:
        raise ScoreEdgeError(f"{address}: transport must be {' or '.join(_TRANSPORTS)}, not {transport[:20]!r}")
    rest = urlencode([(name, value) for name, value in options if name != "transport"])
    return address.raw().replace(f"?{query}", f"?{rest}" if rest else "", 1), transport


def _open_rtsp(address: Address) -> Source:
    cv2 = quiet_cv2()
    uri, transport = take_transport(address)
    through_gstreamer = has_gstreamer()

    def connect() -> Any:
        if through_gstreamer:
            return cv2.VideoCapture(rtsp_pipeline(uri, _JETSON.exists(), transport), cv2.CAP_GSTREAMER)
        # OpenCV takes FFmpeg's options from the environment alone, at the moment it opens.
        with _ENVIRONMENT:
            before = os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS")
            os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = (
                before or f"rtsp_transport;{transport}|allowed_media_types;video"
            )
            try:
                return _through_ffmpeg(uri)
            finally:
                if before is None:
                    del os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"]

    return Camera(str(address), connect, _HINT)
