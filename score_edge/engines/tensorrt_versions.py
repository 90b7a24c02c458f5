"""Everything in which TensorRT 8.6, 10 and 11 (and TensorRT for RTX) differ for us; all other calls are the same.

`tests/engines/test_bindings.py` holds each function against NVIDIA's own Python bindings of 8.6.1 to 11.4. Values of
enums move between versions, so none is written down here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.precision import Precision
from score_edge.runtime.graphs.tensorrt_library import version_numbers

_WEAK: dict[Precision, tuple[str, ...]] = {"fp32": (), "fp16": ("FP16",), "int8": ("INT8", "FP16")}


def strongly_typed(trt: Any, by_flags: bool = False) -> bool:
    """Whether a network's precision is that of its ONNX file (from 10) or the builder's choice (8.6).

    Up to 10 the DLA and a calibrator are only reached by builder flags; 11 has none and is strongly typed always.
    """
    if by_flags and hasattr(trt.BuilderFlag, "FP16"):
        return False
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def network_flags(trt: Any, typed: bool) -> int:
    """For `Builder.create_network`: 8.6 needs EXPLICIT_BATCH, 10 ignores it, 11 does not have it."""
    wanted = ("EXPLICIT_BATCH", *(["STRONGLY_TYPED"] if typed else []))
    flags = trt.NetworkDefinitionCreationFlag
    return sum(1 << int(getattr(flags, name)) for name in wanted if hasattr(flags, name))


def precision_flags(trt: Any, typed: bool, precision: Precision) -> list[Any]:
    """Builder flags that allow a precision; none where the network says it itself."""
    return [] if typed else [getattr(trt.BuilderFlag, name) for name in _WEAK[precision]]


def newest_opset(version: str) -> int:
    """The newest ONNX opset that a parser reads: 17 with TensorRT 8, 20 with all later ones that we know."""
    return 17 if version_numbers(version)[0] < 10 else 20


def progress_monitor(trt: Any, on_phase: Callable[[str, int, int], None]) -> Any | None:
    """An IProgressMonitor that reports (phase, step, steps); None before 10, which has none."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            on_phase(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            on_phase(phase_name, step + 1, self._steps.get(phase_name, 0))
            return True  # go on; a build is ended by ending its process

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def require_calibrator(trt: Any) -> None:
    """Raise ScoreEdgeError where TensorRT finds no ranges of INT8 itself."""
    if not hasattr(trt, "IInt8EntropyCalibrator2"):
        raise ScoreEdgeError(
            f"TensorRT {trt.__version__} calibrates no more: from 11 on what is INT8 is said in the ONNX file",
            "score-edge calibrate BUNDLE --video FOOTAGE -o NEW, and build that, without --implicit",
        )


def entropy_calibrator(trt: Any, next_step: Callable[[], int | None], cache: Path) -> Any:
    """An IInt8EntropyCalibrator2; it must outlive the build.

    Args:
        next_step: puts the next encoder input on the GPU and returns its address; None behind the last.
        cache: the ranges that were found; where it exists no step is asked for.

    Raises:
        ScoreEdgeError: see `require_calibrator`.
    """
    require_calibrator(trt)

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            address = next_step()
            return None if address is None else [address]

        def read_calibration_cache(self) -> bytes | None:
            return cache.read_bytes() if cache.is_file() else None

        def write_calibration_cache(self, ranges: Any) -> None:
            cache.write_bytes(ranges)

    return Calibrator()


def target_without_gpu(trt: Any, config: Any) -> None:
    """TensorRT for RTX builds for the GPU it finds unless told for which; the others build for nothing else."""
    if hasattr(trt, "ComputeCapability") and hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)  # Ampere, as Orin
