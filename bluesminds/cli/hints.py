"""Commands to copy that work with the same configuration and state directory."""

import shlex

from bluesminds.config import Loaded


def command(words: str, loaded: Loaded) -> str:
    """`bluesminds` with `words` and the options that select the same configuration and state directory.

    A state directory from the environment, such as systemd's, is not set in the shell of the reader.
    """
    parts = ["bluesminds", words]
    if loaded.path is not None:
        parts += ["--config", shlex.quote(str(loaded.path))]
    if loaded.origins["state_dir"].kind not in ("file", "default"):
        parts.insert(0, f"BLUESMINDS__STATE_DIR={shlex.quote(str(loaded.settings.state_dir))}")
    return " ".join(parts)
