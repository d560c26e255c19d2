"""The frozen values of the walk, in the order it makes them.

    Arrival -> Caller -> Call -> [Target] -> Ticket (admit.py) -> Reply (send.py) -> Usage

Each step takes the earlier ones and returns the next; none edits what came before.
msgspec Structs because they are built per request and cost a fifth of a dataclass.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, structs

from bluesminds.common.errors import Unavailable
from bluesminds.common.networks import Networks

Source = Literal["upstream", "estimated", "none"]


class RequestContext(Struct, frozen=True, gc=False):
    """A request whose head has been read."""

    id: str  # UUIDv7, this gateway's own, unique
    request_id: str  # the client's X-Request-Id if it sent a sane one, else id
    endpoint: str  # "chat.completions"
    credential: str | None  # the key as sent, never logged
    credential_header: str | None  # which header carried it
    origin: str | None  # the Origin header of a browser
    client: str  # IP address, or "local" on a Unix socket
    forward: tuple[tuple[bytes, bytes], ...]  # client headers that travel on to the server
    at_ms: int  # wall time
    started: float  # Trio's clock, seconds


class LimitSet(Struct, frozen=True, gc=False):
    """What one key or one account may use; money in nano-USD. 0: not limited."""

    rpm: int = 0  # requests in any 60 s
    tpm: int = 0  # tokens in any 60 s
    concurrency: int = 0  # requests at once
    tokens_per_day: int = 0
    tokens_per_month: int = 0
    usd_per_day: int = 0
    usd_per_month: int = 0
    usd_total: int = 0


class InUse(Struct, frozen=True):
    """What one key or one account has in use at this moment, by the names of LimitSet."""

    rpm: int = 0
    tpm: int = 0
    concurrency: int = 0


NO_LIMITS = LimitSet()
_figures = msgspec.json.Decoder(dict[str, Annotated[int, Meta(ge=0, le=2**63 - 1)] | None])


def read_limits(text: str | None) -> LimitSet:
    """Limits as the store keeps them: a JSON object, in which a figure that is null or missing is none.

    Raises Unavailable for anything else: limits that nobody can read must not be taken for none.
    """
    if text is None:
        return NO_LIMITS
    try:
        return _overlaid(NO_LIMITS, _figures.decode(text))
    except (msgspec.DecodeError, TypeError) as exc:  # TypeError: there is no limit of that name
        raise _unreadable() from exc


def write_limits(limits: LimitSet) -> str | None:
    """None when there are none."""
    own = {name: figure for name, figure in structs.asdict(limits).items() if figure}
    return msgspec.json.encode(own).decode() if own else None


def account_limits(tiers: Mapping[str, LimitSet], tier: str | None, own: LimitSet) -> LimitSet:
    """The tier's limits, with the figures of `own` in the place of theirs. Raises Unavailable for a tier that
    there is not.
    """
    if tier is not None and tier not in tiers:
        raise _unreadable()
    return _overlaid(NO_LIMITS if tier is None else tiers[tier], structs.asdict(own))


def _overlaid(limits: LimitSet, own: Mapping[str, int | None]) -> LimitSet:
    return structs.replace(limits, **{name: figure for name, figure in own.items() if figure})


def _unreadable() -> Unavailable:
    return Unavailable(
        "limits_unreadable",
        "The limits stored for this API key or its account cannot be read. Tell the operator.",
        retry=False,
    )


class NamePatterns(Struct, frozen=True, gc=False):
    """Names to the letter, and beginnings of names."""

    exact: frozenset[str]
    beginnings: tuple[str, ...]

    def __contains__(self, name: str) -> bool:
        return name in self.exact or name.startswith(self.beginnings)


class Caller(Struct, frozen=True, gc=False):
    """Whom the key belongs to, and what it allows. Who brings a key of the server's own has no ids, only an
    address.
    """

    key_id: str
    user_id: str
    key_limits: LimitSet  # of the key itself, beside the account's
    user_limits: LimitSet
    expires_at: int | None  # milliseconds since the epoch
    scopes: frozenset[str] | None = None  # None is all
    models: NamePatterns | None = None  # None is all
    networks: Networks | None = None  # None is from anywhere
    origins: frozenset[str] | None = None  # None is any page, or none
    address: str = ""  # of a caller with the server's own key instead of one of ours


class Call(Struct, frozen=True, gc=False):
    """What is asked of a model. The body is not part of it: it is let go of before the answer ends."""

    context: RequestContext
    model: str
    stream: bool
    wants_usage: bool  # the client itself asked for the usage chunk
    max_completion: int | None = None  # tokens of one choice, as the client bounds it
    choices: int = 1  # answers asked for at once
    own_key: bool = False  # the credential is the server's, and goes there in the place of the gateway's


class Server(Struct, frozen=True):
    """One upstream. `models` empty means whatever the server says it has."""

    name: str
    dialect: str
    url: str
    api_key: str | None
    models: tuple[str, ...]
    weight: int
    priority: int
    origin: str  # where it was configured: "file", "table" or "environment"
    keyless: bool = False  # takes requests with the client's own key; without an api_key, no others

    def __repr__(self) -> str:
        return f"Server({self.name!r}, {self.dialect!r})"


class Usage(Struct, frozen=True, gc=False):
    """Tokens of one response; None: unknown. `input` includes cached tokens, `output` includes reasoning.
    `source`: "upstream"; "estimated" if `input`, `output` or both are estimated; or "none".
    """

    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    source: Source = "none"


NO_USAGE = Usage()
