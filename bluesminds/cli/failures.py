"""Runs the asynchronous part of a command, and converts its errors to a message, a remedy and an exit code.
Every other error is a bug and keeps its traceback.

Each expected error has its own type, raised where the cause is known: an OSError or a ValueError does not say
what was being done.
"""

import errno
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import httpx
import trio

from bluesminds.app.database import storage_remedy
from bluesminds.app.errors import (
    BackupFailed,
    BackupMissing,
    BadCertificate,
    BadDatabaseURL,
    CannotListen,
    DatabaseExists,
    NoDatabase,
    StartRefused,
)
from bluesminds.app.state_dir import BadState, StateBusy
from bluesminds.cli import exits
from bluesminds.cli.hints import command, demo_command
from bluesminds.cli.options import InvalidConfig
from bluesminds.config import ConfigError, Loaded
from bluesminds.gateway.limits.lease import LeaseHeld
from bluesminds.http.server.systemd import UnusableDescriptor
from storage import MigrationChanged, SchemaTooNew, StorageError
from storage.base import DatabaseInUse, SnapshotMissing, WouldLoseRows

EXPECTED = (
    ConfigError,
    NoDatabase,
    StartRefused,
    StateBusy,
    LeaseHeld,
    BadState,
    BadDatabaseURL,
    BackupFailed,
    StorageError,
    CannotListen,
    BadCertificate,
    UnusableDescriptor,
    httpx.HTTPError,
    KeyboardInterrupt,
)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def run(loaded: Loaded, work: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """What the work returns. Raises exits.Failure for the errors in EXPECTED.

    Ctrl-C is raised in the main task only, which waits for the work. This cancels the work, which then closes
    its resources. If it were raised inside the database driver, threads would remain.
    """
    results: list[T] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    async def child() -> None:
        results.append(await work(*args))

    try:
        trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)
    except (BaseExceptionGroup, *EXPECTED) as exc:
        error = unwrap(exc)
    else:
        return results[0]
    raise failure(error, loaded)


def unwrap(error: BaseException) -> BaseException:
    """The only error inside nested groups; KeyboardInterrupt has priority; the group if there are several."""
    while isinstance(error, BaseExceptionGroup):
        interrupted = error.subgroup(KeyboardInterrupt)
        if interrupted is None and len(error.exceptions) != 1:
            return error
        error = (interrupted or error).exceptions[0]
    return error


def failure(exc: BaseException, loaded: Loaded) -> exits.Failure:
    """Raises `exc` again if it is not in EXPECTED."""
    match exc:
        case KeyboardInterrupt():
            return exits.Failure("interrupted", exits.INTERRUPTED)
        case ConfigError():
            return InvalidConfig(exc)
        case NoDatabase():
            remedy = "select the configuration of the gateway with --config, or start one: bluesminds serve"
            if demo := demo_command(loaded):
                remedy = f"for the data of `bluesminds demo`: {demo}"
            return exits.Failure(str(exc), exits.NOT_FOUND, remedy)
        case StartRefused():
            remedy = command("users create --role admin --email you@example.com", loaded)
            return exits.Failure(str(exc), exits.CONFIG_INVALID, remedy)
        case StateBusy():
            remedy = "if it is starting, try again in a moment; otherwise stop it or use another state_dir"
            return exits.Failure(str(exc), exits.CONFLICT, remedy)
        case BadState():
            return exits.Failure(str(exc), _state_code(exc.__cause__), exc.remedy)
        case DatabaseExists():
            return exits.Failure(str(exc), exits.CONFLICT, exc.remedy)
        case BackupMissing():
            return exits.Failure(str(exc), exits.NOT_FOUND, "name the file that `bluesminds backup` wrote")
        case BackupFailed():
            return exits.Failure(str(exc), exits.FAILURE, exc.remedy)
        case BadDatabaseURL():
            remedy = "write sqlite:///absolute/path.db or postgresql://user:password@host/name"
            return exits.Failure(str(exc), exits.CONFIG_INVALID, remedy)
        case SchemaTooNew() | MigrationChanged():
            return exits.Failure(str(exc), exits.CONFIG_INVALID, storage_remedy(exc))
        case DatabaseInUse():
            return exits.Failure(str(exc), exits.CONFLICT)
        case SnapshotMissing():
            remedy = "restore a backup: bluesminds restore FILE"
            return exits.Failure(str(exc), exits.NOT_FOUND, remedy)
        case WouldLoseRows():
            return exits.Failure(str(exc), exits.CONFLICT, "make a backup, then use --discard")
        case StorageError():
            return exits.Failure(str(exc), exits.UNAVAILABLE, storage_remedy(exc))
        case CannotListen():
            return _cannot_listen(exc)
        case LeaseHeld():
            remedy = "check storage.url of the other gateways"
            return exits.Failure(str(exc), exits.CONFLICT, remedy)
        case BadCertificate():
            return exits.Failure(str(exc), exits.CONFIG_INVALID, "for details: bluesminds check")
        case UnusableDescriptor():
            remedy = "the .socket unit needs ListenStream= and Accept=no"
            return exits.Failure(str(exc), exits.CONFIG_INVALID, remedy)
        case httpx.TimeoutException():
            remedy = "check its log; the command may have taken effect"
            return exits.Failure("the running gateway did not respond in time", exits.UNAVAILABLE, remedy)
        case httpx.HTTPError():
            remedy = "try again in a moment; the command may have taken effect"
            return exits.Failure("the running gateway stopped before it responded", exits.UNAVAILABLE, remedy)
    raise exc


def _state_code(cause: BaseException | None) -> int:
    if not isinstance(cause, OSError):
        return exits.CONFIG_INVALID
    return exits.AUTH if cause.errno in _NOT_ALLOWED else exits.UNAVAILABLE


def _cannot_listen(exc: CannotListen) -> exits.Failure:
    message, cause = str(exc), exc.cause
    if isinstance(cause, socket.gaierror) or cause.errno == errno.EADDRNOTAVAIL:
        return exits.Failure(
            message, exits.CONFIG_INVALID, 'host must be an address of this machine: --host "127.0.0.1"'
        )
    if cause.errno == errno.EADDRINUSE:
        return exits.Failure(
            message,
            exits.CONFLICT,
            'use another port: --port 3001, or with make: make run ARGS="--port 3001"',
        )
    if cause.errno == errno.EEXIST:
        return exits.Failure(message, exits.CONFLICT, "move or delete the existing file")
    if cause.errno in _NOT_ALLOWED:
        return exits.Failure(message, exits.AUTH, "use a port above 1023 (--port)")
    return exits.Failure(message, exits.UNAVAILABLE, "")
