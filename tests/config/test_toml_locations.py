"""The key-to-line index is exact for valid text and never raises for other text."""

import string
import tomllib
from dataclasses import dataclass, field

import tomli_w
from hypothesis import example, given
from hypothesis import strategies as st

from bluesminds.config.toml_locations import KeyPath, index_lines, line_of

LAYOUT = '''\
title = "x" # [not.a.table]
a.b = 1
a.c = 2

[server]
port = 3000
text = """
[limits]
fake = 1 ""\\"
"""
'quoted key' = 1
"esc\\u0061ped" = 2

  [ server . "sub.table" ]
deep = [ 1, # = [x]
  [2,
   3], { x = 1, y.z = "}" },
]
after = {env="X", more = {a = [1, 2]}}

[[servers]]
name = "one"
[servers.tags]
k = 1
[[servers.targets]]
n = 1
[[servers.targets]]
n = 2
[[servers]]
name = \'\'\'
[[servers]]\'\'\'
url = 1
'''


def test_index_lines_every_key_form_has_its_line() -> None:
    expected: dict[KeyPath, int] = {
        ("title",): 1,
        ("a",): 2,
        ("a", "b"): 2,
        ("a", "c"): 3,
        ("server",): 5,
        ("server", "port"): 6,
        ("server", "text"): 7,
        ("server", "quoted key"): 11,
        ("server", "escaped"): 12,
        ("server", "sub.table"): 14,
        ("server", "sub.table", "deep"): 15,
        ("server", "sub.table", "deep", 0): 15,
        ("server", "sub.table", "deep", 1): 16,
        ("server", "sub.table", "deep", 1, 0): 16,
        ("server", "sub.table", "deep", 1, 1): 17,
        ("server", "sub.table", "deep", 2): 17,
        ("server", "sub.table", "deep", 2, "x"): 17,
        ("server", "sub.table", "deep", 2, "y"): 17,
        ("server", "sub.table", "deep", 2, "y", "z"): 17,
        ("server", "sub.table", "after"): 19,
        ("server", "sub.table", "after", "env"): 19,
        ("server", "sub.table", "after", "more"): 19,
        ("server", "sub.table", "after", "more", "a"): 19,
        ("server", "sub.table", "after", "more", "a", 0): 19,
        ("server", "sub.table", "after", "more", "a", 1): 19,
        ("servers",): 21,
        ("servers", 0): 21,
        ("servers", 0, "name"): 22,
        ("servers", 0, "tags"): 23,
        ("servers", 0, "tags", "k"): 24,
        ("servers", 0, "targets"): 25,
        ("servers", 0, "targets", 0): 25,
        ("servers", 0, "targets", 0, "n"): 26,
        ("servers", 0, "targets", 1): 27,
        ("servers", 0, "targets", 1, "n"): 28,
        ("servers", 1): 29,
        ("servers", 1, "name"): 30,
        ("servers", 1, "url"): 32,
    }
    tomllib.loads(LAYOUT)
    assert dict(index_lines(LAYOUT)) == expected
    assert dict(index_lines(LAYOUT.replace("\n", "\r\n"))) == expected


def test_line_of_unknown_path_gives_enclosing_table() -> None:
    lines = index_lines("[server]\nport = 1\n")
    assert line_of(lines, ("server", "host")) == 1
    assert line_of(lines, ("server", "port", "env")) == 2
    assert line_of(lines, ("other",)) is None


PIECES = [
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "\n",
    "\r\n",
    " ",
    "#",
    '"',
    "'",
    '"""',
    "'''",
    "\\",
    "a",
    "1",
]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
@example("[" * 20_000)
@example("a = " + "[" * 20_000)
@example("a = " + "{b=" * 20_000)
@example("a." * 20_000)
@example("]}," * 1_000)
@example('"\\ud800" = 1')
def test_index_lines_any_text_never_raises(text: str) -> None:
    lines = index_lines(text)
    last = text.count("\n") + 1
    assert all(1 <= line <= last for line in lines.values())


KEYS = st.text(string.ascii_letters + string.digits + "-_.\"' é", min_size=1, max_size=8)
SCALARS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.text(string.printable + "é", max_size=20).filter(lambda text: "\r" not in text),
    st.sampled_from(["[server]\nport = 1\n", "# no", '"""', "'''\n[[x]]"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)


@given(st.dictionaries(KEYS, VALUES, max_size=5), st.booleans())
def test_index_lines_written_document_has_every_leaf(data: dict[str, object], multiline: bool) -> None:
    text = tomli_w.dumps(data, multiline_strings=multiline)
    lines, rows = index_lines(text), text.split("\n")
    seen: list[int] = []
    for path in _leaves(tomllib.loads(text)):
        assert path in lines, path
        seen.append(lines[path])
        if isinstance(path[-1], str):
            assert _written(path[-1]) in rows[lines[path] - 1]
    assert seen == sorted(seen)


def _leaves(value: object, path: KeyPath = ()) -> list[KeyPath]:
    """Paths of keys and elements in document order; tables themselves are left out when empty."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for at, inner in enumerate(value) for leaf in _leaves(inner, (*path, at))]
    return [path]


def _written(key: str) -> str:
    return tomli_w.dumps({key: 0}).removesuffix(" = 0\n")


@dataclass
class Writer:
    """Writes TOML line by line and notes where each key went."""

    rows: list[str] = field(default_factory=list)
    expected: dict[KeyPath, int] = field(default_factory=dict)

    def row(self, text: str, *paths: KeyPath) -> None:
        self.rows += text.split("\n")
        for path in paths:
            self.expected[path] = len(self.rows) - text.count("\n")


NOISE = st.sampled_from(["", "# [a]", "  # x = 1", "\t"])
WRITTEN = st.sampled_from(
    [
        "1",
        '"[a]"',
        '"""\n[a]\nb = 1\n"""',
        "'''\n# x\n'''",
        "[\n 1, # ]\n [2, '],'],\n]",
        "{a=1, b=[1]} # {",
        "1979-05-27",
    ]
)


@given(st.lists(st.tuples(NOISE, st.booleans(), st.lists(WRITTEN, max_size=3)), max_size=6))
def test_index_lines_mixed_blocks_are_exact(blocks: list[tuple[str, bool, list[str]]]) -> None:
    writer, servers = Writer(), 0
    for number, (noise, array, values) in enumerate(blocks):
        writer.row(noise)
        table: KeyPath = ("servers", servers) if array else (f"table{number}",)
        writer.row("[[servers]]" if array else f"[table{number}]", table)
        servers += array
        for at, value in enumerate(values):
            writer.row(noise)
            writer.row(f"key{at} = {value}", (*table, f"key{at}"))
    text = "\n".join(writer.rows)
    tomllib.loads(text)
    lines = index_lines(text)
    assert {path: lines.get(path) for path in writer.expected} == writer.expected
