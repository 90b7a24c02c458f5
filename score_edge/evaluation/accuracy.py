"""How often a bundle answers right on the reference world: per regime, selector, retention, length and type."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from score_edge.bundle.folder import Bundle
from score_edge.core import Float32, Grid, Mask
from score_edge.errors import ScoreEdgeError
from score_edge.evaluation.intervals import over_clips, wilson
from score_edge.reference import world
from score_edge.reference.nuisance import REGIMES, read_regimes
from score_edge.runtime.graphs.open_graph import open_policy
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.threads import usable_cpus
from score_edge.selection.causal_budget import CausalBudget, select_causally
from score_edge.selection.dithered import SelectorSpec
from score_edge.selection.registry import Selector, get_selector, knows_question, step_scorer
from score_edge.workers import worker_pool

ANSWER_TOKENS = 8
MEAN = "mean"  # in place of a regime: all of them together
_CAUSAL_ANYWAY = ("all", "newest")  # when the question comes, the last steps are known without choosing before


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """What to evaluate.

    Attributes:
        selectors: names with their options, see `SelectorSpec`; the unpruned model is always measured as well.
        retentions: shares of tokens to keep, in (0, 1].
        steps: clip lengths in encoder steps.
        clips: number of clips per length.
        seed: of the world; clips of the same seed are the same clips.
        budget: ``clip`` keeps the best of the whole clip; ``causal`` decides step by step, as a stream must.
        tuned: retention to selectors, in place of `selectors` there; see `tune`.
        worlds: regimes of the world, see `nuisance.REGIMES`; the same clips under each.
    """

    selectors: tuple[str, ...]
    retentions: tuple[float, ...]
    steps: tuple[int, ...] = (8, 32)
    clips: int = 500
    seed: int = world.TEST_SEED
    budget: Literal["clip", "causal"] = "clip"
    tuned: dict[float, tuple[str, ...]] = field(default_factory=dict)
    worlds: tuple[str, ...] = REGIMES[:1]

    def at(self, retention: float) -> tuple[str, ...]:
        """The pruning selectors to run at a retention."""
        return self.tuned.get(retention, tuple(name for name in self.selectors if name != "all"))

    def asked(self, variant: str, retention: float) -> list[str]:
        """The selectors that a variant stands for at a retention; several may be tuned to the same."""
        pruning = [name for name in self.selectors if name != "all"]
        found = [name for name, run in zip(pruning, self.at(retention), strict=True) if run == variant]
        return list(dict.fromkeys(found)) or [variant]

    def variants(self) -> list[tuple[str, float]]:
        """Every (selector, retention) to run: unpruned first."""
        retentions = [retention for retention in self.retentions if retention < 1]
        columns = zip(*(self.at(retention) for retention in retentions), strict=True)
        pruned = [pair for names in columns for pair in zip(names, retentions, strict=True)]
        return [("all", 1.0), *dict.fromkeys(pruned)]


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """One question, asked in one variant.

    Attributes:
        clip: number of the clip it is about.
        steps_kept: visual tokens kept, in steps' worth: below 1 a rule that keeps step 0 entirely sees nothing else.
        recall: share of the question's evidence tokens that were kept.
        world: regime of the clip.
    """

    selector: str
    retention: float
    steps: int
    clip: int
    kind: str
    steps_kept: float
    right: bool
    recall: float
    world: str = REGIMES[0]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of right answers with its 95 % interval: `wilson`, over several regimes `over_clips`.

    Attributes:
        world: a regime, or MEAN.
        steps_kept: visual tokens kept, in steps' worth.
        recall: mean share of the evidence tokens that were kept.
    """

    selector: str
    retention: float
    steps: int
    kind: str
    steps_kept: float
    asked: int
    accuracy: float
    low: float
    high: float
    recall: float
    world: str = REGIMES[0]


def evaluate(bundle: str | Path, plan: EvaluationPlan, *, on_clip: Callable[[], None] = lambda: None) -> list[Accuracy]:
    """How often a bundle answers right; see `ask_everything` and `summarise`."""
    return summarise(plan, ask_everything(bundle, plan, on_clip=on_clip))


def ask_everything(
    bundle: str | Path, plan: EvaluationPlan, *, on_clip: Callable[[], None] = lambda: None
) -> list[QuestionResult]:
    """Run a plan on every CPU this process may use, one clip per process at a time.

    Args:
        bundle: folder, or "reference".
        plan: what to run.
        on_clip: called after every clip, for a progress bar.

    Returns:
        Every question in every variant; the same questions for all of them.

    Raises:
        ScoreEdgeError: the bundle or the plan is not usable.
    """
    _check(Bundle.open(bundle), plan)
    jobs = [(index, steps, regime) for steps in plan.steps for regime in plan.worlds for index in range(plan.clips)]
    results: list[QuestionResult] = []
    with _workers(str(bundle), plan) as pool:
        for found in pool.map(_judge, *zip(*jobs, strict=True), chunksize=1):
            results.extend(found)
            on_clip()
    return results


def summarise(plan: EvaluationPlan, results: Sequence[QuestionResult]) -> list[Accuracy]:
    """Per regime, variant and length: the question types in the world's order, and "overall" first.

    Several regimes are followed by their mean.
    """
    groups: dict[tuple[int, str, tuple[str, float], str], list[QuestionResult]] = defaultdict(list)
    for result in results:
        for regime in (result.world, MEAN) if len(plan.worlds) > 1 else (result.world,):
            for kind in ("overall", result.kind):
                groups[result.steps, regime, (result.selector, result.retention), kind].append(result)
    kinds = "overall", *world.QUESTION_TYPES
    order = itertools.product(plan.steps, (*plan.worlds, MEAN), plan.variants(), kinds)
    return [_accuracy(groups[key], key[1], key[3]) for key in order if key in groups]


