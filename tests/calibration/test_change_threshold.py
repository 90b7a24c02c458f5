"""The threshold that footage gives, and how it gets into a bundle."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from score_edge.bundle.folder import REFERENCE, Bundle, write_bundle
from score_edge.calibration import change_threshold
from score_edge.calibration.change_threshold import (
    CANDIDATES,
    Footage,
    check_saving,
    find_threshold,
    read_footage,
    save_threshold,
)
from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.reference import world
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.pipeline import Pipeline

pytest.importorskip("llama_cpp")


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline(Bundle.open("reference"), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def footage(pipeline: Pipeline) -> Footage:
    clip = world.make_clip(5, 0, 24)
    images = [frame.image for frame in clip.frames()]
    steps = [pipeline.preprocessing.fit(images[i : i + 2]) for i in range(0, len(images), 2)]
    return Footage("clip", steps, full_tokens(pipeline, list(clip.frames())))


def full_tokens(pipeline: Pipeline, frames: list[Frame]) -> np.ndarray:
    """Of the plain graph."""
    encoder = OnnxGraph(pipeline.bundle.encoder_path, threads=1)
    inputs = (pipeline.preprocessing.prepare(frames[i : i + 2]) for i in range(0, len(frames), 2))
    return np.stack([encoder.run(**given)["tokens"] for given in inputs])


def test_trials_cover_every_candidate_and_the_bound_decides(pipeline: Pipeline, footage: Footage) -> None:
    loose, tight = (find_threshold(pipeline, [footage], bound) for bound in (50.0, 1e-9))
    assert [trial.threshold for trial in loose.trials] == list(CANDIDATES)
    assert loose.threshold == max(CANDIDATES) and tight.threshold <= loose.threshold
    shares = [trial.encoded for trial in loose.trials]
    assert shares == sorted(shares, reverse=True) and shares[-1] < 0.5
    assert all(0 <= trial.agreement <= 1 and trial.divergence > -1e-6 for trial in loose.trials)


def test_a_threshold_of_nothing_changes_nothing_that_is_kept(pipeline: Pipeline, footage: Footage) -> None:
    trial = find_threshold(pipeline, [footage]).trials[0]
    assert trial.threshold == 0 and trial.agreement > 0.95 and trial.divergence < 1e-3 and trial.error < 0.01


def test_a_trial_is_of_every_prompt_and_of_the_last_quarter_by_itself(
    pipeline: Pipeline, footage: Footage, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = footage.tokens.copy()
    off[17] += 1  # of 24 steps the last six are late
    seen: list[int] = []

    def words(pipeline: Pipeline, tokens: np.ndarray, keep: np.ndarray) -> np.ndarray:
        seen.append(len(tokens))
        return np.log([[0.5, 0.5]])

    monkeypatch.setattr(change_threshold, "_encode", lambda *given: (off, np.ones(off.shape[:2], bool)))
    monkeypatch.setattr(change_threshold, "_next_words", words)
    trial = change_threshold._try(pipeline, footage, 1.0)
    assert trial.error > 0 and trial.late_error == 0
    assert seen == [16] * 4  # steps 0 to 15 and 8 to 23, of either encoding


def test_the_divergence_is_how_much_likelier_the_words_of_full_encoding_are() -> None:
    full, other = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert change_threshold._divergence(full, other) == pytest.approx(expected)


def test_prompts_in_which_nothing_is_kept_can_be_compared(
    pipeline: Pipeline, footage: Footage, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = Footage(
        "still",
        footage.steps[:8] + footage.steps[7:8] * 28,
        np.concatenate([footage.tokens[:8], np.repeat(footage.tokens[7:8], 28, axis=0)]),
    )
    last_kept = pipeline.selector("last-kept")
    assert not pipeline.select(still.tokens, last_kept, 0.1)[16:32].any()
    monkeypatch.setattr(pipeline, "selector", lambda: last_kept)
    monkeypatch.setattr(change_threshold, "CANDIDATES", (0.0,))
    (trial,) = find_threshold(pipeline, [still]).trials
    assert -1e-6 < trial.divergence < 1e-3


def test_a_divergence_that_is_no_number_is_within_no_bound(
    pipeline: Pipeline, footage: Footage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_threshold, "CANDIDATES", (0.0, 12.0))
    monkeypatch.setattr(change_threshold, "_divergence", lambda of, by: float("nan"))
    assert find_threshold(pipeline, [footage]).threshold == 0


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
def test_no_footage_and_no_bound_are_refused(pipeline: Pipeline, footage: Footage, bound: float) -> None:
    with pytest.raises(ScoreEdgeError, match="footage and a bound above 0"):
        find_threshold(pipeline, [footage], bound)
    with pytest.raises(ScoreEdgeError, match="footage and a bound above 0"):
        find_threshold(pipeline, [], 0.1)


def test_a_clip_of_one_step_is_too_short(pipeline: Pipeline, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((96, 96, 3), np.uint8))
    with pytest.raises(ScoreEdgeError, match="fewer than two steps"):
        read_footage(pipeline, tmp_path / "one.png", 4.0)


def test_it_is_written_into_a_bundle_but_not_into_the_shipped_one(tmp_path: Path) -> None:
    reference = Bundle.open("reference")
    bundle = write_bundle(tmp_path / "bundle", reference.manifest, reference.paths)
    save_threshold(bundle, 2.5)
    assert Bundle.open(bundle.folder).manifest.vision.change_threshold == 2.5
    with pytest.raises(ScoreEdgeError, match="the shipped bundle stays as it is"):
        check_saving(Bundle.open(REFERENCE))
