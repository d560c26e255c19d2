"""Counts what a running stream has delivered and what its server has reported."""

from abc import ABC, abstractmethod

from bluesminds.common.values import Usage
from bluesminds.http.sse import EventSplitter
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.errors import ErrorDetail
from bluesminds.wire.usage import estimate_output, settle_usage


class StreamMeter:
    """`ended` in the methods: the server has ended its stream according to the format, so its last report is
    complete.
    """

    __slots__ = ("_absurd", "_delivered", "_pieces", "_pieces_at_report", "_reported", "_request")

    def __init__(self, request: RequestFacts) -> None:
        self._request = request
        self._delivered = 0  # bytes of generated text
        self._pieces = 0
        self._pieces_at_report = 0
        self._reported: Usage | None = None
        self._absurd = False

    def count(self, text: str) -> None:
        """Count a piece of generated text."""
        self._delivered += len(text) if text.isascii() else len(text.encode())
        self._pieces += 1

    def report(self, usage: Usage | None) -> None:
        """Replace the report of the server; None: an impossible one."""
        if usage is None:
            self._absurd = True
            return
        self._reported = usage
        self._pieces_at_report = self._pieces

    def usage(self, ended: bool) -> Usage:
        return self._settled(ended)[0]

    @property
    def own_output(self) -> int:
        return estimate_output(self._delivered, self._pieces, self._request)

    def implausible(self, ended: bool) -> bool:
        return self._absurd or self._settled(ended)[1]

    def output(self, ended: bool) -> int:
        reported = self._reported
        if reported is not None and reported.output_tokens and self._is_complete(ended):
            return reported.output_tokens
        expected = estimate_output(self._delivered, self._pieces, self._request)
        return expected if reported is None else max(expected, reported.output_tokens or 0)

    def _is_complete(self, ended: bool) -> bool:
        return self._pieces == self._pieces_at_report or (ended and not self._absurd)

    def _settled(self, ended: bool) -> tuple[Usage, bool]:
        return settle_usage(
            self._reported,
            self._request,
            delivered=self._delivered,
            pieces=self._pieces,
            complete=self._is_complete(ended),
        )


class MeteredStage(ABC):
    """What the Stages of conversations have in common: their state, which `_pass` updates event by event."""

    def __init__(self, request: RequestFacts) -> None:
        self._splitter = EventSplitter()
        self._meter = StreamMeter(request)
        self._started = False
        self._stopped = False  # a stop reason has come
        self._final = False
        self._ended = False  # by the server, so that its last report is complete
        self._error: ErrorDetail | None = None
        self._tail = b""

    @property
    def usage(self) -> Usage:
        return self._meter.usage(self._ended)

    @property
    def own_output(self) -> int | None:
        return self._meter.own_output

    @property
    def implausible(self) -> bool:
        return self._meter.implausible(self._ended)

    @property
    def output(self) -> int:
        return self._meter.output(self._ended)

    @property
    def started(self) -> bool:
        return self._started

    @property
    def finished(self) -> bool:
        return self._stopped or self._final

    @property
    def final(self) -> bool:
        return self._final

    @property
    def error(self) -> ErrorDetail | None:
        return self._error

    @property
    def next_number(self) -> int:
        return 0

    def feed(self, data: bytes) -> bytes:
        events = self._splitter.feed(data)
        if len(events) == 1:
            return self._pass(events[0])
        return b"".join([self._pass(event) for event in events])

    @abstractmethod
    def _pass(self, event: bytes) -> bytes:
        """The bytes for the client after one event of the server."""
