"""Request and response types of API keys, and their conversion."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from bluesminds.accounts.key_policy import KeyPolicy
from bluesminds.accounts.keys import KeyUsage, policy_of
from bluesminds.accounts.usage import MAX_DAYS
from bluesminds.common.clock import format_time
from bluesminds.common.crypto import UUID
from bluesminds.common.money import write_usd
from bluesminds.common.values import NO_LIMITS, SCOPES, Scope
from bluesminds.web.fields import LimitsInput, LimitsView, Name, PromptLogSwitch
from bluesminds.web.routes import Paging
from storage.keys import KeyRow
from storage.prompt_log import PromptLogChoice
from storage.usage_stats import StatsRow, UsageCounts

MAX_LIST: Final = 100
MAX_OVERLAP: Final = 604_800  # seconds
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Scopes = Annotated[
    list[Scope],
    Meta(min_length=1, max_length=MAX_LIST, description=f"null (all), or a list of {', '.join(SCOPES)}"),
]
Models = Annotated[
    list[Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,200}\Z")]],
    Meta(
        min_length=1,
        max_length=MAX_LIST,
        description='null (all), or a list of 1 to 100 model names; "*" at the end matches any ending',
    ),
]
Addresses = Annotated[
    list[Annotated[str, Meta(max_length=50)]],
    Meta(
        min_length=1,
        max_length=MAX_LIST,
        description="null (anywhere), or a list of 1 to 100 IP addresses or networks such as 10.0.0.0/8",
    ),
]
Origins = Annotated[
    list[Annotated[str, Meta(max_length=300)]],
    Meta(
        min_length=1,
        max_length=MAX_LIST,
        description="null (any), or a list of 1 to 100 origins such as https://app.example.com",
    ),
]
Limits = Annotated[
    LimitsInput,
    Meta(
        description="null, or an object of rpm, tpm, concurrency, tokens_per_day, tokens_per_month,"
        " usd_per_day, usd_per_month, usd_total"
    ),
]
ExpiryTime = Annotated[
    datetime, Meta(tz=True, description="null (never), or a time such as 2030-01-31T12:00:00Z")
]
Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(
        max_length=16,
        description="an object of up to 16 texts of up to 512 characters, with names of 1 to 64 characters",
    ),
]


class NewKey(Struct, forbid_unknown_fields=True):
    """A list that is null or omitted allows all."""

    name: Name
    scopes: Scopes | None = None
    allowed_models: Models | None = None
    allowed_ips: Addresses | None = None
    allowed_origins: Origins | None = None
    limits: Limits | None = None
    expires_at: ExpiryTime | None = None
    metadata: Metadata | None = None
    prompt_log: PromptLogSwitch | None = None


class NewKeyForUser(NewKey, forbid_unknown_fields=True):
    """A key for a user; without `user_id`, for the caller."""

    user_id: Annotated[str, Meta(max_length=64, description="the id of a user")] | None = None


class KeyPatch(Struct, forbid_unknown_fields=True):
    """Omitted fields stay the same; null removes a restriction."""

    name: Name | UnsetType = UNSET
    scopes: Scopes | UnsetType | None = UNSET
    allowed_models: Models | UnsetType | None = UNSET
    allowed_ips: Addresses | UnsetType | None = UNSET
    allowed_origins: Origins | UnsetType | None = UNSET
    limits: Limits | UnsetType | None = UNSET
    expires_at: ExpiryTime | UnsetType | None = UNSET
    metadata: Metadata | UnsetType | None = UNSET
    prompt_log: PromptLogSwitch | UnsetType | None = UNSET


class Rotation(Struct, forbid_unknown_fields=True):
    overlap_seconds: Annotated[
        int, Meta(ge=0, le=MAX_OVERLAP, description=f"a whole number of seconds from 0 to {MAX_OVERLAP}")
    ] = 0


class KeyFilter(Paging, frozen=True, forbid_unknown_fields=True):
    """`active` selects keys that are neither revoked nor expired, or only the others."""

    active: Annotated[bool, Meta(description="true or false")] | None = None


class KeyFilterForUser(KeyFilter, frozen=True, forbid_unknown_fields=True):
    user_id: Annotated[str, Meta(pattern=rf"^{UUID}\Z", description="the id of a user")] | None = None


class Days(Struct, frozen=True, forbid_unknown_fields=True):
    days: Annotated[int, Meta(ge=1, le=MAX_DAYS, description=f"a whole number from 1 to {MAX_DAYS}")] = 30


class KeyView(Struct, frozen=True):
    id: str
    user_id: str
    name: str
    prefix: str
    last4: str
    scopes: tuple[str, ...] | None
    allowed_models: tuple[str, ...] | None
    allowed_ips: tuple[str, ...] | None
    allowed_origins: tuple[str, ...] | None
    limits: LimitsView
    metadata: dict[str, str]
    prompt_log: PromptLogChoice | None
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    created_at: str
    rotated_at: str | None
    previous_until: str | None


class CreatedKey(KeyView, frozen=True):
    """`key` is the secret, which is shown once."""

    key: str


class KeyTotals(UsageCounts, frozen=True):
    """Usage totals. `cost_usd` does not include responses of models without a price."""

    cost_usd: str


class KeyDate(KeyTotals, frozen=True):
    day: str


class KeyUsageView(KeyTotals, frozen=True):
    """Totals over all days, and each day with requests."""

    id: str
    last_used_at: str | None
    days: list[KeyDate]


def policy_from(body: NewKey) -> KeyPolicy:
    return KeyPolicy(
        name=body.name,
        scopes=_tuple(body.scopes),
        allowed_models=_tuple(body.allowed_models),
        allowed_ips=_tuple(body.allowed_ips),
        allowed_origins=_tuple(body.allowed_origins),
        limits=NO_LIMITS if body.limits is None else body.limits.on(NO_LIMITS),
        expires_at=_milliseconds(body.expires_at),
        metadata=body.metadata or {},
        prompt_log=body.prompt_log,
    )


def policy_with(before: KeyPolicy, body: KeyPatch) -> KeyPolicy:
    changes = {name: value for name, value in structs.asdict(body).items() if value is not UNSET}
    return structs.replace(
        before, **{name: _new_value(name, value, before) for name, value in changes.items()}
    )


def _new_value(name: str, value: Any, before: KeyPolicy) -> object:  # noqa: ANN401
    match value:
        case LimitsInput():
            return value.on(before.limits)
        case None if name == "limits":
            return NO_LIMITS
        case None if name == "metadata":
            return {}
        case datetime():
            return _milliseconds(value)
        case list():
            return tuple(value)
    return value


def _tuple(values: list[Any] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _milliseconds(at: datetime | None) -> int | None:
    return None if at is None else (at - _EPOCH) // timedelta(milliseconds=1)


def view(row: KeyRow) -> KeyView:
    return KeyView(**_fields(row))


def created(row: KeyRow, key: str) -> CreatedKey:
    return CreatedKey(**_fields(row), key=key)


def _fields(row: KeyRow) -> dict[str, Any]:
    policy = policy_of(row)
    return structs.asdict(policy) | {
        "id": row.id,
        "user_id": row.user_id,
        "prefix": row.prefix,
        "last4": row.last4,
        "limits": LimitsView.of(policy.limits),
        "expires_at": format_time(row.expires_at),
        "revoked_at": format_time(row.revoked_at),
        "last_used_at": format_time(row.last_used_at),
        "created_at": format_time(row.created_at),
        "rotated_at": format_time(row.rotated_at),
        "previous_until": format_time(row.previous_until),
    }


def key_date(row: StatsRow) -> KeyDate:
    """The sums of a day."""
    return KeyDate(
        day=format_time(int(row.label))[:10],
        cost_usd=write_usd(row.cost_nano),
        **{name: getattr(row, name) for name in UsageCounts.__struct_fields__},
    )


def usage_view(found: KeyUsage) -> KeyUsageView:
    rows = found.days
    return KeyUsageView(
        id=found.key.id,
        last_used_at=format_time(found.key.last_used_at),
        cost_usd=write_usd(sum(row.cost_nano for row in rows)),
        days=[key_date(row) for row in rows],
        **{name: sum(getattr(row, name) for row in rows) for name in UsageCounts.__struct_fields__},
    )
