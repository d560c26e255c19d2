"""Asking a server whether it is alive and what it has, without a billed call."""

import trio
from msgspec import Struct

from bluesminds.http.client import Origin, Pool, Timeouts, UpstreamError
from bluesminds.providers.dialects import DIALECTS
from bluesminds.providers.openai import ModelRow, read_error, read_models
from bluesminds.values import Server

MAX_LIST = 16 * 1024 * 1024  # bytes; OpenRouter's list is about one


class Probe(Struct, frozen=True):
    """What was found. `problem` is None when all is well; `models` is None when the list was not asked for."""

    server: str
    problem: str | None
    models: list[ModelRow] | None
    seconds: float


async def probe(pool: Pool, server: Server, *, timeout: float, list_models: bool) -> Probe:
    """One GET, bounded by timeout seconds. Never raises for what the server does."""
    dialect = DIALECTS[server.dialect]
    origin, base = Origin.parse(server.url)
    cheap = dialect.alive_path is not None and not list_models
    target = dialect.alive_path if cheap else base + dialect.models_path
    timeouts = Timeouts(connect=timeout, pool=timeout, write=timeout, first_byte=timeout, between_chunks=timeout)
    started = trio.current_time()
    models: list[ModelRow] | None = None
    problem: str | None = None
    try:
        with trio.fail_after(timeout):
            response = await pool.request(
                b"GET", origin, (target or "").encode(), dialect.headers(server.api_key), timeouts=timeouts
            )
            try:
                body = await response.read(MAX_LIST)
            finally:
                response.close()
        if response.status >= 400:
            told = "credentials refused" if response.status in (401, 403) else read_error(response.status, body).message
            problem = f"{response.status}: {told}"
        elif not cheap:
            models = read_models(body)
    except (UpstreamError, ValueError) as exc:
        problem = str(exc) or type(exc).__name__
    except trio.TooSlowError:
        problem = f"no answer within {timeout:g} s"
    return Probe(server=server.name, problem=problem, models=models, seconds=trio.current_time() - started)
