"""A user's first minute: the shipped bundle on a rendered clip (or on their own), pruned beside unpruned."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from score_edge.bundle.folder import Bundle
from score_edge.errors import ScoreEdgeError
from score_edge.evaluation import accuracy, comparison
from score_edge.reference import world
from score_edge.runtime.overlay import write_overlay
from score_edge.runtime.pipeline import EncodedClip, Pipeline

STEPS = 64
RUNS = 5
CLIP = 1  # of the test series: a clip in which every type of question can be asked
ACCURACY_CLIPS, ACCURACY_STEPS = 24, 32
FOREIGN_VIDEO = (
    "the reference model knows only its own world of moving shapes: on a real video its answers mean nothing, "
    "its speed and the tokens kept do"
)
QUESTIONS_FOR_ANY_VIDEO = ("how many things moved fast?", "what color is the thing that drifts slowly?")


@dataclass(frozen=True, slots=True)
class DemoAnswer:
    """One question with the right answer, where it is known, and both answers."""

    question: str
    right: str
    pruned: str
    unpruned: str


@dataclass(frozen=True, slots=True)
class DemoAccuracy:
    """Right answers on many clips; rows of (selector, share of tokens kept, share of right answers)."""

    clips: int
    steps: int
    asked: int
    rows: list[tuple[str, float, float]]


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo found; `seconds` maps a stage to (pruned, unpruned), `problem` says why there is no picture."""

    selector: str
    retention: float
    steps: int
    runs: int
    answers: list[DemoAnswer]
    accuracy: DemoAccuracy | None
    seconds: dict[str, tuple[float, float]]
    overlay: str
    note: str
    problem: str = ""


def run_demo(source: str | None, overlay: Path, *, on_stage: Callable[[str], None]) -> Demo:
    """Run it.

    Args:
        source: the user's own video; None renders a clip of the reference world.
        overlay: .png or .mp4 to write.
        on_stage: told what is going on.
    """
    bundle = Bundle.open("reference")
    retention = bundle.manifest.selector.retention
    vision = bundle.manifest.vision
    rendered = None if source is not None else world.make_clip(world.TEST_SEED, CLIP, STEPS)

    def rendered_clip() -> EncodedClip:
        return pipeline.encode(rendered.frames() if rendered else [])

    with Pipeline(bundle) as pipeline:
        on_stage("reading and encoding the clip")
        encode = comparison.clip_reader(pipeline, str(source), STEPS) if source is not None else rendered_clip
        clip = encode()
        answers = _ask_all(pipeline, clip, rendered, retention)
        on_stage("timing pruned and unpruned, interleaved")
        speed = comparison.compare(
            pipeline,
            encode,
            answers[0].question,
            selector=pipeline.selector(),
            retention=retention,
            runs=RUNS,
        )
    on_stage("painting the kept tokens")
    problem = ""
    try:
        keeps, encoded = (list(mask.reshape(-1, *vision.grid)) for mask in (speed.pruned.keep, clip.encoded))
        write_overlay(overlay, clip.frames, keeps, encoded=encoded)
    except ScoreEdgeError as error:  # half a minute of figures is not thrown away for a picture
        problem = error.message
    accuracy = None
    if rendered:
        on_stage(f"asking about {ACCURACY_CLIPS} more clips")
        accuracy = _score(bundle.manifest.selector.name, retention)
    return Demo(
        selector=bundle.manifest.selector.name,
        retention=retention,
        steps=len(clip.tokens),
        runs=RUNS,
        answers=answers,
        accuracy=accuracy,
        seconds={stage: speed.seconds[stage] for stage in comparison.COMPARED},
        overlay=str(overlay),
        note="" if rendered else FOREIGN_VIDEO,
        problem=problem,
    )


def _ask_all(pipeline: Pipeline, clip: EncodedClip, rendered: world.Clip | None, retention: float) -> list[DemoAnswer]:
    """Every question, first all of them pruned, then all unpruned: the video is prefilled once each."""
    if rendered:
        questions = [(question.text, question.answer) for question in rendered.questions]
    else:
        questions = [(text, "") for text in QUESTIONS_FOR_ANY_VIDEO]
    answers = []
    for name in (None, "all"):
        pipeline.watch(clip.tokens, pipeline.select(clip.tokens, pipeline.selector(name), retention), clip.times)
        answers.append(["".join(pipeline.ask(text)) for text, _ in questions])
    return [DemoAnswer(*question, *both) for question, *both in zip(questions, *answers, strict=True)]


def _score(selector: str, retention: float) -> DemoAccuracy:
    plan = accuracy.EvaluationPlan((selector, "random"), (retention,), (ACCURACY_STEPS,), clips=ACCURACY_CLIPS)
    overall = [row for row in accuracy.evaluate("reference", plan) if row.kind == "overall"]
    return DemoAccuracy(
        ACCURACY_CLIPS, ACCURACY_STEPS, overall[0].asked, [(r.selector, r.retention, r.accuracy) for r in overall]
    )
