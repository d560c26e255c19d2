"""systemd, over a real datagram socket and with inherited descriptors."""

import os
import pathlib
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from bluesminds.http.server.systemd import Notifier, inherited_sockets, is_journal


@pytest.fixture
def manager(tmp_path: pathlib.Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(60)
        yield sock


def test_notifier_state_is_one_datagram(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.ready()
    assert manager.recv(1000) == b"READY=1"
    notifier.stopping()
    assert manager.recv(1000) == b"STOPPING=1"


def test_notifier_abstract_address_is_used() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0bluesminds-test-{os.getpid()}")
        sock.settimeout(60)
        Notifier({"NOTIFY_SOCKET": f"@bluesminds-test-{os.getpid()}"}).ready()
        assert sock.recv(1000) == b"READY=1"


def test_notifier_without_manager_does_nothing(tmp_path: pathlib.Path) -> None:
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "absent")}).ready()


async def test_watchdog_is_notified_only_while_healthy(
    manager: socket.socket, mock_clock: trio.testing.MockClock
) -> None:
    environ = {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "100000",
        "WATCHDOG_PID": str(os.getpid()),
        "OTHER": "kept",
    }
    notifier = Notifier(environ)
    assert environ == {"OTHER": "kept"}
    healthy = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.watch, lambda: healthy)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            assert manager.recv(100) == b"WATCHDOG=1"
            mock_clock.jump(0.05)
        await trio.testing.wait_all_tasks_blocked()
        assert manager.recv(100) == b"WATCHDOG=1"
        healthy = False
        mock_clock.jump(0.05)
        await trio.testing.wait_all_tasks_blocked()
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)
        nursery.cancel_scope.cancel()


async def test_watchdog_of_other_process_is_ignored(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    with trio.fail_after(60):
        await Notifier(environ).watch(lambda: True)


ACTIVATED = textwrap.dedent("""
    import os, signal, sys, trio
    from bluesminds.http.server.serve import ListenerLimits, ListenerStats, serve
    from bluesminds.http.server.systemd import inherited_sockets

    os.environ["LISTEN_PID"] = str(os.getpid())
    found = inherited_sockets(os.environ)
    assert not any(name.startswith("LISTEN_") for name in os.environ)
    assert not any(sock.get_inheritable() for group in found.values() for sock in group)

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        body = ",".join(f"{name}:{len(group)}" for name, group in found.items()).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        shutdown.set()

    async def main():
        global shutdown
        shutdown = trio.Event()
        sockets = [sock for group in found.values() for sock in group]
        await serve(app, sockets, ListenerLimits(), on_error=print, shutdown=shutdown, stats=ListenerStats())

    trio.run(main)
""")


@pytest.mark.process
def test_inherited_sockets_are_served() -> None:
    first, second = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    script = f"""import os
os.dup2({first.fileno()}, 103); os.dup2({second.fileno()}, 104)
os.dup2(103, 3); os.dup2(104, 4)
{ACTIVATED}"""
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LISTEN_FDS": "2",
        "LISTEN_FDNAMES": "api:admin",
    }
    with first, second:
        child = subprocess.Popen(
            [sys.executable, "-c", script], env=environ, pass_fds=(first.fileno(), second.fileno())
        )
        with socket.create_connection(second.getsockname()) as client:
            client.settimeout(60)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while piece := client.recv(1000):
                answer += piece
    assert answer.endswith(b"api:1,admin:1")
    assert child.wait(60) == 0


def test_inherited_sockets_of_other_process_are_ignored() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "2"}
    assert inherited_sockets(environ) == {}
    assert environ == {}
    assert inherited_sockets({}) == {}


def test_is_journal_is_true_for_the_journal_stream_only(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "journal").open("w") as journal, (tmp_path / "other").open("w") as other:
        found = os.fstat(journal.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(environ, journal.fileno())
        assert not is_journal(environ, other.fileno()), "a child inherits the variable, not the stream"
        assert not is_journal({}, journal.fileno())
        closed = os.dup(journal.fileno())
        os.close(closed)
        assert not is_journal(environ, closed)
