"""A driver compiled from fake_cuda.c and a TensorRT over ONNX Runtime, for this process and its children."""

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from score_edge.runtime.graphs import cuda_driver

HERE = Path(__file__).parent
HEADERS = [path for path in (Path("/usr/local/cuda/include"), Path("/usr/include")) if (path / "cuda.h").is_file()]


class FakeGpu:
    """What the fakes saw."""

    def __init__(self, driver: ctypes.CDLL) -> None:
        self.driver = driver
        self.tensorrt: ModuleType | None = None

    @property
    def blocks(self) -> int:
        return ctypes.c_int.in_dll(self.driver, "fake_blocks").value

    @property
    def launches(self) -> int:
        return ctypes.c_int.in_dll(self.driver, "fake_launches").value

    @property
    def recorded(self) -> int:
        return ctypes.c_int.in_dll(self.driver, "fake_recorded").value

    @property
    def graphs(self) -> int:
        return ctypes.c_int.in_dll(self.driver, "fake_graphs").value

    def refuse_graphs(self) -> None:
        ctypes.c_int.in_dll(self.driver, "fake_refuses_graphs").value = 1

    def limit(self, size: int) -> None:
        ctypes.c_size_t.in_dll(self.driver, "fake_memory").value = size

    def limit_host(self, size: int) -> None:
        ctypes.c_size_t.in_dll(self.driver, "fake_host_memory").value = size


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Make this process and those it starts find the fakes."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the driver's fake")
    library = folder / "libcuda.so.1"
    real = ["-DREAL_HEADER", "-Wall", "-Werror", f"-I{HEADERS[0]}"] if HEADERS else []
    command = ["cc", "-shared", "-fPIC", *real, "-o", str(library), str(HERE / "runtime" / "graphs" / "fake_cuda.c")]
    subprocess.run(command, check=True)
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(library))
    shutil.copy(HERE / "fake_tensorrt.py", folder / "tensorrt.py")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    fake = FakeGpu(ctypes.CDLL(str(library)))
    spec = importlib.util.spec_from_file_location("tensorrt", folder / "tensorrt.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    fake.tensorrt = module
    module.Context.capturing = staticmethod(fake.driver.fake_capturing)
    replay = ctypes.CFUNCTYPE(None, ctypes.c_long)(lambda capture: module.Context.recorded[capture]())
    fake.driver.fake_set_on_launch(replay)
    monkeypatch.setattr(module, "REPLAY", replay, raising=False)  # ctypes calls it, so it must live
    return fake
