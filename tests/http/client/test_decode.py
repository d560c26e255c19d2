"""Compressed bodies: the output does not depend on the split of the input; pieces have bounded size."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.http.client import decode as decoding
from bluesminds.http.client.decode import PIECE_BYTES, DecodeError, Decoder

Encode = Callable[[bytes], bytes]


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


CODINGS = [(b"gzip", gzip.compress), (b"deflate", zlib.compress), (b"deflate", raw_deflate)]
BODIES = st.binary(max_size=300) | st.integers(0, 2 * PIECE_BYTES + 2).map(bytes)


def decode(coding: bytes, encoded: bytes, step: int) -> tuple[bytes, bool]:
    decoder = Decoder(coding)
    out = []
    for start in range(0, len(encoded), step):
        decoder.feed(encoded[start : start + step])
        while piece := decoder.step():
            assert len(piece) <= PIECE_BYTES
            out.append(piece)
    return b"".join(out), decoder.finished


@given(st.sampled_from(CODINGS), BODIES, st.sampled_from([1, 2, 3, 100, 100_000]))
def test_decoder_encoded_body_is_restored(how: tuple[bytes, Encode], body: bytes, step: int) -> None:
    coding, encode = how
    assert decode(coding, encode(body), step) == (body, True)


@pytest.mark.parametrize("how", CODINGS)
def test_decoder_piece_boundary_keeps_every_byte(how: tuple[bytes, Encode]) -> None:
    coding, encode = how
    for size in range(PIECE_BYTES - 2, PIECE_BYTES + 300, 7):
        assert decode(coding, encode(bytes(size)), 100_000) == (bytes(size), True)


@given(st.sampled_from([b"gzip", b"deflate"]), st.binary(max_size=100), st.integers(1, 100))
def test_decoder_any_bytes_are_decoded_or_rejected(coding: bytes, data: bytes, step: int) -> None:
    try:
        decode(coding, data, step)
    except DecodeError:
        pass


@given(st.sampled_from(CODINGS), st.data())
def test_decoder_truncated_body_is_not_finished(how: tuple[bytes, Encode], data: st.DataObject) -> None:
    coding, encode = how
    encoded = encode(b"some body, some body, some body")
    length = data.draw(st.integers(1, len(encoded) - 1))
    assert not decode(coding, encoded[:length], 10)[1]


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip,gzip", b"gzip, deflate", b"compress", b""])
def test_decoder_unsupported_coding_is_rejected(coding: bytes) -> None:
    with pytest.raises(DecodeError, match="not requested"):
        Decoder(coding)


def test_decoder_total_above_limit_is_rejected_at_any_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_DECODED", 100_000)
    body = b"".join(b"%d," % number for number in range(30_000))
    with pytest.raises(DecodeError, match="expands"):
        decode(b"gzip", gzip.compress(body), 1000)
