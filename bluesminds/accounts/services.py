"""The account services that the HTTP API is built on."""

from msgspec import Struct

from bluesminds.accounts.alerts import Alerts
from bluesminds.accounts.audit import AuditLog
from bluesminds.accounts.billing.service import Billing
from bluesminds.accounts.chats import Chats
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
from bluesminds.accounts.sessions import Sessions
from bluesminds.accounts.signup import SignUp
from bluesminds.accounts.statements import Statements
from bluesminds.accounts.throttle import Throttle
from bluesminds.accounts.usage import UsageReports
from bluesminds.accounts.users import Users
from bluesminds.accounts.vendor_keys import VendorKeys
from bluesminds.accounts.webhooks import Webhooks
from bluesminds.identity.password import Passwords


class AccountServices(Struct, frozen=True):
    """One instance each, all on the same store. None: the settings do not enable it."""

    users: Users
    passwords: Passwords
    sessions: Sessions
    second_factors: SecondFactors
    throttle: Throttle
    login: Login
    local_sign_in: LocalSignIn
    identities: Identities
    federated: FederatedSignIn | None
    privy: PrivySignIn | None
    signup: SignUp
    email_verification: EmailVerification
    email_change: EmailChange
    password_reset: PasswordReset
    invitations: Invitations
    keys: Keys
    key_reports: KeyReports
    limits: AccountLimits
    servers: Servers
    prices: Prices
    ledger: Ledger
    statements: Statements
    repricing: Repricing
    redeem_codes: RedeemCodes
    billing: Billing | None
    routes: StoredRoutes
    usage: UsageReports
    audit: AuditLog
    chats: Chats
    prompts: Prompts
    vendor_keys: VendorKeys
    mail_tests: MailTests
    mail_preferences: MailPreferences
    mail_suppressions: MailSuppressions
    webhooks: Webhooks | None
    alerts: Alerts | None
