"""The last response of a session, which the next one can continue although it is not stored.

Only the session knows it: it is in memory until the next response ends, or the WebSocket closes.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from bluesminds.common.errors import GatewayError, InvalidRequest
from bluesminds.gateway.bodies import HeldMemory
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, read_fields
from bluesminds.wire.responses_items import new_items, replayed_items, unmatched_result, with_history

PREVIOUS: Final = "previous_response_id"
_text = msgspec.json.Decoder(str)


class ResponseChain:
    """`memory` is what the items take."""

    def __init__(self, memory: HeldMemory) -> None:
        self._memory = memory
        self._id = ""
        self._items: Sequence[Fields] = ()

    def has(self, response_id: str) -> bool:
        """Whether this is the id of the last response."""
        return bool(response_id) and response_id == self._id

    def expand(self, request: Fields) -> Fields:
        """The whole conversation instead of the id of the last response. Raises InvalidRequest."""
        added = new_items(request)
        if (call_id := unmatched_result([*self._items, *added])) is not None:
            message = f"No tool call found for the result with call_id {call_id[:80]}."
            raise InvalidRequest("invalid_value", message, param="input")
        return with_history(request, self._items)

    def remember(self, response_id: str, request: Fields, response: bytes | None) -> None:
        """Keep a response for the next one, unless there is no memory for it. `request`: with the whole
        conversation. `response`: None if nothing was generated.
        """
        self.forget()
        try:
            items = [*new_items(request), *(() if response is None else replayed_items(response))]
            self._memory.acquire(sum(len(value) for item in items for value in item.values()))
        except (GatewayError, ValueError):
            return
        self._id, self._items = response_id, items

    def forget(self) -> None:
        self._id, self._items = "", ()
        self._memory.release()


def unstored_id(request: Fields, response: bytes) -> str:
    """The id of a response that only the session knows; "" if it is stored, or has no id."""
    try:
        fields = read_fields(response)
    except NOT_JSON:
        return ""
    stored = (
        bytes(request.get("store", ABSENT)) != b"false" and bytes(fields.get("store", ABSENT)) != b"false"
    )
    return "" if stored else text_in(fields, "id")


def text_in(fields: Fields, name: str) -> str:
    """A field that is a text; "" for anything else."""
    try:
        return _text.decode(fields.get(name, ABSENT))
    except NOT_JSON:
        return ""
