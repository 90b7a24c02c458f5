"""Writing an ONNX file, with weights beside it where one file cannot hold them."""

from pathlib import Path
from typing import Any

from score_edge.errors import require

ONE_FILE = 1_800_000_000  # bytes; protobuf ends at 2 GiB


def save_onnx(model: Any, path: Path) -> None:
    """Write a model; weights of more than ONE_FILE bytes go into `path` + ``.data`` beside it.

    Args:
        model: an ``onnx.ModelProto`` with its weights, which it keeps.
        path: of the .onnx file; overwritten with what lies beside it.

    Raises:
        ScoreEdgeError: onnx is not installed.
    """
    onnx = require("onnx", "tensorrt")
    beside = path.with_name(f"{path.name}.data")
    beside.unlink(missing_ok=True)
    # Weight by weight: a model of more than 2 GB cannot be asked how large it is.
    large = sum(weight.ByteSize() for weight in model.graph.initializer) > ONE_FILE
    onnx.save(model, str(path), save_as_external_data=large, location=beside.name)
    if large:  # onnx takes what it wrote out of the model
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
