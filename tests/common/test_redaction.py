"""Built-in and own patterns of the prompt log."""

from bluesminds.common.redaction import Redactor
from tests.cases import each

ALL = Redactor(("email", "card", "key"))


@each(
    ("text", "expected"),
    [
        ("Write to ada@example.com today.", "Write to [email] today."),
        ("first.last+tag@mail.example.co.uk", "[email]"),
        ("at @home and a@b", "at @home and a@b"),
        ("4111 1111 1111 1111", "[card]"),
        ("card 5500-0000-0000-0004, thanks", "card [card], thanks"),
        ("number 4111 1111 1111 1112", "number 4111 1111 1111 1112"),
        ("1700000000000", "1700000000000"),
        ("key sk-proj-abcdefghijklmnop1234", "key [key]"),
        ("bm_Ab12Ab12Ab12Ab12Ab12Ab12Ab12Ab12Ab12", "[key]"),
        ("AKIAIOSFODNN7EXAMPLE", "[key]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc", "[key]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----!", "[key]!"),
        ("ask-me-anything-you-like-please", "ask-me-anything-you-like-please"),
    ],
)
def test_built_in_patterns_replace_what_they_name(text: str, expected: str) -> None:
    assert ALL.text(text) == (expected, int(text != expected))


def test_patterns_are_used_only_if_named() -> None:
    text = "ada@example.com 4111111111111111"
    assert Redactor().text(text) == (text, 0)
    assert Redactor(("card",)).text(text) == ("ada@example.com [card]", 1)
    assert not Redactor() and Redactor(("card",))


def test_own_pattern_replaces_its_matches() -> None:
    assert Redactor((), ("EMP-[0-9]{4}",)).text("EMP-1234 and EMP-99") == ("[redacted] and EMP-99", 1)
    assert Redactor((), ("x*",)).text("abc") == ("abc", 0)


def test_value_keeps_the_form_of_the_json() -> None:
    value = {"a": ["x@y.zz", 1, None, {"b": "no"}], "email@field.name": True}
    assert ALL.value(value) == ({"a": ["[email]", 1, None, {"b": "no"}], "email@field.name": True}, 1)
