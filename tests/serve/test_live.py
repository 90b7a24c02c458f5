"""Cameras of a running server: what is told of them, pictures, questions, and what becomes of one that is lost."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

QUESTION = "how many things moved fast?"
CAMERAS = {"front": "synthetic://?live=1", "yard": "synthetic://?live=1&seed=5"}


def until(found: Callable[[], Any], seconds: float = 20) -> Any:
    """What `found` gives once it is true."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return value


def camera(address: str, name: str) -> dict[str, Any]:
    cameras = httpx.get(f"{address}/live").json()["cameras"]
    return next(camera for camera in cameras if camera["name"] == name)


def is_live(address: str, name: str) -> bool:
    found = camera(address, name)
    return bool(found["state"] == "live" and found["steps"])


def ask(address: str, name: str, text: str = QUESTION, **more: Any) -> httpx.Response:
    given = {"model": f"reference@{name}", "messages": [{"role": "user", "content": text}], **more}
    return httpx.post(f"{address}/v1/chat/completions", json=given, timeout=60)


def events(address: str, seconds: float) -> list[tuple[str, dict[str, Any]]]:
    """Server-sent events of some time."""
    found, kind, end = list[tuple[str, dict[str, Any]]](), "", time.monotonic() + seconds
    with httpx.stream("GET", f"{address}/live/events", timeout=20) as answer:
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                found.append((kind, json.loads(line[6:])))
            if time.monotonic() > end:
                break
    return found


@pytest.fixture(scope="module")
def address(served: Any) -> Iterator[str]:
    with served(source=CAMERAS, waiting=20, alert_above=1.5, when_surprised=QUESTION) as found:
        until(lambda: is_live(found, "front") and is_live(found, "yard"))
        yield found


def test_the_state_of_every_camera(address: str) -> None:
    found = httpx.get(f"{address}/live").json()
    assert found["model"] == "reference" and [camera["name"] for camera in found["cameras"]] == ["front", "yard"]
    for each in found["cameras"]:
        assert each["state"] == "live" and each["reason"] is None and 0 <= each["frame_age_s"] < 5
        assert each["grid"] == [6, 6] and each["cells"] == 36 and 0 <= each["kept"] <= 36 and 0 <= each["encoded"] <= 36
        assert 0 < each["kv"] <= each["kv_limit"] and each["threshold"] == 1.5
        assert set(each["stages_ms"]) <= {"preprocess", "encode", "select", "prefill"}
    before = camera(address, "front")["steps"]
    until(lambda: camera(address, "front")["steps"] > before + 2)


def test_events_come_as_steps_do(address: str) -> None:
    found = events(address, 3)
    kinds = {kind for kind, _ in found}
    assert "camera" in kinds and kinds <= {"camera", "alert", "answer"}
    steps = [data["steps"] for kind, data in found if kind == "camera" and data["name"] == "front"]
    assert steps == sorted(steps) and 3 <= len(steps) <= 17


def test_pictures(address: str) -> None:
    plain = httpx.get(f"{address}/live/front/picture.jpg")
    painted = httpx.get(f"{address}/live/front/picture.jpg?paint=1")
    images = [cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR) for answer in (plain, painted)]
    assert plain.headers["content-type"] == "image/jpeg" and plain.headers["cache-control"] == "no-store"
    assert images[0].shape == (96, 96, 3) and images[1].shape == (576, 576, 3)
    enlarged = images[0].repeat(6, 0).repeat(6, 1).astype(int)
    assert np.abs(images[1] - enlarged).max() > 100  # outlines, and what is not kept is dark
    assert httpx.get(f"{address}/live/nowhere/picture.jpg").status_code == 404
    assert httpx.get(f"{address}/live/front/picture.jpg?paint=x").json()["error"]["param"] == "paint"


def test_a_camera_answers(address: str) -> None:
    answer = ask(address, "front")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["choices"][0]["message"]["content"] and found["model"] == "reference@front"
    assert found["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert 0 <= float(answer.headers["x-frame-age"]) < 10


def test_all_cameras_answer_together(address: str) -> None:
    for more in ({}, {"max_tokens": 4096}):  # clients often ask for as many as the context has
        answer = ask(address, "all", **more)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]


