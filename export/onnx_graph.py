"""torch -> ONNX, checked and compared: an export that does not agree with torch is an error, not a file."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graph import OnnxGraph

OPSET = 18  # TensorRT 10 reads 9..20; from 23 on attention becomes one operator that its parser does not know


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an ONNX output is from torch's.

    Attributes:
        largest, mean: absolute difference.
        cosine: of the worst row.
    """

    output: str
    largest: float
    mean: float
    cosine: float


def export_onnx(
    module: nn.Module,
    example: Mapping[str, torch.Tensor],
    output: str,
    path: Path,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    tolerance: float = 1e-4,
) -> Difference:
    """Trace a module, write it, check it, run it on ONNX Runtime and compare.

    Args:
        module: with tensors as arguments and one tensor as result.
        example: argument name to example tensor; also what is compared.
        output: name of the result.
        path: the .onnx file to write.
        dynamic: argument name to {axis: name of the free dimension}.
        tolerance: largest absolute difference allowed.

    Raises:
        ScoreEdgeError: ONNX Runtime and torch disagree.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            kwargs=dict(example),
            input_names=list(example),
            output_names=[output],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            dynamic_shapes=_dimensions(example, dynamic) if dynamic else None,
        )
        expected: Float32 = module(**example).numpy()
    if program is None:
        raise ScoreEdgeError(f"torch could not export {path.name}")
    model = program.model_proto
    for value in model.graph.node:
        value.ClearField("metadata_props")  # stack traces of this machine
        value.ClearField("doc_string")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    found = OnnxGraph(path).run(**{name: tensor.numpy() for name, tensor in example.items()})[output]
    difference = compare(output, expected, found)
    if not difference.largest <= tolerance:
        raise ScoreEdgeError(
            f"{path.name}: ONNX Runtime is {difference.largest:.2g} away from torch, allowed is {tolerance:.2g}",
            "this is a fault of the export: please report it with the versions of torch and onnxruntime",
        )
    return difference


def _dimensions(
    example: Mapping[str, torch.Tensor], dynamic: Mapping[str, Mapping[int, str]]
) -> dict[str, dict[int, torch.export.Dim]]:
    """The same name is the same free dimension."""
    return {name: {axis: torch.export.Dim(free) for axis, free in dynamic.get(name, {}).items()} for name in example}


def compare(output: str, expected: Float32, found: Float32) -> Difference:
    """Measure how far `found` is from `expected`, row by row."""
    rows, others = (np.atleast_2d(array).astype(np.float64) for array in (expected, found))
    norms = np.linalg.norm(rows, axis=-1) * np.linalg.norm(others, axis=-1)
    cosine = (rows * others).sum(axis=-1) / np.maximum(norms, 1e-30)
    apart = np.abs(rows - others)
    return Difference(output, float(apart.max()), float(apart.mean()), float(cosine.min()))
