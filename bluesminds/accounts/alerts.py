"""Alerts: rules of the settings and of administrators, their states, and the task that evaluates them.

A notification is written with the new state in one transaction, as an event, which mail and webhooks deliver.
Channels that have not got the message yet are part of the state, so that a restart loses none.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

import msgspec
import trio
from msgspec import UNSET, Struct, UnsetType, structs

from bluesminds.accounts.audit import Actor, entry
from bluesminds.common.alerts import MAIL, AlertKind, AlertMessage, AlertRule, AlertState
from bluesminds.common.clock import Clock
from bluesminds.common.errors import Conflict, InvalidRequest, NotFound
from bluesminds.common.log import Log
from bluesminds.notify.alert_channels import AlertChannel, AlertSender, write_data
from bluesminds.notify.events import new_event
from storage.alerts import (
    AlertRuleRow,
    delete_alert_rule,
    delete_alert_state,
    insert_alert_rule,
    put_alert_state,
    select_alert_rules,
    select_alert_states,
    update_alert_rule,
)
from storage.audit import AuditRow, insert_audit, lock_audit_head
from storage.base import Connection, IntegrityError, StorageBroken, StorageUnavailable, Store
from storage.events import EventRow, insert_event
from storage.rounds import run_rounds

INTERVAL: Final = 15.0  # seconds
GIVE_UP_MS: Final = 3_600_000  # after which a message that a channel does not take is dropped
MAX_RULES: Final = 100  # in the database
_RULE: Final = msgspec.json.Decoder(AlertRule)
_STATE: Final = msgspec.json.Decoder(AlertState)
AlertOrigin = Literal["file", "table"]
Measure = Callable[[AlertRule], Awaitable[float]]


class RuleStatus(Struct, frozen=True):
    """`value` is None before the first evaluation."""

    rule: AlertRule
    origin: AlertOrigin
    state: AlertState
    value: float | None


class AlertChanges(Struct, frozen=True, kw_only=True):
    """The fields to change. UNSET fields stay the same."""

    kind: AlertKind | UnsetType = UNSET
    above: float | UnsetType = UNSET
    window: float | UnsetType = UNSET
    hold: float | UnsetType = UNSET
    quiet: float | UnsetType = UNSET
    channels: tuple[str, ...] | UnsetType = UNSET
    server: str | UnsetType = UNSET


class Alerts:
    """`configured` and `channels` are those of the settings."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        log: Log,
        configured: Sequence[AlertRule],
        channels: Sequence[AlertChannel],
        sender: AlertSender,
    ) -> None:
        self._store = store
        self._clock = clock
        self._log = log
        self._sender = sender
        self._values: dict[str, float] = {}
        self.configure(configured, channels)

    def configure(self, configured: Sequence[AlertRule], channels: Sequence[AlertChannel]) -> None:
        """Use the rules and channels of other settings, from the next evaluation on."""
        self._configured = configured
        self._channels: Mapping[str, AlertChannel] = {channel.name: channel for channel in channels}

    @property
    def channels(self) -> Sequence[str]:
        return (MAIL, *self._channels)

    async def list(self) -> Sequence[RuleStatus]:
        """All rules by name. A rule in the settings replaces an added one with the same name."""
        rows, states = await self._store.read(_read)
        return self._statuses(rows, states)

    def _statuses(self, rows: Sequence[AlertRuleRow], states: Mapping[str, str]) -> Sequence[RuleStatus]:
        found: dict[str, tuple[AlertRule, AlertOrigin]] = {
            row.name: (_RULE.decode(row.definition), "table") for row in rows
        }
        found |= {rule.name: (rule, "file") for rule in self._configured}
        return [
            RuleStatus(rule, origin, _state(states.get(name)), self._values.get(name))
            for name, (rule, origin) in sorted(found.items())
        ]

    async def add(self, actor: Actor, rule: AlertRule) -> None:
        """Raises InvalidRequest for an unknown channel, Conflict for a known name and for too many rules."""
        self._check_channels(rule.channels)
        if any(one.name == rule.name for one in self._configured):
            raise _rule_exists()
        row = AlertRuleRow(rule.name, msgspec.json.encode(rule).decode(), self._clock.now_ms())
        audit = entry(self._clock, actor, "alert.add", rule.name, after=_audit_fields(rule))
        try:
            await self._store.write(_insert, row, audit)
        except IntegrityError as exc:
            raise _rule_exists() from exc

    async def change(self, actor: Actor, name: str, changes: AlertChanges) -> AlertRule:
        """The rule afterwards; its state stays. Raises NotFound, InvalidRequest for an unknown channel,
        Conflict for a rule of the settings.
        """
        self._require_added(name)
        given = {
            field: value
            for field in changes.__struct_fields__
            if (value := getattr(changes, field)) is not UNSET
        }
        self._check_channels(given.get("channels", ()))
        return await self._store.write(self._change, actor, name, given)

    def _check_channels(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.channels:
                message = f"There is no channel {name!r}. Known: {', '.join(self.channels)}."
                raise InvalidRequest("invalid_value", message, param="channels")

    def _require_added(self, name: str) -> None:
        if any(one.name == name for one in self._configured):
            raise Conflict("alert_in_file", "The alert is in the configuration. Change it there.")

    async def _change(
        self, connection: Connection, actor: Actor, name: str, given: Mapping[str, Any]
    ) -> AlertRule:
        await lock_audit_head(connection)
        row = next((one for one in await select_alert_rules(connection) if one.name == name), None)
        if row is None:
            raise no_such_alert()
        before = _RULE.decode(row.definition)
        after = structs.replace(before, **given)
        if after != before:
            old, new = _audit_fields(before), _audit_fields(after)
            await insert_audit(
                connection, entry(self._clock, actor, "alert.update", name, before=old, after=new)
            )
            await update_alert_rule(connection, name, msgspec.json.encode(after).decode())
        return after

    async def remove(self, actor: Actor, name: str) -> None:
        """Raises NotFound, Conflict for a rule of the settings."""
        self._require_added(name)
        await self._store.write(_remove, name, entry(self._clock, actor, "alert.remove", name))

    async def test(self, name: str) -> Mapping[str, str]:
        """Send a test to the channels of a rule: what is wrong with each, "" for nothing. For mail an event
        is written. Raises NotFound.
        """
        status = next((one for one in await self.list() if one.rule.name == name), None)
        if status is None:
            raise no_such_alert()
        rule, now = status.rule, self._clock.now_ms()
        text = "This is a test. Nothing has happened."
        message = AlertMessage(rule.name, rule.kind, "test", text, 0.0, rule.above, now, now)
        results: dict[str, str] = {}
        async with trio.open_nursery() as nursery:
            for channel in rule.channels:
                if channel != MAIL:
                    nursery.start_soon(self._test, channel, message, results)
        if MAIL in rule.channels:
            data = write_data(message) | {"mail": True, "test": True}
            await self._store.write(insert_event, new_event(now, "alert.firing", None, data))
        return {channel: results.get(channel, "") for channel in rule.channels}

    async def _test(self, channel: str, message: AlertMessage, results: dict[str, str]) -> None:
        results[channel] = await self._send(channel, message)

    async def _send(self, name: str, message: AlertMessage) -> str:
        channel = self._channels.get(name)
        if channel is None:
            return "the configuration has no channel with this name"
        return await self._sender.send(channel, message)

    async def run(self, measure: Measure) -> None:
        """Evaluate the rules until cancelled."""
        await run_rounds(partial(self.evaluate, measure), INTERVAL)

    async def evaluate(self, measure: Measure) -> None:
        """Evaluate all rules once, and send what was not sent. Raises StorageError."""
        waiting: list[tuple[str, AlertState]] = []
        rows, states = await self._store.read(_read)
        statuses = self._statuses(rows, states)
        for name in states.keys() - {status.rule.name for status in statuses}:
            await self._store.write(delete_alert_state, name)  # a later rule with this name has its own
        for status in statuses:
            value = await measure(status.rule)
            self._values[status.rule.name] = value
            state = step(status.rule, status.state, value, self._clock.now_ms())
            if state != status.state:
                await self._store.write(_put, status.rule, status.state, state)
            if state.unsent:
                waiting.append((status.rule.name, state))
        async with trio.open_nursery() as nursery:
            for name, state in waiting:
                nursery.start_soon(self._send_all, name, state)

    async def _send_all(self, name: str, state: AlertState) -> None:
        message = state.message
        if message is None:
            return
        errors = {channel: await self._send(channel, message) for channel in state.unsent}
        left = tuple(channel for channel, error in errors.items() if error)
        if left and self._clock.now_ms() - message.at > GIVE_UP_MS:
            for channel in left:
                self._log.error("alert_not_sent", alert=name, channel=channel, reason=errors[channel])
            left = ()
        if left != state.unsent:
            encoded = msgspec.json.encode(structs.replace(state, unsent=left)).decode()
            with contextlib.suppress(StorageUnavailable, StorageBroken):  # then it is sent again
                await self._store.write(put_alert_state, name, encoded)


def step(rule: AlertRule, state: AlertState, value: float, now: int) -> AlertState:
    """The state after an evaluation. With a new `message`, it is to be sent."""
    if not value > rule.above:
        if state.phase == "ok":
            return state
        after = structs.replace(state, phase="ok", since=now, notified=False)
        return _with_message(rule, after, "resolved", value, now, state.since) if state.notified else after
    if state.phase == "ok":
        state = structs.replace(state, phase="pending", since=now)
    if state.phase == "pending" and now - state.since >= rule.hold * 1000:
        state = structs.replace(state, phase="firing")
    if state.phase == "firing" and not state.notified and now - state.notified_at >= rule.quiet * 1000:
        state = structs.replace(state, notified=True, notified_at=now)
        return _with_message(rule, state, "firing", value, now, state.since)
    return state


def _with_message(
    rule: AlertRule,
    state: AlertState,
    kind: Literal["firing", "resolved"],
    value: float,
    now: int,
    since: int,
) -> AlertState:
    message = AlertMessage(rule.name, rule.kind, kind, rule.describe(value), value, rule.above, now, since)
    return structs.replace(
        state, message=message, unsent=tuple(name for name in rule.channels if name != MAIL)
    )


def no_such_alert() -> NotFound:
    return NotFound("alert_not_found", "There is no alert with this name.")


def _rule_exists() -> Conflict:
    return Conflict("alert_exists", "There is an alert with this name already. Choose another name.")


def _audit_fields(rule: AlertRule) -> dict[str, object]:
    return {name: getattr(rule, name) for name in rule.__struct_fields__}


def _state(stored: str | None) -> AlertState:
    return AlertState() if stored is None else _STATE.decode(stored)


def _event(rule: AlertRule, message: AlertMessage) -> EventRow:
    data = write_data(message) | {"mail": MAIL in rule.channels}
    return new_event(
        message.at, "alert.firing" if message.state == "firing" else "alert.resolved", None, data
    )


async def _read(connection: Connection) -> tuple[Sequence[AlertRuleRow], dict[str, str]]:
    return await select_alert_rules(connection), await select_alert_states(connection)


async def _put(connection: Connection, rule: AlertRule, before: AlertState, after: AlertState) -> None:
    await put_alert_state(connection, rule.name, msgspec.json.encode(after).decode())
    if after.message is not None and after.message != before.message:
        await insert_event(connection, _event(rule, after.message))


async def _insert(connection: Connection, row: AlertRuleRow, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    await insert_alert_rule(connection, row)
    if len(await select_alert_rules(connection)) > MAX_RULES:
        raise Conflict(
            "too_many_alerts", f"Administrators can add at most {MAX_RULES} alerts. Delete one first."
        )


async def _remove(connection: Connection, name: str, audit: AuditRow) -> None:
    await lock_audit_head(connection)
    if not await delete_alert_rule(connection, name):
        raise no_such_alert()
    await insert_audit(connection, audit)
