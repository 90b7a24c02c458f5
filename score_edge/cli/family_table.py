"""`export --list`: which checkpoints, and what works with each."""

from collections.abc import Iterable

from rich.table import Table

from score_edge.families import FamilyRow

_CAPTION = (
    "frame: width x height where none is named, of the smallest checkpoint. tokens: of a step. live: stream works; "
    "re-prefill: old steps leave by prefilling again what stays. incremental: only the cells that changed are "
    "encoded. verified: pixels, tokens, logits and a stream against transformers, on these weights. "
    "More: docs/models.md"
)


def family_table(rows: Iterable[FamilyRow]) -> Table:
    """One row per kind of checkpoint."""
    table = Table(box=None, pad_edge=False, caption=_CAPTION, caption_justify="left")
    for title in ("family", "checkpoints", "frame", "tokens", "live", "learnable", "incremental", "verified"):
        table.add_column(title, justify="right" if title == "tokens" else "left", no_wrap=title == "family")
    for row in rows:
        size = f"{row.frame[0]}x{row.frame[1]}"
        told = (row.live, row.learnable, row.incremental, row.verified)
        table.add_row(row.family, row.checkpoints, size, str(row.tokens), *told)
    return table
