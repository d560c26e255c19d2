"""Headers that the operator adds to requests to a server."""

import pytest

from bluesminds.common.server_headers import MAX_HEADERS, check_headers, holds_credential
from tests.cases import each


@each(
    ("name", "is_credential"),
    [
        ("Authorization", True),
        ("Proxy-Authorization", True),
        ("x-portkey-api-key", True),
        ("x-portkey-virtual-key", True),
        ("apikey", True),
        ("X-Auth", True),
        ("Cookie", True),
        ("x-access-token", True),
        ("x-portkey-provider", False),
        ("X-Title", False),
        ("HTTP-Referer", False),
        ("OpenAI-Organization", False),
    ],
)
def test_header_with_a_credential_is_known_by_its_name(name: str, is_credential: bool) -> None:
    assert holds_credential(name) is is_credential


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content-Length": "5"}, "the gateway sets the header Content-Length itself"),
        ({"": "x"}, "the name of a header must have only letters"),
        ({"A:": "x"}, "the name of a header must have only letters"),
        ({"Ä": "x"}, "the name of a header must have only letters"),
        ({"A": ""}, "the value of the header A must be printable ASCII text"),
        ({"A": " x"}, "the value of the header A must be printable ASCII text"),
        ({"A": "secret\r\nB: x"}, "the value of the header A must be printable ASCII text"),
        ({"A": "secret-é"}, "the value of the header A must be printable ASCII text"),
        ({"A": "1", "a": "2"}, "the header A is set twice"),
        ({f"A{n}": "x" for n in range(MAX_HEADERS + 1)}, "at most 32 headers are allowed"),
    ],
)
def test_wrong_header_is_refused_without_its_value(headers: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_headers(headers)
    assert "secret" not in str(caught.value)


def test_usual_headers_are_accepted() -> None:
    check_headers({})
    check_headers({"HTTP-Referer": "https://app.example.com", "X-Title": "Our app, 2.0", "A": "b"})
