"""Requests whose answer has begun already: the beginning becomes the last message of the conversation.

Sources: Anthropic, "Prefill Claude's response"; Mistral, "Prefix"; vLLM, `continue_final_message` of the
API for chats.
"""

from typing import Final

from msgspec import Struct, json

from bluesminds.common.routes import Prefill
from bluesminds.wire.base import FormatName

PREFILLED: Final[frozenset[FormatName]] = frozenset(("chat", "messages"))
_BOUNDS: Final = ("max_tokens", "max_completion_tokens")


class AnswerPrefill(Struct, frozen=True):
    """`spent`: tokens of the `text`, by which the maximum length is reduced."""

    text: str
    kind: Prefill
    spent: int


def with_prefill(body: bytes, prefill: AnswerPrefill) -> bytes:
    """`body` is a request in a format of PREFILLED. White space at the end of the text is left out, because
    Anthropic refuses it. Raises ValueError.
    """
    fields = json.decode(body, type=dict[str, object])
    messages = fields.get("messages")
    if not isinstance(messages, list):
        raise ValueError("the request has no messages")
    message: dict[str, object] = {"role": "assistant", "content": prefill.text.rstrip()}
    if prefill.kind == "prefix":
        message["prefix"] = True
    elif prefill.kind == "continue_final_message":
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    fields["messages"] = [*messages, message]
    for name in _BOUNDS:
        if isinstance(most := fields.get(name), int):
            fields[name] = max(1, most - prefill.spent)
    return json.encode(fields)
