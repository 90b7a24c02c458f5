"""The same graph in another precision or opset: what TensorRT reads a precision from since it is strongly typed."""

import warnings
from pathlib import Path
from typing import Any

from score_edge.errors import ScoreEdgeError, require

ONE_FILE = 2_000_000_000  # bytes; protobuf ends at 2 GiB, and larger weights go beside the graph


def halve(model: Any) -> Any:
    """Weights and arithmetic in float16, inputs and outputs as they were.

    Args:
        model: onnx.ModelProto; taken over. Q/DQ graphs must be of opset 19 or later, before it scales were float32.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it names every weight it rounds to zero
        half: Any = convert_float_to_float16(model, keep_io_types=True)
    OnnxModel.graph_topological_sort(half.graph)  # it puts its casts last
    return half


def load(path: Path) -> Any:
    """An onnx.ModelProto with its external weights.

    Raises:
        ScoreEdgeError: onnx is missing, or the file is damaged.
    """
    onnx = require("onnx", "tensorrt")
    try:
        return onnx.load(path)
    except Exception as error:  # protobuf's own, and whatever external data raises
        raise ScoreEdgeError(f"{path} cannot be read as ONNX: {error}", "export the bundle again") from error


def save(model: Any, path: Path) -> None:
    """Write a model, weights of more than 2 GB into `path` + ``.data`` beside it."""
    onnx = require("onnx", "tensorrt")
    beside = path.with_name(f"{path.name}.data")
    large = model.ByteSize() > ONE_FILE
    beside.unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=large, location=beside.name)
