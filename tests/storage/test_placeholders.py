from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.placeholders import translate


@pytest.mark.parametrize(
    ("sql", "expected", "names"),
    [
        ("SELECT 1", "SELECT 1", ()),
        ("SELECT :a, :b, :a", "SELECT $1, $2, $1", ("a", "b")),
        ("SELECT :a::text[], b::bigint", "SELECT $1::text[], b::bigint", ("a",)),
        ("SELECT ':a', 'it''s :b', :c", "SELECT ':a', 'it''s :b', $1", ("c",)),
        ('SELECT ":a" FROM t WHERE x = :x', 'SELECT ":a" FROM t WHERE x = $1', ("x",)),
        ("SELECT 1 -- :a\n, :b", "SELECT 1 -- :a\n, $1", ("b",)),
        ("SELECT /* :a */ :b", "SELECT /* :a */ $1", ("b",)),
    ],
)
def test_placeholders_in_statement_are_translated(sql: str, expected: str, names: tuple[str, ...]) -> None:
    statement = translate(sql, "$")
    assert (statement.sql, statement.names) == (expected, names)


@given(st.text(alphabet=":'a", max_size=12))
def test_placeholders_in_quoted_text_are_kept(text: str) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    assert translate(f"SELECT {quoted}, :x", "?").sql == f"SELECT {quoted}, ?1"


def test_parameters_missing_or_unknown_are_rejected() -> None:
    statement = translate("SELECT :a, :b", "?")
    assert statement.bind({"b": 2, "a": 1}) == (1, 2)
    for wrong in ({"a": 1}, {"a": 1, "c": 2}, {"a": 1, "b": 2, "c": 3}):
        with pytest.raises(TypeError, match="statement takes"):
            statement.bind(wrong)


@dataclass(frozen=True)
class Sample:
    b: int
    a: int


def test_row_columns_are_attributes() -> None:
    rows = [Sample(b=1, a=2), Sample(b=3, a=4)]
    assert translate("SELECT :a, :b", "?").bind_rows(rows) == [(2, 1), (4, 3)]
    assert translate("SELECT :b", "?").bind_rows(rows) == [(1,), (3,)]
