"""`score-edge calibrate`: a bundle and footage become a bundle with an INT8 encoder whose loss was measured."""

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_edge.bundle.folder import Bundle, check_target, scratch_beside, write_bundle
from score_edge.bundle.int8 import Int8
from score_edge.bundle.manifest import Manifest
from score_edge.bundle.provenance import Provenance
from score_edge.calibration.answers import Answers, compare_answers
from score_edge.calibration.fidelity import Fidelity
from score_edge.calibration.frames import Choice, choose_steps, group_steps
from score_edge.calibration.incremental import (
    IncrementalForm,
    QuantisedGraph,
    measure_incremental,
    quantize_incremental,
)
from score_edge.calibration.layers import Layer, find_layers, pick
from score_edge.calibration.quantize import Form, Variant, expose, external_files, prepare, quantisable
from score_edge.calibration.ranges import Method, collect_ranges
from score_edge.calibration.sensitivity import LayerError, measure_layers, plan_exclusions
from score_edge.calibration.simulate import Switchboard
from score_edge.calibration.trials import TURNS, Bench, Inputs, Trial, best_trial, encode_runs, interleaved, tokens_of
from score_edge.core import Frame, Uint8
from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.rules import lint
from score_edge.onnx_files.save import save_onnx
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.graphs.open_graph import open_policy
from score_edge.runtime.preprocess import Preprocessing
from score_edge.selection.registry import Selector, get_selector

REPORT = "int8.json"
MAX_LOSS = 0.001
OVERFLOW = 0.01
"""Worst-token cosine by which this CPU's kernels may miss fake-quant simulation before it is called overflow."""

