"""A profile as one HTML file that needs nothing else: tables, a bar of stages per retention, latency over time."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from score_edge.profiling.report import STAGES, Point, Report, Variant
from score_edge.profiling.wording import NOT_AVAILABLE, about, duration, size

_WIDTH, _BAR, _PLOT = 900, 34, 260
_LEFT, _RIGHT, _BOTTOM = 80, 20, 30
_COLOURS = {
    "read": "#8d99ae",
    "preprocess": "#5c7cfa",
    "encode": "#1c7ed6",
    "residual": "#f783ac",
    "policy": "#e64980",
    "budget": "#a61e4d",
    "hand-over": "#f59f00",
    "prefill": "#2f9e44",
    "decode": "#94d82d",
}
_NAMESPACE = "http://www.w3.org/2000/svg"  # a name, not an address: nothing is loaded
_DASHES = ("", "5 3", "2 2", "8 3 2 3")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 960px; padding: 0 1rem; color: #212529;
       background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .2rem .7rem;
        text-align: right; border-bottom: 1px solid #dee2e6 } td:first-child, th:first-child { text-align: left }
svg { width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: #495057 }
.note { background: #fff3bf; padding: .3rem .7rem } .about { color: #495057; font-size: .85rem }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em }
@media (prefers-color-scheme: dark) { body { background: #1a1b1e; color: #dee2e6 } td, th { border-color: #373a40 }
  svg text { fill: #adb5bd } .about { color: #adb5bd } .note { background: #5c4a00 } }
"""


def page(report: Report) -> str:
    """The whole document."""
    title = f"score-edge profile: {report.subject}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_what(report))}</p>",
        *(f'<p class="note">{escape(note)}</p>' for note in report.notes),
        "<h2>Retentions</h2>",
        _sweep(report),
        "<h2>Where the time of an answer goes</h2>",
        _legend(report),
        stage_bars(report),
        "<h2>Latency over time</h2>",
        latency_plot(report.timeline),
        *(part for variant in report.variants for part in _stages(variant)),
        "<h2>Measured with</h2>",
        *(f'<p class="about">{escape(line)}</p>' for line in about(report)),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def stage_bars(report: Report) -> str:
    """One bar per retention, as long as its answer took, cut into stages; details on hovering."""
    longest = max(variant.stages["whole"].seconds for variant in report.variants)
    scale = (_WIDTH - _LEFT - _RIGHT - 70) / longest
    parts = []
    for row, variant in enumerate(report.variants):
        top, x = row * _BAR, float(_LEFT)
        parts.append(f'<text x="{_LEFT - 8}" y="{top + 20}" text-anchor="end">{variant.retention:g}</text>')
        for name, colour in _COLOURS.items():
            if stage := variant.stages.get(name):
                width = stage.seconds * scale
                share = f", {stage.share:.1%}" if stage.share is not None else ""
                title = escape(f"{STAGES[name]}: {duration(stage.seconds)}{share}")
                box = f'x="{x:.2f}" y="{top + 4}" width="{width:.2f}" height="{_BAR - 10}" fill="{colour}"'
                parts.append(f"<rect {box}><title>{title}</title></rect>")
                x += width
        parts.append(f'<text x="{x + 6:.2f}" y="{top + 20}">{duration(variant.stages["whole"].seconds)}</text>')
    return _svg(len(report.variants) * _BAR, parts)


