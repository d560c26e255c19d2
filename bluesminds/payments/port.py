"""The port of payment providers, and the state at a provider in neutral form.

The gateway believes no event: an event only names a customer, and the gateway then reads the customer's state
from the provider. So lost, repeated and unordered events need no rules, and reconciliation is the same code.
Amounts are in cents of USD, times in milliseconds.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct

SubscriptionStatus = Literal["incomplete", "trialing", "active", "past_due", "paused", "ended"]
CheckoutStatus = Literal["open", "paid", "expired"]


class PaymentFailed(Exception):
    """A provider could not be asked, or refused a call. The message contains no secret."""


class PaymentDeclined(PaymentFailed):
    """The customer's payment method was declined."""


class PaymentNotFound(PaymentFailed):
    """The provider does not know an object. It may belong to the other mode (test or live)."""


class SignatureInvalid(Exception):
    """An event is not from the provider, or too old."""


class BillingCustomer(Struct, frozen=True):
    """A user, as the provider gets to know it. `key` is the idempotency key."""

    key: str
    user_id: str
    email: str
    full_name: str


class CheckoutRequest(Struct, frozen=True):
    """`order_id` is the idempotency key. `product`: the provider's id of the plan; "" for credit, which costs
    `amount_cents`.
    """

    order_id: str
    customer: str
    product: str
    amount_cents: int
    title: str
    return_url: str


class Checkout(Struct, frozen=True):
    """`url`: where the customer pays; "" for a provider without a page."""

    id: str
    url: str


class SubscriptionState(Struct, frozen=True):
    """`paid`: the current period is paid. `ends_at`: of an ended one, until when it is in force."""

    id: str
    order_id: str
    product: str
    status: SubscriptionStatus
    period_start: int
    period_end: int
    paid: bool = False
    cancel_at_end: bool = False
    ends_at: int | None = None


class PaymentState(Struct, frozen=True):
    """A payment that succeeded. `checkout` and `subscription`: the provider's ids of what was paid; "" if not
    known. `paid_cents` contains the tax. `reversed_cents`: total of refunds and chargebacks.
    """

    id: str
    paid_cents: int
    currency: str
    at: int
    tax_cents: int = 0
    checkout: str = ""
    subscription: str = ""
    reversed_cents: int = 0


class CustomerState(Struct, frozen=True):
    """What the provider knows about a customer. `expired`: checkouts that can no longer be paid.
    `is_complete`: subscriptions that are not listed do not exist any more.
    """

    subscriptions: Sequence[SubscriptionState] = ()
    payments: Sequence[PaymentState] = ()
    expired: Sequence[str] = ()
    is_complete: bool = False


class ProviderEvent(Struct, frozen=True):
    """A verified event. `customer`, `order_id` and `payment` are "" if the event does not name them."""

    id: str
    kind: str
    customer: str
    order_id: str
    payment: str


class PaymentProvider(Protocol):
    """All methods raise PaymentFailed, except `read_event`."""

    name: str

    @property
    def has_webhook(self) -> bool:
        """Whether there is a secret to verify events with."""

    async def check(self) -> None:
        """Make a call that needs the credential and changes nothing."""

    async def create_customer(self, customer: BillingCustomer) -> str:
        """The id of a new customer. Repeating the call returns the same one."""

    async def has_customer(self, customer: str) -> bool: ...

    async def checkout(self, request: CheckoutRequest) -> Checkout: ...

    async def expire_checkout(self, checkout_id: str) -> CheckoutStatus:
        """Make sure that a checkout cannot be paid. "open": the provider cannot do this."""

    async def customer_of(self, checkout_id: str) -> str:
        """The customer who paid a checkout; "" if there is none yet."""

    async def portal(self, customer: str, return_url: str) -> str:
        """The URL of the page where a customer manages payment methods and subscriptions."""

    async def change_product(self, subscription: SubscriptionState, product: str, *, upgrade: bool) -> None:
        """An upgrade is charged for the rest of the period at once. Other changes cost from the next one."""

    async def cancel_at_end(self, subscription_id: str, *, cancel: bool) -> None:
        """Cancel at the end of the period, or take this back."""

    async def end_now(self, subscription_id: str) -> None:
        """End a subscription at once, without a refund. Repeating the call changes nothing."""

    async def refund(self, payment_id: str) -> None:
        """Refund a payment in full. Repeating the call changes nothing."""

    async def read(self, customer: str, checkouts: Sequence[str]) -> CustomerState:
        """`checkouts`: those that are not known to be paid. Raises PaymentNotFound if the provider does not
        know the customer.
        """

    async def read_payment(self, payment_id: str) -> PaymentState: ...

    def read_event(self, headers: Mapping[str, str], body: bytes, now: int) -> ProviderEvent:
        """Verify the signature and read the event. `headers` have lower-case names. Raises
        SignatureInvalid.
        """
