"""Field types that several request and response models share."""

from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from bluesminds.common.emails import read_email
from bluesminds.common.money import read_usd, write_usd
from bluesminds.common.values import LimitSet
from bluesminds.web.routes import Paging
from storage.prompt_log import PromptLogChoice

# Control characters and characters that break lines or change the text direction.
_INVISIBLE: Final = r"\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069"
Name = Annotated[
    str,
    Meta(
        pattern=rf"^[^{_INVISIBLE}]{{1,100}}\Z", description="1 to 100 characters without control characters"
    ),
]
Secret = Annotated[str, Meta(pattern=r"^[\x21-\x7e]+\Z", description="ASCII text without spaces")]
FullName = Annotated[
    str,
    Meta(
        pattern=rf"^[^{_INVISIBLE}]{{0,100}}\Z", description="at most 100 characters, no control characters"
    ),
]
Email = Annotated[str, Meta(max_length=254, description="an e-mail address")]
Password = Annotated[str, Meta(max_length=1024, description="text of at most 1024 characters")]
Code = Annotated[
    str, Meta(min_length=1, max_length=40, description="a code of an authenticator app, or a recovery code")
]
Token = Annotated[str, Meta(max_length=100, description="the token of a link")]
TierName = Annotated[str, Meta(max_length=100, description="the name of a tier, or null for none")]
PromptLogSwitch = Annotated[
    PromptLogChoice,
    Meta(description='"on" or "off", or null to follow the account, and then the settings'),
]
NumberCursor = Annotated[
    str, Meta(pattern=r"^[0-9]{0,18}\Z", description="the next_cursor of the previous page")
]
_ABOVE_ZERO: Final = r"^(?=[0-9.]*[1-9])[0-9]{1,9}(\.[0-9]{1,9})?\Z"
UsdAmount = Annotated[
    str, Meta(pattern=_ABOVE_ZERO, description='an amount of USD above 0 in text, such as "12.5"')
]
_Count = Annotated[
    int, Meta(ge=1, le=10**15, description="null (limit of the tier), or a whole number from 1 to 10**15")
]
_Usd = Annotated[
    str,
    Meta(
        pattern=_ABOVE_ZERO,
        description='null (limit of the tier), or an amount of USD above 0 in text, such as "12.5"',
    ),
]


class AddressFilter(Paging, frozen=True, forbid_unknown_fields=True):
    """The query of a list that can be filtered by e-mail address."""

    email: Annotated[str, Meta(description="a complete e-mail address")] | None = None

    @property
    def address(self) -> str | None:
        """None without a filter; "" for an invalid address, which matches nothing."""
        return None if self.email is None else read_email(self.email) or ""


class LimitsInput(Struct, forbid_unknown_fields=True):
    """Omitted fields stay the same; null is the limit of the tier."""

    rpm: _Count | UnsetType | None = UNSET
    tpm: _Count | UnsetType | None = UNSET
    concurrency: _Count | UnsetType | None = UNSET
    tokens_per_day: _Count | UnsetType | None = UNSET
    tokens_per_month: _Count | UnsetType | None = UNSET
    usd_per_day: _Usd | UnsetType | None = UNSET
    usd_per_month: _Usd | UnsetType | None = UNSET
    usd_total: _Usd | UnsetType | None = UNSET

    def on(self, before: LimitSet) -> LimitSet:
        """`before` with these changes."""
        changes = {name: value for name, value in structs.asdict(self).items() if value is not UNSET}
        return structs.replace(before, **{name: _stored(value) for name, value in changes.items()})


class LimitsView(Struct, frozen=True):
    """Limits of a key or an account. Null is the limit of the tier. Amounts are decimal strings in USD."""

    rpm: int | None
    tpm: int | None
    concurrency: int | None
    tokens_per_day: int | None
    tokens_per_month: int | None
    usd_per_day: str | None
    usd_per_month: str | None
    usd_total: str | None

    @classmethod
    def of(cls, limits: LimitSet) -> "LimitsView":
        return cls(
            rpm=limits.rpm or None,
            tpm=limits.tpm or None,
            concurrency=limits.concurrency or None,
            tokens_per_day=limits.tokens_per_day or None,
            tokens_per_month=limits.tokens_per_month or None,
            usd_per_day=_amount(limits.usd_per_day),
            usd_per_month=_amount(limits.usd_per_month),
            usd_total=_amount(limits.usd_total),
        )


def _stored(value: int | str | None) -> int:
    return read_usd(value) if isinstance(value, str) else value or 0


def _amount(nano: int) -> str | None:
    return write_usd(nano) if nano else None
