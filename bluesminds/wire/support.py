"""Reads from the error of a server which optional fields of a request it refuses.

These are `stream_options`, which the gateway adds, and in translated requests the fields that not every model
of the server's format accepts. Texts of OpenAI, Anthropic, Azure, Bedrock, Groq, Kimi, Mistral, LiteLLM,
Ollama, vLLM and xAI.
"""

import re
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from bluesminds.wire.conversation import SAMPLING, ConversationRequest
from bluesminds.wire.errors import NOT_THE_REQUEST, ErrorDetail

_IS_UNSUPPORTED: Final = re.compile(
    r"unsupported|not (?:be )?support|unrecogni[sz]ed|unknown|unexpected|extra inputs|extra_forbidden"
    r"|not (?:permitted|allowed|available|recogni[sz]ed)|deprecated|only \S+ is allowed",
    re.IGNORECASE,
)
_REASONING: Final = re.compile(r"\b(?:reasoning|think|effort)", re.IGNORECASE)
# About its value, or about its combination with another field.
_REASONING_VALUE: Final = re.compile(
    r"\bvalues?\b|\b(?:must|should) be|one of|thinking\.type|\btools?\b|tool_|prefill", re.IGNORECASE
)
_SAMPLING_WITH_REASONING: Final = re.compile(
    r"\b(?:temperature|top_?[pk])\b.*\bwhen (?:extended )?(?:thinking|reasoning)\b", re.IGNORECASE
)
_SAMPLING: Final = re.compile(
    r"\b(?:temperature|top_?[pk]|seed|(?:presence|frequency)_?penalty)\b", re.IGNORECASE
)
_KNOWN_FIELDS: Final = re.compile(r"\bexpected one of\b.*", re.IGNORECASE | re.DOTALL)


class Support(Struct, frozen=True):
    """The optional fields that a server accepts for a model. `usage`: stream_options. Only for translated
    requests: `reasoning`, an effort or a budget; `sampling`, the fields of SAMPLING; `other_bound`, the
    maximum length of chat completions is in the other field than the one of the plan.
    """

    usage: bool = True
    reasoning: bool = True
    sampling: bool = True
    other_bound: bool = False


class Refusal(Struct, frozen=True):
    """`support`: what to send instead. `lasting`: the server refuses the field, not only its value."""

    support: Support
    lasting: bool = True


def names_forced_usage(status: int, body: bytes) -> bool:
    """Whether an error names `stream_options`, which the gateway adds to request usage."""
    return blames_field(status) and (b"stream_options" in body or b"include_usage" in body)


def blames_field(status: int) -> bool:
    """Whether an error with this status may be about a field of the request."""
    return 400 <= status < 500 and status not in NOT_THE_REQUEST


def find_refusal(
    support: Support, conversation: ConversationRequest, error: ErrorDetail, *, bound: str
) -> Refusal | None:
    """The fields of a translated request that the error refuses; None if it is about something else. `bound`:
    the field for the maximum length, "" in a format that has one name for it.
    """
    text = _KNOWN_FIELDS.sub("", f"{error.param or ''} {error.message or ''}")
    refused: dict[str, bool] = {}
    lasting = True
    sampled = any(getattr(conversation, name) is not None for name in SAMPLING)
    if support.sampling and sampled and _SAMPLING_WITH_REASONING.search(text):
        return Refusal(replace(support, sampling=False), lasting=conversation.reasoning is None)
    if support.reasoning and conversation.reasoning is not None and _REASONING.search(text):
        refused["reasoning"] = False
        lasting = _REASONING_VALUE.search(text) is None
    if _IS_UNSUPPORTED.search(text):
        if support.sampling and sampled and _SAMPLING.search(text):
            refused["sampling"] = False
        bounded = bound and conversation.max_output is not None
        if bounded and not support.other_bound and re.search(rf"\b{bound}\b", text):
            refused["other_bound"] = True
    return Refusal(replace(support, **refused), lasting) if refused else None
