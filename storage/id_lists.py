"""A list of IDs as one parameter. Each engine has its own form, so a statement with one exists twice."""

import json
from collections.abc import Sequence
from typing import Final

from storage.base import Connection

IN_SQLITE: Final = " IN (SELECT value FROM json_each(:ids))"
IN_POSTGRES: Final = " = ANY(:ids::text[])"


def id_list(connection: Connection, ids: Sequence[str]) -> object:
    """The value of the parameter `ids`."""
    return json.dumps(list(ids)) if connection.engine == "sqlite" else list(ids)
