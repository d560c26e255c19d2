"""What Google says about addresses and domains, with a real provider and the real pool."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import trio

from bluesminds.common.clock import SystemClock
from bluesminds.common.networks import Networks
from bluesminds.http.client.pool import AddressPolicy, Pool
from bluesminds.identity.external import (
    ExternalIdentity,
    IdentityRejected,
    ProviderPolicy,
    ProviderUnavailable,
    SignInAttempt,
)
from bluesminds.identity.oidc import OidcClient, OidcRow
from tests.fakes import identity_server
from tests.fakes.identity_server import CLIENT_ID, CLIENT_SECRET, EcSigner, IdentityServer

ATTEMPT = SignInAttempt(
    provider="google", state="s", nonce="n", verifier="v" * 64, redirect_uri="http://gateway/cb", started_at=0
)


@pytest.fixture
async def server(nursery: trio.Nursery) -> IdentityServer:
    found: IdentityServer = await nursery.start(identity_server.serve)
    return found


@asynccontextmanager
async def client_of(server: IdentityServer, *networks: str, **more: Any) -> AsyncIterator[OidcClient]:
    """A client for which the server is Google."""
    pool = Pool(policy=AddressPolicy(Networks.read(networks or ("127.0.0.0/8",))))
    policy = ProviderPolicy(name="google", title="Google", allowed_domains=frozenset(("example.com",)))
    settings = {
        "policy": policy,
        "issuer": server.url,
        "issuers": frozenset((server.url, "accounts.google.com")),
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "scopes": ("openid", "email", "profile"),
        "algorithms": frozenset(("RS256",)),
        "hosted": True,
    }
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        yield OidcClient(pool, SystemClock(), OidcRow(**settings | more))
        nursery.cancel_scope.cancel()


async def identity_of(client: OidcClient, server: IdentityServer) -> ExternalIdentity:
    callback = server.authorize(await client.authorization_url(ATTEMPT))
    return await client.identify(ATTEMPT, dict(parse_qsl(urlsplit(callback).query)))


async def test_domain_of_google_is_the_claim_and_not_the_address(server: IdentityServer) -> None:
    async with client_of(server) as client:
        assert "hd=example.com" in await client.authorization_url(ATTEMPT)
        found = await identity_of(client, server)
        assert (found.domain, found.owns_email, found.email) == (None, False, "ada@example.com")
        server.user["hd"] = "example.com"
        found = await identity_of(client, server)
        assert (found.domain, found.owns_email) == ("example.com", True)
        server.user |= {"email": "ada@gmail.com", "hd": None}
        found = await identity_of(client, server)
        assert (found.domain, found.owns_email) == (None, True)


async def test_tokens_of_both_issuers_of_google_are_the_same_identity(server: IdentityServer) -> None:
    async with client_of(server) as client:
        first = await identity_of(client, server)
        server.claims["iss"] = "accounts.google.com"
        second = await identity_of(client, server)
        assert (first.issuer, first.subject) == (second.issuer, second.subject)


async def test_other_algorithms_of_google_are_refused(server: IdentityServer) -> None:
    server.keys = [EcSigner("first")]
    async with client_of(server) as client:
        with pytest.raises(IdentityRejected, match="algorithm not allowed"):
            await identity_of(client, server)


async def test_provider_at_a_private_address_is_not_connected_to(server: IdentityServer) -> None:
    """A discovery document may name any host."""
    async with client_of(server, "10.0.0.0/8") as client:
        with pytest.raises(ProviderUnavailable):
            await client.authorization_url(ATTEMPT)
    assert server.paths == []


async def test_endpoint_that_is_no_url_is_refused(server: IdentityServer, subtests: pytest.Subtests) -> None:
    for url in ["file:///etc/passwd", "https://user@host/", "unix:/run/x", "https://a b/", ""]:
        with subtests.test(url=url):
            server.metadata["jwks_uri"] = url
            async with client_of(server) as client:
                with pytest.raises(ProviderUnavailable):
                    await client.authorization_url(ATTEMPT)


async def test_secret_is_sent_in_the_form_if_the_provider_asks_for_it(server: IdentityServer) -> None:
    server.metadata["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    async with client_of(server) as client:
        assert (await identity_of(client, server)).subject == "user-1"
    (token,) = [one for one in server.upstream.requests if b"/token " in one.line]
    assert token.values(b"authorization") == []


async def test_wrong_secret_of_the_client_is_named_in_the_reason(server: IdentityServer) -> None:
    async with client_of(server, client_secret="wrong") as client:
        with pytest.raises(IdentityRejected, match="token endpoint: invalid_client"):
            await identity_of(client, server)
