"""Endpoints of webhooks: create, change, rotate, test, and the log of their deliveries.

`owner` is the ID of a user, or OPERATORS for endpoints that get the events of all accounts. The secret of an
endpoint is shown once; it is stored encrypted.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from msgspec import UNSET, Struct, UnsetType

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.users import no_such_user
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import Vault, is_uuid, uuid7
from bluesminds.common.errors import Conflict, InvalidRequest, NotFound
from bluesminds.common.networks import read_address
from bluesminds.http.client.pool import AddressPolicy
from bluesminds.notify.events import EVENT_KINDS, EventKind, new_event
from bluesminds.notify.webhook_format import WebhookTarget, new_secret
from bluesminds.notify.webhooks import new_delivery
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.users import select_user
from storage.webhook_deliveries import (
    AttemptRow,
    DeliveryRow,
    fail_pending_deliveries,
    insert_deliveries,
    select_attempts,
    select_deliveries,
    select_delivery,
    update_delivery,
)
from storage.webhooks import (
    OPERATORS,
    WebhookRow,
    delete_webhook,
    insert_webhook,
    select_webhook,
    select_webhooks,
    update_webhook,
)

MAX_WEBHOOKS: Final = 20  # of one owner
MAX_EVENTS: Final = 50  # patterns of one endpoint
GROUPS: Final = frozenset(kind.partition(".")[0] + ".*" for kind in EVENT_KINDS)
FOR_OPERATORS: Final = frozenset(("server", "alert"))  # groups of events that no account gets


class WebhookPolicy(Struct, frozen=True):
    """`allow_http`: URLs may begin with http://. `addresses`: where requests may go."""

    allow_http: bool = False
    addresses: AddressPolicy = AddressPolicy()


