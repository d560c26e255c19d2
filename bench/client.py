"""The load client: one thread, one selector, llhttp, as many keep-alive connections as the scenario asks for.

Run as `python -m bench.client`. Reads one JSON plan a line and answers each with one line, a JSON report or
`{"error": ...}`. Every connection sends its request again as soon as the answer is complete. Every answer is
verified; the first wrong one ends the phase with an error. After the measured window nothing new is sent and
all answers still under way are read to their end.
"""

import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass

import httptools

from bench.processes import cpu_seconds, rss_bytes
from bench.scenarios import SCENARIOS, STREAM_EVENTS, STREAM_TICK, Scenario
from bench.upstream import PLAIN_BODY

RECEIVE_BYTES = 262_144
DRAIN_SECONDS = 30.0
RSS_SECONDS = 0.1  # between two looks at the subject's memory
_CONTENT = b'"content":"'
_NO_CONTENT = b'"content":""'
_MOMENT_DIGITS = 19


class WrongAnswerError(Exception):
    """The subject answered something else than the upstream did; the message says what."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One phase; `pids` are the processes whose CPU time and memory are its. Durations in seconds."""

    scenario: str
    port: int
    key: str
    warm_up: float
    window: float
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What one measured window showed. Latency is per answer, or per event for streams."""

    requests: float
    units: int
    seconds: float
    cpu_seconds: float
    p50_ms: float
    p99_ms: float
    rss_bytes: int  # the most that was seen within the window
    answered: int  # requests answered in the whole phase


class Load:
    """One phase: the connections, the window, the counts."""

    def __init__(self, plan: Plan) -> None:
        self.scenario: Scenario = SCENARIOS[plan.scenario]
        self.latencies_ns: list[int] = []
        self.answered = 0
        self.busy = 0
        self.draining = False
        self._plan = plan
        self._selector = selectors.DefaultSelector()
        self._request = self.scenario.request(plan.port, plan.key)
        self._connections: list[Connection] = []

    def run(self) -> Report:
        try:
            return self._run()
        finally:
            self._selector.close()
            for connection in self._connections:
                connection.sock.close()

    def _run(self) -> Report:
        began = time.monotonic()
        self._connect_all()
        self._pump(began + self._plan.warm_up)
        self.latencies_ns.clear()
        cpu, start = cpu_seconds(self._plan.pids), time.monotonic()
        rss = self._watch(start + self._plan.window)
        cpu, seconds = cpu_seconds(self._plan.pids) - cpu, time.monotonic() - start
        measured = sorted(self.latencies_ns)
        self._drain()
        if not measured:
            raise WrongAnswerError("nothing was answered within the measured window")
        per_request = STREAM_EVENTS if self.scenario.stream else 1
        return Report(
            requests=len(measured) / per_request,
            units=len(measured),
            seconds=seconds,
            cpu_seconds=cpu,
            p50_ms=measured[len(measured) // 2] / 1e6,
            p99_ms=measured[len(measured) * 99 // 100] / 1e6,
            rss_bytes=rss,
            answered=self.answered,
        )

    def _connect_all(self) -> None:
        """Open every connection; streams start spread over one stream's length, not all in step."""
        spread = STREAM_EVENTS * STREAM_TICK / self.scenario.connections if self.scenario.stream else 0.0
        for _ in range(self.scenario.connections):
            sock = socket.create_connection(("127.0.0.1", self._plan.port))
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, sock, self._request)
            self._connections.append(connection)
            self._selector.register(sock, selectors.EVENT_READ, connection)
            connection.ask()
            self._pump(time.monotonic() + spread)

    def _pump(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            self._poll(left)

    def _watch(self, until: float) -> int:
        """Pump, and see how much memory the subject has meanwhile."""
        most = rss_bytes(self._plan.pids)
        while (now := time.monotonic()) < until:
            self._pump(min(until, now + RSS_SECONDS))
            most = max(most, rss_bytes(self._plan.pids))
        return most

    def _drain(self) -> None:
        self.draining = True
        limit = time.monotonic() + DRAIN_SECONDS
        while self.busy:
            if time.monotonic() > limit:
                raise WrongAnswerError(f"{self.busy} answers did not end within {DRAIN_SECONDS:.0f} s")
            self._poll(0.1)

    def leave(self, connection: "Connection") -> None:
        """A connection without a request is closed at once: a subject may close idle ones when it likes."""
        self._selector.unregister(connection.sock)
        connection.sock.close()

    def _poll(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            key.data.readable()


class Connection:
    """One keep-alive connection; also the callbacks of its parser."""

    __slots__ = ("_asked_ns", "_body", "_done", "_events", "_load", "_parser", "_request", "sock")

    def __init__(self, load: Load, sock: socket.socket, request: bytes) -> None:
        self.sock = sock
        self._load = load
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._asked_ns = 0
        self._body = b""  # all of a plain answer; of a stream what follows the last whole event
        self._events = 0
        self._done = False

    def ask(self) -> None:
        self._body = b""
        self._events = 0
        self._done = False
        self._load.busy += 1
        self._asked_ns = time.monotonic_ns()
        self._send(memoryview(self._request))

    def _send(self, data: memoryview) -> None:
        """A request that does not fit into the socket buffer is finished in blocking mode: rare and short."""
        sent = self.sock.send(data)
        if sent < len(data):
            self.sock.setblocking(True)
            self.sock.sendall(data[sent:])
            self.sock.setblocking(False)

    def readable(self) -> None:
        data = self.sock.recv(RECEIVE_BYTES)
        if not data:
            raise WrongAnswerError("a keep-alive connection was closed")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None

    def on_body(self, data: bytes) -> None:
        if not self._load.scenario.stream:
            self._body += data
            return
        now = time.monotonic_ns()
        *events, self._body = (self._body + data).split(b"\n\n")
        for event in events:
            self._event(event, now)

    def _event(self, event: bytes, now: int) -> None:
        at = event.find(_CONTENT)
        if at >= 0 and not event.startswith(_NO_CONTENT, at):
            at += len(_CONTENT)
            self._load.latencies_ns.append(now - int(event[at : at + _MOMENT_DIGITS]))
            self._events += 1
        elif event == b"data: [DONE]":
            self._done = True
        elif not self._load.scenario.translated:
            raise WrongAnswerError(f"an unexpected event: {event[:200]!r}")

    def on_message_complete(self) -> None:
        self._verify()
        load = self._load
        load.answered += 1
        load.busy -= 1
        if not load.scenario.stream:
            load.latencies_ns.append(time.monotonic_ns() - self._asked_ns)
        if load.draining:
            load.leave(self)
        else:
            self.ask()

    def _verify(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            raise WrongAnswerError(f"status {status}: {self._body[:300]!r}")
        if self._load.scenario.stream:
            if self._events != STREAM_EVENTS or not self._done:
                raise WrongAnswerError(f"a stream of {self._events} events, [DONE] seen: {self._done}")
        elif self._body != PLAIN_BODY and not _same_json(self._body, PLAIN_BODY):
            raise WrongAnswerError(f"an answer the upstream never gave: {self._body[:300]!r}")


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def report_line(plan_line: str) -> str:
    plan = Plan(**json.loads(plan_line))
    try:
        report = Load(plan).run()
    except (WrongAnswerError, OSError, httptools.HttpParserError) as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"})
    return json.dumps({name: getattr(report, name) for name in Report.__slots__})


def main() -> None:
    for line in sys.stdin:
        print(report_line(line), flush=True)


if __name__ == "__main__":
    main()
