"""Single-use tokens: 256 random bits, shown once, stored as a digest."""

import secrets

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import token_digest, uuid7
from bluesminds.common.errors import Forbidden
from storage.single_use_tokens import Purpose, TokenRow


def new_token(
    clock: Clock, purpose: Purpose, email: str, *, user_id: str | None, seconds: float
) -> tuple[TokenRow, str]:
    """The row to store and the token to send. `seconds` is its lifetime."""
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
    return Forbidden("invalid_token", "This link is invalid, expired or already used. Request a new one.")