class WebhookChanges(Struct, frozen=True):
    """The fields to change. UNSET fields stay the same."""

    url: str | UnsetType = UNSET
    events: tuple[str, ...] | UnsetType = UNSET
    description: str | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class Webhooks:
    """`waiting` is called when a delivery waits, to wake the sender."""

    def __init__(
        self,
        store: Store,
        *,
        vault: Vault,
        clock: Clock,
        policy: WebhookPolicy,
        waiting: Callable[[], None],
    ) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._policy = policy
        self._waiting = waiting

    async def list(self, owner: str) -> Sequence[WebhookRow]:
        """In the order of their creation."""
        return await self._store.read(select_webhooks, owner)

    async def list_of_user(self, user_id: str) -> Sequence[WebhookRow]:
        """Raises NotFound."""
        return await self._store.read(_list_of_user, user_id)

    async def get(self, owner: str, webhook_id: str) -> WebhookRow:
        """Raises NotFound."""
        return await self._store.read(_find, owner, webhook_id)

    async def create(
        self, actor: Actor, owner: str, *, url: str, events: tuple[str, ...], description: str
    ) -> tuple[WebhookRow, str]:
        """The endpoint and its secret, to be shown once. Raises InvalidRequest, Conflict for too many."""
        self._check_url(url)
        _check_events(owner, events)
        now, secret = self._clock.now_ms(), new_secret()
        row = WebhookRow(
            id=uuid7(now),
            owner=owner,
            url=url,
            description=description,
            events=events,
            sealed_secret=self._vault.seal(secret),
            sealed_previous=None,
            previous_until=None,
            enabled=True,
            disabled_reason="",
            last_success_at=None,
            created_at=now,
            updated_at=now,
        )
        await self._store.write(self._insert, actor, row)
        return row, secret

    async def change(self, actor: Actor, owner: str, webhook_id: str, changes: WebhookChanges) -> WebhookRow:
        """A disabled endpoint gets nothing, and what waited for it is not sent. Raises NotFound,
        InvalidRequest.
        """
        if changes.url is not UNSET:
            self._check_url(changes.url)
        if changes.events is not UNSET:
            _check_events(owner, changes.events)

        def edit(row: WebhookRow) -> WebhookRow:
            given = {
                name: value
                for name in ("url", "events", "description", "enabled")
                if (value := getattr(changes, name)) is not UNSET
            }
            return replace(row, **given, disabled_reason="" if "enabled" in given else row.disabled_reason)

        return await self._store.write(self._edit, actor, "webhook.update", owner, webhook_id, edit)

    async def rotate(
        self, actor: Actor, owner: str, webhook_id: str, *, overlap: int
    ) -> tuple[WebhookRow, str]:
        """The endpoint and its new secret, to be shown once. For `overlap` more seconds, deliveries
        are also signed with the previous secret. Raises NotFound.
        """
        now, secret = self._clock.now_ms(), new_secret()

        def edit(row: WebhookRow) -> WebhookRow:
            return replace(
                row,
                sealed_secret=self._vault.seal(secret),
                sealed_previous=row.sealed_secret if overlap else None,
                previous_until=now + overlap * 1000 if overlap else None,
            )

        row = await self._store.write(self._edit, actor, "webhook.rotate", owner, webhook_id, edit)
        return row, secret

    async def remove(self, actor: Actor, owner: str, webhook_id: str) -> None:
        """Delete an endpoint with its log. Raises NotFound."""
        await self._store.write(self._delete, actor, owner, webhook_id)

    async def test(self, owner: str, webhook_id: str, kind: EventKind) -> DeliveryRow:
        """Deliver a test event to this endpoint alone, whatever events it wants. Raises NotFound, Conflict if
        it is disabled.
        """
        now = self._clock.now_ms()
        data = {"test": True, "message": "This event is a test. Nothing has happened."}
        event = new_event(now, kind, owner or None, data)
        delivery = await self._store.write(_test, owner, webhook_id, new_delivery(webhook_id, event, now))
        self._waiting()
        return delivery

    async def deliveries(
        self, owner: str, webhook_id: str, *, before: str, limit: int
    ) -> Sequence[DeliveryRow]:
        """The log, newest first: deliveries with an id below `before`. Raises NotFound."""
        await self.get(owner, webhook_id)
        return await self._store.read(select_deliveries, webhook_id, before, limit)

    async def delivery(
        self, owner: str, webhook_id: str, delivery_id: str
    ) -> tuple[DeliveryRow, Sequence[AttemptRow]]:
        """A delivery and its attempts. Raises NotFound."""
        return await self._store.read(_delivery, owner, webhook_id, delivery_id)

    async def resend(self, owner: str, webhook_id: str, delivery_id: str) -> DeliveryRow:
        """Send a delivery once more, with the same `webhook-id`, and retry it as a new one. Raises NotFound,
        Conflict if the endpoint is disabled.
        """
        delivery = await self._store.write(_resend, owner, webhook_id, delivery_id, self._clock.now_ms())
        self._waiting()
        return delivery

    def _check_url(self, url: str) -> None:
        try:
            target = WebhookTarget.parse(url, allow_http=self._policy.allow_http)
        except ValueError as exc:
            message = str(exc)
            raise InvalidRequest("invalid_value", f"{message[0].upper()}{message[1:]}.", param="url") from exc
        address = read_address(target.origin.host)
        if address is not None and not self._policy.addresses.permits(address):
            message = "The address of the URL is private. The operator can allow it in [webhooks]."
            raise InvalidRequest("invalid_value", message, param="url")

    async def _insert(self, connection: Connection, actor: Actor, row: WebhookRow) -> None:
        audit = entry(self._clock, actor, "webhook.create", row.id, after=_audit_fields(row))
        await insert_audit(connection, audit)
        await insert_webhook(connection, row)
        if len(await select_webhooks(connection, row.owner)) > MAX_WEBHOOKS:
            raise Conflict(
                "too_many_webhooks", f"At most {MAX_WEBHOOKS} webhooks are allowed. Delete one first."
            )

    async def _edit(
        self,
        connection: Connection,
        actor: Actor,
        action: str,
        owner: str,
        webhook_id: str,
        edit: Callable[[WebhookRow], WebhookRow],
    ) -> WebhookRow:
        await lock_audit_head(connection)
        before = await _find(connection, owner, webhook_id)
        after = replace(edit(before), updated_at=self._clock.now_ms())
        old, new = _audit_fields(before), _audit_fields(after)
        if old == new:
            return before
        audit = entry(self._clock, actor, action, webhook_id, before=old, after=new)
        await insert_audit(connection, audit)
        await update_webhook(connection, after)
        if before.enabled and not after.enabled:
            await fail_pending_deliveries(connection, webhook_id)
        return after

    async def _delete(self, connection: Connection, actor: Actor, owner: str, webhook_id: str) -> None:
        await lock_audit_head(connection)
        row = await _find(connection, owner, webhook_id)
        audit = entry(self._clock, actor, "webhook.delete", webhook_id, before=_audit_fields(row))
        await insert_audit(connection, audit)
        await delete_webhook(connection, webhook_id)


