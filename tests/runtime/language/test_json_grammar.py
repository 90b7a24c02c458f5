"""What llama.cpp generates under a schema's grammar validates against that schema, says another implementation."""

import json
import random
from typing import Any

import pytest

from score_edge.bundle.folder import Bundle
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import Question
from score_edge.runtime.language.json_grammar import JSON_OBJECT, schema_grammar
from score_edge.runtime.language.sampling import Sampling

pytest.importorskip("llama_cpp")
jsonschema = pytest.importorskip("jsonschema")
WORDS = ["red", 'a "quoted" word', "back\\slash", "new\nline", "ümlaut", "sp ace", "{brace}", "[list]", "1", ""]


@pytest.fixture(scope="module")
def model() -> Any:
    from score_edge.runtime.language.llama_cpp import LlamaCpp

    with LlamaCpp(Bundle.open("reference").gguf_path, context=2048, threads=1) as opened:
        yield opened


def answer(model: Any, sampling: Sampling, most: int = 600) -> tuple[str, str]:
    sequence = model.sequence()
    try:
        sequence.append(Question("<|im_start|>user\n", "what moved?", "<|im_end|>\n<|im_start|>assistant\n"))
        text, pieces = "", sequence.generate(most, sampling)
        while True:
            try:
                text += next(pieces)
            except StopIteration as stop:
                return text, stop.value.reason
    finally:
        sequence.close()


def bounds(rng: random.Random, whole: bool) -> dict[str, Any]:
    low = rng.choice([rng.randint(-3000, 3000), rng.randint(-9, 9)])
    high = low + rng.choice([0, 1, 7, rng.randint(0, 5000)])
    if not whole and rng.random() < 0.6:
        low, high = low + rng.choice([0.25, 0.1, 0.5]), high + rng.choice([0.75, 0.9, 0.5])
    found: dict[str, Any] = {"minimum": low, "maximum": high}
    if high - low > 2 and rng.random() < 0.5:
        found = {"exclusiveMinimum": low, "exclusiveMaximum": high}
    if rng.random() < 0.3:
        found.pop(rng.choice(list(found)))
    return found


def schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random schema whose texts and lists end."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "bounded", "bounded"]
    kinds += ["object", "object", "array", "anyOf", "types", "tuple", "ref"] if depth < 3 else []
    kind = "object" if not depth else rng.choice(kinds)
    if kind == "object":
        names = rng.sample([word for word in WORDS if word], rng.randint(0, 5))
        return {
            "type": "object",
            "title": "t",
            "properties": {name: schema(rng, depth + 1) for name in names},
            "required": [name for name in names if rng.random() < 0.6],
            "additionalProperties": False,
            "$defs": {"Leaf": {"type": "integer", "minimum": 3, "maximum": 12}},
        }
    if kind == "array":
        low = rng.randint(0, 2)
        return {"type": "array", "items": schema(rng, depth + 1), "minItems": low, "maxItems": low + rng.randint(0, 2)}
    if kind == "anyOf":
        return {"anyOf": [schema(rng, depth + 1) for _ in range(rng.randint(1, 3))], "description": "d"}
    return {
        "string": {"type": "string", "minLength": 2, "maxLength": 6},
        "enum": {"enum": rng.sample([*WORDS, 1, 2.5, None, True, [1, "a"], {"k": "v"}], 3)},
        "const": {"const": rng.choice(WORDS)},
        "types": {"type": ["integer", "null", "boolean"]},
        "tuple": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "integer"}]},
        "ref": {"$ref": "#/$defs/Leaf"},
        "bounded": {"type": (of := rng.choice(["integer", "number"])), **bounds(rng, of == "integer")},
    }.get(kind, {"type": kind})


@pytest.mark.parametrize("block", range(4))
def test_answers_validate_against_random_schemas(model: Any, block: int) -> None:
    """200 schemas; all but a few answers end by themselves."""
    rng, finished = random.Random(block), 0
    for seed in range(50):
        wanted = schema(rng)
        text, reason = answer(model, Sampling(temperature=3, seed=seed, grammar=schema_grammar(wanted)))
        if reason == "stop":
            finished += 1
            jsonschema.Draft202012Validator(wanted).validate(json.loads(text))
    assert finished >= 45


