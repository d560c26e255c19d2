"""Prove the built executable: `python packaging/selftest.py`, after packaging/build.py.

The one-file form must tell its version and accept a configuration; as `serve` and as `demo` it must answer
the openai SDK, plainly and as a stream, through its built-in demo upstream, and end with exit code 0 on
SIGTERM, leaving no temporary files behind. The directory form must be ready to serve within STARTUP_RATIO
times what the source tree takes.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import openai

ROOT = Path(__file__).resolve().parent.parent
ONEFILE = (str(ROOT / "dist" / "bluesminds"),)
ONEDIR = (str(ROOT / "dist" / "bluesminds-dir" / "bluesminds"),)
SOURCE = (sys.executable, "-m", "bluesminds")
MODEL = "demo/echo"
STARTUP_RATIO = 1.5
STARTUP_ROUNDS = 7
READY_SECONDS = 120.0
STOP_SECONDS = 120.0

SETTINGS = """\
state_dir = "{state}"

[server]
port = 0

[limits]
time_zone = "Europe/Berlin"
"""

DEMO_SERVER = """
[[servers]]
name = "demo"
dialect = "demo"
"""


class SelfTestError(Exception):
    """The executable did not do what it must; the message says what."""


def main() -> int:
    try:
        _built()
        print(_run((*ONEFILE, "version"), {}))
        _answers("serve", DEMO_SERVER)
        _answers("demo", "")
        _starts_fast()
    except SelfTestError as error:
        print(f"selftest: {error}", file=sys.stderr)
        return 1
    print("selftest: ok")
    return 0


def _built() -> None:
    for (executable,) in (ONEFILE, ONEDIR):
        if not Path(executable).is_file():
            raise SelfTestError(f"there is no {Path(executable).relative_to(ROOT)}: run `make binary` first")


def _answers(subcommand: str, servers: str) -> None:
    with tempfile.TemporaryDirectory(prefix="bluesminds-selftest-") as name:
        directory = Path(name)
        unpacked = directory / "tmp"
        unpacked.mkdir()
        environ = {"TMPDIR": str(unpacked), "PYTHONTZPATH": ""}  # a machine without time zones
        settings = _settings(directory, servers)
        print(_run((*ONEFILE, "check", "-c", str(settings)), environ))
        with _serving((*ONEFILE, subcommand), settings, environ) as port:
            created = _run((*ONEFILE, "keys", "create", "selftest", "--json", "-c", str(settings)), environ)
            _complete(port, json.loads(created)["key"])
            if subcommand == "demo":
                _opens_dashboard(port, settings.with_name("serve.log"))
        left = [entry.name for entry in unpacked.iterdir()]
        if left:
            raise SelfTestError(f"left behind in the temporary directory: {left}")


def _complete(port: int, key: str) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)
    with client:
        question: list[openai.types.chat.ChatCompletionMessageParam] = [
            {"role": "user", "content": "one two three"}
        ]
        plain = client.chat.completions.create(model=MODEL, messages=question)
        if not plain.choices[0].message.content or plain.usage is None:
            raise SelfTestError(f"a completion without content or usage: {plain}")
        with client.chat.completions.create(model=MODEL, messages=question, stream=True) as stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        if text != plain.choices[0].message.content:
            raise SelfTestError(f"streamed {text!r}, plain {plain.choices[0].message.content!r}")
    print(f"answered, plain and streamed: {text!r}")


def _opens_dashboard(port: int, log: Path) -> None:
    """Sign in with the link of the start, and get the overview and its files."""
    if _get(port, "/account/login")[0] != 200:
        raise SelfTestError("the page to sign in is not served")
    link = re.search(r"/account/enter#token=(\S+)", log.read_text())
    if link is None:
        raise SelfTestError(f"no link to the dashboard\n{log.read_text()}")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_SECONDS)
    with contextlib.closing(connection):
        body = json.dumps({"token": link[1]})
        connection.request("POST", "/api/auth/local", body, {"content-type": "application/json"})
        cookie = (connection.getresponse().headers["set-cookie"] or "").partition(";")[0]
    status, page = _get(port, "/dashboard", cookie)
    files = re.findall(r'"(/dashboard/assets/[^"]+)"', page)
    missing = [path for path in files if _get(port, path)[0] != 200]
    if status != 200 or "<h1>Overview</h1>" not in page or not files or missing:
        raise SelfTestError(f"the dashboard does not work: {status}, missing {missing}\n{page}")
    print(f"opened the dashboard with {len(files)} files")


def _get(port: int, path: str, cookie: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"cookie": cookie, "accept": "text/html"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def _starts_fast() -> None:
    """Interleaved, so that a busy moment of the machine falls on both."""
    seconds: dict[Sequence[str], list[float]] = {SOURCE: [], ONEDIR: []}
    for _ in range(STARTUP_ROUNDS):
        for command, times in seconds.items():
            times.append(_startup_seconds(command))
    source, onedir = (statistics.median(seconds[command]) for command in (SOURCE, ONEDIR))
    print(f"ready to serve after: source tree {source:.2f} s, directory form {onedir:.2f} s")
    if onedir > STARTUP_RATIO * source:
        raise SelfTestError(
            f"the directory form starts {onedir / source:.2f} times slower than the source tree"
        )


def _startup_seconds(command: Sequence[str]) -> float:
    with tempfile.TemporaryDirectory(prefix="bluesminds-selftest-") as name:
        settings = _settings(Path(name), DEMO_SERVER)
        began = time.monotonic()
        with _serving((*command, "serve"), settings, {}):
            return time.monotonic() - began


def _settings(directory: Path, servers: str) -> Path:
    """A configuration on a free port, with its state beside it."""
    settings = directory / "gateway.toml"
    settings.touch(0o600)
    settings.write_text(SETTINGS.format(state=directory / "state") + servers)
    return settings


def _run(command: Sequence[str], environ: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=READY_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise SelfTestError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout.strip()


@contextlib.contextmanager
def _serving(command: Sequence[str], settings: Path, environ: dict[str, str]) -> Iterator[int]:
    """Its port, ready to serve inside; ended by SIGTERM, with exit code 0, outside."""
    log = settings.with_name("serve.log")
    with log.open("w") as sink:
        process = subprocess.Popen(
            [*command, "-c", str(settings)],
            cwd=ROOT,
            env={**os.environ, **environ},
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _await_health(process, log)
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_SECONDS)
        if code != 0:
            raise SelfTestError(f"{log.name}: ended with exit code {code}\n{log.read_text()}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _await_health(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port that it says it listens on, as soon as it answers there."""
    limit = time.monotonic() + READY_SECONDS
    while time.monotonic() < limit:
        said = re.search(r"listening on http://127\.0\.0\.1:(\d+)\n", log.read_text())
        if said and _healthy(int(said[1])):
            return int(said[1])
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(0.01)
            raise SelfTestError(f"{log.name}: ended with exit code {code}\n{log.read_text()}")
    raise SelfTestError(f"not ready within {READY_SECONDS:.0f} s\n{log.read_text()}")


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (http.client.HTTPException, OSError):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
