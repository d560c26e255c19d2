"""Finds secrets that every user of the machine can read: in the configuration file or a file it names.

Group-readable files are accepted. Files named by a variable are accepted too, because containers provide
secrets in world-readable files. A database URL without a password is not a secret.
"""

import shlex
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from bluesminds.common.server_headers import holds_credential
from bluesminds.config.fields import SERVERS, fields_in, resolve
from bluesminds.config.sources import (
    ConfigDocument,
    PendingSettings,
    RawValue,
    Table,
    label,
    reference_of,
)
from bluesminds.config.values import Problem


def exposed_secrets(pending: PendingSettings, document: ConfigDocument | None) -> Iterator[Problem]:
    """One warning for each; it does not contain the secret."""
    if document is None:
        return
    for section, table in [*pending.plain.items(), *((SERVERS, server.table) for server in pending.servers)]:
        for key, given in _secrets_in(section, table):
            if given.origin.kind != "file":
                continue
            name = f"{key} in {label(section)}"
            if isinstance(given.value, str):
                if document.shared and not (key == "url" and _is_public(given.value)):
                    message = f"{name} is in a file that other users can read"
                    yield Problem(given.origin.location, message, _remedy(document.path))
            elif (path := _named_file(given)) and _others_may_read(path):
                message = f"{name} is read from a file that other users can read"
                yield Problem(given.origin.location, message, _remedy(path))


def _secrets_in(section: str, table: Table) -> Iterator[tuple[str, RawValue]]:
    """The secrets of a table with their names; of headers, those that hold credentials."""
    for key, given in table.items():
        field = fields_in(section)[key]
        if field.secret:
            yield key, given
        elif field.secret_map and isinstance(given.value, dict):
            for name, value in given.value.items():
                if holds_credential(name):
                    yield f"{name} of {key}", replace(given, value=value)
        elif field.item_secrets and isinstance(given.value, list):
            for number, inner, value in _secrets_of_items(field.item_secrets, given.value):
                yield f"{inner} in table {number} of {key}", replace(given, value=value)
        elif field.secret_list and isinstance(given.value, list):
            for number, value in enumerate(given.value, 1):
                yield f"key {number} of {key}", replace(given, value=value)


def _secrets_of_items(names: Collection[str], items: Sequence[object]) -> Iterator[tuple[int, str, object]]:
    """The number of the table, the name and the value of each secret in an array of tables."""
    for number, table in enumerate(items, 1):
        for name in sorted(names):
            if isinstance(table, dict) and name in table:
                yield number, name, table[name]


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
