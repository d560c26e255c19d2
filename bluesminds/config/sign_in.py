"""Checks of [accounts] and [[identity.providers]]."""

from collections import Counter
from collections.abc import Iterator

from bluesminds.common.emails import read_email
from bluesminds.config.check_values import check_url, is_readable
from bluesminds.config.findings import Finding, Source
from bluesminds.config.settings import (
    IdentityProviderSettings,
    Settings,
)


def check_accounts(settings: Settings) -> Iterator[Finding]:
    """All findings. Every setting has the right type already."""
    accounts = settings.accounts
    if any(read_email(email) is None for email in accounts.admin_emails):
        yield Finding(
            (("accounts", "admin_emails"),),
            "admin_emails in [accounts] contains an invalid e-mail address",
            'write it like admin_emails = ["ada@example.com"]',
        )
    if accounts.signup != "closed" and not settings.mail.configured:
        yield Finding(
            (("accounts", "signup"), ("mail", "host")),
            f'signup in [accounts] is "{accounts.signup}", but no mail server is configured',
            "set host and sender in [mail]; without them mail is written to state_dir/outbox",
            warning=True,
        )


def check_identity(settings: Settings) -> Iterator[Finding]:
    """All findings. Every setting has the right type already."""
    source = ("identity", "providers")
    names = Counter(row.name for row in settings.identity.providers)
    for name in sorted(name for name, count in names.items() if count > 1):
        message = f'two [[identity.providers]] are named "{name}"'
        yield Finding((source,), message, "give each provider a unique name")
    for index, row in enumerate(settings.identity.providers):
        yield from _check_provider((*source, index), row)
    if settings.identity.providers and settings.server.public_url is None:
        yield Finding(
            (source, ("server", "public_url")),
            "[[identity.providers]] is set, but public_url in [server] is not",
            "set it to the URL users open in a browser; providers return users to it",
            warning=True,
        )


def _check_provider(path: Source, row: IdentityProviderSettings) -> Iterator[Finding]:
    title = f'in [[identity.providers]] "{row.name}"'
    issuer = (*path, "issuer")
    if row.kind == "oidc" and row.issuer is None:
        message = f"issuer {title} is missing"
        yield Finding((path,), message, 'add issuer = "https://login.example.com"')
    elif row.kind in ("google", "privy") and row.issuer is not None:
        yield Finding((issuer,), f"issuer {title} is not used with this kind", "remove issuer")
    elif row.issuer is not None:
        yield from check_url(issuer, f"issuer {title}", row.issuer)
        if row.issuer.startswith("http://"):
            message = f"issuer {title} is not encrypted"
            yield Finding((issuer,), message, "use https, except for tests", warning=True)
    for kind in ("google", "github", "privy"):
        if (row.name == kind) != (row.kind == kind):
            about = ((*path, "name"), (*path, "kind"))
            message = f'name {title}: "{kind}" is reserved for the provider of this kind'
            yield Finding(about, message, f'set name and kind to "{kind}", or neither')
    if row.key_file is not None and not is_readable(row.key_file):
        message = f"key_file {title} cannot be read: {row.key_file}"
        yield Finding(((*path, "key_file"),), message, "name a readable PEM file with the verification key")
    if row.keys_url is not None:
        yield from check_url((*path, "keys_url"), f"keys_url {title}", row.keys_url)
    if row.kind in ("google", "github") and row.client_secret is None:
        yield Finding((path,), f"client_secret {title} is missing", 'add client_secret = {env="NAME"}')
    if row.kind == "oidc" and "openid" not in row.scopes:
        yield Finding(((*path, "scopes"),), f'scopes {title} must contain "openid"', 'add "openid"')
