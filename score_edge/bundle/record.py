"""Frozen dataclasses from parsed JSON or TOML, strictly: nothing unknown, nothing missing, nothing converted silently.

Types understood: str, int, float, Literal, X | None, tuple[...], dict[str, X] and other frozen dataclasses.
"""

import dataclasses
import json
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from score_edge.errors import ScoreEdgeError, did_you_mean

Record = TypeVar("Record")


def read_record(kind: type[Record], value: object, where: str) -> Record:
    """Build a dataclass from a parsed document; a field with a default may be left out.

    Args:
        kind: the dataclass to build.
        value: what the parser returned.
        where: the document, for example ``"bundle.json"``; errors continue it as ``bundle.json: vision.height``.

    Raises:
        ScoreEdgeError: an unknown key, a missing key or a wrong type, with its place and what belongs there.
    """
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise ScoreEdgeError(f"{_join(where, key)} is not a known key", did_you_mean(key, fields))
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise ScoreEdgeError(f"{_join(where, name)} is missing", "add it, or write the file again with score-edge")
    hints = get_type_hints(kind)
    return kind(**{key: _read(hints[key], item, _join(where, key)) for key, item in value.items()})


def _read(hint: Any, value: object, where: str) -> object:
    arguments = get_args(hint)
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return read_record(hint, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        return None if value is None else _read(arguments[0], value, where)
    if origin is Literal:
        if value not in arguments:
            raise _wrong(where, " or ".join(json.dumps(argument) for argument in arguments), value)
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        return {key: _read(arguments[1], item, _join(where, key)) for key, item in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, "a list", value)
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        if len(value) != len(kinds):
            raise _wrong(where, f"a list of {len(kinds)}", value)
        return tuple(
            _read(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    return _read_scalar(hint, value, where)


def _read_scalar(hint: Any, value: object, where: str) -> object:
    # type() and not isinstance(): JSON's true is no number, although Python's bool is an int.
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise _wrong(where, "a number of at most 64 bits", value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is hint and not (isinstance(value, float) and not math.isfinite(value)):
        return value
    raise _wrong(
        where, {str: "a text", int: "a whole number", float: "a finite number", bool: "true or false"}[hint], value
    )


def _wrong(where: str, expected: str, value: object) -> ScoreEdgeError:
    shown = json.dumps(value, default=str)
    shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
    return ScoreEdgeError(
        f"{where} must be {expected}, not {shown}", "correct it, or write the file again with score-edge"
    )


def _join(where: str, key: str) -> str:
    key = key if key.isprintable() else repr(key)
    return f"{where}.{key}" if ": " in where else f"{where}: {key}"
