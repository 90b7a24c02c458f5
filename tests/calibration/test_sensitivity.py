"""The harmful layer is found, and no more is left out than the bound needs."""

import numpy as np
import pytest

from score_edge.calibration.fidelity import difference
from score_edge.calibration.quantize import quantize
from score_edge.calibration.sensitivity import LayerError, measure_layers, plan_exclusions
from score_edge.calibration.simulate import Switchboard


def test_planted_outliers_are_found_and_excluding_them_restores_the_tokens(prepared, steps) -> None:
    """Two channels of fc2's input 60 times the others, as in SigLIP's and Qwen's fc2: the documented remedy."""
    pytest.importorskip("onnx")
    plain, layers, ranges, folder = prepared(steps, outliers=2)
    quantised = quantize(plain, layers, ranges, "s8s8", folder)
    board = Switchboard(quantised, plain, layers, folder / "board.onnx")
    errors = measure_layers(board, layers, ranges, steps, 1e-3)
    worst = max(errors, key=lambda error: error.alone)
    assert worst.name == "mlp.fc2" == max(errors, key=lambda error: error.harm).name
    assert worst.alone > 3 * max(error.alone for error in errors if error is not worst)

    def loss(excluded) -> float:
        on = [layer.name for layer in layers if layer.name not in excluded]
        found = np.concatenate([board.run(inputs, on) for inputs in steps])
        return 1 - difference(np.concatenate([board.run(inputs, ()) for inputs in steps]), found).worst_cosine

    everything = loss(())
    assert plan_exclusions(errors, loss, everything / 4) == ["mlp.fc2"]
    assert loss(["mlp.fc2"]) < everything / 4


def layer(name: str, harm: float) -> LayerError:
    return LayerError(name, 0.1, 0.0, np.sqrt(harm), 1.0)


ERRORS = [layer("a", 1), layer("b", 8), layer("c", 4), layer("d", 2)]
WEIGHTS = {"a": 1.0, "b": 8.0, "c": 4.0, "d": 2.0}


def remaining(excluded) -> float:
    return sum(weight for name, weight in WEIGHTS.items() if name not in excluded)


@pytest.mark.parametrize(
    ("bound", "fixed", "plan"),
    [
        (15, (), []),
        (14, (), ["b"]),
        (3, (), ["b", "c"]),
        (0, (), ["b", "c", "d", "a"]),
        (15, ("d",), ["d"]),
        (6, ("a",), ["a", "b"]),
    ],
)
def test_the_most_harmful_go_first_and_no_more_than_needed(bound, fixed, plan) -> None:
    assert plan_exclusions(ERRORS, remaining, bound, fixed) == plan


def test_what_the_bound_does_not_need_goes_back_to_int8() -> None:
    """The worst token hangs on `d` alone, which does less harm to all others than `b` and `c`."""
    assert plan_exclusions(ERRORS, lambda excluded: 0 if "d" in excluded else 9, 1) == ["d"]


def test_harm_is_per_microsecond() -> None:
    cheap, dear = LayerError("cheap", 0, 0.3, 0.5, 1.0), LayerError("dear", 0, 0.1, 0.5, 100.0)
    assert cheap.harm > dear.harm
