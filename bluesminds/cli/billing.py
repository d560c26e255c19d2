"""billing plans, set-plan, delete-plan, orders, order, paid, cancel-order, payments, refund, sync."""

from pathlib import Path
from typing import get_args
from urllib.parse import quote

import click

from bluesminds.cli.api_client import call, call_paged, echo_json, json_option, show
from bluesminds.cli.exits import FAILURE
from bluesminds.cli.options import config_option
from bluesminds.config.settings import Tier


@click.group("billing")
def billing_group() -> None:
    """Manage plans, orders and payments."""


@billing_group.command()
@config_option
@json_option
def plans(config: Path | None, as_json: bool) -> None:
    """List the plans and their numbers of subscribers."""
    found = call(config, "GET", "/plans")["data"]
    if as_json:
        echo_json(found)
        return
    rows = [row["plan"] | {"subscribers": row["subscribers"]} for row in found]
    columns = ("name", "title", "tier", "price_usd", "period", "included_usd", "overage", "subscribers")
    show(rows, as_json=False, columns=columns)


@billing_group.command("set-plan")
@click.argument("name")
@click.option("--tier", required=True, type=click.Choice(get_args(Tier)), help="Tier of the accounts.")
@click.option("--title", help="Name on pages and invoices.")
@click.option("--price", "price_usd", help="USD for a period.")
@click.option("--period", type=click.Choice(("month", "year")), help="Default: month.")
@click.option("--included", "included_usd", help="USD of credit for each period.")
@click.option("--stripe-price", help="Id of the price at Stripe.")
@click.option("--creem-product", help="Id of the product at Creem.")
@click.option("--overage/--no-overage", default=True, help="Accounts may buy credit as well.")
@config_option
def set_plan(name: str, config: Path | None, **given: str | bool | None) -> None:
    """Add or change a plan that is not in the configuration."""
    body = {key: value for key, value in given.items() if value is not None}
    made = call(config, "PUT", f"/plans/{quote(name, safe='')}", body)
    click.echo(f"{made['name']} costs {made['price_usd']} USD a {made['period']}")


@billing_group.command("delete-plan")
@click.argument("name")
@config_option
def delete_plan(name: str, config: Path | None) -> None:
    """Delete a plan that has no subscriptions."""
    call(config, "DELETE", f"/plans/{quote(name, safe='')}")
    click.echo(f"deleted the plan {name}")


@billing_group.command()
@config_option
@json_option
def orders(config: Path | None, as_json: bool) -> None:
    """List open orders."""
    found = call_paged(config, "/orders")
    columns = ("id", "user_id", "provider", "plan", "amount_usd", "created_at")
    show(found, as_json=as_json, columns=columns)


@billing_group.command()
@click.argument("user")
@click.option("--plan", help="Name of a plan.")
@click.option("--amount", help="USD of credit.")
@config_option
def order(user: str, plan: str | None, amount: str | None, config: Path | None) -> None:
    """Order a plan or credit for a user.

    USER is the id of a user who pays outside of a payment provider. Prints the id of the order. Confirm the
    payment with `paid`.
    """
    given = {"user_id": user, "plan": plan, "amount_usd": amount}
    body = {name: value for name, value in given.items() if value is not None}
    click.echo(call(config, "POST", "/orders", body)["order_id"])


@billing_group.command()
@click.argument("order_id", metavar="ORDER")
@config_option
def paid(order_id: str, config: Path | None) -> None:
    """Confirm that an order was paid outside of a payment provider."""
    made = call(config, "POST", f"/orders/{order_id}/paid")
    click.echo(f"the order {order_id} is {made['state']}")


@billing_group.command("cancel-order")
@click.argument("order_id", metavar="ORDER")
@config_option
def cancel_order(order_id: str, config: Path | None) -> None:
    """Cancel an open order."""
    call(config, "DELETE", f"/orders/{order_id}")
    click.echo(f"the order {order_id} is canceled")


@billing_group.command()
@click.argument("user")
@config_option
@json_option
def payments(user: str, config: Path | None, as_json: bool) -> None:
    """List the payments of the user with the id USER."""
    found = call_paged(config, f"/users/{user}/payments")
    columns = ("id", "at", "provider", "title", "amount", "tax", "refunded", "currency", "state")
    show(found, as_json=as_json, columns=columns)


@billing_group.command()
@click.argument("payment")
@config_option
def refund(payment: str, config: Path | None) -> None:
    """Refund a payment in full. The credit bought with it is removed."""
    made = call(config, "POST", f"/payments/{payment}/refund")
    click.echo(f"refunded {made['refunded']} {made['currency']}")


@billing_group.command()
@config_option
@json_option
def sync(config: Path | None, as_json: bool) -> None:
    """Read all payments from the payment providers.

    Also reads the subscriptions.
    """
    report = call(config, "POST", "/billing/sync")
    if as_json:
        echo_json(report)
        return
    click.echo(f"{report['users']} users, {report['failed']} failed")
    if report["failed"]:
        raise click.exceptions.Exit(FAILURE)
