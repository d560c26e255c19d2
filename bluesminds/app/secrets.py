"""The two secrets a database depends on: the pepper of its keys' digests and the master key that seals.

A database remembers a fingerprint of those it was first used with. Lost, emptied or exchanged secrets are
therefore noticed at the start, and never replaced by new ones that would make every key invalid.
"""

import hmac
from collections.abc import Callable, Mapping

from bluesminds.app.state_dir import BadState, StateDir
from bluesminds.common.crypto import Vault, chain_key, fingerprint, new_master_key, new_pepper
from bluesminds.config import Secret
from storage.base import Connection, Store
from storage.settings import insert_setting, select_setting

PEPPER, MASTER_KEY = "pepper", "master.key"
_MAKE: Mapping[str, Callable[[], bytes]] = {PEPPER: new_pepper, MASTER_KEY: new_master_key}


async def load_secrets(store: Store, state: StateDir, pepper: Secret | None) -> tuple[bytes, Vault]:
    """The pepper (the configured one, if there is one) and the vault, both made at the first start. The store
    gets the key of its audit log's chain.

    Raises BadState when they are not those this database was first used with, StorageError.
    """
    known = await store.read(_fingerprints)
    given = {PEPPER: pepper.reveal().encode()} if pepper is not None else {}
    held = given | {name: _in_file(state, name, known) for name in _MAKE if name not in given}
    try:
        vault = Vault([held[MASTER_KEY]])
    except ValueError as exc:
        place = state.path / MASTER_KEY
        raise BadState(f"{place} is damaged: it holds no key", f"restore {place} from your backup") from exc
    found = {name: fingerprint(secret) for name, secret in held.items()}
    if known.keys() != found.keys():
        known = await store.write(_remember, found)
    for name, mark in found.items():
        if not hmac.compare_digest(known[name], mark):
            raise _wrong(state, name, configured=name in given)
    store.chain_key = chain_key(held[PEPPER])
    return held[PEPPER], vault


def _in_file(state: StateDir, name: str, known: Mapping[str, str]) -> bytes:
    secret = state.secret(name)
    if secret is None and name in known:
        place = state.path / name
        raise BadState(
            f"{place} is missing, and the database depends on it", f"restore {place} from your backup"
        )
    if secret is None:
        secret = _MAKE[name]()
        state.write_secret(name, secret)
    return secret


def _wrong(state: StateDir, name: str, *, configured: bool) -> BadState:
    place = "pepper in [keys]" if configured else str(state.path / name)
    return BadState(
        f"{place} is not the one this database was first used with",
        f"restore {place}; a database that is shared needs the same one everywhere",
    )


def _setting(name: str) -> str:
    return f"fingerprint:{name}"


async def _fingerprints(connection: Connection) -> dict[str, str]:
    found = {name: await select_setting(connection, _setting(name)) for name in _MAKE}
    return {name: mark for name, mark in found.items() if mark is not None}


async def _remember(connection: Connection, marks: Mapping[str, str]) -> dict[str, str]:
    """Those in force afterwards: another gateway on this database may have been first."""
    for name, mark in marks.items():
        await insert_setting(connection, _setting(name), mark)
    return await _fingerprints(connection)
