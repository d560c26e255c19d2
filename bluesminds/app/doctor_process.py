"""Runs `bluesminds doctor` in a process of its own, which reads the configuration again: the checks need
modules that the gateway does not load.
"""

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Final

import msgspec
import trio

from bluesminds.app.program import program
from bluesminds.common.errors import Unavailable
from bluesminds.config import Settings
from bluesminds.config.environ import PREFIX
from bluesminds.web.api.doctor import DoctorReport

SECONDS: Final = 150.0
_LONGEST: Final = 1 << 20  # bytes of a report


class DoctorProcess:
    """`config`: None without a file. One run at a time; the next one waits for it."""

    def __init__(self, config: Path | None, settings: Settings) -> None:
        self._command = [
            *program(),
            *("doctor", "--json"),
            *(() if config is None else ("--config", str(config))),
        ]
        # Flags may have set others than the configuration.
        self._environ = {
            f"{PREFIX}STATE_DIR": str(settings.state_dir),
            f"{PREFIX}SERVER__HOST": settings.server.host,
            f"{PREFIX}SERVER__PORT": str(settings.server.port),
        }
        self._lock = trio.Lock()

    async def run(self) -> DoctorReport:
        """Raises Unavailable."""
        with trio.move_on_after(SECONDS):
            async with self._lock:
                done = await trio.run_process(
                    self._command,
                    env=os.environ | self._environ,
                    check=False,
                    capture_stdout=True,
                    stderr=subprocess.DEVNULL,
                )
                with contextlib.suppress(msgspec.DecodeError):
                    return msgspec.json.decode(done.stdout[:_LONGEST], type=DoctorReport)
        raise Unavailable(
            "doctor_failed",
            "The checks could not be run here. Run `bluesminds doctor` on the machine of the gateway.",
            retry=False,
        )
