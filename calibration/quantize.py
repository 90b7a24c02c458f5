"""FP32 graph -> INT8 graph by ONNX Runtime's quantizer, in the forms that TensorRT and CPUs can run."""

import contextlib
import copy
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from score_edge.calibration.layers import OPERATORS, Layer
from score_edge.calibration.ranges import Range
from score_edge.errors import ScoreEdgeError, require
from score_edge.onnx_files.save import ONE_FILE, save_onnx

Form = Literal["int8", "int8-cpu"]
Variant = Literal["s8s8", "u8s8", "u8u8", "dynamic-u8s8", "dynamic-u8u8"]
VARIANTS: dict[Form, tuple[Variant, ...]] = {
    "int8": ("s8s8",),
    "int8-cpu": ("u8s8", "u8u8", "dynamic-u8s8", "dynamic-u8u8"),
}
"""Activations, then weights: s is signed and symmetric, u unsigned with a zero point."""
_DYNAMIC = ("MatMul", "Gemm")
OPSETS = range(13, 19)  # 13 brought scales per channel; 8.6 reads up to 17, later TensorRT 18 too
QUANTISED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}
    | {"QLinearMatMul", "QLinearConv", "QGemm", "MatMulNBits"}
)


def prepare(path: Path, scratch: Path) -> Any:
    """Load an FP32 graph with its constants folded, as the quantizer needs it.

    Args:
        path: the .onnx file.
        scratch: a folder for what is written on the way.

    Returns:
        onnx.ModelProto with all weights in memory.

    Raises:
        ScoreEdgeError: it is already quantised, half precision, of an opset that does not fit, or holds weights that
            are not finite.
    """
    onnx = require("onnx", "export")
    require("onnxruntime")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    _refuse(onnx, onnx.load(str(path), load_external_data=False))
    with quiet():
        folded = scratch / "folded.onnx"
        large = _bytes(path) > ONE_FILE
        quant_pre_process(str(path), str(folded), skip_symbolic_shape=True, save_as_external_data=large)
        model = onnx.load(str(folded))
    for weight in model.graph.initializer:
        array = onnx.numpy_helper.to_array(weight)
        # -inf is what attention masks are made of; in a layer's weight it would show in the ranges.
        if array.dtype == np.float32 and (np.isnan(array) | np.isposinf(array)).any():
            raise ScoreEdgeError(
                f"the weight {weight.name} of {path.name} holds values that are not finite",
                "the checkpoint or its export is broken: export the bundle again, in fp32",
            )
    _plain_opset(model)
    return model


def expose(model: Any, names: Sequence[str]) -> Any:
    """The same graph with these tensors as outputs too; inputs of the graph are left out."""
    from onnx import helper

    model = copy.deepcopy(model)
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    return model


def quantisable(layers: Sequence[Layer], variant: Variant) -> list[Layer]:
    """Those that a variant quantises: ONNX Runtime has no convolution of dynamic ranges that it makes from FP32."""
    return [layer for layer in layers if layer.operator in _DYNAMIC or not variant.startswith("dynamic")]


def quantize(model: Any, layers: Sequence[Layer], ranges: Mapping[str, Range], variant: Variant, scratch: Path) -> Any:
    """Quantise these layers of a prepared graph and no others.

    Args:
        model: from `prepare`; not changed.
        layers: from `find_layers`.
        ranges: of every activation the layers read; not needed by dynamic variants.
        variant: see VARIANTS.
        scratch: a folder for what is written on the way.

    Returns:
        onnx.ModelProto of the same opset.
    """
    if not layers:
        return copy.deepcopy(model)
    with quiet():
        if variant.startswith("dynamic"):
            made = _dynamic(model, layers, variant, scratch)
        else:
            made = _static(model, layers, ranges, variant)
    _plain_opset(made)
    return made


def external_files(path: Path) -> set[str]:
    """Names of the files beside a graph that hold its weights."""
    onnx = require("onnx", "export")
    model = onnx.load(str(path), load_external_data=False)
    entries = (entry for weight in model.graph.initializer for entry in weight.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def _static(model: Any, layers: Sequence[Layer], ranges: Mapping[str, Range], variant: Variant) -> Any:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    activation, weight = (QuantType.QInt8 if sign == "s" else QuantType.QUInt8 for sign in (variant[0], variant[2]))
    found = {name: (np.float32(seen.low), np.float32(seen.high)) for name, seen in ranges.items()}
    quantizer = QDQQuantizer(
        copy.deepcopy(model),
        True,  # a scale per output channel
        False,
        weight,
        activation,
        TensorsData(CalibrationMethod.MinMax, found),
        [layer.node for layer in layers],
        [],
        list(OPERATORS),
        {
            "ActivationSymmetric": variant[0] == "s",
            "WeightSymmetric": variant[2] == "s",
            # TensorRT refuses a DequantizeLinear of INT32; ONNX Runtime has no integer kernel for Gemm without it.
            "QuantizeBias": variant != "s8s8",
            # Without this Q/DQ stands between product and bias, which then cannot be fused.
            "OpTypesToExcludeOutputQuantization": list(OPERATORS),
        },
    )
    quantizer.quantize_model()
    _spare_other_readers(quantizer.model.model, {layer.node for layer in layers})
    return quantizer.model.model


def _spare_other_readers(model: Any, layers: Collection[str]) -> None:
    """What reads the same tensor as a quantised layer, such as a residual sum or a layer in FP32, reads it unrounded.

    Args:
        model: onnx.ModelProto; changed.
        layers: names of the nodes that are quantised.
    """
    quantised = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    rounded = {
        node.output[0]: quantised[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in quantised
    }
    for node in model.graph.node:
        if node.name not in layers:
            node.input[:] = [rounded.get(name, name) for name in node.input]


def _dynamic(model: Any, layers: Sequence[Layer], variant: Variant, scratch: Path) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    before, after = scratch / "before.onnx", scratch / "after.onnx"
    save_onnx(model, before)
    quantize_dynamic(
        str(before),
        str(after),
        per_channel=True,
        weight_type=QuantType.QInt8 if variant.endswith("s8") else QuantType.QUInt8,
        op_types_to_quantize=list(_DYNAMIC),
        # It turns Gemm into MatMul and Add first, under this name.
        nodes_to_quantize=[name for layer in layers for name in (layer.node, f"{layer.node}_MatMul")],
        use_external_data_format=_bytes(before) > ONE_FILE,
    )
    return onnx.load(str(after))


def _refuse(onnx: Any, model: Any) -> None:
    export_again = "calibrate the bundle that `score-edge export --precision fp32` wrote"
    quantised = sorted({node.op_type for node in model.graph.node} & QUANTISED)
    if quantised:
        raise ScoreEdgeError(f"this encoder is already quantised: it has {', '.join(quantised)}", export_again)
    if any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in model.graph.initializer):
        raise ScoreEdgeError("this encoder is in half precision, INT8 is made from FP32", export_again)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset not in OPSETS:
        raise ScoreEdgeError(
            f"this encoder has opset {opset}, INT8 is made of {OPSETS[0]} to {OPSETS[-1]}", "export the bundle again"
        )


def _plain_opset(model: Any) -> None:
    """Forget the operator sets that ONNX Runtime lists and the graph does not use; TensorRT's parser minds some."""
    used = {"" if node.domain == "ai.onnx" else node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The quantizer's advice is for its callers, not for ours."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # it prints tracebacks of what it survives
    try:
        yield
    finally:
        logging.disable(before)
