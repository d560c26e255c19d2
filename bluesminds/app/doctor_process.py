"""Runs `bluesminds doctor` in a process of its own, which reads the configuration again: the checks need
modules that the gateway does not load.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
import trio

from bluesminds.common.errors import Unavailable
from bluesminds.config.environ import PREFIX
from bluesminds.web.api.doctor import DoctorReport

SECONDS: Final = 150.0
_LONGEST: Final = 1 << 20  # bytes of a report


class DoctorProcess:
    """`config`: None without a file. One run at a time."""

    def __init__(self, config: Path | None, state_dir: Path) -> None:
        frozen = getattr(sys, "frozen", False)
        self._command = [
            *((sys.executable,) if frozen else (sys.executable, "-m", "bluesminds")),
            *("doctor", "--json"),
            *(() if config is None else ("--config", str(config))),
        ]
        # A flag may have set another directory than the configuration.
        self._state_dir = str(state_dir)
        self._lock = trio.Lock()

    async def run(self) -> DoctorReport:
        """Raises Unavailable."""
        environ = os.environ | {f"{PREFIX}STATE_DIR": self._state_dir}
        async with self._lock:
            with trio.move_on_after(SECONDS):
                done = await trio.run_process(
                    self._command,
                    env=environ,
                    check=False,
                    capture_stdout=True,
                    stderr=subprocess.DEVNULL,
                )
                try:
                    return msgspec.json.decode(done.stdout[:_LONGEST], type=DoctorReport)
                except msgspec.DecodeError:
                    pass
        raise Unavailable(
            "doctor_failed",
            "The checks could not be run here. Run `bluesminds doctor` on the machine of the gateway.",
            retry=False,
        )
