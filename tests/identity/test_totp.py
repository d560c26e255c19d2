"""One-time codes against the vectors of RFC 6238, and what an app reads."""

import base64

import pytest

from bluesminds.identity.qr_code import qr_svg
from bluesminds.identity.totp import STEP_MS, code_at, new_secret, provisioning_uri, step_of

SECRET = base64.b32encode(b"12345678901234567890").decode()
# Appendix B: seconds since the epoch, and the last six of the eight digits.
VECTORS = {
    59: "287082",
    1111111109: "081804",
    1111111111: "050471",
    1234567890: "005924",
    2000000000: "279037",
    20000000000: "353130",
}


@pytest.mark.parametrize(("seconds", "code"), VECTORS.items())
def test_code_of_the_vectors_is_right(seconds: int, code: str) -> None:
    assert code_at(SECRET, seconds // 30) == code
    assert step_of(SECRET, code, seconds * 1000) == seconds // 30


def test_code_is_right_one_step_before_and_after() -> None:
    now = 1_800_000_000_000
    step = now // STEP_MS
    found = [step_of(SECRET, code_at(SECRET, step + shift), now) for shift in (-2, -1, 0, 1, 2)]
    assert found == [None, step - 1, step, step + 1, None]


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "\u0661\u0662\u0663\u0664\u0665\u0666"])
def test_text_that_is_no_code_is_wrong(code: str) -> None:
    assert step_of(SECRET, code, 0) is None


def test_secrets_have_160_bits_and_differ() -> None:
    assert len(base64.b32decode(new_secret())) == 20
    assert new_secret() != new_secret()


def test_uri_has_what_an_app_needs() -> None:
    uri = provisioning_uri(SECRET, "ada+x@example.com")
    assert uri == (
        f"otpauth://totp/BluesMinds%3Aada%2Bx%40example.com?secret={SECRET}&issuer=BluesMinds"
        "&algorithm=SHA1&digits=6&period=30"
    )
    image = qr_svg(uri)
    assert image.startswith(b"<svg ")
    assert b"script" not in image
