"""The restrictions of an API key, in canonical form, because they are compared on every request."""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct, structs

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.networks import read_network
from bluesminds.common.origins import read_origin
from bluesminds.common.values import NO_LIMITS, SCOPES, LimitSet
from storage.prompt_log import PromptLogChoice

Patterns = tuple[str, ...] | None
"""None allows all."""

LATEST_EXPIRY: Final = 253_370_764_800_000  # the year 9999; later times have no RFC 3339 form


class KeyPolicy(Struct, frozen=True):
    """`expires_at` is in milliseconds since the epoch. `prompt_log` None: as the account."""

    name: str
    scopes: Patterns = None
    allowed_models: Patterns = None
    allowed_ips: Patterns = None
    allowed_origins: Patterns = None
    limits: LimitSet = NO_LIMITS
    expires_at: int | None = None
    metadata: Mapping[str, str] = {}
    prompt_log: PromptLogChoice | None = None

    def checked(self, now: int, before: "KeyPolicy | None" = None) -> "KeyPolicy":
        """The policy in canonical form. An expiry that `before` already had may be in the past. Raises
        InvalidRequest.
        """
        end = self.expires_at
        if end is not None and not now < end < LATEST_EXPIRY and (before is None or before.expires_at != end):
            raise _invalid("expires_at", "must be in the future, and before the year 9999")
        return structs.replace(
            self,
            scopes=_canonical(self.scopes, "scopes", _scope),
            allowed_models=_canonical(self.allowed_models, "allowed_models", _model),
            allowed_ips=_canonical(self.allowed_ips, "allowed_ips", lambda text: str(read_network(text))),
            allowed_origins=_canonical(self.allowed_origins, "allowed_origins", read_origin),
        )


def _canonical(entries: Patterns, field: str, normalize: Callable[[str], str]) -> Patterns:
    """Every entry in canonical form, without duplicates."""
    if entries is None:
        return None
    try:
        return tuple(dict.fromkeys(normalize(entry) for entry in entries))
    except ValueError as exc:
        raise _invalid(field, f"is invalid: {exc}") from exc


def _scope(text: str) -> str:
    if text not in SCOPES:
        raise ValueError(f"the scopes are {', '.join(SCOPES)}")
    return text


def _model(text: str) -> str:
    if "*" in text[:-1]:
        raise ValueError('"*" matches any ending and can only be the last character of a name')
    return text


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest("invalid_value", f"{field} {problem}.", param=field)
