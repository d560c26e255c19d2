"""The servers of a start that are not in the database: those of the configuration, or those that environment
variables and this machine offer, and the built-in demo server.
"""

from collections.abc import Mapping

import trio

from bluesminds.app.listeners import listen_privately, private_sockets
from bluesminds.app.settings_map import configured_server
from bluesminds.common.log import Log
from bluesminds.common.values import Server
from bluesminds.config import Settings
from bluesminds.gateway.probe import probe
from bluesminds.http.client.pool import Pool
from bluesminds.providers import demo
from bluesminds.providers.vendors import from_environment, local_ollama

OLLAMA_SECONDS = 1.0  # how long the start waits for a local Ollama


async def configured_servers(
    settings: Settings, pool: Pool, environ: Mapping[str, str], demo_url: str
) -> list[Server]:
    """The [[servers]] entries that are not off. Without any entry: the servers whose API keys are in
    `environ`, and a local Ollama if it answers.
    """
    if settings.servers:
        keyless = settings.keyless.enabled
        return [
            configured_server(row, demo_url=demo_url, keyless=keyless)
            for row in settings.servers
            if row.mode != "off"
        ]
    servers = from_environment(environ)
    ollama = local_ollama(environ)
    if (await probe(pool, ollama, seconds=OLLAMA_SECONDS, list_models=True)).error is None:
        servers.append(ollama)
    return servers


def start_demo(settings: Settings, background: trio.Nursery, log: Log) -> str:
    """Start the built-in demo server in `background` if a [[servers]] entry that is not off uses it. Its base
    URL, or "". Raises CannotListen.
    """
    if not any(row.dialect == "demo" and row.mode != "off" for row in settings.servers):
        return ""

    def report(exc: BaseException) -> None:
        if not isinstance(exc, demo.CutOff):
            log.exception("demo_server_failed", exc)

    sockets = private_sockets()
    address = sockets[0].getsockname()
    background.start_soon(listen_privately, demo.demo_app(trio.sleep), sockets, report)
    return f"http://127.0.0.1:{address[1]}/v1"
