"""What a server is worth and what it bears: one request of many frames, and many clients beside live cameras.

python tools/serve_load.py clip                      # 20 frames against the same server without any saving
python tools/serve_load.py clients --seconds 60      # 50 clients for a minute beside two cameras
"""

import argparse
import base64
import concurrent.futures
import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
from siglip_bundle import siglip_bundle

from score_edge.bundle.folder import Bundle
from score_edge.reference import world

ROOT = Path(__file__).parent.parent
PETS = Path(os.environ.get("SCORE_EDGE_SHARED", ROOT.parent / "shared")) / "videos/pets09_vtest_480x360.mp4"
CAMERAS = ("front=synthetic://?live=1", "yard=synthetic://?live=1&seed=5")


@contextlib.contextmanager
def server(bundle: str, *options: str) -> Iterator[tuple[str, int]]:
    """Address and process id of a `score-edge serve`."""
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "serve", bundle, "--port", "0"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            line = process.stderr.readline()
            if " at " not in line:
                raise SystemExit(line + process.stderr.read())
            print(line.strip())
            yield line.split(" at ")[1].split("/v1")[0], process.pid
        finally:
            process.terminate()


def data_uri(image: Any) -> str:
    """(H, W, 3) BGR as a JPEG."""
    return "data:image/jpeg;base64," + base64.b64encode(cv2.imencode(".jpg", image)[1].tobytes()).decode()


def frames_of(video: Path, count: int, every: int) -> list[str]:
    """Frames of a video, 1280 x 720."""
    capture, found = cv2.VideoCapture(str(video)), list[str]()
    while len(found) < count:
        for _ in range(every):
            read, image = capture.read()
        if not read:
            raise SystemExit(f"{video} has no {count} frames {every} apart")
        found.append(data_uri(cv2.resize(image, (1280, 720), interpolation=cv2.INTER_AREA)))
    return found


def body(text: str, frames: list[str], **more: Any) -> dict[str, Any]:
    """A chat request, as Frigate makes it."""
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in frames]
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": text}, *parts]}], **more}


def clip(chosen: argparse.Namespace) -> None:
    """The same frames: saved and unsaved in turns, then a second question about them."""
    bundle = chosen.bundle or str(siglip_bundle(ROOT / "build/siglip-bundle"))
    whole: dict[str, list[float]] = {"saved": [], "unsaved": [], "again": []}
    with server(bundle, "--deadline-s", "1200", "--context", "4096", "--clips", "1") as (address, _):
        for run in range(chosen.runs + 1):  # the first warms up
            frames = frames_of(chosen.video, chosen.frames, chosen.every + (run % 2))  # others, or they would be known
            asked = {
                "unsaved": ("What happens here?", {"full_encoder": True, "retention": 1}),
                "saved": ("What happens here?", {}),
                "again": ("And who is there?", {}),
            }
            for name, (text, more) in asked.items():
                given = body(text, frames, max_tokens=chosen.max_tokens, **more)
                began = time.perf_counter()
                answer = httpx.post(f"{address}/v1/chat/completions", json=given, timeout=1200)
                took = time.perf_counter() - began
                answer.raise_for_status()
                found = answer.json()
                print(f"{name:8} {took:7.2f} s  {json.dumps(found['score_edge'])} {json.dumps(found['usage'])}")
                if run:
                    whole[name].append(took)
    median = {name: float(np.median(times)) for name, times in whole.items()}
    print(f"{chosen.frames} frames in one request: {median['unsaved']:.1f} s unsaved, {median['saved']:.2f} s saved:")
    print(f"  {median['unsaved'] / median['saved']:.1f}x; a second question {median['again']:.2f} s:")
    print(f"  {median['unsaved'] / median['again']:.1f}x")


