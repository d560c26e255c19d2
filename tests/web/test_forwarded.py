"""The client address behind proxies: only trusted proxies can set it."""

import ipaddress
import random
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.networks import Networks, read_network
from bluesminds.web.forwarded import MAX_HOPS, ProxyHeaders
from tests.deployment import deploy
from tests.fakes.model_server import ModelServer
from tests.gateways import entry, start

TRUSTED = ("10.0.0.0/8", "127.0.0.1", "2001:db8:ffff::/48")
PROXIES = ProxyHeaders(Networks.read(TRUSTED))


def client(*headers: tuple[str, str], peer: str = "10.0.0.1") -> str:
    return PROXIES.client_of(peer, [(name.encode(), value.encode("latin-1")) for name, value in headers])


def client_of_x_forwarded_for(value: str, peer: str = "10.0.0.1") -> str:
    return client(("x-forwarded-for", value), peer=peer)


def client_of_forwarded(value: str) -> str:
    return client(("forwarded", value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7", "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7, 10.2.3.4,\t127.0.0.1 ", "192.0.2.7"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("6.6.6.6, ::ffff:10.0.0.9", "6.6.6.6"),
        ("192.0.2.7, , ,", "192.0.2.7"),
        ("10.0.0.2, 10.0.0.3", "10.0.0.2"),
        ("6.6.6.6, junk, 10.0.0.3", "10.0.0.3"),
        ("6.6.6.6, unknown", "10.0.0.1"),
        ("6.6.6.6, _hidden, 10.0.0.3", "10.0.0.3"),
        ("192.0.2.7:port", "10.0.0.1"),
        ("192.0.2.07", "10.0.0.1"),
        ("192.0.2.7 6.6.6.6", "10.0.0.1"),
        ("fe80::1%eth0", "10.0.0.1"),
        ("[192.0.2.7", "10.0.0.1"),
        ("", "10.0.0.1"),
        (",,,", "10.0.0.1"),
        ("\xff", "10.0.0.1"),
    ],
)
def test_client_of_x_forwarded_for_is_first_untrusted_address(value: str, expected: str) -> None:
    assert client_of_x_forwarded_for(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=192.0.2.7", "192.0.2.7"),
        ("For=192.0.2.7;proto=https;by=10.0.0.1", "192.0.2.7"),
        ('proto=https; for="192.0.2.7:4711"', "192.0.2.7"),
        ("for=192.0.2.7:4711", "192.0.2.7"),
        ('for="[2001:db8::7]:4711"', "2001:db8::7"),
        ('for="[2001:db8::7]:_port"', "2001:db8::7"),
        ('for="\\1\\92.0.2.7"', "192.0.2.7"),
        ('for=6.6.6.6, for=192.0.2.7, for="10.0.0.3"', "192.0.2.7"),
        ('for=192.0.2.7;by="a,b;for=6.6.6.6"', "192.0.2.7"),
        ('for=6.6.6.6;x=", for=192.0.2.7', "192.0.2.7"),
        ('for=6.6.6.6;x=", for=192.0.2.7, for=10.0.0.3;host="a,b"', "192.0.2.7"),
        ('for=6.6.6.6, for="_hidden", for=10.0.0.3', "10.0.0.3"),
        ("for=6.6.6.6, for=unknown", "10.0.0.1"),
        ("for=6.6.6.6, proto=https", "10.0.0.1"),
        ("for=6.6.6.6;for=6.6.6.7", "10.0.0.1"),
        ("for=6.6.6.6, junk", "10.0.0.1"),
        ('for="6.6.6.6', "10.0.0.1"),
        ("for=", "10.0.0.1"),
        ("", "10.0.0.1"),
        (f"for=6.6.6.6;x={'a' * 600}", "10.0.0.1"),
    ],
)
def test_client_of_forwarded_is_first_untrusted_address(value: str, expected: str) -> None:
    assert client_of_forwarded(value) == expected


@pytest.mark.parametrize("peer", ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "not an address"])
def test_client_of_untrusted_peer_is_the_peer(peer: str) -> None:
    for header in (("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6")):
        assert client(header, peer=peer) == peer


