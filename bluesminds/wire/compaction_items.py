"""The item that takes the place of a compacted conversation, if the gateway has compacted it.

Format: OpenAI API reference, the item `compaction`. Its content means nothing to clients. Servers cannot read
the gateway's items, so they get messages instead.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.field_reading import decode_as
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, write_fields

COMPACTION: Final = ("compaction", "compaction_summary")  # the Codex CLI also has the second name
_OWN: Final = "compacted:"  # how the content of the gateway's items begins
_MARK: Final = _OWN.encode()
_SUMMARY: Final = "This is a summary of the conversation so far:\n\n"


class CompactedConversation(Struct, frozen=True):
    """`system`: the instructions in the conversation, which are kept as they are."""

    summary: str
    system: str = ""

    @property
    def text(self) -> str:
        """What the model gets."""
        return _SUMMARY + self.summary


def write_compacted(conversation: CompactedConversation) -> str:
    """The content of an item."""
    return _OWN + urlsafe_b64encode(msgspec.json.encode(conversation)).decode()


def read_compacted(content: str) -> CompactedConversation | None:
    """None for the content of another server's item. Raises InvalidRequest."""
    if not content.startswith(_OWN):
        return None
    try:
        return _conversation.decode(urlsafe_b64decode(content.removeprefix(_OWN)))
    except NOT_JSON as exc:
        message = "The content of a `compaction` item is damaged. Send it as you received it."
        raise InvalidRequest("invalid_value", message, param="input.encrypted_content") from exc


def with_messages(fields: Fields) -> Fields:
    """The request with messages instead of the gateway's items. Raises InvalidRequest."""
    raw = fields.get("input", ABSENT)
    if _MARK not in bytes(raw):
        return fields
    items = []
    for item in decode_as(_objects, raw, "input"):
        found = None
        if _text_in(item, "type") in COMPACTION:
            found = read_compacted(_text_in(item, "encrypted_content"))
        items += [item] if found is None else _messages(found)
    return fields | {"input": Raw(b"[%b]" % b",".join([write_fields(item) for item in items]))}


def _messages(conversation: CompactedConversation) -> list[Fields]:
    texts = (("developer", conversation.system), ("user", conversation.text))
    return [
        {
            "type": Raw(b'"message"'),
            "role": Raw(msgspec.json.encode(role)),
            "content": Raw(msgspec.json.encode([{"type": "input_text", "text": text}])),
        }
        for role, text in texts
        if text
    ]


def _text_in(item: Fields, name: str) -> str:
    try:
        return _text.decode(item.get(name, ABSENT))
    except NOT_JSON:
        return ""


_conversation = msgspec.json.Decoder(CompactedConversation)
_objects = msgspec.json.Decoder(list[Fields])
_text = msgspec.json.Decoder(str)
