"""Which layers INT8 hurts, measured one by one, and the smallest set to leave in FP32 for a bound to hold."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from score_edge.calibration.layers import Layer
from score_edge.calibration.ranges import Range
from score_edge.calibration.simulate import Switchboard
from score_edge.core import Float32


@dataclass(frozen=True, slots=True)
class LayerError:
    """What one layer does to the encoder's output; errors are ``||int8 - fp32|| / ||fp32||`` over all tokens.

    Attributes:
        alone: error when this layer alone is quantised.
        without: error when every layer but this one is.
        everything: error when all are.
        microseconds: what the layer takes in FP32: its share of the multiplications times the encoder's time.
    """

    name: str
    alone: float
    without: float
    everything: float
    microseconds: float

    @property
    def harm(self) -> float:
        """Squared error per microsecond that goes when the layer stays in FP32; errors of layers add in squares."""
        return (self.everything**2 - self.without**2) / max(self.microseconds, 1e-9)


def measure_layers(
    board: Switchboard,
    layers: Sequence[Layer],
    ranges: Mapping[str, Range],
    steps: Sequence[Mapping[str, Float32]],
    seconds: float,
    on_layer: Callable[[], None] = lambda: None,
) -> list[LayerError]:
    """Quantise every layer alone, and all but it.

    Args:
        board: the simulation of `layers`.
        layers: in the order of the result.
        ranges: of their activations; their sizes give the layers' work.
        steps: encoder inputs.
        seconds: of one FP32 step.
        on_layer: called after every layer, for a progress bar.
    """
    names = [layer.name for layer in layers]
    plain = [board.run(inputs, ()) for inputs in steps]

    def error(on: Collection[str]) -> float:
        return _error(plain, [board.run(inputs, on) for inputs in steps])

    everything = error(names)
    work = {layer.name: ranges[layer.activation].values * layer.products for layer in layers}
    total = sum(work.values())
    found = []
    for name in names:
        alone, without = error([name]), error([other for other in names if other != name])
        found.append(LayerError(name, alone, without, everything, seconds * 1e6 * work[name] / total))
        on_layer()
    return found


def plan_exclusions(
    errors: Sequence[LayerError],
    loss: Callable[[Collection[str]], float],
    max_loss: float,
    excluded: Collection[str] = (),
) -> list[str]:
    """Leave layers in FP32, most harmful per microsecond first, until the loss is within the bound.

    The loss is taken to fall with every layer left out, so that the number of them is found by halving. Then every
    layer that the bound does not need goes back to INT8, the dearest first: a bound on the worst token may hang on one
    layer that does little harm to the others, and so comes late in the order.

    Args:
        errors: of all layers.
        loss: of the encoder when these layers stay in FP32.
        max_loss: the bound.
        excluded: layers that stay in FP32 in any case.

    Returns:
        Names in the order they were left out, those of `excluded` first. All of them where nothing else holds.
    """
    fixed = [error.name for error in errors if error.name in excluded]
    ranked = sorted((e for e in errors if e.name not in excluded), key=lambda e: -e.harm)
    order = [error.name for error in ranked]
    fewest, most = 0, len(order)
    while fewest < most:
        middle = (fewest + most) // 2
        if loss([*fixed, *order[:middle]]) <= max_loss:
            most = middle
        else:
            fewest = middle + 1
    left = order[:fewest]
    for error in sorted(ranked[:fewest], key=lambda e: -e.microseconds):
        fewer = [name for name in left if name != error.name]
        if loss([*fixed, *fewer]) <= max_loss:
            left = fewer
    return [*fixed, *left]


def _error(expected: Sequence[Float32], found: Sequence[Float32]) -> float:
    one = np.concatenate(expected).astype(np.float64)
    return float(np.linalg.norm(one - np.concatenate(found)) / max(float(np.linalg.norm(one)), 1e-30))
