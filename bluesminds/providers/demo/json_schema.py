"""Instances of a JSON Schema, for tool arguments and structured output."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, count
from math import ceil, floor
from typing import Any, TypeAlias

import msgspec

from bluesminds.providers.demo.pattern import UnsupportedSchema, matching_text

JSONValue: TypeAlias = Any
_MAX_DEPTH = 48
_MAX_VALUES = 5000
_VALUE_BYTES = 20  # a longer text counts as several values
_MINIMAL_DEPTH = 8  # from here on only what the schema requires, so that recursive schemas end
_MINIMAL_VALUES = 500
_UNSUPPORTED = ("not", "if", "contains", "dependentRequired", "dependentSchemas", "$dynamicRef")
_KINDS = {  # the keywords that imply the type of a schema without `type`
    "object": ("properties", "required", "additionalProperties", "patternProperties", "minProperties"),
    "array": ("items", "prefixItems", "minItems", "uniqueItems"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_FORMATS = {
    "date": "2026-01-{day:02}",
    "date-time": "2026-01-{day:02}T12:00:00Z",
    "time": "12:00:{day:02}Z",
    "duration": "P{day}D",
    "email": "demo{day}@example.com",
    "hostname": "demo{day}.example.com",
    "ipv4": "192.0.2.{day}",
    "ipv6": "2001:db8::{day}",
    "uri": "https://example.com/{day}",
    "uuid": "00000000-0000-4000-8000-{day:012}",
}
_LOWEST = {"minimum", "minLength", "minItems", "minProperties", "exclusiveMinimum"}
_HIGHEST = {"maximum", "maxLength", "maxItems", "maxProperties", "exclusiveMaximum"}


def instance(schema: object, name: str, variation: int = 0) -> JSONValue:
    """A value that is valid under the schema; another variation may give another value.

    Strings without a constraint contain the name of their property. Raises UnsupportedSchema.
    """
    try:
        return _Generator(schema).value(schema, name, 0, variation)
    except UnsupportedSchema:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as exc:
        raise UnsupportedSchema("it is not a valid JSON Schema") from exc


class _TooLarge(UnsupportedSchema):
    """Another alternative would not help."""


class _Generator:
    def __init__(self, root: object) -> None:
        self._root = root
        self._values = 0

    def value(self, schema: JSONValue, name: str, depth: int, variation: int) -> JSONValue:
        self._count()
        if depth > _MAX_DEPTH:
            raise UnsupportedSchema("its instances are nested too deeply")
        schema = self._flat(schema)
        for keyword in _UNSUPPORTED:
            if keyword in schema:
                raise UnsupportedSchema(f"the keyword `{keyword}` is not supported")
        minimal = depth > _MINIMAL_DEPTH or self._values > _MINIMAL_VALUES
        if "const" in schema:
            return self._sized(schema["const"])
        if "enum" in schema:
            return self._sized(schema["enum"][variation % len(schema["enum"])])
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._alternative(schema, keyword, name, depth, variation, minimal)
        kind = _kind(schema, minimal)
        if kind == "object":
            return self._object(schema, depth, variation, minimal)
        if kind == "array":
            return self._array(schema, name, depth, variation, minimal)
        if kind in ("integer", "number"):
            return _number(schema, kind, variation)
        if kind == "string":
            return self._sized(_string(schema, name, variation))
        return None if kind == "null" else variation % 2 == 0

    def _sized(self, value: JSONValue) -> JSONValue:
        self._count(len(msgspec.json.encode(value)) // _VALUE_BYTES)
        return value

    def _count(self, values: int = 1) -> None:
        self._values += values
        if self._values > _MAX_VALUES:
            raise _TooLarge("its instances are too large")

    def _flat(self, schema: JSONValue) -> dict[str, Any]:
        """The schema with $ref and allOf resolved."""
        if isinstance(schema, bool):
            return _merged(schema, {})
        while "$ref" in schema:
            self._count()
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            schema = _merged(self._target(schema["$ref"]), rest)
        for part in schema.get("allOf", ()):
            self._count()
            schema = _merged(
                {key: value for key, value in schema.items() if key != "allOf"}, self._flat(part)
            )
        return dict(schema)

    def _target(self, reference: str) -> JSONValue:
        if not reference.startswith("#"):
            raise UnsupportedSchema("a `$ref` must begin with `#`")
        target: Any = self._root
        for key in reference[1:].split("/")[1:]:
            key = key.replace("~1", "/").replace("~0", "~")
            target = target[int(key) if isinstance(target, list) else key]
        return target

    def _alternative(
        self, schema: dict[str, Any], keyword: str, name: str, depth: int, variation: int, minimal: bool
    ) -> JSONValue:
        """The value of the first usable schema. null is tried last, or first if the value should be small."""
        rest = {key: value for key, value in schema.items() if key != keyword}
        problem = UnsupportedSchema(f"`{keyword}` has no alternatives")
        for choice in sorted(schema[keyword], key=lambda one: (one == {"type": "null"}) != minimal):
            try:
                return self.value(_merged(rest, self._flat(choice)), name, depth + 1, variation)
            except _TooLarge:
                raise
            except UnsupportedSchema as exc:
                problem = exc
        raise problem

    def _object(self, schema: dict[str, Any], depth: int, variation: int, minimal: bool) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        others = schema.get("additionalProperties", True)
        patterns = schema.get("patternProperties", {})
        low, high = schema.get("minProperties", 0), schema.get("maxProperties", _MAX_VALUES)
        size = max(low, 0 if minimal else len({*properties, *required}), len(set(required)))
        if isinstance(others, dict) and others and not properties and not minimal:
            size = max(size, 1)
        if high < max(low, len(set(required))):
            raise UnsupportedSchema("`maxProperties` is too small")
        names = schema.get("propertyNames", {"pattern": next(iter(patterns))} if patterns else {})
        extra = next(iter(patterns.values())) if patterns else others
        keys = chain(required, properties, self._names(names, depth))
        result: dict[str, Any] = {}
        while len(result) < min(size, high):
            key = next(keys)
            if key in result:
                continue
            try:
                self._count(len(key) // _VALUE_BYTES)
                result[key] = self.value(properties.get(key, extra), key, depth + 1, variation)
            except UnsupportedSchema as exc:
                if key in required or key not in properties or isinstance(exc, _TooLarge):
                    raise
                size = max(low, size - 1)
        return result

    def _names(self, schema: JSONValue, depth: int) -> Iterator[str]:
        for n in count():
            yield str(self.value(_merged({"type": "string"}, schema), "key", depth + 1, n))

    def _array(
        self, schema: dict[str, Any], name: str, depth: int, variation: int, minimal: bool
    ) -> list[Any]:
        first, others = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(others, list):  # as in draft 7
            first, others = others, schema.get("additionalItems", True)
        low, high = schema.get("minItems", 0), schema.get("maxItems", _MAX_VALUES)
        size = len(first) if others is False else max(len(first), 0 if minimal else 1)
        result: list[Any] = []
        seen: set[bytes] = set()
        for n in range(max(low, min(high, size))):
            item = first[n] if n < len(first) else others
            for attempt in range(100):
                value = self.value(item, name, depth + 1, variation + n + attempt)
                code = msgspec.json.encode(value)
                if code not in seen or not schema.get("uniqueItems", False):
                    break
            else:
                raise UnsupportedSchema("there are not enough different items")
            result.append(value)
            seen.add(code)
        return result


def _kind(schema: dict[str, Any], minimal: bool) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = "null" if minimal and "null" in kind else next((one for one in kind if one != "null"), "null")
    if kind is None:
        kind = next(
            (one for one, keywords in _KINDS.items() if any(keyword in schema for keyword in keywords)),
            "string",
        )
    if kind not in ("object", "array", "integer", "number", "string", "boolean", "null"):
        raise UnsupportedSchema(f"there is no type {str(kind)[:40]!r}")
    return str(kind)


def _merged(one: JSONValue, other: JSONValue) -> dict[str, Any]:
    """A schema for values that are valid under both."""
    if one is False or other is False:
        raise UnsupportedSchema("no value is valid under `false`")
    merged: dict[str, Any] = {} if one is True else dict(one)
    for key, value in ({} if other is True else other).items():
        old: JSONValue = merged.get(key, value)
        if old == value:
            merged[key] = value
        elif key == "properties":
            both = {name: {"allOf": [old[name], value[name]]} for name in old.keys() & value.keys()}
            merged[key] = old | value | both
        elif key in ("items", "additionalProperties", "propertyNames"):
            merged[key] = {"allOf": [old, value]}
        elif key == "type":
            merged[key] = _common_types(old, value)
        elif key in ("required", "allOf"):
            merged[key] = [*old, *value]
        elif key == "enum":
            merged[key] = [choice for choice in old if choice in value]
        elif key in _LOWEST or key in _HIGHEST:
            merged[key] = max(old, value) if key in _LOWEST else min(old, value)
        elif key in ("anyOf", "oneOf", "pattern", "const"):
            raise UnsupportedSchema(f"two `{key}` apply to one value")
        else:
            merged[key] = value
    return merged


def _common_types(one: str | list[str], other: str | list[str]) -> list[str]:
    ones, others = ([kinds] if isinstance(kinds, str) else kinds for kinds in (one, other))
    common = [kind for kind in ones if kind in others or (kind == "integer" and "number" in others)]
    common += [kind for kind in others if kind == "integer" and "number" in ones and kind not in ones]
    if not common:
        raise UnsupportedSchema("no value has two types")
    return common


def _number(schema: dict[str, Any], kind: str, variation: int) -> int | float:
    """A multiple of `multipleOf`, or a whole number if there is one between the bounds."""
    step = _fraction(schema.get("multipleOf", 1))
    if step <= 0:
        raise UnsupportedSchema("`multipleOf` must be more than 0")
    if kind == "integer":
        step = Fraction(step.numerator)  # the least multiple that is whole
    lows, open_lows = _bounds(schema, "minimum"), _bounds(schema, "exclusiveMinimum")
    highs, open_highs = _bounds(schema, "maximum"), _bounds(schema, "exclusiveMaximum")
    firsts = [ceil(low / step) for low in lows] + [floor(low / step) + 1 for low in open_lows]
    lasts = [floor(high / step) for high in highs] + [ceil(high / step) - 1 for high in open_highs]
    last = min(lasts, default=max([1, *firsts]) + 999)
    first = max(firsts, default=min(1, last))
    if first <= last:
        value = (first + variation % (last - first + 1)) * step
    else:
        low, high = max(lows + open_lows), min(highs + open_highs)
        narrow = low > high or (low == high and (open_lows or open_highs))
        if narrow or kind == "integer" or "multipleOf" in schema:
            raise UnsupportedSchema("no number is between its bounds")
        value = low + (high - low) * (1 + variation % 97) / 98
    return int(value) if value.denominator == 1 else float(value)


def _bounds(schema: dict[str, Any], name: str) -> list[Fraction]:
    return [_fraction(schema[name])] if name in schema else []


def _fraction(value: int | float) -> Fraction:
    if not isinstance(value, int | float):
        raise TypeError  # a text such as "1e999999999" would take forever
    return Fraction(str(value))


def _string(schema: dict[str, Any], name: str, variation: int) -> str:
    low, high = schema.get("minLength", 0), schema.get("maxLength", 10_000)
    if "pattern" in schema:
        text = matching_text(schema["pattern"], low)
    elif schema.get("format") in _FORMATS:
        text = _FORMATS[schema["format"]].format(day=1 + variation % 28)
    else:
        text = f"demo {name} {variation + 1}" if variation else f"demo {name}"
        if len(text) > high:
            text = f"{variation}{name}"[:high]
        text = text.ljust(min(low, 10_000), "x")
    if not low <= len(text) <= high:
        raise UnsupportedSchema("no text has the required length")
    return text
