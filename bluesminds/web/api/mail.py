"""/api/admin/mail: tests of the settings of mail."""

from msgspec import Struct

from bluesminds.accounts.mail_tests import MailTests
from bluesminds.web.fields import Email
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Route, route


class NewTestMail(Struct, forbid_unknown_fields=True):
    email: Email


class MailHandlers(Struct, frozen=True):
    tests: MailTests

    async def test(self, principal: Principal, body: NewTestMail) -> None:
        """Send a test mail and wait for the answer of the mail server."""
        await self.tests.send(principal.actor, email=body.email)


def routes(handlers: MailHandlers) -> list[Route]:
    return [route("POST", "/api/admin/mail/test", Access.ADMIN, handlers.test, tag="Mail")]
