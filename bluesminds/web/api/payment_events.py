"""/api/billing/webhook: events of payment providers. Only for providers whose events can be verified."""

from msgspec import Struct

from bluesminds.accounts.billing.service import Billing
from bluesminds.common.errors import InvalidRequest, NotFound
from bluesminds.payments.port import SignatureInvalid
from bluesminds.web.guard import Access
from bluesminds.web.routes import RawInput, Route, route


class ReceivedEvent(Struct, frozen=True):
    """Providers want the status 200."""

    received: bool = True


class PaymentEventHandlers(Struct, frozen=True):
    billing: Billing

    async def creem_event(self, raw: RawInput) -> ReceivedEvent:
        """Receive an event of Creem."""
        return await self._receive("creem", raw)

    async def event(self, provider: str, raw: RawInput) -> ReceivedEvent:
        """Receive an event of a payment provider, with its signature. What the event is about is settled when
        this returns.
        """
        return await self._receive(provider, raw)

    async def _receive(self, name: str, raw: RawInput) -> ReceivedEvent:
        provider = self.billing.providers.get(name)
        if provider is None or not provider.has_webhook:
            raise NotFound("unknown_url", "There is no such payment provider.")
        try:
            await self.billing.reconciliation.handle(name, raw.headers, raw.content)
        except SignatureInvalid as exc:
            raise InvalidRequest("invalid_signature", f"The event is not accepted: {exc}.") from exc
        return ReceivedEvent()


def routes(handlers: PaymentEventHandlers) -> list[Route]:
    tag, path = "Billing", "/api/billing/webhook"
    known = [name for name, one in handlers.billing.providers.items() if one.has_webhook]
    if not known:
        return []
    creem = [route("POST", path, Access.PUBLIC, handlers.creem_event, tag=tag)]
    return [
        *(creem if "creem" in known else []),
        route("POST", path + "/{provider}", Access.PUBLIC, handlers.event, tag=tag),
    ]
