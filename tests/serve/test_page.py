"""The page in headless Chromium, on a real `score-edge serve`: what a person sees, does and hears.

Debian: chromium chromium-driver.
"""

import contextlib
import http.client
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("fastapi")

WAIT_S = 30
SMALLEST = 24  # CSS pixels of what is touched: https://www.w3.org/TR/WCAG22/#target-size-minimum
DARK = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
LIGHT = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}


class MovingCamera:
    """Motion JPEG of a square that moves, on loopback, until it is switched off."""

    def __init__(self) -> None:
        self.on = True
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not camera.on:
                    self.send_error(503)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                at = 0
                with contextlib.suppress(OSError):
                    while camera.on:
                        image = np.full((120, 160, 3), 60, np.uint8)
                        image[40:70, at % 130 : at % 130 + 30] = (40, 80, 220)
                        at += 7
                        data = bytes(cv2.imencode(".jpg", image)[1])
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                        self.wfile.write(head.encode() + data + b"\r\n")
                        time.sleep(0.1)
                self.close_connection = True

            def log_message(self, *_: Any) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/stream"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()


@contextlib.contextmanager
def serving(*arguments: str, key: str = "") -> Iterator[str]:
    """`score-edge serve` as people start it; its address without /v1."""
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "serve", "reference", "--port", "0"]
    environment = {**os.environ, "SCORE_EDGE_KEY": key} if key else os.environ
    with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr
        line = server.stderr.readline()
        address = re.search(r"http://\S+?(?=/v1)", line)
        assert address, line + server.stderr.read()
        threading.Thread(target=server.stderr.read, daemon=True).start()
        try:
            yield address[0]
        finally:
            server.terminate()


