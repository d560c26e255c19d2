"""The account services that the HTTP API is built on."""

from msgspec import Struct

from bluesminds.accounts.audit import AuditLog
from bluesminds.accounts.invitations import Invitations
from bluesminds.accounts.keys import Keys
from bluesminds.accounts.limits import Limits
from bluesminds.accounts.login import Auth
from bluesminds.accounts.mailboxes import Mailboxes
from bluesminds.accounts.servers import Servers
from bluesminds.accounts.sessions import Sessions
from bluesminds.accounts.throttle import Throttle
from bluesminds.accounts.usage import UsageReports
from bluesminds.accounts.users import Users
from bluesminds.identity.password import Passwords


class AccountServices(Struct, frozen=True):
    """One instance each, all on the same store."""

    users: Users
    passwords: Passwords
    sessions: Sessions
    throttle: Throttle
    login: Auth
    mailboxes: Mailboxes
    invitations: Invitations
    keys: Keys
    limits: Limits
    servers: Servers
    usage: UsageReports
    audit: AuditLog
