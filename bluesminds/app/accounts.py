"""Builds the services of accounts."""

from typing import get_args

from argon2 import PasswordHasher

from bluesminds.accounts.address_proofs import AddressProofs
from bluesminds.accounts.alerts import Alerts
from bluesminds.accounts.audit import AuditLog
from bluesminds.accounts.billing.context import BillingContext
from bluesminds.accounts.billing.invoices import Invoices
from bluesminds.accounts.billing.service import Billing
from bluesminds.accounts.billing.trials import Referrals, Trials
from bluesminds.accounts.chats import Chats
from bluesminds.accounts.context import AccountContext
from bluesminds.accounts.email_change import EmailChange
from bluesminds.accounts.email_verification import EmailVerification
from bluesminds.accounts.federated import FederatedSignIn
from bluesminds.accounts.identities import Identities
from bluesminds.accounts.invitations import Invitations
from bluesminds.accounts.key_reports import KeyReports
from bluesminds.accounts.keys import Keys
from bluesminds.accounts.ledger import Ledger
from bluesminds.accounts.limits import AccountLimits
from bluesminds.accounts.local_sign_in import LocalSignIn
from bluesminds.accounts.login import Login
from bluesminds.accounts.mail_preferences import MailPreferences
from bluesminds.accounts.mail_suppressions import MailSuppressions
from bluesminds.accounts.mail_tests import MailTests
from bluesminds.accounts.model_routes import StoredRoutes
from bluesminds.accounts.password_reset import PasswordReset
from bluesminds.accounts.prices import Prices
from bluesminds.accounts.privy_sign_in import PrivySignIn
from bluesminds.accounts.prompts import Prompts
from bluesminds.accounts.redeem_codes import RedeemCodes
from bluesminds.accounts.repricing import Repricing
from bluesminds.accounts.second_factors import SecondFactors
from bluesminds.accounts.servers import Servers
from bluesminds.accounts.services import AccountServices
from bluesminds.accounts.sessions import Sessions
from bluesminds.accounts.signup import SignUp
from bluesminds.accounts.statements import Statements
from bluesminds.accounts.throttle import Throttle
from bluesminds.accounts.usage import UsageReports
from bluesminds.accounts.users import Users
from bluesminds.accounts.vendor_keys import VendorKeyPolicy, VendorKeys
from bluesminds.accounts.webhooks import WebhookPolicy, Webhooks
from bluesminds.app.identity import privy_verifier, sign_in_clients
from bluesminds.app.payments import payment_providers
from bluesminds.app.resources import Resources
from bluesminds.app.settings_map import (
    alert_channels,
    alert_rules,
    billing_policy,
    billing_rules,
    has_event_consumers,
    sends_notifications,
    tier_budgets,
    tier_limits,
)
from bluesminds.common.money import read_usd
from bluesminds.common.networks import Networks
from bluesminds.config import Settings
from bluesminds.config.settings import Tier
from bluesminds.http.client.pool import AddressPolicy
from bluesminds.identity.password import Passwords
from bluesminds.notify.alert_channels import AlertSender
from bluesminds.notify.mail_groups import OptOutLinks


def webhook_addresses(settings: Settings) -> AddressPolicy:
    networks = Networks.read(settings.webhooks.allowed_networks)
    return AddressPolicy(networks, "[webhooks] allowed_networks")


def opt_out_links(resources: Resources) -> OptOutLinks:
    return OptOutLinks.from_pepper(resources.templates.base_url, resources.pepper)


def build_accounts(resources: Resources, password_hasher: PasswordHasher) -> AccountServices:
    store, clock = resources.store, resources.clock
    context = AccountContext(
        store=store,
        clock=clock,
        passwords=Passwords(password_hasher),
        throttle=Throttle(),
        outbox=resources.outbox,
        templates=resources.templates,
        settings=resources.settings.accounts,
    )
    throttle, sessions, ledger = context.throttle, _build_sessions(resources), Ledger(store, clock=clock)
    verification = EmailVerification(context)
    second_factors = SecondFactors(
        store, vault=resources.vault, pepper=resources.pepper, clock=clock, throttle=throttle
    )
    identities = _build_identities(resources, sessions, verification)
    return AccountServices(
        users=_build_users(resources),
        passwords=context.passwords,
        sessions=sessions,
        second_factors=second_factors,
        throttle=throttle,
        login=Login(context, sessions, second_factors, resources.log),
        signup=SignUp(context, verification),
        email_verification=verification,
        email_change=EmailChange(context, verification),
        password_reset=PasswordReset(context, verification),
        invitations=Invitations(context),
        keys=Keys(store, pepper=resources.pepper, clock=clock, changed=resources.key_changes.notify),
        key_reports=KeyReports(store, clock=clock, calendar=resources.calendar),
        identities=identities,
        privy=_build_privy(resources, identities, second_factors, throttle),
        federated=_build_federated(resources, identities, second_factors, context),
        local_sign_in=LocalSignIn(store, clock=clock, sessions=sessions),
        limits=_build_limits(resources),
        servers=Servers(store, vault=resources.vault, clock=clock, log=resources.log),
        prices=Prices(store, clock=clock),
        ledger=ledger,
        statements=Statements(store, clock=clock),
        repricing=Repricing(store, ledger, clock=clock),
        redeem_codes=RedeemCodes(store, ledger=ledger, clock=clock),
        billing=_build_billing(resources, ledger),
        routes=StoredRoutes(store, clock=clock),
        usage=UsageReports(store, clock=clock),
        audit=AuditLog(store),
        chats=Chats(store, vault=resources.vault, clock=clock),
        prompts=_build_prompts(resources),
        vendor_keys=_build_vendor_keys(resources),
        mail_tests=MailTests(
            store=store, clock=clock, mailer=resources.mailer, templates=resources.templates
        ),
        mail_suppressions=_build_suppressions(resources),
        mail_preferences=_build_mail_preferences(resources),
        webhooks=_build_webhooks(resources),
        alerts=_build_alerts(resources),
    )


