"""What is measured: the gateway with everything on, the proxy people write, nginx, before one upstream."""

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from bench import processes
from bench.processes import BenchError
from bench.scenarios import MESSAGES_MODEL, MODEL, ROUTED_MODEL

READY_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A running subject: where it listens, the key it wants, the processes it consists of."""

    name: str
    port: int
    key: str
    pids: tuple[int, ...]


@contextlib.contextmanager
def direct(upstream_port: int, directory: Path) -> Iterator[Subject]:
    """Nothing in between: what the upstream and the client themselves take."""
    yield Subject("direct", upstream_port, "none", ())


@contextlib.contextmanager
def fastapi(upstream_port: int, directory: Path) -> Iterator[Subject]:
    port = free_port()
    process = processes.start_module(
        "uvicorn",
        *("--port", str(port), "--no-access-log", "--log-level", "warning"),
        *("--http", "httptools", "--loop", "asyncio", "bench.fastapi_proxy:app"),
        log=directory / "fastapi.log",
        environ={"UPSTREAM": f"http://127.0.0.1:{upstream_port}/v1"},
    )
    with _running("fastapi", process, port, "none") as subject:
        yield subject


_NGINX = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log;
{user}
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {directory}/client_body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_body_buffer_size 128k;
    keepalive_requests 100000000;
    upstream model {{
        server 127.0.0.1:{upstream_port};
        keepalive 256;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


def find_nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def nginx(upstream_port: int, directory: Path) -> Iterator[Subject]:
    executable = find_nginx()
    if executable is None:
        raise BenchError("nginx is not installed")
    port = free_port()
    settings = directory / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    settings.write_text(_NGINX.format(directory=directory, port=port, upstream_port=upstream_port, user=user))
    log = directory / "nginx.log"
    process = processes.start([executable, "-p", str(directory), "-c", str(settings)], log=log)
    with _running("nginx", process, port, "none") as subject:
        yield subject


_LIMITS: Final = {
    "rpm": 10**9,
    "tpm": 10**9,
    "concurrency": 10**5,
    "tokens_per_day": 10**9,
    "tokens_per_month": 10**9,
    "usd_per_day": "10000",
    "usd_per_month": "10000",
    "usd_total": "10000",
}
_GATEWAY = """\
state_dir = "{state}"

[server]
port = {port}

[storage]
durability = "strict"

[tiers.enterprise]
{limits}

[[prices]]
model = "{model}"
input_usd = "0.01"
output_usd = "0.02"

[log]
requests = true

[[servers]]
name = "mock"
dialect = "openai"
url = "http://127.0.0.1:{upstream_port}/v1"
models = ["{model}"]

[[prices]]
model = "{messages_model}"
input_usd = "0.01"
output_usd = "0.02"

[[servers]]
name = "messages"
dialect = "anthropic"
url = "http://127.0.0.1:{upstream_port}/v1"
models = ["{messages_model}"]

[[prices]]
model = "{routed_model}"
input_usd = "0.01"
output_usd = "0.02"

[[routes]]
model = "{routed_model}"
policy = "least_latency"
targets = ["first", "second", "third"]
"""
_ROUTED_SERVER = """
[[servers]]
name = "{name}"
dialect = "openai"
url = "http://127.0.0.1:{upstream_port}/v1"
models = ["{routed_model}"]
"""


@contextlib.contextmanager
def gateway(upstream_port: int, directory: Path) -> Iterator[Subject]:
    """Key authentication, every limit on key, account and tier, strict durable usage in SQLite, request log
    and metrics: all on.
    """
    port = free_port()
    settings = directory / "gateway.toml"
    settings.touch(0o600)
    values = {"upstream_port": upstream_port, "routed_model": ROUTED_MODEL}
    routed = [_ROUTED_SERVER.format(name=name, **values) for name in ("first", "second", "third")]
    settings.write_text(
        _GATEWAY.format(
            state=gateway_state(directory),
            port=port,
            model=MODEL,
            messages_model=MESSAGES_MODEL,
            limits="\n".join(f"{name} = {json.dumps(figure)}" for name, figure in _LIMITS.items()),
            **values,
        )
        + "".join(routed)
    )
    process = processes.start_module(
        "bluesminds", "serve", "-c", str(settings), log=directory / "gateway.log"
    )
    with _running("gateway", process, port, lambda: _create_key(directory)) as subject:
        yield subject
    if process.returncode != 0:
        raise BenchError(f"the gateway ended with exit code {process.returncode}")


def gateway_state(directory: Path) -> Path:
    return directory / "gateway-state"


def recorded_requests(directory: Path) -> int:
    """Usage rows the gateway left behind."""
    database = sqlite3.connect(f"file:{gateway_state(directory)}/bluesminds.db?mode=ro", uri=True)
    with contextlib.closing(database):
        (count,) = database.execute("SELECT COUNT(*) FROM usage").fetchone()
    return int(count)


def _create_key(directory: Path) -> str:
    """A key with its own limits. Its account has limits of its own and a tier."""
    socket_path = str(gateway_state(directory) / "admin.sock")
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket_path), base_url="http://local") as operator:
        account = {"email": "bench@example.com", "password": "a long enough password", "tier": "enterprise"}
        user = _answered(operator.post("/api/admin/users", json=account))["id"]
        _answered(
            operator.patch(f"/api/admin/users/{user}/limits", json={"rpm": 10**9, "usd_total": "10000"})
        )
        key = {"name": "bench", "user_id": user, "limits": _LIMITS}
        return str(_answered(operator.post("/api/admin/keys", json=key))["key"])


def _answered(answer: httpx.Response) -> Any:  # noqa: ANN401
    if not answer.is_success:
        raise BenchError(f"{answer.url.path}: {answer.text}")
    return answer.json()


@contextlib.contextmanager
def _running(
    name: str, process: subprocess.Popen[str], port: int, key: str | Callable[[], str]
) -> Iterator[Subject]:
    try:
        _await_port(process, port)
        secret = key if isinstance(key, str) else key()
        yield Subject(name, port, secret, tuple(processes.tree(process.pid)))
    finally:
        processes.stop(process)


def _await_port(process: subprocess.Popen[str], port: int) -> None:
    limit = time.monotonic() + READY_SECONDS
    while time.monotonic() < limit:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        processes.pause(process)
    raise BenchError(f"{process.args!r} did not listen within {READY_SECONDS:.0f} s")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


SUBJECTS = {"direct": direct, "gateway": gateway, "fastapi": fastapi, "nginx": nginx}