def latency_plot(points: Sequence[Point]) -> str:
    """Every encoder step, prefill and decoded token when it happened, on a logarithmic scale."""
    if not points:
        return "<p>nothing was measured over time</p>"
    end = max(point.at + point.seconds for point in points) or 1.0
    values = [max(point.seconds, 1e-7) for point in points]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)

    def x(at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at / end

    def y(seconds: float) -> float:
        return 10 + (_PLOT - _BOTTOM - 10) * (high - math.log10(max(seconds, 1e-7))) / (high - low)

    parts = []
    for power in range(low, high + 1):
        height = y(10.0**power)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}" stroke="#ced4da"/>'
        )
        parts.append(f'<text x="{_LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{duration(10.0**power)}</text>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = f'x="{x(end * share):.1f}" y="{_PLOT - 8}"'
        parts.append(f'<text {at} text-anchor="middle">{end * share:.3g} s</text>')
    retentions = sorted({p.retention for p in points if p.retention is not None}, reverse=True)
    for name in dict.fromkeys(point.name for point in points):
        for retention in [None, *retentions]:
            chosen = [point for point in points if (point.name, point.retention) == (name, retention)]
            if not chosen:
                continue
            line = " ".join(f"{x(point.at):.1f},{y(point.seconds):.1f}" for point in chosen)
            dash = _DASHES[retentions.index(retention) % len(_DASHES)] if retention is not None else ""
            style = f'fill="none" stroke="{_COLOURS[name]}" stroke-width="1.3" stroke-dasharray="{dash}"'
            label = STAGES[name] + ("" if retention is None else f" at retention {retention:g}")
            parts.append(f'<polyline points="{line}" {style}><title>{escape(label)}</title></polyline>')
            if name == "prefill":
                last = chosen[-1]
                where = f'x="{x(last.at):.1f}" y="{y(last.seconds) - 6:.1f}"'
                parts.append(f'<text {where} text-anchor="end">prefill {retention:g}</text>')
    return _svg(_PLOT, parts)


def _what(report: Report) -> str:
    clip = f"{report.frames} frames in {report.steps} steps" if report.frames else f"{report.steps} steps"
    return (
        f"{report.source}, {clip}; {report.selector} selects; {report.runs} runs per retention, interleaved; "
        f"{report.answer_tokens} answer tokens each; {report.environment.created}."
    )


def _sweep(report: Report) -> str:
    heads = ("retention", "tokens", "prefill", "faster", "TTFT", "faster", "whole", "faster", "selection", "KV cache")
    rows = []
    for variant in report.variants:
        cells = [f"{variant.retention:g}", f"{variant.kept}"]
        for stage in ("prefill", "ttft", "whole"):
            faster = report.speedup(variant, stage)
            cells += [duration(variant.stages[stage].figure.median), f"{faster:.1f}x" if faster else "-"]
        joules = variant.joules_per_answer
        cells += [
            f"{report.selection_share(variant):.2%}",
            size(variant.cache_bytes),
            size(variant.peak_bytes),
            NOT_AVAILABLE if joules is None else f"{joules:.2f} J",
        ]
        rows.append(cells)
    return _table((*heads, "peak memory", "energy per answer"), rows)


def _stages(variant: Variant) -> Iterator[str]:
    yield f"<h2>Retention {variant.retention:g}: {variant.kept} of {variant.total} visual tokens</h2>"
    rows = []
    for name, label in STAGES.items():
        if stage := variant.stages.get(name):
            figure = stage.figure
            times = [duration(value) for value in (figure.median, figure.p90, figure.p99)]
            std = "-" if figure.std is None else duration(figure.std)
            share = "" if stage.share is None else f"{stage.share:.1%}"
            rows.append([label, stage.unit, str(figure.n), *times, std, share])
    yield _table(("stage", "per", "n", "median", "p90", "p99", "± std", "share"), rows)


def _legend(report: Report) -> str:
    seen = {name for variant in report.variants for name in variant.stages}
    keys = (
        f'<span class="key" style="background:{colour}"></span>{escape(STAGES[name])}'
        for name, colour in _COLOURS.items()
        if name in seen
    )
    return f"<p>{''.join(keys)}</p>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _svg(height: int, parts: Sequence[str]) -> str:
    about = f'xmlns="{_NAMESPACE}" viewBox="0 0 {_WIDTH} {height}" role="img"'
    return f'<svg {about} font-family="system-ui, sans-serif" font-size="12" fill="#495057">{"".join(parts)}</svg>'
