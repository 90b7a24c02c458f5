"""The clips a policy learns from: pseudo-videos stitched from stills first, then videos in which things move.

A pseudo-video shows a still for some steps, with sensor noise, then another. What a policy can learn there is the
paper's first lesson: a large change is worth keeping, no change is not. Its details are not published; these are ours.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from score_edge.core import Frame, Uint8
from score_edge.errors import ScoreEdgeError
from score_edge.reference import world
from score_edge.reference.nuisance import REGIMES
from score_edge.runtime.sources.images import IMAGE_SUFFIXES
from score_edge.runtime.sources.open_source import sample_clip
from score_edge.runtime.sources.video_file import VIDEO_SUFFIXES

OPEN_QUESTIONS = ("What is happening in this video?", "What objects are visible?", "What changes during the video?")
NOISE = 2.0  # standard deviation of the noise on a repeated still, of 255

QuestionTarget = tuple[str, str | None]
"""A question and the answer to learn; None: whatever the unpruned model answers."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A clip that is not rendered or read yet.

    Attributes:
        name: tells it from every other; the same name is the same clip.
        load: the frames, with their times in the source, and what is asked.
    """

    name: str
    load: Callable[[], tuple[list[Frame], list[QuestionTarget]]]


def world_scenes(count: int, steps: int, start: int = 0, regimes: Sequence[str] = REGIMES[:1]) -> list[Scene]:
    """Moving clips of the reference world's training split, regimes in turn, with its questions and answers."""

    def load(index: int, regime: str) -> tuple[list[Frame], list[QuestionTarget]]:
        clip = world.make_clip(world.TRAIN_SEED, index, steps, regime)
        return clip.frames(), [(question.text, question.answer) for question in clip.questions]

    def scene(index: int) -> Scene:
        regime = regimes[index % len(regimes)]
        name = f"world {world.TRAIN_SEED} {index} {steps}" + (f" {regime}" if regime != REGIMES[0] else "")
        return Scene(name, partial(load, index, regime))

    return [scene(index) for index in range(start, start + count)]


def world_stills(count: int, steps: int, start: int = 0) -> list[Scene]:
    """Pseudo-videos of single frames of the world; asked is the shape of everything whose colour tells it apart."""

    def load(index: int) -> tuple[list[Frame], list[QuestionTarget]]:
        rng = np.random.default_rng((world.TRAIN_SEED, index, steps, 1))
        stills, looks = [], list[tuple[str, str]]()
        for part in range(int(rng.integers(2, 4))):
            clip = world.make_clip(world.TRAIN_SEED, index * 4 + part, steps)
            frame = int(rng.integers(len(clip.images)))
            stills.append(clip.images[frame])
            looks += [(thing.color, thing.shape) for thing in clip.things if thing.visible[frame]]
        colors = [color for color, _ in looks]
        asked: list[QuestionTarget] = [
            (f"what shape is the {color} thing that never moved?", shape)
            for color, shape in looks
            if colors.count(color) == 1
        ]
        # With every colour there twice nothing can be asked for sure: then the unpruned model's word is taken.
        asked = asked or [(f"what shape is the {colors[0]} thing that never moved?", None)]
        return pseudo_video(rng, stills, steps, world.FRAMES_PER_STEP, world.FPS), asked

    return [
        Scene(f"world stills {world.TRAIN_SEED} {i} {steps}", partial(load, i)) for i in range(start, start + count)
    ]


def pseudo_video(
    rng: np.random.Generator, stills: Sequence[Uint8], steps: int, per_step: int, fps: float
) -> list[Frame]:
    """Stills one after the other, each for some whole steps, with noise of its own on every frame."""
    cuts = sorted(rng.choice(np.arange(1, steps), min(len(stills), steps) - 1, replace=False)) if steps > 1 else []
    shown = np.searchsorted(cuts, np.arange(steps * per_step) // per_step, side="right")
    video = []
    for number, i in enumerate(shown):
        noisy = stills[i] + NOISE * rng.standard_normal(stills[i].shape, np.float32)
        video.append(Frame(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), number / fps, number))
    return video


