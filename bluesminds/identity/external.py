"""What a service that users sign in with says about a user, and the rows of these services."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

CLOCK_SKEW = 60  # seconds that the clocks of gateway and provider may differ


class ProviderPolicy(Struct, frozen=True, kw_only=True):
    """A row of [[identity.providers]]: which users it lets in. `signup` None: as [accounts] says. Without
    `needs_email`, users without a verified address get accounts without one.
    """

    name: str
    title: str
    allowed_domains: frozenset[str] = frozenset()
    admin_groups: frozenset[str] = frozenset()
    signup: str | None = None
    link_by_email: bool = True
    needs_email: bool = True


class ExternalIdentity(Struct, frozen=True, kw_only=True):
    """A user at a provider. `email` is only set if the provider has verified it. `domain` is where the
    provider says the account belongs to. `owns_email`: the provider itself runs the mailbox or knows its
    owner. Otherwise the address finds or creates an account only after a mailed code.
    """

    issuer: str
    subject: str
    email: str | None
    domain: str | None
    owns_email: bool = True
    name: str = ""
    groups: frozenset[str] = frozenset()


class SignInAttempt(Struct, frozen=True, kw_only=True, tag="attempt"):
    """A started sign-in. The browser keeps it, encrypted. `user_id` is set to link the identity to this
    account. Times are milliseconds since the epoch.
    """

    provider: str
    state: str
    nonce: str
    verifier: str
    redirect_uri: str
    started_at: int
    next: str = ""
    user_id: str = ""
    session_id: str = ""


class SignInClient(Protocol):
    """Talks to one provider."""

    @property
    def policy(self) -> ProviderPolicy: ...

    async def authorization_url(self, attempt: SignInAttempt) -> str:
        """Where the browser is sent. Raises ProviderUnavailable."""

    async def identify(self, attempt: SignInAttempt, answer: Mapping[str, str]) -> ExternalIdentity:
        """The user, from the query that the browser came back with. Raises
        Forbidden, IdentityRejected, ProviderUnavailable.
        """


class IdentityRejected(Exception):
    """What a provider or a browser sent cannot be accepted. `reason` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ProviderUnavailable(Exception):
    """A provider does not respond as it should. `reason` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
