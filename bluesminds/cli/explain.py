"""explain."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import urlencode

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, echo_json, json_option
from bluesminds.cli.options import config_option
from bluesminds.common.routes import Need
from bluesminds.common.values import Scope

_REASONS: Final[Mapping[str, str]] = {
    "model_not_allowed": "the API key may not use this model",
    "unknown_model": "no server offers this model",
    "unknown_server": "there is no such server, or it is off",
    "draining": "the server is draining",
    "requirement": "the server does not have the required region or tags",
    "no_endpoint": "the server does not have this endpoint",
    "not_listed": "the server does not list this model, and another target does",
    "duplicate": "an earlier model has the same target",
    "other_server": "an object or response in the request is stored at another server",
    "unsupported": "the server does not support a field of the request",
    "own_key_only": "the account only uses its own vendor key",
}


@click.command("explain")
@click.option("--model", required=True, help="The model, as a client names it.")
@click.option("--key", help="The id of an API key whose restrictions apply.")
@click.option(
    "--endpoint",
    type=click.Choice(get_args(Scope)),
    default="chat.completions",
    show_default=True,
    help="The endpoint of the request.",
)
@click.option("--region", help="The region that the request requires of servers.")
@click.option("--tag", "tags", multiple=True, help="A tag that the request requires of servers. Repeatable.")
@click.option(
    "--prefer-region",
    "regions",
    multiple=True,
    help="A region that the request prefers. Repeatable: best first.",
)
@click.option(
    "--needs",
    multiple=True,
    type=click.Choice(get_args(Need)),
    help="What the request needs, for the conditions of routes. Repeatable.",
)
@click.option(
    "--prompt-tokens", type=int, help="Number of tokens in the prompt, for the conditions of routes."
)
@config_option
@json_option
def explain(
    config: Path | None,
    as_json: bool,
    tags: tuple[str, ...],
    regions: tuple[str, ...],
    needs: tuple[str, ...],
    **given: str | int | None,
) -> None:
    """Show which servers a request would get now, and why.

    The size and the fields of a real request can exclude more servers.
    """
    lists = {"tags": tags, "prefer_region": regions, "needs": needs}
    fields: dict[str, str | int | None] = {**given, **{name: ",".join(one) for name, one in lists.items()}}
    query = urlencode({name: value for name, value in fields.items() if value not in (None, "")})
    found = call(config, "GET", f"/explain?{query}")
    if as_json:
        echo_json(found)
        return
    for line in _lines(found):
        click.echo(exits.printable(line))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    number = 0
    for at, model in enumerate(found["models"]):
        route = "no route" if model["route"] is None else f"route {model['route']}"
        after = f"fallback after {', '.join(found['fallback_on'])}: " if at else ""
        yield f"{after}{model['model']} ({route}, policy {model['policy']})"
        for target in model["targets"]:
            number += 1
            notes = [f"as {target['model']}"] if target["model"] != found["model"] else []
            notes += [f"translated to {target['format']}"] if target["translated"] else []
            notes += ["unhealthy"] if target["ejected"] else []
            yield f"  {number}. {', '.join([target['server'], *notes])}"
            for key in target["api_keys"]:
                state = f", {key['reason']}, {key['seconds']:.0f} s" if key["state"] == "resting" else ""
                yield f"     key …{key['last_four']}: {key['state']}{state}"
    for one in found["dropped"]:
        name = one["model"] if one["server"] is None else f"{one['server']} for {one['model']}"
        yield f"not used: {name}: {_REASONS.get(one['reason'], one['reason'])}"
    if found["error"] is None:
        yield from _extra_lines(found)
    if (error := found["error"]) is not None:
        yield f"the client gets {error['status']} {error['code']}: {error['message']}"


def _extra_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What is sent in addition to the request."""
    if (hedge := found["hedge"]) is not None:
        bounds = f"at most {hedge['share']:.0%} of the streams and {hedge['daily_usd']} USD a day"
        server = hedge["server"] or "no server: no other target can be used"
        yield f"hedged after {hedge['after']:g} s without content: {server} ({bounds})"
    if (shadow := found["shadow"]) is not None:
        bounds = f"at most {shadow['share']:.0%} of the requests and {shadow['daily_usd']} USD a day"
        why = shadow["reason"]
        to = "no copies" if why else f"copies for its model {shadow['model']}, {bounds}"
        yield f"shadow {shadow['server']}: {to}{f': {_REASONS.get(why, why)}' if why else ''}"
