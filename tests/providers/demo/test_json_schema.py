"""Generated instances are valid, as another implementation of JSON Schema judges."""

import json
import re
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from bluesminds.providers.demo.json_schema import instance
from bluesminds.providers.demo.pattern import UnsupportedSchema, matching_text
from tests.cases import each

Schema = dict[str, Any]
NAMES = st.sampled_from(["a", "b", "city", "$ref", "key 1", "é"])
VARIATIONS = st.integers(-3, 100)


def check(schema: Any, variation: int = 0) -> Any:
    made = instance(schema, "demo", variation)
    jsonschema_rs.validator_for(schema, validate_formats=True).validate(made)
    assert json.dumps(made) == json.dumps(instance(schema, "demo", variation)), "deterministic"
    return made


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    return st.fixed_dictionaries({}, optional=fields)


@st.composite
def integers(draw: st.DrawFn) -> Schema:
    low = draw(st.integers(-1000, 1000))
    step = draw(st.integers(1, 50))
    bounds = {"minimum": low, "maximum": low + step, "multipleOf": step}
    return {"type": "integer"} | {name: bounds[name] for name in draw(st.sets(st.sampled_from(list(bounds))))}


@st.composite
def numbers(draw: st.DrawFn) -> Schema:
    low, width = draw(st.integers(-1000, 1000)) / 8, draw(st.integers(1, 100)) / 8
    bounds = {
        draw(st.sampled_from(["minimum", "exclusiveMinimum"])): low,
        draw(st.sampled_from(["maximum", "exclusiveMaximum"])): low + width,
    }
    return {"type": "number"} | {name: bounds[name] for name in draw(st.sets(st.sampled_from(list(bounds))))}


@st.composite
def strings(draw: st.DrawFn) -> Schema:
    low = draw(st.integers(0, 40))
    return {"type": "string"} | draw(optional(minLength=st.just(low), maxLength=st.integers(low, low + 5)))


FORMATS = ("date", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
LEAVES = st.one_of(
    integers(),
    numbers(),
    strings(),
    st.sampled_from(FORMATS).map(lambda name: {"type": "string", "format": name}),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, True, {"type": ["string", "null"]}]),
    st.lists(st.one_of(st.integers(), st.text(), st.none()), min_size=1).map(lambda values: {"enum": values}),
    st.one_of(st.integers(), st.text(), st.booleans()).map(lambda value: {"const": value}),
    st.just({"$ref": "#/$defs/node"}),
)


@st.composite
def objects(draw: st.DrawFn, children: st.SearchStrategy[Any]) -> Schema:
    properties = draw(st.dictionaries(NAMES, children, max_size=4))
    required = draw(st.lists(st.sampled_from(list(properties)), unique=True)) if properties else []
    schema: Schema = {"type": "object", "properties": properties, "required": required}
    return schema | draw(optional(additionalProperties=st.just(False)))


@st.composite
def maps(draw: st.DrawFn, children: st.SearchStrategy[Any]) -> Schema:
    low = draw(st.integers(0, 3))
    limits = optional(minProperties=st.just(low), maxProperties=st.integers(low, 4))
    return {"type": "object", "additionalProperties": draw(children)} | draw(limits)


@st.composite
def arrays(draw: st.DrawFn, children: st.SearchStrategy[Any]) -> Schema:
    low = draw(st.integers(0, 3))
    sizes = optional(minItems=st.just(low), maxItems=st.integers(low, 4))
    parts = optional(prefixItems=st.lists(children, min_size=1, max_size=2))
    return {"type": "array", "items": draw(children)} | draw(sizes) | draw(parts)


SCHEMAS = st.recursive(
    LEAVES,
    lambda children: st.one_of(
        objects(children),
        maps(children),
        arrays(children),
        st.lists(children, min_size=1, max_size=3).map(lambda choices: {"anyOf": choices}),
        children.map(lambda one: {"allOf": [one, {}], "description": "text"}),
    ),
    max_leaves=12,
)
NODE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
    },
    "required": ["name", "next", "children"],
    "additionalProperties": False,
}


@given(SCHEMAS, VARIATIONS)
def test_instance_of_generated_schema_is_valid(schema: Any, variation: int) -> None:
    root = {"$defs": {"node": NODE}, "allOf": [schema]} if isinstance(schema, dict) else schema
    check(root, variation)


@given(
    st.recursive(
        st.one_of(LEAVES, st.text(), st.integers(), st.none()),
        lambda inner: st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "properties",
                    "items",
                    "anyOf",
                    "allOf",
                    "$ref",
                    "required",
                    "enum",
                    "minimum",
                    "multipleOf",
                    "minLength",
                    "minItems",
                    "pattern",
                    "uniqueItems",
                    "propertyNames",
                    "additionalProperties",
                ]
            ),
            st.one_of(inner, st.lists(inner, max_size=2)),
        ),
    )
)
def test_generated_schema_has_instance_or_is_refused(schema: Any) -> None:
    try:
        instance(schema, "demo")
    except (UnsupportedSchema, RecursionError):
        pass