def test_an_answer_streams_and_everybody_hears_of_it(address: str) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    listener = threading.Thread(target=lambda: heard.extend(events(address, 3)))
    listener.start()
    time.sleep(0.5)
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    answer = ask(address, "yard", stream=True, stream_options={"include_usage": True}, response_format=form)
    lines = [line[6:] for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]" and json.loads(lines[-2])["usage"]["completion_tokens"] > 0
    text = "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines[:-2])
    assert isinstance(json.loads(text), int) and float(answer.headers["x-frame-age"]) < 10
    listener.join()
    told = [data for kind, data in heard if kind == "answer" and data["answer"] == text]
    assert told and told[0]["camera"] == "yard" and told[0]["question"] == QUESTION


def test_models_are_listed_and_others_are_not_there(address: str) -> None:
    listed = httpx.get(f"{address}/v1/models").json()["data"]
    ids = [entry["id"] for entry in listed]
    assert [httpx.get(f"{address}/v1/models/{name}").json() for name in ids] == listed
    assert ids == ["reference", "reference@front", "reference@yard", "reference@all"]
    for name in ("back", "", "front@yard"):
        assert ask(address, name).status_code == 404, name


def test_a_camera_is_asked_in_text(address: str, frames: list[str]) -> None:
    picture = {"type": "image_url", "image_url": {"url": frames[0]}}
    content = [{"type": "text", "text": QUESTION}, picture]
    given = {"model": "reference@front", "messages": [{"role": "user", "content": content}]}
    answer = httpx.post(f"{address}/v1/chat/completions", json=given, timeout=60)
    assert answer.status_code == 400 and "camera" in answer.json()["error"]["message"]
    assert ask(address, "front", retention=0.5).status_code == 400


def test_alerts_have_a_picture_and_the_answer_to_the_question(address: str) -> None:
    def described() -> Any:
        alerts = httpx.get(f"{address}/live/alerts").json()["alerts"]
        return next((alert for alert in alerts if alert["text"]), None)

    alert = until(described, 40)
    assert alert["camera"] in CAMERAS and alert["surprise"] >= 1.5 and alert["time"].startswith("20")
    picture = httpx.get(f"{address}/live/alerts/{alert['id']}.jpg")
    assert cv2.imdecode(np.frombuffer(picture.content, np.uint8), cv2.IMREAD_COLOR).shape == (96, 96, 3)
    assert httpx.get(f"{address}/live/alerts/none.jpg").status_code == 404


def test_a_threshold_is_changed(address: str) -> None:
    url = f"{address}/live/yard/threshold"
    assert httpx.put(url, json={"surprise": None}).json()["threshold"] is None
    assert httpx.put(url, json={"surprise": 2}).json()["threshold"] == 2.0
    for wrong in ({"surprise": 0}, {"surprise": "x"}, {}, [], {"surprise": 1e300}):
        assert httpx.put(url, json=wrong).status_code == 400, wrong
    assert httpx.put(f"{address}/live/back/threshold", json={"surprise": 2}).status_code == 404


def test_a_camera_may_be_called_as_what_lies_beside_it(served: Any) -> None:
    with served(source={"alerts": CAMERAS["front"]}) as address:
        until(lambda: is_live(address, "alerts"))
        assert httpx.get(f"{address}/live/alerts/picture.jpg").headers["content-type"] == "image/jpeg"
        assert httpx.get(f"{address}/live/alerts/0123456789abcdef.jpg").json()["error"]["code"] == "no_alert"


def test_a_camera_rests_and_goes_on(address: str) -> None:
    assert httpx.post(f"{address}/live/yard/pause").json()["state"] == "paused"
    time.sleep(1)  # what was captured already is still seen
    before, others = camera(address, "yard")["steps"], camera(address, "front")["steps"]
    assert ask(address, "yard").status_code == 200  # from what it remembers
    time.sleep(1.5)
    assert camera(address, "yard")["steps"] == before and camera(address, "front")["steps"] > others
    httpx.post(f"{address}/live/yard/resume")
    until(lambda: camera(address, "yard")["steps"] > before and is_live(address, "yard"))
    assert httpx.post(f"{address}/live/back/pause").status_code == 404


def test_metrics_of_cameras(address: str) -> None:
    text = httpx.get(f"{address}/metrics").text
    for name in CAMERAS:
        assert f'score_edge_camera_steps_total{{camera="{name}"}}' in text
        assert f'score_edge_camera_tokens_total{{camera="{name}",kind="kept"}}' in text


