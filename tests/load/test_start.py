"""CPU time of a start after kill -9, and times of a stop."""

import random
import signal
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import trio

from tests.fakes.model_server import ModelServer, chunk, streamed
from tests.gateways import entry
from tests.load.figures import figure
from tests.pressure import port, served, wait_for_exit, wait_until_refused
from tests.process.crashes import AnswerRecorder, CrashSite
from tests.process.test_shutdown import UNLIMITED, reading

ROUNDS = 5
STREAMS = 50


async def test_start_gateway_was_killed_cpu_time_is_printed(home: Path) -> None:
    site = CrashSite(home)
    rng = random.Random(ROUNDS)  # noqa: S311
    recorder = AnswerRecorder()
    try:
        site.start()
        await site.add_member("first", prepaid=True)
        for _ in range(ROUNDS):
            async with recorder.clients(site):
                await recorder.wait_for(rng.randint(10, 400))
                await site.kill()
            site.start()
            times = psutil.Process(site.gateway.process.pid).cpu_times()
            figure("CPU time of a start after kill -9", times.user + times.system, "s", "2 s")
        assert site.gateway.stop() == 0
    finally:
        site.close()


async def test_stop_with_running_streams_times_are_printed(home: Path, models: ModelServer) -> None:
    models.plan(*[streamed(chunk("one"), trio.Event())] * STREAMS)
    servers = [entry("one", models.url)]
    async with served(home, servers, server=UNLIMITED) as gateway, reading(gateway, STREAMS):
        sent = trio.current_time()
        gateway.send_signal(signal.SIGTERM)
        await wait_until_refused(port(gateway))
        figure("SIGTERM until connections are refused", trio.current_time() - sent, "s", "1 s")
        sent = trio.current_time()
        gateway.send_signal(signal.SIGTERM)
        await wait_for_exit(gateway)
        figure("second SIGTERM until exit", trio.current_time() - sent, "s", "2 s")
