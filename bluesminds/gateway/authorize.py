"""What a key may be used for, and from where. Its owner narrows it; a key without such words pays nothing.

Only who has shown a good key is told why it does not do here. A model that a key may not use is refused alike
whether it is offered or not.
"""

from typing import Final

from bluesminds.common.errors import Forbidden
from bluesminds.common.networks import Networks, read_address
from bluesminds.common.values import Caller, NamePatterns, RequestContext

ANY_ENDING: Final = "*"


def check_client(caller: Caller, context: RequestContext) -> None:
    """Raises Forbidden unless the key may be used from there, for this endpoint."""
    if caller.networks is not None:
        address = read_address(context.client)
        if address is None or not caller.networks.hold(address):
            raise Forbidden(
                "ip_not_allowed", "This API key may not be used from your address. Add it to allowed_ips."
            )
    if caller.origins is not None and context.origin not in caller.origins:
        raise Forbidden(
            "origin_not_allowed",
            "This API key may be used by the pages of its allowed_origins only, which send an Origin header.",
        )
    if caller.scopes is not None and context.endpoint not in caller.scopes:
        raise Forbidden(
            "scope_not_allowed", f"This API key lacks the scope `{context.endpoint}`. Use another key."
        )


def check_model(caller: Caller, model: str) -> None:
    """Raises Forbidden unless the key may be used for this model."""
    if caller.models is not None and model not in caller.models:
        raise Forbidden(
            "model_not_allowed",
            f"This API key may not use the model `{model[:200]}`. GET /v1/models lists those it may.",
        )


def name_patterns(words: tuple[str, ...] | None) -> NamePatterns | None:
    """Model names, where "*" at the end of one stands for any ending."""
    if words is None:
        return None
    return NamePatterns(
        exact=frozenset(word for word in words if not word.endswith(ANY_ENDING)),
        beginnings=tuple(word[: -len(ANY_ENDING)] for word in words if word.endswith(ANY_ENDING)),
    )


def networks_of(words: tuple[str, ...] | None) -> Networks | None:
    return None if words is None else Networks.read(words)


def optional_set(words: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if words is None else frozenset(words)
