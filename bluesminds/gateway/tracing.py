"""A span for each model request, exported over OTLP/HTTP as JSON, and trace context for servers.

Formats: https://www.w3.org/TR/trace-context/ , https://opentelemetry.io/docs/specs/otlp/#otlphttp and the
GenAI conventions at https://github.com/open-telemetry/semantic-conventions-genai .
"""

import re
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final, TypeAlias

import msgspec
import trio
from msgspec import Struct

from bluesminds import __version__
from bluesminds.common.log import Log
from bluesminds.common.values import RequestContext, TraceContext
from bluesminds.http.client.pool import Pool, Timeouts, UpstreamError, UpstreamOrigin
from storage.usage import UsageRow
from storage.usage_log import SUCCESSES

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
QUEUE: Final = 5000  # spans
BATCH: Final = 500
INTERVAL: Final = 2.0  # seconds
RETRY: Final = 5.0  # seconds
ATTEMPTS: Final = 5  # of one batch
LIMIT: Final = 65_536  # bytes of an answer
_TIMEOUTS: Final = Timeouts(connect=5.0, pool=5.0, write=10.0, first_byte=10.0, between_chunks=10.0)
_RETRIED: Final = frozenset((429, 502, 503, 504))
_CLIENT: Final = 3  # SPAN_KIND_CLIENT
_ERROR: Final = 2  # STATUS_CODE_ERROR
_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_RANDOM: Final = Random()  # noqa: S311 - chooses samples
_OPERATIONS: Final = {
    "chat.completions": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "gemini.generate_content": "generate_content",
}


class CollectorAddress(Struct, frozen=True):
    """Where spans are sent. `path` is complete."""

    origin: UpstreamOrigin
    path: bytes
    headers: Headers

    @classmethod
    def parse(cls, url: str, authorization: str | None) -> "CollectorAddress":
        """Raises ValueError."""
        origin, path = UpstreamOrigin.parse(url)
        own = () if authorization is None else ((b"authorization", authorization.encode()),)
        return cls(origin, path.encode() or b"/v1/traces", ((b"content-type", b"application/json"), *own))


