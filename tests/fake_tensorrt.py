"""As much of TensorRT 10.3 as score-edge calls, over ONNX Runtime: for the flow of a build, never for the API.
That the real one has these names and arguments is what tests/engines/test_bindings.py is for. An "engine" is the ONNX
file that was parsed; "device memory" is whatever address it is given. FAKE_TENSORRT in the environment makes it fail:
``parse``, ``build``, ``die``, ``hang``, ``wrong`` (engines that compute something else). Version 8 knows no INT64.
"""

import ctypes
import enum
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import onnxruntime

__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "10.3.0")
FAULT = os.environ.get("FAKE_TENSORRT", "")


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class BuilderFlag(enum.IntEnum):
    FP16 = 0
    INT8 = 1
    TF32 = 7
    GPU_FALLBACK = 3


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class DeviceType(enum.IntEnum):
    GPU = 0
    DLA = 1


class TensorIOMode(enum.IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class DataType(enum.IntEnum):
    FLOAT = 0
    HALF = 1
    INT32 = 3
    INT64 = 8


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2


class Logger(ILogger):
    pass


class IProgressMonitor:
    pass


class IInt8EntropyCalibrator2:
    pass


class HostMemory(bytes):
    @property
    def nbytes(self):
        return len(self)


class TimingCache:
    def __init__(self, data):
        self.data = data

    def serialize(self):
        return HostMemory(self.data + b"timed ")


class ParserError:
    def __init__(self, text):
        self.text = text

    def desc(self):
        return self.text


class OnnxParser:
    def __init__(self, network, logger):
        self.network, self.num_errors = network, 0

    def parse_from_file(self, path):
        if FAULT == "parse":
            self.num_errors = 1
            return False
        self.network.path = path
        return True

    def get_error(self, index):
        return ParserError("no importer\nfor Frobnicate")


class Network:
    def __init__(self, flags):
        self.flags = flags


class Profile(dict):
    def set_shape(self, name, least, usual, most):
        self[name] = (least, usual, most)


class BuilderConfig:
    def __init__(self):
        self.said = {"flags": [], "cleared": [], "pools": {}}

    def clear_flag(self, flag):
        self.said["cleared"].append(flag.name)

    def set_flag(self, flag):
        self.said["flags"].append(flag.name)

    def set_memory_pool_limit(self, pool, size):
        self.said["pools"][pool.name] = size

    def add_optimization_profile(self, profile):
        self.profile = profile

    def create_timing_cache(self, data):
        return TimingCache(bytes(data))

    def set_timing_cache(self, cache, ignore_mismatch):
        return True


class Builder:
    num_DLA_cores = 1  # noqa: N815

    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        return Network(flags)

    def create_builder_config(self):
        return BuilderConfig()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        if FAULT == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if FAULT == "hang":
            time.sleep(600)
        config.progress_monitor.phase_start("tactics", None, 2)
        config.progress_monitor.step_complete("tactics", 1)
        config.progress_monitor.phase_finish("tactics")
        if FAULT == "build":
            self.logger.log(ILogger.Severity.ERROR, "no kernel for this")
            return None
        said = {**config.said, "network": network.flags, "profile": dict(config.profile)}
        said["dla"] = getattr(config, "DLA_core", None)
        if calibrator := getattr(config, "int8_calibrator", None):
            said["calibrated"] = calibrate(calibrator, config.profile)
        return HostMemory(json.dumps(said).encode() + b"\n" + Path(network.path).read_bytes())


def calibrate(calibrator, profile):
    """The mean of every step, which stands for the ranges."""
    assert calibrator.get_batch_size() == 1
    cache = calibrator.read_calibration_cache()
    if cache is None:
        ((name, shapes),) = profile.items()
        size, means = int(np.prod(shapes[2])), []
        while (addresses := calibrator.get_batch([name])) is not None:
            means.append(float(np.ctypeslib.as_array((ctypes.c_float * size).from_address(addresses[0])).mean()))
        cache = json.dumps(means).encode()
        calibrator.write_calibration_cache(memoryview(cache))
    return json.loads(cache)


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, data):
        head, _, onnx = bytes(data).partition(b"\n")
        return Engine(json.loads(head), onnx) if head.startswith(b"{") else None


class Engine:
    def __init__(self, said, onnx):
        self.said = said
        options = onnxruntime.SessionOptions()
        # INT8 without overflow, as TensorRT computes it; integer kernels of this CPU may not.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self.tensors = {node.name: node for node in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name):
        whole = DataType.INT32 if __version__.startswith("8") else DataType.INT64
        return {"tensor(float)": DataType.FLOAT, "tensor(float16)": DataType.HALF, "tensor(int64)": whole}[
            self.tensors[name].type
        ]

    def get_tensor_shape(self, name):
        return [size if isinstance(size, int) else -1 for size in self.tensors[name].shape]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.said["profile"] else TensorIOMode.OUTPUT

    def get_tensor_profile_shape(self, name, profile_index):
        return self.said["profile"][name]

    def create_execution_context(self):
        return Context(self)


class Context:
    recorded = {}  # noqa: RUF012 - what is queued while the driver captures, by capture
    capturing = staticmethod(lambda: 0)

    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.sizes = engine, {}, {}, {}
        self.put_off = True  # what the first run after a change of shapes brings up to date: no capture may hold it

    def set_input_shape(self, name, shape):
        self.put_off |= self.shapes.get(name) != tuple(shape)
        self.shapes[name] = tuple(shape)
        self.sizes.update(zip(self.engine.tensors[name].shape, shape, strict=True))
        return True

    def get_tensor_shape(self, name):
        return [size if isinstance(size, int) else self.sizes[size] for size in self.engine.tensors[name].shape]

    def set_tensor_address(self, name, memory):
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        assert stream_handle == 5
        if capture := self.capturing():
            Context.recorded[capture] = self.compute
            return not self.put_off
        self.put_off = False
        self.compute()
        return True

    def compute(self):
        inputs = {name: self.memory(name) for name in self.shapes}
        inputs = {name: array.astype("int64") if array.dtype == "int32" else array for name, array in inputs.items()}
        names = [name for name in self.engine.tensors if name not in self.shapes]
        for name, value in zip(names, self.engine.session.run(names, inputs), strict=True):
            self.memory(name)[:] = value + (FAULT == "wrong")

    def memory(self, name):
        shape = self.get_tensor_shape(name)
        kinds = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64"}
        dtype = np.dtype(kinds[self.engine.get_tensor_dtype(name).name])
        size = int(np.prod(shape)) * dtype.itemsize
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.addresses[name]))
        return memory.view(dtype).reshape(shape)