def _build_identities(
    resources: Resources, sessions: Sessions, verification: EmailVerification
) -> Identities:
    return Identities(
        resources.store,
        clock=resources.clock,
        sessions=sessions,
        verification=verification,
        settings=resources.settings.accounts,
        providers=frozenset(row.name for row in resources.settings.identity.providers),
        changed=resources.key_changes.notify,
    )


def _build_mail_preferences(resources: Resources) -> MailPreferences:
    return MailPreferences(
        store=resources.store,
        clock=resources.clock,
        links=opt_out_links(resources),
        enabled=sends_notifications(resources.settings),
    )


def _build_alerts(resources: Resources) -> Alerts | None:
    settings = resources.settings
    if not has_event_consumers(settings):
        return None
    return Alerts(
        resources.store,
        clock=resources.clock,
        log=resources.log,
        configured=alert_rules(settings),
        channels=alert_channels(settings),
        sender=AlertSender(resources.pool),
    )


def _build_suppressions(resources: Resources) -> MailSuppressions:
    secret = resources.settings.mail.webhook_secret
    return MailSuppressions(
        store=resources.store,
        clock=resources.clock,
        log=resources.log,
        secret=None if secret is None else secret.reveal,
    )


def _build_webhooks(resources: Resources) -> Webhooks | None:
    sender, settings = resources.webhook_sender, resources.settings
    if sender is None:
        return None
    return Webhooks(
        resources.store,
        vault=resources.vault,
        clock=resources.clock,
        policy=WebhookPolicy(settings.webhooks.allow_http, webhook_addresses(settings)),
        waiting=sender.notify,
    )


def _build_privy(
    resources: Resources, identities: Identities, second_factors: SecondFactors, throttle: Throttle
) -> PrivySignIn | None:
    verifier = privy_verifier(resources.settings.identity, resources.pool, resources.clock)
    if verifier is None:
        return None
    return PrivySignIn(
        verifier=verifier,
        identities=identities,
        second_factors=second_factors,
        throttle=throttle,
        log=resources.log,
    )


def _build_federated(
    resources: Resources, identities: Identities, second_factors: SecondFactors, context: AccountContext
) -> FederatedSignIn | None:
    clients = sign_in_clients(resources.settings.identity, resources.pool, resources.clock)
    if not clients:
        return None
    return FederatedSignIn(
        clients,
        identities,
        second_factors,
        AddressProofs(context),
        clock=resources.clock,
        vault=resources.vault,
        throttle=context.throttle,
        log=resources.log,
    )


def _build_billing(resources: Resources, ledger: Ledger) -> Billing | None:
    if not resources.settings.billing.enabled:
        return None
    billing = resources.settings.billing
    context = BillingContext(
        resources.store,
        ledger=ledger,
        clock=resources.clock,
        log=resources.log,
        rules=billing_rules(resources.settings),
        policy=billing_policy(resources.settings),
        providers=payment_providers(resources.settings, resources.pool),
        changed=resources.key_changes.notify,
    )
    trials = Trials(
        resources.store,
        ledger=ledger,
        clock=resources.clock,
        nano=read_usd(billing.trial_usd),
        length=int(billing.trial_length * 1000),
    )
    return Billing(
        context,
        invoices=Invoices(resources.store, prefix=billing.invoice_prefix),
        trials=trials,
        referrals=Referrals(resources.store, clock=resources.clock),
    )


def _build_vendor_keys(resources: Resources) -> VendorKeys:
    settings = resources.settings.vendor_keys
    urls = {str(vendor): url for vendor, url in settings.urls.items()}
    return VendorKeys(
        resources.store,
        vault=resources.vault,
        clock=resources.clock,
        changed=resources.key_changes.notify,
        policy=VendorKeyPolicy(settings.enabled, frozenset(settings.tiers), urls),
    )


def _build_prompts(resources: Resources) -> Prompts:
    settings = resources.settings.prompt_log
    return Prompts(
        resources.store,
        vault=resources.vault,
        clock=resources.clock,
        administrators_read=settings.administrators,
    )


def _build_users(resources: Resources) -> Users:
    return Users(
        resources.store,
        clock=resources.clock,
        changed=resources.key_changes.notify,
        tiers=get_args(Tier),
    )


def _build_sessions(resources: Resources) -> Sessions:
    accounts = resources.settings.accounts
    return Sessions(
        resources.store,
        pepper=resources.pepper,
        clock=resources.clock,
        idle=accounts.session_idle,
        lifetime=accounts.session_lifetime,
        keep=accounts.max_sessions,
    )


def _build_limits(resources: Resources) -> AccountLimits:
    return AccountLimits(
        resources.store,
        clock=resources.clock,
        calendar=resources.calendar,
        tiers=tier_limits(resources.settings),
        budgets=tier_budgets(resources.settings),
        changed=resources.key_changes.notify,
    )
