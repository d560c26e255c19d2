"""Validation of e-mail addresses, compared with the standard library's parser."""

from email.headerregistry import Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.emails import read_email, require_email
from bluesminds.common.errors import InvalidRequest
from tests.cases import each

WRONG = [
    *("", "a", "@b.cc", "a@", "a@b", "a b@c.dd", "a@b .cc", "a@b@c.dd", "a..b@c.dd", ".a@c.dd", "a.@c.dd"),
    *(
        "a@-b.cc",
        "a@b-.cc",
        "a@b..cc",
        "a@b.cc.",
        "a@[127.0.0.1]",
        "a@127.0.0.1",
        "a@b.c\n",
        "a\r\nBcc: b@c.dd",
    ),
    *(
        '"a b"@c.dd',
        "a,b@c.dd",
        "<a@b.cc>",
        "a@b.cc, c@d.ee",
        "\u0131@b.cc",
        "a@b\u3002cc",
        "a@\u212a.cc",
        "a@b_.cc",
    ),
    *(
        "x" * 65 + "@b.cc",
        "a@" + "b" * 64 + ".cc",
        "a@" + "b." * 130 + "cc",
        "a\0@b.cc",
        "a(c)@b.cc",
        "a@b.cc\u200b",
    ),
]


@each("text", WRONG)
def test_read_email_invalid_address_is_refused(text: str) -> None:
    assert read_email(text) is None
    with pytest.raises(InvalidRequest) as caught:
        require_email(text)
    assert (caught.value.code, caught.value.param) == ("invalid_email", "email")


@pytest.mark.parametrize(
    "text", ["a@b.cc", "ada+x@mail.example.com", "o'neil_1%@xn--mnchen-3ya.de", "a@1.cc"]
)
def test_read_email_valid_address_is_stripped(text: str) -> None:
    assert read_email(f" {text} ") == text


letters = st.text(st.sampled_from('ab1.@-_+\\"<>(),:; \t\r\n\0\u0131\u00e9\u3002'), max_size=30)


@given(letters | st.text(max_size=300) | st.emails())
def test_read_email_any_text_gives_one_recipient_on_one_line(text: str) -> None:
    found = read_email(text)
    if found is None:
        return
    assert found.isascii() and found.isprintable() and " " not in found and len(found) <= 254
    assert found.count("@") == 1
    assert Address(addr_spec=found).addr_spec == found, "the library reads the same address"
    assert read_email(found) == found


@given(st.emails(domains=st.just("example.com")))
def test_read_email_common_address_is_accepted(address: str) -> None:
    assert read_email(address) == address
