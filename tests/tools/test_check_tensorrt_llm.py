import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests/runtime/language/recorded"


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/check_tensorrt_llm.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_recorded_signatures_fit():
    done = run(RECORDED)
    assert done.returncode == 0, done.stdout
    assert "tensorrt_llm 1.2.1" in done.stdout and done.stdout.endswith("engine: fits, checkpoint: fits\n")


def test_a_changed_signature_is_found(tmp_path):
    for path in RECORDED.rglob("*.py"):
        text = path.read_text().replace("prompt_table", "embedding_table").replace("mrope_position_ids", "positions")
        copy = tmp_path / path.relative_to(RECORDED)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
    (tmp_path / "tensorrt_llm/llmapi/llm_args.py").unlink()
    done = run(tmp_path)
    assert done.returncode == 1
    assert "knows nothing of mrope_position_ids" in done.stdout
    assert "KvCacheConfig(enable_block_reuse): is not there" in done.stdout


def test_a_folder_without_the_package(tmp_path):
    assert run(tmp_path).returncode == 2
