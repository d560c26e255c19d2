"""Checks whether a server responds and which models it has, without a billed request."""

import trio
from msgspec import Struct

from bluesminds.common.values import Server
from bluesminds.http.client.pool import LocalResourceError, Pool, Timeouts, UpstreamError, UpstreamOrigin
from bluesminds.providers.profiles import join_path, profile_of
from bluesminds.wire.errors import read_error
from bluesminds.wire.models import ModelRow, read_models

NO_MODEL_LIST = "it does not list its models: name them with `models`"
MAX_LIST = 16 * 1024 * 1024  # bytes; the list of OpenRouter has about one MiB


class ProbeResult(Struct, frozen=True):
    """`error` is None on success; `models` is None if they were not listed. `local`: this machine caused the
    error, so the result does not describe the server. `key_refused`: the server rejected the API key.
    """

    server: str
    error: str | None
    models: list[ModelRow] | None
    seconds: float
    local: bool = False
    key_refused: bool = False


class KeyRefused(ValueError):
    """The server rejected the API key."""


async def probe(pool: Pool, server: Server, *, seconds: float, list_models: bool) -> ProbeResult:
    """Send one GET request, limited to `seconds`. Never raises for what the server does.

    Without `list_models` the server need not have a list of models: every response is a success, except 5xx
    and a rejected key.
    """
    started = trio.current_time()
    models: list[ModelRow] | None = None
    error: str | None = None
    local = refused = False
    try:
        with trio.fail_after(seconds):
            models = await _fetch_models(pool, server, seconds, list_models=list_models)
    except (UpstreamError, ValueError) as exc:
        error = str(exc) or type(exc).__name__
        local, refused = isinstance(exc, LocalResourceError), isinstance(exc, KeyRefused)
    except trio.TooSlowError:
        error = f"no response within {seconds:g} s"
    elapsed = trio.current_time() - started
    return ProbeResult(server.name, error, models, elapsed, local, refused)


async def _fetch_models(
    pool: Pool, server: Server, seconds: float, *, list_models: bool
) -> list[ModelRow] | None:
    """The models, or None without `list_models`. Raises ValueError for an error response."""
    profile = profile_of(server)
    if list_models and not profile.lists_models:
        if not server.models:
            raise ValueError(NO_MODEL_LIST)
        list_models = False
    origin, base = UpstreamOrigin.parse(server.url, trusted=server.is_trusted)
    path = profile.models_path if list_models else profile.alive_path or profile.models_path
    target = join_path(base, path).encode()
    headers = profile.headers(server.api_key, server.headers)
    timeouts = Timeouts(seconds, seconds, seconds, seconds, seconds)
    response = await pool.request(b"GET", origin, target, headers, timeouts=timeouts)
    try:
        body = await response.read(MAX_LIST)
    finally:
        response.close()
    refuses_key = profile.dialect.refuses_key
    if response.status >= 400 and refuses_key(response.status, read_error(response.status, body)):
        if server.keyless and server.api_key is None and not list_models:
            return None  # the server responds; it needs a client's key
        raise KeyRefused(f"{response.status}: the server rejected the api_key")
    if response.status >= (400 if list_models else 500):
        version = profile.dialect.version
        is_other = response.status == 404 and not base.endswith(version)
        hint = f" (does the url end in {version}?)" if is_other else ""
        raise ValueError(f"{response.status}: {read_error(response.status, body).message}{hint}")
    return read_models(body, prefix=profile.model_prefix) if list_models else None
