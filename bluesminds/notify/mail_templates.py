"""The mails that the gateway sends. Tokens are in the URL fragment (#), which browsers never send, so that
they do not appear in access logs.
"""

from msgspec import Struct

from bluesminds.notify.mail import Mail


class MailTemplates(Struct, frozen=True):
    """`base_url` is the public URL of the gateway, without a slash at the end."""

    base_url: str

    def verify_link(self, token: str) -> str:
        return f"{self.base_url}/account/verify#token={token}"

    def reset_link(self, token: str) -> str:
        return f"{self.base_url}/account/reset#token={token}"

    def invite_link(self, token: str) -> str:
        return f"{self.base_url}/account/signup#invite={token}"

    def verify(self, to: str, token: str) -> Mail:
        return _mail(
            "verify_email",
            to,
            "Confirm your e-mail address",
            "To confirm your e-mail address, open this link and enter your password:",
            self.verify_link(token),
            "If you did not request this, ignore this message.",
        )

    def reset(self, to: str, token: str) -> Mail:
        return _mail(
            "reset_password",
            to,
            "Reset your password",
            "To set a new password, open this link:",
            self.reset_link(token),
            "If you did not request this, ignore this message. Your password stays the same.",
        )

    def invite(self, to: str, token: str) -> Mail:
        return _mail(
            "invite",
            to,
            "You are invited",
            f"You are invited to create an account at {self.base_url}. Open this link and set a password:",
            self.invite_link(token),
            "If you do not want an account, ignore this message.",
        )

    def email_taken(self, to: str) -> Mail:
        return _mail(
            "account_exists",
            to,
            "You already have an account",
            "An account was requested for this e-mail address, but it already has one.",
            f"Sign in at {self.base_url}. If you forgot your password, request a password reset there.",
            "If you did not request this, ignore this message. The requester did not learn that the account"
            " exists.",
        )

    def password_changed(self, to: str) -> Mail:
        return _mail(
            "password_changed",
            to,
            "Your password was changed",
            f"The password of your account at {self.base_url} was changed."
            " All other sessions were signed out.",
            "If this was not you, request a password reset there and contact your administrator.",
        )

    def email_changed(self, to: str) -> Mail:
        return _mail(
            "email_changed",
            to,
            "Your e-mail address was changed",
            f"Your account at {self.base_url} now uses another e-mail address.",
            "If this was not you, contact your administrator immediately.",
        )


def _mail(kind: str, to: str, subject: str, *paragraphs: str) -> Mail:
    return Mail(kind, to, subject, "\n\n".join(("Hello,", *paragraphs)) + "\n")
