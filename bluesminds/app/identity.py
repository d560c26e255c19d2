"""Builds sign-in at other services from the settings: the clients, the routes and the buttons."""

from urllib.parse import quote

from msgspec import structs

from bluesminds.accounts.services import AccountServices
from bluesminds.common.clock import Clock
from bluesminds.config import Settings
from bluesminds.config.settings import IdentityProviderSettings, IdentitySettings
from bluesminds.http.client.pool import Pool
from bluesminds.identity.external import ProviderPolicy, SignInClient
from bluesminds.identity.github import GITHUB, GitHubClient, GitHubRow
from bluesminds.identity.oidc import GOOGLE_ISSUER, OidcClient, OidcRow
from bluesminds.identity.privy import KEYS_URL, PrivyRow, PrivyVerifier
from bluesminds.web.api import federated, identities, privy
from bluesminds.web.pages.account_pages import ProviderLink
from bluesminds.web.routes import Route


def sign_in_clients(settings: IdentitySettings, pool: Pool, clock: Clock) -> dict[str, SignInClient]:
    """By name, in the order of the settings."""
    return {row.name: _client(row, pool, clock) for row in settings.providers if row.kind != "privy"}


def privy_verifier(settings: IdentitySettings, pool: Pool, clock: Clock) -> PrivyVerifier | None:
    """None if the settings do not name Privy. Raises OSError if the key cannot be read."""
    row = next((row for row in settings.providers if row.kind == "privy"), None)
    if row is None:
        return None
    keys_url = row.keys_url or KEYS_URL.format(app_id=quote(row.client_id, safe=""))
    key = None if row.key_file is None else row.key_file.read_bytes()
    policy = structs.replace(_policy(row, "Privy"), needs_email=False)
    return PrivyVerifier(
        pool, clock, PrivyRow(policy=policy, app_id=row.client_id, key=key, keys_url=keys_url)
    )


def _client(row: IdentityProviderSettings, pool: Pool, clock: Clock) -> SignInClient:
    if row.kind == "github":
        return GitHubClient(pool, github_row(row))
    return OidcClient(pool, clock, google_row(row) if row.kind == "google" else oidc_row(row))


def oidc_row(row: IdentityProviderSettings) -> OidcRow:
    return OidcRow(
        policy=_policy(row, row.name),
        issuer=row.issuer or "",
        client_id=row.client_id,
        client_secret=None if row.client_secret is None else row.client_secret.reveal(),
        scopes=row.scopes,
        groups_claim=row.groups_claim,
        trusted_emails=row.trusted_emails,
    )


def google_row(row: IdentityProviderSettings) -> OidcRow:
    return OidcRow(
        policy=_policy(row, "Google"),
        issuer=GOOGLE_ISSUER,
        issuers=frozenset((GOOGLE_ISSUER, "accounts.google.com")),
        client_id=row.client_id,
        client_secret=None if row.client_secret is None else row.client_secret.reveal(),
        scopes=row.scopes,
        algorithms=frozenset(("RS256",)),
        groups_claim=row.groups_claim,
        hosted=True,
    )


def github_row(row: IdentityProviderSettings) -> GitHubRow:
    issuer = (row.issuer or GITHUB).rstrip("/")
    return GitHubRow(
        policy=_policy(row, "GitHub"),
        client_id=row.client_id,
        client_secret="" if row.client_secret is None else row.client_secret.reveal(),
        issuer=issuer,
        owns_emails=row.trusted_emails or issuer != GITHUB,
    )


def _policy(row: IdentityProviderSettings, title: str) -> ProviderPolicy:
    return ProviderPolicy(
        name=row.name,
        title=row.title or title,
        allowed_domains=frozenset(row.allowed_domains),
        admin_groups=frozenset(row.admin_groups),
        signup=row.signup,
        link_by_email=row.link_by_email,
    )


def sign_in_routes(accounts: AccountServices, settings: Settings) -> list[Route]:
    """Without routes if the settings name no provider."""
    tokens = [] if accounts.privy is None else privy.routes(privy.PrivyHandlers(accounts.privy))
    if accounts.federated is None:
        return tokens
    home = "/dashboard" if settings.dashboard.enabled else "/docs"
    public_url = settings.server.public_url
    return [
        *tokens,
        *federated.routes(
            federated.FederatedHandlers(accounts.federated, accounts.sessions, public_url, home)
        ),
        *identities.routes(
            identities.IdentityHandlers(accounts.identities, accounts.federated, accounts.login, public_url)
        ),
    ]


def provider_links(accounts: AccountServices) -> list[ProviderLink]:
    """The buttons of the sign-in page."""
    providers = [] if accounts.federated is None else accounts.federated.providers
    return [ProviderLink(policy.title, federated.provider_path(policy.name)) for policy in providers]