def test_questions_to_cameras_while_clips_are_asked_about(address: str, frames: list[str]) -> None:
    """Every answer is whole, whoever asks, and the cameras go on."""
    before, codes = camera(address, "front")["steps"], list[int]()

    def clips() -> None:
        for n in range(4):
            parts = [{"type": "image_url", "image_url": {"url": url}} for url in frames[n : n + 8]]
            content = [{"type": "text", "text": QUESTION}, *parts]
            given = {"messages": [{"role": "user", "content": content}]}
            codes.append(httpx.post(f"{address}/v1/chat/completions", json=given, timeout=60).status_code)

    def cameras() -> None:
        for name in ("front", "all", "yard", "front"):
            answer = ask(address, name, max_tokens=20)
            codes.append(answer.status_code)
            assert answer.json()["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=each) for each in (clips, cameras, cameras)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 12
    until(lambda: camera(address, "front")["steps"] > before)


def test_a_camera_that_is_not_there_touches_no_other(served: Any) -> None:
    sources = {"front": "synthetic://?live=1", "away": "rtsp://me:secret@127.0.0.1:9/live"}
    with served(source=sources) as address:
        until(lambda: is_live(address, "front"))
        lost = until(lambda: (found := camera(address, "away"))["state"] == "lost" and found)
        assert "gives no picture" in lost["reason"] and "secret" not in json.dumps(lost)
        answer = ask(address, "away")
        assert answer.status_code == 503 and "nothing has been seen yet" in answer.json()["error"]["message"]
        assert ask(address, "all").status_code == 200
        before = camera(address, "front")["steps"]
        until(lambda: camera(address, "front")["steps"] > before)


def test_a_file_plays_at_its_own_speed_and_is_remembered(served: Any, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 8, (96, 96))
    for grey in range(0, 160, 10):
        writer.write(np.full((96, 96, 3), grey, np.uint8))
    writer.release()
    began = time.monotonic()
    with served(source={"file": str(tmp_path / "a.mp4")}) as address:
        # The source ends a moment before its last step is remembered.
        ended = until(lambda: (found := camera(address, "file"))["state"] == "lost" and found["steps"] == 4 and found)
        assert ended["reason"] == "the source has ended" and ended["drops"] == 0
        assert time.monotonic() - began > 1.8
        assert ask(address, "file").status_code == 200


def test_when_cameras_are_watched_no_longer_nobody_is_told_to_come_again(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from score_edge.runtime.live.cameras import Cameras

    take, broken = Cameras.take, threading.Event()

    def take_or_fail(self: Cameras, *given: Any) -> Any:
        if broken.is_set():
            raise RuntimeError("CUDA error 700")
        return take(self, *given)

    monkeypatch.setattr(Cameras, "take", take_or_fail)
    with served(source=CAMERAS) as address:
        until(lambda: is_live(address, "front") and is_live(address, "yard"))
        broken.set()
        until(lambda: httpx.get(f"{address}/health").status_code == 503)
        for name in ("front", "all"):
            answer = ask(address, name)
            assert answer.status_code == 503 and "retry-after" not in answer.headers
            assert answer.json()["error"]["type"] == "server_error" and "CUDA error 700" in answer.text
        assert ask(address, "back").status_code == 404


def test_a_full_queue_of_questions_and_the_end_of_the_server() -> None:
    """429 to whoever may come again, 503 to those who wait or are answered when it stops."""
    from score_edge.bundle.folder import Bundle
    from score_edge.serve.options import ServeOptions
    from score_edge.serve.run import opened

    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 1000}
    form = {"type": "json_schema", "json_schema": {"name": "long", "schema": schema}}
    asked = {"model": "reference@front", "messages": [{"role": "user", "content": QUESTION}], "response_format": form}
    asked |= {"max_tokens": 3000}

    async def ask_often() -> list[httpx.Response]:
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            answers = [asyncio.ensure_future(client.post("/v1/chat/completions", json=asked)) for _ in range(14)]
            await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(1)  # the others that find the queue full
            await asyncio.to_thread(server.live.close)
            return [*await asyncio.gather(*answers), await client.post("/v1/chat/completions", json=asked)]

    options = ServeOptions(threads=1, waiting=20, source={"front": "synthetic://?live=1"})
    with opened(Bundle.open("reference"), options) as server:
        until(lambda: server.live.view("front")["steps"])
        answers = asyncio.run(ask_often())
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {429, 503} and codes[-1] == 503
    assert all(("retry-after" in answer.headers) == (answer.status_code == 429) for answer in answers)


def test_the_model_is_freed_when_the_last_step_is_remembered_however_long_that_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from score_edge.bundle.folder import Bundle
    from score_edge.runtime.live.memory import VideoMemory
    from score_edge.serve.options import ServeOptions
    from score_edge.serve.run import opened

    append, join = VideoMemory.append, threading.Thread.join
    slow, inside, remembered = threading.Event(), threading.Event(), threading.Event()

    def append_slowly(self: VideoMemory, *given: Any) -> Any:
        if not slow.is_set():
            return append(self, *given)
        inside.set()
        time.sleep(1)
        kept = append(self, *given)
        remembered.set()
        return kept

    def join_briefly(self: threading.Thread, timeout: float | None = None) -> None:
        join(self, None if timeout is None else timeout / 100)  # or the step would have to take minutes

    monkeypatch.setattr(VideoMemory, "append", append_slowly)
    monkeypatch.setattr(threading.Thread, "join", join_briefly)
    options = ServeOptions(threads=1, source={"front": "synthetic://?live=1"})
    with opened(Bundle.open("reference"), options) as server:
        until(lambda: server.live.view("front")["steps"])
        slow.set()
        assert inside.wait(20)
    assert remembered.is_set()


def test_whoever_goes_away_leaves_no_question_and_no_complaint(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 1000}
    form = {"type": "json_schema", "json_schema": {"name": "long", "schema": schema}}
    with served(source={"front": CAMERAS["front"]}, waiting=20) as address, ThreadPoolExecutor(10) as pool:
        until(lambda: is_live(address, "front"))
        listening = httpx.stream(
            "POST",
            f"{address}/v1/chat/completions",
            json={
                "model": "reference@front",
                "messages": [{"role": "user", "content": QUESTION}],
                "response_format": form,
                "max_tokens": 3000,
                "stream": True,
            },
            timeout=60,
        )
        with listening as answer:
            lines = answer.iter_lines()
            while "content" not in next(lines):
                pass

            def go_away(_: int) -> None:
                with pytest.raises(httpx.ReadTimeout):
                    given = {"model": "reference@front", "messages": [{"role": "user", "content": QUESTION}]}
                    httpx.post(f"{address}/v1/chat/completions", json=given, timeout=0.5)

            list(pool.map(go_away, range(8)))
            until(lambda: "score_edge_queue 1.0" in httpx.get(f"{address}/metrics").text)
            one_more = pool.submit(ask, address, "front")
            time.sleep(0.3)
        assert one_more.result().status_code == 200
    assert caplog.text == ""


def test_an_answer_that_fails_is_our_fault_and_one_without_room_is_not(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from score_edge.runtime.live.cameras import Cameras

    def fail(*_: Any) -> Any:
        raise RuntimeError("llama_decode returned -3")
        yield

    with served(source={"front": CAMERAS["front"]}) as address:
        until(lambda: is_live(address, "front"))
        error = ask(address, "front", QUESTION * 1000).json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
        with monkeypatch.context() as broken:
            broken.setattr(Cameras, "answer", fail)
            for more in ({}, {"stream": True}):
                answer = ask(address, "front", **more)
                assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
                assert "llama_decode" not in answer.text
        assert ask(address, "front").status_code == 200


def test_an_alert_whose_picture_fails_stops_nobody_from_seeing(
    served: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from score_edge.serve import live

    def fail(*_: Any, **__: Any) -> bytes:
        raise MemoryError

    with monkeypatch.context() as full, served(source={"front": CAMERAS["front"]}, alert_above=0.01) as address:
        full.setattr(live, "jpeg", fail)
        until(lambda: "MemoryError" in caplog.text)
        full.undo()
        seen = camera(address, "front")["steps"]
        until(lambda: camera(address, "front")["steps"] > seen + 1)


def test_who_waits_for_an_engine_that_is_closed_is_told_so() -> None:
    from score_edge.bundle.folder import Bundle
    from score_edge.runtime.live.questions import StreamEndedError
    from score_edge.runtime.pipeline import Pipeline
    from score_edge.serve.engine import Engine, GenerationRequest, Job

    began, closing = threading.Event(), threading.Event()

    def slowly(_: str) -> None:
        began.set()
        closing.wait(10)

    with Pipeline(Bundle.open("reference"), context=512) as pipeline:
        engine = Engine(pipeline, [pipeline.sequence], None, None)
        jobs = [
            Job(GenerationRequest(None, QUESTION), told, time.monotonic() + 60) for told in (slowly, lambda _: None)
        ]
        for job in jobs:
            engine.put(job)
        assert began.wait(10)
        closer = threading.Thread(target=engine.close)
        closer.start()
        time.sleep(0.1)
        closing.set()
        closer.join()
    assert jobs[0].done.result().text
    assert isinstance(jobs[1].done.exception(), StreamEndedError)
