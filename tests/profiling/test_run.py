"""A real bundle and a real model of a made-up shape, profiled in seconds."""

import json
import re
import time

import pytest

from score_edge.bundle.folder import Bundle
from score_edge.cli.profile_tables import comparison_tables, profile_tables
from score_edge.errors import ScoreEdgeError
from score_edge.profiling import profiler, run
from score_edge.profiling.comparison import compare_reports
from score_edge.profiling.environment import differences
from score_edge.profiling.html import page
from score_edge.profiling.meters import Reading
from score_edge.profiling.profiler import Outputs, Subject, run_profile
from score_edge.profiling.report import Report
from score_edge.profiling.run import ProfilePlan

pytest.importorskip("llama_cpp")

STEPS, RUNS, ANSWER = 4, 3, 3
PLAN = ProfilePlan((1.0, 0.25, 0.1), RUNS, ANSWER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("profile")


@pytest.fixture(scope="module")
def report(folder):
    outputs = Outputs(folder / "out.json", folder / "out.html", folder / "trace.json")
    measured = run_profile(Subject("reference", steps=STEPS, threads=1), PLAN)
    measured.write(outputs)
    return measured.report


def printed(parts) -> str:
    from rich.console import Console

    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    for part in parts:
        console.print(part)
    return console.export_text()


def test_every_stage_is_counted(report):
    default = Bundle.open("reference").manifest.selector.name
    assert (report.steps, report.frames, report.selector) == (STEPS, 2 * STEPS, default)
    assert [variant.kept for variant in report.variants] == [144, 36, 14]
    for variant in report.variants:
        stages = variant.stages
        assert {"read", "preprocess", "encode", "hand-over", "prefill", "ttft", "decode", "whole"} <= stages.keys()
        assert ("policy" in stages) == ("budget" in stages) == (variant.retention < 1)
        assert (stages["encode"].unit, stages["encode"].figure.n) == ("step", STEPS * RUNS)
        assert (stages["decode"].unit, stages["decode"].figure.n) == ("token", ANSWER * RUNS)
        assert stages["prefill"].figure.n == RUNS
        shares = [stage.share for stage in stages.values() if stage.share is not None]
        assert sum(shares) == pytest.approx(1)
        assert stages["ttft"].seconds < stages["whole"].seconds
        assert variant.peak_bytes > 50 << 20
    assert report.speedup(report.variants[0], "prefill") == 1
    assert report.speedup(report.variants[2], "prefill") > 1


def test_the_encoder_is_timed_at_the_cells_it_encodes(report):
    steps = report.encoder
    incremental = Bundle.open("reference").manifest.vision.incremental
    assert steps.cells == 36 and 0 < steps.encoded < 1 and steps.whole >= 1
    assert steps.cache_bytes == incremental.bytes_per_source == 2 * 4 * 3 * 144 * 96
    assert 0 < steps.typical < 36 and steps.typical_seconds > 0 and steps.whole_seconds > 0
    shares = (steps.whole + (STEPS - steps.whole - steps.unchanged) * steps.typical / 36) / STEPS
    assert steps.encoded == pytest.approx(shares, abs=0.2)
    said = printed(profile_tables(report))
    assert "of keys and values per source" in said and "of 36 cells" in said


def test_the_cache_is_counted_in_cells(report):
    whole, quarter, _ = report.variants
    cell = 2 * 4 * 192 * 2  # keys and values, layers, width of all KV heads, half precision; see the reference model
    assert (whole.cache_bytes - quarter.cache_bytes) % (whole.kept - quarter.kept) == 0
    assert (whole.cache_bytes - quarter.cache_bytes) // (whole.kept - quarter.kept) <= cell


def test_the_warm_up_stands_apart(report):
    assert report.warm_up["prefill"] > 0 and "decode" in report.warm_up
    assert min(point.at for point in report.timeline) > 0


def test_without_sensors_energy_is_absent_not_zero(report):
    if report.sensors.meter is None:
        assert all(variant.joules_per_answer is None and variant.watts is None for variant in report.variants)
        assert report.sensors.joules_per_frame is None
        assert "energy: not available" in printed(profile_tables(report))


def test_a_report_survives_its_file(report, folder):
    assert Report.read(folder / "out.json") == report
    plain = json.loads((folder / "out.json").read_text())
    assert plain["variants"][1]["speedup"]["prefill"] == pytest.approx(report.speedup(report.variants[1], "prefill"))


def test_the_trace_is_what_perfetto_reads(report, folder):
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert {"encode", "prefill", "decode"} <= {span["name"] for span in spans}
    assert all(span["ts"] >= 0 and span["dur"] >= 0 for span in spans)
    assert sum(span["name"] == "prefill" and span["args"]["run"] != "warm-up" for span in spans) == 3 * RUNS


def test_the_page_needs_nothing_else(report, folder):
    text = (folder / "out.html").read_text()
    loaded = text.replace(' xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://|<script""", loaded)
    assert text.count("<svg") == 2 and "Latency over time" in text and "prefill 0.25" in text
    from xml.etree import ElementTree

    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
    assert text == page(report)


def test_against_itself_nothing_differs(report):
    comparison = compare_reports(report, report)
    assert {change.ratio.verdict for change in comparison.changes} <= {"no difference"}
    assert not [line for line in comparison.warnings if "busy" not in line]
    assert "no difference" in printed(comparison_tables(comparison, "out.json"))


def test_what_is_not_equal_is_said(report):
    import dataclasses

    board = dataclasses.replace(report.environment.board, power_mode="15W", governor="schedutil")
    there = dataclasses.replace(report.environment, board=board, created="1999", python="3.9.0")
    assert differences(report.environment, there) == [
        f"board.governor: schedutil then, {report.environment.board.governor or 'none'} now",
        f"board.power_mode: 15W then, {report.environment.board.power_mode or 'none'} now",
        f"python: 3.9.0 then, {report.environment.python} now",
    ]
    other = dataclasses.replace(report, steps=64, environment=there)
    assert "steps: 64 then, 4 now" in compare_reports(report, other).warnings


def test_other_retentions_cannot_be_compared(report):
    import dataclasses

    other = dataclasses.replace(report, variants=(dataclasses.replace(report.variants[0], retention=0.33),))
    assert "shares no retention" in printed(comparison_tables(compare_reports(report, other), "x.json"))


def test_the_policy_is_timed_apart_from_its_residual():
    found = run_profile(Subject("reference", steps=STEPS, threads=1), ProfilePlan((0.1,), 1, 1, "score")).report
    assert {"residual", "policy", "budget"} <= found.variants[0].stages.keys()
    assert found.unpruned is None and found.speedup(found.variants[0], "prefill") is None
    assert "retention 1 was not among them" in printed(profile_tables(found))


def test_an_llm_of_a_shape_runs_without_an_encoder(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    subject = Subject("reference", steps=8, llm_shape="tiny", visual_tokens=96, threads=1)
    found = run_profile(subject, ProfilePlan((1.0, 0.25), 1, 2)).report
    assert [variant.kept for variant in found.variants] == [96, 24]
    assert found.environment.random_weights and "weights are random" in " ".join(found.notes)
    assert "encode" not in found.variants[0].stages and found.frames == 0
    assert found.selector == "score" and "residual" in found.variants[1].stages
    assert "random" in page(found)


def test_energy_is_reported_where_a_sensor_answers(monkeypatch):
    class Rail:
        name, covers, present = "INA3221", "whole board", True

        def read(self) -> Reading:
            return Reading(watts=6.0, rails={"VDD_IN": 6.0})

        def close(self) -> None:
            pass

    monkeypatch.setattr(profiler, "open_meters", lambda: [Rail()])
    found = run_profile(Subject("reference", steps=STEPS, threads=1), ProfilePlan((0.25,), 2, 2)).report
    variant = found.variants[0]
    assert variant.watts == pytest.approx(6.0)
    assert variant.joules_per_answer == pytest.approx(6 * variant.stages["whole"].seconds, rel=0.5)
    assert found.sensors.joules_per_frame > 0 and found.sensors.meter == "INA3221 (whole board)"
    assert "VDD_IN 6.00 W" in printed(profile_tables(found))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (ProfilePlan((0.0,)), r"retention 0\.0 is not in"),
        (ProfilePlan((1.0, 1.0)), "different from each other"),
        (ProfilePlan(()), "at least one"),
        (ProfilePlan(runs=0), "at least one run"),
    ],
)
def test_plans_that_make_no_sense(plan, message):
    with pytest.raises(ScoreEdgeError, match=message):
        run_profile(Subject("reference"), plan)


def test_all_is_measured_unpruned_and_nowhere_else():
    with pytest.raises(ScoreEdgeError, match="keeps every token at any retention"):
        run_profile(Subject("reference", steps=4), ProfilePlan(runs=1, selector="all"))
    report = run_profile(Subject("reference", steps=4), ProfilePlan((1.0,), 1, 1, "all")).report
    assert report.variants[0].kept == report.variants[0].total


@pytest.mark.parametrize(
    ("subject", "plan", "message"),
    [
        ({"steps": 7}, {}, "do not fill 7 steps"),
        ({"threads": 10_000}, {}, "10000 threads are more than"),
        ({}, {"selector": "scroe"}, "there is no selector 'scroe'"),
        ({}, {"retentions": (2.0,)}, "not in"),
    ],
)
def test_what_a_shape_cannot_do_is_refused_before_gigabytes_are_written(subject, plan, message, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ScoreEdgeError, match=message):
        asked = Subject("reference", **{"steps": 8, "llm_shape": "tiny", "visual_tokens": 96, **subject})
        run_profile(asked, ProfilePlan(**{"runs": 1, **plan}))
    assert not any(tmp_path.rglob("*.gguf"))


@pytest.mark.parametrize("content", ["", "{}", "[]", "{", '{"schema": 99}', '{"schema": 1, "variants": 5}', "\0"])
def test_files_that_are_no_report(tmp_path, content):
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(ScoreEdgeError):
        Report.read(path)
    with pytest.raises(ScoreEdgeError, match="cannot be read"):
        Report.read(tmp_path / "absent.json")


def test_the_order_of_turns_changes_between_runs(report):
    prefills = [point.retention for point in report.timeline if point.name == "prefill"]
    assert prefills[:3] == [1.0, 0.25, 0.1] and prefills[3:6] == [0.25, 0.1, 1.0]


@pytest.mark.benchmark
def test_profiling_costs_less_than_one_percent():
    """The same answers with a plain stopwatch and with spans, turn by turn; medians of whole answers."""
    from statistics import median

    from score_edge.bundle.folder import Bundle
    from score_edge.profiling.meters import open_meters
    from score_edge.profiling.spans import Spans
    from score_edge.profiling.telemetry import Telemetry
    from score_edge.profiling.workload import BundleWorkload
    from score_edge.runtime.pipeline import Pipeline

    class Blind(Spans):
        """Notes nothing."""

        def stage(self, name):
            import contextlib

            return contextlib.nullcontext()

        def add(self, name, began, ended):
            pass

    with Pipeline(Bundle.open("reference")) as pipeline:
        workload = BundleWorkload(pipeline, "synthetic", 64)
        selector = workload.selector(None, Spans())
        taken: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(42):
            seen = bool(turn % 2)
            spans = Spans() if seen else Blind()
            with Telemetry(open_meters() if seen else []):
                began = time.perf_counter()
                tokens = workload.tokens(spans)
                keep = run._select(tokens, selector, 0.1, spans)
                run._answer(workload, tokens, keep, 16, spans)
                taken[seen].append(time.perf_counter() - began)
    plain, profiled = (median(taken[seen][1:]) for seen in (False, True))
    print(f"whole answer {plain * 1e3:.2f} ms plain, {profiled * 1e3:.2f} ms profiled: {profiled / plain - 1:+.2%}")
    spans = Spans()
    began = time.perf_counter()
    for _ in range(10_000):
        with spans.stage("x"):
            pass
    each = (time.perf_counter() - began) / 10_000
    count = 64 * 3 + 16 + 6
    print(f"a span costs {each * 1e6:.2f} µs, an answer has {count}: {count * each / plain:.3%} of it")
    assert count * each / plain < 0.01
    assert profiled / plain < 1.01
