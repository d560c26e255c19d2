"""Addresses that servers added with the API may have."""

import socket
from ipaddress import IPv4Address
from typing import Any

import pytest
import trio

from bluesminds.common.networks import Networks
from bluesminds.common.values import Server
from bluesminds.config.settings import PRIVATE_NETWORKS, UpstreamSettings
from bluesminds.gateway.upstream.attempt import UpstreamEndpoint
from bluesminds.http.client.pool import AddressPolicy, ConnectFailed, Pool, Timeouts, UpstreamOrigin
from tests.cases import each
from tests.fakes.raw_upstream import always_ok, serve

TIMEOUTS = Timeouts(connect=3600, pool=3600, write=3600, first_byte=3600, between_chunks=3600)
PUBLIC_ONLY = AddressPolicy()
DEFAULT = AddressPolicy(Networks.read(PRIVATE_NETWORKS))
EVERYTHING = AddressPolicy(Networks.read(["0.0.0.0/0", "::/0"]))

PUBLIC = ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
PRIVATE = [
    *("127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.0.1", "100.64.0.1"),
    *("::1", "fd12::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1"),
]
NEVER = [
    *("169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%lo", "::ffff:169.254.169.254"),
    *("64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *(
        "fd00:ec2::254",
        "fec0::1",
        str(IPv4Address(0)),
        "::",
        "224.0.0.1",
        "ff02::1",
        "::7f00:1",
        "no address",
    ),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_policy_public_address_is_permitted(address: str) -> None:
    assert all(policy.permits_text(address) for policy in (PUBLIC_ONLY, DEFAULT, EVERYTHING))


@pytest.mark.parametrize("address", PRIVATE)
def test_policy_private_address_is_permitted_in_allowed_networks_only(address: str) -> None:
    assert not PUBLIC_ONLY.permits_text(address)
    assert DEFAULT.permits_text(address)


@each("address", NEVER)
def test_policy_link_local_metadata_and_reserved_addresses_are_never_permitted(address: str) -> None:
    assert not any(policy.permits_text(address) for policy in (PUBLIC_ONLY, DEFAULT, EVERYTHING))


def test_policy_reserved_ipv4_is_refused_by_default() -> None:
    assert not DEFAULT.permits_text("240.0.0.1")
    assert not DEFAULT.permits_text("0.1.2.3")
    assert not DEFAULT.permits_text("255.255.255.255")


class Resolver(trio.abc.HostnameResolver):
    """Resolves every name to the next of its answers; the last one is repeated."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def getaddrinfo(
        self, host: bytes | None, port: bytes | str | int | None, *_: int, **__: int
    ) -> list[Any]:
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (address, port)) for address in addresses]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


async def ask(nursery: trio.Nursery, policy: AddressPolicy, origin: UpstreamOrigin) -> bytes:
    pool = Pool(policy=policy)
    await nursery.start(pool.run)
    response = await pool.request(b"GET", origin, b"/", [], timeouts=TIMEOUTS)
    return await response.read(10)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_connect_untrusted_origin_obeys_the_policy(nursery: trio.Nursery, host: str) -> None:
    upstream = await nursery.start(serve, always_ok)
    untrusted = UpstreamOrigin("http", host, upstream.port, trusted=False)
    with pytest.raises(ConnectFailed, match="allowed_networks"):
        await ask(nursery, PUBLIC_ONLY, untrusted)
    assert upstream.accepted == 0
    assert await ask(nursery, DEFAULT, untrusted) == b"ok"
    assert await ask(nursery, PUBLIC_ONLY, UpstreamOrigin("http", host, upstream.port)) == b"ok"


async def test_connect_with_one_refused_address_is_refused(nursery: trio.Nursery) -> None:
    upstream = await nursery.start(serve, always_ok)
    trio.socket.set_custom_hostname_resolver(Resolver(["127.0.0.1", "169.254.169.254"]))
    with pytest.raises(ConnectFailed, match="link-local"):
        await ask(nursery, DEFAULT, UpstreamOrigin("http", "name.example", upstream.port, trusted=False))
    assert upstream.accepted == 0


async def test_connect_goes_to_the_address_that_was_checked(nursery: trio.Nursery) -> None:
    """A name that resolves to another address a moment later, against rebinding."""
    upstream = await nursery.start(serve, always_ok)
    policy = AddressPolicy(Networks.read(["127.0.0.2/32"]))
    trio.socket.set_custom_hostname_resolver(Resolver(["127.0.0.2"], ["127.0.0.1"]))
    origin = UpstreamOrigin("http", "name.example", upstream.port, trusted=False)
    with pytest.raises(ConnectFailed, match="refused"):  # no server listens at this address
        await ask(nursery, policy, origin)
    with pytest.raises(ConnectFailed, match="link-local"):
        await ask(nursery, policy, origin)
    assert upstream.accepted == 0


async def test_connect_tries_all_addresses(nursery: trio.Nursery) -> None:
    upstream = await nursery.start(serve, always_ok)
    trio.socket.set_custom_hostname_resolver(Resolver(["127.0.0.2", "127.0.0.1"]))
    assert (
        await ask(nursery, DEFAULT, UpstreamOrigin("http", "name.example", upstream.port, trusted=False))
        == b"ok"
    )


async def test_connect_untrusted_unix_socket_counts_as_loopback(nursery: trio.Nursery, tmp_path: Any) -> None:
    path = str(tmp_path / "u.sock")
    await nursery.start(lambda task_status: serve(always_ok, path=path, task_status=task_status))
    untrusted = UpstreamOrigin("unix", path, 0, trusted=False)
    with pytest.raises(ConnectFailed, match="allowed_networks"):
        await ask(nursery, PUBLIC_ONLY, untrusted)
    assert await ask(nursery, DEFAULT, untrusted) == b"ok"


@pytest.mark.parametrize(("origin", "trusted"), [("file", True), ("environment", True), ("table", False)])
def test_endpoint_of_server_added_with_the_api_is_untrusted(origin: str, trusted: bool) -> None:
    server = Server("a", "openai", "http://127.0.0.1:1/v1", None, (), 1, 0, origin)
    assert UpstreamEndpoint.to(server).origin.trusted is trusted


def test_default_networks_are_valid() -> None:
    assert Networks.read(UpstreamSettings().allowed_networks) == Networks.read(PRIVATE_NETWORKS)
