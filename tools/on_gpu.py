"""Run every test that needs a GPU and write what it measured as Markdown; tools/on_gpu.sh prepares what it needs.

    python tools/on_gpu.py REPORT.md

The tests are those in the files `test_on_gpu.py`; a part is a file. Exits with 1 where one failed.
"""

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
# llama.cpp last: it is compiled meanwhile.
PARTS = {
    "driver: memory, stream, graphs": "tests/runtime/graphs/test_on_gpu.py",
    "TensorRT engines": "tests/engines/test_on_gpu.py",
    "ONNX Runtime on CUDA, every family": "tests/export/test_on_gpu.py",
    "llama.cpp on CUDA": "tests/runtime/language/test_on_gpu.py",
}
PACKAGES = (
    "torch",
    "transformers",
    "onnxruntime-gpu",
    "onnxruntime",
    "llama-cpp-python",
    "tensorrt",
    "pycuda",
    "numpy",
)


def machine() -> list[str]:
    """GPU and driver, what else runs, and packages, a line each."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,utilization.gpu", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.strip()
    except OSError:
        gpu = ""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    busy = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs when this began"
    return [gpu or "no NVIDIA GPU", busy, f"Python {platform.python_version()}, {', '.join(found)}"]


def run_part(path: str, seconds: float) -> list[ET.Element]:
    """The test cases of a file, or one that says that they took too long or did not begin."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-o",
            "junit_family=xunit1",
            f"--junitxml={report}",
            ROOT / path,
        ]
        try:
            # Elsewhere than in ROOT, whose score_edge/ would hide the package on PYTHONPATH.
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return [_failure(f"not done after {seconds:.0f} s")]
        print(done.stdout, end="", flush=True)
        cases = list(ET.parse(report).getroot().iter("testcase")) if report.is_file() else []
        return cases or [_failure(" ".join(done.stdout.split()[-30:] + done.stderr.split()[-30:]) or "no tests")]


def _failure(message: str) -> ET.Element:
    case = ET.Element("testcase", name="all", time="0")
    ET.SubElement(case, "failure", message=message)
    return case


def rows(cases: Iterable[ET.Element]) -> list[str]:
    """A table row per test case: what, outcome, seconds, what it measured or why not."""
    lines = []
    for case in cases:
        outcome, said = "yes", [prop.get("value", "") for prop in case.iter("property")]
        for kind, word in (("skipped", "skipped"), ("failure", "**no**"), ("error", "**no**")):
            if (found := case.find(kind)) is not None:
                outcome = word
                said.append(found.get("message", ""))
        name = case.get("name", "").removeprefix("test_").replace("_", " ")
        text = " ".join("; ".join(said).split()).replace("|", "/")[:300]
        lines.append(f"| {name} | {outcome} | {float(case.get('time', 0)):.1f} | {text} |")
    return lines


def wait_for(process: int, seconds: float) -> None:
    """Until a process that is not ours has ended."""
    end, status = time.monotonic() + seconds, Path(f"/proc/{process}/stat")
    while process and time.monotonic() < end:
        try:
            if status.read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.5)


def main() -> int:
    """Run the parts and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--seconds", type=float, default=240, help="for all parts together")
    parser.add_argument(
        "--build", type=int, nargs=2, default=(0, 0), help="process that builds llama.cpp, and for how long"
    )
    parser.add_argument("--log", type=Path, help="what that build printed")
    arguments = parser.parse_args()
    began, failed, lines = time.monotonic(), False, ["## On a GPU", "", *(f"- {line}" for line in machine())]
    for title, path in PARTS.items():
        if "llama" in title:
            waited = time.monotonic()
            wait_for(*arguments.build)
            began += time.monotonic() - waited  # the build has a limit of its own
        part = time.monotonic()
        cases = run_part(path, max(arguments.seconds - (part - began), 10))
        failed |= any(case.find(kind) is not None for case in cases for kind in ("failure", "error"))
        lines += ["", f"### {title}", "", f"`python -m pytest {path}`, {time.monotonic() - part:.0f} s", ""]
        lines += ["| what | passed | s | measured, or why not |", "|---|---|---|---|", *rows(cases)]
        # Written after every part: what was measured is there however the rest ends.
        arguments.report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if arguments.log and arguments.log.is_file() and (said := arguments.log.read_text(errors="replace").split()):
        lines += ["", f"The build of llama.cpp said: {' '.join(said[-60:])}"]
        arguments.report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
