"""The command tree."""

from typing import Final

import click

from bluesminds import __version__
from bluesminds.cli import exits
from bluesminds.cli.lazy import LazyCommand, LazyGroup

COMMANDS: Final = {
    "serve": LazyCommand("bluesminds.cli.serve:serve", "Run the gateway."),
    "demo": LazyCommand("bluesminds.cli.serve:demo", "Run the gateway with a built-in demo server."),
    "init": LazyCommand(
        "bluesminds.cli.config:init", "Write a starter configuration, readable only by its owner."
    ),
    "check": LazyCommand(
        "bluesminds.cli.config:check", "Check the configuration without starting the gateway."
    ),
    "config": LazyCommand("bluesminds.cli.config:config_group", "Show the configuration."),
    "keys": LazyCommand("bluesminds.cli.keys:keys_group", "Manage API keys."),
    "servers": LazyCommand("bluesminds.cli.servers:servers_group", "Manage upstream servers."),
    "routes": LazyCommand(
        "bluesminds.cli.routes:routes_group", "Manage routes: which servers get the requests for a model."
    ),
    "models": LazyCommand(
        "bluesminds.cli.models:models", "List all models, with their servers, prices and routes."
    ),
    "explain": LazyCommand(
        "bluesminds.cli.explain:explain", "Show which servers a request would get now, and why."
    ),
    "vendors": LazyCommand("bluesminds.cli.vendors:vendors", "List the vendors that can be added by name."),
    "prices": LazyCommand("bluesminds.cli.prices:prices_group", "Manage the prices of models."),
    "reprice": LazyCommand("bluesminds.cli.reprice:reprice", "Compute the costs of past requests again."),
    "users": LazyCommand("bluesminds.cli.users:users_group", "Manage accounts."),
    "vendor-keys": LazyCommand(
        "bluesminds.cli.vendor_keys:vendor_keys_group", "Manage the keys of users for vendors."
    ),
    "webhooks": LazyCommand(
        "bluesminds.cli.webhooks:webhooks_group", "Manage the webhooks of the operators."
    ),
    "alerts": LazyCommand(
        "bluesminds.cli.alerts:alerts_group", "Manage alerts about figures of the gateway."
    ),
    "limits": LazyCommand("bluesminds.cli.limits:limits_group", "Show and set limits of accounts and keys."),
    "ledger": LazyCommand("bluesminds.cli.ledger:ledger_group", "Manage prepaid credit."),
    "billing": LazyCommand("bluesminds.cli.billing:billing_group", "Manage plans, orders and payments."),
    "redeem-codes": LazyCommand(
        "bluesminds.cli.redeem_codes:redeem_codes_group",
        "Manage redeem codes, each of which gives credit once.",
    ),
    "usage": LazyCommand("bluesminds.cli.usage:usage_group", "Show requests, tokens and costs."),
    "logs": LazyCommand("bluesminds.cli.logs:logs", "Show what the running gateway logs."),
    "prompt-log": LazyCommand(
        "bluesminds.cli.prompt_log:prompt_log_group", "Manage the prompt log: requests and responses in full."
    ),
    "replay": LazyCommand(
        "bluesminds.cli.replay:replay", "Send a request again, and compare both responses."
    ),
    "audit": LazyCommand("bluesminds.cli.audit:audit_group", "Show and verify the audit log."),
    "mail": LazyCommand(
        "bluesminds.cli.mail:mail_group", "Preview the mails of the gateway, and test its settings."
    ),
    "master-key": LazyCommand(
        "bluesminds.cli.master_key:master_key_group", "Manage the key that encrypts secrets in the database."
    ),
    "reload": LazyCommand("bluesminds.cli.reload:reload", "Reload the configuration of the running gateway."),
    "restart": LazyCommand(
        "bluesminds.cli.restart:restart", "Restart the running gateway without refusing a connection."
    ),
    "backup": LazyCommand("bluesminds.cli.backup:backup", "Write a backup of the database to FILE."),
    "restore": LazyCommand("bluesminds.cli.backup:restore", "Restore the backup FILE."),
    "migrate": LazyCommand("bluesminds.cli.migrate:migrate", "Create the database, or upgrade its schema."),
    "rollback": LazyCommand(
        "bluesminds.cli.migrate:rollback", "Restore the database from before the last upgrade."
    ),
    "health": LazyCommand("bluesminds.cli.health:health", "Check whether the running gateway works."),
    "doctor": LazyCommand("bluesminds.cli.doctor:doctor", "Check everything that the gateway needs."),
    "support-bundle": LazyCommand(
        "bluesminds.cli.doctor:support_bundle", "Write a report for support, without secrets."
    ),
    "import": LazyCommand(
        "bluesminds.cli.imports:import_group", "Import servers and users from another gateway."
    ),
    "completion": LazyCommand("bluesminds.cli.shell:completion", "Print the completions for a shell."),
    "man-pages": LazyCommand(
        "bluesminds.cli.shell:man_pages", "Write a manual page for each command into DIRECTORY."
    ),
    "version": LazyCommand("bluesminds.cli.version:version", "Print the version."),
}
_EPILOG = (
    "Exit codes: "
    + "; ".join(f"{code} {meaning}" for code, meaning in exits.MEANINGS.items())
    + ". The first Ctrl-C or SIGTERM stops `serve` after running responses have finished, with exit code 0. "
    "The second aborts them, with exit code 130."
)


class Commands(LazyGroup):
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
@click.group(
    cls=Commands, lazy=COMMANDS, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
def cli() -> None:
    """A self-hosted AI gateway: keys, limits, routing and usage for the SDKs of OpenAI, Anthropic and Google.

    Start with `bluesminds demo`, or `bluesminds serve` with OPENAI_API_KEY set.
    """
