"""`python -m bench.soak --minutes N`: a mixed load, and the growth of the process over time.

At most RATE requests a second: complete and streamed responses of the demo server, 30 % of them cut by the
client while they are streamed, 10 % left before the response, and 5 % for a server that does not answer.
Memory, descriptors, threads and tasks are sampled. The exit code is 1 if memory or threads grow after the
first third of the time, or if something is still reserved, running or open at the end: descriptors and tasks
follow the number of requests, so they are compared before the load and after it.
"""

import argparse
import json
import random
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import psutil  # type: ignore[import-untyped]
import trio

from tests.terminal import Serving, User

RATE: Final = 20.0
AT_ONCE: Final = 40
SAMPLE_SECONDS: Final = 5.0
TIMEOUT: Final = 60.0
MIB: Final = 2**20
REST_SECONDS: Final = 240.0  # idle connections to servers are closed after a while
# What the line through the samples may grow from its start to its end.
BOUNDS: Final = {"memory MiB": 4.0, "threads": 1.0}
# How many more there may be after the load than before it.
BOUNDS_AT_REST: Final = {"descriptors": 5.0, "tasks": 5.0}
_END: Final = ("bluesminds_requests_running", "bluesminds_usage_rows_held", "bluesminds_body_bytes_held")
SETTINGS: Final = """\
state_dir = "state"
[server]
port = 0
[upstream]
attempts = 1
eject_after = 1000000
[log]
level = "error"
[[servers]]
name = "demo"
dialect = "demo"
[[servers]]
name = "broken"
url = "http://127.0.0.1:{closed}/v1"
models = ["broken"]
"""


def growth(samples: Sequence[tuple[float, float]]) -> float:
    """How much the line through the samples (seconds, value) grows from the first to the last: least
    squares."""
    if len(samples) < 2:
        return 0.0
    times, values = zip(*samples, strict=True)
    slope, _ = statistics.linear_regression(times, values)
    return slope * (times[-1] - times[0])


def judge(samples: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    """The figures that grow more than allowed. Samples of the first third are left out."""
    found = []
    for name, bound in BOUNDS.items():
        rows = samples[name]
        if (grown := growth(rows[len(rows) // 3 :])) > bound:
            found.append(f"{name}: +{grown:.1f} (bound: +{bound:.0f})")
    return found


async def measure(process: psutil.Process, client: httpx.AsyncClient) -> dict[str, float]:
    return {
        "tasks": gauges(await client.get("/metrics"))["bluesminds_tasks"],
        "memory MiB": process.memory_info().rss / MIB,
        "descriptors": float(process.num_fds()),
        "threads": float(process.num_threads()),
    }


async def send(client: httpx.AsyncClient, counts: Counter[str]) -> None:
    """One request of the mix."""
    kind = random.choices(("plain", "stream", "cut", "left", "broken"), (25, 30, 30, 10, 5))[0]  # noqa: S311
    model = "broken" if kind == "broken" else "demo/echo"
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "word " * 200}]}
    try:
        if kind == "left":
            with trio.move_on_after(0.002):
                await client.post("/v1/chat/completions", json=body)
        elif kind in ("stream", "cut"):
            async with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
                async for _ in answer.aiter_lines():
                    if kind == "cut":
                        break
        else:
            await client.post("/v1/chat/completions", json=body)
        counts[kind] += 1
    except httpx.HTTPError as exc:
        counts[f"{kind} failed: {type(exc).__name__}"] += 1


def gauges(answer: httpx.Response) -> dict[str, float]:
    """The metrics without labels, by name."""
    lines = (line for line in answer.text.splitlines() if not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value in map(str.split, lines)}


async def load(
    gateway: Serving, seconds: float, samples: Mapping[str, list[tuple[float, float]]]
) -> Counter[str]:
    counts: Counter[str] = Counter()
    process = psutil.Process(gateway.process.pid)
    headers = {"authorization": f"Bearer {gateway.key}"}
    began = trio.current_time()
    async with (
        httpx.AsyncClient(base_url=gateway.url, headers=headers, trust_env=False, timeout=TIMEOUT) as client,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=TIMEOUT) as scraper,
        trio.open_nursery() as nursery,
    ):
        sent, sampled = 0, 0
        while (now := trio.current_time() - began) < seconds:
            if now >= sampled * SAMPLE_SECONDS:
                for name, value in (await measure(process, scraper)).items():
                    samples[name].append((now, value))
                sampled += 1
            while sent < now * RATE:
                if len(nursery.child_tasks) < AT_ONCE:  # a slow machine gets fewer requests, and no queue
                    nursery.start_soon(send, client, counts)
                sent += 1
            await trio.sleep(1 / RATE)
    return counts


async def rest(gateway: Serving, first: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """The figures when nothing runs, after up to REST_SECONDS, and what is left then."""
    process = psutil.Process(gateway.process.pid)
    give_up = trio.current_time() + REST_SECONDS
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=TIMEOUT) as client:
        while True:
            found = gauges(await client.get("/metrics"))
            left = [f"{name}: {found[name]:.0f} left" for name in _END if found[name]]
            figures = await measure(process, client)
            for name, bound in BOUNDS_AT_REST.items():
                if figures[name] > first[name] + bound:
                    left.append(f"{name} at rest: {figures[name]:.0f}, {first[name]:.0f} before the load")
            if not left or trio.current_time() > give_up:
                return figures, left
            await trio.sleep(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="bm-soak-") as name, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # never listens
        home = Path(name)
        path = home / "gateway.toml"
        path.touch(0o600)
        path.write_text(SETTINGS.format(closed=closed.getsockname()[1]))
        with User(home).serving("serve", "--config", str(path)) as gateway:
            samples: dict[str, list[tuple[float, float]]] = defaultdict(list)
            began = time.monotonic()
            counts = trio.run(load, gateway, minutes * 60, samples)
            seconds = time.monotonic() - began
            at_rest, left = trio.run(rest, gateway, {one: rows[0][1] for one, rows in samples.items()})
            problems = judge(samples) + left
            problems += [f"{count} times {kind}" for kind, count in counts.items() if "failed" in kind]
    print(f"{sum(counts.values())} requests in {seconds:.0f} s: {json.dumps(dict(counts))}")
    for one, rows in samples.items():
        steady = rows[len(rows) // 3 :]
        grown = f"growth {growth(steady):+.2f}"
        print(f"{one}: first {rows[0][1]:.1f}, last {rows[-1][1]:.1f}, {grown}, at rest {at_rest[one]:.1f}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
