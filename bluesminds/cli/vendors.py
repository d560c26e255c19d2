"""vendors: the APIs and servers that `servers add --vendor` and `vendor` in [[servers]] know."""

from typing import Any

import click

from bluesminds.cli.api_client import json_option, show
from bluesminds.gateway.operations import SCOPES_BY_FORMAT
from bluesminds.providers.profiles import find_profile, join_path
from bluesminds.providers.vendors import VENDORS, Vendor


@click.command()
@json_option
def vendors(as_json: bool) -> None:
    """List the vendors that can be added by name.

    Add one with `bluesminds servers add --vendor NAME`. A server of another vendor needs a URL.

    streamed_usage: whether a vendor reports the usage of every stream, or only on request. --json also
    prints paths, headers, and the fields that a vendor does not support.
    """
    rows = [_row(vendor) for vendor in VENDORS.values()]
    columns = (
        "name",
        "title",
        "dialect",
        "url",
        "key_variable",
        "endpoints",
        "health",
        "streamed_usage",
        "cost",
    )
    listed = rows if as_json else [row | {"endpoints": list(row["endpoints"])} for row in rows]
    show({"object": "list", "data": listed}, as_json=as_json, columns=columns)


def _row(vendor: Vendor) -> dict[str, Any]:
    profile = find_profile(vendor.dialect, vendor.name, vendor.url, "")
    return {
        "name": vendor.name,
        "title": vendor.title,
        "dialect": vendor.dialect,
        "url": vendor.url or None,
        "key_variable": vendor.key_variable or None,
        "key_header": profile.key_header,
        "headers": {name.decode(): value.decode() for name, value in profile.extra_headers},
        "endpoints": {
            SCOPES_BY_FORMAT[name]: join_path(vendor.path, path) for name, path in profile.speaks.items()
        },
        "models": join_path(vendor.path, profile.models_path) if profile.lists_models else None,
        "health": join_path(vendor.path, profile.alive_path or profile.models_path),
        "output_bound": vendor.output_bound,
        "streamed_usage": vendor.streamed_usage,
        "cost": vendor.cost or None,
        "unsupported": {
            SCOPES_BY_FORMAT[name]: [one.name for one in fields]
            for name, fields in vendor.unsupported.items()
        },
        "detected": vendor.is_detected,
        "documentation": vendor.documentation,
    }
