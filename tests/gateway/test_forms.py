"""A form on its way through the gateway: what is read ahead, kept, replaced and passed on."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesminds.common.errors import GatewayError, InvalidRequest, Unavailable
from bluesminds.gateway.bodies import Body, BodyMemory
from bluesminds.gateway.forms import MultipartBody
from bluesminds.gateway.routing.plans import Plan
from bluesminds.gateway.spool import MEMORY_BYTES, PIECE_BYTES, WRITE_BYTES, Spool, SpoolSpace
from bluesminds.wire.base import FormFields
from bluesminds.wire.images import IMAGE_EDITS
from bluesminds.wire.support import Support
from bluesminds.wire.transcription import TRANSCRIPTION
from tests.forms import BOUNDARY, CONTENT_TYPE, END, field, file, form
from tests.gateways import body_memory

PLAN = Plan("transcription", "/audio/transcriptions")
LARGE = MEMORY_BYTES + 300_000


class Arriving(Body):
    """A body whose pieces arrive one by one; `given` counts those that were read."""

    def __init__(self, memory: BodyMemory, pieces: Sequence[bytes], *, chunked: bool = False) -> None:
        super().__init__(memory)
        self.pieces = list(pieces)
        self.given = 0
        self._length = None if chunked else sum(map(len, pieces))

    @property
    def content_type(self) -> bytes:
        return CONTENT_TYPE

    @property
    def length(self) -> int | None:
        return self._length

    def check_coding(self) -> None:
        pass

    async def read(self) -> None:
        self.data = b"".join(self.pieces)

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.given == len(self.pieces):
            return b""
        self.given += 1
        return self.pieces[self.given - 1]


def cut(body: bytes, size: int = 65_536) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def is_empty(directory: Path) -> bool:
    return not list(directory.iterdir())


def forms() -> FormFields:
    assert TRANSCRIPTION.form is not None
    return TRANSCRIPTION.form


async def sent(multipart: MultipartBody, model: str = "server/model") -> bytes:
    """The bytes for a server, which must be as many as the head says."""
    headers = dict(multipart.headers(model))
    content = multipart.content(PLAN, model, Support())
    body = content if isinstance(content, bytes) else b"".join([piece async for piece in content])
    assert headers[b"content-type"] == CONTENT_TYPE
    assert int(headers.get(b"content-length", len(body))) == len(body)
    return body


async def read(body: Body) -> MultipartBody:
    multipart = MultipartBody(body, forms())
    await multipart.read_ahead()
    return multipart


async def refusal(*parts: bytes) -> GatewayError:
    """Of a form that is small, and of one whose first file is large."""
    errors = []
    for size in (9, LARGE):
        body = Arriving(body_memory(10**7), cut(form(field("model", "m"), file(b"x" * size), *parts)))
        try:
            with pytest.raises(GatewayError) as caught:
                await sent(await read(body))
            errors.append(caught.value)
        finally:
            body.release()
    assert errors[0].message == errors[1].message
    return errors[0]


SOUND = file(b"\xff\xfb\r\n--\x00" * 100)
FIELDS = field("language", "de"), field("response_format", "text")


@pytest.mark.parametrize(
    "parts",
    [
        (field("model", "{}"), SOUND, *FIELDS),
        (SOUND, *FIELDS, field("model", "{}")),
        (FIELDS[0], field("model", "{}"), SOUND),
        (field("model", "{}"),),
    ],
)
async def test_small_form_is_whole_and_has_the_servers_model(parts: tuple[bytes, ...]) -> None:
    body = Arriving(body_memory(10**6), [form(*parts).replace(b"{}", b"alias")])
    multipart = await read(body)
    assert multipart.facts().model == "alias"
    for model in ("server/model", "m", "alias"):
        assert isinstance(multipart.content(PLAN, model, Support()), bytes)
        assert await sent(multipart, model) == form(*parts).replace(b"{}", model.encode())
    assert multipart.repeatable and multipart.dropped == () and multipart.conversation is None
    body.release()
    assert body.memory.held == 0


async def test_facts_of_a_form_count_its_text_and_estimate_its_sound() -> None:
    body = Arriving(
        body_memory(10**6), [form(field("model", "m"), field("stream", "true"), SOUND, FIELDS[0])]
    )
    facts = (await read(body)).facts()
    assert (facts.model, facts.stream, facts.text_bytes) == ("m", True, len("m" + "true" + "de"))
    assert facts.media_tokens == (body.length or 0) // 1000 > 0


async def test_large_file_after_the_model_flows(home: Path) -> None:
    whole = form(field("model", "alias"), file(bytes(range(256)) * 40_000), FIELDS[0])
    memory = body_memory(10**7, home)
    body = Arriving(memory, cut(whole))
    multipart = await read(body)
    assert MEMORY_BYTES <= memory.held <= MEMORY_BYTES + 65_536
    assert body.given < 20 and memory.disk.held == 0 and multipart.repeatable
    assert await sent(multipart) == whole.replace(b"alias", b"server/model")
    assert memory.held <= MEMORY_BYTES + 65_536 and memory.disk.held == 0
    assert not multipart.repeatable
    body.release()
    assert memory.held == 0


async def test_large_file_before_the_model_is_kept_on_disk(home: Path) -> None:
    whole = form(file(bytes(range(256)) * 40_000), FIELDS[0], field("model", "alias"))
    memory = body_memory(2**24, home)
    body = Arriving(memory, cut(whole))
    multipart = await read(body)
    assert memory.held <= MEMORY_BYTES + 65_536 + WRITE_BYTES
    assert memory.disk.held > 9_000_000
    assert is_empty(home), "the file has no name"
    for model in ("m", "server/model"):
        assert await sent(multipart, model) == whole.replace(b"alias", model.encode())
    assert multipart.repeatable
    body.release()
    body.release()
    assert (memory.held, memory.disk.held) == (0, 0)


async def test_second_file_after_the_model_flows_from_what_is_kept(home: Path) -> None:
    second = file(b"y" * LARGE, "mask", "b.png")
    whole = form(file(b"x" * LARGE), field("model", "alias"), field("n", "2"), second, FIELDS[0])
    body = Arriving(body_memory(10**7, home), cut(whole))
    assert IMAGE_EDITS.form is not None
    multipart = MultipartBody(body, IMAGE_EDITS.form)
    await multipart.read_ahead()
    assert multipart.facts().choices == 2 and body.given < len(body.pieces)
    assert await sent(multipart) == whole.replace(b"alias", b"server/model")
    assert not multipart.repeatable
    body.release()


async def test_chunked_form_has_no_length_until_it_is_complete(home: Path) -> None:
    for size, known in ((100, True), (LARGE, False)):
        whole = form(field("model", "alias"), file(b"x" * size))
        body = Arriving(body_memory(10**7, home), cut(whole), chunked=True)
        multipart = await read(body)
        assert (b"content-length" in dict(multipart.headers("m"))) is known
        assert await sent(multipart) == whole.replace(b"alias", b"server/model")
        body.release()


async def test_form_is_repeatable_until_more_is_read(home: Path) -> None:
    whole = form(field("model", "alias"), file(b"x" * 3 * MEMORY_BYTES))
    body = Arriving(body_memory(10**7, home), cut(whole))
    multipart = await read(body)
    for _ in range(2):
        content = multipart.content(PLAN, "m", Support())
        assert not isinstance(content, bytes)
        pieces = [await anext(content) for _ in range(3)]
        assert b"".join(pieces) == whole.replace(b"alias", b"m")[: len(b"".join(pieces))]
        assert multipart.repeatable
    assert await sent(multipart) == whole.replace(b"alias", b"server/model")
    assert not multipart.repeatable
    body.release()


async def test_missing_model_is_named(home: Path) -> None:
    for size in (9, LARGE):
        body = Arriving(body_memory(10**7, home), cut(form(file(b"x" * size), FIELDS[0])))
        multipart = await read(body)
        with pytest.raises(InvalidRequest) as caught:
            multipart.facts()
        assert (caught.value.code, caught.value.param) == ("invalid_value", "model")
        body.release()


@pytest.mark.parametrize(
    ("part", "param"),
    [
        (field("model", "other"), "model"),
        (field("model[]", "other"), "model"),
        (file(b"other", "model"), "model"),
        (field("Stream", "true"), "stream"),
        (file(b"true", "stream"), "stream"),
        (field("stream", "t" * 5000), "stream"),
    ],
)
async def test_wrong_part_is_refused_before_and_after_a_large_file(part: bytes, param: str) -> None:
    error = await refusal(part)
    assert (error.status, error.code) == (400, "invalid_value")
    assert isinstance(error, InvalidRequest) and error.param == param


async def test_malformed_part_is_refused_before_and_after_a_large_file() -> None:
    assert (await refusal(b"\r\n--" + BOUNDARY + b"\r\nX: y\r\n\r\n")).code == "invalid_multipart"
    assert (await refusal(*[field("keywords[]", "a")] * 1000)).code == "invalid_multipart"


async def test_truncated_form_is_refused_before_and_after_a_large_file(home: Path) -> None:
    for size in (9, LARGE):
        whole = form(field("model", "m"), file(b"x" * size)).removesuffix(END)
        body = Arriving(body_memory(10**7, home), cut(whole))
        with pytest.raises(InvalidRequest, match="not complete"):
            await sent(await read(body))
        body.release()


async def test_form_without_room_on_disk_is_refused(home: Path) -> None:
    memory = BodyMemory(10**7, largest=10**7, disk=SpoolSpace(home, 500_000))
    body = Arriving(memory, cut(form(file(b"x" * 3 * MEMORY_BYTES), field("model", "m"))))
    with pytest.raises(Unavailable) as caught:
        await read(body)
    assert caught.value.code == "upload_space_exhausted" and "before the files" in caught.value.message
    body.release()
    assert (memory.held, memory.disk.held) == (0, 0)


async def test_directory_that_is_gone_is_no_space(home: Path) -> None:
    body = Arriving(body_memory(10**7, home / "gone"), cut(form(file(b"x" * LARGE), field("model", "m"))))
    with pytest.raises(Unavailable) as caught:
        await read(body)
    assert caught.value.code == "upload_space_exhausted"
    body.release()


async def test_form_without_room_in_memory_is_refused() -> None:
    memory = body_memory(100)
    body = Arriving(memory, [form(field("model", "m"), SOUND)])
    with pytest.raises(Unavailable) as caught:
        await read(body)
    assert caught.value.code == "body_memory_exhausted" and memory.held == 0


orders = st.permutations(
    [field("model", "alias"), file(b"x" * 900, "file"), file(b"y" * 50, "mask"), *FIELDS]
)


@settings(max_examples=60)
@given(orders, st.integers(1, 400), st.booleans(), st.data())
def test_any_order_and_split_gives_the_same_form(
    home: Path, parts: list[bytes], size: int, chunked: bool, data: st.DataObject
) -> None:
    whole = form(*parts)
    if data.draw(st.booleans()):
        whole = b"\r\n" + whole
    model_first = parts[0] == field("model", "alias")

    async def check() -> None:
        body = Arriving(body_memory(10**6, home), cut(whole, size), chunked=chunked)
        expected = whole.replace(b"alias", b"server/model")
        assert await sent(await read(body)) == (expected.lstrip(b"\r\n") if model_first else expected)
        body.release()

    trio.run(check)


async def test_spool_gives_back_what_was_appended(home: Path) -> None:
    space = SpoolSpace(home, 10**8)
    held: list[int] = []
    spool = Spool(space, held.append)
    data = bytes(range(251)) * 20_000
    for piece in cut(data, 70_001):
        await spool.append(piece)
    assert spool.size == len(data) and not spool.in_memory
    assert sum(held) <= MEMORY_BYTES + 70_001 + WRITE_BYTES
    for start in (0, 5, MEMORY_BYTES - 1, MEMORY_BYTES + 70_001, len(data) - 3, len(data), len(data) + 9):
        for end in (start, start + 1, start + PIECE_BYTES // 2, len(data), 2 * len(data)):
            found = await spool.read(start, end)
            assert found == data[start : start + len(found)]
            assert bool(found) is (start < min(end, len(data)))
            assert len(found) <= min(PIECE_BYTES, max(end - start, 0))
    spool.close()
    assert (space.held, spool.size) == (0, 0)
