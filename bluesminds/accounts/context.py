"""What the services of addresses and passwords share."""

from msgspec import Struct

from bluesminds.accounts.throttle import Throttle
from bluesminds.common.clock import Clock
from bluesminds.config import AccountSettings
from bluesminds.identity.password import Passwords
from bluesminds.notify.mail_templates import MailTemplates
from bluesminds.notify.outbox import MailOutbox
from storage.base import Store


class AccountContext(Struct, frozen=True, kw_only=True):
    store: Store
    clock: Clock
    passwords: Passwords
    throttle: Throttle
    outbox: MailOutbox
    templates: MailTemplates
    settings: AccountSettings
