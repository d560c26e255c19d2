"""What the gateway writes to people. Tokens travel behind "#" of a link: browsers send that part to nobody,
so no log on the way has it.
"""

from msgspec import Struct

from bluesminds.notify.mail import Mail


class MailTemplates(Struct, frozen=True):
    """`base_url` is the address people reach the gateway at, without a slash at its end."""

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
            "to confirm that this address is yours, open this link and enter your password:",
            self.verify_link(token),
            "If you did not ask for this, do nothing: without your confirmation nothing happens.",
        )

    def reset(self, to: str, token: str) -> Mail:
        return _mail(
            "reset_password",
            to,
            "Choose a new password",
            "to choose a new password, open this link:",
            self.reset_link(token),
            "If you did not ask for this, do nothing: your password stays as it is.",
        )

    def invite(self, to: str, token: str) -> Mail:
        return _mail(
            "invite",
            to,
            "You are invited",
            f"you are invited to an account at {self.base_url}. To choose a password, open this link:",
            self.invite_link(token),
            "If you do not want an account, do nothing.",
        )

    def taken(self, to: str) -> Mail:
        return _mail(
            "account_exists",
            to,
            "You have an account already",
            "somebody, probably you, wanted to use this address for an account here. It has one already.",
            f"Sign in at {self.base_url}, or ask there for a new password if you forgot yours.",
            "If it was not you, do nothing: nobody has learned that there is an account.",
        )

    def password_changed(self, to: str) -> Mail:
        return _mail(
            "password_changed",
            to,
            "Your password was changed",
            f"the password of your account at {self.base_url} was changed, and other sessions were ended.",
            "If it was not you, ask there for a new password at once, and tell the operator.",
        )

    def email_changed(self, to: str) -> Mail:
        return _mail(
            "email_changed",
            to,
            "Your e-mail address was changed",
            f"your account at {self.base_url} uses another address from now on.",
            "If it was not you, tell the operator at once.",
        )


def _mail(kind: str, to: str, subject: str, *paragraphs: str) -> Mail:
    return Mail(kind, to, subject, "\n\n".join(("Hello,", *paragraphs)) + "\n")
