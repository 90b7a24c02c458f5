"""JSON schema -> GBNF: what llama.cpp then generates parses, and validates against the schema.

A grammar must not promise what it cannot hold, so a keyword that it cannot enforce is refused. Understood: type (also a
list), properties, required, additionalProperties, items, prefixItems, minItems, maxItems, minLength, maxLength, enum,
const, anyOf, oneOf of different types, allOf of one, $ref into the document, and bounds of numbers. What only describes
(title, description, default, format, ...) is skipped. Properties come in the order of the schema.
"""

import json
from typing import Any, Final

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.number_grammar import integer_rule, number_rule, within

_SPACE: Final = '" "?'
_VALUES: Final = {
    "object": '"{" ws (pair ("," ws pair)*)? "}"',
    "array": '"[" ws (value ws ("," ws value ws)*)? "]"',
    "string": r'"\"" char* "\""',
    "number": '"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})?',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,14})',
    "boolean": '"true" | "false"',
    "null": '"null"',
}
_PARTS: Final = {
    "ws": _SPACE,
    "char": r'[^"\\\x7F\x00-\x1F] | "\\" ["\\/bfnrt]',
    "pair": 'string ws ":" ws value ws',
    "value": "object | array | string | number | boolean | null",
    **_VALUES,
}
_REFUSED: Final = frozenset(
    {"pattern", "not", "if", "then", "else", "multipleOf", "uniqueItems", "contains", "minContains", "maxContains"}
    | {"minProperties", "maxProperties", "patternProperties", "propertyNames", "dependentRequired", "dependentSchemas"}
    | {"dependencies", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "additionalItems"}
)
_MOST_REPEATED, _MOST_RULES, _DEEPEST, _LONGEST = 2000, 500, 24, 65536

JSON_OBJECT: Final = "\n".join([*(f"{name} ::= {rule}" for name, rule in _PARTS.items()), "root ::= object"])
"""Any JSON object."""


def schema_grammar(schema: object) -> str:
    """A GBNF grammar whose every text is JSON that validates against the schema.

    Args:
        schema: a JSON schema as parsed JSON.

    Raises:
        ScoreEdgeError: a keyword that cannot be enforced, a schema that nothing or too much fits.
    """
    try:
        length = len(json.dumps(schema))
    except RecursionError as error:
        raise ScoreEdgeError("the JSON schema is nested too deep", "make it flatter") from error
    if length > _LONGEST:
        raise ScoreEdgeError(f"the JSON schema is longer than {_LONGEST} characters", "make it smaller")
    return _Writer(schema).grammar()


