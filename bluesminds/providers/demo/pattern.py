"""Texts that match a regular expression, for `pattern` in a JSON Schema.

The pattern is read here and never given to `re`, where a hostile one could take forever.
"""

import re

_QUANTIFIER = re.compile(r"(?:([*+?])|\{(\d+)(?:(,)(\d*))?\})\??")
_GROUP = re.compile(r"\((?:\?:|\?P?<\w+>|(?!\?))")
_ESCAPES = {"d": "1", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a", "n": "\n", "r": "\r", "t": "\t"}
_RANGES = {
    "d": [("0", "9")],
    "w": [("0", "9"), ("A", "Z"), ("a", "z"), ("_", "_")],
    "s": [("\t", "\r"), (" ", " ")],
}
_CANDIDATES = "a1A-_ .x" + "".join(map(chr, range(33, 127)))
_MAX_LENGTH = 10_000


class UnsupportedSchema(ValueError):
    """The demo server cannot make an instance of a JSON Schema; the text says why."""


def matching_text(pattern: str, low: int) -> str:
    """A text of at least `low` characters that matches. Raises UnsupportedSchema."""
    text = _Matcher(pattern, 0).text()
    if len(text) < low:
        text = _Matcher(pattern, low - len(text)).text()
    return text if pattern.endswith("$") else text.ljust(min(low, _MAX_LENGTH), "x")


class _Matcher:
    """Takes the first alternative and the smallest repetition, and `extra` characters from repetitions."""

    def __init__(self, pattern: str, extra: int) -> None:
        self._pattern = pattern
        self._extra = extra
        self._at = 0

    def text(self) -> str:
        text = self._alternatives()
        if self._at < len(self._pattern):
            raise self._unsupported()
        return text

    def _alternatives(self) -> str:
        text = self._sequence()
        extra = self._extra
        while self._next("|"):
            self._sequence()
        self._extra = extra
        return text

    def _sequence(self) -> str:
        text = ""
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            text += self._repeated(self._atom())
            if len(text) > _MAX_LENGTH:
                raise self._unsupported()
        return text

    def _atom(self) -> str:
        if self._pattern[self._at] == "[":
            return self._class()
        if found := _GROUP.match(self._pattern, self._at):
            self._at = found.end()
            text = self._alternatives()
            if not self._next(")"):
                raise self._unsupported()
            return text
        char = self._take()
        if char in "(*+?{":
            raise self._unsupported()
        if char == "\\":
            escaped = self._take()
            return _ESCAPES.get(escaped) or self._literal(escaped)
        return "" if char in "^$" else "a" if char == "." else char

    def _repeated(self, atom: str) -> str:
        found = _QUANTIFIER.match(self._pattern, self._at)
        if not found:
            return atom
        self._at = found.end()
        sign, least, comma, most = found.groups()
        low = int(least) if least else int(sign == "+")
        high = 1 if sign == "?" else int(most) if most else low if least and not comma else _MAX_LENGTH
        more = min(-(-self._extra // len(atom)), high - low) if atom and self._extra > 0 else 0
        self._extra -= more * len(atom)
        if (low + more) * len(atom) > _MAX_LENGTH or high < low:
            raise self._unsupported()
        return atom * (low + more)

    def _class(self) -> str:
        self._take()
        negated = self._next("^")
        ranges: list[tuple[str, str]] = []
        while not self._next("]"):
            ranges += self._members()
        if ranges and not negated:
            return ranges[0][0]
        for char in _CANDIDATES:
            if ranges and not any(low <= char <= high for low, high in ranges):
                return char
        raise self._unsupported()

    def _members(self) -> list[tuple[str, str]]:
        low = self._take()
        if low == "\\":
            low = self._take()
            if low in _RANGES:
                return _RANGES[low]
            low = self._literal(low) if low in "DWS" else _ESCAPES.get(low) or self._literal(low)
        if self._pattern[self._at : self._at + 1] != "-" or self._pattern[self._at + 1 : self._at + 2] in (
            "]",
            "",
        ):
            return [(low, low)]
        self._take()
        high = self._take()
        return [(low, self._literal(self._take()) if high == "\\" else high)]

    def _literal(self, escaped: str) -> str:
        if escaped.isalnum():
            raise self._unsupported()
        return escaped

    def _next(self, char: str) -> bool:
        found = self._pattern.startswith(char, self._at)
        self._at += found
        return found

    def _take(self) -> str:
        if self._at >= len(self._pattern):
            raise self._unsupported()
        self._at += 1
        return self._pattern[self._at - 1]

    def _unsupported(self) -> UnsupportedSchema:
        return UnsupportedSchema(f"the pattern {self._pattern[:100]!r} is too complicated")
