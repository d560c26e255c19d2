"""The gateway in a network namespace without a route: it starts, answers, and fetches nothing. The executable
too, if it is built.
"""

import fcntl
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.gateways import ASK
from tests.terminal import COMMAND, ROOT, SECONDS, demo_user

pytestmark = pytest.mark.process
_UP, _SET_FLAGS = 0x1, 0x8914  # IFF_UP and SIOCSIFFLAGS of Linux
_NAMESPACE = ("unshare", "--map-root-user", "--net")
EXECUTABLE = ROOT / "dist" / "bluesminds-dir" / "bluesminds"
NOT_BUILT = pytest.mark.skipif(not EXECUTABLE.exists(), reason="needs `make binary`")


@pytest.mark.parametrize(
    "launcher", [COMMAND, pytest.param((str(EXECUTABLE),), marks=NOT_BUILT)], ids=["source", "executable"]
)
def test_gateway_without_a_network_is_used_completely(home: Path, launcher: Sequence[str]) -> None:
    if subprocess.run([*_NAMESPACE, "true"], capture_output=True).returncode != 0:
        pytest.skip("this system does not allow network namespaces")
    program = f"from tests.process.test_offline import use; use({str(home)!r}, {launcher!r})"
    command = [*_NAMESPACE, sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "used\n"


def use(home: str, launcher: Sequence[str]) -> None:
    """Runs inside the namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh", b"lo", _UP))
    user = demo_user(Path(home))
    with user.serving("demo", "--port", "0", launcher=launcher) as gateway:
        headers = {"authorization": f"Bearer {gateway.key}"}
        with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, timeout=SECONDS) as client:
            for path in ("/v1/models", "/account/login", "/openapi.json", "/docs", "/health"):
                assert client.get(path).status_code == 200, path
            answer = client.post("/v1/chat/completions", json=ASK | {"model": "demo/echo"})
            assert answer.status_code == 200, answer.text
            with client.stream(
                "POST", "/v1/chat/completions", json=ASK | {"model": "demo/echo", "stream": True}
            ) as stream:
                assert stream.read().endswith(b"data: [DONE]\n\n")
        listed = user.run("models", "--json", launcher=launcher)
        assert listed.returncode == 0, listed.stderr
        assert gateway.stop() == 0
        problems = [line for line in gateway.said.splitlines() if '"level":"error"' in line]
        assert problems == []
    sys.stdout.write("used\n")
