"""Secrets that everybody on the machine could read: written in the file itself, or in a file it names.

A file that only a group may read is taken to be meant so, and so is one that a variable names: containers are
handed their secrets in files that anybody inside may read. A database's address without a password is no
secret.
"""

import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from bluesminds.config.fields import SERVERS, fields_in, resolve
from bluesminds.config.sources import Document, PendingSettings, RawValue, label, reference_of
from bluesminds.config.values import Problem


def exposed_secrets(draft: PendingSettings, document: Document | None) -> Iterator[Problem]:
    """A warning for each; nothing of the secret is in it."""
    if document is None:
        return
    for section, table in [*draft.plain.items(), *((SERVERS, server.table) for server in draft.servers)]:
        for key, given in table.items():
            if given.origin.kind != "file" or not fields_in(section)[key].secret:
                continue
            name = f"{key} in {label(section)}"
            if isinstance(given.value, str):
                if document.shared and not (key == "url" and _is_public(given.value)):
                    message = f"{name} is written in a file that others may read"
                    yield Problem(given.origin.place, message, _remedy(document.path))
            elif (path := _named_file(given)) and _others_may_read(path):
                message = f"{name} is read from a file that others may read too"
                yield Problem(given.origin.place, message, _remedy(path))


def _remedy(path: Path) -> str:
    return f"chmod o-rwx {shlex.quote(str(path))}"


def _is_public(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return not parts.password and "password" not in parse_qs(parts.query)
    except ValueError:
        return False


def _named_file(given: RawValue) -> Path | None:
    reference = reference_of(given.value)
    if reference is None or reference[0] != "file":
        return None
    try:
        return resolve(reference[1], given.base)
    except ValueError:
        return None


def _others_may_read(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
