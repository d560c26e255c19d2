"""Test mails, which administrators send to check the settings of mail."""

from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.emails import require_email
from bluesminds.common.errors import UpstreamFailed
from bluesminds.notify.mail import Mailer, MailFailed, MailRefused
from bluesminds.notify.mail_templates import MailTemplates
from storage.audit import insert_audit
from storage.base import Store


class MailTests(Struct, frozen=True, kw_only=True):
    store: Store
    clock: Clock
    mailer: Mailer
    templates: MailTemplates

    async def send(self, actor: Actor, *, email: str) -> None:
        """Send a test mail at once, without retries. Raises InvalidRequest, UpstreamFailed."""
        mail = self.templates.render("test", require_email(email))
        await self.store.write(insert_audit, entry(self.clock, actor, "mail.test", mail.to))
        try:
            await self.mailer.send(uuid7(self.clock.now_ms()), mail)
        except (MailFailed, MailRefused) as exc:
            problem = f"The mail was not sent: {exc}. Correct [mail]."
            raise UpstreamFailed(502, "mail_not_sent", problem) from exc
