"""What an e-mail address may be: ASCII, in the common form, without comments or quotes.

A domain in another script has an ASCII form (xn--). Letters beyond ASCII are refused because engines disagree
on what their lower case is, and two accounts must not meet in one address.
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
    """The address in a text, as it was written; None when it is none. Only sending mail proves one."""
    address = text.strip(" ")
    return address if len(address) <= MAX_LENGTH and _ADDRESS.fullmatch(address) else None


def require_email(text: str) -> str:
    """Raises InvalidRequest."""
    address = read_email(text)
    if address is None:
        raise InvalidRequest("invalid_email", "This is not an e-mail address.", param="email")
    return address