class Load:
    """Clients that never rest, and what became of their requests."""

    def __init__(self, address: str, model: str, frames: list[str]) -> None:
        self._url, self._model, self._frames = f"{address}/v1/chat/completions", model, frames
        self.codes: Counter[str] = Counter()
        self.broken: list[str] = []
        self.seconds: list[float] = []
        self._lock = threading.Lock()

    def client(self, number: int, until: float) -> None:
        """One of them."""
        rng = random.Random(number)
        with httpx.Client(timeout=180) as http:
            while time.monotonic() < until:
                streams = rng.random() < 0.5
                given = self._given(rng) | {"stream": streams, "max_tokens": 32}
                began = time.monotonic()
                try:
                    answer = http.post(self._url, json=given)
                except httpx.HTTPError as error:
                    self._note(f"{type(error).__name__}", f"{error!r}", 0)
                    continue
                whole = answer.status_code != 200 or self._is_whole(answer, streams)
                self._note(str(answer.status_code), "" if whole else answer.text[-200:], time.monotonic() - began)
                if answer.status_code == 429:
                    time.sleep(float(answer.headers["retry-after"]) * rng.random())

    def _given(self, rng: random.Random) -> dict[str, Any]:
        if rng.random() < 0.4:
            name = rng.choice(["front", "yard", "all"])
            return body("how many things moved fast?", [], model=f"{self._model}@{name}")
        first, count = rng.randrange(len(self._frames)), rng.choice([2, 8, 20])
        return body("how many things moved fast?", (self._frames * 2)[first : first + count])

    @staticmethod
    def _is_whole(answer: httpx.Response, streams: bool) -> bool:
        if not streams:
            return bool(answer.json()["choices"][0]["finish_reason"] in ("stop", "length"))
        *chunks, done = [line[len("data: ") :] for line in answer.text.splitlines() if line]
        ends = {choice["finish_reason"] for chunk in chunks for choice in json.loads(chunk).get("choices", [])}
        return done == "[DONE]" and bool(ends & {"stop", "length"})

    def _note(self, code: str, broken: str, seconds: float) -> None:
        with self._lock:
            self.codes[code] += 1
            if broken:
                self.broken.append(broken)
            if code == "200":
                self.seconds.append(seconds)


def clients(chosen: argparse.Namespace) -> None:
    """Cameras alone, then beside clients: their rate, the server's memory, what became of every request."""
    bundle = chosen.bundle or "reference"
    model = Bundle.open(bundle).manifest.name
    frames = [data_uri(image[..., ::-1]) for image in world.make_clip(world.TEST_SEED, 1, 20).images]
    options = [word for source in chosen.source or CAMERAS for word in ("--source", source)]
    with server(bundle, *options) as (address, pid):
        time.sleep(5)
        alone = rates(address, chosen.alone)
        load, resident, stop = Load(address, model, frames), list[int](), threading.Event()

        def watch() -> None:
            while not stop.wait(1):
                resident.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

        watcher = threading.Thread(target=watch)
        with concurrent.futures.ThreadPoolExecutor(chosen.clients) as pool:
            until = time.monotonic() + chosen.seconds
            running = [pool.submit(load.client, number, until) for number in range(chosen.clients)]
            time.sleep(min(5, chosen.seconds / 4))
            watcher.start()
            beside = rates(address, until - time.monotonic())
            for each in running:
                each.result()
        stop.set()
        watcher.join()
        after = rates(address, 5)
    third = max(1, len(resident) // 3)
    early, late = (max(part) / 2**20 for part in (resident[:third], resident[-third:]))
    print(f"{chosen.clients} clients, {chosen.seconds} s: {dict(load.codes)}, broken: {load.broken or 'none'}")
    took = np.percentile(load.seconds, [50, 95]) if load.seconds else (0, 0)
    print(f"answers: median {took[0]:.1f} s, 95 % within {took[1]:.1f} s")
    print(f"memory: {early:.0f} MiB in the first third, {late:.0f} MiB in the last ({late / early - 1:+.1%})")
    for name, rate in alone.items():
        share = beside[name] / rate
        print(f"{name}: {rate:.2f} steps/s alone, {beside[name]:.2f} beside ({share:.0%}), {after[name]:.2f} after")


def rates(address: str, seconds: float) -> dict[str, float]:
    """Steps per second of each camera."""
    before, began = steps(address), time.monotonic()
    time.sleep(seconds)
    after = steps(address)
    passed = time.monotonic() - began
    return {name: (count - before[name]) / passed for name, count in after.items()}


def steps(address: str) -> dict[str, int]:
    """Of each camera so far."""
    cameras = httpx.get(f"{address}/live", timeout=60).json()["cameras"]
    return {camera["name"]: camera["steps"] for camera in cameras}


def main() -> None:
    """One of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", help="Default: SigLIP-base and SmolLM2-360M with random weights; the shipped one.")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("clip")
    one.add_argument("--video", type=Path, default=PETS)
    one.add_argument("--frames", type=int, default=20)
    one.add_argument("--every", type=int, default=5, help="Frames of the video from one to the next.")
    one.add_argument("--max-tokens", type=int, default=16)
    one.add_argument("--runs", type=int, default=3)
    one.set_defaults(run=clip)
    many = commands.add_parser("clients")
    many.add_argument("--clients", type=int, default=50)
    many.add_argument("--seconds", type=float, default=60)
    many.add_argument("--alone", type=float, default=20, help="Seconds for which cameras are alone first.")
    many.add_argument("--source", action="append")
    many.set_defaults(run=clients)
    chosen = parser.parse_args()
    chosen.run(chosen)


if __name__ == "__main__":
    main()
