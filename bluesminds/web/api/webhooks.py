"""/api/webhooks: URLs that get the events of an account. /api/admin/webhooks: those of the operators."""

from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from bluesminds.accounts.users import no_such_user
from bluesminds.accounts.webhooks import MAX_EVENTS, WebhookChanges, Webhooks
from bluesminds.common.clock import format_time
from bluesminds.common.crypto import is_uuid
from bluesminds.notify.events import EVENT_KINDS, EventKind
from bluesminds.notify.webhook_format import MAX_URL
from bluesminds.web.api.key_schemas import MAX_OVERLAP
from bluesminds.web.fields import FullName
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Paging, Route, route
from storage.webhook_deliveries import AttemptRow, DeliveryRow, DeliveryState
from storage.webhooks import OPERATORS, WebhookRow

LAST_ID: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"
DAY: Final = 86_400  # seconds

WebhookUrl = Annotated[str, Meta(min_length=1, max_length=MAX_URL, description="an https URL")]
WebhookEvents = Annotated[
    tuple[Annotated[str, Meta(max_length=100)], ...],
    Meta(
        min_length=1,
        max_length=MAX_EVENTS,
        description=f'a list of events, groups such as "payment.*", or "*": {", ".join(EVENT_KINDS)}',
    ),
]


class NewWebhook(Struct, frozen=True, forbid_unknown_fields=True):
    url: WebhookUrl
    events: WebhookEvents = ("*",)
    description: FullName = ""


class WebhookPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Events are not sent to a disabled webhook, also not later."""

    url: WebhookUrl | UnsetType = UNSET
    events: WebhookEvents | UnsetType = UNSET
    description: FullName | UnsetType = UNSET
    enabled: Annotated[bool, Meta(description="true or false")] | UnsetType = UNSET


class WebhookRotation(Struct, frozen=True, forbid_unknown_fields=True):
    """For how long deliveries have a signature of the earlier secret as well."""

    overlap_seconds: Annotated[
        int, Meta(ge=0, le=MAX_OVERLAP, description=f"a whole number of seconds from 0 to {MAX_OVERLAP}")
    ] = DAY


class WebhookTest(Struct, frozen=True, forbid_unknown_fields=True):
    """The kind of the event that is sent."""

    event: EventKind = "webhook.test"


class WebhookView(Struct, frozen=True):
    """`disabled_reason` is empty if the webhook is enabled, or if its owner disabled it. The secret before
    signs too until `previous_until`.
    """

    id: str
    url: str
    description: str
    events: tuple[str, ...]
    enabled: bool
    disabled_reason: str
    previous_until: str | None
    last_success_at: str | None
    created_at: str
    updated_at: str


class CreatedWebhook(Struct, frozen=True):
    """The secret is shown once. Check signatures with it."""

    webhook: WebhookView
    secret: str

    def __repr__(self) -> str:
        return f"CreatedWebhook({self.webhook.id!r})"


class DeliveryView(Struct, frozen=True):
    """`event_id` is the `webhook-id` of every attempt. `next_at`: when it is tried next."""

    id: str
    event_id: str
    event: str
    state: DeliveryState
    created_at: str
    next_at: str | None


class DeliveryAttempt(Struct, frozen=True):
    """`status` is null without an answer; `error` then says why. `answer` is the beginning of the body."""

    number: int
    at: str
    status: int | None
    error: str
    duration_ms: int
    answer: str


class DeliveryReport(Struct, frozen=True):
    """`body`: what is sent."""

    delivery: DeliveryView
    body: str
    attempts: list[DeliveryAttempt]


class WebhookHandlers(Struct, frozen=True):
    """Handlers for the webhooks of the caller, or with `operators` for those of the operators."""

    webhooks: Webhooks
    operators: bool = False

    def _owner(self, principal: Principal) -> str:
        return OPERATORS if self.operators else principal.user_id

    async def list(self, principal: Principal) -> Page[WebhookView]:
        """List the webhooks, oldest first."""
        return Page([webhook_view(row) for row in await self.webhooks.list(self._owner(principal))])

    async def create(self, principal: Principal, body: NewWebhook) -> CreatedWebhook:
        """Create a webhook. The response contains the secret, which is shown once."""
        row, secret = await self.webhooks.create(
            principal.actor,
            self._owner(principal),
            url=body.url,
            events=body.events,
            description=body.description,
        )
        return CreatedWebhook(webhook_view(row), secret)

    async def get(self, principal: Principal, webhook_id: str) -> WebhookView:
        """Show a webhook."""
        return webhook_view(await self.webhooks.get(self._owner(principal), webhook_id))

    async def change(self, principal: Principal, webhook_id: str, body: WebhookPatch) -> WebhookView:
        """Change a webhook. Omitted fields stay the same. If it is disabled, waiting deliveries fail."""
        changes = WebhookChanges(body.url, body.events, body.description, body.enabled)
        owner = self._owner(principal)
        return webhook_view(await self.webhooks.change(principal.actor, owner, webhook_id, changes))

    async def remove(self, principal: Principal, webhook_id: str) -> None:
        """Delete a webhook with its deliveries."""
        await self.webhooks.remove(principal.actor, self._owner(principal), webhook_id)

    async def rotate(self, principal: Principal, webhook_id: str, body: WebhookRotation) -> CreatedWebhook:
        """Replace the secret of a webhook. The new one is shown once.

        For `overlap_seconds`, deliveries have a signature of each of the two secrets.
        """
        owner, overlap = self._owner(principal), body.overlap_seconds
        row, secret = await self.webhooks.rotate(principal.actor, owner, webhook_id, overlap=overlap)
        return CreatedWebhook(webhook_view(row), secret)

    async def test(self, principal: Principal, webhook_id: str, body: WebhookTest) -> DeliveryView:
        """Send a test event to a webhook. The result is in its deliveries."""
        return delivery_view(await self.webhooks.test(self._owner(principal), webhook_id, body.event))

    async def deliveries(self, principal: Principal, webhook_id: str, query: Paging) -> Page[DeliveryView]:
        """List the deliveries of a webhook of the last 30 days, newest first."""
        owner, before = self._owner(principal), query.after or LAST_ID
        rows = await self.webhooks.deliveries(owner, webhook_id, before=before, limit=query.limit + 1)
        return Page.of(rows, query.limit, delivery_view, cursor=lambda row: row.id)

    async def delivery(self, principal: Principal, webhook_id: str, delivery_id: str) -> DeliveryReport:
        """Show a delivery: its body, and the answers to its attempts."""
        owner = self._owner(principal)
        row, attempts = await self.webhooks.delivery(owner, webhook_id, delivery_id)
        return DeliveryReport(delivery_view(row), row.body, [_attempt_view(one) for one in attempts])

    async def resend(self, principal: Principal, webhook_id: str, delivery_id: str) -> DeliveryView:
        """Send a delivery once more, with the same `webhook-id`."""
        return delivery_view(await self.webhooks.resend(self._owner(principal), webhook_id, delivery_id))


class WebhookSwitch(Struct, frozen=True, forbid_unknown_fields=True):
    """If a webhook is disabled, waiting deliveries fail."""

    enabled: Annotated[bool, Meta(description="true or false")]


class UserWebhookHandlers(Struct, frozen=True):
    """What administrators see of the webhooks of a user. Only the user changes where they go."""

    webhooks: Webhooks

    async def list(self, user_id: str) -> Page[WebhookView]:
        """List the webhooks of a user, oldest first."""
        return Page([webhook_view(row) for row in await self.webhooks.list_of_user(user_id)])

    async def switch(
        self, principal: Principal, user_id: str, webhook_id: str, body: WebhookSwitch
    ) -> WebhookView:
        """Disable or enable a webhook of a user."""
        changes = WebhookChanges(enabled=body.enabled)
        owner = _user(user_id)
        return webhook_view(await self.webhooks.change(principal.actor, owner, webhook_id, changes))

    async def remove(self, principal: Principal, user_id: str, webhook_id: str) -> None:
        """Delete a webhook of a user with its deliveries."""
        await self.webhooks.remove(principal.actor, _user(user_id), webhook_id)

    async def deliveries(self, user_id: str, webhook_id: str, query: Paging) -> Page[DeliveryView]:
        """List the deliveries of a webhook of a user, newest first, without their content."""
        owner, before = _user(user_id), query.after or LAST_ID
        rows = await self.webhooks.deliveries(owner, webhook_id, before=before, limit=query.limit + 1)
        return Page.of(rows, query.limit, delivery_view, cursor=lambda row: row.id)


def routes(webhooks: Webhooks) -> list[Route]:
    own, operators = WebhookHandlers(webhooks), WebhookHandlers(webhooks, operators=True)
    of_user, admin, tag = UserWebhookHandlers(webhooks), Access.ADMIN, "Webhooks"
    path = "/api/admin/users/{user_id}/webhooks"
    one = path + "/{webhook_id}"
    return [
        *_routes("/api/webhooks", Access.SESSION, own),
        *_routes("/api/admin/webhooks", admin, operators),
        route("GET", path, admin, of_user.list, tag=tag),
        route("PATCH", one, admin, of_user.switch, tag=tag),
        route("DELETE", one, admin, of_user.remove, tag=tag),
        route("GET", f"{one}/deliveries", admin, of_user.deliveries, tag=tag),
    ]


def _user(user_id: str) -> str:
    """Raises NotFound, also for the owner that stands for the operators."""
    if not is_uuid(user_id):
        raise no_such_user()
    return user_id


def _routes(path: str, access: Access, handlers: WebhookHandlers) -> list[Route]:
    tag = "Webhooks"
    one = f"{path}/{{webhook_id}}"
    delivery = f"{one}/deliveries/{{delivery_id}}"
    return [
        route("GET", path, access, handlers.list, tag=tag),
        route("POST", path, access, handlers.create, tag=tag, status=201),
        route("GET", one, access, handlers.get, tag=tag),
        route("PATCH", one, access, handlers.change, tag=tag),
        route("DELETE", one, access, handlers.remove, tag=tag),
        route("POST", f"{one}/rotate", access, handlers.rotate, tag=tag, status=201),
        route("POST", f"{one}/test", access, handlers.test, tag=tag, status=201),
        route("GET", f"{one}/deliveries", access, handlers.deliveries, tag=tag),
        route("GET", delivery, access, handlers.delivery, tag=tag),
        route("POST", f"{delivery}/resend", access, handlers.resend, tag=tag, status=201),
    ]


def webhook_view(row: WebhookRow) -> WebhookView:
    return WebhookView(
        id=row.id,
        url=row.url,
        description=row.description,
        events=row.events,
        enabled=row.enabled,
        disabled_reason=row.disabled_reason,
        previous_until=format_time(row.previous_until),
        last_success_at=format_time(row.last_success_at),
        created_at=format_time(row.created_at),
        updated_at=format_time(row.updated_at),
    )


def delivery_view(row: DeliveryRow) -> DeliveryView:
    return DeliveryView(
        id=row.id,
        event_id=row.event_id,
        event=row.kind,
        state=row.state,
        created_at=format_time(row.created_at),
        next_at=format_time(row.next_at),
    )


def _attempt_view(row: AttemptRow) -> DeliveryAttempt:
    return DeliveryAttempt(
        number=row.number,
        at=format_time(row.at),
        status=row.status,
        error=row.error,
        duration_ms=row.duration_ms,
        answer=row.answer,
    )
