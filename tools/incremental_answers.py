"""Answers with only the changed cells encoded against full encoding, paired, on the reference world.

python tools/incremental_answers.py --seed 880001 --clips 220 --thresholds 12
python tools/incremental_answers.py --world pan --align    # a moving camera, its movement taken out of the frames first

Differences are in points, with their 95 % interval, clips drawn anew.
"""

import argparse
from dataclasses import dataclass

import numpy as np

from score_edge.bundle.folder import Bundle
from score_edge.core import Float32, Frame
from score_edge.evaluation.intervals import over_clips
from score_edge.reference import world
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.stopwatch import Stopwatch
from score_edge.runtime.vision_encoder import VisionEncoder

STEPS = 32
_SURE = 0.1  # response of the phase correlation
_FAR = 8  # pixels
KINDS = (("all", 1.0), ("score", 0.1))


@dataclass(frozen=True, slots=True)
class ClipQuestion:
    """A question, by the number of its clip."""

    clip: int


def aligned(frames: list[Frame]) -> list[Frame]:
    """The frames moved back by whole pixels to lie as the first one does, as far as phase correlation finds out."""
    import cv2

    grey = [cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in frames]
    window = cv2.createHanningWindow(grey[0].shape[::-1], cv2.CV_32F)
    moved = []
    for frame, picture in zip(frames, grey, strict=True):
        (x, y), sure = cv2.phaseCorrelate(grey[0], picture, window)
        x, y = (round(x), round(y)) if sure > _SURE and max(abs(x), abs(y)) <= _FAR else (0, 0)
        back = np.array([[1, 0, -x], [0, 1, -y]], np.float32)
        image = cv2.warpAffine(
            frame.image, back, picture.shape[::-1], flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
        )
        moved.append(Frame(np.asarray(image, np.uint8), frame.time_s, frame.index))
    return moved


def encode(encoder: VisionEncoder, frames: list[Frame]) -> tuple[Float32, float]:
    """(T, N, D) tokens of a clip, and the share of its cells that were encoded."""
    state, per_step = encoder.start(), encoder.preprocessing.frames_per_step
    steps = (frames[i : i + per_step] for i in range(0, len(frames), per_step))
    tokens, encoded = zip(*(encoder.encode(step, state, Stopwatch()) for step in steps), strict=True)
    return np.stack(tokens), float(np.mean(encoded))


def main() -> None:
    """Ask every question of every clip."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=880001)
    parser.add_argument("--clips", type=int, default=220)
    parser.add_argument("--world", default="plain", help="a regime of the reference world")
    parser.add_argument("--align", action="store_true", help="take the camera's movement out where cells are cached")
    parser.add_argument("--thresholds", default="12", help="grey levels, comma-separated")
    chosen = parser.parse_args()
    bundle = Bundle.open("reference")
    path = bundle.incremental_path
    if path is None:
        raise SystemExit("the reference bundle has no incremental graph")
    thresholds = [-1.0, *map(float, chosen.thresholds.split(","))]  # below 0: every cell
    with Pipeline(bundle, threads=1, full_encoder=True) as pipeline:
        graph, dim = OnnxGraph(path, threads=1), bundle.manifest.vision.dim
        encoders = {each: VisionEncoder(pipeline.preprocessing, dim, graph, each) for each in thresholds}
        right: dict[tuple[float, str], list[bool]] = {(each, kind): [] for each in thresholds for kind, _ in KINDS}
        shares: dict[float, list[float]] = {each: [] for each in thresholds}
        asked: list[ClipQuestion] = []
        for number in range(chosen.clips):
            clip = world.make_clip(chosen.seed, number, STEPS, chosen.world)
            frames = list(clip.frames())
            asked += [ClipQuestion(number)] * len(clip.questions)
            for threshold, encoder in encoders.items():
                tokens, share = encode(encoder, aligned(frames) if chosen.align and threshold >= 0 else frames)
                shares[threshold].append(share)
                for kind, retention in KINDS:
                    pipeline.watch(tokens, pipeline.select(tokens, pipeline.selector(kind), retention))
                    for question in clip.questions:
                        said = "".join(pipeline.ask(question.text, 8)).strip().lower()
                        right[threshold, kind].append(said == question.answer)
    for threshold in thresholds[1:]:
        print(f"threshold {threshold:g}: {np.mean(shares[threshold]):.1%} of the cells encoded")
        for kind, retention in KINDS:
            full, found = (np.array(right[each, kind]) for each in (-1.0, threshold))
            change = found * 1.0 - full
            low, high = over_clips(asked, change, -1.0)
            print(
                f"  {kind} at {retention:.0%}, {len(full)} questions: {full.mean():.2%} -> {found.mean():.2%} right, "
                f"{100 * change.mean():+.2f} ({100 * low:+.2f} to {100 * high:+.2f}) points; "
                f"{np.mean(full & ~found):.2%} became wrong, {np.mean(~full & found):.2%} right"
            )


if __name__ == "__main__":
    main()
