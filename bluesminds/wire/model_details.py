"""What a server's list of models says about a model besides its name.

Spellings: OpenRouter (context_length, top_provider, architecture), vLLM and SGLang (max_model_len), Groq
(context_window), Mistral and LM Studio (max_context_length), Anthropic (max_input_tokens, max_tokens), GitHub
(limits, supported_input_modalities), Gemini (inputTokenLimit), llama.cpp (meta.n_ctx).
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

_MOST: Final = 10**9  # tokens; a larger figure is a mistake
_MODALITY: Final = re.compile(r"[a-z_]{1,20}")
_MAX_MODALITIES: Final = 10
_CONTEXT: Final = (
    *("context_length", "max_model_len", "context_window", "max_context_length", "max_input_tokens"),
    "inputTokenLimit",
)
_OUTPUT: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens", "outputTokenLimit")


class ModelDetails(Struct, frozen=True, gc=False):
    """Lengths in tokens; None or () if unknown."""

    context_length: int | None = None
    max_output: int | None = None
    input_modalities: tuple[str, ...] = ()
    output_modalities: tuple[str, ...] = ()

    def completed(self, other: "ModelDetails") -> "ModelDetails":
        """These details, with those of another server where they are unknown."""
        if other is NO_DETAILS or self == other:
            return self
        return ModelDetails(
            self.context_length or other.context_length,
            self.max_output or other.max_output,
            self.input_modalities or other.input_modalities,
            self.output_modalities or other.output_modalities,
        )


NO_DETAILS: Final = ModelDetails()


def read_details(item: Mapping[str, Any]) -> ModelDetails:
    """The details in a row of a list. Values that cannot be read are unknown."""
    architecture, limits = _inner(item, "architecture"), _inner(item, "limits")
    found = ModelDetails(
        context_length=_length(item, _CONTEXT)
        or _length(limits, ("max_input_tokens",))
        or _length(_inner(item, "meta"), ("n_ctx",)),
        max_output=_length(_inner(item, "top_provider"), ("max_completion_tokens",))
        or _length(item, _OUTPUT)
        or _length(limits, ("max_output_tokens",)),
        input_modalities=_modalities(architecture, item, "input_modalities"),
        output_modalities=_modalities(architecture, item, "output_modalities"),
    )
    return NO_DETAILS if found == NO_DETAILS else found


def _inner(item: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = item.get(name)
    return value if isinstance(value, dict) else {}


def _length(item: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = item.get(name)
        if type(value) is int and 0 < value <= _MOST:
            return value
    return None


def _modalities(architecture: Mapping[str, Any], item: Mapping[str, Any], name: str) -> tuple[str, ...]:
    for value in (architecture.get(name), item.get(name), item.get(f"supported_{name}")):
        if isinstance(value, list) and value:
            known = [one for one in value if isinstance(one, str) and _MODALITY.fullmatch(one)]
            return tuple(known[:_MAX_MODALITIES])
    return ()
