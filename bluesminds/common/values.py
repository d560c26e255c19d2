"""The frozen values that the request pipeline passes from step to step:

    RequestContext -> Caller -> Call -> [Server] -> Reservation -> Reply -> Usage

Reservation is in gateway/limits/reserve.py, Reply in gateway/upstream/attempt.py. No step changes a value of
an earlier one. They are msgspec Structs because one is created per request and costs a fifth of a dataclass.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import Meta, Struct, structs

from bluesminds.common.errors import Unavailable
from bluesminds.common.networks import Networks

# A draining server gets no new requests, except those that refer to something stored there.
ServerMode = Literal["active", "draining", "off"]
OwnKeyMode = Literal["first", "only"]
UsageSource = Literal["upstream", "estimated", "cache", "none"]
# What a key may be limited to: the operations of the data plane, listing models, and relayed requests.
Scope = Literal[
    "chat.completions",
    "messages",
    "messages.count_tokens",
    "responses",
    "responses.input_tokens",
    "responses.compact",
    "gemini.generate_content",
    "gemini.count_tokens",
    "gemini.embed_content",
    "completions",
    "embeddings",
    "moderations",
    "rerank",
    "images.generations",
    "images.edits",
    "images.variations",
    "audio.speech",
    "audio.transcriptions",
    "audio.translations",
    "realtime",
    "models",
    "passthrough",
]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
OWN: Final = "own"  # the origin of a user's key for a vendor


def own_server_name(vendor: str, key_id: str) -> str:
    """The names of other servers contain no slash."""
    return f"{OWN}/{vendor}/{key_id[-8:]}"


def is_own_name(server: str) -> bool:
    return server.startswith("own/")


def server_label(name: str) -> str:
    """The server in metrics, which must not have a label for each user."""
    return name.rpartition("/")[0] if name.startswith("own/") else name


class Requirement(Struct, frozen=True, gc=False):
    """What a request requires of servers: their region, and all `tags`. No server is in two regions."""

    regions: frozenset[str]
    tags: frozenset[str]

    def allows(self, server: "Server") -> bool:
        return self.tags.issubset(server.tags) and self.regions.issubset((server.region,))


def read_requirement(region: str, tags: str) -> Requirement | None:
    """A name, and names separated by commas. None if nothing is required."""
    regions, named = split_names(region), split_names(tags)
    return Requirement(regions, named) if regions or named else None


def list_names(text: str) -> tuple[str, ...]:
    """Names separated by commas, in lower case, in their order."""
    return tuple(name for part in text.split(",") if (name := part.strip().lower()))


def split_names(text: str) -> frozenset[str]:
    """Names separated by commas, in lower case."""
    return frozenset(list_names(text))


def join_requirements(required: Iterable[Requirement | None]) -> Requirement | None:
    """All of them together."""
    found = [one for one in required if one is not None]
    if len(found) < 2:
        return found[0] if found else None
    regions = frozenset[str]().union(*(one.regions for one in found))
    return Requirement(regions, frozenset[str]().union(*(one.tags for one in found)))


class TraceContext(Struct, frozen=True, gc=False):
    """W3C trace context of a request: hexadecimal ids. `parent_id`: the client's span, "" without one.
    `sampled`: the span is exported.
    """

    trace_id: str
    span_id: str
    parent_id: str
    sampled: bool


class RequestContext(Struct, frozen=True, gc=False):
    """The head of a request."""

    id: str  # UUIDv7, created by the gateway
    request_id: str  # the client's X-Request-Id if it is valid, else id
    method: str
    path: str  # as sent, without the query, at most 200 characters
    endpoint: str  # "chat.completions"
    credential: str | None  # as sent; never logged
    credential_header: str | None  # the name of its header; None if it was in the query
    origin: str | None  # the Origin header of a browser
    client: str  # IP address, or "local" on a Unix socket
    forward: tuple[tuple[bytes, bytes], ...]  # client headers for the server
    at_ms: int  # wall time
    started: float  # Trio's clock, seconds
    key_digest: bytes | None = None  # of the key that a signed-in user chose, instead of a credential
    cache_control: str = ""  # the client's directives for the response cache
    required: Requirement | None = None  # by the client's headers
    trace: TraceContext | None = None  # if spans are exported
    replay_of: str = ""  # the id of the request that is sent again
    prefer_regions: tuple[str, ...] = ()  # by the client's header, the best one first


class LimitSet(Struct, frozen=True, gc=False):
    """The limits of an API key or an account; money in nano-USD. 0: no limit."""

    rpm: int = 0  # requests in any 60 s
    tpm: int = 0  # tokens in any 60 s
    concurrency: int = 0  # requests at once
    tokens_per_day: int = 0
    tokens_per_month: int = 0
    usd_per_day: int = 0
    usd_per_month: int = 0
    usd_total: int = 0


class InUse(Struct, frozen=True):
    """What an API key or an account uses now; fields as in LimitSet."""

    rpm: int = 0
    tpm: int = 0
    concurrency: int = 0


NO_LIMITS = LimitSet()
_limits_decoder = msgspec.json.Decoder(dict[str, Annotated[int, Meta(ge=0, le=2**63 - 1)] | None])


def read_limits(text: str | None) -> LimitSet:
    """Limits from the store: a JSON object of integers; a null or missing field is no limit.

    Raises Unavailable for anything else: unreadable limits must not count as no limits.
    """
    if text is None:
        return NO_LIMITS
    try:
        return _overlaid(NO_LIMITS, _limits_decoder.decode(text))
    except (msgspec.DecodeError, TypeError) as exc:  # TypeError: unknown field
        raise _unreadable() from exc


def write_limits(limits: LimitSet) -> str | None:
    """The JSON object for the store; None without limits."""
    own = {name: figure for name, figure in structs.asdict(limits).items() if figure}
    return msgspec.json.encode(own).decode() if own else None


def account_limits(tiers: Mapping[str, LimitSet], tier: str | None, own: LimitSet) -> LimitSet:
    """The tier's limits, overridden by those in `own`. Raises Unavailable for an unknown tier."""
    if tier is not None and tier not in tiers:
        raise _unreadable()
    return _overlaid(NO_LIMITS if tier is None else tiers[tier], structs.asdict(own))


