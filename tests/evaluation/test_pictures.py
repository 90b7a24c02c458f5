import pytest

pytest.importorskip("matplotlib")

from score_edge.cli import main
from score_edge.errors import ScoreEdgeError
from score_edge.evaluation import pictures
from score_edge.evaluation.pictures import _draw_differences, plot_layers, plot_retention


def row(selector: str, retention: float, steps: int, accuracy: float) -> dict[str, object]:
    share = {"low": accuracy - 0.02, "high": accuracy + 0.02, "accuracy": accuracy}
    return {"selector": selector, "retention": retention, "steps": steps, "kind": "overall", **share}


def test_accuracy_over_retention_is_drawn(tmp_path):
    rows = [row("all", 1.0, steps, 0.9) for steps in (8, 32)]
    rows += [row("evs", share, steps, 0.8 + share / 4) for steps in (8, 32) for share in (0.1, 0.05, 0.25)]
    picture = plot_retention(rows, tmp_path / "accuracy.png")
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 5000


def test_nothing_to_draw_and_an_unknown_kind_are_refused(tmp_path):
    with pytest.raises(ScoreEdgeError, match="no accuracy"):
        plot_retention([], tmp_path / "a.png")
    with pytest.raises(ScoreEdgeError, match="cannot write"):
        plot_retention([row("all", 1.0, 8, 0.9)], tmp_path / "a.txt")


def test_layers_are_drawn(tmp_path):
    layers = [{"name": f"blocks.{i}.fc2", "alone": 0.01 * i, "everything": 0.05} for i in range(4)]
    picture = plot_layers(layers, ["blocks.3.fc2"], tmp_path / "layers.svg")
    assert picture.read_text(encoding="utf-8").count("<path") > len(layers)
    with pytest.raises(ScoreEdgeError, match="cannot write"):
        plot_layers(layers, [], tmp_path / "layers.nonsense")


def test_paired_differences_are_drawn_below(tmp_path):
    rows = [row("all", 1.0, 32, 0.9), *(row("evs", share, 32, 0.8) for share in (0.1, 0.05))]
    ahead = {"selector": "evs", "against": "score", "steps": 32, "difference": -0.03, "low": -0.05, "high": -0.01}
    alone = plot_retention(rows, tmp_path / "alone.svg").read_text(encoding="utf-8")
    both = plot_retention(rows, tmp_path / "both.svg", [{**ahead, "retention": share} for share in (0.1, 0.05)])
    assert both.read_text(encoding="utf-8").count("<path") > alone.count("<path")


def test_every_selector_that_is_asked_for_has_a_line_of_its_own_once_it_is_tuned(tmp_path, monkeypatch):
    pytest.importorskip("llama_cpp")
    drawn = []
    monkeypatch.setattr(pictures, "plot_retention", lambda *given: drawn.append(given))
    options = ("--retention", "0.5,0.25", "--steps", "3", "--clips", "2", "--tune", "1", "--plot", f"{tmp_path}/a.svg")
    command = ["score-edge", "evaluate", "reference", "--selectors", "evs,evs:dither=1,last-kept,all", *options]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    ((rows, _, differences),) = drawn
    points = [(row["selector"], row["retention"]) for row in rows if row["kind"] == "overall"]
    names = ("evs", "evs:dither=1", "last-kept")
    assert sorted(points) == sorted([("all", 1.0), *((name, share) for name in names for share in (0.5, 0.25))])
    assert {row["against"] for row in differences} == {"evs"}
    assert {"last-kept"} <= {row["selector"] for row in differences} <= {"evs:dither=1", "last-kept"}


@pytest.mark.parametrize(("least", "most"), [(-0.03, 0.01), (0.35, 0.4), (-0.6, -0.2)])
def test_every_difference_is_in_the_picture_and_small_ones_look_small(least, most):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    ahead = {"selector": "score", "against": "random", "steps": 32, "difference": (least + most) / 2}
    _draw_differences(axes, [{**ahead, "low": least, "high": most, "retention": share} for share in (0.1, 0.05)], {})
    bottom, top = axes.get_ylim()
    assert bottom <= min(-15, 100 * least) and top >= max(5, 100 * most)
    assert top - bottom < 1.2 * (max(5, 100 * most) - min(-15, 100 * least))
