"""The script for a GPU, where there is none: what it would do, what its report looks like."""

import importlib.util
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "on_gpu.sh"
spec = importlib.util.spec_from_file_location("on_gpu", ROOT / "tools" / "on_gpu.py")
assert spec and spec.loader
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def script(*arguments: str | Path, held: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SCORE_EDGE_ON_GPU": str(held)}
    return subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=60)


def test_a_dry_run_says_everything_and_does_nothing(tmp_path: Path) -> None:
    held = tmp_path / "held"
    done = script("--dry-run", tmp_path / "report.md", held=held)
    assert done.returncode == 0, done.stderr
    assert "-DGGML_CUDA=on" in done.stdout and "tools/on_gpu.py" in done.stdout
    prepared = script("--dry-run", "--prepare", tmp_path / "carry", held=held)
    assert prepared.returncode == 0, prepared.stderr
    for package in ("onnxruntime-gpu", "gguf", "llama-cpp-python", "tests/export/test_on_gpu.py -k prepare"):
        assert package in prepared.stdout
    compiled = script("--dry-run", "--compile", tmp_path / "carry", held=held)
    assert compiled.returncode == 0 and "-DCMAKE_CUDA_ARCHITECTURES=90-real" in compiled.stdout, compiled.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_runtime_its_bundles_stay_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SCORE_EDGE_CARRY", "gguf")
    prepared = script("--dry-run", "--prepare", tmp_path, held=tmp_path).stdout
    assert "gguf" in prepared and "repack" in prepared
    assert "onnxruntime-gpu" not in prepared and "-k prepare" not in prepared


def test_llama_is_packed_again_without_what_a_library_does_not_need(tmp_path: Path) -> None:
    top = tmp_path / "llama_cpp_python-1"
    for name in ("vendor/llama.cpp/tools/ui/a", "vendor/llama.cpp/src/a", "docs/a", "llama_cpp/a.py"):
        (top / name).parent.mkdir(parents=True)
        (top / name).write_text("a")
    for backend in ("cpu", "cuda", "vulkan"):
        (top / f"vendor/llama.cpp/ggml/src/ggml-{backend}").mkdir(parents=True)
    (top / "CMakeLists.txt").write_text("set(LLAMA_BUILD_COMMON ON CACHE)")
    archive = tmp_path / "llama_cpp_python-1.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(top, top.name)
    text = SCRIPT.read_text()
    function = text[text.index("repack() {") : text.index("\n}\n", text.index("repack() {")) + 3]
    subprocess.run(["bash", "-euc", f'{function}repack "$1"', "bash", archive], check=True, timeout=60)
    with tarfile.open(tmp_path / "llama_cpp_python-1.tar.xz") as file:
        names = {Path(name).name for name in file.getnames()}
        settings = file.extractfile(f"{top.name}/CMakeLists.txt")
        assert settings and b"COMMON OFF" in settings.read()
    assert names >= {"src", "llama_cpp", "ggml-cpu", "ggml-cuda"} and not names & {"tools", "docs", "ggml-vulkan"}
    assert not archive.exists()


def test_without_arguments_it_says_how(tmp_path: Path) -> None:
    done = script(held=tmp_path)
    assert done.returncode == 2 and "--prepare FOLDER" in done.stdout


def test_pieces_are_put_together_again(tmp_path: Path) -> None:
    held = tmp_path / "held"
    for number, text in enumerate(("one ", "two")):
        (tmp_path / f"transfer{number}").mkdir()
        (tmp_path / f"transfer{number}" / f"a.tar.gz.piece0{number}").write_text(text)
        assert script("--receive", tmp_path / f"transfer{number}", held=held).returncode == 0
    dry = script("--dry-run", "report.md", held=held)
    assert f"cat {held}/a.tar.gz.piece* > {held}/a.tar.gz" in dry.stdout


def test_parts_are_there_and_skip_with_a_reason_where_there_is_no_gpu(tmp_path, monkeypatch, capsys) -> None:
    from score_edge.runtime.graphs.cuda_driver import cuda_devices

    if not isinstance(cuda_devices(), str):
        pytest.skip("there is a GPU here: run tools/on_gpu.sh")
    assert sorted(map(str, ROOT.glob("tests/**/test_on_gpu.py"))) == sorted(
        str(ROOT / path) for path in (*tool.PARTS.values(), "tests/tools/test_on_gpu.py")
    )
    monkeypatch.setattr(tool, "PARTS", dict(list(tool.PARTS.items())[:1]))
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", str(tmp_path / "report.md")])
    assert tool.main() == 0
    report = (tmp_path / "report.md").read_text()
    assert "no NVIDIA GPU" in report and "| bytes come back | skipped |" in report and "no NVIDIA driver" in report


def test_rows_of_the_report() -> None:
    cases = ET.fromstring(
        '<s><testcase name="test_bytes_come_back" time="0.5"><properties><property name="copies" value="9 GB/s|up"/>'
        '</properties></testcase><testcase name="test_x" time="1"><failure message="assert 1&#10;== 2"/></testcase></s>'
    )
    assert tool.rows(cases) == [
        "| bytes come back | yes | 0.5 | 9 GB/s/up |",
        "| x | **no** | 1.0 | assert 1 == 2 |",
    ]


def test_a_part_that_hangs_or_dies_is_said(tmp_path: Path) -> None:
    (tmp_path / "test_hang.py").write_text("import time\n\n\ndef test_hang():\n    time.sleep(60)\n")
    (tmp_path / "test_die.py").write_text("import os\n\n\ndef test_die():\n    os._exit(3)\n")
    assert "not done after" in tool.rows(tool.run_part(str(tmp_path / "test_hang.py"), 3))[0]
    assert "**no**" in tool.rows(tool.run_part(str(tmp_path / "test_die.py"), 30))[0]
