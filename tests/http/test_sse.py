"""Event streams: no byte is lost or changed, and the events do not depend on how the stream is cut."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bluesminds.http.sse import EventSplitter, EventTooLarge, event_data, write_event
from tests.cases import each

STREAM = st.lists(
    st.sampled_from(
        [b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r", b"data: x", b"data", b":", b"a", b"\xff"]
    ),
    max_size=30,
).map(b"".join)


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(stream[:size])
        stream = stream[size:]
    return [*pieces, stream]


def reference(stream: bytes) -> list[bytes]:
    """The events according to the specification: line by line, an empty line ends one."""
    events = []
    event = b""
    for line in _lines(stream):
        event += line
        if not line.strip(b"\r\n"):
            events.append(event)
            event = b""
    return events


def _lines(stream: bytes) -> list[bytes]:
    lines = []
    line = b""
    for index in range(len(stream)):
        byte = stream[index : index + 1]
        line += byte
        after = stream[index + 1 : index + 2]
        if byte == b"\n" or (byte == b"\r" and after not in (b"\n", b"")):
            lines.append(line)
            line = b""
    return lines


@given(STREAM, st.lists(st.integers(0, 5), max_size=40))
@example(b"data: x\r\n\r\ndata: y\r\n\r\n", [10])
@example(b"a\r\r", [2])
@example(b"\n\na\n\n", [])
@example(b"a\n\n\nb\n\n", [])
@example(b"a\r\n\r", [])
def test_splitter_any_split_gives_same_events(stream: bytes, sizes: list[int]) -> None:
    splitter = EventSplitter()
    events = [event for piece in cut(stream, sizes) for event in splitter.feed(piece)]
    assert events == reference(stream)
    assert splitter.pending == stream[len(b"".join(events)) :]
    assert b"".join(events) + splitter.finish() == stream
    assert splitter.pending == b""


def test_splitter_events_after_partial_event_are_returned() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b'data: {"a"') == []
    assert splitter.feed(b":1}\n\ndata: 2\n\ndata: ") == [b'data: {"a":1}\n\n', b"data: 2\n\n"]
    assert splitter.feed(b"3\n\n") == [b"data: 3\n\n"]
    assert splitter.feed(b"data: [DONE]\n\n") == [b"data: [DONE]\n\n"]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_splitter_event_above_limit_is_rejected(size: int) -> None:
    splitter = EventSplitter(limit=30)
    event = b"data: " + b"x" * 22 + b"\n\n"
    fed = [events for piece in cut(event * 3, [size] * 90) for events in splitter.feed(piece)]
    assert fed == [event] * 3
    with pytest.raises(EventTooLarge):
        for piece in cut(b"data: " + b"x" * 23 + b"\n\n", [size] * 31):
            splitter.feed(piece)


def test_splitter_events_before_too_large_event_are_returned() -> None:
    splitter = EventSplitter(limit=10)
    assert splitter.feed(b"a\n\nb\n\n" + b"x" * 20) == [b"a\n\n", b"b\n\n"]
    with pytest.raises(EventTooLarge):
        splitter.feed(b"")
    splitter = EventSplitter(limit=10)
    assert splitter.feed(b"a\n\n" + b"x" * 20 + b"\n\nb\n\n") == [b"a\n\n"]
    with pytest.raises(EventTooLarge):
        splitter.feed(b"c\n\n")


def test_splitter_line_without_end_has_bounded_memory() -> None:
    splitter = EventSplitter(limit=1024 * 1024)
    with pytest.raises(EventTooLarge):
        for _ in range(300_000):
            splitter.feed(b"xxxx")
    assert len(splitter.pending) <= 1024 * 1024 + 4


def test_splitter_pending_bytes_are_known() -> None:
    splitter = EventSplitter()
    for data, empty in ((b"data: x\n\n", True), (b"data: y", False), (b"\n\n", True)):
        splitter.feed(data)
        assert splitter.is_empty == empty


@each(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: x\r\n\r\n", b"x"),
        (b"data: x\r\r", b"x"),
        (b"data: a\rdata: b\n\n", b"a\nb"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data\ndata\n\n", b"\n"),
        (b"data\n\n", b""),
        (b"data: x\r\n\n", b"x"),
        (b"\xef\xbb\xbfdata: x\n\n", b"x"),
        (b"event: done\nid: 1\nretry: 5\n: comment\ndata: x\n\n", b"x"),
        (b": ping\n\n", b""),
        (b"database: x\n\n", b""),
        (b"Data: x\n\n", b""),
        (b"data: unfinished", b"unfinished"),
        (b"\n", b""),
        (b"", b""),
    ],
)
def test_event_data_is_read_from_its_lines(event: bytes, data: bytes) -> None:
    assert event_data(event) == data


@given(st.binary(max_size=60), st.none() | st.sampled_from([b"message_start", b"x y"]))
def test_write_event_reads_back_as_one_event(data: bytes, name: bytes | None) -> None:
    event = write_event(data, name)
    assert EventSplitter().feed(event) == [event]
    assert event_data(event) == data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert event.startswith(b"data: " if name is None else b"event: " + name + b"\ndata: ")


@pytest.mark.parametrize("name", [b"a\nb", b"a\rdata: x"])
def test_write_event_name_with_line_end_is_rejected(name: bytes) -> None:
    with pytest.raises(ValueError, match="one line"):
        write_event(b"x", name)
