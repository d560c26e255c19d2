"""Commands to copy that work with the same configuration and state directory."""

import shlex
from pathlib import Path
from typing import Final

from bluesminds.config import Loaded

DEMO_DIR: Final = "demo"
"""The state directory of `demo`, in the default one."""


def command(arguments: str, loaded: Loaded) -> str:
    """`bluesminds` with `arguments` and the options that select the same configuration and state directory.

    A state directory from the environment, such as systemd's, is not set in the shell of the reader.
    """
    parts = ["bluesminds", arguments]
    if loaded.path is not None:
        parts += ["--config", shlex.quote(str(loaded.path))]
    if loaded.origins["state_dir"].kind not in ("file", "default"):
        parts.insert(0, _variable(loaded.settings.state_dir))
    return " ".join(parts)


def demo_command(loaded: Loaded) -> str | None:
    """How to run a command on the data of `demo`, if there is any."""
    demo = loaded.settings.state_dir / DEMO_DIR
    return f"{_variable(demo)} bluesminds ..." if demo.is_dir() else None


def _variable(state_dir: Path) -> str:
    return f"BLUESMINDS__STATE_DIR={shlex.quote(str(state_dir))}"
