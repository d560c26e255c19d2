"""Counts what a running stream has delivered and what its server has reported."""

from bluesminds.common.values import Usage
from bluesminds.wire.base import RequestFacts
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

    def implausible(self, ended: bool) -> bool:
        return self._absurd or self._settled(ended)[1]

    def output(self, ended: bool) -> int:
        reported = self._reported
        if reported is not None and reported.output and self._is_complete(ended):
            return reported.output
        expected = estimate_output(self._delivered, self._pieces, self._request)
        return expected if reported is None else max(expected, reported.output or 0)

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
