"""The search for secrets finds them, and no encrypted value."""

import pytest

from tests.secrets_found import found_in

SESSION = b"bms_" + b"s" * 43


@pytest.mark.parametrize(
    "secret",
    [
        b"bm_" + b"k" * 36,
        SESSION,
        b"whsec_" + b"w" * 43 + b"=",
        b"https://ai.example/account/reset#token=" + b"t" * 43,
        b"Say hello.",
    ],
    ids=["key", "session", "secret of a webhook", "link", "prompt"],
)
def test_secret_between_other_bytes_is_found(secret: bytes) -> None:
    assert len(found_in("log", b'{"x": "' + secret + b'"}', (b"Say hello.",))) == 1


def test_form_inside_an_encrypted_value_is_not_found() -> None:
    assert found_in("log", b"gAAAA" + SESSION + b"xyz", ()) == []