class Page:
    """A browser with the page open."""

    def __init__(self, browser: Any, address: str, width: int = 1280, height: int = 900, colours: Any = DARK) -> None:
        self.browser, self.address = browser, address
        for kind in ("browser", "performance"):
            browser.get_log(kind)  # of earlier pages
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", colours)
        self.resize(width, height)
        browser.get(address)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def __call__(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return str(self("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def camera(self, name: str, inner: str = "") -> str:
        return f'[aria-label="Camera {name}"] {inner}'

    def state(self, name: str) -> str:
        return str(self("return document.querySelector(arguments[0])?.dataset.state ?? ''", self.camera(name)))

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def tab_to(self, wanted: str) -> None:
        """With the Tab key alone."""
        for _ in range(80):
            if self("return document.activeElement.matches(arguments[0])", wanted):
                return
            self.press("\ue004")
        raise AssertionError(f"{wanted} cannot be reached with the keyboard")

    def wait(self, true: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
        until = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < until, f"{what}: {self.text('main')[:600]}"
            time.sleep(0.05)
        return found

    def complaints(self) -> list[str]:
        """Of the browser's console; an earlier page may still have looked for its server, which is gone."""
        told = [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] != "INFO"]
        return [text for text in told if text.startswith(self.address) or not text.startswith("http://127.0.0.1:")]

    def requested(self) -> list[str]:
        """Every address that the browser has asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("Chromium is not installed: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    arguments = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    if os.getuid() == 0:
        arguments.append("--no-sandbox")
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def moving() -> MovingCamera:
    return MovingCamera()


@pytest.fixture(scope="module")
def address(moving: MovingCamera) -> Iterator[str]:
    """A server with two cameras of the reference world and one that can be lost."""
    sources = ["front=synthetic://?live=1&seed=5", "yard=synthetic://?live=1&seed=8", f"gate={moving.address}"]
    with serving(*(word for source in sources for word in ("--source", source))) as found:
        yield found


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    """The page, live; nothing may go to another host, and nobody may complain."""
    found = Page(browser, address)
    found.wait(lambda: all(found.state(name) == "live" for name in ("front", "yard", "gate")), "three live cameras")
    yield found
    assert found.complaints() == []
    strangers = [url for url in found.requested() if not url.startswith((address, f"blob:{address}"))]
    assert strangers == []


PIXELS = """
const image = document.querySelector(arguments[0]);
if (!image?.naturalWidth) return "";
const canvas = document.createElement("canvas");
[canvas.width, canvas.height] = [48, 48];
canvas.getContext("2d").drawImage(image, 0, 0, 48, 48);
return canvas.toDataURL();
"""


def test_pictures_and_figures_change(page: Page) -> None:
    for name in ("front", "gate"):
        seen = set[str]()
        page.wait(lambda: seen.add(page(PIXELS, page.camera(name, ".view img"))) or len(seen - {""}) > 2, "moves")  # noqa: B023
        for figure, form in (
            ("kept", r"[\d.]+ %"),
            ("encoded", r"[\d.]+ %"),
            ("steps", r"[\d,]+"),
            ("drops", r"[\d,]+"),
            ("age", r"[\d.]+ s"),
            ("kv .value", r"[\d,]+ of [\d,]+"),
            ("stages .value", r"[\d.]+ ms"),
            ("now", r"[\d.]+ ×"),
        ):
            assert re.fullmatch(form, page.text(page.camera(name, f".{figure}"))), figure
        line = page("return document.querySelector(arguments[0]).getAttribute('d')", page.camera(name, ".line"))
        assert line.count("L") > 1
    assert page.text("#connection") == "3 live" and page.text("#model") == "reference"


def test_kept_tokens_are_painted_until_one_wants_the_plain_picture(page: Page) -> None:
    pause, paint = (page.find(page.camera("front", kind)) for kind in (".pause", ".paint"))
    pause.click()
    page.wait(lambda: page.state("front") == "paused", "paused")
    page.wait(lambda: page(PIXELS, page.camera("front", "img")), "a picture")
    painted = page(PIXELS, page.camera("front", "img"))
    paint.click()
    page.wait(lambda: page(PIXELS, page.camera("front", "img")) not in ("", painted), "another picture")
    assert paint.get_attribute("aria-pressed") == "false"
    steps = page.text(page.camera("front", ".steps"))
    time.sleep(0.7)
    assert page.text(page.camera("front", ".steps")) == steps
    pause.click()
    page.wait(lambda: page.state("front") == "live", "live again")


def test_asked_and_answered_with_the_keyboard_alone(page: Page) -> None:
    page.press("\ue004")  # Tab
    assert page("return document.activeElement.textContent") == "Skip to the question"
    page.press("\ue007")  # Enter
    assert page("return document.activeElement.id") == "question"
    page("""
      window.lengths = [];
      new MutationObserver(() => {
        const text = document.querySelector("#answers article .text")?.textContent ?? "";
        if (text && text.length !== window.lengths.at(-1)) window.lengths.push(text.length);
      }).observe(document.getElementById("answers"), { childList: true, characterData: true, subtree: true });
    """)
    page.press("what happened?", "\ue007")
    page.wait(lambda: page.find("#answers article").get_attribute("aria-busy") == "false", "an answer")
    assert page.text("#answers .asked") == "front · what happened?"
    assert page.text("#answers .text") and page("return window.lengths")[0] > 0
    assert re.search(r"newest picture [\d.]+ s old · first word [\d.]+ s · \d+ tokens", page.text("#answers .cost"))
    assert page.find("#answers").get_attribute("aria-live") == "polite"
    page.press("\ue004")
    assert page("return document.activeElement.id") == "whom"
    page.press("all")
    page("document.activeElement.blur()")
    page.press("/")  # goes to the question from anywhere
    page.press("where is it?", "\ue007")  # what was asked is selected, so that one may go on typing
    page.wait(lambda: page.text("#answers .asked") == "all cameras · where is it?", "the second question")
    page.wait(lambda: page.find("#answers article").get_attribute("aria-busy") == "false", "an answer")
    assert page.text("#answers .text") not in ("", "(no words)")


def test_an_answer_streams_in_and_can_be_stopped(browser: Any, address: str) -> None:
    """The shipped model says a word; this answer is one of a server that takes its time."""
    page = Page(browser, address)
    page.wait(lambda: page.state("front") == "live", "live")
    page("""
      const real = window.fetch;
      window.fetch = async (path, options) => {
        if (!String(path).endsWith("chat/completions")) return real(path, options);
        const encoder = new TextEncoder();
        let n = 0;
        return new Response(new ReadableStream({
          async pull(controller) {
            await new Promise((resolve) => setTimeout(resolve, 100));
            if (options.signal.aborted) return controller.error(new DOMException("", "AbortError"));
            const text = JSON.stringify({ choices: [{ delta: { content: `word${n++} ` } }] });
            // Cut in the middle of an event, as networks do.
            controller.enqueue(encoder.encode(`data: ${text.slice(0, 9)}`));
            controller.enqueue(encoder.encode(`${text.slice(9)}\\r\\n\\r\\n`));
          },
        }), { headers: { "X-Frame-Age": "47" } });
      };
    """)
    page.find("#question").send_keys("what?", "\ue007")
    page.wait(lambda: "word2" in page.text("#answers .text"), "words")
    assert page.find("#answers article").get_attribute("aria-busy") == "true"
    page.wait(lambda: "word5" in page.text("#answers .text"), "more words")
    page.tab_to("#stop")
    page.press("\ue007")
    page.wait(lambda: page.text("#answers .cost") == "stopped", "stopped")
    assert page("return document.activeElement.id") == "send"


def test_a_lost_camera_is_said_and_comes_back(page: Page, moving: MovingCamera) -> None:
    moving.on = False
    try:
        page.wait(lambda: page.state("gate") == "lost", "the camera is lost", 60)
        page.wait(lambda: page.text("#connection") == "2 live, 1 lost", "it is said at the top")
        page.wait(lambda: page.text(page.camera("gate", ".reason")), "the reason")
        age = page.wait(
            lambda: re.search(r"lost · ([\d.]+) s ago", page.text(page.camera("gate", ".state"))), "its age"
        )
        page.wait(lambda: age[1] not in page.text(page.camera("gate", ".state")), "it grows older")
        picture = page.find(page.camera("gate", "img"))
        page.wait(lambda: re.search(r", [\d.]+ s old", picture.get_attribute("alt")), "so it is for those who hear it")
    finally:
        moving.on = True
    page.wait(lambda: page.state("gate") == "live", "it is back", 60)
    page.wait(lambda: page.text("#connection") == "3 live", "all is well")


def test_a_threshold_makes_alerts_with_pictures(page: Page) -> None:
    field = page.find(page.camera("yard", ".limit"))
    assert field.get_attribute("value") == "3"
    field.clear()
    field.send_keys("0.05", "\ue007")
    item = "#alerts li[data-id]"
    page.wait(lambda: "yard" in page.text(item), "an alert of the yard", 60)
    page.wait(
        lambda: page("return document.querySelector(arguments[0]).naturalWidth > 0", f"{item} img"), "its picture"
    )
    page.tab_to(f"{item} button")
    page.press("\ue007")
    assert page("return document.getElementById('large').open")
    assert "times usual" in page.text("#large p")
    page.press("\ue00c")  # Escape
    assert not page("return document.getElementById('large').open")
    field.clear()
    field.send_keys("3", "\ue007")
    page("location.reload()")
    page.wait(lambda: "yard" in page.text("#alerts"), "alerts are there after a reload")
    assert page.find(page.camera("yard", ".limit")).get_attribute("value") == "3"


def test_snapshot_and_overlay_are_downloaded(page: Page, tmp_path: Path) -> None:
    where = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", where)
    for kind in ("snapshot", "overlay"):
        page.find(page.camera("gate", f".{kind}")).click()
    files = page.wait(lambda: len(found := sorted(tmp_path.glob("*.jpg"))) == 2 and found, "two files")
    plain, painted = sorted(files, key=lambda path: path.stem.endswith("-overlay"))
    assert all(path.name.startswith("gate-20") for path in files)
    assert painted.stem.endswith("-overlay") and not plain.stem.endswith("-overlay")
    assert cv2.imread(str(painted)).mean() < 0.7 * cv2.imread(str(plain)).mean()  # its grey is dark


NAMES = """
const shown = (element) => element.getClientRects().length > 0;
return [...document.querySelectorAll("button, input, select, textarea, a[href]")].filter(shown).map((element) => {
  const labels = [...(element.labels ?? [])].map((label) => label.textContent.trim()).join(" ");
  return [element.outerHTML, (element.getAttribute("aria-label") ?? (labels || element.textContent)).trim()];
});
"""


def test_everything_has_a_name_and_a_focus_that_is_seen(page: Page) -> None:
    assert [html for html, name in page(NAMES) if not name] == []
    page("window.scrollTo(0, 0); document.activeElement.blur()")
    seen = []
    for _ in range(60):
        page.press("\ue004")
        where = page("""
          const element = document.activeElement, label = element.matches(".unseen") ? element.labels[0] : element;
          return [element.id || element.className, getComputedStyle(label).outlineStyle, element === document.body];
        """)
        if where[2] or where in seen[:1]:
            break
        seen.append(where)
    assert len(seen) > 15
    assert [where for where in seen if where[1] == "none"] == []


@pytest.mark.parametrize("colours", [DARK, pytest.param(LIGHT, marks=pytest.mark.slow)], ids=["dark", "light"])
def test_words_can_be_read(browser: Any, address: str, colours: Any) -> None:
    """Contrast of 4.5 : 1 between words and what is behind them: https://www.w3.org/TR/WCAG22/#contrast-minimum"""
    page = Page(browser, address, colours=colours)
    page.wait(lambda: page.state("front") == "live", "live")
    pairs = page("""
      const colour = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
      const found = [];
      const texts = "h1, h2, p, dt, dd, span, b, label, button, li, textarea, input";
      for (const element of document.querySelectorAll(texts)) {
        const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!words || !element.getClientRects().length || element.closest(".view, .unseen")) continue;
        let behind = element;
        while ((colour(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement ?? null;
        found.push([element.className || element.tagName, colour(getComputedStyle(element).color),
          colour(getComputedStyle(behind).backgroundColor)]);
      }
      return found;
    """)
    assert len(pairs) > 20

    def light(rgb: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb[:3])]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for name, ink, paper in pairs:
        bright, dark = sorted((light(ink), light(paper)), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, (name, ink, paper)
    dark_paper = page("return getComputedStyle(document.body).backgroundColor") == "rgb(13, 15, 18)"
    assert dark_paper == (colours is DARK)
    for _ in range(2):  # system, dark, light
        page.find("#theme").click()
    assert page("return getComputedStyle(document.body).backgroundColor") == "rgb(244, 245, 246)"
    page.find("#theme").click()


def test_it_fits_a_phone(browser: Any, address: str) -> None:
    page = Page(browser, address, 360, 740)
    page.wait(lambda: page.state("front") == "live", "live")
    assert page("return document.documentElement.scrollWidth") <= 360
    small = page("""
      return [...document.querySelectorAll("button, select, textarea, header nav a")]
        .filter((element) => element.getClientRects().length)
        .map((element) => [element.outerHTML, element.getBoundingClientRect().height]);
    """)
    assert [html for html, height in small if height < SMALLEST] == []


def test_a_key_is_asked_for_and_kept_in_the_tab_only(browser: Any) -> None:
    with serving(key="top-secret") as address:
        page = Page(browser, address)
        page.wait(lambda: page("return document.getElementById('key').open"), "the question for the key")
        assert page("return document.activeElement.id") == "key-text"
        page.press("\ue00c")
        page.press("\ue00c")  # the second one closes a dialog, whatever the page says to the first
        page.wait(lambda: page("return document.getElementById('key').open"), "the question again", 5)
        for wrong in ("ключ", "wrong"):  # the first is none that a header can carry
            page("document.getElementById('key-wrong').textContent = ''")
            page.press(wrong, "\ue007")
            page.wait(lambda: page.text("#key-wrong") == "This is not the key.", "that it is wrong", 5)
        page.press("top-secret", "\ue007")
        page.wait(lambda: page.text("#connection") == "ready", "it is open")
        assert not page("return document.getElementById('key').open")
        assert page("return [location.href, document.cookie, JSON.stringify(localStorage)].join()").count("secret") == 0
        assert not any("secret" in url for url in page.requested())
        for path, status in (
            ("/", 200),
            ("/live", 401),
            ("/page/../live", 404),
            ("/page/%2e%2e/live", 404),
            ("//", 401),
        ):
            connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
            connection.request("GET", path)
            assert connection.getresponse().status == status, path
        page("location.reload()")
        page.wait(lambda: page.text("#connection") == "ready", "open again without being asked")
        page("sessionStorage.clear()")


def test_without_a_camera_pictures_are_asked_about(browser: Any, tmp_path: Path) -> None:
    from score_edge.reference import world

    paths = [tmp_path / f"frame-{number}.png" for number in range(12)]
    for path, image in zip(paths, world.make_clip(world.TEST_SEED, 1, 12).images, strict=False):
        cv2.imwrite(str(path), image[..., ::-1])
    with serving() as address:
        page = Page(browser, address)
        page.wait(lambda: page.find("#nothing").is_displayed(), "how to add a camera")
        assert "score-edge serve reference --source front=rtsp://" in page.text("#nothing")
        page.find("#files").send_keys("\n".join(map(str, reversed(paths))))
        page.wait(lambda: page("return document.querySelectorAll('#pictures li').length") == 12, "twelve pictures")
        names = page("return [...document.querySelectorAll('#pictures button.picture')].map((b) => b.title)")
        assert names == [f"Remove {path.name}" for path in paths]  # by their names, 2 before 10
        page.find("#pictures li:last-child button").click()
        page.find("#question").send_keys("how many things moved fast?", "\ue007")
        page.wait(lambda: page("return document.querySelector('#answers article')?.ariaBusy") == "false", "an answer")
        assert page.text("#answers .asked").startswith("pictures · ")
        assert page.text("#answers .text") not in ("", "(no words)"), page.text("#answers .cost")
        page.find("#no-pictures").click()
        page.find("#question").send_keys(" \ue007")
        assert page.complaints() == []


@pytest.mark.slow
def test_a_server_that_goes_away_is_said_and_found_again(browser: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    camera = ("--source", "front=synthetic://?live=1", "--port", port)
    with serving(*camera) as address:
        page = Page(browser, address)
        page.wait(lambda: page.text("#connection") == "1 live", "a live camera")
    page.wait(lambda: page.text("#connection") == "not connected, trying again", "that it is gone")
    assert re.fullmatch(r"unknown · [\d.]+ s ago", page.text(page.camera("front", ".state")))
    page.find("#question").send_keys("are you there?", "\ue007")
    page.wait(lambda: page.text("#answers .cost") == "The server cannot be reached.", "why there is no answer")
    steps = page.text(page.camera("front", ".steps"))
    with serving(*camera):
        page.wait(lambda: page.text("#connection") == "1 live", "it is back")
        page.wait(lambda: page.text(page.camera("front", ".steps")) != steps, "new steps")


def test_files_of_the_page_and_no_others(address: str) -> None:
    def get(path: str) -> Any:
        try:
            return urllib.request.urlopen(f"{address}{path}", timeout=10)
        except urllib.error.HTTPError as error:
            return error

    html = get("/").read().decode()
    assert re.findall(r'(?:src|href)="(?!#)([^"]+)"', html).count("page/icon.svg") == 2
    for path in set(re.findall(r'(?:src|href)="(?!#)([^"]+)"', html)):
        response = get(f"/{path}")
        assert response.status == 200 and response.headers["X-Content-Type-Options"] == "nosniff"
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert not re.search(r"style=|onclick=|https?://", re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL))
    for path in ("/page/", "/page/none.js", "/page/..%2frun.py", "/page/%2e%2e/run.py", "/page/index.html/x"):
        assert get(path).status == 404
