"""Strict parsing of IP addresses and CIDR networks.

IPv4-mapped IPv6 addresses and networks (::ffff:192.0.2.1) are converted to IPv4, so that one rule matches
both forms.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from msgspec import Struct

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_MAPPED_BITS = 96
_HOST_BITS = 64


def read_address(text: str) -> Address | None:
    """None if it is not an IP address. A zone (fe80::1%eth0) is removed."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def block_of(text: str) -> str:
    """The block that one subscriber has: an IPv4 address, or the /64 of an IPv6 address. Other text is
    returned unchanged.
    """
    address = read_address(text)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> _HOST_BITS << _HOST_BITS, _HOST_BITS)))
    return text if address is None else str(address)


@lru_cache(maxsize=256)
def read_network(text: str) -> Network:
    """A single address is a network of that address. Raises ValueError with a message for the user."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            "an entry is not an IP address or a network such as 10.0.0.0/8 or 2001:db8::/32"
        ) from None
    if "%" in text or text.partition("/")[2].count("."):
        raise ValueError("an entry has a zone or a dotted mask; write 10.0.0.0/8 or 2001:db8::/32")
    if str(network.network_address) != str(ip_address(text.partition("/")[0])):
        raise ValueError(f"an entry has host bits set; its network is {network}")
    return _unmapped(network)


def _unmapped(network: Network) -> Network:
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))


class Networks(Struct, frozen=True):
    """A set of networks; false if it is empty."""

    members: tuple[Network, ...] = ()

    @classmethod
    def read(cls, texts: Iterable[str]) -> "Networks":
        """Raises ValueError."""
        return cls(tuple(read_network(text) for text in texts))

    def __bool__(self) -> bool:
        return bool(self.members)

    def hold(self, address: Address) -> bool:
        return any(address in network for network in self.members)