def _overlaid(limits: LimitSet, own: Mapping[str, int | None]) -> LimitSet:
    return structs.replace(limits, **{name: figure for name, figure in own.items() if figure})


def _unreadable() -> Unavailable:
    return Unavailable(
        "limits_unreadable",
        "The stored limits or tier of this API key or its account are invalid. Contact the operator.",
        retry=False,
    )


class NamePatterns(Struct, frozen=True, gc=False):
    """Exact names and prefixes of names."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]

    def __contains__(self, name: str) -> bool:
        return name in self.exact or name.startswith(self.prefixes)


class OwnKey(Struct, frozen=True):
    """A key of a user for a vendor, as a server. `models` are those of the server. Mode "first": the servers
    of the gateway follow; "only": they do not get requests for these models.
    """

    server: "Server"
    mode: OwnKeyMode
    models: frozenset[str]


class Caller(Struct, frozen=True, gc=False):
    """The owner of an API key, and what the key allows. A keyless caller, whose credential is forwarded to
    the server, has empty ids and an address.
    """

    key_id: str
    user_id: str
    key_limits: LimitSet  # of the key itself, in addition to the account's
    user_limits: LimitSet
    expires_at: int | None  # milliseconds since the epoch
    scopes: frozenset[str] | None = None  # None: all
    models: NamePatterns | None = None  # None: all
    networks: Networks | None = None  # None: any client address
    origins: frozenset[str] | None = None  # None: any Origin header, or no such header
    tier: str = ""
    tags: frozenset[str] = frozenset()  # of the key
    required: Requirement | None = None
    prefer_regions: tuple[str, ...] = ()  # of the key, the best one first
    address: str = ""  # of a keyless caller; else empty
    markup: int = 0  # on prices, in hundredths of a percent
    logs_prompts: bool = False
    own_keys: tuple[OwnKey, ...] | None = None  # of the account, for vendors


class ServerOptions(Struct, frozen=True, omit_defaults=True):
    """What differs at one server from [upstream], in seconds; None: no difference. `total_timeout` is for one
    attempt. `on_disconnect`: whether the stream of a disconnected client is read to its end, to get its
    usage, at most for `drain_seconds` and `drain_tokens` of output.
    """

    connect_timeout: float | None = None
    first_token_timeout: float | None = None
    first_byte_timeout: float | None = None
    chunk_timeout: float | None = None
    total_timeout: float | None = None
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    drain_seconds: float | None = None
    drain_tokens: int | None = None

    @property
    def drains(self) -> bool:
        return self.on_disconnect == "drain"


DEFAULT_SERVER_OPTIONS: Final = ServerOptions()


class Server(Struct, frozen=True):
    """One upstream server. Empty `models`: those that its model list names. `vendor`: a row of the vendors;
    "": the URL shows it. `headers` are sent with every request; their values may be secrets. `passthrough`:
    requests that match no operation are relayed to it; `passthrough_paths`: further ones, below /v1.
    `more_keys` are used in turn with `api_key`. `options` is None if all are the default.
    """

    name: str
    dialect: str
    url: str
    api_key: str | None
    models: tuple[str, ...]
    weight: int
    priority: int
    origin: str  # "file", "table" (the database), "environment" or "own" (a user's key for a vendor)
    keyless: bool = False  # also accepts keyless callers; only them if api_key is None
    vendor: str = ""
    api_version: str = ""  # of Azure's older URLs
    headers: tuple[tuple[str, str], ...] = ()
    passthrough: bool = False
    passthrough_paths: tuple[str, ...] = ()
    region: str = ""
    tags: tuple[str, ...] = ()
    mode: ServerMode = "active"
    max_concurrency: int = 0  # requests at once; 0: no cap
    rpm: int = 0  # requests in any 60 s; 0: no cap
    more_keys: tuple[str, ...] = ()
    options: ServerOptions | None = None

    @property
    def api_keys(self) -> tuple[str, ...]:
        return () if self.api_key is None else (self.api_key, *self.more_keys)

    @property
    def is_own(self) -> bool:
        """Whether it is a user's own key for a vendor."""
        return self.origin == OWN

    @property
    def is_trusted(self) -> bool:
        """Whether the operator wrote its URL into the configuration."""
        return self.origin not in ("table", OWN)

    def __repr__(self) -> str:
        return f"Server({self.name!r}, {self.dialect!r})"


