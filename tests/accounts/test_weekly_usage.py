"""The usage of the last week, on Monday morning in the time zone of the account."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from bluesminds.accounts.weekly_usage import UsageWeek, WeeklyUsage
from storage import Store
from storage.events import select_new_events
from storage.mail_preferences import MailPreferencesRow, put_mail_preferences
from storage.store import open_store
from storage.usage import insert_batch
from storage.users import insert_user
from tests.databases import create_sqlite
from tests.storage.samples import usage, user

ADA, BOB = user(1, "ada@example.com"), user(2, "bob@example.com")
NANO = 10**9


class SetClock:
    now = 0

    def now_ms(self) -> int:
        return self.now


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


class Site:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = SetClock()
        self.weekly = WeeklyUsage(store, clock=self.clock, zone="UTC")

    async def events(self, now: str) -> list[tuple[str | None, dict[str, Any]]]:
        """All events after a round at this time."""
        self.clock.now = at(now)
        await self.weekly.run_once()
        rows = await self.store.read(select_new_events, 100)
        assert {row.kind for row in rows} <= {"usage.weekly"}
        return [(row.account_id, json.loads(row.data)) for row in rows]


@pytest.fixture
async def site(home: Path) -> AsyncIterator[Site]:
    create_sqlite(home / "gateway.db")
    async with open_store(f"sqlite://{home}/gateway.db") as store:
        for one in (ADA, BOB):
            await store.write(insert_user, one)
        yield Site(store)


async def add(
    site: Site, serial: int, time: str, user_id: str, model: str, usd: int, status: int = 200
) -> None:
    outcome = "ok" if status == 200 else "upstream_error"
    counts = {"cost_nano": usd * NANO, "status": status, "outcome": outcome}
    row = usage(serial, at=at(time), user_id=user_id, model=model, **counts)
    await site.store.write(insert_batch, [row])


async def test_week_is_reported_once_on_monday_morning(site: Site) -> None:
    await add(site, 1, "2027-01-03T12:00", ADA.id, "large", 7)  # Sunday of the week before
    await add(site, 2, "2027-01-04T00:00", ADA.id, "small", 1)
    await add(site, 3, "2027-01-10T23:00", ADA.id, "large", 2, status=500)
    await add(site, 4, "2027-01-11T01:00", ADA.id, "large", 9)  # this week
    assert await site.events("2027-01-10T09:00") == []
    assert await site.events("2027-01-11T07:59") == []
    ((account, data),) = await site.events("2027-01-11T08:00")
    assert account == ADA.id
    assert data == {
        "begins": "2027-01-04",
        "ends": "2027-01-10",
        "requests": 2,
        "failed": 1,
        "tokens": 60,
        "cost_usd": "3",
        "cost_before_usd": "7",
        "models": [{"model": "large", "cost_usd": "2"}, {"model": "small", "cost_usd": "1"}],
    }
    assert len(await site.events("2027-01-11T09:00")) == 1, "not again"
    assert len(await site.events("2027-01-12T09:00")) == 1, "not on Tuesday"


async def test_week_of_an_account_follows_its_time_zone(site: Site) -> None:
    await site.store.write(put_mail_preferences, MailPreferencesRow(ADA.id, (), "Asia/Tokyo", 0))
    await add(site, 1, "2027-01-03T15:00", ADA.id, "m", 1)  # Monday there
    await add(site, 2, "2027-01-10T15:00", ADA.id, "m", 5)  # Monday of the next week there
    await add(site, 3, "2027-01-09T15:00", BOB.id, "m", 3)
    ((account, data),) = await site.events("2027-01-10T23:00")
    assert (account, data["requests"], data["cost_usd"]) == (ADA.id, 1, "1")
    found = await site.events("2027-01-11T08:00")
    assert [(account, data["cost_usd"]) for account, data in found] == [(ADA.id, "1"), (BOB.id, "3")]


async def test_account_without_requests_last_week_gets_no_event(site: Site) -> None:
    await add(site, 1, "2027-01-11T00:30", ADA.id, "m", 1)
    assert await site.events("2027-01-11T08:00") == []


def test_week_with_a_change_to_summer_time_ends_at_midnight() -> None:
    zone = ZoneInfo("Europe/Berlin")
    week = UsageWeek.on_monday(at("2027-03-29T08:00"), zone)  # the clocks changed on the 28th
    assert week is not None and (week.begins, week.ends) == ("2027-03-22", "2027-03-28")
    assert (week.until - week.since) == (7 * 24 - 1) * 3_600_000
