"""metrics.jsonl: what a training run tells about itself, one JSON object per line."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from score_edge.bundle.atomic import write_text


def add_row(metrics: Path, row: Mapping[str, Any]) -> None:
    """Write a row behind those that are there."""
    with metrics.open("a") as file:
        file.write(json.dumps(row) + "\n")


def keep_rows(metrics: Path, kept: Callable[[dict[str, Any]], bool]) -> None:
    """Drop what a killed run wrote behind its checkpoint, which is done again, and a row it did not finish."""
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    rows = [line for line in lines if _is_whole(line) and kept(json.loads(line))]
    write_text(metrics, "".join(f"{line}\n" for line in rows))


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