def _check_events(owner: str, events: Sequence[str]) -> None:
    """Raises InvalidRequest."""
    for one in events:
        if one != "*" and one not in EVENT_KINDS and one not in GROUPS:
            message = f"Unknown event {one!r}. Known: *, groups such as payment.*, {', '.join(EVENT_KINDS)}."
            raise InvalidRequest("invalid_value", message, param="events")
        if owner != OPERATORS and one.partition(".")[0] in FOR_OPERATORS:
            message = f"Only webhooks of administrators can get {one}."
            raise InvalidRequest("invalid_value", message, param="events")


def _audit_fields(row: WebhookRow) -> dict[str, object]:
    """The audit log masks the secret. A query may hold one, so it is left out."""
    return {
        "owner": row.owner or "operators",
        "url": row.url.partition("?")[0],
        "url_query_hash": row.url.partition("?")[2] or None,
        "description": row.description,
        "events": row.events,
        "secret": row.sealed_secret,
        "previous_until": row.previous_until,
        "enabled": row.enabled,
    }


def _no_such_webhook() -> NotFound:
    return NotFound("webhook_not_found", "There is no webhook with this id.")


async def _list_of_user(connection: Connection, user_id: str) -> Sequence[WebhookRow]:
    if not is_uuid(user_id) or await select_user(connection, user_id) is None:
        raise no_such_user()
    return await select_webhooks(connection, user_id)


async def _find(connection: Connection, owner: str, webhook_id: str) -> WebhookRow:
    row = await select_webhook(connection, webhook_id) if is_uuid(webhook_id) else None
    if row is None or row.owner != owner:
        raise _no_such_webhook()
    return row


async def _find_enabled(connection: Connection, owner: str, webhook_id: str) -> None:
    if not (await _find(connection, owner, webhook_id)).enabled:
        raise Conflict("webhook_disabled", "The webhook is disabled. Enable it first.")


async def _test(connection: Connection, owner: str, webhook_id: str, delivery: DeliveryRow) -> DeliveryRow:
    await _find_enabled(connection, owner, webhook_id)
    await insert_deliveries(connection, [delivery])
    return delivery


async def _delivery(
    connection: Connection, owner: str, webhook_id: str, delivery_id: str
) -> tuple[DeliveryRow, Sequence[AttemptRow]]:
    await _find(connection, owner, webhook_id)
    row = await select_delivery(connection, webhook_id, delivery_id) if is_uuid(delivery_id) else None
    if row is None:
        raise NotFound("delivery_not_found", "The webhook has no delivery with this id.")
    return row, await select_attempts(connection, delivery_id)


async def _resend(
    connection: Connection, owner: str, webhook_id: str, delivery_id: str, now: int
) -> DeliveryRow:
    await _find_enabled(connection, owner, webhook_id)
    row, _ = await _delivery(connection, owner, webhook_id, delivery_id)
    row = replace(row, state="pending", tries=0, since=now, next_at=now)
    await update_delivery(connection, row)
    return row
