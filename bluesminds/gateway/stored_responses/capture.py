"""Stores one response while it is relayed to its client."""

import contextlib
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw

from bluesminds.common.values import Caller
from bluesminds.gateway.bodies import HeldMemory
from bluesminds.gateway.stored_responses.store import ResponseStore, StoredResponse, id_of
from bluesminds.http.sse import EventSplitter, EventTooLarge
from bluesminds.wire.conversation import ReplyLinks
from bluesminds.wire.json_text import NOT_JSON, Fields
from bluesminds.wire.responses_items import TERMINAL, output_items, response_of_stream

_NEAR: Final = 300  # bytes at either end of an event, within which its type is


class ResponseCapture:
    """`links`: of a response that the gateway translates. `items` are those of the request's own
    input, `used` the ids of stored responses that it continues. `memory` is what the items take.
    """

    def __init__(
        self,
        store: ResponseStore,
        caller: Caller,
        links: ReplyLinks,
        items: Sequence[Fields],
        used: Sequence[str],
        memory: HeldMemory,
    ) -> None:
        self._store = store
        self._caller = caller
        self._links = links
        self._items = items
        self._used = used
        self._memory = memory
        self._splitter: EventSplitter | None = EventSplitter()
        self._last = b""

    def feed(self, data: bytes) -> None:
        """The next bytes of a stream. Only the event that ends the response is kept."""
        if self._splitter is None:
            return
        try:
            for event in self._splitter.feed(data):
                near = event[:_NEAR] + event[-_NEAR:]
                if any(kind in near for kind in TERMINAL):
                    self._last = event
        except EventTooLarge:
            self._splitter = None

    async def finish(self, server: str, *, translated: bool, body: bytes | None = None) -> None:
        """Store the complete response: `body`, or what the stream ended with. A failure is logged."""
        if body is None:
            with contextlib.suppress(ValueError):
                body = response_of_stream(self._last)
        self._last = b""
        if body is not None:
            with contextlib.suppress(ValueError):  # a response without output
                await self._keep(server, body, translated=translated)
        self.release()

    def release(self) -> None:
        """Free the items of the request."""
        self._items = ()
        self._memory.release()

    async def _keep(self, server: str, body: bytes, *, translated: bool) -> None:
        ids = [one for item in output_items(body) if (one := id_of(item))]
        if not translated:
            await self._store.keep_at_server(self._caller, server, _response_id(body), ids)
            return
        ids += [id_of(item) for item in self._items]
        await self._store.keep(
            self._caller,
            StoredResponse(
                self._links.stored_id,
                self._caller.user_id,
                self._links.previous_id or None,
                list(self._items),
                Raw(body),
            ),
            used=self._used,
            item_ids=ids,
        )


def _response_id(body: bytes) -> str:
    try:
        return _head.decode(body).id
    except NOT_JSON:
        return ""


class _Head(msgspec.Struct):
    id: str


_head = msgspec.json.Decoder(_Head)