@each(
    "schema",
    [
        {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 3},
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "minItems": 5},
        {"type": "array", "items": {"type": "string", "maxLength": 2}, "uniqueItems": True, "minItems": 5},
        {"type": "array", "prefixItems": [{"const": 1}, {"type": "string"}], "items": False},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"const": 1}], "minItems": 1},
        {
            "type": "object",
            "patternProperties": {"^x-[0-9]+$": {"type": "integer"}},
            "additionalProperties": False,
        },
        {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "minProperties": 2},
        {"type": "object", "required": ["a"], "properties": {"b": False}},
        {"type": "object", "required": ["a"], "properties": {"a": {}, "b": {}}, "maxProperties": 1},
        {"type": "string", "minLength": 6, "maxLength": 7},
        {"properties": {"a": {"type": "integer"}}},
        {"items": {"type": "integer"}},
        {"minimum": 3},
        {"type": "number", "multipleOf": 0.01, "minimum": 0.055},
        {"type": "integer", "multipleOf": 0.5, "minimum": 3},
        {"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 6},
        {"type": "number", "minimum": 0.25, "maximum": 0.25},
        {"type": "number", "exclusiveMaximum": 0.1, "exclusiveMinimum": 0},
        {"allOf": [{"type": "number"}, {"type": "integer", "minimum": 2}, {"minimum": 1}]},
        {
            "allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"a": {"minimum": 5}}}],
            "required": ["a"],
        },
        {
            "oneOf": [
                {"type": "object", "properties": {"k": {"const": "x"}}, "required": ["k"]},
                {"type": "null"},
            ]
        },
        {"anyOf": [False, {"type": "string", "pattern": "(?=a)"}, {"type": "integer"}]},
        {"type": "object", "properties": {"a/b": {"type": "integer"}, "c": {"$ref": "#/properties/a~1b"}}},
        {"$defs": {"x": {"allOf": [{"minimum": 5}]}}, "$ref": "#/$defs/x", "type": "integer"},
    ],
)
def test_instance_of_each_keyword_is_valid(schema: Schema) -> None:
    for variation in range(3):
        check(schema, variation)


@each(
    "schema",
    [
        False,
        {"not": {}},
        {"if": {}, "then": {}},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "#"},
        {"anyOf": []},
        {"enum": []},
        {"type": "elephant"},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4},
        {"type": "integer", "multipleOf": 0},
        {"type": "integer", "minimum": "1e999999999"},
        {"type": "string", "minLength": 10**12},
        {"type": "string", "format": "date", "maxLength": 3},
        {"type": "array", "minItems": 10**12},
        {"type": "array", "minItems": 999, "items": {"const": "x" * 999}},
        {"type": "array", "minItems": 999, "items": {"required": ["x" * 999]}},
        {"type": "array", "items": {"type": "array", "minItems": 999, "items": {}}, "minItems": 999},
        {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 3},
        {"type": "object", "minProperties": 10**12},
        {"type": "object", "propertyNames": {"const": "a"}, "minProperties": 2},
        {"type": "object", "required": ["a"], "maxProperties": 0},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"properties": ["a"]},
        7,
    ],
)
def test_schema_without_instance_is_refused(schema: Any) -> None:
    with pytest.raises(UnsupportedSchema):
        instance(schema, "demo")


def test_recursive_schema_has_small_instance() -> None:
    many = {f"p{n}": {"anyOf": [{"$ref": "#"}, {"type": "null"}]} for n in range(8)}
    made = check({"type": "object", "properties": many, "required": list(many)})
    assert len(json.dumps(made)) < 100_000


def test_models_of_pydantic_have_instances() -> None:
    class Circle(BaseModel):
        kind: str = Field("circle", pattern="^circle$")
        radius: float = Field(gt=0, lt=1)

    class Drawing(BaseModel):
        title: str = Field(min_length=30)
        shapes: list[Circle] = Field(min_length=2)
        tags: dict[str, int]
        pair: tuple[int, str]
        code: str = Field(pattern=r"^[A-Z]{3}-\d{4}$")

    Drawing.model_validate(check(Drawing.model_json_schema()))


@each(
    "pattern",
    [
        r"^[A-Z]{3}-\d{4}$",
        r"^\d{4}-\d{2}-\d{2}$",
        r"^#(?:[0-9a-fA-F]{3}){1,2}$",
        r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$",
        r"^(?<year>\d+)|never$",
        r"^\+?[1-9]\d{1,14}$",
        r"[a-z]+?_x",
        r"^[\w.-]+$",
        r"^[^a-z0-9]{2}$",
        r"^a|b$",
        r"^\$\{[^}]*\}$",
        r"^[a\-\]]+$",
        r"",
    ],
)
def test_generated_text_matches_pattern(pattern: str) -> None:
    for low in (0, 1, 12):
        text = matching_text(pattern, low)
        assert re.search(pattern.replace("(?<", "(?P<"), text), text
    assert len(matching_text(r"^[a-z]+$", 12)) == 12
    assert len(matching_text(r"^x(ab)*y?$", 12)) >= 12


@each(
    "pattern",
    [
        "(?=a)",
        "(a",
        "a)",
        "[a",
        "[]",
        r"\b",
        r"a\1",
        r"\p{L}",
        "*",
        "a{3,2}",
        "a{99999}",
        "((a{999}){999}){999}",
        "[^\\D]",
    ],
)
def test_complicated_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedSchema, match="too complicated"):
        matching_text(pattern, 0)


@given(st.text(alphabet="ab[]()|*+?{}1,-^$\\dwsDx."), st.integers(0, 20))
def test_generated_pattern_has_text_or_is_refused(pattern: str, low: int) -> None:
    try:
        matching_text(pattern, low)
    except UnsupportedSchema:
        pass
