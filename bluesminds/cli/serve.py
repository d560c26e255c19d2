"""serve and demo: run the gateway until a signal stops it, or replaces it by the program on disk."""

import dataclasses
import gc
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from socket import socket
from typing import Any, Final

import click
import msgspec
import trio

from bluesminds.accounts.audit import OPERATOR
from bluesminds.app import serve as app
from bluesminds.app.program import kept_sockets, program, replace_process
from bluesminds.cli import banner, exits
from bluesminds.cli.failures import run
from bluesminds.cli.hints import DEMO_DIR
from bluesminds.cli.options import config_option, load_settings
from bluesminds.common.clock import SystemClock
from bluesminds.common.log import LibraryLog, LineWriter, Log
from bluesminds.config import Loaded, ServerSettings, SettingOrigin, Settings, find_file, load
from bluesminds.http.server import systemd

CHECK_SECONDS: Final = 60.0


def listen_options(command: Any) -> Any:  # noqa: ANN401 - a click decorator
    command = click.option("--host", help="Address to listen on.")(command)
    return click.option(
        "--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 selects a free port."
    )(command)


@click.command()
@config_option
@listen_options
def serve(config: Path | None, host: str | None, port: int | None) -> None:
    """Run the gateway.

    Without a configuration file it listens on 127.0.0.1:3000, stores its data in your state directory, and
    uses the API keys of known vendors in the environment, such as OPENAI_API_KEY, and a local Ollama.
    """
    flags = {"server.host": host, "server.port": port}
    _run(load_settings(config, flags), lambda: _read(config, flags).settings)


@click.command()
@config_option
@listen_options
def demo(config: Path | None, host: str | None, port: int | None) -> None:
    """Run the gateway with a built-in demo server.

    No model server is needed. Try the model "demo/echo". Every start prints an API key that expires after a
    day. The data is separate from that of `serve`, unless the configuration sets state_dir.
    """
    flags = {"server.host": host, "server.port": port}
    loaded = _for_demo(load_settings(config, flags))
    _run(loaded, lambda: _for_demo(_read(config, flags)).settings, guest_key=True)


def _read(config: Path | None, flags: Mapping[str, object]) -> Loaded:
    """Raises ConfigError."""
    environ = dict(os.environ)
    return load(config or find_file(environ), environ, flags)


def _for_demo(loaded: Loaded) -> Loaded:
    loaded = _with_demo_dir(loaded)
    settings = loaded.settings
    if not any(server.dialect == "demo" for server in settings.servers):
        demo_server = ServerSettings(name="demo", dialect="demo", passthrough=True)
        settings = msgspec.structs.replace(settings, servers=(*settings.servers, demo_server))
    return dataclasses.replace(loaded, settings=settings)


def _with_demo_dir(loaded: Loaded) -> Loaded:
    if loaded.origins["state_dir"].kind != "default":
        return loaded
    settings = msgspec.structs.replace(loaded.settings, state_dir=loaded.settings.state_dir / DEMO_DIR)
    origins = {**loaded.origins, "state_dir": SettingOrigin("flag")}
    return dataclasses.replace(loaded, settings=settings, origins=origins)


def _run(loaded: Loaded, reread: Callable[[], Settings], *, guest_key: bool = False) -> None:
    settings = loaded.settings
    as_json = settings.log.format == "json" or (settings.log.format == "auto" and not sys.stderr.isatty())
    with LineWriter() as write:
        log = Log(SystemClock(), level=settings.log.level, json=as_json, write=write)
        logging.getLogger().addHandler(LibraryLog(log))
        kept: list[socket] = []
        code = run(loaded, _supervise, loaded, reread, log, guest_key, kept)
    if kept and code == exits.OK:
        _replace(kept)
    sys.exit(code)


def _replace(kept: list[socket]) -> None:
    try:
        replace_process(kept, sys.argv[1:])
    except OSError as exc:
        message = f"the program cannot be started again: {exc.strerror}"
        raise exits.Failure(message, remedy="start the gateway") from None


@dataclasses.dataclass
class _ShutdownState:
    """The state of the shutdown. The second signal, or one during the start, cancels `everything`.

    `kept` gets copies of the listening sockets if the process is to be replaced after the shutdown.
    """

    everything: trio.CancelScope
    shutdown: trio.Event
    kept: list[socket]
    running: app.Running | None = None
    interrupted: bool = False
    is_checking: bool = False
    started: trio.Event = dataclasses.field(default_factory=trio.Event)

    def end(self) -> None:
        self.interrupted = self.shutdown.is_set()
        if self.interrupted or self.running is None:
            self.everything.cancel()
        self.shutdown.set()

    def forget_sockets(self) -> None:
        for sock in self.kept:
            sock.close()
        self.kept.clear()


