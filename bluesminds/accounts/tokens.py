"""Single-use tokens: 256 random bits, shown once, kept as a digest."""

import secrets

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import token_digest, uuid7
from bluesminds.common.errors import Forbidden
from storage.single_use_tokens import Purpose, TokenRow


def new_token(
    clock: Clock, purpose: Purpose, email: str, *, user_id: str | None, seconds: float
) -> tuple[TokenRow, str]:
    """The row to be stored and the token to be sent."""
    token = secrets.token_urlsafe(32)
    now = clock.now_ms()
    row = TokenRow(
        id=uuid7(now),
        digest=token_digest(token),
        purpose=purpose,
        user_id=user_id,
        email=email,
        created_at=now,
        expires_at=now + int(seconds * 1000),
    )
    return row, token


def invalid_token() -> Forbidden:
    return Forbidden("invalid_token", "This link is wrong, too old, or has been used. Ask for a new one.")