def _accuracy(group: Sequence[QuestionResult], regime: str, kind: str) -> Accuracy:
    right, asked = [float(result.right) for result in group], len(group)
    low, high = over_clips(group, right, 0.0) if regime == MEAN else wilson(int(sum(right)), asked)
    return Accuracy(
        selector=group[0].selector,
        retention=group[0].retention,
        steps=group[0].steps,
        kind=kind,
        steps_kept=sum(result.steps_kept for result in group) / asked,
        asked=asked,
        accuracy=sum(right) / asked,
        low=low,
        high=high,
        recall=sum(result.recall for result in group) / asked,
        world=regime,
    )


def _check(bundle: Bundle, plan: EvaluationPlan) -> None:
    if plan.clips < 1 or not plan.steps or min(plan.steps) < 3:
        raise ScoreEdgeError("an evaluation needs at least one clip of at least 3 steps")
    for retention in plan.retentions:
        if not 0 < retention <= 1:
            raise ScoreEdgeError(f"retention {retention} is not in (0, 1]", "0.1 keeps 10 % of the visual tokens")
    read_regimes(",".join(plan.worlds))
    for named in (plan.steps, plan.worlds):
        if len(set(named)) < len(named):
            twice = ",".join(map(str, named))
            raise ScoreEdgeError(f"{twice} names the same clips twice", "the same answers twice tell no more")
    vision, side = bundle.manifest.vision, world.SIZE // world.CELL
    if (vision.token_grid, vision.frames_per_step) != (Grid(side, side), world.FRAMES_PER_STEP):
        height, width = vision.grid
        raise ScoreEdgeError(
            f"rendered clips are judged in {side} x {side} tokens per step of {world.FRAMES_PER_STEP} frames, "
            f"and {bundle.folder} has {height} x {width} per step of {vision.frames_per_step}",
            "ask about footage of your own with `score-edge ask --compare`, or give --video and --boxes",
        )
    policy = open_policy(bundle, "cpu")
    for name in dict.fromkeys(name for name, _ in plan.variants()):
        if knows_question(name):
            if bundle.query_path is None:
                raise ScoreEdgeError(f"{bundle.folder} has no policy that knows the question", "leave score-query out")
            if plan.budget == "causal":
                raise ScoreEdgeError("score-query knows the question, the causal budget does not", "without --causal")
            SelectorSpec.read(name)  # its options; it is opened for every question
            continue
        selector = get_selector(name, policy=policy, grid=bundle.manifest.vision.token_grid)
        if plan.budget == "causal" and name not in _CAUSAL_ANYWAY:
            step_scorer(selector)


def _workers(bundle: str, plan: EvaluationPlan) -> Executor:
    return worker_pool(usable_cpus(), _open_worker, bundle, plan)


_worker: tuple[Pipeline, EvaluationPlan, dict[str, Selector]]


def _open_worker(bundle: str, plan: EvaluationPlan) -> None:
    global _worker
    pipeline = Pipeline(Bundle.open(bundle, checksums=False), threads=1, provider="cpu", full_encoder=True)
    selectors = {name: pipeline.selector(name) for name, _ in plan.variants() if not knows_question(name)}
    _worker = pipeline, plan, selectors


def _judge(index: int, steps: int, regime: str) -> list[QuestionResult]:
    """Every question of one clip in every variant."""
    pipeline, plan, selectors = _worker
    clip = world.make_clip(plan.seed, index, steps, regime)
    encoded = pipeline.encode(clip.frames())
    tokens = encoded.tokens
    results, known, watched = [], dict[tuple[bytes, int], str](), b""
    for name in selectors:
        if name.startswith("random"):  # else every clip would lose the same tokens
            selectors[name] = pipeline.selector(name, seed=index)
    for name, retention in plan.variants():
        if knows_question(name):
            chosen = [pipeline.selector(name, question=question.text) for question in clip.questions]
            keeps = [pipeline.select(tokens, selector, retention) for selector in chosen]
        else:
            keeps = [_keep(pipeline, plan, tokens, selectors[name], name, retention)] * len(clip.questions)
        for number, (question, keep) in enumerate(zip(clip.questions, keeps, strict=True)):
            mask = keep.tobytes()
            if (mask, number) not in known:  # below one step's worth, several rules keep the very same tokens
                if mask != watched:
                    # A stream that forgot its first steps is re-based: no hole lies behind the prompt.
                    begin = int(keep.any(axis=1).argmax()) if plan.budget == "causal" else 0
                    pipeline.watch(tokens[begin:], keep[begin:], encoded.times[begin:])
                    watched = mask
                known[mask, number] = "".join(pipeline.ask(question.text, ANSWER_TOKENS))
            recall = float(keep[question.evidence].mean())
            right = known[mask, number].strip().lower() == question.answer
            steps_kept = float(keep.sum() / keep.shape[1])
            result = QuestionResult(name, retention, steps, index, question.kind, steps_kept, right, recall, regime)
            results.append(result)
    return results


def _keep(
    pipeline: Pipeline, plan: EvaluationPlan, tokens: Float32, selector: Selector, name: str, retention: float
) -> Mask:
    if plan.budget == "clip" or name in _CAUSAL_ANYWAY:
        return pipeline.select(tokens, selector, retention)
    budget = CausalBudget(tokens.shape[1], retention, getattr(selector, "first", None))
    return select_causally(tokens, step_scorer(selector), budget)
