"""Checks of [mail]."""

import re
from collections.abc import Iterator

from bluesminds.common.emails import read_email
from bluesminds.config.check_values import check_url
from bluesminds.config.findings import Finding
from bluesminds.config.settings import (
    MailSettings,
    Settings,
)
from bluesminds.config.values import DeferredSecret, Secret


def check_mail(settings: Settings) -> Iterator[Finding]:
    """All findings. Every setting has the right type already."""
    mail = settings.mail
    host, sender = ("mail", "host"), ("mail", "sender")
    yield from _check_resend(mail)
    if mail.configured and mail.sender is None:
        name = "host" if mail.backend == "smtp" else "backend"
        about = (("mail", name), sender)
        yield Finding(about, f"{name} in [mail] needs sender", 'add sender = "gateway@example.com"')
    elif mail.configured and settings.server.public_url is None:
        yield Finding(
            (("server", "public_url"), host),
            "[mail] is configured, but public_url in [server] is not set",
            "set it to the URL users open in a browser; links in mail use it",
            warning=True,
        )
    elif not mail.configured and (mail.sender is not None or mail.username is not None):
        about = (("mail", "sender"), host) if mail.sender is not None else (("mail", "username"), host)
        text = f"{about[0][1]} in [mail] has no effect without host"
        yield Finding(about, text, 'add host = "smtp.example.com", or set backend = "resend"', warning=True)
    if mail.sender is not None and read_email(mail.sender) is None:
        yield Finding(
            (sender,), "sender in [mail] is not an e-mail address", "write only the address, without a name"
        )
    if (mail.username is None) != (mail.password is None):
        about = (("mail", "username"), ("mail", "password"))
        yield Finding(about, "username and password in [mail] must be set together", "set both, or neither")
    if mail.password is not None and mail.security == "none":
        about = (("mail", "security"), ("mail", "password"))
        yield Finding(about, "password in [mail] would be sent unencrypted", 'set security = "starttls"')


def _check_resend(mail: MailSettings) -> Iterator[Finding]:
    backend, api_key = ("mail", "backend"), ("mail", "api_key")
    if mail.backend == "resend" and mail.api_key is None:
        text = 'backend = "resend" in [mail] needs api_key'
        yield Finding((backend, api_key), text, 'add api_key = {env="RESEND_API_KEY"}')
    if mail.backend == "smtp" and mail.api_key is not None:
        text = "api_key in [mail] is only for Resend"
        yield Finding((api_key, backend), text, 'set backend = "resend", or remove api_key')
    if mail.backend == "resend" and mail.webhook_secret is None:
        about = (("mail", "webhook_secret"), backend)
        text = "webhook_secret in [mail] is not set, so mail is still sent to addresses that bounced"
        yield Finding(about, text, "add a webhook at Resend, and its secret here", warning=True)
    if isinstance(mail.webhook_secret, Secret) and not isinstance(mail.webhook_secret, DeferredSecret):
        yield from _check_webhook_secret(mail.webhook_secret)
    if mail.backend == "resend" and mail.host is not None:
        text = 'host in [mail] is not used with backend = "resend"'
        yield Finding((("mail", "host"), backend), text, "remove host, or set another backend")
    yield from check_url(("mail", "url"), "url in [mail]", mail.url)


def _check_webhook_secret(secret: Secret) -> Iterator[Finding]:
    if not re.fullmatch(r"whsec_[A-Za-z0-9+/]{22,}={0,2}", secret.reveal()):
        text = "webhook_secret in [mail] is not a secret of Resend"
        yield Finding((("mail", "webhook_secret"),), text, "copy it from the webhook at Resend: whsec_...")
