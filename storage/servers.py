"""Upstream servers. Their API keys are stored encrypted (sealed) by the caller."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from storage.base import Connection, Row


@dataclass(frozen=True, slots=True)
class ServerRow:
    """One upstream server."""

    id: str
    name: str
    vendor: str
    dialect: str
    url: str
    sealed_api_keys: bytes | None
    api_version: str
    sealed_headers: bytes | None
    models: tuple[str, ...]
    weight: int
    priority: int
    passthrough: bool
    passthrough_paths: tuple[str, ...]
    region: str
    tags: tuple[str, ...]
    mode: Literal["active", "draining", "off"]
    max_concurrency: int
    rpm: int
    options: str
    created_at: int
    updated_at: int


def _values(server: ServerRow) -> dict[str, Any]:
    """All columns but the creation time."""
    return {
        "id": server.id,
        "name": server.name,
        "vendor": server.vendor,
        "dialect": server.dialect,
        "url": server.url,
        "sealed_api_keys": server.sealed_api_keys,
        "api_version": server.api_version,
        "sealed_headers": server.sealed_headers,
        "models": json.dumps(server.models),
        "weight": server.weight,
        "priority": server.priority,
        "passthrough": int(server.passthrough),
        "passthrough_paths": json.dumps(server.passthrough_paths),
        "region": server.region,
        "tags": json.dumps(server.tags),
        "mode": server.mode,
        "max_concurrency": server.max_concurrency,
        "rpm": server.rpm,
        "options": server.options,
        "updated_at": server.updated_at,
    }


async def insert_server(connection: Connection, server: ServerRow) -> None:
    """Raises IntegrityError if the name is taken."""
    await connection.execute(
        """
        INSERT INTO servers (
            id, name, vendor, dialect, url, sealed_api_keys, api_version, sealed_headers, models, weight,
            priority, passthrough, passthrough_paths, region, tags, mode,
            max_concurrency, rpm, options, created_at, updated_at
        ) VALUES (
            :id, :name, :vendor, :dialect, :url, :sealed_api_keys, :api_version, :sealed_headers, :models,
            :weight, :priority, :passthrough, :passthrough_paths, :region, :tags, :mode,
            :max_concurrency, :rpm, :options, :created_at, :updated_at
        )
        """,
        created_at=server.created_at,
        **_values(server),
    )


async def select_servers(connection: Connection) -> Sequence[ServerRow]:
    """All servers in the order of their names, including disabled ones."""
    rows = await connection.all(
        """
        SELECT
            id, name, vendor, dialect, url, sealed_api_keys, api_version, sealed_headers, models, weight,
            priority, passthrough, passthrough_paths, region, tags, mode,
            max_concurrency, rpm, options, created_at, updated_at
        FROM servers ORDER BY name
        """
    )
    return [_server_row(row) for row in rows]


async def select_server(connection: Connection, name: str) -> ServerRow | None:
    row = await connection.one(
        """
        SELECT
            id, name, vendor, dialect, url, sealed_api_keys, api_version, sealed_headers, models, weight,
            priority, passthrough, passthrough_paths, region, tags, mode,
            max_concurrency, rpm, options, created_at, updated_at
        FROM servers WHERE name = :name
        """,
        name=name,
    )
    return None if row is None else _server_row(row)


async def update_server(connection: Connection, server: ServerRow) -> bool:
    """Write all columns but ID and creation time. False: no such server. Raises IntegrityError."""
    changed = await connection.execute(
        """
        UPDATE servers SET
            name = :name, vendor = :vendor, dialect = :dialect, url = :url,
            sealed_api_keys = :sealed_api_keys,
            api_version = :api_version, sealed_headers = :sealed_headers, models = :models, weight = :weight,
            priority = :priority, passthrough = :passthrough, passthrough_paths = :passthrough_paths,
            region = :region, tags = :tags,
            mode = :mode, max_concurrency = :max_concurrency, rpm = :rpm, options = :options,
            updated_at = :updated_at
        WHERE id = :id
        """,
        **_values(server),
    )
    return changed == 1


async def delete_server(connection: Connection, name: str) -> bool:
    """False: there is no such server."""
    return await connection.execute("DELETE FROM servers WHERE name = :name", name=name) == 1


_MODELS = ServerRow.__slots__.index("models")
_PASSTHROUGH = ServerRow.__slots__.index("passthrough")
_PASSTHROUGH_PATHS = ServerRow.__slots__.index("passthrough_paths")
_TAGS = ServerRow.__slots__.index("tags")


def _server_row(row: Row) -> ServerRow:
    values = list(row)
    values[_MODELS] = tuple(json.loads(values[_MODELS]))
    values[_PASSTHROUGH] = bool(values[_PASSTHROUGH])
    values[_PASSTHROUGH_PATHS] = tuple(json.loads(values[_PASSTHROUGH_PATHS]))
    values[_TAGS] = tuple(json.loads(values[_TAGS]))
    return ServerRow(*values)
