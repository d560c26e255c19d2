"""The two secrets that a database depends on: the pepper for key digests and the master key that encrypts
upstream API keys.

The database stores a fingerprint of both at their first use. A start therefore detects a secret that is
missing, empty or different, and never replaces it with a new one, which would invalidate every key. While the
master key is being replaced, its file has two lines: the new key and the old one.
"""

import hmac
from collections.abc import Callable, Mapping

from bluesminds.app.state_dir import MASTER_KEY, PEPPER, BadState, StateDir
from bluesminds.common.crypto import Vault, chain_key, fingerprint, new_master_key, new_pepper
from bluesminds.config import Secret
from storage.base import Connection, Store
from storage.settings import insert_setting, put_setting, select_setting

_MAKE: Mapping[str, Callable[[], bytes]] = {PEPPER: new_pepper, MASTER_KEY: new_master_key}


async def load_secrets(store: Store, state: StateDir, pepper: Secret | None) -> tuple[bytes, Vault]:
    """The pepper and the vault. Both secrets are created at the first start; a configured pepper is used
    instead of the one in the state directory. Also sets the store's key for the audit chain.

    Raises BadState when a secret is not the one that this database was first used with, and StorageError.
    """
    known = await store.read(_fingerprints)
    configured = {PEPPER: pepper.reveal().encode()} if pepper is not None else {}
    secrets = configured | {
        name: _read_or_create(state, name, known) for name in _MAKE if name not in configured
    }
    try:
        vault = Vault(secrets[MASTER_KEY].split())
    except ValueError as exc:
        path = state.path / MASTER_KEY
        raise BadState(
            f"{path} is damaged: it contains no valid key", f"restore {path} from your backup"
        ) from exc
    found = {name: [fingerprint(one) for one in secret.split()] for name, secret in secrets.items()}
    found[PEPPER] = [fingerprint(secrets[PEPPER])]
    if known.keys() != found.keys():
        first = {name: values[0] for name, values in found.items()}
        known = await store.write(_store_fingerprints, first)
    for name, values in found.items():
        if not any(hmac.compare_digest(known[name], value) for value in values):
            raise _mismatch(state, name, configured=name in configured)
    store.chain_key = chain_key(secrets[PEPPER])
    return secrets[PEPPER], vault


def read_master_keys(state: StateDir) -> list[bytes]:
    """The key, or the new one and the old one while it is being replaced."""
    return (state.secret(MASTER_KEY) or b"").split()


async def store_fingerprint(connection: Connection, name: str, value: str) -> None:
    """Replace the stored fingerprint of a secret."""
    await put_setting(connection, _setting(name), value)


def _read_or_create(state: StateDir, name: str, known: Mapping[str, str]) -> bytes:
    secret = state.secret(name)
    if secret is None and name in known:
        path = state.path / name
        raise BadState(
            f"{path} is missing, and the database depends on it", f"restore {path} from your backup"
        )
    if secret is None:
        secret = _MAKE[name]()
        state.write_secret(name, secret)
    return secret


def _mismatch(state: StateDir, name: str, *, configured: bool) -> BadState:
    source = "pepper in [keys]" if configured else str(state.path / name)
    return BadState(
        f"{source} is not the one this database was first used with",
        f"restore {source}; every gateway on this database needs the same one",
    )


def _setting(name: str) -> str:
    return f"fingerprint:{name}"


async def _fingerprints(connection: Connection) -> dict[str, str]:
    found = {name: await select_setting(connection, _setting(name)) for name in _MAKE}
    return {name: value for name, value in found.items() if value is not None}


async def _store_fingerprints(connection: Connection, fingerprints: Mapping[str, str]) -> dict[str, str]:
    """The stored fingerprints; another gateway on this database may have stored its own first."""
    for name, value in fingerprints.items():
        await insert_setting(connection, _setting(name), value)
    return await _fingerprints(connection)
