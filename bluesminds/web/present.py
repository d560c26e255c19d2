"""Rows as the JSON of the control plane: times are RFC 3339 in UTC, lists are
{"object":"list","data":[…],"next_cursor"}.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from bluesminds.values import Server
from storage.keys import KeyRow
from storage.members import UserRow
from storage.usage import StatsRow


def moment(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def listing(rows: Sequence[object], next_cursor: str | None = None) -> dict[str, object]:
    return {"object": "list", "data": list(rows), "next_cursor": next_cursor}


def key(row: KeyRow) -> dict[str, object]:
    return {
        "id": row.id,
        "user_id": row.user_id,
        "name": row.name,
        "prefix": row.prefix,
        "last4": row.last4,
        "limits": {"rpm": row.rpm, "concurrency": row.concurrency},
        "expires_at": moment(row.expires_at),
        "revoked_at": moment(row.revoked_at),
        "last_used_at": moment(row.last_used_at),
        "created_at": moment(row.created_at),
    }


def user(row: UserRow) -> dict[str, object]:
    return {
        "id": row.id,
        "email": row.email,
        "full_name": row.full_name,
        "role": row.role,
        "disabled": row.disabled_at is not None,
        "created_at": moment(row.created_at),
    }


def total(row: StatsRow, group: str) -> dict[str, object]:
    label = (moment(int(row.label)) or "")[:10] if group == "day" else row.label
    return {
        group: label,
        "requests": row.requests,
        "errors": row.errors,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "cached_tokens": row.cached_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "average_ms": round(row.duration_ms / row.requests) if row.requests else 0,
    }


def server(row: Server, problem: str | None = None) -> dict[str, object]:
    """`problem` says why it is not used."""
    return {
        "name": row.name,
        "dialect": row.dialect,
        "url": row.url,
        "has_api_key": row.api_key is not None,
        "models": list(row.models),
        "weight": row.weight,
        "priority": row.priority,
        "origin": row.origin,
        "problem": problem,
    }
