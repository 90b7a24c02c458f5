"""What strangers send: too much, too large, too long, nothing of their business. Never a 500, and others are served."""

import base64
import concurrent.futures
import contextlib
import json
import random
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

QUESTION = "how many things moved fast?"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def body(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}, *parts]}], **more}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def video(url: str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def post(address: str, given: Any, **more: Any) -> httpx.Response:
    return httpx.post(f"{address}/v1/chat/completions", json=given, timeout=60, **more)


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def bomb(side: int) -> str:
    """A PNG that says it has side x side pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def test_pictures_that_are_refused(address: str, as_uri: Callable[..., str]) -> None:
    small = as_uri(np.zeros((8, 8, 3), np.uint8))
    assert error(post(address, body(image(bomb(30000))))) == (400, "image_too_large")
    assert error(post(address, body(*[image(small)] * 65))) == (400, "too_many_images")
    for url in ("http://host/a.jpg", "/etc/passwd", "data:image/png;base64,@@@", "data:image/png,abc", f"{small[:60]}"):
        assert error(post(address, body(image(url))))[0] == 400, url
    damaged = post(address, body(image(bomb(16))))
    assert damaged.status_code == 400 and "damaged" in damaged.json()["error"]["message"]


@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp"])
def test_kinds_of_pictures(address: str, as_uri: Callable[..., str], suffix: str) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    assert post(address, body(image(as_uri(picture, suffix)))).status_code == 200


def test_pictures_are_upright_by_their_exif(as_uri: Callable[..., str]) -> None:
    from score_edge.serve.media import picture, pictures_clip

    data = base64.b64decode(as_uri(np.zeros((40, 60, 3), np.uint8)).partition(",")[2])
    entry = struct.pack(">HHIHH", 0x112, 3, 1, 6, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    uri = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    (frame,) = pictures_clip([picture(uri, 1, "")]).read()
    assert frame.image.shape == (60, 40, 3)


def test_videos_come_from_the_media_folder_only(address: str) -> None:
    answer = post(address, body(video("clip.mp4"))).json()
    assert answer["score_edge"]["total"] == 288
    for url in (
        "../secret.mp4",
        "/etc/passwd",
        "link.mp4",
        "file:///etc/passwd",
        ".",
        "none.mp4",
        "rtsp://a/b",
        "a\0b",
    ):
        assert error(post(address, body(video(url)))) == (400, "no_media"), url


def test_a_video_as_data(address: str, tmp_path: Path) -> None:
    import cv2

    path = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 8, (96, 96))
    for grey in range(0, 160, 10):
        writer.write(np.full((96, 96, 3), grey, np.uint8))
    writer.release()
    data = base64.b64encode(path.read_bytes()).decode()
    assert post(address, body(video(f"data:video/mp4;base64,{data}"))).json()["score_edge"]["total"] == 144
    for url in ("data:video/mp4;base64,AAAA", "notes.mp4"):  # neither our temporary file nor our folder is named
        refused = post(address, body(video(url)))
        assert refused.status_code == 400 and refused.json()["error"]["message"].startswith("the video "), url


def test_bodies_that_are_refused(served: Any) -> None:
    with served(body_mb=1) as address:
        large = {"messages": [{"role": "user", "content": "x" * 1_500_000}]}
        assert post(address, large).status_code == 413
        url = f"{address}/v1/chat/completions"
        assert httpx.post(url, content=b"{", headers={"content-type": "application/json"}).status_code == 400
        assert httpx.post(url, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
        deep = b'{"messages":' + b"[" * 50_000
        assert httpx.post(url, content=deep, headers={"content-type": "application/json"}).status_code == 400
        for method in ("GET", "OPTIONS"):
            answer = httpx.request(method, url)
            assert error(answer) == (405, "method_not_allowed") and answer.headers["allow"] == "POST"


def test_key(served: Any) -> None:
    with served(key="secret-key") as address:
        for path in ("/health", "/"):
            assert httpx.head(f"{address}{path}").status_code == httpx.get(f"{address}{path}").status_code == 200
        for path in ("/v1/models", "/props", "/metrics", "/openapi.json", "/nowhere"):
            assert error(httpx.get(f"{address}{path}")) == (401, "invalid_api_key")
        for given in ("Bearer wrong", "Basic secret-key", "secret-key", "Bearer \xfc".encode("latin-1")):
            assert httpx.get(f"{address}/v1/models", headers={"Authorization": given}).status_code == 401
        assert httpx.get(f"{address}/v1/models", headers={"Authorization": "Bearer secret-key"}).status_code == 200


def test_pages_of_others_are_refused(address: str) -> None:
    assert error(httpx.get(f"{address}/v1/models", headers={"Origin": "http://evil.example"})) == (403, "wrong_origin")
    assert error(httpx.get(f"{address}/v1/models", headers={"Host": "evil.example"})) == (403, "wrong_host")
    for garbage in ("http://[", "http://[x]", "[", "null", "http://a]"):
        assert error(httpx.get(f"{address}/v1/models", headers={"Origin": garbage})) == (403, "wrong_origin"), garbage
        assert error(httpx.get(f"{address}/v1/models", headers={"Host": garbage})) == (403, "wrong_host"), garbage
    assert httpx.get(f"{address}/v1/models", headers={"Origin": address}).status_code == 200


def long_answer() -> dict[str, Any]:
    """A list that takes ten seconds."""
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 1000}
    form = {"type": "json_schema", "json_schema": {"name": "long", "schema": schema}}
    return body(response_format=form, max_tokens=3500)


def test_a_full_queue_says_when_to_come_back(served: Any) -> None:
    together = threading.Barrier(12)  # on a busy machine they would come one after the other

    def ask(_: int) -> httpx.Response:
        together.wait(30)
        return post(address, body(temperature=2, max_tokens=200))

    with served(waiting=1) as address, concurrent.futures.ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, range(12)))
        codes = [answer.status_code for answer in found]
        assert set(codes) == {200, 429} and all(
            answer.headers["retry-after"] for answer in found if answer.status_code == 429
        )
        assert post(address, body()).status_code == 200


def test_a_client_that_goes_away_frees_its_place(served: Any) -> None:
    with served(waiting=0) as address:
        for streams in (False, True):
            with pytest.raises(httpx.ReadTimeout):
                given = long_answer() | {"stream": streams}
                with httpx.stream("POST", f"{address}/v1/chat/completions", json=given, timeout=0.4) as answer:
                    next(answer.iter_bytes())
                    raise httpx.ReadTimeout("gone")
            until = time.monotonic() + 10
            while post(address, body()).status_code == 429:
                assert time.monotonic() < until
                time.sleep(0.05)


def test_a_client_that_never_reads_stops_nobody(served: Any) -> None:
    with served(waiting=1, deadline_s=3) as address:
        host, port = address.removeprefix("http://").split(":")
        given = json.dumps(long_answer() | {"stream": True}).encode()
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            lazy.connect((host, int(port)))
            lazy.sendall(HEAD + f"Content-Length: {len(given)}\r\n\r\n".encode() + given)
            time.sleep(0.3)
            assert post(address, body(max_tokens=4)).status_code in (200, 503)
            until = time.monotonic() + 15
            while "score_edge_queue 0.0" not in httpx.get(f"{address}/metrics").text:
                assert time.monotonic() < until
                time.sleep(0.1)


@contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as found:
        yield found


def drip(connection: socket.socket, pieces: Iterable[bytes], every_s: float) -> None:
    """Send pieces until the other side closes or answers."""
    for piece in pieces:
        if select.select([connection], [], [], every_s)[0]:
            return
        with contextlib.suppress(OSError):
            connection.sendall(piece)


def test_connections_on_which_no_request_comes_are_closed(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("score_edge.serve.connections._HEAD_S", 1.0)
    with served() as address:
        for head in (b"", b"GET /hea", HEAD):
            with connected(address) as idle:
                idle.sendall(head)
                assert idle.recv(1) == b""
        with connected(address) as slow:
            drip(slow, (b"%c" % byte for byte in HEAD * 10), 0.1)
            with contextlib.suppress(ConnectionResetError):
                assert slow.recv(1) == b""
        with connected(address) as again:
            for _ in range(3):  # each request has its own time
                again.sendall(b"GET /health HTTP/1.1\r\n")
                time.sleep(0.25)
                again.sendall(b"Host: localhost\r\n\r\n")
                said = b""
                while not said.endswith(b'{"status":"ok"}'):
                    said += (part := again.recv(1000))
                    assert part
            again.sendall(b"GET /health HTTP/1.1\r\n")
            assert again.recv(1) == b""
        given = json.dumps(body(max_tokens=2)).encode()
        with connected(address) as asking:  # longer than that
            asking.sendall(HEAD + f"Content-Length: {len(given)}\r\n\r\n".encode())
            drip(asking, (given[at : at + 30] for at in range(0, len(given), 30)), 0.5)
            assert asking.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_body_may_come_slowly_but_must_come(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("score_edge.serve.body._PATIENCE_S", 2.0)
    monkeypatch.setattr("score_edge.serve.body._SLOWEST", 1000)
    given = json.dumps(body(max_tokens=2, user="x" * 8000)).encode()
    head = HEAD + f"Content-Length: {len(given)}\r\n\r\n".encode()
    pieces = [given[at : at + 500] for at in range(0, len(given), 500)]
    with served(waiting=0) as address:
        with connected(address) as steady:
            steady.sendall(head)
            drip(steady, pieces, 0.2)  # 3.4 s
            assert steady.recv(1000).startswith(b"HTTP/1.1 200")
        with connected(address) as stalled:
            stalled.sendall(head + given[:-1])
            assert stalled.recv(1000).startswith(b"HTTP/1.1 408")
        with connected(address) as slow:
            slow.sendall(head)
            began = time.monotonic()
            drip(slow, (given[at : at + 1] for at in range(len(given))), 0.1)
            assert slow.recv(1000).startswith(b"HTTP/1.1 408") and time.monotonic() - began < 10
        assert post(address, body(max_tokens=2)).status_code == 200  # nobody's place is taken


def test_a_deadline(served: Any) -> None:
    with served(deadline_s=0.05) as address:
        assert error(post(address, long_answer())) == (503, "deadline")
        assert post(address, body(max_tokens=1)).status_code == 200


def test_fifty_clients_at_once(served: Any, frames: list[str]) -> None:
    """No error but 429, every accepted answer whole, and the same frames have the same answer."""
    with served(waiting=8) as address:
        answers, codes, lock = set(), [], threading.Lock()

        def ask(number: int) -> None:
            for _ in range(3):
                given = body(*map(image, frames[: 2 + 2 * (number % 3)]), stream=number % 2 == 0)
                found = post(address, given)
                text = ""
                if found.status_code == 200 and given["stream"]:
                    lines = [line[6:] for line in found.text.splitlines() if line]
                    assert lines[-1] == "[DONE]"
                    text = "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines[:-1])
                elif found.status_code == 200:
                    text = found.json()["choices"][0]["message"]["content"]
                with lock:
                    codes.append(found.status_code)
                    if found.status_code == 200:
                        answers.add((number % 3, text))

        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            list(pool.map(ask, range(50)))
        assert set(codes) <= {200, 429} and codes.count(200) >= 9 and len(answers) == 3
        metrics = httpx.get(f"{address}/metrics").text
        assert f'score_edge_requests_total{{status="200"}} {float(codes.count(200))}' in metrics
        assert "score_edge_ttft_seconds_count" in metrics and "score_edge_queue 0.0" in metrics


def test_fuzzed_bodies(address: str) -> None:
    """Whatever stands in the fields of our own OpenAPI document: an answer or a refusal in OpenAI's form."""
    document = httpx.get(f"{address}/openapi.json").json()
    content = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]
    fields = list(content["application/json"]["schema"]["properties"])
    assert {"messages", "retention", "response_format"} <= set(fields)
    assert {"Message", "ImagePart"} <= set(document["components"]["schemas"])
    rng = random.Random(0)
    odd = [None, True, -1, 0, 1, 1e308, 2**70, "", "a", "\ud800", "\0", [], [[]], [{}], {}, {"type": "json_schema"}]
    odd += [{"type": "json_schema", "json_schema": {"schema": {"type": ["array", 3]}}}, {"include_usage": "x"}, 0.5]
    parts = [*odd, {"type": "text"}, {"type": "text", "text": 3}, image(""), image("data:,"), image("data:;base64,")]
    parts += [{"type": "image_url", "image_url": "x"}, video("\ud800"), {"type": "input_audio", "input_audio": {}}]
    seen = set()
    with httpx.Client(timeout=60) as client:
        for _ in range(200):
            given: dict[str, Any] = body(max_tokens=2)
            for name in rng.sample(fields, rng.randint(0, 3)):
                given[name] = rng.choice(odd)
            if rng.random() < 0.5:
                messages = [{"role": rng.choice(["user", "system", "x", 3]), "content": rng.sample(parts, 2)}]
                given["messages"] = rng.choice([messages, messages * 2, [*body()["messages"], *messages]])
            text = json.dumps(given, allow_nan=True)
            if rng.random() < 0.2:
                at = rng.randrange(len(text))
                text = text[:at] + rng.choice(['"', "{", "\\", "]", "é"]) + text[at + rng.randint(0, 3) :]
            found = client.post(
                f"{address}/v1/chat/completions", content=text.encode(), headers={"content-type": "application/json"}
            )
            seen.add(found.status_code)
            assert found.status_code in (200, 400, 404), (text, found.text)
            if found.status_code != 200:
                assert found.json()["error"]["message"], text
    assert {200, 400} <= seen
