"""The same graph in another precision or opset: what TensorRT reads a precision from since it is strongly typed."""

import warnings
from pathlib import Path
from typing import Any, Literal

from score_edge.core import is_cache
from score_edge.errors import ScoreEdgeError, require

Precision = Literal["fp32", "fp16", "int8"]
_SCATTER, _OLD_REDUCTIONS = 16, ("none", "add", "mul")  # of ScatterND, from this opset on
_READ_FOR_SHAPES = 1024  # bytes; a weight that says what shape another tensor has is smaller


def convert_to_fp16(model: Any) -> Any:
    """Weights and arithmetic in float16, inputs and outputs as they were; but caches are not converted back and forth.

    Args:
        model: onnx.ModelProto; taken over. Q/DQ graphs must be of opset 19 or later, before it scales were float32.
    """
    require("onnxruntime")
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it names every weight it rounds to zero
        tensors = [tensor.name for tensor in (*model.graph.input, *model.graph.output)]
        half: Any = convert_float_to_float16(
            _with_shapes(model),
            keep_io_types=[name for name in tensors if not is_cache(name)],
            disable_shape_infer=True,  # done, and by itself it ends at 2 GB
        )
    OnnxModel.graph_topological_sort(half.graph)  # it puts its casts last
    return half


def _with_shapes(model: Any) -> Any:
    """The model with the shape of every tensor. onnx infers on one message, of 2 GB at most: weights step aside."""
    onnx = require("onnx", "tensorrt")
    aside = {}
    for weight in model.graph.initializer:
        if len(weight.raw_data) > _READ_FOR_SHAPES:
            aside[weight.name] = weight.raw_data
            weight.ClearField("raw_data")
    model = onnx.shape_inference.infer_shapes(model)
    for weight in model.graph.initializer:
        if weight.name in aside:
            weight.raw_data = aside.pop(weight.name)
    return model


def to_older_opset(model: Any, opset: int, name: str) -> None:
    """Make a model one of an older opset, in place.

    onnx's own converter has no way back for Split, which every attention has; but for most operators nothing changed,
    a Split into equal parts only has to forget how many there are, and opset 18 only gave ScatterND more reductions.

    Args:
        model: onnx.ModelProto.
        opset: older than the model's.
        name: for messages.

    Raises:
        ScoreEdgeError: it uses an operator that was another one then.
    """
    onnx = require("onnx", "tensorrt")
    (entry,) = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    sizes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in model.graph.value_info
    }
    changed = set()
    for node in model.graph.node:
        if (
            node.domain not in ("", "ai.onnx")
            or onnx.defs.get_schema(node.op_type, entry.version).since_version <= opset
        ):
            continue
        parts = [attribute for attribute in node.attribute if attribute.name == "num_outputs"]
        if node.op_type == "Split" and parts and _splits_evenly(sizes, node):
            node.attribute.remove(parts[0])
        elif not (node.op_type == "ScatterND" and opset >= _SCATTER and _reduction(node) in _OLD_REDUCTIONS):
            changed.add(node.op_type)
    if changed:
        raise ScoreEdgeError(
            f"{name} is of opset {entry.version}; in opset {opset} {', '.join(sorted(changed))} was another operator",
            "use a newer TensorRT (JetPack 6.1 or later), or --provider cpu",
        )
    entry.version = opset


def _reduction(node: Any) -> str:
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == "reduction"), "none")


def _splits_evenly(sizes: dict[str, list[int]], node: Any) -> bool:
    """Opset 18 lets the last part be smaller, older ones do not; the exporter notes every shape."""
    parts = [sizes.get(output) for output in node.output]
    return parts[0] is not None and all(part == parts[0] for part in parts)


def load(path: Path) -> Any:
    """An onnx.ModelProto with its external weights.

    Raises:
        ScoreEdgeError: onnx is missing, or the file is damaged.
    """
    onnx = require("onnx", "tensorrt")
    try:
        return onnx.load(path) if not path.is_symlink() else _load_linked(onnx, path)
    except Exception as error:  # protobuf's own, and whatever external data raises
        raise ScoreEdgeError(f"{path} cannot be read as ONNX: {error}", "export the bundle again") from error


def _load_linked(onnx: Any, path: Path) -> Any:
    """A graph in a Hugging Face cache: links to files named by hash. onnx reads weights through no link by itself."""
    model = onnx.load(path, load_external_data=False)
    folder = path.parent
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                real = (path.parent / Path(entry.value).name).resolve()
                folder, entry.value = real.parent, real.name
    onnx.external_data_helper.load_external_data_for_model(model, str(folder))
    return model