async def _supervise(
    loaded: Loaded, reread: Callable[[], Settings], log: Log, guest_key: bool, kept: list[socket]
) -> int:
    """Run the gateway; the first signal drains it, the second stops it immediately."""
    inherited = [sock for socks in systemd.inherited_sockets(os.environ).values() for sock in socks]
    inherited += kept_sockets(os.environ)
    notifier = systemd.Notifier(os.environ)
    with trio.open_signal_receiver(*_signals()) as signals:
        async with trio.open_nursery() as nursery:
            life = _ShutdownState(nursery.cancel_scope, trio.Event(), kept)
            nursery.start_soon(_handle_signals, signals, life, notifier, loaded, log, nursery)
            running: app.Running = await nursery.start(
                _serve, loaded, reread, log, life, inherited, guest_key
            )
            life.running = running
            life.started.set()
            _freeze_loaded_objects()
            notifier.ready()
            nursery.start_soon(notifier.watch, running.healthy)
            journal = systemd.is_journal(os.environ, sys.stderr.fileno())
            # What is not a terminal may be stored; the demo's secrets expire soon.
            in_files = journal or not (guest_key or sys.stderr.isatty())
            banner.show(running, loaded, journal=journal, secrets_in_files=in_files)
    log.info("stopped")
    return exits.INTERRUPTED if life.interrupted else exits.OK


def _freeze_loaded_objects() -> None:
    """Exclude loaded modules and settings from garbage collection: a full collection blocks for 50 ms."""
    gc.collect()
    gc.freeze()


def _signals() -> list[signal.Signals]:
    """Not SIGHUP under nohup with a terminal: the gateway continues when the terminal closes."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and _closes_with_terminal()
    return [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, *([] if ignored else [signal.SIGHUP])]


def _closes_with_terminal() -> bool:
    """Whether SIGHUP means that the terminal has been closed. Otherwise it means a reload."""
    return sys.stderr.isatty()


async def _handle_signals(
    signals: AsyncIterator[int],
    life: _ShutdownState,
    notifier: systemd.Notifier,
    loaded: Loaded,
    log: Log,
    tasks: trio.Nursery,
) -> None:
    async for number in signals:
        if number == signal.SIGUSR2:
            tasks.start_soon(_restart, life, notifier, loaded.path, log)
            continue
        if number == signal.SIGHUP and not _closes_with_terminal():
            if life.running is not None:
                tasks.start_soon(life.running.reload, OPERATOR)
            continue
        if life.kept:  # a restart has begun, and becomes a stop
            life.forget_sockets()
            continue
        notifier.stopping()
        if life.running is not None and not life.shutdown.is_set():
            count = life.running.running_requests()
            log.info("stopping", running=count)
            if sys.stderr.isatty():
                click.echo(_stopping_text(count, loaded.settings.server.drain_timeout), err=True)
        life.end()


async def _restart(life: _ShutdownState, notifier: systemd.Notifier, config: Path | None, log: Log) -> None:
    """Shut down and keep the listening sockets, if the program on disk accepts the configuration."""
    if life.shutdown.is_set() or life.is_checking:
        return
    life.is_checking = True
    await life.started.wait()
    if notifier.is_supervised:
        reason = "the service manager starts and stops this process; use systemctl restart"
    else:
        reason = await _why_not_startable(config)
    life.is_checking = False
    if reason:
        log.error("restart_refused", reason=reason)
    elif life.running is not None and not life.shutdown.is_set():
        life.kept += [sock.dup() for sock in life.running.sockets]
        log.info("restarting", running=life.running.running_requests())
        life.end()


async def _why_not_startable(config: Path | None) -> str:
    """What `bluesminds check` of the program on disk reports, or ""."""
    command = [*program(), "check", *(() if config is None else ("--config", str(config)))]
    try:
        with trio.fail_after(CHECK_SECONDS):
            done = await trio.run_process(
                command, check=False, stdout=subprocess.DEVNULL, capture_stderr=True
            )
    except OSError as exc:
        return f"{command[0]} cannot be run: {exc.strerror}"
    except trio.TooSlowError:
        return f"`bluesminds check` has not finished within {CHECK_SECONDS:g} s"
    return "" if done.returncode == 0 else done.stderr.decode(errors="replace").strip()


def _stopping_text(count: int, seconds: float) -> str:
    if not count:
        return "Stopping."
    running = f"{exits.counted(count, 'response')} {'is' if count == 1 else 'are'} still running"
    return f"Stopping. {running} (at most {seconds:g} s). Press Ctrl-C again to stop now."


async def _serve(
    loaded: Loaded,
    reread: Callable[[], Settings],
    log: Log,
    life: _ShutdownState,
    inherited: list[socket],
    guest_key: bool,
    *,
    task_status: trio.TaskStatus[app.Running],
) -> None:
    await app.serve(
        loaded.settings,
        clock=SystemClock(),
        log=log,
        environ=dict(os.environ),
        shutdown=life.shutdown,
        reread=reread,
        config_path=loaded.path,
        origins=loaded.origins,
        inherited=inherited,
        guest_key=guest_key,
        task_status=task_status,
    )
    life.everything.cancel()
