"""serve and demo: run the gateway until it is told to stop."""

import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click
import msgspec
import trio

from bluesminds import main
from bluesminds.cli import banner, exits
from bluesminds.cli.options import config_option, load_settings
from bluesminds.clock import SystemClock
from bluesminds.config import ServerSettings, Settings
from bluesminds.http import systemd
from bluesminds.log import LibraryLog, Log
from bluesminds.state import StateBusy
from storage import StorageError


def listen_options(command: Any) -> Any:  # noqa: ANN401 - click's decorators take and give commands
    command = click.option("--host", help="Address to listen on.")(command)
    return click.option(
        "--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one."
    )(command)


@click.command()
@config_option
@listen_options
def serve(config: Path | None, host: str | None, port: int | None) -> None:
    """Run the gateway.

    Without a configuration file it listens on 127.0.0.1:3000, keeps its data in your state directory, and
    uses OPENAI_API_KEY, ANTHROPIC_API_KEY, OPENROUTER_API_KEY or a running Ollama if there is one.
    """
    loaded = load_settings(config, {"server.host": host, "server.port": port})
    _run(loaded.settings, loaded.path)


@click.command()
@config_option
@listen_options
def demo(config: Path | None, host: str | None, port: int | None) -> None:
    """Run the gateway with the built-in demo server: no vendor, no key, the same gateway."""
    loaded = load_settings(config, {"server.host": host, "server.port": port})
    settings = loaded.settings
    if not any(server.dialect == "demo" for server in settings.servers):
        demo_server = ServerSettings(name="demo", dialect="demo")
        settings = msgspec.structs.replace(settings, servers=(*settings.servers, demo_server))
    _run(settings, loaded.path)


def _run(settings: Settings, path: Path | None) -> None:
    as_json = settings.log.format == "json" or (settings.log.format == "auto" and not sys.stderr.isatty())
    log = Log(SystemClock(), level=settings.log.level, json=as_json)
    logging.getLogger().addHandler(LibraryLog(log))
    try:
        code = trio.run(_supervise, settings, path, log, strict_exception_groups=True)
    except BaseExceptionGroup as group:
        raise _failure(_only(group)) from None
    except (main.StartRefused, StateBusy, StorageError, OSError, ValueError) as exc:
        raise _failure(exc) from None
    sys.exit(code)


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error inside nested groups; the group itself when there are several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _failure(exc: BaseException) -> exits.Failure:
    match exc:
        case main.StartRefused():
            return exits.Failure(str(exc), exits.CONFIG_INVALID, exc.remedy)
        case StateBusy():
            return exits.Failure(str(exc), exits.CONFLICT, "stop it first, or choose another state_dir")
        case StorageError():
            return exits.Failure(str(exc), exits.UNAVAILABLE, "check storage.url and that the database runs")
        case ssl.SSLError():
            return exits.Failure(
                f"the TLS certificate or key cannot be used: {exc.reason}", exits.CONFIG_INVALID
            )
        case OSError():
            return exits.Failure(
                f"{exc.strerror or exc} {exc.filename or ''}".strip(), exits.UNAVAILABLE, _remedy(exc)
            )
        case ValueError():
            return exits.Failure(str(exc), exits.CONFIG_INVALID)
    raise exc


def _remedy(exc: OSError) -> str:
    return "choose another port with --port, or stop what listens there" if exc.errno == 98 else ""


async def _supervise(settings: Settings, path: Path | None, log: Log) -> int:
    """Run the gateway; the first signal drains it, the second ends it at once."""
    inherited = [sock for socks in systemd.inherited_sockets(os.environ).values() for sock in socks]
    notifier = systemd.Notifier(os.environ)
    shutdown, interrupted = trio.Event(), trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, shutdown, interrupted, notifier, nursery.cancel_scope)
            running: main.Running = await nursery.start(
                _serve, settings, log, shutdown, inherited, nursery.cancel_scope
            )
            notifier.ready()
            nursery.start_soon(notifier.watch, lambda: True)
            banner.show(running, settings, path)
    return exits.INTERRUPTED if interrupted.is_set() else exits.OK


async def _obey(
    signals: AsyncIterator[int],
    shutdown: trio.Event,
    interrupted: trio.Event,
    notifier: systemd.Notifier,
    everything: trio.CancelScope,
) -> None:
    async for _ in signals:
        if shutdown.is_set():
            interrupted.set()
            everything.cancel()
        notifier.stopping()
        shutdown.set()


async def _serve(
    settings: Settings,
    log: Log,
    shutdown: trio.Event,
    inherited: list[socket.socket],
    everything: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[main.Running],
) -> None:
    await main.serve(
        settings,
        clock=SystemClock(),
        log=log,
        environ=dict(os.environ),
        shutdown=shutdown,
        inherited=inherited,
        task_status=task_status,
    )
    everything.cancel()
