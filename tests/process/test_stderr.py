"""The gateway works when the reader of its log has closed the pipe or has stopped reading."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.terminal import COMMAND, SECONDS, User

ASK = {"model": "demo/echo", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def demo(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*COMMAND, "demo", "--port", "0"], env=User(home).environment({}), stderr=subprocess.PIPE, cwd=home
    )
    with process:  # closes the pipe and waits
        yield process
        process.kill()


def banner(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    assert process.stderr is not None
    text = ""
    while "Press Ctrl-C" not in text:
        line = process.stderr.readline().decode()
        assert line, f"it ended:\n{text}"
        text += line
    url = re.search(r"http://127\.0\.0\.1:\d+", text)
    key = re.search(r"bm_\w+", text)
    assert url is not None and key is not None
    return url[0], key[0]


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "full"])
def test_requests_log_pipe_is_closed_or_full_are_answered(
    demo: subprocess.Popen[bytes], closed: bool
) -> None:
    url, key = banner(demo)
    assert demo.stderr is not None
    if closed:
        demo.stderr.close()
    else:
        os.set_blocking(demo.stderr.fileno(), False)
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=SECONDS) as client:
        for n in range(10 if closed else 400):
            path = "/v1/chat/completions" if n < 10 else "/v1/nothing-here" if n % 2 else "/v1/models"
            answer = client.post(path, json=ASK) if n < 10 else client.get(path)
            assert answer.status_code in ((200,) if n < 10 else (200, 404))
        metrics = client.get("/metrics").text
    assert re.search(r"^bluesminds_usage_rows_held 0\.0$", metrics, re.MULTILINE)
    assert re.search(r'bluesminds_requests_total\{[^}]*status="200"[^}]*\} 10\.0', metrics)
    demo.send_signal(signal.SIGTERM)
    assert demo.wait(SECONDS) == 0
