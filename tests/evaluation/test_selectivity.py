import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.core import Grid
from score_edge.errors import ScoreEdgeError
from score_edge.evaluation.selectivity import (
    Boxes,
    Selectivity,
    _labelled_steps,
    cover,
    measure_selectivity,
    read_boxes,
)

SHARED = Path(os.environ.get("SCORE_EDGE_SHARED", Path(__file__).parents[3] / "shared"))


def written(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_boxes_become_shares_of_the_frame(tmp_path):
    items = {"3": [{"label": "dog", "box": [10, 5, 20, 10]}], "7": []}
    boxes = read_boxes(written(tmp_path / "boxes.json", {"width": 40, "height": 20, "frames": items}))
    assert np.allclose(boxes.frames[3], [[0.25, 0.25, 0.5, 0.5]])
    assert boxes.frames[7].shape == (0, 4)


def test_cover_is_the_union_of_the_boxes():
    grid = Grid(2, 2)
    assert cover(np.zeros((0, 4), np.float32), grid).tolist() == [0, 0, 0, 0]
    left = np.array([[0, 0, 0.5, 1]], np.float32)
    assert cover(left, grid).tolist() == [1, 0, 1, 0]
    twice = np.array([[0, 0, 0.25, 0.5], [0.125, 0, 0.25, 0.5]], np.float32)
    assert cover(twice, grid) == pytest.approx([0.5, 0, 0, 0])
    beyond = np.array([[-1, -1, 2, 2]], np.float32)
    assert cover(beyond, grid).tolist() == [1, 1, 1, 1]


def test_a_step_takes_the_last_label_since_the_step_before():
    boxes = Boxes({frame: np.zeros((0, 4), np.float32) for frame in (0, 4, 6, 7, 9, 30)}, (1, 1))
    assert _labelled_steps([3, 5, 9, 11], boxes) == {0: 0, 1: 4, 2: 9}


def test_the_ratio_says_how_much_denser_it_is_inside():
    assert Selectivity("evs", 0.1, 0.3, 0.1, 8, 0.2).ratio == pytest.approx(3)
    assert Selectivity("evs", 0.1, 0.3, 0.0, 8, 0.2).ratio is None


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ([], "is not a file of boxes"),
        ({"width": 4, "height": 4, "frames": {"a": []}}, "is not a file of boxes"),
        ({"width": 4, "height": 4, "frames": {"0": [{"box": [1, 2, 3]}]}}, "is not a file of boxes"),
        ({"width": 4, "height": 4, "frames": {}}, "labels no frame"),
        ({"width": 0, "height": 4, "frames": {"0": []}}, "a frame of 0 x 4 pixels"),
        ({"width": float("inf"), "height": 4, "frames": {"0": []}}, "is not a file of boxes"),
        ({"width": float("nan"), "height": 4, "frames": {"0": []}}, "is not a file of boxes"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, document, text):
    with pytest.raises(ScoreEdgeError, match=text):
        read_boxes(written(tmp_path / "boxes.json", document))


def test_boxes_refuse_by_name_the_selector_that_needs_a_question():
    with pytest.raises(ScoreEdgeError, match="score-query:dither=1 chooses for one question") as caught:
        measure_selectivity(None, "no.mp4", Boxes({}, (1, 1)), ("evs", "score-query:dither=1"), (0.5,))  # type: ignore[arg-type]
    assert "boxes" in caught.value.message and "score" in caught.value.hint


def test_random_tokens_do_not_care_for_boxes():
    """End to end on a real clip: random is as dense inside as outside, and every selector is counted."""
    pytest.importorskip("llama_cpp")
    video, labels = SHARED / "videos/sam2_dog.mp4", SHARED / "videos/sam2_dog.hand.json"
    if not video.is_file():
        pytest.skip("no clips: ../shared/videos is absent")
    from score_edge.bundle.folder import Bundle
    from score_edge.runtime.pipeline import Pipeline

    with Pipeline(Bundle.open("reference"), threads=1) as pipeline:
        rows = measure_selectivity(pipeline, video, read_boxes(labels), ("random", "evs"), (0.5,), steps=40)
        with pytest.raises(ScoreEdgeError, match="none of the boxes"):
            measure_selectivity(
                pipeline, video, Boxes({9999: np.zeros((0, 4), np.float32)}, (1, 1)), ("random",), (0.5,), steps=4
            )
    assert [row.selector for row in rows] == ["random", "evs"]
    assert rows[0].steps == 8 and rows[0].ratio == pytest.approx(1, abs=0.35)


def test_boxes_move_with_a_letterboxed_frame_and_padding_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from score_edge.core import Frame
    from score_edge.evaluation import selectivity
    from score_edge.runtime.preprocess import Preprocessing

    square = Preprocessing(64, 64, 16, 1, 1, (0.5,) * 3, (0.5,) * 3, layout="pixels", letterbox=True)
    keep = np.zeros((1, 16), bool)
    keep[0, [4, 5]] = True  # the upper left quarter of a frame of 64 x 32 in the middle of 64 x 64
    clip = SimpleNamespace(frames=[Frame(np.zeros((1, 1, 3), np.uint8), 0.0, 0)], tokens=np.zeros((1, 16, 2)))
    monkeypatch.setattr(selectivity, "clip_reader", lambda *given: lambda: clip)
    vision = SimpleNamespace(token_grid=Grid(4, 4), height=64, width=64)
    pipeline: Any = SimpleNamespace(
        preprocessing=square,
        bundle=SimpleNamespace(manifest=SimpleNamespace(vision=vision)),
        selector=lambda name: name,
        select=lambda tokens, selector, retention: keep,
    )
    boxes = Boxes({0: np.array([[0, 0, 0.5, 0.5]], np.float32)}, (100, 200))
    (row,) = selectivity.measure_selectivity(pipeline, "clip.mp4", boxes, ("evs",), (0.5,))
    assert (row.inside, row.outside) == (1.0, 0.0)
    everything = Boxes({0: np.array([[0.5, 0, 1, 1]], np.float32)}, (100, 200))
    (row,) = selectivity.measure_selectivity(pipeline, "clip.mp4", everything, ("evs",), (0.5,))
    assert (row.inside, row.outside) == (0.0, 0.5)  # of four cells outside the box and inside the frame
    beyond = Boxes({0: np.array([[0, -1, 0.5, 0.5]], np.float32)}, (100, 200))
    (row,) = selectivity.measure_selectivity(pipeline, "clip.mp4", beyond, ("evs",), (0.5,))
    assert (row.inside, row.outside) == (1.0, 0.0)  # what a box holds of the padding is no part of the frame
    whole = Boxes({0: np.array([[0, 0, 1, 1]], np.float32)}, (100, 200))
    with pytest.raises(ScoreEdgeError, match="cover all or nothing"):
        selectivity.measure_selectivity(pipeline, "clip.mp4", whole, ("evs",), (0.5,))
