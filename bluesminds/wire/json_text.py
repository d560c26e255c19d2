"""JSON as bytes: values that are only forwarded keep their bytes and are not validated.

msgspec reads everything that follows RFC 8259. Real clients and servers also send lone surrogates, NaN,
Infinity, numbers beyond a double, a byte order mark and broken UTF-8. A second, slower reader accepts these,
in texts of up to MAX_ODD bytes.
"""

import json
import math
from typing import Final, TypeVar

import msgspec
from msgspec import Raw

T = TypeVar("T")

Fields = dict[str, Raw]  # a JSON object's top level; every value keeps its bytes

# Errors of decoding bytes that are not the expected JSON; invalid UTF-8 is not a DecodeError.
NOT_JSON = (msgspec.DecodeError, UnicodeError, RecursionError, ValueError)
MAX_ODD = 4 * 1024 * 1024  # bytes; the slower reader takes up to 0.1 s for as much
ABSENT: Final = Raw()  # msgspec does not take Raw in a union with None

_BOM = b"\xef\xbb\xbf"
_WHITESPACE = " \t\r\n"
_object = msgspec.json.Decoder(Fields)
_python = json.JSONDecoder()

_SMALL_TEXT = 4096  # bytes; smaller values are not examined
_SMALL_MEDIA = 1024  # bytes; a longer run of base64 is not text
_LONGEST_MEDIA_TYPE = 256  # bytes
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=\\"


def read_fields(text: bytes) -> Fields:
    """The top-level fields of an object. Of a duplicate key the last value counts. Raises one of NOT_JSON."""
    try:
        return _object.decode(text)
    except NOT_JSON:
        return _read_odd_fields(text)


def _read_odd_fields(data: bytes) -> Fields:
    text = _odd_text(data).decode("utf-8", "surrogateescape")
    fields: Fields = {}
    at = _skip(text, 0, "{")
    if text.startswith("}", at):
        end = at + 1
    else:
        while True:
            if not text.startswith('"', at):
                raise ValueError("a key is missing")
            key, at = _python.raw_decode(text, at)
            value_at = _skip(text, _skip_space(text, at), ":")
            _, end = _python.raw_decode(text, value_at)
            fields[key] = Raw(text[value_at:end].encode("utf-8", "surrogateescape"))
            at = _skip_space(text, end)
            if text.startswith("}", at):
                end = at + 1
                break
            at = _skip(text, at, ",")
    if _skip_space(text, end) != len(text):
        raise ValueError("trailing characters")
    return fields


def _skip(text: str, at: int, mark: str) -> int:
    """The offset of what follows `mark`."""
    at = _skip_space(text, at)
    if not text.startswith(mark, at):
        raise ValueError(f"{mark} is missing")
    return _skip_space(text, at + 1)


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _WHITESPACE:
        at += 1
    return at


def _odd_text(data: bytes) -> bytes:
    if len(data) > MAX_ODD:
        raise ValueError("too large for the slower reader")
    return data.removeprefix(_BOM)


def write_fields(fields: Fields) -> bytes:
    """The object with every key once and unchanged values."""
    try:
        return msgspec.json.encode(fields)
    except UnicodeError:  # a key has a lone surrogate
        pairs = [b"%b:%b" % (json.dumps(key).encode(), bytes(value)) for key, value in fields.items()]
        return b"{%b}" % b",".join(pairs)


def decode(decoder: msgspec.json.Decoder[T], data: bytes | Raw) -> T:
    """Decode, also invalid JSON that real clients send. Raises one of NOT_JSON."""
    try:
        return decoder.decode(data)
    except NOT_JSON:
        return decoder.decode(_cleaned(bytes(data)))


def _cleaned(data: bytes) -> bytes:
    """The same value as valid JSON. Only for reading, never for forwarding."""
    text = _odd_text(data).decode("utf-8", "replace")
    value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


_anything = msgspec.json.Decoder()


def read_value(data: bytes | Raw) -> object:
    """Any JSON value; numbers beyond a double are None. Raises one of NOT_JSON."""
    return decode(_anything, data)


def is_json(data: bytes) -> bool:
    try:
        read_value(data)
    except NOT_JSON:
        return False
    return True


def is_set(raw: Raw | None) -> bool:
    """Whether a value is present, and is not null, false, empty or {}."""
    return raw is not None and bytes(raw) not in (b"", b"null", b"false", b'""', b"{}", b"[]")


def text_bytes(fields: Fields) -> int:
    """The size of the values that may be text."""
    size = sum(map(len, fields.values()))
    return size if size < _SMALL_TEXT else sum([text_size(bytes(value)) for value in fields.values()])


def text_size(text: bytes) -> int:
    """The size of JSON that may be text. Images and audio in base64 are left out, because servers do not
    count them by length.
    """
    if len(text) < _SMALL_TEXT:
        return len(text)
    strings = text.split(b'"')
    return len(text) - sum(len(one) for one in strings if len(one) >= _SMALL_MEDIA and _is_media(one))


def _is_media(text: bytes) -> bool:
    if b";base64," not in text[:_LONGEST_MEDIA_TYPE] and text[:_SMALL_MEDIA].translate(None, _BASE64):
        return False
    head, mark, data = text.partition(b";base64,")
    return not (data if mark and len(head) < _LONGEST_MEDIA_TYPE else text).translate(None, _BASE64)