class _Writer:
    def __init__(self, schema: object) -> None:
        self._root = schema
        self._rules: dict[str, str] = {}
        self._refs: dict[str, str] = {}
        self._depth = 0

    def grammar(self) -> str:
        top = self._visit(self._root, "schema")
        rules = {**_PARTS, **self._rules, "root": top}
        return "\n".join(f"{name} ::= {rule}" for name, rule in rules.items())

    def _add(self, rule: str) -> str:
        name = f"r{len(self._rules)}"
        if len(self._rules) >= _MOST_RULES:
            raise ScoreEdgeError(f"the JSON schema has more than {_MOST_RULES} parts", "make it smaller")
        self._rules[name] = rule
        return name

    def _visit(self, schema: object, where: str) -> str:
        """The name of a rule for a schema."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ScoreEdgeError(f"{where} is nested deeper than {_DEEPEST}", "make the JSON schema flatter")
        try:
            return self._rule(schema, where)
        finally:
            self._depth -= 1

    def _rule(self, schema: object, where: str) -> str:
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise ScoreEdgeError(f"{where} is no JSON schema", "give an object")
        for key in schema:
            if key in _REFUSED and schema[key] not in (False, None):
                raise ScoreEdgeError(f"{where}.{key} cannot be guaranteed", "leave it out, and check it yourself")
        alone = [key for key in ("$ref", "anyOf", "oneOf", "allOf", "enum", "const") if key in schema]
        if len(alone) > 1 or (alone and alone[0] in ("anyOf", "oneOf", "allOf", "$ref") and _asserts(schema, alone[0])):
            raise ScoreEdgeError(f"{where} has {alone[0]} beside other keywords", "put them into the alternatives")
        if "$ref" in schema:
            return self._ref(schema["$ref"], where)
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else _list(schema["enum"], where)
            return self._literals([value for value in values if _fits(value, schema, where)], where)
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                return self._alternatives(key, _list(schema[key], f"{where}.{key}"), where)
        kinds = schema.get("type", _implied(schema))
        if isinstance(kinds, list):
            return self._add(" | ".join(self._typed(schema, kind, where) for kind in _list(kinds, where)))
        return self._typed(schema, kinds, where) if kinds is not None else "value"

    def _typed(self, schema: dict[str, Any], kind: object, where: str) -> str:
        if not isinstance(kind, str) or kind not in _VALUES:
            raise ScoreEdgeError(f"{where}.type is {str(kind)[:40]!r}", f"one of: {', '.join(_VALUES)}")
        if kind == "object":
            return self._object(schema, where)
        if kind == "array":
            return self._array(schema, where)
        if kind == "string" and ("minLength" in schema or "maxLength" in schema):
            return self._add(rf'"\"" char{_times(schema, "minLength", "maxLength", where)} "\""')
        if kind in ("number", "integer"):
            rule = (integer_rule if kind == "integer" else number_rule)(schema, where)
            return kind if rule is None else self._add(rule)
        return kind

    def _object(self, schema: dict[str, Any], where: str) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise ScoreEdgeError(f"{where}: properties must be an object and required a list")
        if not all(isinstance(name, str) for name in required):
            raise ScoreEdgeError(f"{where}.required must be a list of names")
        more = schema.get("additionalProperties", True)
        if not properties and not required:
            if more is True:
                return "object"
            if more is not False:
                pair = f'string ws ":" ws {self._visit(more, f"{where}.additionalProperties")} ws'
                return self._add(f'"{{" ws ({pair} ("," ws {pair})*)? "}}"')
        missing = [name for name in required if name not in properties]
        if missing and more is False:
            raise ScoreEdgeError(f"{where}.required names {str(missing[0])[:40]!r}, which is no property of it")
        named = {**properties, **dict.fromkeys(missing, more)}
        pairs = {
            str(name): self._add(f'{_literal(json.dumps(name))} ws ":" ws {self._visit(each, f"{where}.{name}")} ws')
            for name, each in named.items()
        }
        # From the last: what may follow when something stands before, and when nothing does.
        after, first = "", ""
        for name in reversed(pairs):
            pair, must = pairs[name], name in required
            here_after, here_first = f'"," ws {pair} {after}', f"{pair} {after}"
            after = self._add(here_after if must else f"({here_after}) | {after or _NOTHING}")
            first = self._add(here_first if must else f"({here_first}) | {first or _NOTHING}")
        return self._add(f'"{{" ws {first} "}}"')

    def _array(self, schema: dict[str, Any], where: str) -> str:
        heads = schema.get("prefixItems", [])
        if heads:
            heads = [self._visit(each, f"{where}.prefixItems[{i}]") for i, each in enumerate(_list(heads, where))]
            low, high = _bounds(schema, "minItems", "maxItems", where)
            if low > len(heads) or (high is not None and high < len(heads)):
                raise ScoreEdgeError(f"{where}: minItems or maxItems do not fit its prefixItems", "leave them out")
            return self._add('"[" ws ' + ' "," ws '.join(f"{head} ws" for head in heads) + ' "]"')
        item = self._visit(schema.get("items", True), f"{where}.items")
        low, high = _bounds(schema, "minItems", "maxItems", where)
        if high == 0:
            return self._add('"[" ws "]"')
        rest = f'("," ws {item} ws){{{max(0, low - 1)},{"" if high is None else high - 1}}}'
        some = f"{item} ws {rest}"
        return self._add(f'"[" ws {some if low else f"({some})?"} "]"')

    def _alternatives(self, key: str, given: list[Any], where: str) -> str:
        if key == "oneOf" and not _different(given):
            raise ScoreEdgeError(f"{where}.oneOf of alternatives of one type cannot be guaranteed", "write anyOf")
        if key == "allOf" and len(given) > 1:
            raise ScoreEdgeError(f"{where}.allOf of several cannot be guaranteed", "write them as one")
        return self._add(" | ".join(self._visit(each, f"{where}.{key}[{i}]") for i, each in enumerate(given)))

    def _literals(self, values: list[Any], where: str) -> str:
        if not values:
            raise ScoreEdgeError(f"{where} has no value that fits its other keywords", "leave them out")
        try:
            texts = [json.dumps(value, ensure_ascii=False, allow_nan=False) for value in values]
            "".join(texts).encode()
        except ValueError as error:  # not a number, half of a surrogate pair
            raise ScoreEdgeError(f"{where} has a value that is no JSON: {error}", "leave it out") from error
        return self._add(" | ".join(map(_literal, texts)))

    def _ref(self, ref: object, where: str) -> str:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            raise ScoreEdgeError(f"{where}.$ref leads out of the schema", "only #/$defs/... is followed")
        if ref in self._refs:
            return self._refs[ref]
        found: Any = self._root
        for part in ref[2:].split("/") if len(ref) > 2 else ():
            part = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or part not in found:
                raise ScoreEdgeError(f"{where}.$ref {ref[:60]!r} leads nowhere")
            found = found[part]
        if isinstance(found, dict) and "$ref" in found:
            raise ScoreEdgeError(f"{where}.$ref {ref[:60]!r} leads to another $ref", "name its end")
        name = self._refs[ref] = self._add("")
        self._rules[name] = self._visit(found, ref)
        return name


_NOTHING: Final = '""'


def _asserts(schema: dict[str, Any], but: str) -> bool:
    return any(key in _KNOWN for key in schema if key != but)


_KNOWN: Final = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems"}
    | {"minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    | {"enum", "const", "anyOf", "oneOf", "allOf", "$ref"}
)


def _implied(schema: dict[str, Any]) -> str | None:
    """The type that keywords are about, where none is given: values of other types would pass too, and are not made."""
    for kind, keys in (
        ("object", ("properties", "required", "additionalProperties")),
        ("array", ("items", "prefixItems", "minItems", "maxItems")),
        ("string", ("minLength", "maxLength")),
        ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    ):
        if any(key in schema for key in keys):
            return kind
    return None


def _different(alternatives: list[Any]) -> bool:
    kinds = [each.get("type") if isinstance(each, dict) else None for each in alternatives]
    plain = [kind for kind in kinds if isinstance(kind, str)]
    numbers = "number" in plain and "integer" in plain
    return len(plain) == len(kinds) and len(set(plain)) == len(plain) and not numbers


_INSIDE: Final[dict[type, tuple[str, ...]]] = {
    list: ("items", "prefixItems"),
    dict: ("properties", "required", "additionalProperties"),
}


def _fits(value: object, schema: dict[str, Any], where: str) -> bool:
    """Whether a value of an enum or a const is what the keywords beside it let through.

    Raises:
        ScoreEdgeError: a keyword about what is inside of an array or an object.
    """
    if not _is_of(value, schema.get("type")):
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        return within(value, schema, where)
    for key in _INSIDE.get(type(value), ()):
        if key in schema:
            raise ScoreEdgeError(f"{where} has {key} beside the values it may have", "leave it out")
    if isinstance(value, str | list):
        of = "Length" if isinstance(value, str) else "Items"
        low, high = _bounds(schema, f"min{of}", f"max{of}", where)
        return low <= len(value) and (high is None or len(value) <= high)
    return True


def _is_of(value: object, kinds: object) -> bool:
    names = kinds if isinstance(kinds, list) else [kinds]
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    is_bool = isinstance(value, bool)
    fits = {
        None: True,
        "null": value is None,
        "boolean": is_bool,
        "string": isinstance(value, str),
        "integer": whole and not is_bool,
        "number": isinstance(value, int | float) and not is_bool,
        "array": isinstance(value, list),
        "object": isinstance(value, dict),
    }
    return any(isinstance(name, str | None) and fits.get(name, False) for name in names)


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ScoreEdgeError(f"{where} must be a list with something in it")
    return value


def _bounds(schema: dict[str, Any], least: str, most: str, where: str) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    for value in (low, high):
        if value is not None and (type(value) is not int or not 0 <= value <= _MOST_REPEATED):
            raise ScoreEdgeError(f"{where}: {least} and {most} must be whole numbers up to {_MOST_REPEATED}")
    if high is not None and high < low:
        raise ScoreEdgeError(f"{where}: {most} is below {least}, nothing fits")
    return low, high


def _times(schema: dict[str, Any], least: str, most: str, where: str) -> str:
    low, high = _bounds(schema, least, most, where)
    return f"{{{low},{'' if high is None else high}}}"


def _literal(text: str) -> str:
    r"""A GBNF literal.

    Example:
        >>> print(_literal('"a\\n"'))
        "\"a\\n\""
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
