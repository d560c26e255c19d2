"""Which servers a start has before it asks the database: the configuration's, or what the environment and
this machine offer, and the built-in demo server if it is wanted.
"""

from collections.abc import Mapping

import trio

from bluesminds.app.listeners import listen_privately, private_sockets
from bluesminds.app.services import Services, configured_server
from bluesminds.common.log import Log
from bluesminds.common.values import Server
from bluesminds.config import Settings
from bluesminds.gateway.probe import probe
from bluesminds.providers import demo
from bluesminds.providers.vendors import from_environment, local_ollama


async def configured_servers(services: Services, environ: Mapping[str, str], demo_url: str) -> list[Server]:
    """The configuration's servers; with none in it, what the environment and this machine offer."""
    rows = [row for row in services.settings.servers if row.enabled]
    if services.settings.servers:
        keyless = services.settings.keyless.enabled
        return [configured_server(row, demo_url=demo_url, keyless=keyless) for row in rows]
    servers = from_environment(environ)
    ollama = local_ollama(environ)
    if (await probe(services.pool, ollama, seconds=1.0, list_models=True)).error is None:
        servers.append(ollama)
    return servers


def start_demo(settings: Settings, background: trio.Nursery, log: Log) -> str:
    """The built-in demo server's URL if a [[servers]] entry uses it, else "". Raises CannotListen."""
    if not any(row.dialect == "demo" and row.enabled for row in settings.servers):
        return ""

    def report(exc: BaseException) -> None:
        if not isinstance(exc, demo.CutOff):
            log.exception("demo_server_failed", exc)

    sockets = private_sockets()
    address = sockets[0].getsockname()
    background.start_soon(listen_privately, demo.app, sockets, report)
    return f"http://127.0.0.1:{address[1]}/v1"
