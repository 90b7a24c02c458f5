"""The installed command, run as a user runs it: exit codes, stdout, stderr."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from score_edge.bundle.folder import Bundle, write_bundle
from score_edge.reference import world

pytest.importorskip("llama_cpp")

SHARED = Path(os.environ.get("SCORE_EDGE_SHARED", Path(__file__).parents[3] / "shared"))
REAL_CLIPS = sorted((SHARED / "videos").glob("*.mp4")) + sorted((SHARED / "videos").glob("*.avi"))


def score_edge(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), world.FPS, (world.SIZE, world.SIZE))
    for image in world.make_clip(world.TEST_SEED, 1, 8).images:
        writer.write(image[..., ::-1])
    writer.release()
    return path


def test_help_answers_at_once_without_heavy_imports():
    code = (
        "import sys; from score_edge.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'cv2', 'onnxruntime', 'llama_cpp', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert "ask" in done.stdout


def test_version():
    assert score_edge("--version").stdout.strip() == "0.1.0"


def test_ask_streams_the_answer_to_stdout_and_the_cost_to_stderr(video):
    done = score_edge("ask", "reference", video, "how many things moved fast?")
    assert done.returncode == 0
    assert done.stdout.strip()
    assert "29/288 tokens kept" in done.stderr and "prefill" in done.stderr
    spent = re.findall(r" ([\d.]+) (ms|s) ·", done.stderr)
    *parts, first_token, _ = (float(number) / (1e3 if unit == "ms" else 1) for number, unit in spent)
    assert sum(parts) == pytest.approx(first_token, abs=0.01)


def test_ask_json_prints_one_object_and_nothing_else(video):
    done = score_edge(
        "ask", "reference", video, "how many things moved fast?", "--json", "--compare", "--retention", 0.25
    )
    found = json.loads(done.stdout)
    assert (found["kept"], found["total"]) == (72, 288)
    assert found["unpruned"]["kept"] == 288
    assert set(found["speedup"]) == {"prefill", "ttft", "whole"}
    assert found["timings"]["ttft"] < found["timings"]["whole"]


@pytest.mark.parametrize("options", [("--runs", "3"), ("--compare", "--runs", "2")])
def test_what_is_read_several_times_warns_once(video, tmp_path, options):
    """Of a source without an end, and of a file that is damaged."""
    cut = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(cut), cv2.VideoWriter_fourcc(*"MJPG"), world.FPS, (world.SIZE, world.SIZE))
    for image in world.make_clip(world.TEST_SEED, 1, 8).images:
        writer.write(image[..., ::-1])
    writer.release()
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    for source in ("synthetic://", cut):
        done = score_edge("ask", "reference", source, "how many things moved fast?", "--steps", "4", *options)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("warning: ") == 1, done.stderr


def test_ask_looks_again_when_it_is_not_sure(video):
    done = score_edge("ask", "reference", video, "how many things moved fast?", "--json", "--look-again", 1)
    found = json.loads(done.stdout)
    assert [look["kept"] for look in found["looks"]] == [29, 115, 288] and found["kept"] == 288
    assert all(0 < look["probability"] < 1 for look in found["looks"])


def test_ask_draws_as_it_is_told(video):
    def answer(*options):
        done = score_edge("ask", "reference", video, "how many things moved fast?", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    drawn = ("--temperature", 50, "--max-tokens", 8)
    assert answer(*drawn, "--seed", 7) == answer(*drawn, "--seed", 7) != answer(*drawn, "--seed", 8)
    greedy = answer()
    assert answer("--stop", greedy[1:]) == greedy[:1]
    refused = score_edge("ask", "reference", video, "what moved?", "--seed", 7)
    assert refused.returncode == 2 and "--temperature" in refused.stderr


def test_ask_compares_in_a_table(video):
    done = score_edge("ask", "reference", video, "how many things moved fast?", "--compare")
    assert "times faster" in done.stdout and "unpruned" in done.stdout


@pytest.mark.parametrize("options", [("--compare",), ("--retention", 1), ("--selector", "all")])
def test_ask_takes_an_unpruned_clip_longer_than_the_context_of_the_bundle(video, tmp_path, options):
    bundle = Bundle.open("reference")
    short = dataclasses.replace(bundle.manifest.language, context=256)  # the clip has 8 steps of 36 tokens
    write_bundle(tmp_path / "bundle", dataclasses.replace(bundle.manifest, language=short), bundle.paths)
    done = score_edge("ask", tmp_path / "bundle", video, "what?", *options, "--json")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply.get("unpruned", reply)["kept"] == 288


@pytest.mark.parametrize("suffix", [".png", ".mp4"])
def test_ask_paints_an_overlay(video, tmp_path, suffix):
    path = tmp_path / f"kept{suffix}"
    assert score_edge("ask", "reference", video, "what?", "--save-overlay", path).returncode == 0
    if suffix == ".png":
        assert cv2.imread(str(path)).std() > 10
    else:
        assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 8


def broken(name: str, folder: Path, video: Path) -> Path:
    path = folder / name
    if name == "empty.mp4":
        path.touch()
    elif name == "text.mp4":
        path.write_text("this is no video\n" * 100)
    elif name == "cut.mp4":
        path.write_bytes(video.read_bytes()[: video.stat().st_size // 3])
    elif name == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("name", ["empty.mp4", "text.mp4", "cut.mp4", "folder", "missing.mp4"])
def test_a_bad_video_is_a_message_and_a_hint(name, tmp_path, video):
    done = score_edge("ask", "reference", broken(name, tmp_path, video), "what?", "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and name in done.stderr
    assert "hint: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["ask", "nowhere", "x.mp4", "what?"], 1, "nowhere is not a bundle"),
        (["ask", "reference", "x.mp4", "what?", "--selector", "scroe"], 1, "did you mean score?"),
        (["ask", "reference", "x.mp4", "what?", "--retention", "0"], 2, "retention"),
        (["ask", "reference", "x.mp4"], 2, "'question'"),
        (["ask", "reference", "x.mp4", " "], 2, "the question is empty"),
        (["ask", "reference", "x.mp4", "what?", "--compare", "--look-again", "0.8"], 2, "--look-again does nothing"),
        (["calibrate", "reference", "--video", "x.mp4", "-o", "./reference"], 2, "choose another name"),
        (["export", "x", "-o", "reference", "--llm", "x.gguf"], 2, "choose another name"),
        (["ask", "reference", "x.mp4", "what?", "--look-again", "1.5"], 2, "look-again"),
        (["evaluate", "reference", "--retention", "ten"], 2, "ten"),
        (
            ["evaluate", "reference", "--video", "a.mp4", "--boxes", "a.json", "--retention", "1"],
            2,
            "keeps every token",
        ),
        (["evaluate", "reference", "--selectors", "evz"], 1, "did you mean evs?"),
        (["inspect", "nowhere"], 1, "nowhere is not a bundle"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_wrong_usage(arguments, code, text):
    done = score_edge(*arguments)
    assert done.returncode == code
    assert text in done.stderr
    assert done.stdout == ""


def test_odd_sizes_and_image_folders_work(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(5):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 255, (37, 53 + i, 3), np.uint8))
    done = score_edge("ask", "reference", tmp_path, "what?", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["total"] == 3 * 36


def test_a_picture_that_could_not_be_drawn_is_refused_before_minutes_of_work(tmp_path):
    program = "import sys; sys.modules['matplotlib'] = None; from score_edge.cli import main; main()"
    command = [sys.executable, "-c", program, "evaluate", "reference", "--plot", str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and 'pip install "score-edge[train]"' in done.stderr
    assert not any(tmp_path.iterdir())


def test_every_answer_says_what_it_ran_on(video):
    done = score_edge("ask", "reference", video, "what?")
    assert "encoder on CPU, fp32 · language model on llama.cpp, CPU" in done.stderr
    found = json.loads(score_edge("ask", "reference", video, "what?", "--json").stdout)["runs_on"]
    assert (found["encoder"], found["precision"], found["language"]) == ("CPU", "fp32", "llama.cpp, CPU")


@pytest.mark.skipif(not REAL_CLIPS, reason="no clips: ../shared/videos is absent")
@pytest.mark.parametrize("clip", REAL_CLIPS, ids=lambda path: path.stem)
def test_every_real_clip_is_answered(clip):
    done = score_edge("ask", "reference", clip, "how many things moved fast?", "--json", "--max-tokens", 4)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kept"] == round(0.1 * found["total"]) and found["answer"]


def test_inspect_shows_the_bundle():
    found = json.loads(score_edge("inspect", "reference", "--json").stdout)
    assert found["family"] == "qwen2_vl"
    assert "qwen2_vl" in score_edge("inspect", "reference").stdout


def test_evaluate_reports_every_variant_and_length():
    done = score_edge(
        "evaluate",
        "reference",
        "--selectors",
        "evs,random",
        "--retention",
        "1,0.25",
        "--clips",
        2,
        "--steps",
        "4,6",
        "--json",
    )
    rows = json.loads(done.stdout)["rows"]
    variants = {(row["selector"], row["retention"], row["steps"]) for row in rows if row["kind"] == "overall"}
    assert variants == {(*v, s) for v in [("all", 1.0), ("evs", 0.25), ("random", 0.25)] for s in (4, 6)}
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows)


def test_evaluate_refuses_a_bundle_whose_tokens_are_not_the_worlds(tmp_path):
    reference = Bundle.open("reference")
    vision = dataclasses.replace(reference.manifest.vision, width=192, grid=(6, 12), incremental=None)
    manifest = dataclasses.replace(reference.manifest, vision=vision)
    names = {ref.file for ref in manifest.files.values()}
    files = {name: path for name, path in reference.paths.items() if name in names}
    write_bundle(tmp_path / "wide", manifest, files)
    done = score_edge("evaluate", tmp_path / "wide", "--clips", 1, "--steps", "4")
    assert done.returncode == 1 and "has 6 x 12 per step of 2" in done.stderr and "ask --compare" in done.stderr


def test_demo_writes_its_picture(tmp_path):
    picture = tmp_path / "demo.png"
    found = json.loads(score_edge("demo", "--overlay", picture, "--json").stdout)
    assert picture.stat().st_size > 10_000
    assert found["steps"] == 64 and found["accuracy"]["asked"] > 100
    assert len(found["answers"]) == 8


@pytest.mark.slow
def test_demo_takes_a_video_of_the_user(video, tmp_path):
    done = score_edge("demo", "--source", video, "--overlay", tmp_path / "demo.png")
    assert done.returncode == 0 and "its own world" in done.stdout


def test_profile_writes_everything_and_compares(tmp_path):
    report, page, trace = (tmp_path / name for name in ("p.json", "p.html", "t.json"))
    wanted = ["--threads", 1, "--steps", 4, "--runs", 2, "--answer-tokens", 2, "--retention", "1,0.25"]
    done = score_edge("profile", "reference", *wanted, "--report", report, "--html", page, "--trace", trace)
    assert done.returncode == 0, done.stderr
    assert "retentions interleaved" in done.stdout and "selection, share" in done.stdout
    assert all(path.stat().st_size > 1000 for path in (report, page, trace))
    again = json.loads(score_edge("profile", "reference", *wanted, "--against", report, "--json").stdout)
    assert {change["stage"] for change in again["against"]["changes"]} >= {"prefill", "whole"}
    assert again["variants"][1]["speedup"]["prefill"] > 0


def test_profile_reads_a_video(video):
    found = json.loads(
        score_edge("profile", "--source", video, "--runs", 1, "--retention", "0.1", "--threads", 1, "--json").stdout
    )
    assert found["frames"] == 16 and found["variants"][0]["stages"]["read"]["answer"]["median"] > 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--source", "nowhere.mp4"], "nowhere.mp4 does not exist"),
        (["--against", "nowhere.json"], "nowhere.json cannot be read"),
        (["--retention", "2"], "retention 2.0 is not in (0, 1]"),
        (["--llm-shape", "gpt-5"], "no LLM shape 'gpt-5'"),
        (["--selector", "scroe"], "did you mean score?"),
    ],
)
def test_profile_refuses_in_words(arguments, text):
    done = score_edge("profile", "reference", "--runs", 1, *arguments)
    assert done.returncode == 1 and text in done.stderr


def test_a_server_cannot_take_visual_tokens():
    done = score_edge("profile", "reference", "--backend", "tensorrt-llm:http://localhost:8000/v1")
    assert done.returncode == 1 and "OpenAI-compatible" in done.stderr


def test_calibrate_says_what_is_wrong_in_one_line(tmp_path, video):
    """Seven steps of video: too few to calibrate and to judge."""
    pytest.importorskip("onnx")
    done = score_edge("calibrate", "reference", "--video", video, "-o", tmp_path / "int8")
    assert done.returncode == 1
    assert "10 are needed" in done.stderr and "hint: give longer footage" in done.stderr
    assert not (tmp_path / "int8").exists()


@pytest.mark.slow
def test_calibrate_prints_the_report(tmp_path):
    pytest.importorskip("onnx")
    source = "synthetic://?seed=5&steps=48"
    done = score_edge(
        "calibrate", "reference", "--video", source, "-o", tmp_path / "int8", "--frames", 8, "--clips", 0, "--json"
    )
    found = json.loads(done.stdout)
    assert found["accuracy"]["tokens"]["worst_cosine"] >= 0.999
    assert "calibrate" in score_edge("inspect", tmp_path / "int8").stdout
