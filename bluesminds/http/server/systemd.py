"""systemd: readiness and watchdog notifications, and socket activation.

Formats: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3). Without systemd every call is a no-op. The
variables are removed from the environment, so that child processes do not inherit them.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping

import trio

FIRST_FD = 3


class UnusableDescriptor(Exception):
    """A descriptor passed by the service manager is not a listening stream socket."""


def inherited_sockets(environ: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    """Listening sockets passed by socket activation, by name ("unknown" without FileDescriptorName=).

    Raises UnusableDescriptor.
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, list[socket.socket]] = {}
    for index in range(int(count)):
        name = names[index] if index < len(names) and names[index] else "unknown"
        sock = listening_socket(FIRST_FD + index)
        sock.set_inheritable(False)
        found.setdefault(name, []).append(sock)
    return found


def listening_socket(descriptor: int) -> socket.socket:
    """Raises UnusableDescriptor."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as exc:
        raise UnusableDescriptor(f"the inherited descriptor {descriptor} is not a socket") from exc
    if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return sock
    sock.close()
    raise UnusableDescriptor(f"the inherited socket {descriptor} is not a listening stream socket")


def is_journal(environ: Mapping[str, str], descriptor: int) -> bool:
    """Whether `descriptor` is connected to the journal. $JOURNAL_STREAM alone does not prove it, because
    child processes inherit the variable (systemd.exec(5)).
    """
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class Notifier:
    """Sends notifications to the service manager. Failures to send are ignored."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        pid = environ.pop("WATCHDOG_PID", "")
        period = environ.pop("WATCHDOG_USEC", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        is_this_process = not pid or pid == str(os.getpid())
        self.watchdog_seconds = int(period) / 1e6 if is_this_process and period.isdecimal() else 0.0
        """The watchdog timeout of the unit; 0 without a watchdog."""

    def ready(self) -> None:
        self._notify("READY=1")

    def stopping(self) -> None:
        self._notify("STOPPING=1")

    def watchdog(self) -> None:
        self._notify("WATCHDOG=1")

    async def watch(self, healthy: Callable[[], bool]) -> None:
        """Notify twice per watchdog timeout while `healthy`; returns at once without a watchdog."""
        if not (self.watchdog_seconds and self._address):
            return
        while True:
            if healthy():
                self.watchdog()
            await trio.sleep(self.watchdog_seconds / 2)

    @property
    def is_supervised(self) -> bool:
        """Whether a service manager waits for notifications."""
        return bool(self._address)

    def _notify(self, state: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.setblocking(False)
            sock.connect(self._address)
            sock.send(state.encode())
