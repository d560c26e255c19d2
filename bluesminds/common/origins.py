"""Web origins (RFC 6454) in the form that browsers send."""

import re
from ipaddress import IPv6Address
from typing import Final

from bluesminds.common.networks import read_address

_ORIGIN: Final = re.compile(
    r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?/?", re.IGNORECASE | re.ASCII
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def read_origin(text: str) -> str:
    """As browsers send it: lower case, without a default port, nothing after the host. Raises ValueError with
    a message for the user.
    """
    match = _ORIGIN.fullmatch(text)
    scheme, host, given = (match[1].lower(), match[2].lower(), match[3]) if match else ("", "", None)
    address = read_address(host[1:-1]) if host.startswith("[") else None
    port = int(given or _DEFAULT_PORTS.get(scheme, 0))
    if not 0 < port < 65536 or (host.startswith("[") and not isinstance(address, IPv6Address)):
        raise ValueError(
            "an entry is not an origin such as https://app.example.com or http://localhost:8080"
            " (international names are written in punycode)"
        )
    host = host if address is None else f"[{address}]"
    return f"{scheme}://{host}" if port == _DEFAULT_PORTS[scheme] else f"{scheme}://{host}:{port}"
