"""What the services and the gateway are built from."""

from msgspec import Struct

from bluesminds.accounts.keys import Changed
from bluesminds.app.state_dir import StateDir
from bluesminds.common.clock import Calendar, Clock
from bluesminds.common.crypto import Vault
from bluesminds.common.log import Log
from bluesminds.config import Settings
from bluesminds.http.client.pool import Pool
from bluesminds.notify.events import EventDispatcher
from bluesminds.notify.mail import Mailer
from bluesminds.notify.mail_templates import MailTemplates
from bluesminds.notify.outbox import MailOutbox
from bluesminds.notify.webhooks import WebhookSender
from storage.base import Store


class KeyChangeNotifier:
    """Calls its subscribers when API keys have changed."""

    def __init__(self) -> None:
        self._subscribers: list[Changed] = []

    def subscribe(self, callback: Changed) -> None:
        """`callback` gets the digests of the changed keys; without any, every key may have changed."""
        self._subscribers.append(callback)

    def notify(self, *digests: bytes) -> None:
        for callback in self._subscribers:
            callback(*digests)


class Resources(Struct, frozen=True, kw_only=True):
    """What the services are built from."""

    settings: Settings
    clock: Clock
    calendar: Calendar
    log: Log
    state: StateDir
    store: Store
    pool: Pool
    pepper: bytes
    vault: Vault
    key_changes: KeyChangeNotifier
    mailer: Mailer
    templates: MailTemplates
    outbox: MailOutbox
    events: EventDispatcher
    webhook_sender: WebhookSender | None
