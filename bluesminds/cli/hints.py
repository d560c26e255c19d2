"""Commands to copy: what has to be typed in a shell on this machine to work with the same gateway."""

import shlex

from bluesminds.config import Loaded


def command(words: str, loaded: Loaded) -> str:
    """`bluesminds` with `words` for the configuration and the state directory in force.

    A directory named by this process's environment, as systemd does, is not what the reader's shell has.
    """
    parts = ["bluesminds", words]
    if loaded.path is not None:
        parts += ["--config", shlex.quote(str(loaded.path))]
    if loaded.origins["state_dir"].kind not in ("file", "default"):
        parts.insert(0, f"BLUESMINDS__STATE_DIR={shlex.quote(str(loaded.settings.state_dir))}")
    return " ".join(parts)