def test_free_objects_and_recursion_parse(model: Any) -> None:
    tree = {
        "$ref": "#/$defs/Node",
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {
                    "v": {"type": "integer"},
                    "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Node"}]},
                },
                "required": ["v", "next"],
            }
        },
    }
    finished = 0
    for seed in range(12):
        for grammar, wanted in ((JSON_OBJECT, {"type": "object"}), (schema_grammar(tree), tree)):
            text, reason = answer(model, Sampling(temperature=4, seed=seed, grammar=grammar), 300)
            if reason == "stop":
                finished += 1
                jsonschema.validate(json.loads(text), wanted)
    assert finished >= 6


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"type": "string", "pattern": "a"}, "schema.pattern cannot be guaranteed"),
        ({"type": "object", "properties": {"a": {"not": {}}}}, "schema.a.not"),
        ({"type": "animal"}, "schema.type is 'animal'"),
        ({"$ref": "http://x/y"}, "leads out"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "no whole number"),
        ({"type": "number", "minimum": 1.5, "exclusiveMaximum": 1.5}, "no number"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "nothing fits"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"enum": []}, "something in it"),
        ({"enum": [[1]], "items": {"type": "string"}}, "schema has items beside the values"),
        ({"const": {"a": 1}, "required": ["b"]}, "schema has required beside the values"),
        ({"enum": [1], "minimum": "0"}, "schema.minimum is no number"),
        ({"anyOf": [{"type": "null"}], "minimum": 3}, "beside other keywords"),
        ([], "no JSON schema"),
        ({"type": "string", "maxLength": 10**9}, "up to 2000"),
        ({"type": "object", "required": [["a"]]}, "schema.required must be a list of names"),
        ({"type": "object", "required": [1]}, "schema.required must be a list of names"),
        ({"type": "integer", "minimum": 10**1500}, "schema.minimum is beyond 1e+30"),
        ({"type": "number", "maximum": -(10**4000)}, "schema.maximum is beyond 1e+30"),
        ({"const": float("nan")}, "schema has a value that is no JSON"),
        ({"enum": ["a", "\ud800"]}, "schema has a value that is no JSON"),
    ],
)
def test_what_cannot_be_held_is_refused(wanted: Any, said: str) -> None:
    with pytest.raises(ScoreEdgeError) as found:
        schema_grammar(wanted)
    assert said in found.value.message


def test_of_an_enum_or_a_const_only_what_validates_is_made() -> None:
    """Random keywords beside it: the values left are those that another implementation lets through."""
    rng, refused, fewer = random.Random(0), 0, 0
    some = [0, 1, 2, 2.0, -3, 2.5, 0.1, 1e300, -7.25, True, False, None, "", "a", "ä\U0001f600", "abc", [], [1, 2], {}]
    for _ in range(2000):
        given = rng.sample(some, rng.randint(1, 8))
        wanted: dict[str, Any] = {"enum": given} if rng.random() < 0.8 else {"const": given[0]}
        if rng.random() < 0.5:
            wanted["type"] = rng.choice(["integer", "number", "string", "boolean", ["number", "null"], "array"])
        for key in rng.sample(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], rng.randint(0, 2)):
            wanted[key] = rng.choice([-3, 0, 0.1, 1, 2, 2.5, 3])
        for key in rng.sample(["minLength", "maxLength", "minItems", "maxItems"], rng.randint(0, 2)):
            wanted[key] = rng.choice([1, 2]) + 2 * key.startswith("max")
        values = wanted.get("enum", given[:1])
        left = [value for value in values if jsonschema.Draft202012Validator(wanted).is_valid(value)]
        fewer += len(left) < len(values)
        if left:
            assert schema_grammar(wanted) == schema_grammar({"enum": left}), wanted
        else:
            refused += 1
            with pytest.raises(ScoreEdgeError, match="no value that fits"):
                schema_grammar(wanted)
    assert fewer > 500 and 200 < refused < 1500


def test_a_schema_nested_without_end_is_refused() -> None:
    nested: dict[str, Any] = {"type": "null"}
    for _ in range(100):
        nested = {"type": "array", "items": nested}
    with pytest.raises(ScoreEdgeError, match="nested deeper"):
        schema_grammar(nested)


def test_a_schema_too_deep_for_python_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(ScoreEdgeError, match="nested too deep"):
        schema_grammar(schema)


def test_a_broken_grammar_is_an_error(model: Any) -> None:
    with pytest.raises(ScoreEdgeError, match="cannot read the grammar"):
        answer(model, Sampling(grammar="root ::= nothing"))
