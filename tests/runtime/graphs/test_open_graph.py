"""Which provider is taken on a machine without a GPU, and what is said about the others; engines: test_build.py."""

import dataclasses
import subprocess
import sys

import pytest

from score_edge.bundle.folder import Bundle
from score_edge.bundle.manifest import FileRef
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.cuda_driver import cuda_devices
from score_edge.runtime.graphs.engine_files import engines_of, graph_hash
from score_edge.runtime.graphs.open_graph import open_graph
from score_edge.runtime.graphs.tensorrt_library import load_tensorrt, short_version, version_numbers

without_gpu = pytest.mark.skipif(not isinstance(cuda_devices(), str), reason="there is a GPU here")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open("reference")


@without_gpu
def test_auto_takes_the_cpu_and_says_why_nothing_better(bundle, caplog):
    graph, passed_over = open_graph(bundle, "policy", threads=1)
    assert graph.provider == "CPUExecutionProvider"
    assert list(passed_over) == ["tensorrt", "cuda"]
    assert all("needs an NVIDIA GPU" in reason for reason in passed_over.values())
    assert caplog.text == ""  # a PC without a GPU is nothing to warn of


@without_gpu
@pytest.mark.parametrize("provider", ["tensorrt", "cuda"])
def test_a_provider_that_was_asked_for_and_does_not_work_is_an_error(bundle, provider):
    with pytest.raises(ScoreEdgeError, match="needs an NVIDIA GPU"):
        open_graph(bundle, "encoder", provider)


def test_a_listed_cuda_provider_that_falls_back_is_found_out(fake_gpu, bundle, monkeypatch):
    from score_edge.runtime.graphs import open_graph as module

    real = module.OnnxGraph
    monkeypatch.setattr(module, "OnnxGraph", lambda path, **options: real(path, threads=1))
    with pytest.raises(ScoreEdgeError, match="lists CUDAExecutionProvider, but runs on CPUExecutionProvider"):
        open_graph(bundle, "policy", "cuda")


@without_gpu
def test_the_command_line_refuses_it_without_a_traceback(tmp_path):
    command = [sys.executable, "-c", "from score_edge.cli import main; main()"]
    ask = ["ask", "reference", str(tmp_path), "what moved?", "--provider", "tensorrt"]
    done = subprocess.run([*command, *ask], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "TensorRT needs an NVIDIA GPU" in done.stderr


def test_versions():
    assert version_numbers("10.3.0.30-1+cuda12.5") == (10, 3, 0)
    assert short_version("8.6.1.post1") == "8.6.1"


def test_tensorrt_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ScoreEdgeError, match="tensorrt is not installed for this Python") as caught:
        load_tensorrt()
    assert "nvidia-jetpack" in caught.value.hint
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(ScoreEdgeError) as caught:
        load_tensorrt("tensorrt_rtx")
    assert caught.value.hint == 'pip install "score-edge[rtx-check]"'


@without_gpu
def test_a_small_graph_is_computed_by_one_thread_unless_told_otherwise(bundle):
    for threads, expected in ((None, 1), (2, 2)):
        graph, _ = open_graph(bundle, "encoder", threads=threads)
        assert graph._session.get_session_options().intra_op_num_threads == expected


@without_gpu
def test_weights_beside_the_encoder_give_the_policy_no_more_threads(bundle):
    large = dataclasses.replace(bundle.manifest, extra=(FileRef("encoder.onnx.data", "0" * 64, 2_000_000_000),))
    for name, threads in (("policy", 1), ("encoder", 0)):
        graph, _ = open_graph(Bundle(bundle.folder, large), name)
        assert graph._session.get_session_options().intra_op_num_threads == threads


def test_engines_are_of_the_weights_beside_a_graph_too(bundle):
    """Under the name that `calibrate` gives them as under that of `export`."""

    def kept(name: str, sha256: str) -> tuple[str, str]:
        manifest = dataclasses.replace(bundle.manifest, extra=(FileRef(name, sha256, 1),))
        made = Bundle(bundle.folder, manifest)
        return graph_hash(made, "encoder"), engines_of(made).name

    for name in ("encoder.onnx.data", "s8s8.onnx.data"):
        assert not {*kept(name, "0" * 64)} & {*kept(name, "1" * 64)}
    assert kept("int8.json", "0" * 64) == kept("int8.json", "1" * 64)  # a report
