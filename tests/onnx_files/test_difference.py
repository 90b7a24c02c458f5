"""The worst of several runs is said, also where it is no number."""

import numpy as np

from score_edge.onnx_files.difference import compare_outputs, worst


def test_what_is_no_number_is_the_worst_wherever_it_stands() -> None:
    ones, broken = np.ones((2, 3), np.float32), np.full((2, 3), np.nan, np.float32)
    near, far, none = (compare_outputs("tokens", ones, found) for found in (ones, ones + 1, broken))
    assert worst([near, far, near]) is far
    for rows in ([near, far, none], [none, far], [far, none, near]):
        assert worst(rows) is none
