"""Which addresses the pool may connect to for origins that are not trusted (servers added with the API).

Without a policy, an administrator of the API could make the gateway send requests to services that only the
gateway's machine can reach (server-side request forgery). Addresses are checked after name resolution, and
again on the open connection before anything is sent.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import Final

from msgspec import Struct

from bluesminds.common.networks import Address, Networks, read_address

# Metadata services outside the link-local networks (Alibaba Cloud, Azure, Oracle Cloud, AWS), and site-local
# addresses (RFC 3879).
_REFUSED: Final = Networks.read(
    ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::/32", "fec0::/10")
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_CARRIER: Final = ip_network("100.64.0.0/10")
_LOOPBACK: Final = IPv4Address("127.0.0.1")


class AddressPolicy(Struct, frozen=True):
    """Public addresses are allowed, private and loopback ones only inside `allowed`. Link-local addresses,
    metadata services and addresses that cannot be a host (unspecified, multicast, reserved) are always
    refused. A Unix socket counts as 127.0.0.1. `setting` is the name of the setting, for messages.
    """

    allowed: Networks = Networks()
    setting: str = "[upstream] allowed_networks"

    def permits(self, address: Address) -> bool:
        if isinstance(address, IPv6Address):
            inner = address.ipv4_mapped or address.sixtofour
            if address in _NAT64:
                inner = IPv4Address(int(address) & 0xFFFFFFFF)
            if inner is not None:
                return self.permits(inner)
        if address.is_link_local or address.is_multicast or address.is_unspecified or _REFUSED.hold(address):
            return False
        if isinstance(address, IPv4Address) and address in _CARRIER:
            return self.allowed.hold(address)
        if address.is_loopback or address.is_private:
            return self.allowed.hold(address)
        return not address.is_reserved

    def permits_text(self, text: str) -> bool:
        """`text`: an address as the resolver gives it."""
        address = read_address(text)
        return address is not None and self.permits(address)

    def permits_unix(self) -> bool:
        return self.permits(_LOOPBACK)
