"""Signed tokens and their claims: keys that must not be used, and the skew of clocks."""

from typing import Any

import pytest

from bluesminds.identity.external import CLOCK_SKEW, IdentityRejected
from bluesminds.identity.jose import ALGORITHMS, fits, header_of, read_payload
from bluesminds.identity.oidc import check_claims
from tests.fakes.identity_server import EcSigner, RsaSigner, number

NOW = 1_800_000_000
CLAIMS: dict[str, Any] = {"iss": "https://a.example", "sub": "1", "aud": "me", "iat": NOW, "exp": NOW + 600}
RSA, EC = RsaSigner("one"), EcSigner("one")


def test_key_with_a_published_private_part_fits_no_token() -> None:
    header = header_of(RSA.sign(CLAIMS), ALGORITHMS)
    assert fits(RSA.jwk, header)
    assert not fits(RSA.jwk | {"d": number(RSA.key.private_numbers().d)}, header)


@pytest.mark.parametrize(
    "jwk",
    [
        RsaSigner("one", bits=1024).jwk,
        RSA.jwk | {"n": "f" * 200_000},
        RSA.jwk | {"e": "f" * 200_000},
        RSA.jwk | {"e": "AQ"},
        RSA.jwk | {"n": ""},
    ],
    ids=["short", "huge", "huge exponent", "exponent 1", "empty"],
)
def test_rsa_key_of_an_unusual_size_is_refused(jwk: dict[str, Any]) -> None:
    token = RSA.sign(CLAIMS)
    assert read_payload(token, RSA.jwk, header_of(token, ALGORITHMS)) == CLAIMS
    with pytest.raises(IdentityRejected):
        read_payload(token, jwk, header_of(token, ALGORITHMS))


@pytest.mark.parametrize("header", [{"alg": "ES384"}, {"alg": "RS256"}, {"alg": "EdDSA"}], ids=str)
def test_key_of_another_algorithm_is_refused(header: dict[str, Any]) -> None:
    token = EC.sign(CLAIMS, **header)
    with pytest.raises(IdentityRejected):
        read_payload(token, EC.jwk, header_of(token, ALGORITHMS))


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({"exp": NOW - CLOCK_SKEW + 1}, True),
        ({"exp": NOW - CLOCK_SKEW}, False),
        ({"iat": NOW + CLOCK_SKEW}, True),
        ({"iat": NOW + CLOCK_SKEW + 1}, False),
        ({"nbf": NOW + CLOCK_SKEW}, True),
        ({"nbf": NOW + CLOCK_SKEW + 1}, False),
    ],
    ids=str,
)
def test_times_of_a_token_may_differ_by_the_clock_skew(claims: dict[str, Any], accepted: bool) -> None:
    try:
        check_claims(CLAIMS | claims, issuers=("https://a.example",), audience="me", now=NOW)
    except IdentityRejected:
        assert not accepted
    else:
        assert accepted
