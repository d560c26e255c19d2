"""Asking a server whether it is alive and what it has, without a billed call."""

import trio
from msgspec import Struct

from bluesminds.common.values import Server
from bluesminds.http.client.pool import Origin, Pool, Timeouts, UpstreamError
from bluesminds.providers.dialects import DIALECTS
from bluesminds.providers.openai import ModelRow, read_error, read_models

MAX_LIST = 16 * 1024 * 1024  # bytes; OpenRouter's list is about one


class Probe(Struct, frozen=True):
    """What was found. `problem` is None when all is well; `models` is None when the list was not asked
    for.
    """

    server: str
    problem: str | None
    models: list[ModelRow] | None
    seconds: float


async def probe(pool: Pool, server: Server, *, seconds: float, list_models: bool) -> Probe:
    """One GET, bounded in seconds. Never raises for what the server does.

    Without `list_models` a server need not have a list of models: any answer shows that it is alive, except
    that it is broken (5xx) or refuses the key.
    """
    started = trio.current_time()
    models: list[ModelRow] | None = None
    problem: str | None = None
    try:
        with trio.fail_after(seconds):
            models = await _ask(pool, server, seconds, list_models=list_models)
    except (UpstreamError, ValueError) as exc:
        problem = str(exc) or type(exc).__name__
    except trio.TooSlowError:
        problem = f"no answer within {seconds:g} s"
    return Probe(server=server.name, problem=problem, models=models, seconds=trio.current_time() - started)


async def _ask(pool: Pool, server: Server, seconds: float, *, list_models: bool) -> list[ModelRow] | None:
    """The models, or None when they were not asked for. Raises ValueError for a refusal."""
    dialect = DIALECTS[server.dialect]
    origin, base = Origin.parse(server.url)
    cheap = None if list_models else dialect.alive_path
    timeouts = Timeouts(seconds, seconds, seconds, seconds, seconds)
    target = (cheap or base + dialect.models_path).encode()
    response = await pool.request(b"GET", origin, target, dialect.headers(server.api_key), timeouts=timeouts)
    try:
        body = await response.read(MAX_LIST)
    finally:
        response.close()
    if dialect.refuses_key(response.status, body):
        if server.keyless and server.api_key is None and not list_models:
            return None  # it lives, and wants the clients' keys
        raise ValueError(f"{response.status}: the server refused the api_key")
    if response.status >= (400 if list_models else 500):
        raise ValueError(f"{response.status}: {read_error(response.status, body).message}")
    return read_models(body) if list_models else None
