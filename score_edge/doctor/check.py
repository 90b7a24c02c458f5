"""One finding of the doctor, and how findings become lines and a block for a bug report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]
MARKS: dict[Status, str] = {"ok": "✓", "warn": "!", "fail": "✗"}


@dataclass(frozen=True, slots=True)
class Check:
    """One line.

    Attributes:
        area: what it is about, for example "llama.cpp".
        status: "ok" also where something optional is absent and nothing is wrong; "fail" where score-edge cannot work.
        finding: one line.
        fix: a command; empty where there is nothing to do.
    """

    area: str
    status: Status
    finding: str
    fix: str = ""

    @property
    def line(self) -> str:
        """For a terminal without colours."""
        return f"{MARKS[self.status]} {self.area}: {self.finding}"


def healthy(checks: Sequence[Check]) -> bool:
    """Whether nothing failed; warnings are not failures."""
    return all(check.status != "fail" for check in checks)


def report_block(checks: Sequence[Check]) -> str:
    """Everything as Markdown to paste into an issue."""
    lines = [line for check in checks for line in (check.line, *([f"    fix: {check.fix}"] if check.fix else []))]
    return "\n".join(["```", "score-edge doctor", *lines, "```"])