def test_client_of_several_lines_prefers_x_forwarded_for() -> None:
    name = "x-forwarded-for"
    assert client((name, "6.6.6.6"), ("other", "x"), (name, "192.0.2.7"), (name, "10.0.0.3")) == "192.0.2.7"
    assert client((name, "192.0.2.7"), ("forwarded", "for=6.6.6.6")) == "192.0.2.7"
    assert client(("forwarded", 'for=6.6.6.6;x="'), ("forwarded", "for=192.0.2.7")) == "192.0.2.7"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-forwarded-for", "," * 32_000),
        ("x-forwarded-for", "10.0.0.9," * 3_500),
        ("forwarded", '"' + "," * 32_000),
        ("forwarded", 'a="' + ",=" * 16_000 + '"'),
        ("forwarded", ";" * 32_000),
        ("forwarded", "for=10.0.0.9," * 2_400),
    ],
)
def test_client_of_long_header_is_found_within_max_hops(name: str, value: str) -> None:
    """Counted, not timed: a str that knows how much of it has been copied out."""

    class LimitedAccount(str):
        taken = 0

        def __getitem__(self, key: object) -> str:  # type: ignore[override]
            found = super().__getitem__(key)  # type: ignore[index]
            LimitedAccount.taken += len(found)
            return found

    class Line(bytes):
        def decode(self, *_: object) -> str:  # type: ignore[override]
            return LimitedAccount(super().decode("latin-1"))

    assert PROXIES.client_of("10.0.0.1", [(name.encode(), Line(value.encode()))]) in ("10.0.0.1", "10.0.0.9")
    assert LimitedAccount.taken <= 600 * 600


# Against another implementation: one that starts at the left and knows what each part is.

ADDRESSES = st.one_of(
    st.ip_addresses(),
    st.ip_addresses(network="10.0.0.0/8"),
    st.ip_addresses(network="2001:db8:ffff::/48"),
    st.ip_addresses(network="10.0.0.0/8").map(lambda found: ipaddress.ip_address(f"::ffff:{found}")),
)
HOPS = st.lists(st.one_of(ADDRESSES, st.sampled_from([None])), max_size=8)


def plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> object:
    return getattr(address, "ipv4_mapped", None) or address


def expected_of(peer: object, hops: list[object]) -> str:
    trusted = [ipaddress.ip_network(text) for text in TRUSTED]
    chain = [*(None if hop is None else plain(hop) for hop in hops), plain(peer)]  # type: ignore[arg-type]
    believed = len(chain) - 1
    while any(chain[believed] in network for network in trusted):
        if believed == 0 or chain[believed - 1] is None:
            break
        believed -= 1
    return str(chain[believed])


def written(hop: object, rng: random.Random, *, rich: bool) -> str:
    if hop is None:
        return rng.choice(
            ["for=unknown", 'for="_x"', "proto=http", "junk"] if rich else ["unknown", "_x", "?"]
        )
    text = str(hop)
    port = rng.choice(["", ":80"])
    text = f"[{text}]{port}" if ":" in text and (port or rich) else text + port
    if not rich:
        return text
    parts = [
        f'for="{text}"',
        *rng.sample(["proto=https", 'host="a,b;for=6.6.6.6"', "by=_p"], rng.randint(0, 3)),
    ]
    rng.shuffle(parts)
    return rng.choice([";", "; "]).join(parts)


@given(ADDRESSES, HOPS, st.randoms(use_true_random=False), st.booleans())
def test_client_of_any_chain_equals_the_reference_implementation(
    peer: object, hops: list[object], rng: random.Random, rich: bool
) -> None:
    entries = [written(hop, rng, rich=rich) for hop in hops]
    lines: list[list[str]] = [[]]
    for entry_text in entries:
        if rng.random() < 0.2:
            lines.append([])
        lines[-1].append(entry_text)
    name = "forwarded" if rich else "x-forwarded-for"
    comma = rng.choice([",", ", ", " , ", ",, "])
    found = client(*((name, comma.join(line)) for line in lines), peer=str(peer))
    peer_is_untrusted = not any(plain(peer) in ipaddress.ip_network(text) for text in TRUSTED)  # type: ignore[arg-type]
    assert found == (str(peer) if peer_is_untrusted else expected_of(peer, hops))


@given(st.text(st.characters(max_codepoint=255), max_size=200), st.booleans())
def test_client_of_forged_prefix_is_unchanged(forged: str, rich: bool) -> None:
    forged = forged.replace("\r", "").replace("\n", "")
    if rich:
        assert client_of_forwarded(f'{forged}, for="192.0.2.7:80";proto=http') == "192.0.2.7"
    else:
        assert client_of_x_forwarded_for(f"{forged}, 192.0.2.7") == "192.0.2.7"


@given(st.binary(max_size=300), st.booleans())
def test_client_of_any_header_does_not_raise(value: bytes, rich: bool) -> None:
    name = b"forwarded" if rich else b"x-forwarded-for"
    ipaddress.ip_address(PROXIES.client_of("10.0.0.1", [(name, value)]))


