"""The operator's API, /api/admin: keys, servers, users, usage. Thin: reads input, calls accounts, shows
rows.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs
from quart import Blueprint, request

from bluesminds.accounts.keys import Keys
from bluesminds.accounts.members import Members, require_email
from bluesminds.accounts.servers import LOCKED, Servers
from bluesminds.accounts.usage import UsageReports
from bluesminds.config.settings import Priority, ServerName, Weight
from bluesminds.errors import Conflict, InvalidRequest, NotFound, Unavailable
from bluesminds.gateway.probe import Probe
from bluesminds.http.client import Origin
from bluesminds.identity.password import Passwords
from bluesminds.values import Server
from bluesminds.web import present
from bluesminds.web.guard import actor, read_input, require_local

# Names are shown to people: nothing in them may move a cursor, start a line or turn the text around.
_UNSEEN = r"\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069"
Name = Annotated[
    str,
    Meta(pattern=rf"^[^{_UNSEEN}]{{1,100}}\Z", description="1 to 100 characters without control characters"),
]
Limit = Annotated[int, Meta(ge=0, le=1_000_000_000, description="a whole number from 0 to 1000000000")]
Secret = Annotated[str, Meta(pattern=r"^[\x21-\x7e]+\Z", description="ASCII text without spaces")]


class NewKey(Struct, forbid_unknown_fields=True):
    name: Name
    user_id: str | None = None
    rpm: Limit | None = None
    concurrency: Limit | None = None
    expires_at: Annotated[int, Meta(gt=0, description="milliseconds since the epoch")] | None = None


class NewUser(Struct, forbid_unknown_fields=True):
    email: str
    password: str
    role: Literal["user", "admin"] = "user"


class NewServer(Struct, forbid_unknown_fields=True):
    name: ServerName
    url: str
    dialect: Literal["openai", "litellm", "anthropic"] = "openai"
    api_key: Secret | None = None
    models: Annotated[
        list[Name],
        Meta(description="a list of names of 1 to 100 characters without control characters"),
    ] = []
    weight: Weight = 1
    priority: Priority = 0


class Desk(Struct, frozen=True):
    """What the operator's API works with. `servers_now` lists every server in force, `probe` tries one."""

    keys: Keys
    members: Members
    servers: Servers
    usage: UsageReports
    passwords: Passwords
    servers_now: Callable[[], Awaitable[list[Server]]]
    servers_changed: Callable[[], Awaitable[None]]
    probe: Callable[[Server], Awaitable[Probe]]


def blueprint(desk: Desk) -> Blueprint:
    admin = Blueprint("admin", __name__, url_prefix="/api/admin")
    admin.before_request(require_local)
    _add_key_routes(admin, desk)
    _add_server_routes(admin, desk)

    @admin.get("/users")
    async def list_users() -> dict[str, object]:
        return present.listing([present.user(row) for row in await desk.members.list()])

    @admin.post("/users")
    async def create_user() -> tuple[dict[str, object], int]:
        wanted = await read_input(NewUser, request)
        email = require_email(wanted.email)
        password_hash = await desk.passwords.hash(wanted.password)
        user = await desk.members.create(actor(), role=wanted.role, email=email, password_hash=password_hash)
        return present.user(user), 201

    @admin.get("/usage")
    async def usage() -> dict[str, object]:
        days = request.args.get("days", "7")
        group = request.args.get("group", "model")
        totals = await desk.usage.totals(days=days, group=group)
        return present.listing([present.total(row, group) for row in totals])

    return admin


def _add_key_routes(admin: Blueprint, desk: Desk) -> None:
    @admin.get("/keys")
    async def list_keys() -> dict[str, object]:
        return present.listing([present.key(row) for row in await desk.keys.list()])

    @admin.post("/keys")
    async def create_key() -> tuple[dict[str, object], int]:
        wanted = await read_input(NewKey, request)
        owner = wanted.user_id or (await desk.members.local_user(actor()))[0]
        fields = structs.asdict(wanted) | {"user_id": owner}
        row, key = await desk.keys.create(actor(), **fields)
        return present.key(row) | {"key": key}, 201

    @admin.delete("/keys/<key_id>")
    async def revoke_key(key_id: str) -> tuple[str, int]:
        await desk.keys.revoke(actor(), key_id)
        return "", 204


def _add_server_routes(admin: Blueprint, desk: Desk) -> None:
    @admin.get("/servers")
    async def list_servers() -> dict[str, object]:
        rows = [present.server(row) for row in await desk.servers_now()]
        taken = {row["name"] for row in rows}
        rows += [present.server(row, LOCKED) for row in desk.servers.locked if row.name not in taken]
        return present.listing(rows)

    @admin.post("/servers")
    async def add_server() -> tuple[dict[str, object], int]:
        wanted = await read_input(NewServer, request)
        server = _server(wanted)
        if any(row.name == server.name and row.origin != "table" for row in await desk.servers_now()):
            raise Conflict("server_exists", f"The configuration has a server named {server.name} already.")
        await desk.servers.add(actor(), server)
        await desk.servers_changed()
        return present.server(server), 201

    @admin.delete("/servers/<name>")
    async def remove_server(name: str) -> tuple[str, int]:
        await desk.servers.remove(actor(), name)
        await desk.servers_changed()
        return "", 204

    @admin.post("/servers/<name>/test")
    async def test_server(name: str) -> dict[str, object]:
        for server in await desk.servers_now():
            if server.name == name:
                if not server.url:
                    raise Unavailable(
                        "server_not_running", "The demo server runs inside a running gateway only."
                    )
                return _probe_json(await desk.probe(server))
        if any(server.name == name for server in desk.servers.locked):
            return _probe_json(Probe(server=name, problem=LOCKED, models=None, seconds=0.0))
        raise NotFound("server_not_found", f"There is no server named {name}.")


def _server(wanted: NewServer) -> Server:
    try:
        Origin.parse(wanted.url)
    except ValueError as exc:
        raise InvalidRequest("invalid_url", f"{exc}.", param="url") from exc
    fields = structs.asdict(wanted) | {"models": tuple(wanted.models), "origin": "table"}
    return Server(**fields)


def _probe_json(found: Probe) -> dict[str, object]:
    return {
        "server": found.server,
        "ok": found.problem is None,
        "problem": found.problem,
        "models": None if found.models is None else [row.id for row in found.models],
        "latency_ms": round(found.seconds * 1000),
    }
