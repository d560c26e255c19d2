"""Forms as clients send them, as attackers send them, and cut at any place."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.multipart import (
    MAX_HEAD,
    MAX_PARTS,
    MAX_TAIL,
    FormEnd,
    MultipartScanner,
    PartHead,
    read_boundary,
    write_content_type,
    write_field,
)
from tests.cases import each

B = b"0123456789abcdef"
FIELD = b'Content-Disposition: form-data; name="model"'
FILE = b'Content-Disposition: form-data; name="file"; filename="a.mp3"\r\nContent-Type: audio/mpeg'


def form(*parts: tuple[bytes, bytes], boundary: bytes = B, tail: bytes = b"\r\n") -> bytes:
    """Of parts given as headers and content."""
    body = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, content) for head, content in parts)
    return body + b"--%b--%b" % (boundary, tail)


def read(body: bytes, *cuts: int, boundary: bytes = B) -> tuple[list[tuple[str, bool, bytes]], bytes]:
    """The parts with their contents, and all raw bytes together."""
    scanner = MultipartScanner(boundary)
    parts: list[tuple[str, bool, bytes]] = []
    raw = b""
    ended = False
    for start, end in zip((0, *cuts), (*cuts, len(body)), strict=True):
        for event in scanner.feed(body[start:end]):
            if isinstance(event, PartHead):
                parts.append((event.name, event.is_file, b""))
                raw += event.raw
            elif isinstance(event, FormEnd):
                ended = True
                raw += event.raw
            else:
                raw += event
                if not ended:
                    name, is_file, content = parts[-1]
                    parts[-1] = (name, is_file, content + event)
    scanner.finish()
    assert ended and scanner.ended
    return parts, raw


def refusal(body: bytes, *cuts: int) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(body, *cuts)
    assert (caught.value.status, caught.value.code) == (400, "invalid_multipart")
    return caught.value.message


def test_form_has_its_parts() -> None:
    body = form((FILE, b"\x00\r\n--\xff"), (FIELD, b"whisper-1"), (FIELD.replace(b"model", b"n"), b""))
    parts, raw = read(body)
    assert parts == [("file", True, b"\x00\r\n--\xff"), ("model", False, b"whisper-1"), ("n", False, b"")]
    assert raw == body


@pytest.mark.parametrize(
    ("head", "name", "is_file"),
    [
        (b"Content-Disposition: form-data; name=model", "model", False),
        (b"content-disposition:form-data;name=model", "model", False),
        (b'CONTENT-DISPOSITION: Form-Data ; NAME="model" ; ', "model", False),
        (b"Content-Disposition: form-data; name=include[]", "include[]", False),
        (b'Content-Disposition: form-data; name="image[]"; filename=""', "image[]", True),
        (b"Content-Disposition: form-data; name=f; filename*=utf-8''%e2%82%ac", "f", True),
        ('Content-Disposition: form-data; name="ä"; filename="ü \\ \' ;.png"'.encode(), "ä", True),
        (b'Content-Type: text/plain; charset="UTF-8"\r\nContent-Disposition: form-data; name=a', "a", False),
        (b"Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: BINARY", "a", False),
        (b"Content-Disposition: form-data; name=a; filename=b\r\nContent-Type: a; charset=utf-16", "a", True),
    ],
)
def test_part_of_a_real_client_is_read(head: bytes, name: str, is_file: bool) -> None:
    assert read(form((head, b"x")))[0] == [(name, is_file, b"x")]


@each(
    "head",
    [
        b"",
        b"Content-Type: text/plain",
        b"Content-Disposition: form-data",
        b'Content-Disposition: form-data; filename="a"',
        b'Content-Disposition: attachment; name="model"',
        b'Content-Disposition: form-data; name="model"; name="x"',
        b'Content-Disposition: form-data; name="x"; Name="model"',
        b"Content-Disposition: form-data; name=x; name*=utf-8''model",
        b"Content-Disposition: form-data; name*=utf-8''model",
        b'Content-Disposition: form-data; name="x"\r\nContent-Disposition: form-data; name="model"',
        b'Content-Disposition: form-data; name="mod\\el"',
        b'Content-Disposition: form-data; name="x"; filename="a\\"; name="model"',
        b'Content-Disposition: form-data; name="x"; filename="a\\"; size=\\"b"',
        b'Content-Disposition: form-data; name="x" filename="a"',
        b'Content-Disposition: form-data; name="x',
        b"Content-Disposition: form-data; name=",
        b'Content-Disposition: form-data; name="\xff"',
        b'Content-Disposition: form-data;\r\n name="model"',
        b'Content-Disposition: form-data; name="x"\nX: y',
        b'Content-Disposition: form-data; name="x"\rX: y',
        b'Content-Disposition: form-data; name="x\x00"',
        b'Content-Disposition : form-data; name="model"',
        b'Content-Disposition: form-data; name="x"\r\nContent-Transfer-Encoding: base64',
        b'Content-Disposition: form-data; name="x"\r\nContent-Transfer-Encoding: quoted-printable',
        b'Content-Disposition: form-data; name="x"\r\nContent-Type: multipart/mixed; boundary=y',
        b'Content-Disposition: form-data; name="x"\r\nContent-Type: text/plain; charset=utf-16',
        b'Content-Disposition: form-data; name="x"\r\nContent-Type: text/plain; Charset = "UTF-7"',
    ],
)
def test_part_that_servers_read_differently_is_refused(head: bytes) -> None:
    assert refusal(form((head, b"x")))


@each(
    "body",
    [
        b"",
        b"{}",
        b"x" + form((FIELD, b"m")),
        b"\n" + form((FIELD, b"m")),
        b"\r\n\r\n" + form((FIELD, b"m")),
        form((FIELD, b"m"), boundary=B + b"x"),
        form((FIELD, b"m"))[:-4],
        form((FIELD, b"m"))[:-5],
        form((FIELD, b"m"))[:-24],
        form((FIELD, b"m"), tail=b"-"),
        form((FIELD, b"m"), tail=b"\r\nx"),
        form((FIELD, b"m"), tail=b"\r\n--" + B + b"\r\n" + FIELD + b"\r\n\r\nother\r\n--" + B + b"--"),
        form((FIELD, b"m"), tail=b" " * (MAX_TAIL + 1)),
        form((FIELD, b"m\r\n--" + B + b" \r\n" + FIELD + b"\r\n\r\nother")),
        form((FIELD, b"m\r\n--" + B + b"x")),
        form((FIELD, b"m\n--" + B + b"\n" + FIELD + b"\r\n\r\nother")),
        form((FIELD, b"m\r--" + B + b"\r\n" + FIELD + b"\r\n\r\nother")),
        form((FIELD, b"--" + B + b"\r\n" + FIELD + b"\r\n\r\nother")),
        form((FIELD, b"\n--" + B + b"\r\n" + FIELD + b"\r\n\r\nother")),
        form((FIELD, b"m")).replace(b"\r\n", b"\n"),
        form((FIELD + b"\r\nX: " + b"y" * MAX_HEAD, b"m")),
        form(*[(FIELD, b"m")] * (MAX_PARTS + 1)),
    ],
)
def test_form_that_servers_read_differently_is_refused(body: bytes) -> None:
    whole = refusal(body)
    assert refusal(body, *range(1, min(len(body), 3 * MAX_HEAD))) == whole


def test_boundary_inside_a_line_is_content() -> None:
    content = b"x--" + B + b"\r\nx--" + B + b"--\r\n-" + b"--" + B
    assert read(form((FIELD, content)))[0] == [("model", False, content)]


@pytest.mark.parametrize("tail", [b"", b"\r\n", b"\n \t\r\n"])
def test_white_space_around_a_form_is_kept(tail: bytes) -> None:
    body = b"\r\n" + form((FIELD, b"m"), tail=tail)
    assert read(body) == ([("model", False, b"m")], body)


def test_form_without_parts_is_read() -> None:
    assert read(b"--" + B + b"--") == ([], b"--" + B + b"--")


def test_limits_allow_what_is_just_below_them() -> None:
    head = FIELD + b"\r\nX: "
    head += b"y" * (MAX_HEAD - len(head))
    body = form((head, b"m"), *[(FIELD, b"m")] * (MAX_PARTS - 1), tail=b" " * MAX_TAIL)
    assert len(read(body)[0]) == MAX_PARTS


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters='"\\'))
tricks = st.sampled_from([b"\r\n--", b"--" + B[:-1], b"\r", b"\n", b"-", b"--" + B[1:], b"\r\n\r\n"])
contents = st.lists(st.binary(max_size=40) | tricks, max_size=6).map(b"".join)
parts = st.lists(st.tuples(names, st.booleans(), contents), max_size=5)


def body_of(written: list[tuple[str, bool, bytes]], tail: bytes) -> bytes:
    heads = [
        b'Content-Disposition: form-data; name="%b"' % name.encode() + (b'; filename="f"' if is_file else b"")
        for name, is_file, _ in written
    ]
    return form(*zip(heads, [content for _, _, content in written], strict=True), tail=tail)


@given(parts, st.sampled_from([b"", b"\r\n"]), st.data())
def test_any_split_of_a_form_gives_its_parts(
    written: list[tuple[str, bool, bytes]], tail: bytes, data: st.DataObject
) -> None:
    body = body_of(written, tail)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    assert read(body, *cuts) == (written, body)
    assert read(body, *range(1, len(body))) == (written, body)


mutations = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 5), tricks | st.binary(max_size=4)), max_size=4
)


@given(parts, mutations, st.data())
def test_any_split_of_a_hostile_form_gives_the_same_result(
    written: list[tuple[str, bool, bytes]],
    changes: list[tuple[int, int, bytes]],
    data: st.DataObject,
) -> None:
    body = body_of(written, b"")
    for at, removed, inserted in changes:
        body = body[:at] + inserted + body[at + removed :]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))

    def result(*cuts: int) -> object:
        try:
            return read(body, *cuts)
        except InvalidRequest as exc:
            return exc.message

    assert result(*cuts) == result() == result(*range(1, len(body)))


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_scanner_holds_back_no_more_than_a_head(pieces: list[bytes]) -> None:
    scanner = MultipartScanner(B)
    start = form((FILE, b""))[: -len(b"\r\n--%b--\r\n" % B)]
    (head,) = scanner.feed(start)
    assert isinstance(head, PartHead)
    fed = given_back = 0
    for piece in pieces:
        if B[1:8] in piece:
            continue
        fed += len(piece)
        given_back += sum(len(event) for event in scanner.feed(piece) if isinstance(event, bytes))
        assert fed - given_back <= len(B) + 5


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data;charset=utf-8;Boundary="a b:c"', b"a b:c"),
        (b"multipart/form-data; boundary=----WebKitFormBoundaryx7/+='()?", None),
        (b"multipart/form-data; boundary=----WebKitFormBoundaryAaB03x", b"----WebKitFormBoundaryAaB03x"),
        (b"multipart/form-data", None),
        (b"multipart/form-data; boundary=", None),
        (b'multipart/form-data; boundary=""', None),
        (b'multipart/form-data; boundary="a "', None),
        (b"multipart/form-data; boundary=" + b"a" * 71, None),
        (b"multipart/form-data; boundary=a; boundary=b", None),
        (b'multipart/form-data; boundary="a\xc3\xa4"', None),
    ],
)
def test_boundary_is_read_from_the_content_type(content_type: bytes, boundary: bytes | None) -> None:
    if boundary is None:
        with pytest.raises(InvalidRequest) as caught:
            read_boundary(content_type)
        assert caught.value.code == "invalid_multipart"
        return
    assert read_boundary(content_type) == boundary
    assert read_boundary(write_content_type(boundary)) == boundary


@pytest.mark.parametrize("content_type", [b"", b"application/json", b"multipart/mixed; boundary=a"])
def test_another_content_type_is_refused(content_type: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_boundary(content_type)
    assert (caught.value.status, caught.value.code) == (415, "unsupported_content_type")


def test_written_field_is_read() -> None:
    body = write_field(B, "model", b"m", first=True) + write_field(B, "n", b"2", first=False)
    body += b"\r\n--%b--" % B
    assert read(body) == ([("model", False, b"m"), ("n", False, b"2")], body)
    assert re.match(rb"--%b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm" % B, body)
