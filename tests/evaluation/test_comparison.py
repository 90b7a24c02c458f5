"""Of several runs the one in the middle is shown."""

from types import SimpleNamespace
from typing import Any

import pytest

from score_edge.evaluation.comparison import median_run


@pytest.mark.parametrize(("seconds", "shown"), [([3.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 3.0, 2.0], 3.0), ([5.0], 5.0)])
def test_the_run_of_the_median_prefill_is_shown(seconds: list[float], shown: float) -> None:
    runs: list[Any] = [SimpleNamespace(answer=SimpleNamespace(timings=SimpleNamespace(prefill=s))) for s in seconds]
    assert median_run(runs).answer.timings.prefill == shown
