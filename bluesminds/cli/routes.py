"""routes list, add, set, remove."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, echo_json, json_option, show
from bluesminds.cli.options import config_option
from bluesminds.common.routes import FallbackReason, Policy, Recovery

Command = TypeVar("Command", bound=Callable[..., Any])
_TARGET_KEYS: Final = ("model", "weight", "priority", "prefill")
_TEXTS: Final = ("model", "prefill")  # of a target
_OPTIONS: Final = (
    "policy",
    "first_token_timeout",
    "chunk_timeout",
    "recovery",
    "queue_timeout",
    "queue_size",
    "hedge_after",
    "hedge_share",
    "hedge_daily_usd",
    "shadow",
    "shadow_model",
    "shadow_share",
    "shadow_daily_usd",
)
_LISTS: Final = ("tier", "key_tag", "region", "tag", "needs")
_ID: Final = re.compile(r"[0-9a-z-]{1,64}")


@click.group("routes")
def routes_group() -> None:
    """Manage routes: which servers get the requests for a model."""


def _route_options(command: Command) -> Command:
    for option in (
        click.option(
            "--when",
            "conditions",
            multiple=True,
            help="tier, key_tag, region, tag or needs=NAME,NAME, or prompt_tokens_over=N. Repeatable: all"
            " must hold. `none` removes all.",
        ),
        click.option(
            "--first-token-timeout", type=float, help="Maximum time until the first content, in seconds."
        ),
        click.option("--chunk-timeout", type=float, help="Maximum pause within a stream, in seconds."),
        click.option(
            "--recovery",
            type=click.Choice(get_args(Recovery)),
            help="What happens if a server fails during a stream.",
        ),
        click.option(
            "--queue-timeout",
            type=float,
            help="Maximum time that a request waits for servers at their caps, in seconds.",
        ),
        click.option("--queue-size", type=int, help="Maximum number of waiting requests of the route."),
        click.option(
            "--hedge-after",
            type=float,
            help="Seconds without content after which a stream is also requested from the next target.",
        ),
        click.option(
            "--hedge-share", type=float, help="Maximum share of streams that are hedged, such as 0.05."
        ),
        click.option("--hedge-daily-usd", help="Maximum estimated cost of hedged requests per day, in USD."),
        click.option("--shadow", help="A server that gets copies of requests. `none`: no server."),
        click.option("--shadow-model", help="Name of the model for copies, at the server that gets them."),
        click.option(
            "--shadow-share", type=float, help="Maximum share of requests that are copied, such as 0.05."
        ),
        click.option("--shadow-daily-usd", help="Maximum estimated cost of copies per day, in USD."),
        click.option(
            "--fallback-on",
            multiple=True,
            type=click.Choice(get_args(FallbackReason)),
            help="A failure for which a fallback model is used. Repeatable.",
        ),
        click.option(
            "--fallback",
            multiple=True,
            help="A model that replaces this one if all targets fail. Repeatable. `none`: no model.",
        ),
        click.option(
            "--prefer-region",
            "regions",
            multiple=True,
            help="A region that the policy `region` prefers. Repeatable: best first. `none`: no region.",
        ),
        click.option("--policy", type=click.Choice(get_args(Policy)), help="The order of the targets."),
        click.option(
            "--target",
            "targets",
            multiple=True,
            help="SERVER or SERVER,model=NAME,weight=N,priority=N,prefill=KIND. Repeatable. `any`: every"
            " server that offers the model.",
        ),
    ):
        command = option(command)
    return command


@routes_group.command()
@click.argument("model")
@_route_options
@config_option
@json_option
def add(model: str, config: Path | None, as_json: bool, **given: Any) -> None:  # noqa: ANN401
    """Add a route to the database.

    MODEL is a model name, or a prefix followed by *.
    """
    added = call(config, "POST", "/routes", {"model": model} | _body(given))
    if as_json:
        echo_json(added)
    else:
        click.echo(f"added the route for {exits.printable(model)}: {added['id']}")


@routes_group.command("set")
@click.argument("route")
@click.option("--model", help="New model name, or a prefix followed by *.")
@_route_options
@config_option
@json_option
def set_(route: str, model: str | None, config: Path | None, as_json: bool, **given: Any) -> None:  # noqa: ANN401
    """Change a route of the database. Only the given options change.

    ROUTE is its id, or its model.
    """
    body = _body(given) | ({} if model is None else {"model": model})
    if not body:
        raise exits.Failure("no option was given", exits.USAGE, "bluesminds routes set --help")
    changed = call(config, "PATCH", f"/routes/{_find(config, route)}", body)
    if as_json:
        echo_json(changed)
    else:
        click.echo(f"changed the route for {exits.printable(changed['model'])}")


@routes_group.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List all routes, including those of the configuration."""
    found = call(config, "GET", "/routes")
    if not as_json:
        for row in found["data"]:
            row["targets"] = None if row["targets"] is None else " ".join(map(_shown, row["targets"]))
            row["fallback"] = row["fallback"] or None
            row["when"] = None if row["when"] is None else _shown_conditions(row["when"])
    columns = ("model", "when", "targets", "policy", "fallback", "fallback_on", "origin", "id")
    show(found, as_json=as_json, columns=columns)


