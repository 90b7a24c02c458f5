"""torch -> ONNX, checked and compared: an export that does not agree with torch is an error, not a file."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
import torch
from torch import nn

from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.difference import Difference, compare_outputs, worst
from score_edge.onnx_files.precision import convert_to_fp16, load
from score_edge.onnx_files.save import ONE_FILE, save_onnx
from score_edge.runtime.graphs.onnx_graph import OnnxGraph

OPSET = 18  # TensorRT 10 reads 9..20; from 23 on attention becomes one operator that its parser does not know

Precision = Literal["fp32", "fp16"]
Example: TypeAlias = Mapping[str, torch.Tensor | Sequence[torch.Tensor]]
"""Argument name to tensor, or to several, which become inputs ``name.0``, ``name.1``, ..."""

TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2}


def export_onnx(
    module: nn.Module,
    example: Example,
    output: str | Sequence[str],
    path: Path,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    tolerance: float | None = None,
    precision: Precision = "fp32",
    data: Mapping[str, Sequence[Example]] | None = None,
) -> list[Difference]:
    """Trace a module, write it, check it, run it on ONNX Runtime and compare.

    Weights of more than 2 GB go into `path` + ``.data`` beside it. Inputs and outputs are float32 in either precision,
    but for caches of keys and values, which have the precision of the arithmetic.

    Args:
        module: with tensors as arguments, and as result one tensor or a tuple of them.
        example: of its arguments; also what is compared.
        output: name of the result, or names.
        path: the .onnx file to write.
        dynamic: argument name to {axis: name of the free dimension}.
        tolerance: largest difference allowed, over the largest value of torch's; None takes the precision's.
        precision: of weights and arithmetic.
        data: more to compare_outputs, by what it is called.

    Returns:
        A row for the example and one for each kind of data: the worst of it.

    Raises:
        ScoreEdgeError: ONNX Runtime and torch disagree.
    """
    module, outputs = module.eval(), [output] if isinstance(output, str) else list(output)
    _trace(module, example, outputs, path, dynamic)
    if precision == "fp16":
        save_onnx(convert_to_fp16(load(path)), path)
    _check(path)
    graph = OnnxGraph(path)
    rows = []
    for kind, inputs in {"random": [example], **(data or {})}.items():
        rows.append(worst(row for given in inputs for row in _differences(module, graph, given, outputs, kind)))
    allowed = TOLERANCE[precision] if tolerance is None else tolerance
    hint = "this is a fault of the export: please report it with the versions of torch and onnxruntime"
    if precision == "fp16":
        hint = "allow more with --tolerance, or export in fp32"
    elif allowed < TOLERANCE[precision]:
        hint = "allow more with --tolerance, or leave it out"
    for row in rows:
        if not row.relative <= allowed:
            raise ScoreEdgeError(
                f"{path.name}: on {row.data} input ONNX Runtime is {row.relative:.2g} of the largest value away from "
                f"torch, allowed is {allowed:.2g} (cosine of the worst row {row.cosine:.6f})",
                hint,
            )
    return rows


def _trace(
    module: nn.Module,
    example: Example,
    outputs: Sequence[str],
    path: Path,
    dynamic: Mapping[str, Mapping[int, str]] | None,
) -> None:
    for talkative in ("torch.onnx", "onnxscript"):  # of what they could not simplify
        logging.getLogger(talkative).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # The exporter folds constants and drops what is unused: the graph needs no simplifier after it.
        program = torch.onnx.export(
            module,
            kwargs=dict(example),
            input_names=[name for name, _ in _tensors(example)],
            output_names=list(outputs),
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


def _differences(
    module: nn.Module, graph: OnnxGraph, given: Example, outputs: Sequence[str], kind: str
) -> list[Difference]:
    with torch.no_grad():
        result = module(**given)
    expected = [result] if isinstance(result, torch.Tensor) else result
    inputs = {name: tensor.numpy().astype(graph.dtypes[name], copy=False) for name, tensor in _tensors(given)}
    found = graph.run(**inputs)
    return [
        compare_outputs(name, tensor.numpy(), found[name].astype(np.float32), kind)
        for name, tensor in zip(outputs, expected, strict=True)
    ]


def _tensors(example: Example) -> Iterator[tuple[str, torch.Tensor]]:
    for name, given in example.items():
        if isinstance(given, torch.Tensor):
            yield name, given
        else:
            yield from ((f"{name}.{i}", tensor) for i, tensor in enumerate(given))


def _dimensions(example: Example, dynamic: Mapping[str, Mapping[int, str]]) -> dict[str, Any]:
    """The same name is the same free dimension."""
    shapes: dict[str, Any] = {}
    for name, given in example.items():
        free = {axis: torch.export.Dim(free) for axis, free in dynamic.get(name, {}).items()}
        shapes[name] = free if isinstance(given, torch.Tensor) else [{}] * len(given)
    return shapes
