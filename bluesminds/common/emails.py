"""Validation of e-mail addresses: the ASCII forms in common use, without comments or quoted strings.

Internationalized domains are accepted in their ASCII form (xn--). Non-ASCII letters are rejected because
SQLite and PostgreSQL convert them to lower case differently, and an address must identify one account.
"""

import re
from typing import Final

from bluesminds.common.errors import InvalidRequest

MAX_LENGTH: Final = 254
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS: Final = re.compile(
    rf"(?=.{{1,64}}@){_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)+(?![0-9]+\Z){_LABEL}", re.ASCII
)


def read_email(text: str) -> str | None:
    """The address without surrounding spaces; None if it is not valid. It may still not exist."""
    address = text.strip(" ")
    return address if len(address) <= MAX_LENGTH and _ADDRESS.fullmatch(address) else None


def person_of(address: str) -> str:
    """An address that is the same for common spellings of one mailbox: without case and +tags, and for Gmail
    without dots.
    """
    local, _, domain = address.lower().rpartition("@")
    local = local.partition("+")[0] or local
    if domain in ("gmail.com", "googlemail.com"):
        local, domain = local.replace(".", ""), "gmail.com"
    return f"{local}@{domain}"


def require_email(text: str) -> str:
    """Raises InvalidRequest."""
    address = read_email(text)
    if address is None:
        raise InvalidRequest("invalid_email", "This is not a valid e-mail address.", param="email")
    return address
