"""What the API of servers reads and writes."""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from bluesminds.accounts.servers import MAX_KEYS
from bluesminds.common.server_headers import MAX_HEADERS
from bluesminds.common.values import DEFAULT_SERVER_OPTIONS, Server, ServerMode
from bluesminds.config.settings import (
    CountOrZero,
    OnDisconnect,
    Priority,
    Region,
    RelayPaths,
    Seconds,
    ServerName,
    Tags,
    Tokens,
    VendorName,
    Weight,
)
from bluesminds.gateway.routing.health import ServerStatus
from bluesminds.gateway.routing.server_keys import ServerKeyStatus
from bluesminds.gateway.server_test import ServerTest, StepName
from bluesminds.providers.profiles import profile_of
from bluesminds.web.fields import Name, Secret

ModelNames = Annotated[
    list[Name],
    Meta(description="a list of names of 1 to 100 characters without control characters"),
]
AddedDialect = Annotated[
    Literal["openai", "azure", "litellm", "anthropic", "gemini"],
    Meta(description='one of "openai", "azure", "litellm", "anthropic", "gemini"'),
]
Version = Annotated[
    str, Meta(pattern=r"^[0-9A-Za-z.-]{0,40}\Z", description='a version of Azure\'s API, or ""')
]
ServerHeaders = Annotated[
    dict[str, str], Meta(description="an object of header names and values", max_length=MAX_HEADERS)
]
ApiKeys = Annotated[list[Secret], Meta(description=f"a list of at most {MAX_KEYS} API keys")]


class NewServer(Struct, forbid_unknown_fields=True):
    """`url` and `dialect` follow from `vendor`; without a vendor, `url` is needed. Several `api_keys` are
    used in turn; give either these or one `api_key`.
    """

    name: ServerName
    vendor: VendorName | None = None
    url: str | None = None
    dialect: AddedDialect | None = None
    api_key: Secret | None = None
    api_keys: ApiKeys = []
    api_version: Version = ""
    headers: ServerHeaders = {}
    models: ModelNames = []
    weight: Weight = 1
    priority: Priority = 0
    passthrough: bool = False
    passthrough_paths: RelayPaths = ()
    region: Region | None = None
    tags: Tags = ()
    mode: ServerMode = "active"
    max_concurrency: CountOrZero = 0
    rpm: CountOrZero = 0
    connect_timeout: Seconds | None = None
    first_token_timeout: Seconds | None = None
    first_byte_timeout: Seconds | None = None
    chunk_timeout: Seconds | None = None
    total_timeout: Seconds | None = None
    on_disconnect: OnDisconnect = "cancel"
    drain_seconds: Seconds | None = None
    drain_tokens: Tokens | None = None


class ServerPatch(Struct, forbid_unknown_fields=True):
    """`api_key` replaces all keys, and null removes them; `api_keys` replaces them by several. `headers`
    replaces all headers. An empty list of models means that the gateway discovers them.
    """

    url: str | UnsetType = UNSET
    api_key: Secret | UnsetType | None = UNSET
    api_keys: ApiKeys | UnsetType = UNSET
    api_version: Version | UnsetType = UNSET
    headers: ServerHeaders | UnsetType = UNSET
    models: ModelNames | UnsetType = UNSET
    weight: Weight | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    passthrough: bool | UnsetType = UNSET
    passthrough_paths: RelayPaths | UnsetType = UNSET
    region: Region | UnsetType | None = UNSET
    tags: Tags | UnsetType = UNSET
    mode: ServerMode | UnsetType = UNSET
    max_concurrency: CountOrZero | UnsetType = UNSET
    rpm: CountOrZero | UnsetType = UNSET
    connect_timeout: Seconds | UnsetType | None = UNSET
    first_token_timeout: Seconds | UnsetType | None = UNSET
    first_byte_timeout: Seconds | UnsetType | None = UNSET
    chunk_timeout: Seconds | UnsetType | None = UNSET
    total_timeout: Seconds | UnsetType | None = UNSET
    on_disconnect: OnDisconnect | UnsetType = UNSET
    drain_seconds: Seconds | UnsetType | None = UNSET
    drain_tokens: Tokens | UnsetType | None = UNSET


class NewServerKey(Struct, forbid_unknown_fields=True):
    api_key: Secret


