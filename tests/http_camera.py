"""What cameras and web servers give over HTTP, on loopback: motion JPEG, a snapshot, a video file."""

import base64
import http.server
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np


class HttpCamera:
    """``/stream`` motion JPEG without end, ``/picture`` a snapshot, ``/file.mp4`` a file; `asked` counts requests."""

    def __init__(self, video: Path, login: str = "") -> None:
        self.asked: list[str] = []
        asked, wanted = self.asked, "Basic " + base64.b64encode(login.encode()).decode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                if login and self.headers.get("Authorization") != wanted:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.end_headers()
                    return
                try:
                    {"/stream": self._stream, "/picture": self._picture}.get(self.path.partition("?")[0], self._file)()
                except OSError:
                    return

            def _head(self, kind: str, status: int = 200, **more: object) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                for name, value in more.items():
                    self.send_header(name.replace("_", "-"), str(value))
                self.end_headers()

            def _stream(self) -> None:
                self._head("multipart/x-mixed-replace; boundary=frame")
                for n in range(10**6):
                    data = jpeg(n)
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(head.encode() + data + b"\r\n")
                    time.sleep(0.01)

            def _picture(self) -> None:
                data = jpeg(len(asked))
                self._head("image/jpeg", Content_Length=len(data))
                self.wfile.write(data)

            def _file(self) -> None:
                data = video.read_bytes()
                first = int(self.headers.get("Range", "bytes=0-")[len("bytes=") :].partition("-")[0])
                whole = {"Content_Length": len(data) - first, "Accept_Ranges": "bytes"}
                part = {"Content_Range": f"bytes {first}-{len(data) - 1}/{len(data)}"} if first else {}
                self._head("video/mp4", 206 if first else 200, **whole, **part)
                self.wfile.write(data[first:])

            def log_message(self, *_: Any) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.at = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def jpeg(n: int) -> bytes:
    """A picture whose grey level is 8 n."""
    return bytes(cv2.imencode(".jpg", np.full((48, 64, 3), 8 * n % 256, np.uint8))[1])
