"""A graph on ONNX Runtime."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score_edge.core import is_cache
from score_edge.errors import ScoreEdgeError, require
from score_edge.native_path import native_path
from score_edge.runtime.graphs.base import Array, Shape

# fp32 means fp32: TF32 rounds products to the ten bits of fp16, at a cost in accuracy that nobody asked for.
_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}
_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}
_FATAL = 4  # onnxruntime's severity scale; what is an error for the caller is raised, not printed


@dataclass
class OnnxCache:
    """Caches of a source on the device where the graph runs, by input."""

    current: dict[str, Any]


class OnnxGraph:
    """A graph on ONNX Runtime.

    Args:
        path: the .onnx file; external data is looked for beside it.
        providers: ONNX Runtime execution providers, best first; those this machine lacks are skipped.
        threads: threads within an operator; None lets ONNX Runtime choose.
        simulate: compute Q/DQ graphs in float (fake-quant), slowly: integer kernels overflow on x86 without VNNI.

    Attributes:
        inputs, outputs: shape of every input and output by name.
        dtypes: of all of them.

    Raises:
        ScoreEdgeError: the file is missing, damaged or made for a newer ONNX Runtime; no provider is available.

    Example:
        >>> import numpy as np
        >>> from score_edge.bundle.folder import Bundle
        >>> graph = OnnxGraph(Bundle.open("reference").policy_path)
        >>> rows = np.zeros((36, *graph.inputs["tokens"][1:]), np.float32)
        >>> graph.run(tokens=rows, previous=rows)["keep"].shape
        (36,)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int | None = None,
        simulate: bool = False,
    ) -> None:
        onnxruntime = require("onnxruntime")

        self._name = Path(path).name
        if not Path(path).is_file():
            raise ScoreEdgeError(f"{path} does not exist", "check the path, or export the bundle again")
        available = onnxruntime.get_available_providers()
        usable = [provider for provider in providers if provider in available]
        if not usable:
            wanted, offered = ", ".join(providers), ", ".join(available)
            raise ScoreEdgeError(f"ONNX Runtime on this machine has no {wanted}", f"it offers: {offered}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        # Waiting threads that spin take the CPU from the language model, which runs right after.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        if simulate:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        place = native_path(path)
        try:
            self._session = onnxruntime.InferenceSession(
                place, options, providers=[(name, _OPTIONS.get(name, {})) for name in usable]
            )
        except Exception as error:  # its exceptions share no base class
            raise ScoreEdgeError(
                f"{path} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {_reason(error)}",
                "the file is damaged, or needs a newer onnxruntime: export the bundle again, or update",
            ) from error
        self.inputs: Mapping[str, Shape] = {node.name: tuple(node.shape) for node in self._session.get_inputs()}
        self.outputs: Mapping[str, Shape] = {node.name: tuple(node.shape) for node in self._session.get_outputs()}
        tensors = (*self._session.get_inputs(), *self._session.get_outputs())
        self.dtypes = {node.name: np.dtype(_DTYPES.get(node.type, node.type[7:-1])) for node in tensors}
        # What the next run writes caches into, whichever source it is of: each source holds but what it is read from.
        self._spare: dict[str, Any] | None = None
        self._writing = threading.Lock()

    @property
    def provider(self) -> str:
        """The execution provider in use, which may be another than the first that was asked for."""
        return str(self._session.get_providers()[0])

    def run(self, **inputs: Array) -> dict[str, Array]:
        """Run once.

        Args:
            inputs: every input of the graph by name.

        Returns:
            Every output of the graph by name.

        Raises:
            ScoreEdgeError: an input is missing, unknown, or of the wrong shape or dtype.
        """
        if inputs.keys() != self.inputs.keys():
            raise ScoreEdgeError(f"{self._name} takes {sorted(self.inputs)}, but was given {sorted(inputs)}")
        try:
            return dict(zip(self.outputs, self._session.run(None, inputs), strict=True))
        except Exception as error:  # its exceptions share no base class
            raise self._failed(error, inputs) from error

    def start(self) -> OnnxCache:
        """A cache of zeros; see `CachedGraph`."""
        return OnnxCache(self._zeros())

    def run_cached(self, cache: OnnxCache, **inputs: Array) -> dict[str, Array]:
        """See `CachedGraph`; inputs and errors as for `run`."""
        if inputs.keys() | cache.current.keys() != self.inputs.keys():
            raise ScoreEdgeError(f"{self._name} takes {sorted(self.inputs)}, but was given {sorted(inputs)}")
        with self._writing:
            spare = self._spare = self._spare or self._zeros()
            try:
                outputs = self._run_into(spare, cache.current, inputs)
            except Exception as error:  # its exceptions share no base class
                raise self._failed(error, inputs) from error
            cache.current, self._spare = spare, cache.current
        return outputs

    def _run_into(
        self, written: dict[str, Any], caches: dict[str, Any], inputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        binding = self._session.io_binding()
        found = [name for name in self.outputs if not is_cache(name)]
        for name in found:
            binding.bind_output(name)
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name, value in caches.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(f"new_{name}", written[name])
        self._session.run_with_iobinding(binding)
        outputs = dict(zip(found, binding.get_outputs(), strict=False))  # in the order in which they were bound
        return {name: outputs[name].numpy() for name in found}

    def _zeros(self) -> dict[str, Any]:
        onnxruntime = require("onnxruntime")
        device = "cuda" if self.provider == "CUDAExecutionProvider" else "cpu"
        return {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(_fixed(shape), self.dtypes[name]), device)
            for name, shape in self.inputs.items()
            if is_cache(name)
        }

    def _failed(self, error: Exception, inputs: Mapping[str, Array]) -> ScoreEdgeError:
        given = {name: f"{array.shape} {array.dtype}" for name, array in inputs.items()}
        return ScoreEdgeError(f"{self._name} failed on {given}: {_reason(error)}")


def _fixed(shape: Shape) -> tuple[int, ...]:
    return tuple(size for size in shape if isinstance(size, int))


def _reason(error: Exception) -> str:
    """ONNX Runtime's message as one line, without its "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : "."""
    return " ".join(str(error).split(" : ")[-1].split())
