"""Restrictions of API keys. An unrestricted key skips every check.

The errors reveal restrictions only to a client with a valid key. A model that a key may not use gives the
same error whether the model exists or not.
"""

from typing import Final

from bluesminds.common.errors import Forbidden
from bluesminds.common.networks import Networks, read_address
from bluesminds.common.values import Caller, NamePatterns, RequestContext

WILDCARD: Final = "*"


def check_client(caller: Caller, context: RequestContext) -> None:
    """Raises Forbidden unless the key allows this client address, origin and endpoint. The control plane has
    authorised the client of a replay.
    """
    if caller.networks is not None and not context.replay_of:
        address = read_address(context.client)
        if address is None or not caller.networks.hold(address):
            raise Forbidden(
                "ip_not_allowed", "This API key is not allowed from your IP address. Add it to allowed_ips."
            )
    if caller.origins is not None and context.origin not in caller.origins and not context.replay_of:
        raise Forbidden(
            "origin_not_allowed",
            "This API key requires an Origin header that is in its allowed_origins.",
        )
    check_scope(caller, context.endpoint)


def check_scope(caller: Caller, endpoint: str) -> None:
    """Raises Forbidden unless the key allows this endpoint."""
    if caller.scopes is not None and endpoint not in caller.scopes:
        raise Forbidden("scope_not_allowed", f"This API key does not have the scope `{endpoint}`.")


def check_model(caller: Caller, model: str) -> None:
    """Raises Forbidden unless the key allows this model."""
    if caller.models is not None and model not in caller.models:
        raise Forbidden(
            "model_not_allowed",
            f"This API key may not use the model `{model[:200]}`. GET /v1/models lists the allowed ones.",
        )


def name_patterns(patterns: tuple[str, ...] | None) -> NamePatterns | None:
    """Model names; one that ends in "*" allows every model whose name starts with the rest."""
    if patterns is None:
        return None
    return NamePatterns(
        exact=frozenset(pattern for pattern in patterns if not pattern.endswith(WILDCARD)),
        prefixes=tuple(pattern.removesuffix(WILDCARD) for pattern in patterns if pattern.endswith(WILDCARD)),
    )


def optional_networks(blocks: tuple[str, ...] | None) -> Networks | None:
    return None if blocks is None else Networks.read(blocks)


def optional_set(values: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)
