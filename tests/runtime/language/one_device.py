"""The shipped model's answers, or a larger model's speed, on the one device that this process sees: for test_on_gpu.py.

    python one_device.py answers CLIP.npy OUT.npz
    python one_device.py speed MODEL.gguf ROWS OUT.npz

A process each, because llama.cpp takes a GPU for large products even where every layer is on the CPU:
with `CUDA_VISIBLE_DEVICES=` set to nothing it has none.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from score_edge.bundle.folder import Bundle
from score_edge.core import Grid, KeptTokens
from score_edge.runtime.language.base import Rows
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.language.llama_library import library
from score_edge.runtime.pipeline import Pipeline

RETENTIONS = (1.0, 0.1)
QUESTIONS = ("how many things moved fast?", "what moved?")
RUNS = 5


def log_of_llama(lines: list[str]) -> Any:
    """Keeps every line that llama.cpp says from now on; hold what this returns as long as llama.cpp runs."""
    llama = library()
    keep = llama.llama_log_callback(lambda level, text, data: lines.append(text.decode("utf-8", "replace")))
    llama.llama_log_set(keep, None)
    return keep


def answers(clip: Path, out: Path) -> None:
    """Logits (V,) and text for each question at each retention: the second question is asked after the first was rolled
    back, and again on a fresh sequence.
    """
    lines: list[str] = []
    keep = log_of_llama(lines)
    found: dict[str, Any] = {}
    tokens = np.load(clip)
    with Pipeline(Bundle.open("reference")) as pipeline:
        for retention in RETENTIONS:
            kept = pipeline.select(tokens, pipeline.selector("score"), retention)
            pipeline.watch(tokens, kept)
            for i, question in enumerate(QUESTIONS):
                pipeline.prefill_question(question)
                found[f"logits {retention} {i}"] = pipeline.sequence.logits()
                found[f"text {retention} {i}"] = "".join(pipeline.sequence.generate(32))
            pipeline.watch(tokens, kept)
            pipeline.prefill_question(QUESTIONS[-1])
            found[f"fresh {retention}"] = pipeline.sequence.logits()
    np.savez(out, log="".join(lines), **found)
    del keep


def speed(model: Path, rows: int, out: Path) -> None:
    """Seconds of RUNS prefills of so many rows and a word; a run before is not counted. Of 16 tokens each, too."""
    lines: list[str] = []
    keep = log_of_llama(lines)
    prefill, token = [], []
    with LlamaCpp(model, context=rows + 64) as opened:
        width = opened.capabilities.width
        values = 0.02 * np.random.default_rng(0).standard_normal((1, rows, width), np.float32)
        kept = KeptTokens.gather(values, np.ones((1, rows), bool), Grid(1, rows))
        sequence = opened.sequence()
        for run in range(1 + RUNS):
            sequence.clear()
            began = time.perf_counter()
            sequence.append(Rows.of(kept), "what")
            sequence.logits()
            ended = time.perf_counter()
            for _ in range(16):
                sequence.append("a")
            if run:
                prefill.append(ended - began)
                token.append((time.perf_counter() - ended) / 16)
    np.savez(out, log="".join(lines), prefill=prefill, token=token)
    del keep


if __name__ == "__main__":
    what, path, *rest = sys.argv[1:]
    if what == "answers":
        answers(Path(path), Path(rest[0]))
    else:
        speed(Path(path), int(rest[0]), Path(rest[1]))
