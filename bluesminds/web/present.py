"""How values look in the JSON of the control plane: times are RFC 3339 in UTC, with milliseconds."""

from datetime import UTC, datetime
from typing import overload


@overload
def moment(at_ms: int) -> str: ...
@overload
def moment(at_ms: None) -> None: ...
@overload
def moment(at_ms: int | None) -> str | None: ...
def moment(at_ms: int | None) -> str | None:
    """Milliseconds since the epoch as 2026-02-28T12:00:00.000Z."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