SHORTEST_SHOWN: Final = 12  # characters of a key whose last four may be shown


def last_four(key: str) -> str:
    """The end of an API key, which names it without revealing it; "" of a short key."""
    return key[-4:] if len(key) >= SHORTEST_SHOWN else ""


class Usage(Struct, frozen=True, gc=False):
    """The usage of one request in a normalised form: input tokens include cache reads and writes, output
    tokens include reasoning, and both include tokens of audio and images. None: not reported. `usage_source`:
    "upstream"; "estimated" when one or both main counts are; "cache" for a cached response; or "none".
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage_source: UsageSource = "none"
    audio_input_tokens: int | None = None  # tokens, never 0; so are the next three
    audio_output_tokens: int | None = None
    image_input_tokens: int | None = None
    image_output_tokens: int | None = None
    images: int | None = None  # generated images
    audio_ms: int | None = None  # milliseconds of audio that was read
    characters: int | None = None  # of a text that was spoken
    cache_write_hour_tokens: int | None = None  # of the cache writes, those that are kept for an hour
    service_tier: str = ""  # the service tier that the response names, if that can matter for its price
    cost: int | None = None  # what the server says it costs, in nano-USD; NO_AMOUNT: it is not an amount


NO_AMOUNT = -1
NO_USAGE = Usage()
