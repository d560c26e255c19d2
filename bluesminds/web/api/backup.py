"""/api/admin/backup: an archive with all data. Only the operator can read it, not administrators."""

from collections.abc import AsyncIterator
from typing import Annotated, Final, Protocol

from msgspec import Meta, Struct

from bluesminds.accounts.audit import AuditLog
from bluesminds.common.clock import Clock
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, Route, StreamBody, route

MEDIA: Final = "application/gzip"


class OpenBackup(Protocol):
    """Writes a backup and returns its bytes. Raises GatewayError."""

    async def __call__(self, passphrase: str | None, *, with_secrets: bool) -> AsyncIterator[bytes]: ...


class BackupInput(Struct, frozen=True, forbid_unknown_fields=True):
    """`passphrase` encrypts the pepper and the master key; null uses the configured one."""

    passphrase: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None
    with_secrets: bool = True


class BackupHandlers(Struct, frozen=True):
    open_backup: OpenBackup
    audit: AuditLog
    clock: Clock

    async def create(self, principal: Principal, body: BackupInput) -> HandlerResponse[StreamBody]:
        """Download a backup of the database as a compressed tar archive.

        Only the operator can use this endpoint, through the local socket.
        """
        chunks = await self.open_backup(body.passphrase, with_secrets=body.with_secrets)
        await self.audit.add(self.clock, principal.actor, "backup.create", "database")
        return HandlerResponse(StreamBody(chunks, MEDIA))


def routes(handlers: BackupHandlers) -> list[Route]:
    create = handlers.create
    return [route("POST", "/api/admin/backup", Access.OPERATOR, create, tag="Operation", media=MEDIA)]
