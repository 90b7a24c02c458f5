"""Steps chosen are spread by content, the same for the same seed, and few are held."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from score_edge.calibration.frames import (
    CYCLE,
    RUN,
    RUNS,
    choose_steps,
    frames_of,
    group_steps,
    read_clips,
    signature,
)
from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.preprocess import Preprocessing

PREPROCESSING = Preprocessing(16, 16, 4, 2, 2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def scenes(lengths: list[int], seed: int = 0, side: int = 32, noise: float = 1.0) -> Iterator[np.ndarray]:
    """Still scenes under noise, a cut between two; the red of the first pixel says which scene it is."""
    rng = np.random.default_rng(seed)
    for scene, length in enumerate(lengths):
        picture = rng.integers(0, 256, (side, side, 3)).astype(np.float64)
        for _ in range(length):
            pixels = np.clip(picture + noise * rng.standard_normal(picture.shape), 0, 255).astype(np.uint8)
            pixels[0, 0, 0] = scene
            yield pixels[None]


def scene_of(pixels: np.ndarray) -> int:
    return int(pixels[0, 0, 0, 0])


def test_a_step_is_told_by_what_it_shows_and_by_what_changed() -> None:
    before, now = np.float32([1, 5]), np.float32([4, 5])
    np.testing.assert_array_equal(signature(now, before), [4, 5, 3, 0])
    np.testing.assert_array_equal(signature(now, None), [4, 5, 4, 5])


def test_more_may_be_asked_for_than_there_are_or_fit_in_memory() -> None:
    choice = choose_steps([scenes([100, 100])], 10**9)
    every = [pixels for i, pixels in enumerate(scenes([100, 100])) if i // RUN % CYCLE != 1]
    np.testing.assert_array_equal(choice.calibration, every)


def test_short_scenes_are_chosen_beside_a_long_one() -> None:
    lengths = [200, 3, 3, 3, 3, 3, 200]
    choice = choose_steps([scenes(lengths)], 12)
    chosen = {scene_of(pixels) for pixels in choice.calibration}
    calibratable = {scene_of(pixels) for i, pixels in enumerate(scenes(lengths)) if i // RUN % CYCLE != 1}
    assert chosen == calibratable and len(chosen) >= 5
    assert len(choice.calibration) == 12


def test_every_nth_would_have_missed_them() -> None:
    lengths = [200, 3, 3, 3, 3, 3, 200]
    every_nth = {scene_of(pixels) for i, pixels in enumerate(scenes(lengths)) if i % (sum(lengths) // 12) == 0}
    assert len(every_nth) <= 3


def test_the_same_seed_chooses_the_same_and_another_does_not() -> None:
    first, again, other = (choose_steps([scenes([300])], 16, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first.calibration, again.calibration, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first.held_out, again.held_out, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first.calibration, other.calibration, strict=True))


def test_held_out_steps_are_consecutive_and_never_calibrated_on() -> None:
    steps = [np.full((1, 8, 8, 3), i % 256, np.uint8) for i in range(250)]
    for i, step in enumerate(steps):
        step[0, 0, 0] = (i, 255 - i, 0)
    choice = choose_steps([steps], 300)
    calibrated = {int(pixels[0, 0, 0, 0]) for pixels in choice.calibration}
    held = [[int(pixels[0, 0, 0, 0]) for pixels in run] for run in choice.held_out]
    assert not calibrated & {i for run in held for i in run}
    assert all(run == list(range(run[0], run[0] + len(run))) for run in held)
    assert len(held) == RUNS


def test_a_run_does_not_cross_from_one_clip_into_the_next() -> None:
    choice = choose_steps([scenes([12], seed=1), scenes([12], seed=2)], 4)
    assert [len(run) for run in choice.held_out] == [4, 4]


@pytest.mark.slow
def test_ten_thousand_steps_are_never_in_memory_at_once() -> None:
    side, count = 48, 32

    def endless() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for _ in range(10_000):
            yield rng.integers(0, 256, (1, side, side, 3), np.uint8)

    tracemalloc.start()
    choice = choose_steps([endless()], count)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (choice.seen, len(choice.calibration)) == (10_000, count)
    assert peak < 4 * (count + RUN * (RUNS + 1)) * side * side * 3


@pytest.mark.parametrize(
    ("clips", "words"),
    [
        ([], "no frames"),
        ([[np.zeros((1, 8, 8, 3), np.uint8)]], "gives 1 encoder step, 10 are needed"),
        ([[np.zeros((1, 8, 8, 3), np.uint8)] * 9] * 20, "gives 9 encoder steps in one piece at most, 10 are needed"),
        ([[np.zeros((1, 8, 8, 3), np.uint8)] * 30], "one plain colour .mean level 0"),
        ([[np.full((1, 8, 8, 3), 77, np.uint8)] * 30], "mean level 77"),
    ],
)
def test_footage_that_cannot_calibrate(clips: list[list[np.ndarray]], words: str) -> None:
    with pytest.raises(ScoreEdgeError, match=words) as caught:
        choose_steps(clips)
    assert caught.value.hint


def test_frames_become_steps_whatever_their_size() -> None:
    frames = [Frame(np.zeros((h, w, 3), np.uint8), i, i) for i, (h, w) in enumerate([(16, 16), (20, 40), (9, 9)])]
    sizes: set[str] = set()
    (step,) = group_steps(frames, PREPROCESSING, sizes)
    assert step.shape == (2, 16, 16, 3)
    assert sizes == {"16x16", "40x20", "9x9"}


def test_a_folder_stands_for_its_videos(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.mp4"):
        writer = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter_fourcc(*"mp4v"), 4, (32, 32))
        for _ in range(8):
            writer.write(np.full((32, 32, 3), 90 if name == "a.mp4" else 200, np.uint8))
        writer.release()
    (tmp_path / "._a.mp4").write_bytes(b"\0\5\x16\7" + bytes(100))  # what macOS leaves on a card
    (tmp_path / "more.mp4").mkdir()
    levels = [[frame.image.mean() for frame in clip] for clip in read_clips([tmp_path], 2)]
    assert [len(clip) for clip in levels] == [4, 4]
    assert levels[0][0] < levels[1][0]


def test_a_video_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 100)
    with pytest.raises(ScoreEdgeError, match="no frame that can be decoded"):
        list(next(read_clips([tmp_path], 2)))


def test_a_name_that_is_too_long_is_an_error_in_words() -> None:
    with pytest.raises(ScoreEdgeError, match="cannot be read: File name too long"):
        list(read_clips(["a" * 300], 2))


def test_no_footage_is_not_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScoreEdgeError, match="no source is given"):
        list(read_clips([""], 2))


def test_footage_without_an_end_ends(caplog: pytest.LogCaptureFixture) -> None:
    assert sum(1 for _ in frames_of("synthetic://", 4, 12)) == 12
    assert "has no end: the clip is its next 3 s" in caplog.text
