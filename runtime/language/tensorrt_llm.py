"""TensorRT-LLM as a language model that takes embedding rows. **It has never run on hardware.**

Two ways in, chosen by what the folder holds. An engine of trtllm-build runs through ModelRunnerCpp: the rows are a
prompt table, and the caller chooses every position. A Hugging Face checkpoint runs through the LLM API: the rows go in
as multimodal embeddings, and because it would invent a square grid from their number, its input processor is given the
true positions. Neither can append to a sequence that is prefilled: text and video are gathered, and `generate` runs all
of it; engines find the blocks of the same video again in their KV cache.

Not covered: several GPUs, beam search, LoRA, Qwen3-VL's deepstack rows.
"""

import re
from collections.abc import Generator
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.cuda_driver import require_gpu
from score_edge.runtime.language import tensorrt_llm_request as request
from score_edge.runtime.language.base import Capabilities, Mark, Rows, Segment
from score_edge.runtime.language.sampling import GREEDY, Ended, Sampling
from score_edge.runtime.language.tensorrt_llm_ways import CheckpointWay, EngineWay, Part
from score_edge.runtime.language.tensorrt_llm_ways import Way as WayIn
from score_edge.runtime.turns import Turns

Way = Literal["engine", "checkpoint"]
# What was read of the sources of these versions is in docs/hardware.md; nothing else is tried.
ENGINE_VERSIONS = ((0, 16), (1, 3))
CHECKPOINT_VERSIONS = ((1, 1), (2, 0))
WORKING = "engines: tensorrt-llm 0.16 to 1.2; checkpoints: 1.1 and later 1.x"


