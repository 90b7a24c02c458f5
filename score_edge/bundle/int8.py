"""What `bundle.json` says of a quantised encoder."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Int8:
    """How `score-edge calibrate` made the encoder; the whole report is in ``int8.json`` beside the manifest.

    Attributes:
        form: ``"int8"`` is for TensorRT, ``"int8-cpu"`` for ONNX Runtime on a CPU.
        variant: types of activations and weights, see `calibration/quantize.py`.
        method: how activation ranges were found.
        steps: encoder steps they were found on.
        seed: of the choice of steps.
        max_loss: bound on 1 - cosine of the worst token.
        worst_cosine: of the worst token of the held-out steps.
        excluded: layers left in FP32.
    """

    form: Literal["int8", "int8-cpu"]
    variant: str
    method: str
    steps: int
    seed: int
    max_loss: float
    worst_cosine: float
    excluded: tuple[str, ...] = ()
