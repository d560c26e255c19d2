"""doctor and support-bundle."""

import io
import json
import os
import platform
import sys
import tarfile
from pathlib import Path
from typing import Any

import click
import httpx
import msgspec

from bluesminds.app.doctor import UNREACHABLE, Diagnosis, diagnose
from bluesminds.app.errors import NoDatabase
from bluesminds.app.operator import operator_client
from bluesminds.cli import exits
from bluesminds.cli.api_client import echo_json, json_option, operator_settings
from bluesminds.cli.config import settings_json
from bluesminds.cli.failures import run
from bluesminds.cli.options import config_option
from bluesminds.cli.version import version_parts
from bluesminds.common.clock import SystemClock
from bluesminds.common.log import Log
from bluesminds.config import Loaded, Settings

_FILE = click.Path(path_type=Path, dir_okay=False)
offline_option = click.option(
    "--offline", is_flag=True, help="Send nothing to the servers and the mail server."
)


@click.command()
@offline_option
@config_option
@json_option
def doctor(offline: bool, config: Path | None, as_json: bool) -> None:
    """Check everything that the gateway needs.

    Each check is one line, and the way to fix a problem is in the line below. Every server gets a small
    request, for which its vendor may charge. The exit code is 1 if a check failed.
    """
    loaded = operator_settings(config)
    found = run(loaded, _diagnose, loaded, offline)
    failed = sum(one.verdict == "failed" for one in found)
    if as_json:
        echo_json({"ok": not failed, "checks": msgspec.to_builtins(found)})
    else:
        width = max(len(one.name) for one in found)
        for one in found:
            click.echo(exits.printable(f"{one.verdict:<8} {one.name:<{width}}  {one.message}"))
            if one.fix:
                click.echo(exits.printable(f"{'':<8} {'':<{width}}  fix: {one.fix}"))
    if failed:
        raise exits.Failure(f"{exits.counted(failed, 'check')} failed", exits.FAILURE)


@click.command("support-bundle")
@click.argument("file", type=_FILE, default="bluesminds-support.tar.gz")
@offline_option
@config_option
def support_bundle(file: Path, offline: bool, config: Path | None) -> None:
    """Write a report for support, without secrets.

    The archive contains the checks of `doctor`, the versions, the machine, the settings with masked secrets,
    and the metrics and the state of a running gateway. It contains no prompts, keys and accounts, but names
    of servers and models: read it before you share it.
    """
    loaded = operator_settings(config)
    parts = run(loaded, _collect, loaded, offline)
    content = _pack(parts)
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise exits.Failure(f"{file} exists already", exits.CONFLICT, "choose another name") from None
    except OSError as exc:
        raise exits.Failure(f"cannot write {file}: {exc.strerror}", exits.UNAVAILABLE) from None
    with os.fdopen(descriptor, "wb") as target:
        target.write(content)
    click.echo(f"wrote {file}: {', '.join(parts)}")


async def _diagnose(loaded: Loaded, offline: bool) -> list[Diagnosis]:
    clock = SystemClock()
    return await diagnose(loaded, offline=offline, clock=clock, log=Log(clock, level="error", json=False))


async def _collect(loaded: Loaded, offline: bool) -> dict[str, bytes]:
    """The content of each file."""
    found = await _diagnose(loaded, offline)
    parts = {
        "doctor.json": _json(msgspec.to_builtins(found)),
        "version.json": _json(version_parts()),
        "machine.json": _json(_machine()),
        "settings.json": _json(settings_json(loaded)),
        "variables.json": _json(sorted(name for name in os.environ if name.startswith("BLUESMINDS"))),
    }
    try:
        parts |= await _running_state(loaded.settings)
    except* (NoDatabase, *UNREACHABLE) as group:
        parts["gateway.txt"] = f"{group.exceptions[0]}\n".encode()
    return parts


async def _running_state(settings: Settings) -> dict[str, bytes]:
    clock = SystemClock()
    parts = {}
    async with operator_client(settings, clock=clock, log=Log(clock, level="error", json=False)) as client:
        for name, path in (
            ("ready.json", "/ready"),
            ("metrics.txt", "/metrics"),
            ("monitor.json", "/admin/monitor"),
            ("health.json", "/api/admin/health"),
        ):
            answer: httpx.Response = await client.get(path)
            if answer.status_code in (200, 503):
                parts[name] = answer.content
    return parts


def _machine() -> dict[str, object]:
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "executable": bool(getattr(sys, "frozen", False)),
    }


def _json(value: Any) -> bytes:  # noqa: ANN401
    return json.dumps(value, indent=2).encode() + b"\n"


def _pack(parts: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in parts.items():
            info = tarfile.TarInfo(f"bluesminds-support/{name}")
            info.size, info.mode = len(content), 0o600
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
