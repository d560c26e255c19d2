"""The receipt of a request: where it was sent, why it failed, and what it cost."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from bluesminds.accounts.prompts import Prompts
from bluesminds.accounts.usage import UsageReports
from bluesminds.accounts.users import Users
from bluesminds.common.money import read_usd
from bluesminds.dashboard.frame import HOME, HTML, Frame
from bluesminds.dashboard.keys import LIMIT_FIELDS
from bluesminds.gateway.receipts import SHADOW
from bluesminds.gateway.routing.selection import DropReason
from bluesminds.gateway.upstream.hedging import HEDGE_LOST
from bluesminds.web.api.requests import ReceiptCost, ReceiptView, RequestHandlers
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route
from storage.usage import UsageRow

DROP_REASONS: Final[Mapping[DropReason, str]] = {
    "model_not_allowed": "the key may not use this model",
    "unknown_model": "no server offers this model",
    "unknown_server": "the server does not exist, or is not enabled",
    "draining": "the server is draining",
    "requirement": "the server does not have the required region or tags",
    "own_key_only": "the account uses its own key for a vendor",
    "other_server": "the request refers to something at another server",
    "no_endpoint": "the server does not have the endpoint",
    "not_listed": "the server does not list the model, and another one does",
    "duplicate": "an earlier model has the same server",
    "unsupported": "the server does not support a field of the request",
}
# Why an attempt failed. Names with capital letters are errors of the client. Other reasons are a status.
FAILURES: Final[Mapping[str, str]] = {
    "ConnectFailed": "no connection to the server",
    "LocalResourceError": "the gateway has no free descriptors or memory",
    "ConnectTimeout": "no connection to the server in time",
    "PoolTimeout": "all connections to the server were in use",
    "WriteTimeout": "the server stopped reading the request",
    "FirstByteTimeout": "the server did not start its response in time",
    "ChunkTimeout": "the server stopped during its response",
    "UpstreamCut": "the connection ended before the response was complete",
    "UpstreamProtocolError": "the response is not valid HTTP",
    "BodyTooLarge": "the response is too large",
    "UnreadableAnswer": "the response is not a JSON object",
    "NoWebSocket": "the server did not open a WebSocket",
    "error_in_answer": "the response contains an error",
    "EventTooLarge": "the server sent an event that is too large",
    "error_in_stream": "the server sent an error during its response",
    "different_answer": "the response differs from that of the previous server",
    "total_timeout": "the total timeout of the request was reached",
    "refused": "the server refused the request",
}
_NOT_FAILED: Final = (None, SHADOW, HEDGE_LOST)  # reasons
# Why the gateway itself refused a request, by the status.
REFUSALS: Final[Mapping[int, str]] = {
    400: "The gateway refused it: the request is not valid.",
    402: "The gateway refused it: a budget or the credit is used up.",
    403: "The gateway refused it: the key does not allow this request.",
    404: "No server offers this model, or the path does not exist.",
    413: "The gateway refused it: the request is too large.",
    429: "The gateway refused it: a limit of the key or of the account was reached.",
    503: "No server was free for it, or the gateway was stopping.",
}


class ReceiptPage(Struct, frozen=True):
    """`prompts` is None if no prompts are kept."""

    frame: Frame
    usage: UsageReports
    users: Users
    handlers: RequestHandlers
    prompts: Prompts | None

    async def one(
        self, principal: Principal, browser: BrowserRequest, request_id: str
    ) -> HandlerResponse[RawBody]:
        """One request with its receipt: where it was sent, and what it cost."""
        record = await self.usage.request(
            request_id, None if principal.role == "admin" else principal.user_id
        )
        row = record.row
        view = await self.handlers.show(principal, request_id)
        receipt = view.receipt
        names = await self.usage.key_names([row.key_id] if row.key_id else [])
        is_own = row.user_id == principal.user_id
        return self.frame.page(
            "receipt.html",
            browser,
            principal,
            row=row,
            repriced=record.repriced,
            view=view,
            receipt=receipt,
            costs=[] if receipt is None else _costs(receipt.cost),
            reasons=DROP_REASONS,
            failures=FAILURES,
            why=_why(row, receipt),
            key_name=names.get(row.key_id, ""),
            user=(await self.users.names([row.user_id])).get(row.user_id, "") if not is_own else "",
            is_own=is_own,
            limit_names=dict(LIMIT_FIELDS),
            prompt=await self._prompt(principal, row),
        )

    async def _prompt(self, principal: Principal, row: UsageRow) -> str:
        """The address of the request in the prompt log; "" if it is not there, or not for this user."""
        is_own = row.user_id == principal.user_id
        if self.prompts is None or not (is_own or self.prompts.administrators_read):
            return ""
        if not await self.prompts.has(row.id):
            return ""
        return f"{HOME}{'' if is_own else '/admin'}/prompts/{row.id}"


def _why(row: UsageRow, receipt: ReceiptView | None) -> str:
    """Why the request failed, in a sentence; "" if it did not."""
    if row.outcome == "client_gone":
        return "The client closed the connection before the response was complete."
    if row.outcome == "stopped":
        return "The stream was ended because the rest of the budget or of the credit was used up."
    if row.outcome == "ok":
        return ""
    tried = [] if receipt is None else [one for one in receipt.attempts if one.reason not in _NOT_FAILED]
    if not tried:
        is_refused = not row.attempts
        return REFUSALS.get(row.status, "") if is_refused else "The server responded with an error."
    last = tried[-1].reason or ""
    count = f"All {len(tried)} attempts failed" if len(tried) > 1 else "The only attempt failed"
    return f"{count}. The last one: {FAILURES.get(last, f'the server responded with {last}')}."


class CostLine(Struct, frozen=True):
    """A quantity at a rate in nano-USD for a million units. `parts`: units in one of the quantity."""

    name: str
    tokens: int
    price: int
    parts: int = 1

    @property
    def amount(self) -> str:
        """USD with all digits."""
        return exact_cost(self.tokens * self.price * (1000 // self.parts))


_UNITS: Final[Mapping[str, str]] = {
    "input": "Input",
    "cached_input": "Input from the cache",
    "cache_write": "Input to the cache",
    "cache_write_hour": "Input to the cache, for an hour",
    "output": "Output",
    "reasoning": "Reasoning",
    "audio_input": "Audio input",
    "audio_output": "Audio output",
    "image_input": "Image input",
    "image_output": "Image output",
    "image": "Images",
    "second": "Audio, in milliseconds",
    "character": "Characters",
    "request": "Requests",
}


def _costs(lines: Sequence[ReceiptCost]) -> list[CostLine]:
    return [
        CostLine(_UNITS[one.unit], one.quantity, read_usd(one.rate_usd), 1000 if one.unit == "second" else 1)
        for one in lines
    ]


def exact_cost(parts: int) -> str:
    """USD of thousandths of what a million units cost in nano-USD, with all digits."""
    whole, fraction = divmod(parts, 10**18)
    return f"${whole}.{f'{fraction:018}'.rstrip('0').ljust(2, '0')}"


def routes(page: ReceiptPage) -> list[Route]:
    path = f"{HOME}/requests/{{request_id}}"
    return [route("GET", path, Access.SESSION, page.one, tag="Pages", media=HTML)]
