"""The command tree."""

import click

from bluesminds import __version__
from bluesminds.cli import exits
from bluesminds.cli.alerts import alerts_group
from bluesminds.cli.audit import audit_group
from bluesminds.cli.backup import backup, restore
from bluesminds.cli.billing import billing_group
from bluesminds.cli.config import check, config_group, init
from bluesminds.cli.doctor import doctor, support_bundle
from bluesminds.cli.explain import explain
from bluesminds.cli.health import health
from bluesminds.cli.imports import import_group
from bluesminds.cli.keys import keys_group
from bluesminds.cli.ledger import ledger_group
from bluesminds.cli.limits import limits_group
from bluesminds.cli.logs import logs
from bluesminds.cli.mail import mail_group
from bluesminds.cli.master_key import master_key_group
from bluesminds.cli.migrate import migrate, rollback
from bluesminds.cli.models import models
from bluesminds.cli.prices import prices_group
from bluesminds.cli.prompt_log import prompt_log_group
from bluesminds.cli.redeem_codes import redeem_codes_group
from bluesminds.cli.reload import reload
from bluesminds.cli.replay import replay
from bluesminds.cli.reprice import reprice
from bluesminds.cli.routes import routes_group
from bluesminds.cli.serve import demo, serve
from bluesminds.cli.server_keys import server_keys_group
from bluesminds.cli.servers import servers_group
from bluesminds.cli.shell import completion, man_pages
from bluesminds.cli.usage import usage_group
from bluesminds.cli.users import users_group
from bluesminds.cli.vendor_keys import vendor_keys_group
from bluesminds.cli.vendors import vendors
from bluesminds.cli.version import version
from bluesminds.cli.webhooks import webhooks_group

_EPILOG = (
    "Exit codes: "
    + "; ".join(f"{code} {meaning}" for code, meaning in exits.MEANINGS.items())
    + ". The first Ctrl-C or SIGTERM stops `serve` after running responses have finished, with exit code 0. "
    "The second aborts them, with exit code 130."
)


class Commands(click.Group):
    """Maps Ctrl-C and arguments that are not UTF-8 to their exit codes, for every command."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            raise exits.Failure("interrupted", exits.INTERRUPTED) from None
        except UnicodeEncodeError as exc:
            if exc.reason != "surrogates not allowed":
                raise
            raise exits.Failure("an argument is not UTF-8 text", exits.USAGE) from None


@click.version_option(__version__, message="bluesminds %(version)s", help="Print the version.")
@click.group(cls=Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A self-hosted AI gateway: keys, limits, routing and usage for the SDKs of OpenAI, Anthropic and Google.

    Start with `bluesminds demo`, or `bluesminds serve` with OPENAI_API_KEY set.
    """


servers_group.add_command(server_keys_group)
for command in (
    serve,
    demo,
    init,
    check,
    config_group,
    keys_group,
    servers_group,
    routes_group,
    models,
    explain,
    vendors,
    prices_group,
    reprice,
    users_group,
    vendor_keys_group,
    webhooks_group,
    alerts_group,
    limits_group,
    ledger_group,
    billing_group,
    redeem_codes_group,
    usage_group,
    logs,
    prompt_log_group,
    replay,
    audit_group,
    mail_group,
    master_key_group,
    reload,
    backup,
    restore,
    migrate,
    rollback,
    health,
    doctor,
    support_bundle,
    import_group,
    completion,
    man_pages,
    version,
):
    cli.add_command(command)
