"""Signatures of other servers in Gemini's `thoughtSignature`.

Clients of translated servers get the server's signature in base64, with a mark before it. Google's SDKs may
change the alphabet. Signatures without the mark are Google's, and other servers cannot use them.
"""

import base64
import binascii

from bluesminds.wire.conversation import REDACTED, SIGNATURE
from bluesminds.wire.gemini_fields import standard_base64


def seal(signature: str, mark: str = SIGNATURE) -> str:
    """The text for the client; "" without a signature."""
    return base64.b64encode((mark + signature).encode()).decode() if signature else ""


def unseal(sealed: str) -> tuple[str, str]:
    """The signature and the redacted reasoning in a text of a client, one of them or neither."""
    try:
        text = base64.b64decode(standard_base64(sealed), validate=True).decode()
    except (binascii.Error, UnicodeError):
        return "", ""
    if text.startswith(REDACTED):
        return "", text.removeprefix(REDACTED)
    return text.removeprefix(SIGNATURE) if text.startswith(SIGNATURE) else "", ""
