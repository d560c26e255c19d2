"""Wires: one deadline per direction, and the errors of waits."""

import socket
from collections.abc import Iterator

import pytest
import trio

from bluesminds.http.deadlines import Deadlines
from bluesminds.http.wire import SocketWire, WireClosed, WireTimeout

Pair = tuple[SocketWire, socket.socket]
SIZE = 20_000_000


@pytest.fixture
def pair(nursery: trio.Nursery) -> Iterator[Pair]:
    """A swept wire and its peer."""
    mine, peer = socket.socketpair()
    mine.setblocking(False)
    peer.setblocking(False)
    wire = SocketWire(mine)
    deadlines = Deadlines()
    deadlines.add(wire)
    nursery.start_soon(deadlines.run)
    yield wire, peer
    wire.close()
    peer.close()


async def read(peer: socket.socket, size: int) -> None:
    while size:
        await trio.lowlevel.wait_readable(peer)
        size -= len(peer.recv(min(size, 1_000_000)))


async def test_wire_expired_receive_keeps_send(pair: Pair) -> None:
    wire, peer = pair
    with trio.fail_after(60):
        async with trio.open_nursery() as both:
            both.start_soon(wire.send, bytes(SIZE), trio.current_time() + 5)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(WireTimeout):
                await wire.receive(trio.current_time() + 0.1)
            await read(peer, SIZE)


async def test_wire_expired_send_keeps_receive(pair: Pair) -> None:
    wire, peer = pair
    received = []

    async def receive() -> None:
        received.append(await wire.receive(trio.current_time() + 5))

    with trio.fail_after(60):
        async with trio.open_nursery() as both:
            both.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(WireTimeout):
                await wire.send(bytes(SIZE), 0.1)
            peer.send(b"late")
    assert received == [b"late"]


async def test_wire_waiting_send_keeps_receive_deadline(pair: Pair) -> None:
    wire, peer = pair
    with trio.fail_after(60), pytest.RaisesGroup(WireTimeout):
        async with trio.open_nursery() as both:
            both.start_soon(wire.receive, trio.current_time() + 0.3)
            both.start_soon(wire.send, bytes(SIZE))
            await trio.testing.wait_all_tasks_blocked()
            await read(peer, SIZE)


async def test_wire_abort_without_waits_does_not_change_later_error(pair: Pair) -> None:
    wire, peer = pair
    wire.abort_waits()
    peer.close()
    with pytest.raises(WireClosed):
        while True:
            await wire.send(b"data")


async def test_wire_close_wakes_both_waits(pair: Pair) -> None:
    wire, _ = pair
    with trio.fail_after(60), pytest.RaisesGroup(WireClosed, WireClosed):
        async with trio.open_nursery() as both:
            both.start_soon(wire.receive)
            both.start_soon(wire.send, bytes(SIZE))
            await trio.testing.wait_all_tasks_blocked()
            wire.close()