def usable_ways(version: str) -> tuple[Way, ...]:
    """What a version of TensorRT-LLM can be used for here.

    Example:
        >>> usable_ways("1.2.1"), usable_ways("0.12.0"), usable_ways("1.3.0")
        (('engine', 'checkpoint'), (), ('checkpoint',))
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if not found:
        return ()
    number = int(found.group(1)), int(found.group(2))
    windows: dict[Way, tuple[tuple[int, int], tuple[int, int]]] = {
        "engine": ENGINE_VERSIONS,
        "checkpoint": CHECKPOINT_VERSIONS,
    }
    return tuple(way for way, (first, beyond) in windows.items() if first <= number < beyond)


def installed_version() -> str | None:
    """Of TensorRT-LLM, without importing it; None where it is absent."""
    for name in ("tensorrt-llm", "tensorrt_llm"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def way_of(folder: str | Path) -> Way:
    """Whether a folder holds an engine or a checkpoint.

    Raises:
        ScoreEdgeError: neither, or the address of a server.
    """
    if "://" in str(folder):
        raise ScoreEdgeError(
            f"{folder} is a server: visual tokens cannot travel through an OpenAI-compatible interface",
            "give a folder with an engine or a checkpoint, and run TensorRT-LLM in this process",
        )
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise ScoreEdgeError(f"{path} holds no model of TensorRT-LLM: there is no config.json", "check the folder")
    if any(path.glob("*.engine")):
        return "engine"
    if any(path.glob("*.safetensors")):
        return "checkpoint"
    raise ScoreEdgeError(
        f"{path} holds neither an engine (*.engine) nor a checkpoint (*.safetensors)", "build or copy it again"
    )


class TensorRtLlm:
    """One model, prefilled anew for every answer; its sequences are what is to be prefilled.

    Args:
        folder: an engine of trtllm-build with its tokenizer's files, or a Hugging Face checkpoint.
        context: tokens that fit, for a checkpoint; an engine has its own.

    Raises:
        ScoreEdgeError: TensorRT-LLM is absent or of a version that was never looked at, there is no GPU, or the folder
            holds something else.

    Example:
        >>> with TensorRtLlm("engines/qwen2-vl-2b") as model:  # doctest: +SKIP
        ...     sequence = model.sequence()
        ...     sequence.append(Rows.of(kept), "What moved?")
        ...     print("".join(sequence.generate(32)))
    """

    def __init__(self, folder: str | Path, *, context: int = 8192) -> None:
        way = way_of(folder)
        version = installed_version()
        if version is None:
            raise ScoreEdgeError(
                "tensorrt-llm is not installed, and this needs it",
                "pip install tensorrt-llm --extra-index-url https://pypi.nvidia.com",
            )
        if way not in usable_ways(version):
            raise ScoreEdgeError(f"tensorrt-llm {version} cannot run this {way} here", f"versions that can: {WORKING}")
        require_gpu("TensorRT-LLM")
        path = Path(folder)
        if way == "engine":
            self.config = request.read_engine_config(path)
            self.backend: WayIn = EngineWay(path, self.config)
        else:
            self.config = request.read_checkpoint_config(path, context)
            self.backend = CheckpointWay(path, self.config)
        self._version = version
        self._turn = Turns()

    def __enter__(self) -> "TensorRtLlm":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def turn(self) -> Turns:
        """See `LanguageModel`; one request at a time runs anyway."""
        return self._turn

    @property
    def capabilities(self) -> Capabilities:
        """What this model can do with visual tokens."""
        return Capabilities(
            width=self.config.width,
            context=self.config.context,
            keeps_positions=bool(self.config.sections),
            incremental=False,
            cell_bytes=self.config.cell_bytes,
        )

    @property
    def name(self) -> str:
        """TensorRT-LLM and its version."""
        return f"TensorRT-LLM {self._version}"

    def sequence(self) -> "TensorRtSequence":
        """A new, empty sequence."""
        return TensorRtSequence(self)

    def count(self, text: str) -> int:
        """How many tokens a text is."""
        return len(self.backend.ids(text))

    def rows_of(self, text: str) -> Float32:
        """Not there: raises ScoreEdgeError."""
        raise ScoreEdgeError("TensorRT-LLM does not tell its token table", "choose without the question, or llama.cpp")

    def close(self) -> None:
        """Free the model."""
        self.backend.close()


class TensorRtSequence:
    """Text and rows to prefill; see `Sequence`."""

    def __init__(self, model: TensorRtLlm) -> None:
        self._model = model
        self._parts: list[Part] = []

    def append(self, *segments: Segment) -> None:
        """Note segments.

        Raises:
            ScoreEdgeError: a wrong width, a row that is not finite, a full context, a block to be continued.
        """
        parts = [self._part(segment) for segment in segments]
        room = self._model.config.table
        rows = sum(len(part) for part in (*self._parts, *parts) if isinstance(part, Rows))
        if room is not None and rows > room:
            raise ScoreEdgeError(
                f"{rows} visual tokens do not fit into the engine's table of {room}",
                f"lower the retention, or build the engine with --max_multimodal_len {rows}",
            )
        cells = sum(map(len, (*self._parts, *parts)))
        if cells > self._model.config.context:
            raise ScoreEdgeError(
                f"the context of {self._model.config.context} tokens is full: {cells} are needed",
                "keep fewer visual tokens (a lower retention) or build the model for a larger context",
            )
        self._parts += parts

    @property
    def here(self) -> Mark:
        """Where the sequence ends now; positions count parts."""
        return Mark(position=len(self._parts), cells=sum(map(len, self._parts)))

    def mark(self) -> Mark:
        """`here`."""
        return self.here

    def rollback(self, mark: Mark) -> None:
        """Forget everything behind a mark."""
        if mark.position > len(self._parts) or sum(map(len, self._parts[: mark.position])) != mark.cells:
            raise ScoreEdgeError("this mark is not of this sequence", "mark again after clear() or rollback()")
        del self._parts[mark.position :]

    def forget(self, start: int, end: int, cells: int) -> bool:
        """False: nothing is held that could be dropped."""
        return False

    def clear(self) -> None:
        """Forget everything."""
        self._parts.clear()

    def logits(self) -> Float32:
        """Not there: raises ScoreEdgeError."""
        raise ScoreEdgeError("TensorRT-LLM gives text, no logits", "use generate(), or llama.cpp as the backend")

    def score(self, answer: str, *given: Segment) -> Float32:
        """Not there: raises ScoreEdgeError."""
        return self.logits()

    def generate(self, max_tokens: int, sampling: Sampling = GREEDY) -> Generator[str, None, Ended]:
        """Greedy answer, piece by piece; everything appended so far is prefilled first."""
        if sampling != GREEDY:
            raise ScoreEdgeError("TensorRT-LLM answers greedily here and nothing else", "sample with llama.cpp")
        if not self._parts:
            raise ScoreEdgeError("there is nothing to continue from", "append text first, after the visual tokens")
        pieces = 0
        for piece in self._model.backend.generate(list(self._parts), max_tokens):
            pieces += 1
            yield piece
        return Ended(pieces, "length" if pieces >= max_tokens else "stop")

    def close(self) -> None:
        """Forget everything."""
        self.clear()

    def _part(self, segment: Segment) -> Part:
        if isinstance(segment, Rows):
            if segment.continues:
                raise ScoreEdgeError("TensorRT-LLM cannot continue a video step by step", "stream with llama.cpp")
            request.prompt_table([segment], self._model.config.width)
            return segment
        return np.array(self._model.backend.ids(segment), np.int32)