class Tracer:
    """`sample`: the share of the requests without a trace of their client that are exported. If QUEUE spans
    wait, new ones are dropped.
    """

    def __init__(
        self, pool: Pool, collector: CollectorAddress, *, service: str, sample: float, log: Log
    ) -> None:
        self._pool = pool
        self._collector = collector
        self._resource = [_attribute("service.name", service), _attribute("service.version", __version__)]
        self._sample = sample
        self._log = log
        self._spans: deque[dict[str, Any]] = deque()
        self._waiting = trio.Event()
        self._exporting = trio.Lock()
        self._failing = False
        self.exported = 0
        self.dropped = 0

    def begin(self, headers: Headers) -> tuple[TraceContext, Headers]:
        """The trace of a request with these headers, and the headers for the server."""
        parents = [value for name, value in headers if name == b"traceparent"]
        found = _PARENT.fullmatch(parents[0]) if len(parents) == 1 else None
        if found is not None and not _is_valid(found):
            found = None
        span_id = secrets.token_hex(8)
        if found is None:
            sampled = self._sample >= 1 or _RANDOM.random() < self._sample
            trace = TraceContext(secrets.token_hex(16), span_id, "", sampled)
            kept = [one for one in headers if one[0] not in (b"traceparent", b"tracestate")]
        else:
            trace = TraceContext(
                found[2].decode(), span_id, found[3].decode(), sampled=bool(int(found[4], 16) & 1)
            )
            kept = [one for one in headers if one[0] != b"traceparent"]
        value = f"00-{trace.trace_id}-{span_id}-{trace.sampled:02x}"
        return trace, (*kept, (b"traceparent", value.encode()))

    def record(self, row: UsageRow, context: RequestContext) -> None:
        """A request that has been settled."""
        operation = _OPERATIONS.get(row.endpoint, row.endpoint)
        given: dict[str, object] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": row.server,
            "gen_ai.request.model": row.model,
            "gen_ai.request.stream": row.streamed,
            "gen_ai.usage.input_tokens": row.input_tokens,
            "gen_ai.usage.output_tokens": row.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": row.cache_read_tokens,
            "gen_ai.usage.cache_creation.input_tokens": row.cache_write_tokens,
            "gen_ai.usage.reasoning.output_tokens": row.reasoning_tokens,
            "gen_ai.response.time_to_first_chunk": (
                row.first_byte_ms / 1000 if row.streamed and row.first_byte_ms is not None else None
            ),
            "bluesminds.attempts": row.attempts,
            "bluesminds.key_id": row.key_id,
            "bluesminds.outcome": row.outcome,
            "bluesminds.cost_nano_usd": row.cost_nano,
        }
        error = "" if row.outcome in SUCCESSES else row.outcome
        self._add(context, operation, row.model, row.status, row.duration_ms, given, error)

    def record_rejection(
        self, context: RequestContext, status: int, code: str | None, model: str, duration_ms: int
    ) -> None:
        """A request that was sent to no server."""
        operation = _OPERATIONS.get(context.endpoint, context.endpoint)
        given = {"gen_ai.operation.name": operation, "gen_ai.request.model": model or None}
        self._add(context, operation, model, status, duration_ms, given, code or "")

    def _add(
        self,
        context: RequestContext,
        operation: str,
        model: str,
        status: int,
        duration_ms: int,
        given: Mapping[str, object],
        error: str,
    ) -> None:
        trace = context.trace
        if trace is None or not trace.sampled:
            return
        if len(self._spans) >= QUEUE:
            self.dropped += 1
            return
        common = {
            "http.request.method": context.method,
            "http.response.status_code": status,
            "bluesminds.request_id": context.request_id,
            "error.type": error or None,
        }
        span = {
            "traceId": trace.trace_id,
            "spanId": trace.span_id,
            "name": f"{operation} {model}".rstrip()[:200],
            "kind": _CLIENT,
            "startTimeUnixNano": str(context.at_ms * 10**6),
            "endTimeUnixNano": str((context.at_ms + duration_ms) * 10**6),
            "attributes": [
                _attribute(name, value) for name, value in {**given, **common}.items() if value is not None
            ],
        }
        if trace.parent_id:
            span["parentSpanId"] = trace.parent_id
        if error:
            span["status"] = {"code": _ERROR, "message": error}
        self._spans.append(span)
        self._waiting.set()

    async def run(self) -> None:
        """Export until cancelled."""
        while True:
            await self._waiting.wait()
            await trio.sleep(INTERVAL)
            self._waiting = trio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Export what waits, after the batch that is being sent."""
        async with self._exporting:
            while self._spans:
                batch = [self._spans.popleft() for _ in range(min(BATCH, len(self._spans)))]
                if await self._export(batch):
                    self.exported += len(batch)
                else:
                    self.dropped += len(batch)

    async def _export(self, spans: Sequence[Mapping[str, Any]]) -> bool:
        body = msgspec.json.encode(
            {
                "resourceSpans": [
                    {
                        "resource": {"attributes": self._resource},
                        "scopeSpans": [
                            {"scope": {"name": "bluesminds", "version": __version__}, "spans": spans}
                        ],
                    }
                ]
            }
        )
        for attempt in range(ATTEMPTS):
            reason, retried = await self._post(body)
            if not reason:
                self._failing = False
                return True
            if not self._failing:
                self._failing = True
                self._log.warning("spans_not_exported", reason=reason)
            if not retried or attempt == ATTEMPTS - 1:
                return False
            await trio.sleep(RETRY)
        return False

    async def _post(self, body: bytes) -> tuple[str, bool]:
        """Why it failed, and whether it may succeed later."""
        collector = self._collector
        try:
            response = await self._pool.request(
                b"POST", collector.origin, collector.path, collector.headers, body, timeouts=_TIMEOUTS
            )
            try:
                await response.read(LIMIT)
            finally:
                response.close()
        except UpstreamError as exc:
            return type(exc).__name__, True
        if response.status < 300:
            return "", False
        return str(response.status), response.status in _RETRIED


def _is_valid(found: re.Match[bytes]) -> bool:
    """Version ff, zero ids, and more than four fields in version 00 are not allowed."""
    version, trace_id, parent_id, _, more = found.groups()
    return (
        version != b"ff"
        and trace_id.strip(b"0") != b""
        and parent_id.strip(b"0") != b""
        and (version != b"00" or more is None)
    )


def _attribute(name: str, value: object) -> dict[str, object]:
    """KeyValue of opentelemetry/proto/common/v1; integers are text in JSON."""
    if isinstance(value, bool):
        return {"key": name, "value": {"boolValue": value}}
    if isinstance(value, int):
        return {"key": name, "value": {"intValue": str(value)}}
    if isinstance(value, float):
        return {"key": name, "value": {"doubleValue": value}}
    return {"key": name, "value": {"stringValue": str(value)}}
