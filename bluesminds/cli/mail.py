"""mail preview, mail test, mail suppressions, mail unsuppress."""

from pathlib import Path

import click

from bluesminds.app.settings_map import public_url
from bluesminds.cli import exits
from bluesminds.cli.api_client import call, call_paged, echo_json, json_option, show
from bluesminds.cli.options import config_option, load_settings
from bluesminds.config.fields import nearest
from bluesminds.notify.mail_samples import SAMPLES
from bluesminds.notify.mail_templates import MailTemplates


@click.group("mail")
def mail_group() -> None:
    """Preview the mails of the gateway, and test its settings."""


@mail_group.command()
@click.argument("name", required=False)
@click.option("--html", "as_html", is_flag=True, help="Print the HTML instead of the text.")
@config_option
def preview(name: str | None, as_html: bool, config: Path | None) -> None:
    """Print the mail NAME with sample values. Without NAME: list the names."""
    if name is None:
        for known in SAMPLES:
            click.echo(known)
        return
    if name not in SAMPLES:
        close = nearest(name, SAMPLES)
        remedy = f'did you mean "{close}"?' if close else "list them: bluesminds mail preview"
        raise exits.Failure(f"there is no mail {name!r}", exits.NOT_FOUND, remedy)
    settings = load_settings(config, defer_secrets=True).settings
    mail = MailTemplates(public_url(settings.server)).preview(name)
    click.echo(mail.html if as_html else f"Subject: {mail.subject}\n\n{mail.text}", nl=False)


@mail_group.command()
@click.argument("address")
@config_option
@json_option
def test(address: str, config: Path | None, as_json: bool) -> None:
    """Send a test mail to ADDRESS.

    Waits for the response of the mail server.
    """
    call(config, "POST", "/mail/test", {"email": address})
    if as_json:
        echo_json({"email": address, "sent": True})
    else:
        click.echo(f"sent a test mail to {address}")


@mail_group.command()
@config_option
@json_option
def suppressions(config: Path | None, as_json: bool) -> None:
    """List the addresses that get no mail.

    A mail to them bounced, or was reported as spam.
    """
    found = call_paged(config, "/mail/suppressions")
    show(found, as_json=as_json, columns=("email", "reason", "created_at", "id"))


@mail_group.command()
@click.argument("address")
@config_option
def unsuppress(address: str, config: Path | None) -> None:
    """Send mail to ADDRESS again."""
    rows = call_paged(config, "/mail/suppressions", {"email": address})["data"]
    if not rows:
        problem = f"mail to {address} is not suppressed"
        raise exits.Failure(problem, exits.NOT_FOUND, "list them: bluesminds mail suppressions")
    call(config, "DELETE", f"/mail/suppressions/{rows[0]['id']}")
    click.echo(f"mail is sent to {address} again")