def read_questions(path: Path, videos: Path) -> dict[Path, list[QuestionTarget]]:
    """Question/answer lines {"video", "question", "answer"}; an answer may be left out of all lines, not of some.

    Args:
        path: JSON lines.
        videos: the folder that `video` is relative to.

    Raises:
        ScoreEdgeError: with the line that is wrong.
    """
    asked: dict[Path, list[QuestionTarget]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a question may hold other ends of lines
    except (OSError, UnicodeDecodeError) as error:
        raise ScoreEdgeError(f"cannot read the questions {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except (ValueError, RecursionError) as error:
            raise ScoreEdgeError(f"{where} is not JSON: {error}") from error
        texts = [row.get(key) for key in ("video", "question")] if isinstance(row, dict) else [None]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ScoreEdgeError(
                f"{where} lacks video or question", 'a line is {"video": "a.mp4", "question": "…", "answer": "…"}'
            )
        answer = row.get("answer")
        if answer is not None and not (isinstance(answer, str) and answer.strip()):
            raise ScoreEdgeError(f"{where}: the answer is {answer!r}", "write the answer, or leave the key out")
        video = videos / row["video"]
        if not video.exists():
            raise ScoreEdgeError(f"{where}: there is no video {video}", "name videos relative to the --videos folder")
        asked.setdefault(video, []).append((row["question"], answer))
    answered = {answer is not None for rows in asked.values() for _, answer in rows}
    if not asked:
        raise ScoreEdgeError(f"{path} holds no question")
    if len(answered) == 2:
        raise ScoreEdgeError(
            f"{path}: some questions have an answer and some have none",
            "answer all of them, or none: then the unpruned model's own answers are the targets",
        )
    return asked


def footage_scenes(videos: Path, questions: Path | None, steps: int, per_step: int, fps: float) -> list[Scene]:
    """The user's own videos; without questions the model is asked what it sees and its own answers are the targets.

    Raises:
        ScoreEdgeError: no such folder, no video in it, a broken question file.
    """
    if questions is not None:
        asked = read_questions(questions, videos)
    else:
        asked = {path: [(text, None) for text in OPEN_QUESTIONS] for path in _files(videos, VIDEO_SUFFIXES)}

    def load(path: Path) -> tuple[list[Frame], list[QuestionTarget]]:
        return list(sample_clip(path, fps, steps * per_step)), asked[path]

    return [Scene(f"{_version(path)} {steps} steps {asked[path]}", partial(load, path)) for path in sorted(asked)]


def image_scenes(images: Path, count: int, steps: int, per_step: int, fps: float) -> list[Scene]:
    """Pseudo-videos of the user's own images, two or three each; the unpruned model's own answers are the targets.

    Raises:
        ScoreEdgeError: no such folder, or less than two images in it.
    """
    paths = _files(images, IMAGE_SUFFIXES)
    if len(paths) < 2:
        raise ScoreEdgeError(f"{images} holds one image only", "a pseudo-video needs at least two")

    def scene(index: int) -> Scene:
        rng = np.random.default_rng((index, steps))
        chosen = [paths[i] for i in rng.choice(len(paths), min(len(paths), int(rng.integers(2, 4))), replace=False)]

        def load() -> tuple[list[Frame], list[QuestionTarget]]:
            stills = [next(sample_clip(path, 1.0, 1)).image for path in chosen]
            video = pseudo_video(np.random.default_rng((index, steps, 1)), stills, steps, per_step, fps)
            return video, [(text, None) for text in OPEN_QUESTIONS]

        return Scene(f"stills {index} {steps} {' '.join(map(_version, chosen))}", load)

    return [scene(index) for index in range(count)]


def _version(path: Path) -> str:
    """Another text once another file lies at the place."""
    found = path.stat()
    return f"{path.resolve()} {found.st_mtime_ns} {found.st_size}"


def _files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    if not folder.is_dir():
        raise ScoreEdgeError(f"there is no folder {folder}")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise ScoreEdgeError(f"{folder} holds no {', '.join(sorted(suffixes))}")
    return found
