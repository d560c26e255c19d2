"""Groups of optional mails, and links that turn one off without a sign-in (RFC 8058)."""

import base64
import hmac
from types import MappingProxyType
from typing import Final, Literal, get_args
from urllib.parse import urlencode

from msgspec import Struct

MailGroup = Literal["weekly_summary", "keys", "sign_ins", "usage", "servers"]
MAIL_GROUPS: Final[tuple[MailGroup, ...]] = get_args(MailGroup)
MAIL_GROUP_TITLES: Final = MappingProxyType(
    {
        "weekly_summary": "A summary of your usage each week",
        "keys": "New keys, and keys that expire soon",
        "sign_ins": "Sign-ins from a new browser or address",
        "usage": "Budgets, limits and credit that are almost used up",
        "servers": "Servers that are down, and alerts (administrators)",
    }
)
OPT_OUT_PATH: Final = "/api/mail/unsubscribe"


class OptOutLinks(Struct, frozen=True):
    """A link is signed: it works until `secret` changes, for one user and one group."""

    base_url: str
    secret: bytes

    @classmethod
    def from_pepper(cls, base_url: str, pepper: bytes) -> "OptOutLinks":
        return cls(base_url, hmac.digest(pepper, b"bluesminds mail opt-out", "sha256"))

    def url(self, user_id: str, group: MailGroup) -> str:
        query = {"user": user_id, "group": group, "signature": self._sign(user_id, group)}
        return f"{self.base_url}{OPT_OUT_PATH}?{urlencode(query)}"

    def is_valid(self, user_id: str, group: str, signature: str) -> bool:
        return hmac.compare_digest(self._sign(user_id, group).encode(), signature.encode())

    def _sign(self, user_id: str, group: str) -> str:
        digest = hmac.digest(self.secret, f"{user_id}:{group}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def __repr__(self) -> str:
        return f"OptOutLinks({self.base_url!r})"
