"""The threshold found keeps reused tokens within the bound, and the gate then does what the report says."""

from pathlib import Path

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle, write_bundle
from score_edge.calibration.gate_threshold import EncodedFootage, find_threshold, replay, save_threshold
from score_edge.core import Grid
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.live.gate import EncoderGate

GRID = Grid(2, 2)


def footage(noise: float, seed: int = 0, steps: int = 60) -> EncodedFootage:
    """A still picture under noise, with a thing that appears half-way; a token is the mean colour of its cell."""
    rng = np.random.default_rng(seed)
    scene = np.full((steps, 1, 32, 32, 3), 120.0)
    scene[steps // 2 :, :, 2:14, 2:14] = 220
    scene += rng.standard_normal(scene.shape) * noise
    pixels = np.clip(scene, 0, 255).astype(np.uint8)
    tokens = pixels.reshape(steps, 2, 16, 2, 16, 3).mean(axis=(2, 4)).reshape(steps, 4, 3).astype(np.float32)
    return EncodedFootage("still", pixels, tokens, GRID)


@pytest.mark.parametrize("bound", [0.001, 0.01, 0.1])
def test_every_reused_step_is_within_the_bound(bound: float) -> None:
    clips = [footage(2.0), footage(4.0, seed=1)]
    report = find_threshold(clips, bound)
    assert max(clip.worst_step for clip in report.clips) <= bound
    assert report.clips == [replay(clip, report.threshold) for clip in clips]


def test_noise_is_skipped_and_the_thing_is_not() -> None:
    clip = footage(2.0)
    report = find_threshold([clip], 0.01)
    assert report.clips[0].skipped == len(clip.pixels) - 2


def test_the_gate_skips_what_the_report_says() -> None:
    clip = footage(3.0)
    report = find_threshold([clip], 0.02)
    gate = EncoderGate(report.threshold, GRID)
    assert sum(gate.unchanged(pixels) for pixels in clip.pixels) == report.clips[0].skipped > 0


@pytest.mark.parametrize("clips", [[], [footage(1.0)]])
def test_nothing_to_go_by(clips: list[EncodedFootage]) -> None:
    with pytest.raises(ScoreEdgeError, match="footage and a bound"):
        find_threshold(clips, 0.0)


def test_the_shipped_bundle_is_not_written_into() -> None:
    with pytest.raises(ScoreEdgeError, match="stays as it is"):
        save_threshold(Bundle.open("reference"), 1.0)


def test_saving_rewrites_the_manifest_and_nothing_else(tmp_path: Path) -> None:
    reference = Bundle.open("reference")
    bundle = write_bundle(tmp_path / "bundle", reference.manifest, reference.paths)
    before = {path: path.stat() for path in bundle.paths.values()}
    save_threshold(bundle, 2.5)
    assert Bundle.open(bundle.folder).manifest.vision.gate == 2.5
    after = {path: path.stat() for path in bundle.paths.values()}
    assert {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in before.items()} == {
        path: (stat.st_ino, stat.st_mtime_ns) for path, stat in after.items()
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    (bundle.folder / "bundle.json").rename(tmp_path / "blob")
    (bundle.folder / "bundle.json").symlink_to(tmp_path / "blob")
    with pytest.raises(ScoreEdgeError, match="is a link"):
        save_threshold(bundle, 3.0)
