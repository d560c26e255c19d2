"""version: the version of the gateway and of security-relevant libraries."""

import json
import platform
import sqlite3
import ssl

import click

from bluesminds import __version__


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(as_json: bool) -> None:
    """Print the version."""
    parts = version_parts()
    if as_json:
        click.echo(json.dumps(parts, indent=2))
    else:
        click.echo(f"bluesminds {__version__}")
        for name in ("python", "sqlite", "openssl"):
            click.echo(f"{name} {parts[name]}", err=True)


def version_parts() -> dict[str, str]:
    return {
        "version": __version__,
        "system": platform.system().lower(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "openssl": ssl.OPENSSL_VERSION,
    }