OnStage = Callable[[str, int | None], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to quantise, as measured on this machine.

    Attributes:
        loss: 1 - cosine of the worst held-out token.
        error: relative error of all tokens.
        milliseconds: of one step in ONNX Runtime here, median, interleaved with the others.
    """

    variant: Variant
    loss: float
    error: float
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A written bundle and how far it is from FP32.

    Attributes:
        steps: calibration steps used; `seen` were in the footage.
        fp32_milliseconds: as `Candidate.milliseconds`.
        candidates: what was tried; `variant` is what was taken.
        layers: the sensitivity of every layer.
        excluded: layers left in FP32.
        incremental: of the incremental graph, where the bundle has one.
        answers: on the reference world, where the bundle is the reference bundle.
        notes: what the user should know, a sentence each.
    """

    folder: str
    form: Form
    variant: Variant
    method: Method
    steps: int
    seen: int
    accuracy: Fidelity
    fp32_milliseconds: float
    candidates: list[Candidate]
    layers: list[LayerError]
    excluded: list[str]
    incremental: IncrementalForm | None
    answers: list[Answers]
    notes: list[str]


def knows_the_world(bundle: Bundle) -> bool:
    """Whether its language model was trained on the reference world, so that its answers can be right or wrong."""
    return "train reference" in bundle.manifest.provenance.source


def calibrate_bundle(
    bundle: Bundle,
    folder: str | Path,
    footage: Iterable[Iterable[Frame]],
    *,
    form: Form = "int8",
    method: Method = "minmax",
    frames: int = 256,
    max_loss: float = MAX_LOSS,
    exclude: Sequence[str] = (),
    only: Sequence[str] = (),
    seed: int = 0,
    clips: int = 60,
    overwrite: bool = False,
    on_stage: Callable[[str, int | None], None] = lambda name, total: None,
    on_advance: Callable[[], None] = lambda: None,
) -> Calibration:
    """Write a bundle whose encoder is the INT8 form of another's; policy and language model stay as they are.

    Args:
        bundle: with an FP32 encoder.
        folder: the bundle to write; not `bundle` itself, whose FP32 graph would be lost.
        footage: frames in time order, an iterable per source; read once.
        form: ``"int8"`` for TensorRT, by fake-quant simulation; ``"int8-cpu"`` for ONNX Runtime, measured with the
            kernels of this machine: the fastest variant within the bound is taken.
        method: how activation ranges meet outliers.
        frames: encoder steps to calibrate on, at most.
        max_loss: largest 1 - cosine of the worst held-out token; layers stay in FP32 until it holds.
        exclude: layers that stay in FP32 in any case, see `layers.pick`.
        only: layers that may be quantised; empty means all.
        seed: of the choice of frames.
        clips: of the reference world, whose questions both encoders answer where the bundle is the reference bundle.
        overwrite: replace a bundle that is there.
        on_stage: called with the name of every stage and its number of parts.
        on_advance: called after every part.

    Raises:
        ScoreEdgeError: footage that cannot calibrate, a graph that cannot be quantised, a bound that nothing keeps;
            nothing is written then.

    Example:
        >>> with open_source("site.mp4") as source:  # doctest: +SKIP
        ...     calibrate_bundle(Bundle.open("bundle"), "bundle-int8", [sample(source, 2)])
    """
    target = Path(folder).resolve()
    check_target(target, overwrite)
    if target == bundle.folder.resolve():
        raise ScoreEdgeError(f"{folder} is the bundle to calibrate, its FP32 encoder would be lost", "name another")
    if not 0 < max_loss <= 2:
        raise ScoreEdgeError(f"a loss of cosine of {max_loss} is no bound", f"{MAX_LOSS} is the default")
    vision = bundle.manifest.vision
    preprocessing = Preprocessing.of(vision)
    with scratch_beside(target) as scratch:
        on_stage("graph", None)
        plain = prepare(bundle.encoder_path, scratch)
        layers = find_layers(plain)
        if not layers:
            raise ScoreEdgeError("this encoder has no layer that could be quantised", "export the bundle again")
        fixed = pick(layers, exclude) | ({layer.name for layer in layers} - pick(layers, only) if only else set())
        if len(fixed) == len(layers):
            raise ScoreEdgeError(
                "--only and --exclude leave no layer to quantise", f"it has {', '.join(layer.name for layer in layers)}"
            )

        on_stage("choosing frames", None)
        sizes: set[str] = set()
        choice = choose_steps((group_steps(clip, preprocessing, sizes) for clip in footage), frames, seed)
        bench = _bench(bundle, plain, layers, choice, method, form, scratch, on_stage, on_advance)

        on_stage("sensitivity", len(layers))
        board = Switchboard(bench.graph("s8s8", ()), plain, layers, scratch / "switched.onnx")
        (seconds,) = interleaved([bench.fp32], bench.held[0][0], TURNS)
        first = [run[0] for run in bench.held]
        errors = measure_layers(board, layers, bench.ranges, first, seconds, on_advance)

        on_stage("plan", None)
        excluded, trials = _plan(bench, board, errors, form, fixed, max_loss)
        best = best_trial(trials, max_loss)
        if best is None or len(excluded) == len(layers):
            raise ScoreEdgeError(
                f"no layer can be INT8 within a loss of {max_loss:g} ({len(excluded)} of {len(layers)} left in FP32 "
                f"lose {min(trial.accuracy.loss for trial in trials):.2g})",
                "allow more with --max-loss, or calibrate on footage like that of the camera",
            )
        quantised = {layer.name for layer in quantisable(layers, best.variant)}
        excluded += [layer.name for layer in layers if layer.name not in quantised and layer.name not in excluded]

        second: QuantisedGraph | None = None
        together: IncrementalForm | None = None
        if bundle.incremental_path is not None:
            on_stage("incremental graph", None)
            second = quantize_incremental(bundle.incremental_path, bench, best.variant, excluded)
            together = measure_incremental(bundle, second, bench, choice.held_out)

        int8 = Int8(
            form,
            best.variant,
            method,
            len(choice.calibration),
            seed,
            max_loss,
            best.accuracy.tokens.worst_cosine,
            tuple(excluded),
        )
        manifest = _manifest(bundle.manifest, int8)
        answers: list[Answers] = []
        if clips and knows_the_world(bundle):
            on_stage("answers", 2 * clips)
            judged = write_bundle(
                scratch / "judged", manifest, _files(bundle, best.judged, second.judged if second else None)
            )
            answers = compare_answers(bundle, judged, clips, on_advance)
        report = Calibration(
            str(target),
            form,
            best.variant,
            method,
            len(choice.calibration),
            choice.seen,
            best.accuracy,
            best.fp32_milliseconds,
            [Candidate(t.variant, t.accuracy.loss, t.accuracy.tokens.error, t.milliseconds) for t in trials],
            errors,
            excluded,
            together,
            answers,
            _notes(bench, best, form, sizes, preprocessing),
        )
        on_stage("bundle", None)
        document = json.dumps(dataclasses.asdict(report), indent=2).encode()
        write_bundle(
            target,
            manifest,
            {**_files(bundle, best.path, second.path if second else None), REPORT: document},
            overwrite=overwrite,
        )
    return report


def _bench(
    bundle: Bundle,
    plain: Any,
    layers: Sequence[Layer],
    choice: Choice,
    method: Method,
    form: Form,
    scratch: Path,
    on_stage: OnStage,
    on_advance: Callable[[], None],
) -> Bench:
    """Ranges from the calibration steps, FP32's tokens of the held-out ones."""
    preprocessing = Preprocessing.of(bundle.manifest.vision)
    held = [[preprocessing.encoder_input(pixels) for pixels in run] for run in choice.held_out]
    fp32 = OnnxGraph(bundle.encoder_path)
    expected = encode_runs(tokens_of(fp32), held)
    on_stage("ranges", len(choice.calibration) * (1 if method == "minmax" else 2))
    activations = sorted({layer.activation for layer in layers})
    save_onnx(expose(plain, activations), scratch / "exposed.onnx")
    ranges = collect_ranges(
        OnnxGraph(scratch / "exposed.onnx"),
        activations,
        _Inputs(choice.calibration, preprocessing),
        method,
        symmetric=form == "int8",
        on_step=on_advance,
    )
    return Bench(plain, layers, ranges, fp32, held, expected, _selector_of(bundle), scratch)


def _plan(
    bench: Bench, board: Switchboard, errors: Sequence[LayerError], form: Form, fixed: set[str], max_loss: float
) -> tuple[list[str], list[Trial]]:
    """Layers to leave in FP32, and the variants made so."""
    if form == "int8-cpu":  # kernels are judged by themselves: the simulation knows no dynamic ranges
        trials = bench.run(form, fixed)
        if best_trial(trials, max_loss) is not None:
            return sorted(fixed), trials

    def loss(left: Collection[str]) -> float:
        on = [layer.name for layer in bench.layers if layer.name not in left]
        return bench.loss(lambda inputs: board.run(inputs, on))

    excluded = plan_exclusions(errors, loss, max_loss, fixed)
    return excluded, bench.run(form, excluded)


class _Inputs:
    """Encoder inputs made of pixels when they are asked for, any number of times."""

    def __init__(self, steps: Sequence[Uint8], preprocessing: Preprocessing) -> None:
        self._steps, self._preprocessing = steps, preprocessing

    def __iter__(self) -> Iterator[Inputs]:
        return map(self._preprocessing.encoder_input, self._steps)


def _selector_of(bundle: Bundle) -> Callable[[], Selector]:
    manifest = bundle.manifest
    return lambda: get_selector(
        manifest.selector.name, policy=open_policy(bundle, "cpu"), seed=0, grid=manifest.vision.token_grid
    )


def _manifest(before: Manifest, int8: Int8) -> Manifest:
    provenance = Provenance.now(f"{before.provenance.source}; score-edge calibrate", "onnx")
    return dataclasses.replace(
        before,
        vision=dataclasses.replace(before.vision, int8=int8),
        provenance=dataclasses.replace(provenance, versions={**before.provenance.versions, **provenance.versions}),
    )


def _files(bundle: Bundle, encoder: Path, incremental: Path | None) -> dict[str, Path | bytes]:
    """Every file of a bundle with other graphs; weights beside the old ones go, those beside the new ones come."""
    files: dict[str, Path | bytes] = dict(bundle.paths)
    for old, new in ((bundle.encoder_path, encoder), (bundle.incremental_path, incremental)):
        if old is None or new is None:
            continue
        name = old.relative_to(bundle.folder)
        for file in external_files(old):
            files.pop(str(name.parent / file), None)
        files |= {str(name.parent / file): new.parent / file for file in external_files(new)}
        files[str(name)] = new
    return files


def _notes(bench: Bench, best: Trial, form: Form, sizes: set[str], preprocessing: Preprocessing) -> list[str]:
    import onnx

    notes = []
    if len(sizes) > 1:
        shown, size = ", ".join(sorted(sizes)), f"{preprocessing.width}x{preprocessing.height}"
        fitted = "letterboxed" if preprocessing.letterbox else "stretched"
        notes.append(f"frames of {len(sizes)} sizes ({shown}) were {fitted} to {size}")
    if form == "int8":
        notes += [f"TensorRT may refuse this graph: {row.problem}" for row in lint(onnx.load(str(best.path)))]
        here = 1 - bench.loss(tokens_of(OnnxGraph(best.path)))
        if here < best.accuracy.tokens.worst_cosine - OVERFLOW:
            notes.append(
                f"ONNX Runtime's INT8 kernels overflow on this CPU (worst token's cosine {here:.3f}), as on all x86 "
                "without VNNI: this bundle is for TensorRT; for this machine calibrate with --form int8-cpu"
            )
    return notes
