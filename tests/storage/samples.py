"""Rows to put into a database, and units of work that only tests need."""

import uuid
from dataclasses import dataclass

from storage import Connection
from storage.keys import KeyRow
from storage.settings import put_setting
from storage.usage import USAGE_COLUMNS, UsageRow, usage_row
from storage.users import UserRow

NOON = 1_800_000_000_000 - 1_800_000_000_000 % 86_400_000 + 43_200_000


def uuid7(at: int = NOON, serial: int = 0) -> str:
    """A UUIDv7 whose random part is a serial number."""
    return str(uuid.UUID(int=at << 80 | 7 << 76 | 2 << 62 | serial))


@dataclass(frozen=True, slots=True)
class Pair:
    name: str
    value: str


async def put_pairs(connection: Connection, pairs: list[Pair]) -> None:
    """One statement per pair, so that a transaction has many places to be split at."""
    for pair in pairs:
        await put_setting(connection, pair.name, pair.value)


async def names(connection: Connection) -> list[str]:
    rows = await connection.all("SELECT name FROM settings ORDER BY name")
    return [row[0] for row in rows]


async def all_usage(connection: Connection) -> list[UsageRow]:
    """The newest first."""
    rows = await connection.all("SELECT" + USAGE_COLUMNS + "FROM usage ORDER BY at DESC, id DESC")
    return [usage_row(row) for row in rows]


def user(serial: int = 1, email: str | None = None) -> UserRow:
    return UserRow(
        id=uuid7(NOON, serial),
        email=email,
        full_name="Ada Lovelace",
        role="user",
        password_hash=None,
        disabled_at=None,
        created_at=NOON,
    )


def key(owner: UserRow, serial: int = 1) -> KeyRow:
    return KeyRow(
        id=uuid7(NOON, 1000 + serial),
        user_id=owner.id,
        name="laptop",
        digest=serial.to_bytes(32, "big"),
        prefix="bm_Ab12",
        last4="wxyz",
        scopes=None,
        allowed_models=None,
        allowed_ips=None,
        allowed_origins=None,
        limits='{"rpm": 60}',
        metadata={},
        expires_at=None,
        revoked_at=None,
        last_used_at=None,
        created_at=NOON,
        rotated_at=None,
    )


def usage(
    serial: int,
    *,
    at: int = NOON,
    key_id: str = "key-1",
    user_id: str = "user-1",
    model: str = "small",
    outcome: str = "ok",
    status: int = 200,
    server: str = "alpha",
    input_tokens: int | None = 10,
    output_tokens: int | None = 20,
    images: int | None = None,
    audio_ms: int | None = None,
    characters: int | None = None,
    duration_ms: int = 700,
    first_byte_ms: int | None = None,
    cost_nano: int | None = 5,
    charged_nano: int | None = None,
    day: str = "2027-01-15",
) -> UsageRow:
    return UsageRow(
        id=uuid7(at, serial),
        at=at,
        request_id=f"request-{serial}",
        key_id=key_id,
        user_id=user_id,
        endpoint="/v1/chat/completions",
        model=model,
        server=server,
        status=status,
        outcome=outcome,
        streamed=True,
        attempts=1,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=3,
        cache_write_tokens=4,
        reasoning_tokens=0,
        audio_input_tokens=5,
        audio_output_tokens=6,
        image_input_tokens=7,
        image_output_tokens=8,
        images=images,
        audio_ms=audio_ms,
        characters=characters,
        usage_source="upstream",
        first_byte_ms=first_byte_ms,
        duration_ms=duration_ms,
        cost_nano=cost_nano,
        price_version="operator:small@#1",
        charged_nano=charged_nano,
        day=day,
        month=day[:7],
    )
