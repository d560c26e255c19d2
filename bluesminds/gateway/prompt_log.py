"""The prompt log: keeps requests and responses in full, for keys and accounts that enable it.

A `PromptRecord` collects the response of one request. When the request has ended, it waits in a bounded
queue for a task of its own, which redacts, encrypts and stores it. If the queue is full, or the database
fails for long, the record is dropped and counted: requests never wait for the log.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
import trio

from bluesminds.common.crypto import Vault
from bluesminds.common.log import Log
from bluesminds.common.prompts import PREVIEW, LoggedPrompt, write_prompt
from bluesminds.common.redaction import Redactor
from bluesminds.common.values import Caller
from bluesminds.gateway.call import Call
from bluesminds.gateway.limits.headers import Headers
from bluesminds.gateway.response_writer import ForwardingWriter, ResponseWriter
from bluesminds.wire.answer_text import AnswerJoiner, answer_text, last_prompt_text
from bluesminds.wire.json_text import NOT_JSON, read_value
from storage.base import BadValue, IntegrityError, StorageBroken, StorageUnavailable, Store
from storage.prompt_log import PromptRow, insert_prompts

MAX_BATCH: Final = 50  # rows in one transaction
RETRY_SECONDS: Final = 1.0
_READ: Final = 262_144  # bytes of a JSON answer that are read for its text, or what is kept if that is more
_NOT_KEPT: Final = frozenset((b"idempotency-key", b"traceparent", b"tracestate"))


class PromptLog:
    """`max_bytes`: kept of each request, and of each response. `queue_bytes`: waiting for the database."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        redactor: Redactor,
        *,
        max_bytes: int,
        queue_bytes: int,
        log: Log,
    ) -> None:
        self._store = store
        self._vault = vault
        self._redactor = redactor
        self.max_bytes = max_bytes
        self._queue_bytes = queue_bytes
        self._log = log
        self._waiting: deque[PromptRecord] = deque()
        self._held = 0
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self.dropped = 0
        self.stored = 0

    @property
    def held(self) -> int:
        """Bytes that wait for the database."""
        return self._held

    def begin(self, caller: Caller, call: Call, request: bytes) -> "PromptRecord":
        """`request`: the body as the client sent it."""
        return PromptRecord(self, caller, call, request)

    def add(self, record: "PromptRecord") -> None:
        size = record.size
        if self._held + size > self._queue_bytes:
            self._drop(1)
            return
        self._held += size
        self._waiting.append(record)
        self._idle = trio.Event() if self._idle.is_set() else self._idle
        self._wake.set()

    async def run(self) -> None:
        """Store records until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                await self._store_batch()
            self._idle.set()

    async def wait_stored(self) -> None:
        """Wait until no record waits any more. `run` must be running."""
        await self._idle.wait()

    async def _store_batch(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
        try:
            rows = await trio.to_thread.run_sync(self._rows, batch)
            await self._insert(rows)
        except (StorageUnavailable, StorageBroken, trio.TooSlowError):
            self._waiting.extendleft(reversed(batch))
            await trio.sleep(RETRY_SECONDS)
            return
        except Exception as exc:
            self._log.exception("prompt_log_failed", exc, rows=len(batch))
            self._drop(len(batch))
        self._held -= sum(record.size for record in batch)

    async def _insert(self, rows: Sequence[PromptRow]) -> None:
        try:
            await self._store.write(insert_prompts, rows)
            self.stored += len(rows)
        except (IntegrityError, BadValue):
            if len(rows) == 1:  # its account was deleted
                self._drop(1)
                return
            for row in rows:
                await self._insert([row])

    def _drop(self, count: int) -> None:
        self.dropped += count

    def _rows(self, batch: Sequence["PromptRecord"]) -> list[PromptRow]:
        """In a thread: patterns and encryption would delay other requests."""
        return [self._row(record) for record in batch]

    def _row(self, record: "PromptRecord") -> PromptRow:
        most, collected = self.max_bytes, record.collected
        parts = (("request", record.is_cut), ("answer", collected.is_cut))
        cut = [name for name, is_cut in parts if is_cut]
        request, redacted = self._redacted(record.request, cut=record.is_cut)
        preview = last_prompt_text(request.encode())[:PREVIEW]
        if record.is_cut and not preview:
            preview = request[:PREVIEW]
        response, more = "", 0
        answer = collected.joined()
        if answer is None:
            body = collected.response
            answer = answer_text(body)
            if len(body) > most:
                cut.append("response")
            response, more = self._redacted(body[:most], cut=len(body) > most)
        answer, also = self._redactor.text(answer[:most])
        required = record.call.context.required
        prompt = LoggedPrompt(
            request=request,
            path=record.call.context.path,
            answer=answer,
            response=response,
            streamed=collected.streamed,
            redacted=redacted + max(more, also),
            cut=tuple(cut),
            headers=tuple(
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in record.call.context.forward
                if name not in _NOT_KEPT
            ),
            regions=() if required is None else tuple(sorted(required.regions)),
            tags=() if required is None else tuple(sorted(required.tags)),
        )
        data = write_prompt(prompt)
        context = record.call.context
        return PromptRow(
            id=context.id,
            user_id=record.user_id,
            key_id=record.call.key_id,
            at=context.at_ms,
            endpoint=context.endpoint,
            model=record.call.model,
            sealed_preview=self._vault.seal_bytes(preview.encode(errors="replace")),
            sealed=self._vault.seal_bytes(data),
            size=len(data),
        )

    def _redacted(self, body: bytes, *, cut: bool) -> tuple[str, int]:
        """JSON stays JSON, unless it is not complete."""
        if not cut and self._redactor:
            try:
                value, count = self._redactor.value(read_value(body))
                return (msgspec.json.encode(value) if count else body).decode(errors="replace"), count
            except NOT_JSON:
                pass
        return self._redactor.text(body.decode(errors="replace"))


class PromptRecord:
    """One request of the log."""

    def __init__(self, log: PromptLog, caller: Caller, call: Call, request: bytes) -> None:
        most = log.max_bytes
        self._log = log
        self.call = call
        self.user_id = caller.user_id
        self.is_cut = len(request) > most
        self.request = request[:most] if self.is_cut else request
        self.collected = AnswerCollector(most)
        self._is_done = False

    @property
    def size(self) -> int:
        return len(self.request) + self.collected.size

    def writer(self, out: ResponseWriter) -> ResponseWriter:
        """Writes to `out`, and collects the answer."""
        return _PromptWriter(out, self.collected)

    def close(self) -> None:
        """The request has ended. Later calls do nothing."""
        if self._is_done:
            return
        self._is_done = True
        self.collected.close()
        self._log.add(self)


class AnswerCollector:
    """What a client gets: at most `most` characters of the text of a stream, or a JSON answer. `response` is
    the JSON; it may be longer than `most`, so that its text can be read.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_read = max(most, _READ)
        self._joiner: AnswerJoiner | None = None
        self._is_json = False
        self._text = ""
        self.response = b""
        self.streamed = False

    @property
    def size(self) -> int:
        return len(self.response) + len(self._text)

    @property
    def is_cut(self) -> bool:
        """Whether the text of a stream is longer."""
        return self._joiner is not None and self._joiner.is_cut

    def begin(self, headers: Headers, *, streamed: bool) -> None:
        self.streamed = streamed
        kind = next((value for name, value in headers if name == b"content-type"), b"")
        if kind.startswith(b"text/event-stream"):
            self._joiner = AnswerJoiner(self._most)
        self._is_json = kind.startswith(b"application/json")

    def feed(self, data: bytes) -> None:
        if self._joiner is not None:
            self._joiner.feed(data)
        elif self._is_json and len(self.response) < self._most_read:
            self.response += data

    def joined(self) -> str | None:
        """The text of a stream; None for a response that is not a stream of events. Call it after `close`."""
        return None if self._joiner is None else self._text

    def close(self) -> None:
        """Nothing follows."""
        if self._joiner is not None:
            self._text = self._joiner.finish()
        self.response = self.response[: self._most_read]


class _PromptWriter(ForwardingWriter):
    """Shows everything to the collector."""

    def __init__(self, out: ResponseWriter, collected: AnswerCollector) -> None:
        super().__init__(out)
        self._collected = collected

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        self._collected.begin(headers, streamed=False)
        self._collected.feed(body)
        await self._out.send(status, headers, body)

    async def start(self, status: int, headers: Headers) -> None:
        self._collected.begin(headers, streamed=True)
        await self._out.start(status, headers)

    async def write(self, data: bytes) -> None:
        self._collected.feed(data)
        await self._out.write(data)

    async def end(self, data: bytes = b"") -> None:
        self._collected.feed(data)
        await self._out.end(data)
