"""Which optional mails a user gets, and the time zone of these mails."""

from collections.abc import Mapping
from dataclasses import replace

from msgspec import Struct

from bluesminds.common.clock import Clock, zone_named
from bluesminds.common.crypto import is_uuid
from bluesminds.common.errors import Forbidden, InvalidRequest
from bluesminds.notify.mail_groups import MAIL_GROUPS, MailGroup, OptOutLinks
from storage.base import Connection, Store
from storage.mail_preferences import MailPreferencesRow, put_mail_preferences, select_mail_preferences
from storage.users import select_user


class MailPreferences(Struct, frozen=True, kw_only=True):
    """`enabled`: the gateway sends mail about events."""

    store: Store
    clock: Clock
    links: OptOutLinks
    enabled: bool

    async def get(self, user_id: str) -> MailPreferencesRow:
        return await self.store.read(select_mail_preferences, user_id)

    async def change(
        self, user_id: str, groups: Mapping[MailGroup, bool], time_zone: str | None
    ) -> MailPreferencesRow:
        """Turn groups on and off; others stay. `time_zone` "" is that of the settings, None stays as it is.
        Raises InvalidRequest for an unknown zone.
        """
        if time_zone:
            try:
                zone_named(time_zone)
            except (KeyError, ValueError):
                message = "time_zone must be the name of a time zone, such as Europe/Berlin."
                raise InvalidRequest("invalid_value", message, param="time_zone") from None
        return await self.store.write(self._change, user_id, groups, time_zone)

    def check_link(self, user_id: str, group: str, signature: str) -> None:
        """Raises Forbidden for a link that is not signed."""
        if not is_uuid(user_id) or not self.links.is_valid(user_id, group, signature):
            raise Forbidden("invalid_token", "This link is invalid. Change your mails in the settings.")

    async def opt_out(self, user_id: str, group: str, signature: str) -> None:
        """Turn off a group with a link. Raises Forbidden."""
        self.check_link(user_id, group, signature)
        found = next(known for known in MAIL_GROUPS if known == group)
        await self.store.write(self._opt_out, user_id, found)

    async def _opt_out(self, connection: Connection, user_id: str, group: MailGroup) -> None:
        if await select_user(connection, user_id) is not None:
            await self._change(connection, user_id, {group: False}, None)

    async def _change(
        self,
        connection: Connection,
        user_id: str,
        groups: Mapping[MailGroup, bool],
        time_zone: str | None,
    ) -> MailPreferencesRow:
        row = await select_mail_preferences(connection, user_id)
        off = {*row.turned_off, *groups} - {name for name, is_on in groups.items() if is_on}
        changed = replace(
            row,
            turned_off=tuple(sorted(off)),
            time_zone=row.time_zone if time_zone is None else time_zone,
            updated_at=self.clock.now_ms(),
        )
        await put_mail_preferences(connection, changed)
        return changed
