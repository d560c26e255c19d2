"""Sign-up: a new account, which can be used once its address is confirmed, or at once with an invitation."""

from dataclasses import replace

from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.context import AccountContext
from bluesminds.accounts.email_verification import EmailVerification
from bluesminds.accounts.single_use_tokens import invalid_token
from bluesminds.accounts.users import audit_fields, is_taken, new_user
from bluesminds.common.crypto import token_digest
from bluesminds.common.emails import require_email
from bluesminds.common.errors import Forbidden
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection
from storage.single_use_tokens import select_token, use_token
from storage.users import UserRow, insert_user, select_user_by_email, update_user


class SignUp(Struct, frozen=True):
    context: AccountContext
    verification: EmailVerification

    async def sign_up(
        self, actor: Actor, *, email: str, password: str, full_name: str, invite: str | None
    ) -> None:
        """`invite` is the token of an invitation to this address.

        Raises Forbidden when the sign-up policy or an invalid invitation does not allow it, InvalidRequest,
        RateLimited.
        """
        self._require_allowed(invite)
        self.context.throttle.check_public_form(actor.address)
        email = require_email(email)
        password_hash = await self.context.passwords.hash(password)
        user = new_user(
            self.context.clock,
            "user",
            email=email,
            password_hash=password_hash,
            full_name=full_name,
            tier=self.context.settings.default_tier,
        )
        may_mail = invite is not None or self.context.throttle.allow_mail("verify_email", email)
        await self.context.store.write(self._sign_up, actor, user, invite, may_mail)
        self.context.outbox.wake()

    def _require_allowed(self, invite: str | None) -> None:
        if self.context.settings.signup == "closed":
            raise Forbidden("signup_closed", "Sign-up is closed. Ask an administrator for an account.")
        if self.context.settings.signup == "invite" and invite is None:
            raise Forbidden("invite_required", "Sign-up needs an invitation. Ask an administrator for one.")

    async def _sign_up(
        self, connection: Connection, actor: Actor, new: UserRow, invite: str | None, may_mail: bool
    ) -> None:
        await lock_audit_head(connection)
        email = new.email or ""
        if invite is not None:
            await self._use_invite(connection, actor, invite, email)
        known = await select_user_by_email(connection, email)
        if is_taken(known) or not may_mail:
            if may_mail and known is not None and is_taken(known) and known.disabled_at is None:
                await self.context.outbox.insert(connection, self.context.templates.email_taken(email))
            else:
                await self.verification.insert_decoy(connection, email)
            return
        user = await self._store_unconfirmed(connection, actor, known, new)
        if invite is None:
            await self.verification.create_link(connection, user.id, email)
        else:
            await self.verification.confirm(connection, actor, "email.verify", user, user)

    async def _store_unconfirmed(
        self, connection: Connection, actor: Actor, known: UserRow | None, new: UserRow
    ) -> UserRow:
        """Insert the account, or update the unconfirmed account `known` with what the latest sign-up sent."""
        if known is None:
            audit = entry(self.context.clock, actor, "user.signup", new.id, after=audit_fields(new))
            await insert_audit(connection, audit)
            await insert_user(connection, new)
            return new
        user = replace(known, email=new.email, full_name=new.full_name, password_hash=new.password_hash)
        before, after = audit_fields(known), audit_fields(user)
        await insert_audit(
            connection, entry(self.context.clock, actor, "user.signup", user.id, before=before, after=after)
        )
        await update_user(connection, user)
        return user

    async def _use_invite(self, connection: Connection, actor: Actor, invite: str, email: str) -> None:
        digest, now = token_digest(invite), self.context.clock.now_ms()
        row = await select_token(connection, digest, "invite", now)
        if row is None or row.email.lower() != email.lower():
            raise invalid_token()
        if not await use_token(connection, digest, "invite", now):
            raise invalid_token()
        audit = entry(self.context.clock, actor, "invite.use", row.email, before={"invite_id": row.id})
        await insert_audit(connection, audit)
