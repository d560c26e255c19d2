"""API keys, ids and encrypted secrets."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.crypto import (
    Vault,
    is_well_formed,
    key_digest,
    new_key,
    new_master_key,
    token_digest,
    uuid7,
)

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_new_key_many_keys_are_unique_and_well_formed() -> None:
    keys = {new_key() for _ in range(500)}
    assert len(keys) == 500
    for key in keys:
        assert len(key) == 39
        assert key.startswith("bm_")
        assert set(key[3:]) <= set(ALPHABET)
        assert is_well_formed(key)
    assert len({char for key in keys for char in key[3:33]}) == 62


@given(st.integers(0, 38), st.sampled_from(ALPHABET))
def test_is_well_formed_one_wrong_character_is_false(place: int, char: str) -> None:
    key = "bm_J3yYkqYhOCd8QFYeZnBYvVp5wjA8mN3e8TLR"
    body = next(key for key in iter(new_key, "") if key)
    altered = body[:place] + char + body[place + 1 :]
    assert is_well_formed(altered) == (altered == body)
    assert not is_well_formed(key[:-1])


@given(st.integers(3, 37))
def test_is_well_formed_two_swapped_characters_is_false(place: int) -> None:
    key = new_key()
    swapped = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    assert is_well_formed(swapped) == (swapped == key)


@given(st.text())
def test_is_well_formed_other_text_is_false(text: str) -> None:
    assert not is_well_formed(text)
    assert not is_well_formed("bm_" + text)


def test_key_digest_depends_on_key_and_pepper() -> None:
    digests = {key_digest(pepper, key) for pepper in (b"a", b"b") for key in ("x", "y")}
    assert len(digests) == 4
    assert {len(digest) for digest in digests} == {32}
    assert token_digest("t") == token_digest("t") != token_digest("u")


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=20, unique=True))
def test_uuid7_ids_sort_by_time_and_have_version_7(times: list[int]) -> None:
    ids = [uuid7(at) for at in sorted(times)]
    assert ids == sorted(ids)
    for at, text in zip(sorted(times), ids, strict=True):
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert parsed.int >> 80 == at


def test_uuid7_ids_of_one_millisecond_sort_by_creation() -> None:
    ids = [uuid7(at) for at in (1, 2, 3) for _ in range(1000)]
    assert ids == sorted(ids)


def test_uuid7_same_time_ids_differ() -> None:
    assert len({uuid7(1) for _ in range(1000)}) == 1000


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_vault_sealed_secret_opens(secret: str) -> None:
    vault = Vault([MASTER])
    sealed = vault.seal(secret)
    assert vault.open(sealed) == secret
    assert vault.seal(secret) != sealed


@given(st.binary())
def test_vault_sealed_bytes_open(data: bytes) -> None:
    sealed = Vault([MASTER]).seal_bytes(data)
    assert Vault([MASTER]).open_bytes(sealed) == data


MASTER = new_master_key()


def test_vault_new_first_master_key_opens_old_secrets() -> None:
    old, new = new_master_key(), new_master_key()
    sealed = Vault([old]).seal("s")
    assert Vault([new, old]).open(sealed) == "s"
    resealed = Vault([new, old]).seal("s")
    assert Vault([new]).open(resealed) == "s"
    with pytest.raises(ValueError, match="another master key"):
        Vault([new]).open(sealed)


def test_vault_altered_secret_is_refused() -> None:
    sealed = bytearray(Vault([MASTER]).seal("s"))
    sealed[20] ^= 1
    with pytest.raises(ValueError, match="another master key"):
        Vault([MASTER]).open(bytes(sealed))
