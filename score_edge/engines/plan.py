"""What `score-edge build` would build from a bundle: looked up without a GPU and without TensorRT."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_edge.bundle.folder import Bundle, GraphName
from score_edge.bundle.manifest import Incremental, Vision
from score_edge.engines.worker import Profile
from score_edge.errors import ScoreEdgeError, require
from score_edge.onnx_files.precision import Precision, convert_to_fp16, load, to_older_opset
from score_edge.onnx_files.rules import lint, precision_of
from score_edge.onnx_files.save import save_onnx
from score_edge.runtime.graphs.engine_files import bundle_name

JUDGED_ON = 16  # encoder steps that an engine is compared with ONNX Runtime on
POLICY_ROWS = 4096  # rows of one call of the policy, at most
_QUANTISED_HALF = 19  # from this opset on Q/DQ scales may be float16


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """One graph on its way to an engine.

    Attributes:
        made_as: what the ONNX file is.
        precision: what the engine computes in.
        opset: of the ONNX file.
        profiles: shapes by input.
    """

    graph: GraphName
    onnx: Path
    made_as: Precision
    precision: Precision
    opset: int
    profiles: dict[str, Profile]


def plan_graphs(bundle: Bundle, precision: Precision | None = None, *, implicit: bool = False) -> list[GraphPlan]:
    """The encoder in a precision, and the policy in fp32: a residual is a small difference of two large numbers.

    Args:
        bundle: opened.
        precision: of the encoder; None takes int8 where the bundle was calibrated, else fp16.
        implicit: INT8 by TensorRT's own calibration of an FP32 encoder, whatever `precision` says.

    Raises:
        ScoreEdgeError: the encoder cannot have this precision, or a graph holds what TensorRT refuses.
    """
    vision = bundle.manifest.vision
    encoder = load(bundle.encoder_path)
    made_as = precision_of(encoder)
    wanted: Precision = "int8" if implicit else precision or ("int8" if made_as == "int8" else "fp16")
    _check_precision(bundle, made_as, wanted, implicit)
    fixed = Profile(*[vision.input_shape] * 3)
    plans = [_plan("encoder", bundle.encoder_path, encoder, wanted, {vision.input_name: fixed})]
    if bundle.incremental_path is not None and vision.incremental is not None and not implicit:
        profiles = _incremental_profiles(vision, vision.incremental)
        plans.append(_plan("incremental", bundle.incremental_path, load(bundle.incremental_path), wanted, profiles))
    if bundle.policy_path is not None:
        least, usual, most = ((rows, vision.dim) for rows in (1, vision.token_grid.tokens, POLICY_ROWS))
        shapes = dict.fromkeys(("tokens", "previous"), Profile(least, usual, most))
        policy = load(bundle.policy_path)
        plans.append(_plan("policy", bundle.policy_path, policy, "fp32", shapes))
    return plans


def _incremental_profiles(vision: Vision, cache: Incremental) -> dict[str, Profile]:
    """Any number of cells; caches of one size."""
    cells = vision.token_grid.tokens
    counts = (1, max(cells // 8, 1), cells)
    rows = (cache.rows, cache.width)
    return {
        "patches": Profile(*((count, vision.merge**2, vision.patch_values) for count in counts)),
        "cells": Profile(*((count,) for count in counts)),
        **{name: Profile(rows, rows, rows) for name in cache.caches},
    }


def prepare(plan: GraphPlan, folder: Path, *, typed: bool, newest_opset: int) -> Path:
    """The ONNX file a TensorRT takes for this plan: the bundle's own, or one written into `folder`.

    Args:
        plan: from `plan_graphs`.
        folder: to write into.
        typed: whether the file must say the precision itself, see `strongly_typed`.
        newest_opset: that the parser reads.

    Raises:
        ScoreEdgeError: the graph uses what older opsets do not have.
    """
    convert = typed and plan.precision != "fp32" and plan.made_as != "fp16"
    if not convert and plan.opset <= newest_opset:
        return plan.onnx
    model = load(plan.onnx)
    if plan.opset > newest_opset:
        to_older_opset(model, newest_opset, plan.onnx.name)
    if convert:
        if plan.precision == "int8" and plan.opset < _QUANTISED_HALF:
            model = require("onnx", "tensorrt").version_converter.convert_version(model, _QUANTISED_HALF)
        model = convert_to_fp16(model)
    path = folder / f"{plan.graph}.onnx"
    save_onnx(model, path)
    return path


def _plan(graph: GraphName, path: Path, model: Any, precision: Precision, profiles: dict[str, Profile]) -> GraphPlan:
    for finding in lint(model):
        raise ScoreEdgeError(f"{path.name}: {finding.problem}", finding.remedy)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return GraphPlan(graph, path, precision_of(model), precision, opset, profiles)


def _check_precision(bundle: Bundle, made_as: Precision, wanted: Precision, implicit: bool) -> None:
    int8 = bundle.manifest.vision.int8
    if int8 is not None and int8.form == "int8-cpu":
        raise ScoreEdgeError(
            f"{bundle.encoder_path.name} was calibrated with --form int8-cpu ({int8.variant}), for ONNX Runtime on a "
            "CPU: no TensorRT reads it",
            "calibrate the FP32 bundle with --form int8, and build that",
        )
    if implicit and made_as != "fp32":
        raise ScoreEdgeError(
            f"{bundle.encoder_path.name} is {made_as}, TensorRT's own calibration starts from fp32",
            "leave --implicit out" if made_as == "int8" else "export the bundle again in fp32",
        )
    if wanted == "int8" and made_as != "int8" and not implicit:
        raise ScoreEdgeError(
            f"{bundle.encoder_path.name} has no quantised layers: INT8 needs scales measured on your footage",
            f"score-edge calibrate {bundle_name(bundle)} --video YOUR_FOOTAGE -o CALIBRATED, and build that",
        )
    if made_as == "int8" and wanted != "int8":
        raise ScoreEdgeError(
            f"{bundle.encoder_path.name} is quantised, there is no way back to {wanted}",
            "--precision int8, or build the bundle that it was calibrated from",
        )
    if made_as == "fp16" and wanted == "fp32":
        raise ScoreEdgeError(
            f"{bundle.encoder_path.name} was exported in fp16, which fp32 makes no better",
            "--precision fp16, or export the bundle again in fp32",
        )
