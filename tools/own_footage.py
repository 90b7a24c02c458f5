"""Whether a policy learned from a camera's own footage looks where it matters there: first half against second half.

    python tools/own_footage.py FOLDER [--bundle reference] [--out build/own-footage] [--steps 60] [--retention 0.1]

FOLDER holds videos with files of boxes beside them (NAME.gt.json, NAME.hand.json; see `evaluate --boxes`). Of each, the
first half is cut into pieces, and a policy is learned from those alone: nobody says what is in them, the targets are
the unpruned model's own answers. On the second half the table shows kept tokens per area inside the boxes over outside,
for the bundle's policy and the one that was learned.
"""

import argparse
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from score_edge.bundle.folder import Bundle
from score_edge.core import Frame
from score_edge.errors import require
from score_edge.evaluation.selectivity import Boxes, measure_selectivity, read_boxes
from score_edge.learning.data import Data
from score_edge.learning.policy_run import learn_policy
from score_edge.learning.recipe import PolicyRecipe
from score_edge.profiling.workload import bundle_hashes
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.open_source import open_source

PIECES = 8
CLIP_STEPS = 8


def main() -> None:
    """Cut, learn, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", default="reference")
    parser.add_argument("--out", type=Path, default=Path("build/own-footage"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--retention", type=float, default=0.1)
    chosen = parser.parse_args()
    bundle = Bundle.open(chosen.bundle)
    recipe = PolicyRecipe(steps=chosen.steps, clips=4, still_share=0.0, checkpoint_every=chosen.steps)
    print(f"inside / outside at {chosen.retention:.0%}, second half; learned from the first half alone")
    for boxes in sorted([*chosen.folder.glob("*.gt.json"), *chosen.folder.glob("*.hand.json")]):
        video = chosen.folder / json.loads(boxes.read_text())["video"]
        here = chosen.out / video.stem
        frames = list(open_source(video))
        fps = (len(frames) - 1) / frames[-1].time_s
        middle = len(frames) // 2
        cuts = np.linspace(0, middle, PIECES + 1).astype(int)
        for i, (first, last) in enumerate(itertools.pairwise(cuts)):
            write(here / "first" / f"{i}.mp4", frames[first:last], fps)
        second = write(here / "second.mp4", frames[middle:], fps)
        labels = read_boxes(boxes)
        labelled = {index - middle: found for index, found in labels.frames.items() if index >= middle}
        run = here / run_name(video, bundle, recipe)
        if (run / "bundle").is_dir():
            learned = Bundle.open(run / "bundle")
        else:
            data = Data(videos=here / "first", clip_steps=CLIP_STEPS)
            learned = learn_policy(chosen.bundle, run, recipe, data)
        ratios = [ratio(each, second, Boxes(labelled, labels.size), chosen.retention) for each in (bundle, learned)]
        print(f"{video.name:36} {len(labelled)} labelled frames: shipped {ratios[0]}, learned {ratios[1]}", flush=True)


def run_name(video: Path, bundle: Bundle, recipe: PolicyRecipe) -> str:
    """Of the folder of a run: another one for other footage, another bundle or another recipe."""
    found = video.stat()
    footage = f"{video.name} {found.st_mtime_ns} {found.st_size} {PIECES} {CLIP_STEPS}"
    learned_by = f"{footage} {bundle_hashes(bundle)} {bundle.manifest} {recipe}"
    return f"run-{hashlib.sha256(learned_by.encode()).hexdigest()[:12]}"


def write(path: Path, frames: list[Frame], fps: float) -> Path:
    """A video of these frames."""
    cv2 = require("cv2")
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].image.shape[:2]
    writer: Any = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    for frame in frames:
        writer.write(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def ratio(bundle: Bundle, video: Path, boxes: Boxes, retention: float) -> str:
    """Kept tokens per area inside the boxes over outside."""
    with Pipeline(bundle) as pipeline:
        (found,) = measure_selectivity(pipeline, video, boxes, ("score",), (retention,))
    return "none outside" if found.ratio is None else f"{found.ratio:.2f}"


if __name__ == "__main__":
    main()