def test_client_of_many_proxies_stops_at_max_hops() -> None:
    chain = ["192.0.2.7", *["10.0.0.2"] * (MAX_HOPS - 1)]
    assert client_of_x_forwarded_for(", ".join(chain)) == "192.0.2.7"
    assert client_of_x_forwarded_for(", ".join([*chain, "10.0.0.2"])) == "10.0.0.2"
    for name, hop in (("x-forwarded-for", "{}"), ("forwarded", "for={}")):
        for filling in ("10.0.0.2", ""):
            long = ",".join([hop.format("192.0.2.7"), *[filling and hop.format(filling)] * MAX_HOPS])
            found = client((name, hop.format("6.6.6.6")), (name, long))
            assert found == (filling or "10.0.0.1"), "entries that were not read are not trusted"


# Networks


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_networks_read_returns_canonical_form(text: str, canonical: str) -> None:
    assert str(read_network(text)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "10.0.0.0/33",
        "10.0.0.1/8",
        "10.0.0.0/255.0.0.0",
        "10.0.0",
        "fe80::1%eth0",
        "1.2.3.4/",
        "010.0.0.1",
    ],
)
def test_networks_read_of_invalid_text_raises(text: str) -> None:
    with pytest.raises(ValueError, match="an entry"):
        read_network(text)


# Through the gateway


async def test_control_plane_behind_trusted_proxy_uses_the_client_address(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(
        nursery, home, servers=[entry("one", models.url)], server={"trusted_proxies": ["127.0.0.1"]}
    )
    _, key = await gateway.new_key(allowed_ips=["192.0.2.0/24"])
    for value, status in (("192.0.2.7", 200), ("6.6.6.6", 403), ("192.0.2.7, 6.6.6.6", 403)):
        rich = ", ".join(f'for="{hop}"' for hop in value.split(", "))
        for headers in ({"x-forwarded-for": value}, {"forwarded": rich}):
            answer = await gateway.chat(key=key, headers=headers)
            assert answer.status_code == status, headers
    assert (await gateway.chat(key=key)).json()["error"]["code"] == "ip_not_allowed"


async def test_requests_on_one_proxy_connection_have_their_own_clients(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(
        nursery, home, servers=[entry("one", models.url)], server={"trusted_proxies": ["127.0.0.1"]}
    )
    _, key = await gateway.new_key(allowed_ips=["192.0.2.0/24"])
    async with gateway.client(key) as connection:
        for address, status in (("192.0.2.7", 200), ("6.6.6.6", 403), ("192.0.2.8", 200)):
            answer = await connection.get("/v1/models", headers={"x-forwarded-for": address})
            assert answer.status_code == status
    assert await gateway.metric("bluesminds_connections_accepted_total") == 2, (
        "one connection, and one to read the metric"
    )


async def test_audit_log_behind_trusted_proxy_has_the_client_address(
    nursery: trio.Nursery, home: Path
) -> None:
    site = await deploy(nursery, home, sections={"server": {"trusted_proxies": ["127.0.0.1"]}})
    await site.create_user("ada@example.com")
    async with site.browser(**{"x-forwarded-for": "6.6.6.6, 192.0.2.7"}) as ada:
        await ada.login("ada@example.com")
        assert (await ada.send("POST", "/api/keys", {"name": "a"})).status_code == 201
    with site.gateway.reading() as database:
        query = "SELECT address FROM audit WHERE action = 'key.create' ORDER BY seq DESC LIMIT 1"
        assert database.execute(query).fetchone() == ("192.0.2.7",)


async def test_forwarded_headers_without_trusted_proxies_are_ignored(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, servers=[entry("one", models.url)])
    _, key = await gateway.new_key(allowed_ips=["192.0.2.0/24"])
    for name, value in (("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=192.0.2.7")):
        answer = await gateway.chat(key=key, headers={name: value})
        assert answer.json()["error"]["code"] == "ip_not_allowed"


async def test_proxy_protocol_sets_the_client_address(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(
        nursery,
        home,
        servers=[entry("one", models.url)],
        server={"trusted_proxies": ["127.0.0.1"], "proxy_protocol": True},
    )
    _, key = await gateway.new_key(allowed_ips=["192.0.2.7"])

    async def status(named: str) -> bytes:
        stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
        async with stream:
            await stream.send_all(f"PROXY {named}\r\nGET /v1/models HTTP/1.1\r\nHost: x\r\n".encode())
            await stream.send_all(f"X-Forwarded-For: 192.0.2.7\r\nApi-Key: {key}\r\n\r\n".encode())
            return bytes(await stream.receive_some(12))[9:]

    assert await status("TCP4 192.0.2.7 192.0.2.1 1 2") == b"200"
    assert await status("TCP4 192.0.2.8 192.0.2.1 1 2") == b"403"
    assert await status("UNKNOWN") == b"403", "UNKNOWN means no client address, and the header is not trusted"
    assert await status("TCP4 127.0.0.1 192.0.2.1 1 2") == b"200", (
        "the client is a trusted proxy, so its header is used"
    )
