"""The program of this process: to run it again, or to replace this process by it.

A replaced process keeps its id and its listening sockets, so that no client is refused while the gateway
restarts. The sockets are passed as inherited descriptors, which a variable names.
"""

import os
import signal
import sys
from collections.abc import Iterable, MutableMapping, Sequence
from socket import socket
from typing import Final, NoReturn

from bluesminds.http.server.systemd import listening_socket

SOCKETS: Final = "BLUESMINDS_SOCKETS"
# Set, the one-file executable unpacks itself again instead of using the directory of the earlier process.
_UNPACK: Final = "PYINSTALLER_RESET_ENVIRONMENT"


def program() -> list[str]:
    """The start of a command line that runs this program."""
    return [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "bluesminds"]


def replace_process(sockets: Iterable[socket], arguments: Sequence[str]) -> NoReturn:
    """Run the program that is on disk now in this process. Raises OSError if it cannot be run."""
    for sock in sockets:
        sock.set_inheritable(True)
    names = ",".join(str(sock.fileno()) for sock in sockets)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # until the new program handles it
    command = [*program(), *arguments]
    os.execve(command[0], command, os.environ | {SOCKETS: names, _UNPACK: "1"})  # noqa: S606 - no shell


def kept_sockets(environ: MutableMapping[str, str]) -> list[socket]:
    """The sockets that `replace_process` has kept. Raises UnusableDescriptor."""
    environ.pop(_UNPACK, None)
    found = [listening_socket(int(name)) for name in environ.pop(SOCKETS, "").split(",") if name.isdecimal()]
    for sock in found:
        sock.set_inheritable(False)
    return found
