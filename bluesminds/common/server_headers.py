"""Headers that the operator adds to every request to a server."""

import re
from collections.abc import Mapping
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
# Portkey's headers all have "key" in their names.
_CREDENTIAL: Final = re.compile(r"auth|cookie|credential|password|secret|token|(?<!port)key", re.IGNORECASE)
# The gateway or the connection decides about these.
_RESERVED: Final = frozenset(
    (
        *("accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type"),
        *("expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "x-request-id"),
    )
)
MAX_HEADERS: Final = 32


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises ValueError with a sentence that names the wrong header and does not contain its value."""
    if len(headers) > MAX_HEADERS:
        raise ValueError(f"at most {MAX_HEADERS} headers are allowed")
    names = [name.lower() for name in headers]
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise ValueError("the name of a header must have only letters, digits and -_.!#$%&'*+^`|~")
        if name.lower() in _RESERVED:
            raise ValueError(f"the gateway sets the header {name} itself")
        if names.count(name.lower()) > 1:
            raise ValueError(f"the header {name} is set twice")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of the header {name} must be printable ASCII text")


def holds_credential(name: str) -> bool:
    """Whether the name of a header says that its value is a secret."""
    return _CREDENTIAL.search(name) is not None