@routes_group.command()
@click.argument("route")
@config_option
@json_option
def remove(route: str, config: Path | None, as_json: bool) -> None:
    """Remove a route from the database.

    ROUTE is its id, or its model.
    """
    route_id = _find(config, route)
    call(config, "DELETE", f"/routes/{route_id}")
    if as_json:
        echo_json({"id": route_id, "removed": True})
    else:
        click.echo(f"removed {exits.printable(route)}")


def _find(config: Path | None, route: str) -> str:
    """The id of a route. Raises exits.Failure."""
    rows = call(config, "GET", "/routes")["data"]
    found = [row["id"] for row in rows if route in (row["id"], row["model"])]
    if not found and not _ID.fullmatch(route):
        raise exits.Failure(f"there is no route for {route!r}", exits.NOT_FOUND, "bluesminds routes list")
    if len(found) > 1:
        message = f"{exits.counted(len(found), 'route')} match {route!r}"
        raise exits.Failure(message, exits.USAGE, "give the id of one: bluesminds routes list")
    return str(found[0]) if found else route


def _body(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the API. Raises exits.Failure."""
    body: dict[str, Any] = {}
    if targets := given["targets"]:
        body["targets"] = None if targets == ("any",) else [_target(one) for one in targets]
    if conditions := given["conditions"]:
        body["when"] = None if conditions == ("none",) else _conditions(conditions)
    for name in _OPTIONS:
        if given[name] is not None:
            body[name] = given[name]
    if given["shadow"] == "none":
        body["shadow"] = None
    if given["fallback"]:
        body["fallback"] = [] if given["fallback"] == ("none",) else list(given["fallback"])
    if given["regions"]:
        body["prefer_regions"] = [] if given["regions"] == ("none",) else list(given["regions"])
    if given["fallback_on"]:
        body["fallback_on"] = list(given["fallback_on"])
    return body


def _conditions(texts: tuple[str, ...]) -> dict[str, Any]:
    """Raises exits.Failure."""
    found: dict[str, Any] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key == "prompt_tokens_over" and value.isascii() and value.isdecimal():
            found[key] = int(value)
        elif key in _LISTS and value:
            found[key] = value.split(",")
        else:
            remedy = "write it like --when tier=pro,enterprise or --when prompt_tokens_over=200000"
            raise exits.Failure(f"--when {text!r} is not a condition", exits.USAGE, remedy)
    return found


def _target(text: str) -> dict[str, Any]:
    """Raises exits.Failure."""
    server, *parts = text.split(",")
    target: dict[str, Any] = {"server": server}
    for part in parts:
        key, _, value = part.partition("=")
        number = key not in _TEXTS and re.fullmatch(r"-?[0-9]{1,9}", value)
        if key not in _TARGET_KEYS or not (number or (key in _TEXTS and value)):
            remedy = "write it like --target openai or --target azure,model=gpt-5-eu,weight=3"
            raise exits.Failure(f"--target {text!r} is not a target", exits.USAGE, remedy)
        target[key] = int(value) if number else value
    return target


def _shown(target: Mapping[str, Any]) -> str:
    """A target as --target takes it."""
    parts = [f"{key}={target[key]}" for key in _TARGET_KEYS if target[key] is not None]
    return ",".join([target["server"], *parts])


def _shown_conditions(when: Mapping[str, Any]) -> str:
    """Conditions as --when takes them."""
    parts = [f"{key}={','.join(when[key])}" for key in _LISTS if when[key]]
    if (over := when["prompt_tokens_over"]) is not None:
        parts.append(f"prompt_tokens_over={over}")
    return " ".join(parts)
