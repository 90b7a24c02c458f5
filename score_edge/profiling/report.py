"""The outcome of a profile as data: what is printed, written to JSON, drawn, and compared with another one."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from score_edge.bundle.atomic import write_text
from score_edge.bundle.record import read_record
from score_edge.errors import ScoreEdgeError
from score_edge.profiling.environment import Environment
from score_edge.profiling.figures import Figure

SCHEMA = 1
STAGES = {
    "read": "capture, read",
    "preprocess": "preprocess",
    "encode": "encoder",
    "residual": "residual",
    "policy": "policy",
    "budget": "budget",
    "hand-over": "hand-over",
    "prefill": "prefill",
    "ttft": "first token (TTFT)",
    "decode": "decode",
    "whole": "whole answer",
}
UNITS = {"preprocess": "step", "encode": "step", "decode": "token"}
"""What one measurement of a stage is; the others are measured per clip."""
SELECTION = ("residual", "policy", "budget")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage at one retention.

    Attributes:
        unit: "clip", "step" or "token": what one measurement covers.
        figure: seconds per unit.
        answer: seconds per answer, one measurement per run; what two profiles are compared by, because the steps of one
            run slow down together.
        share: of the whole answer; None for ttft and whole, which are sums of the others.
    """

    unit: str
    figure: Figure
    answer: Figure
    share: float | None

    @property
    def seconds(self) -> float:
        """Per answer, the median over the runs."""
        return self.answer.median


@dataclass(frozen=True, slots=True)
class Variant:
    """Everything at one retention; None where nothing here can tell it.

    Attributes:
        kept: visual tokens the language model saw, of total.
        stages: by the names in STAGES.
        peak_bytes: the most resident memory in a run.
        cache_bytes: of the KV cache in use at the end of a run.
        joules_per_answer: from the first frame to the last token.
        watts: mean power over a run.
    """

    retention: float
    kept: int
    total: int
    stages: dict[str, Stage]
    peak_bytes: int | None = None
    cache_bytes: int | None = None
    joules_per_answer: float | None = None
    watts: float | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement in time, for the plot.

    Attributes:
        at: seconds since the profile began.
    """

    name: str
    retention: float | None
    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Sensors:
    """What the board said about itself over the whole profile.

    Attributes:
        meter: the sensor energy comes from and what it covers; None where there is none.
        joules_per_frame: of reading and encoding.
        rails: mean watts by rail.
        celsius: hottest per zone, or of the GPU.
        throttled: events of each guard during the profile; empty where no counter exists.
        load: mean percent of the GPU.
        device_bytes: the most memory in use on a GPU of its own.
    """

    meter: str | None = None
    joules_per_frame: float | None = None
    rails: dict[str, float] = field(default_factory=dict)
    celsius: dict[str, float] = field(default_factory=dict)
    throttled: dict[str, int] = field(default_factory=dict)
    load: float | None = None
    device_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class EncoderSteps:
    """What the encoder did of a clip; medians over the steps of all runs, None where there was no such step.

    Attributes:
        cells: of a step; each yields a token.
        encoded: share of the cells of the clip that were encoded.
        whole: steps that were encoded whole, of one run.
        unchanged: steps of which nothing was encoded.
        whole_seconds: of a step that was encoded whole.
        typical: cells encoded in a step of which a part was.
        typical_seconds: of such a step.
        cache_bytes: keys and values kept for a source; None where there is no incremental graph.
    """

    cells: int
    encoded: float
    whole: int
    unchanged: int
    whole_seconds: float | None
    typical: float | None
    typical_seconds: float | None
    cache_bytes: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """A profile.

    Attributes:
        subject: what was profiled, for a title.
        steps, frames: of the clip; no frames where tokens were made up.
        runs: measured runs per retention.
        answer_tokens: decoded per answer.
        selector: whose scores decided.
        warm_up: seconds per stage of the first pass, which is in no other figure.
        notes: what a reader must know.
        encoder: None where there is none.
    """

    subject: str
    source: str
    selector: str
    steps: int
    frames: int
    runs: int
    answer_tokens: int
    environment: Environment
    variants: tuple[Variant, ...]
    warm_up: dict[str, float]
    sensors: Sensors
    timeline: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    encoder: EncoderSteps | None = None
    schema: int = SCHEMA

    @property
    def unpruned(self) -> Variant | None:
        """The variant the others are measured against."""
        return next((variant for variant in self.variants if variant.retention == 1), None)

    def speedup(self, variant: Variant, stage: str) -> float | None:
        """How many times faster than unpruned; None without an unpruned run."""
        if self.unpruned is None or stage not in variant.stages or variant.stages[stage].seconds <= 0:
            return None
        return self.unpruned.stages[stage].seconds / variant.stages[stage].seconds

    def selection_share(self, variant: Variant) -> float:
        """Residual, policy and budget together, of the whole answer."""
        return sum(variant.stages[name].share or 0.0 for name in SELECTION if name in variant.stages)

    def to_json(self) -> dict[str, Any]:
        """Plain values; speed-ups and the share of the selection are added for readers without this class."""
        plain = dataclasses.asdict(self)
        for row, variant in zip(plain["variants"], self.variants, strict=True):
            row["speedup"] = {name: self.speedup(variant, name) for name in ("prefill", "ttft", "whole")}
            row["selection_share"] = self.selection_share(variant)
        return plain

    def write(self, path: Path) -> None:
        """As JSON.

        Raises:
            ScoreEdgeError: the place cannot be written.
        """
        write_text(path, json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n")

    @staticmethod
    def read(path: Path) -> "Report":
        """One that `write` wrote.

        Raises:
            ScoreEdgeError: there is no such file, or it holds something else.
        """
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ScoreEdgeError(f"{path} cannot be read: {error.strerror}", "give a file of --report") from error
        except (ValueError, RecursionError) as error:
            raise ScoreEdgeError(f"{path} is not JSON: {error}", "give a file that --report wrote") from error
        found = plain.get("schema") if isinstance(plain, dict) else None
        if found != SCHEMA:
            raise ScoreEdgeError(
                f"{path} is no profile this score-edge reads: its schema is {found!r}, not {SCHEMA}",
                "give a file that --report of this version wrote",
            )
        rows = plain.get("variants")
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict):
                row.pop("speedup", None)
                row.pop("selection_share", None)
        return read_record(Report, plain, path.name)
