"""The gateway of the tests of the request pipeline, and a real LiteLLM proxy."""

import http.client
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gateway.conftest import gateway, models, patient

__all__ = ["gateway", "litellm", "models", "patient"]

START_SECONDS = 120
ATTEMPTS = 3  # each on a port that was free a moment before
ALIVE = b"I'm alive"
MASTER_KEY = "sk-litellm-master"
CONFIG = f"""
model_list:
  - model_name: mocked
    litellm_params:
      model: openai/mocked
      api_key: sk-nowhere
      mock_response: "Four words from here."
  - model_name: broken
    litellm_params:
      model: openai/broken
      api_key: sk-nowhere
      mock_response: litellm.InternalServerError
  - model_name: limited
    litellm_params:
      model: openai/limited
      api_key: sk-nowhere
      mock_response: litellm.RateLimitError
  - model_name: vectors
    litellm_params:
      model: openai/text-embedding-3-small
      api_key: sk-nowhere
      mock_response: [0.25, -0.5]
general_settings:
  master_key: {MASTER_KEY}
litellm_settings:
  telemetry: false
"""


@dataclass(frozen=True)
class LiteLLM:
    """A running proxy that answers without a vendor."""

    port: int
    log: Path
    master_key: str = MASTER_KEY

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="session")
def litellm() -> Iterator[LiteLLM]:
    program = Path(os.environ.get("LITELLM_VENV") or ".venv-litellm") / "bin" / "litellm"
    if not program.exists():
        absent = f"there is no LiteLLM at {program}: run `make test-process`, or set LITELLM_VENV"
        if os.environ.get("CI"):
            pytest.fail(absent)
        pytest.skip(absent)
    with tempfile.TemporaryDirectory(prefix="bm-litellm-") as folder:
        home = Path(folder)
        (home / "config.yaml").write_text(CONFIG)
        for _ in range(ATTEMPTS):
            proxy = LiteLLM(_free_port(), home / "log")
            with _running(program, proxy) as process:
                if _wait(proxy, process):
                    yield proxy
                    return
        pytest.fail(f"LiteLLM did not start:\n{proxy.log.read_text()[-4000:]}")


@contextmanager
def _running(program: Path, proxy: LiteLLM) -> "Iterator[subprocess.Popen[bytes]]":
    home = proxy.log.parent
    address = ["--host", "127.0.0.1", "--port", str(proxy.port)]
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with proxy.log.open("wb") as log:
        process = subprocess.Popen(
            [program.absolute(), "--config", "config.yaml", *address, "--telemetry", "False"],
            cwd=home, env=environ, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait(proxy: LiteLLM, process: "subprocess.Popen[bytes]") -> bool:
    """Wait until it answers. False if it has ended, because another process has taken its port."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    pause = subprocess.TimeoutExpired
    while time.monotonic() < deadline:
        try:
            with opener.open(f"{proxy.url}/health/liveliness", timeout=2) as answer:
                if ALIVE in answer.read():
                    return True
        except (http.client.HTTPException, OSError):  # URLError is one of the latter
            pass
        try:
            process.wait(0.3)
        except pause:
            continue
        return False
    pytest.fail(f"LiteLLM did not start:\n{proxy.log.read_text()[-4000:]}")
