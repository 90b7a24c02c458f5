"""The pictures of the page in docs/: a server with three cameras, one of them lost, in headless Chromium.

    python tools/page_pictures.py docs          # writes page-desktop.png and page-phone.png

Debian: chromium chromium-driver; extras: serve, dev.
"""

import contextlib
import http.server
import io
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
from PIL import Image
from selenium import webdriver

from score_edge.bundle.atomic import atomic_file
from score_edge.reference.endless import EndlessWorld

QUESTION = "how many things moved fast?"
WATCH_S = 100  # until the chart is full


class Gate(http.server.BaseHTTPRequestHandler):
    """A camera that gives motion JPEG for some seconds and is never seen again."""

    until = time.monotonic() + WATCH_S / 2

    def do_GET(self) -> None:  # noqa: D102
        if time.monotonic() > self.until:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        with contextlib.suppress(OSError):
            for frame in EndlessWorld(11, 16).frames():
                if time.monotonic() > self.until:
                    return
                image = cv2.resize(frame.image[..., ::-1], (480, 480), interpolation=cv2.INTER_NEAREST)
                data = bytes(cv2.imencode(".jpg", image)[1])
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n")
                self.wfile.write(f"Content-Length: {len(data)}\r\n\r\n".encode() + data + b"\r\n")
                time.sleep(0.25)

    def log_message(self, *_: Any) -> None:  # noqa: D102
        return


def main(folder: Path) -> None:
    """Write both pictures into a folder."""
    gate = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=gate.serve_forever, daemon=True).start()
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "serve", "reference", "--port", "0"]
    command += ["--source", "front=synthetic://?live=1&seed=5", "--source", "yard=synthetic://?live=1&seed=8"]
    command += ["--source", f"gate=http://127.0.0.1:{gate.server_port}/stream", "--when-surprised", QUESTION]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        address = re.search(r"http://\S+?(?=/v1)", server.stderr.readline())
        assert address, "the server does not start"
        threading.Thread(target=server.stderr.read, daemon=True).start()
        try:
            take(address[0], folder)
        finally:
            server.terminate()


def take(address: str, folder: Path) -> None:
    """Open the page, wait until there is something to see, ask, and take the pictures."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        size(browser, 1440, 760, "dark")
        browser.get(address)
        time.sleep(WATCH_S)
        question = browser.find_element("id", "question")
        question.send_keys(QUESTION, "\ue007")
        time.sleep(3)
        question.send_keys("what color is the thing that drifts slowly?", "\ue007")
        time.sleep(3)
        save(browser, folder / "page-desktop.png")
        size(browser, 390, 844, "light")
        time.sleep(2)
        save(browser, folder / "page-phone.png")
    finally:
        browser.quit()


def size(browser: Any, width: int, height: int, colours: str) -> None:
    """Give the page a size in CSS pixels and a colour scheme."""
    shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": colours}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)


def save(browser: Any, path: Path) -> None:
    """A screenshot, as small as PNG makes it."""
    with atomic_file(path) as unfinished:
        Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB").save(unfinished, "PNG", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
