"""GBNF for numbers between bounds: every text is within them; of fractions only those with few digits are made."""

import math
from fractions import Fraction
from typing import Any

from score_edge.errors import ScoreEdgeError

_FAR = 10**14
_FARTHEST = 10**30
"""A bound beyond it is a mistake, and a rule of as many parts as it has digits."""


def integer_rule(schema: dict[str, Any], where: str) -> str | None:
    """A rule for the whole numbers that a schema lets through; None where it has no bounds.

    Raises:
        ScoreEdgeError: there are none, or a bound is no number.
    """
    low, high, exclusive_low, exclusive_high = _bounds(schema, where)
    if low is None and high is None:
        return None
    first, last = _whole(low, high, exclusive_low, exclusive_high)
    return _between(first, last, where)


def number_rule(schema: dict[str, Any], where: str) -> str | None:
    """The same for numbers with a fraction."""
    low, high, exclusive_low, exclusive_high = _bounds(schema, where)
    if low is None and high is None:
        return None
    first, last = _whole(low, high, exclusive_low, exclusive_high)
    parts = []
    if first <= last:
        parts.append(_between(first, last, where))
        fraction = '"." [0-9]{1,6}'
        if last - 1 >= max(first, 0):
            parts.append(f"({_natural(max(first, 0), last - 1)}) {fraction}")
        if min(last, 0) > first:  # -3.25 lies between -4 and -3
            parts.append(f'"-" ({_natural(max(-last, 0), -first - 1)}) {fraction}')
        return " | ".join(parts)
    return _fractions(low, high, exclusive_low, exclusive_high, where)


def within(value: float, schema: dict[str, Any], where: str) -> bool:
    """Whether a number is one that a schema lets through.

    Raises:
        ScoreEdgeError: a bound is no number.
    """
    low, high, exclusive_low, exclusive_high = _bounds(schema, where)
    above = low is None or value > low or (value == low and not exclusive_low)
    below = high is None or value < high or (value == high and not exclusive_high)
    return above and below


def _fractions(
    low: Fraction | None, high: Fraction | None, exclusive_low: bool, exclusive_high: bool, where: str
) -> str:
    """Between two bounds with no whole number between them: those with as many digits as it takes."""
    if low is not None and high is not None and low <= high:
        for digits in range(1, 16):
            scale = 10**digits
            first, last = _whole(low * scale, high * scale, exclusive_low, exclusive_high)
            if first <= last:
                middle = (first + last) // 2
                some = sorted({first, last, middle})
                return " | ".join(f'"{_decimal(value, digits)}"' for value in some)
    raise ScoreEdgeError(f"{where}: no number lies between its bounds")


def _decimal(value: int, digits: int) -> str:
    whole, rest = divmod(abs(value), 10**digits)
    return f"{'-' if value < 0 else ''}{whole}.{rest:0{digits}d}"


def _bounds(schema: dict[str, Any], where: str) -> tuple[Fraction | None, Fraction | None, bool, bool]:
    found: dict[str, Fraction | None] = {}
    for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        value = schema.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ScoreEdgeError(f"{where}.{key} is no number")
        if isinstance(value, float) and not math.isfinite(value):
            raise ScoreEdgeError(f"{where}.{key} is no finite number")
        if value is not None and abs(value) > _FARTHEST:
            raise ScoreEdgeError(f"{where}.{key} is beyond {_FARTHEST:.0e}", "leave it out where there is no bound")
        found[key] = None if value is None else Fraction(value)
    low, below = found["minimum"], found["exclusiveMinimum"]
    high, above = found["maximum"], found["exclusiveMaximum"]
    exclusive_low = below is not None and (low is None or below >= low)
    exclusive_high = above is not None and (high is None or above <= high)
    return (below if exclusive_low else low), (above if exclusive_high else high), exclusive_low, exclusive_high


def _whole(low: Fraction | None, high: Fraction | None, exclusive_low: bool, exclusive_high: bool) -> tuple[int, int]:
    """The first and the last whole number between bounds."""
    first = -_FAR if low is None else math.ceil(low)
    last = _FAR if high is None else math.floor(high)
    first += exclusive_low and first == low
    last -= exclusive_high and last == high
    if low is None:
        first = min(first, last)
    if high is None:
        last = max(first, last)
    return first, last


def _between(first: int, last: int, where: str) -> str:
    if first > last:
        raise ScoreEdgeError(f"{where}: no whole number lies between its bounds")
    parts = [_natural(max(first, 0), last)] if last >= 0 else []
    if first < 0:
        parts.append(f'"-" ({_natural(max(-last, 1), -first)})')
    return " | ".join(parts)


def _natural(first: int, last: int) -> str:
    """Whole numbers from 0 up, without leading zeros.

    Example:
        >>> _natural(0, 3), _natural(7, 120)
        ('[0-3]', '[7-9] | [1-9] [0-9] | "1" ([0-1] [0-9] | "2" ("0"))')
    """
    parts = []
    for length in range(len(str(first)), len(str(last)) + 1):
        low = max(first, 10 ** (length - 1) if length > 1 else 0)
        high = min(last, 10**length - 1)
        if low <= high:
            parts.append(_digits(str(low), str(high)))
    return " | ".join(parts)


def _digits(low: str, high: str) -> str:
    """Numbers of the same length."""
    if not low:
        return ""
    any_left = low[1:] == "0" * (len(low) - 1) and high[1:] == "9" * (len(high) - 1)
    if any_left:
        rest = f" [0-9]{{{len(low) - 1}}}" if len(low) > 2 else " [0-9]" if len(low) == 2 else ""
        return _digit(low[0], high[0]) + rest
    if low[0] == high[0]:
        return f'"{low[0]}" ({_digits(low[1:], high[1:])})' if len(low) > 1 else f'"{low[0]}"'
    nines, zeros = "9" * (len(low) - 1), "0" * (len(low) - 1)
    parts = []
    begin, end = int(low[0]), int(high[0])
    if low[1:] != zeros:
        parts.append(f'"{begin}" ({_digits(low[1:], nines)})')
        begin += 1
    if high[1:] != nines:
        end -= 1
    if begin <= end:
        parts.append(_digits(f"{begin}{zeros}", f"{end}{nines}"))
    if high[1:] != nines:
        parts.append(f'"{high[0]}" ({_digits(zeros, high[1:])})')
    return " | ".join(parts)


def _digit(low: str, high: str) -> str:
    return f'"{low}"' if low == high else f"[{low}-{high}]"