class ServerKeyQuery(Struct, frozen=True, forbid_unknown_fields=True):
    last_four: Annotated[str, Meta(max_length=4, description="the last four characters of the key")]


class ServerKeyView(Struct, frozen=True):
    """One of the API keys of a server. `last_four` is empty for a key of less than twelve characters. A key
    that the server has refused or limited is `resting` for `seconds`: others are used. `reason`: of its last
    failure, null after a success.
    """

    last_four: str
    state: Literal["active", "resting"]
    seconds: float
    reason: str | None


class ServerView(Struct, frozen=True):
    """`state` is the result of the last health check; `unusable`: the API key cannot be decrypted. A server
    whose `mode` is off is not checked. `models` are the configured ones; `model_count` includes discovered
    ones. `origin`: database, file, environment or built-in. `vendor` is null if it is not known. `headers`
    has only the names. Times are seconds; null is that of the settings.
    """

    name: str
    vendor: str | None
    dialect: str
    url: str
    has_api_key: bool
    api_keys: list[ServerKeyView]
    api_version: str | None
    headers: list[str]
    models: list[str]
    weight: int
    priority: int
    passthrough: bool
    passthrough_paths: list[str]
    region: str | None
    tags: list[str]
    mode: ServerMode
    max_concurrency: int
    rpm: int
    connect_timeout: float | None
    first_token_timeout: float | None
    first_byte_timeout: float | None
    chunk_timeout: float | None
    total_timeout: float | None
    on_disconnect: OnDisconnect
    drain_seconds: float | None
    drain_tokens: int | None
    origin: str
    state: Literal["up", "down", "unknown", "unusable"]
    model_count: int | None
    last_error: str | None


class ServerTestQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`model`: for the completion. Without it, one of the server's models is used."""

    model: Annotated[str, Meta(max_length=256, description="the server's name of a model")] | None = None


class TestStepView(Struct, frozen=True):
    """`message` says what was found, or what is wrong. `ms`: milliseconds."""

    name: StepName
    ok: bool
    ms: int
    message: str


class ServerTestResult(Struct, frozen=True):
    """The steps up to the first one that failed. `problem`: its message; null if the server works. `models`
    are null if they were not listed. `latency_ms` is the sum of all steps.
    """

    server: str
    ok: bool
    problem: str | None
    models: list[str] | None
    latency_ms: int
    steps: list[TestStepView]


def key_views(statuses: Sequence[ServerKeyStatus]) -> list[ServerKeyView]:
    return [
        ServerKeyView(one.last_four, one.state, round(one.seconds, 3), one.reason or None) for one in statuses
    ]


def server_view(row: Server, status: ServerStatus, keys: Sequence[ServerKeyStatus]) -> ServerView:
    vendor = profile_of(row).vendor
    return ServerView(
        name=row.name,
        vendor=None if vendor is None else vendor.name,
        dialect=row.dialect,
        url=row.url,
        has_api_key=row.api_key is not None,
        api_keys=key_views(keys),
        api_version=row.api_version or None,
        headers=[name for name, _ in row.headers],
        models=list(row.models),
        weight=row.weight,
        priority=row.priority,
        passthrough=row.passthrough,
        passthrough_paths=list(row.passthrough_paths),
        region=row.region or None,
        tags=list(row.tags),
        mode=row.mode,
        max_concurrency=row.max_concurrency,
        rpm=row.rpm,
        **structs.asdict(row.options or DEFAULT_SERVER_OPTIONS),
        origin="built-in" if row.dialect == "demo" else "database" if row.origin == "table" else row.origin,
        state=status.state,
        model_count=status.model_count,
        last_error=status.last_error,
    )


def failed_test(server: str, problem: str) -> ServerTestResult:
    return ServerTestResult(server, ok=False, problem=problem, models=None, latency_ms=0, steps=[])


def step_views(result: ServerTest) -> list[TestStepView]:
    return [
        TestStepView(step.name, step.ok, round(step.seconds * 1000), step.message) for step in result.steps
    ]


def test_result(result: ServerTest) -> ServerTestResult:
    problem = next((step.message for step in result.steps if not step.ok), None)
    steps = step_views(result)
    return ServerTestResult(
        server=result.server,
        ok=problem is None,
        problem=problem,
        models=None if result.models is None else [row.id for row in result.models],
        latency_ms=sum(step.ms for step in steps),
        steps=steps,
    )
