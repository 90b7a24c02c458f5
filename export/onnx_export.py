"""torch -> ONNX, checked and compared: an export that does not agree with torch is an error, not a file."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import nn

from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.difference import Difference, compare_outputs
from score_edge.onnx_files.precision import convert_to_fp16, load
from score_edge.onnx_files.save import ONE_FILE, save_onnx
from score_edge.runtime.graphs.onnx_graph import OnnxGraph

OPSET = 18  # TensorRT 10 reads 9..20; from 23 on attention becomes one operator that its parser does not know

Precision = Literal["fp32", "fp16"]
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2}


def export_onnx(
    module: nn.Module,
    example: Mapping[str, torch.Tensor],
    output: str,
    path: Path,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    tolerance: float | None = None,
    precision: Precision = "fp32",
    data: Mapping[str, Sequence[Mapping[str, torch.Tensor]]] | None = None,
) -> list[Difference]:
    """Trace a module, write it, check it, run it on ONNX Runtime and compare.

    Weights of more than 2 GB go into `path` + ``.data`` beside it. Inputs and outputs are float32 in either precision.

    Args:
        module: with tensors as arguments and one tensor as result.
        example: argument name to example tensor; also what is compared.
        output: name of the result.
        path: the .onnx file to write.
        dynamic: argument name to {axis: name of the free dimension}.
        tolerance: largest difference allowed, over the largest value of torch's; None takes the precision's.
        precision: of weights and arithmetic.
        data: more to compare_outputs, by what it is called.

    Returns:
        A row for the example and one for each kind of data, the worst of it.

    Raises:
        ScoreEdgeError: ONNX Runtime and torch disagree.
    """
    module = module.eval()
    _trace(module, example, output, path, dynamic)
    if precision == "fp16":
        save_onnx(convert_to_fp16(load(path)), path)
    _check(path)
    graph = OnnxGraph(path)
    rows = []
    for kind, inputs in {"random": [example], **(data or {})}.items():
        found = [_difference(module, graph, given, output, kind) for given in inputs]
        rows.append(max(found, key=lambda row: row.relative))
    allowed = TOLERANCE[precision] if tolerance is None else tolerance
    for row in rows:
        if not row.relative <= allowed:
            raise ScoreEdgeError(
                f"{path.name}: on {row.data} input ONNX Runtime is {row.relative:.2g} of the largest value away from "
                f"torch, allowed is {allowed:.2g} (cosine of the worst row {row.cosine:.6f})",
                "allow more with --tolerance, or export in fp32"
                if precision == "fp16"
                else "this is a fault of the export: please report it with the versions of torch and onnxruntime",
            )
    return rows


def _trace(
    module: nn.Module,
    example: Mapping[str, torch.Tensor],
    output: str,
    path: Path,
    dynamic: Mapping[str, Mapping[int, str]] | None,
) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # The exporter folds constants and drops what is unused: the graph needs no simplifier after it.
        program = torch.onnx.export(
            module,
            kwargs=dict(example),
            input_names=list(example),
            output_names=[output],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            dynamic_shapes=_dimensions(example, dynamic) if dynamic else None,
        )
    if program is None:
        raise ScoreEdgeError(f"torch could not export {path.name}")
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces of this machine
        node.doc_string = None
    weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values() if value.const_value)
    program.save(str(path), external_data=weights > ONE_FILE)


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).splitlines()[0]
        raise ScoreEdgeError(f"{path.name}: the exporter wrote a graph that is not valid: {reason}") from error


def _difference(
    module: nn.Module, graph: OnnxGraph, given: Mapping[str, torch.Tensor], output: str, kind: str
) -> Difference:
    with torch.no_grad():
        expected: Float32 = module(**given).numpy()
    found = graph.run(**{name: tensor.numpy() for name, tensor in given.items()})[output]
    return compare_outputs(output, expected, found, kind)


def _dimensions(
    example: Mapping[str, torch.Tensor], dynamic: Mapping[str, Mapping[int, str]]
) -> dict[str, dict[int, torch.export.Dim]]:
    """The same name is the same free dimension."""
    return {name: {axis: torch.export.Dim(free) for axis, free in dynamic.get(name, {}).items()} for name in example}
