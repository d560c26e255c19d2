"""A lack of descriptors on this machine is not the upstream's fault."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from bluesminds.gateway.upstream.failures import classify_error
from bluesminds.http.client.pool import ConnectFailed, LocalResourceError, Pool, Timeouts, UpstreamOrigin
from tests.fakes.raw_upstream import always_ok, serve

TIMEOUTS = Timeouts(connect=3600, pool=3600, write=3600, first_byte=3600, between_chunks=3600)


@contextmanager
def no_free_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    spare: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                spare.append(os.dup(0))
        yield
    finally:
        for descriptor in spare:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("target", ["127.0.0.1", "localhost", "unix"])
async def test_connect_without_free_descriptors_raises_local_resource_error(
    nursery: trio.Nursery, tmp_path: Path, target: str
) -> None:
    path = str(tmp_path / "u.sock") if target == "unix" else None
    upstream = await nursery.start(lambda task_status: serve(always_ok, path=path, task_status=task_status))
    origin = UpstreamOrigin("unix", path, 0) if path else UpstreamOrigin("http", target, upstream.port)
    pool = Pool(max_connections=1)
    await nursery.start(pool.run)
    with no_free_descriptors(), pytest.raises(LocalResourceError) as caught:
        await pool.request(b"GET", origin, b"/", [], timeouts=TIMEOUTS)
    assert (caught.value.phase, caught.value.sent) == ("connect", False)
    response = await pool.request(b"GET", origin, b"/", [], timeouts=TIMEOUTS)
    assert await response.read(10) == b"ok"


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_connect_with_local_error_raises_local_resource_error(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    pool = Pool()
    await nursery.start(pool.run)

    async def fail(*_: object) -> None:
        raise OSError("all attempts failed") from ExceptionGroup("attempts", [OSError(code, "text")])

    monkeypatch.setattr(trio, "open_tcp_stream", fail)
    with pytest.raises(LocalResourceError):
        await pool.request(b"GET", UpstreamOrigin("http", "127.0.0.1", 1), b"/", [], timeouts=TIMEOUTS)


def test_failure_of_this_machine_is_503_and_blames_no_server() -> None:
    failure = classify_error(LocalResourceError("text", phase="connect", sent=False))
    assert not failure.blames_server
    assert (failure.error.status, failure.error.code) == (503, "local_resource_exhausted")
    assert failure.error.headers["retry-after"] == "1"
    assert classify_error(ConnectFailed("text", phase="connect", sent=False)).blames_server


LIMIT = """
import resource, sys
from bluesminds.http.server.sockets import raise_descriptor_limit
soft, hard, needed = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(raise_descriptor_limit(needed), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("soft", "hard", "needed", "printed"),
    [(64, 500, 100, "500 500 500"), (64, 500, 1000, "500 500 500"), (200, 500, 100, "200 200 500")],
)
def test_descriptor_limit_too_low_is_raised_to_the_hard_limit(
    soft: int, hard: int, needed: int, printed: str
) -> None:
    command = [sys.executable, "-c", LIMIT, str(soft), str(hard), str(needed)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.check_output(command, env=environ, text=True).strip() == printed
