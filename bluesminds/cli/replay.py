"""replay."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, echo_json, json_option, show
from bluesminds.cli.options import config_option
from bluesminds.cli.prompt_log import request_path

_FIGURES: Final = (
    *("id", "at", "model", "server", "status", "outcome", "input_tokens", "output_tokens"),
    *("first_byte_ms", "duration_ms", "cost_usd"),
)
_SIDES: Final = ("original", "replay")


@click.command("replay")
@click.argument("request_id", metavar="ID")
@click.option("--model", help="Use another model.")
@config_option
@json_option
def replay(request_id: str, model: str | None, config: Path | None, as_json: bool) -> None:
    """Send a request again, and compare both responses.

    ID is the id of a request in the prompt log. It is sent with its API key, and charged to its account.
    This needs `administrators` in [prompt_log]. The audit log records it.
    """
    body = {} if model is None else {"model": model}
    found = call(config, "POST", f"/requests/{request_path(request_id)}/replay", body, seconds=None)
    if as_json:
        echo_json(found)
        return
    rows = [{"figure": name} | {side: found[side][name] for side in _SIDES} for name in _FIGURES]
    show({"data": rows}, as_json=False, columns=("figure", *_SIDES))
    for line in _answers(found):
        click.echo(exits.printable(line))
    for note in _notes(found):
        click.echo(exits.printable(note), err=True)


def _answers(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines stay lines."""
    for side in _SIDES:
        answer = found[side]["answer"] or found[side]["response"] or "(no text)"
        yield ""
        yield f"Response of the {side}:"
        yield from answer.split("\n")


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    error = found["error"]
    if error is not None:
        yield f"The replay failed with {error['status']} {error['code']}: {error['message']}"
    if found["redacted"]:
        yield f"{found['redacted']} places of the request were replaced by patterns when it was stored."
    for side in _SIDES:
        if found[side]["cut"]:
            yield f"The response of the {side} is not complete: it is longer than max_bytes in [prompt_log]."
