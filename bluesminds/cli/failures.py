"""What ends a command, as a sentence, a remedy and an exit code. An error that is not here is a fault of
ours and keeps its traceback.
"""

import errno
import os
import socket
import ssl
from pathlib import Path

import httpx

from bluesminds import main
from bluesminds.cli import exits
from bluesminds.config import Settings
from bluesminds.state import StateBusy
from storage import MigrationChanged, SchemaTooNew, StorageError

EXPECTED = (
    main.StartRefused,
    StateBusy,
    StorageError,
    httpx.HTTPError,
    OSError,
    ValueError,
    KeyboardInterrupt,
)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def only(error: BaseException) -> BaseException:
    """The one error inside nested groups; an interruption before any other; the group itself when there
    are several.
    """
    while isinstance(error, BaseExceptionGroup):
        interrupted = error.subgroup(KeyboardInterrupt)
        if interrupted is None and len(error.exceptions) != 1:
            return error
        error = (interrupted or error).exceptions[0]
    return error


def failure(exc: BaseException, settings: Settings, config: Path | None = None) -> exits.Failure:
    """`config` is the file in force. Raises `exc` again when it is none of EXPECTED."""
    match exc:
        case KeyboardInterrupt():
            return exits.Failure("interrupted", exits.INTERRUPTED)
        case main.StartRefused():
            return exits.Failure(
                str(exc), exits.CONFIG_INVALID, exc.remedy + (f" --config {config}" if config else "")
            )
        case StateBusy():
            return exits.Failure(str(exc), exits.CONFLICT, "stop it first, or choose another state_dir")
        case SchemaTooNew() | MigrationChanged():
            remedy = (
                "the snapshot taken before an upgrade is beside the database file; its name ends in .schema-N"
            )
            return exits.Failure(str(exc), exits.CONFIG_INVALID, remedy)
        case StorageError():
            return exits.Failure(str(exc), exits.UNAVAILABLE, "check storage.url and that the database runs")
        case httpx.HTTPError():
            return exits.Failure(
                f"the running gateway does not answer: {exc}",
                exits.UNAVAILABLE,
                "wait a moment, or restart it",
            )
        case ssl.SSLError():
            return exits.Failure(
                f"a certificate or key cannot be used: {exc.reason}",
                exits.CONFIG_INVALID,
                "bluesminds check names the setting",
            )
        case OSError():
            return _system_failure(exc, settings)
        case ValueError():
            return exits.Failure(
                str(exc), exits.CONFIG_INVALID, "see what is in force: bluesminds config show"
            )
    raise exc


def _system_failure(exc: OSError, settings: Settings) -> exits.Failure:
    if exc.filename is not None:
        return exits.Failure(
            f"{os.fsdecode(exc.filename)} cannot be used: {exc.strerror}",
            exits.AUTH if exc.errno in _NOT_ALLOWED else exits.UNAVAILABLE,
            "the gateway needs a directory of its own that it may write to: state_dir",
        )
    server = settings.server
    message = f"cannot listen on {server.host}:{server.port}: {exc.strerror or exc}"
    if isinstance(exc, socket.gaierror) or exc.errno == errno.EADDRNOTAVAIL:
        return exits.Failure(
            message, exits.CONFIG_INVALID, 'host must be an address of this machine: --host "127.0.0.1"'
        )
    if exc.errno == errno.EADDRINUSE:
        return exits.Failure(
            message, exits.CONFLICT, "choose another port with --port, or stop what listens there"
        )
    if exc.errno in _NOT_ALLOWED:
        return exits.Failure(message, exits.AUTH, "choose a port above 1023 with --port")
    return exits.Failure(message, exits.UNAVAILABLE, "")
