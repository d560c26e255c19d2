"""The prompt log: requests and responses in full, for their users.

Users read, export and delete their own. Administrators see which requests are kept, and can delete them. They
read the texts of other accounts only if the settings say so, and each access is in the audit log.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final

import trio
from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import Vault, is_uuid
from bluesminds.common.errors import Forbidden, NotFound
from bluesminds.common.prompts import LoggedPrompt, read_prompt
from storage.audit import AuditRow, insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.prompt_log import (
    PromptQuery,
    PromptRow,
    PromptSummary,
    delete_prompt,
    delete_prompts_of,
    has_prompt,
    select_prompt,
    select_prompts,
)

BATCH: Final = 100  # rows deleted in one transaction
EXPORT_PAGE: Final = 50  # rows


class ReadPrompt(Struct, frozen=True):
    """A row and what it contains."""

    row: PromptRow
    prompt: LoggedPrompt


class Prompts:
    """`administrators_read`: they may read the prompts of others."""

    def __init__(self, store: Store, *, vault: Vault, clock: Clock, administrators_read: bool) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self.administrators_read = administrators_read

    async def list(self, query: PromptQuery) -> Sequence[PromptSummary]:
        """Newest first."""
        return await self._store.read(select_prompts, query)

    def preview(self, row: PromptSummary) -> str:
        """The beginning of the last message; "" if no master key decrypts it."""
        try:
            return self._vault.open(row.sealed_preview)
        except ValueError:
            return ""

    async def has(self, prompt_id: str) -> bool:
        """Whether the log has this request."""
        return await self._store.read(has_prompt, prompt_id)

    async def get(self, user_id: str, prompt_id: str) -> ReadPrompt:
        """A prompt of the user. Raises NotFound."""
        row = await self._store.read(select_prompt, prompt_id, user_id) if is_uuid(prompt_id) else None
        if row is None:
            raise no_such_prompt()
        return await self._open(row)

    async def get_any(self, actor: Actor, prompt_id: str, action: str = "prompt_log.read") -> ReadPrompt:
        """A prompt of any user, for an administrator. `action`: for the audit log. Raises Forbidden and
        NotFound.
        """
        self._require_rule()
        row = await self._store.read(select_prompt, prompt_id, None) if is_uuid(prompt_id) else None
        if row is None:
            raise no_such_prompt()
        audit = entry(self._clock, actor, action, row.id, after={"user_id": row.user_id})
        await self._store.write(_audit, audit)
        return await self._open(row)

    async def export(self, user_id: str) -> AsyncIterator[Sequence[ReadPrompt]]:
        """All prompts of a user in pages, newest first. Each page is read when the one before is consumed."""
        query = PromptQuery(EXPORT_PAGE, user_id=user_id)
        while rows := await self._store.read(select_prompts, query):
            page = []
            for one in rows:
                row = await self._store.read(select_prompt, one.id, user_id)
                if row is not None:
                    with contextlib.suppress(NotFound):  # encrypted with a key that is missing
                        page.append(await self._open(row))
            yield page
            query = replace(query, before=rows[-1].id)

    async def export_any(self, actor: Actor, user_id: str) -> AsyncIterator[Sequence[ReadPrompt]]:
        """The same for an administrator. Raises Forbidden before the first page."""
        self._require_rule()
        audit = entry(self._clock, actor, "prompt_log.export", user_id)
        await self._store.write(_audit, audit)
        return self.export(user_id)

    async def remove(self, actor: Actor, user_id: str | None, prompt_id: str) -> None:
        """With `user_id` None, of any user. Raises NotFound."""
        audit = entry(self._clock, actor, "prompt_log.delete", prompt_id, after={"removed": 1})
        if not is_uuid(prompt_id) or not await self._store.write(_remove, prompt_id, user_id, audit):
            raise no_such_prompt()

    async def remove_all(self, actor: Actor, user_id: str) -> int:
        """Delete everything that is kept for a user. Returns the number of requests."""
        removed = 0
        while count := await self._store.write(delete_prompts_of, user_id, BATCH):
            removed += count
        audit = entry(self._clock, actor, "prompt_log.delete", user_id, after={"removed": removed})
        await self._store.write(_audit, audit)
        return removed

    def _require_rule(self) -> None:
        if not self.administrators_read:
            raise Forbidden(
                "prompt_log_private",
                "Administrators may not read the prompts of other accounts. To allow it, set "
                "administrators = true in [prompt_log]. The audit log then records "
                "each access.",
            )

    async def _open(self, row: PromptRow) -> ReadPrompt:
        """Raises NotFound if it was encrypted with a master key that is missing."""

        def decrypt() -> LoggedPrompt:
            return read_prompt(self._vault.open_bytes(row.sealed))

        try:
            return ReadPrompt(row, await trio.to_thread.run_sync(decrypt))
        except ValueError as exc:
            raise NotFound(
                "prompt_unreadable",
                "This prompt was encrypted with another master key. Restore that key, or delete the prompt.",
            ) from exc


def no_such_prompt() -> NotFound:
    return NotFound(
        "prompt_not_found",
        "The prompt of this request was not stored, or was deleted. GET "
        "/api/prompt-log lists the stored requests.",
    )


async def _audit(connection: Connection, audit: AuditRow) -> None:
    await lock_audit_head(connection)
    await insert_audit(connection, audit)


async def _remove(connection: Connection, prompt_id: str, user_id: str | None, audit: AuditRow) -> bool:
    await lock_audit_head(connection)
    if not await delete_prompt(connection, prompt_id, user_id):
        return False
    await insert_audit(connection, audit)
    return True
