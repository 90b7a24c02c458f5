import json
import os
from pathlib import Path

import numpy as np
import pytest

from score_edge.core import Grid
from score_edge.errors import ScoreEdgeError
from score_edge.evaluation.selectivity import Boxes, Selectivity, _labelled_steps, cover, read_boxes

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
    boxes = Boxes({frame: np.zeros((0, 4), np.float32) for frame in (0, 4, 6, 7, 30)})
    assert _labelled_steps([3, 5, 9, 11], boxes) == {0: 0, 1: 4, 2: 7}


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
    ],
)
def test_a_wrong_file_is_refused(tmp_path, document, text):
    with pytest.raises(ScoreEdgeError, match=text):
        read_boxes(written(tmp_path / "boxes.json", document))


def test_random_tokens_do_not_care_for_boxes():
    """End to end on a real clip: random is as dense inside as outside, and every selector is counted."""
    pytest.importorskip("llama_cpp")
    video, labels = SHARED / "videos/sam2_dog.mp4", SHARED / "videos/sam2_dog.hand.json"
    if not video.is_file():
        pytest.skip("no clips: ../shared/videos is absent")
    from score_edge.bundle.folder import Bundle
    from score_edge.evaluation.selectivity import measure_selectivity
    from score_edge.runtime.pipeline import Pipeline

    with Pipeline(Bundle.open("reference"), threads=1) as pipeline:
        rows = measure_selectivity(pipeline, video, read_boxes(labels), ("random", "evs"), (0.5,), steps=40)
        with pytest.raises(ScoreEdgeError, match="none of the boxes"):
            measure_selectivity(
                pipeline, video, Boxes({9999: np.zeros((0, 4), np.float32)}), ("random",), (0.5,), steps=4
            )
    assert [row.selector for row in rows] == ["random", "evs"]
    assert rows[0].steps == 8 and rows[0].ratio == pytest.approx(1, abs=0.35)
