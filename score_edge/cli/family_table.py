"""`export --list`: which checkpoints, and what works with each."""

from collections.abc import Sequence

from rich.table import Table

from score_edge.families import FamilyRow

_CAPTION = (
    "frame: width x height where none is named, of the smallest checkpoint. tokens: of a step. live: stream works; "
    "re-prefill: old steps leave by prefilling again what stays. incremental: only the cells that changed are "
    "encoded. verified: pixels, tokens, logits and a stream against transformers, on these weights. "
    "More: docs/models.md"
)


def family_table(rows: Sequence[FamilyRow]) -> Table:
    """One row per kind of checkpoint; what is the same of all of them stands below, so that the rest has room."""
    columns = {
        "family": [row.family for row in rows],
        "checkpoints": [row.checkpoints for row in rows],
        "frame": [f"{row.frame[0]}x{row.frame[1]}" for row in rows],
        "tokens": [str(row.tokens) for row in rows],
        "live": [row.live for row in rows],
        "learnable": [row.learnable for row in rows],
        "adaptable": [row.adaptable for row in rows],
        "incremental": [row.incremental for row in rows],
        "verified": [row.verified for row in rows],
    }
    same = {title: cells[0] for title, cells in columns.items() if len(set(cells)) == 1}
    caption = f"of all: {', '.join(f'{title} {value}' for title, value in same.items())}. {_CAPTION}"
    table = Table(box=None, pad_edge=False, caption=caption if same else _CAPTION, caption_justify="left")
    shown = {title: cells for title, cells in columns.items() if title not in same}
    for title in shown:
        table.add_column(title, justify="right" if title == "tokens" else "left", no_wrap=title == "family")
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*cells)
    return table
