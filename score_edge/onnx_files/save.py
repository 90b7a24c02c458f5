"""Writing an ONNX file, with weights beside it where one file cannot hold them."""

from pathlib import Path
from typing import Any

from score_edge.errors import require

ONE_FILE = 1_800_000_000  # bytes; protobuf ends at 2 GiB


def save_onnx(model: Any, path: Path) -> None:
    """Write a model; weights of more than ONE_FILE bytes go into `path` + ``.data`` beside it.

    Args:
        model: an ``onnx.ModelProto``.
        path: of the .onnx file; overwritten with what lies beside it.

    Raises:
        ScoreEdgeError: onnx is not installed.
    """
    onnx = require("onnx", "tensorrt")
    beside = path.with_name(f"{path.name}.data")
    beside.unlink(missing_ok=True)
    onnx.save(model, str(path), save_as_external_data=model.ByteSize() > ONE_FILE, location=beside.name)
