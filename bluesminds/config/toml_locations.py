"""Finds the line of every key of a TOML text, which tomllib does not provide.

It reads only headers, keys, and enough of values to skip them. It expects text that tomllib has accepted; for
other text the result is undefined, but it never raises. Paths are tuples of keys and array positions, such as
("servers", 0, "url"), cut off at DEPTH to bound their size.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

KeyPath = tuple[str | int, ...]

DEPTH = 16

_TOKEN = re.compile(
    r'''
      (?P<space>   [ \t]+ | \#[^\n]* )
    | (?P<newline> \n )
    | (?P<block>   """(?:[^"\\]|\\.|"{1,2}(?!"))*+"{3,5} | \'\'\'(?:[^']|'{1,2}(?!'))*+'{3,5} )
    | (?P<word>    [A-Za-z0-9_-]+ )
    | (?P<quoted>  "(?:[^"\\\n]|\\[^\n])*+" | '[^'\n]*+' )
    | (?P<mark>    . )
    ''',
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind, part = match.lastgroup or "", match.group()
        if kind != "space":
            yield _Token(kind, part, line)
        if kind in ("newline", "block"):
            line += part.count("\n")


def _key(token: _Token) -> str:
    if token.kind != "quoted":
        return token.text
    try:
        return next(iter(tomllib.loads(f"{token.text} = 0")))
    except tomllib.TOMLDecodeError:
        return token.text


def _below(path: KeyPath, part: str | int) -> KeyPath:
    return (*path, part) if len(path) < DEPTH else path


@dataclass(slots=True)
class _OpenTable:
    """An open array or inline table; `index` is the position in an array, None for a table."""

    path: KeyPath
    index: int | None


@dataclass(slots=True)
class _TableTree:
    lines: dict[KeyPath, int] = field(default_factory=dict)
    counts: dict[KeyPath, int] = field(default_factory=dict)
    table: KeyPath = ()
    stack: list[_OpenTable] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    value_of: KeyPath | None = None

    def note(self, base: KeyPath, keys: list[str], line: int) -> KeyPath:
        """Record the first line of every prefix of a dotted key; return the whole path."""
        path = base
        for key in keys:
            path = _below(path, key)
            self.lines.setdefault(path, line)
        return path

    def header(self, keys: list[str], array: bool, line: int) -> None:
        path: KeyPath = ()
        for key in keys[:-1]:
            path = self._last(self.note(path, [key], line))
        path = self.note(path, keys[-1:], line)
        if array:
            self.counts[path] = self.counts.get(path, -1) + 1
        self.table = self._last(path)
        self.lines.setdefault(self.table, line)

    def _last(self, path: KeyPath) -> KeyPath:
        return _below(path, self.counts[path]) if path in self.counts else path

    def process(self, token: _Token) -> None:
        """Process one token outside a header."""
        if self.value_of is None:
            self._process_key(token)
        else:
            self._process_value(token)

    def _process_key(self, token: _Token) -> None:
        if token.kind in ("word", "quoted"):
            self.keys.append(_key(token))
        elif token.text == "=":
            base = self.stack[-1].path if self.stack else self.table
            self.value_of = self.note(base, self.keys, token.line)
            self.keys = []
        elif token.text == "}":
            self._close()
        elif token.kind == "newline" and not self.stack:
            self.keys = []

    def _process_value(self, token: _Token) -> None:
        path = self.value_of or ()
        if self.stack and self.stack[-1].index is not None and token.text not in (",", "]", "\n"):
            self.lines.setdefault(path, token.line)
        if token.text == "[":
            self.stack.append(_OpenTable(path, 0))
            self.value_of = _below(path, 0)
        elif token.text == "{":
            self.stack.append(_OpenTable(path, None))
            self.value_of, self.keys = None, []
        elif token.text in ("]", "}"):
            self._close()
        elif token.text == ",":
            self._next()
        elif token.kind == "newline" and not self.stack:
            self.value_of = None

    def _close(self) -> None:
        """Close the innermost array or inline table."""
        self.keys = []
        self.value_of = self.stack.pop().path if self.stack else ()

    def _next(self) -> None:
        if not self.stack:
            return
        inner = self.stack[-1]
        if inner.index is None:
            self.value_of = None
        else:
            inner.index += 1
            self.value_of = _below(inner.path, inner.index)


def index_lines(text: str) -> Mapping[KeyPath, int]:
    """The line (from 1) of every key, table and array element of a TOML text."""
    outline = _TableTree()
    tokens = _tokens(text.replace("\r\n", "\n"))
    for token in tokens:
        at_statement = outline.value_of is None and not outline.stack and not outline.keys
        if token.text == "[" and token.kind == "mark" and at_statement:
            _read_header(outline, token, tokens)
        else:
            outline.process(token)
    return outline.lines


def _read_header(outline: _TableTree, start: _Token, tokens: Iterator[_Token]) -> None:
    array, keys = False, list[str]()
    for token in tokens:
        if token.kind in ("word", "quoted"):
            keys.append(_key(token))
        elif token.text == "[":
            array = True
        elif token.text == "]" or token.kind == "newline":
            break
    if keys:
        outline.header(keys, array, start.line)


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int | None:
    """The line of a path, else of the nearest enclosing table that has one."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None
