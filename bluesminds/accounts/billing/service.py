"""The services of billing, each on the same store and providers."""

from collections.abc import Mapping

from bluesminds.accounts.billing.catalog import PlanCatalog
from bluesminds.accounts.billing.context import BillingContext, BillingPolicy
from bluesminds.accounts.billing.invoices import Invoices
from bluesminds.accounts.billing.orders import Orders
from bluesminds.accounts.billing.payments import Payments
from bluesminds.accounts.billing.reconciliation import Reconciliation
from bluesminds.accounts.billing.subscriptions import SubscriptionChanges
from bluesminds.accounts.billing.trials import Referrals, Trials
from bluesminds.payments.port import PaymentProvider


class Billing:
    def __init__(
        self, context: BillingContext, *, invoices: Invoices, trials: Trials, referrals: Referrals
    ) -> None:
        self.policy: BillingPolicy = context.policy
        self.providers: Mapping[str, PaymentProvider] = context.providers
        self.grace = context.rules.dunning.grace  # milliseconds
        self.invoices = invoices
        self.trials = trials
        self.referrals = referrals
        self.plans = PlanCatalog(context)
        self.reconciliation = Reconciliation(context, trials)
        self.orders = Orders(context, self.plans, self.reconciliation)
        self.subscriptions = SubscriptionChanges(context, self.plans, self.reconciliation)
        self.payments = Payments(context, self.reconciliation)
