"""JSON calls to payment providers with the gateway's own client, which follows no redirects."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from bluesminds.http.client.pool import Pool, Timeouts, UpstreamError, UpstreamOrigin
from bluesminds.payments.port import PaymentDeclined, PaymentFailed, PaymentNotFound

ANSWER_BYTES: Final = 4_194_304
PAYMENT_REQUIRED: Final = 402
NOT_FOUND: Final = 404
_MISSING: Final = "resource_missing"  # the code of Stripe in errors with the status 400
_TIMEOUTS: Final = Timeouts(connect=5.0, pool=5.0, write=10.0, first_byte=30.0, between_chunks=10.0)

Json = dict[str, Any]


class ProviderApi(Struct, frozen=True):
    """`headers` hold the credential; they are sent with each call."""

    pool: Pool
    origin: UpstreamOrigin
    base: str
    headers: Sequence[tuple[bytes, bytes]]

    @classmethod
    def at(cls, pool: Pool, url: str, headers: Sequence[tuple[bytes, bytes]]) -> "ProviderApi":
        """Raises ValueError for a wrong URL."""
        origin, base = UpstreamOrigin.parse(url)
        return cls(pool, origin, base, headers)

    def __repr__(self) -> str:
        return f"ProviderApi({self.origin.host!r})"

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        target = f"{path}?{urlencode(query)}" if query else path
        return await self.call("GET", target, b"", ())

    async def call(self, method: str, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Json:
        """A JSON object. Raises PaymentFailed, also for a response with an error."""
        try:
            response = await self.pool.request(
                method.encode(),
                self.origin,
                f"{self.base}{path}".encode(),
                (*self.headers, *headers),
                body,
                timeouts=_TIMEOUTS,
            )
            try:
                content = await response.read(ANSWER_BYTES)
            finally:
                response.close()
        except UpstreamError as exc:
            raise PaymentFailed(f"{self.origin.host}: {type(exc).__name__}") from exc
        if response.status >= 300:
            message = f"{self.origin.host} responded with {response.status} to {method} {_plain(path)}"
            raise _failure(response.status, content)(message)
        try:
            return msgspec.json.decode(content, type=Json)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise PaymentFailed(f"{self.origin.host} did not respond with a JSON object") from exc


class _StripeError(Struct):
    code: str | None = None


class _StripeErrorBody(Struct):
    error: _StripeError


def _failure(status: int, content: bytes) -> type[PaymentFailed]:
    if status == PAYMENT_REQUIRED:
        return PaymentDeclined
    if status == NOT_FOUND:
        return PaymentNotFound
    try:
        error = msgspec.json.decode(content, type=_StripeErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return PaymentFailed
    return PaymentNotFound if error.code == _MISSING else PaymentFailed


def _plain(path: str) -> str:
    """Without the query, which may name a customer."""
    return path.partition("?")[0]


def id_of(value: object) -> str:
    """The id of an object in an answer, which may be expanded; "" without one."""
    found = value.get("id") if isinstance(value, dict) else value
    return found if isinstance(found, str) else ""


def text_of(found: Json, name: str) -> str:
    """Raises PaymentFailed if the answer has no such text."""
    value = found.get(name)
    if not isinstance(value, str):
        raise PaymentFailed(f"the response of the payment provider has no {name}")
    return value
