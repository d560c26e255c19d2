"""Who did what: the row that goes into the same transaction as the change it tells of."""

import json

from msgspec import Struct

from bluesminds.clock import Clock
from bluesminds.crypto import uuid7
from storage.audit import AuditRow


class Actor(Struct, frozen=True):
    """Who asks for a change: `name` is a user id or "operator" (the local socket); `address` is where from,
    or "local".
    """

    name: str
    address: str


OPERATOR = Actor(name="operator", address="local")


def entry(clock: Clock, actor: Actor, action: str, subject: str, **detail: object) -> AuditRow:
    """`action` is noun.verb; detail must hold no secret."""
    now = clock.now_ms()
    return AuditRow(
        id=uuid7(now),
        at=now,
        actor=actor.name,
        action=action,
        subject=subject,
        detail=json.dumps(detail, sort_keys=True),
        address=actor.address,
    )
