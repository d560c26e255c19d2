"""`python -m bench.usage`: fill the usage tables of both engines, and time each call of the usage API.

The rows are made in the database: 500 users with two keys each, 8 models, 3 servers, 90 days, 1 % errors.
Each call and each page of the dashboard runs five times; the table shows the first and the median, in
milliseconds. Nothing is checked.
"""

import argparse
import json
import re
import sqlite3
import statistics
import tempfile
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import trio

from bluesminds.accounts.usage import UsageReports
from bluesminds.web.guard import PLAIN_COOKIE
from storage import Connection, Store
from storage.keys import insert_key
from storage.latency import LOWS
from storage.store import open_store
from storage.usage import DAY, HOUR, USAGE_COLUMNS
from storage.usage_log import LogQuery
from storage.usage_series import SeriesQuery
from storage.usage_stats import StatsQuery
from storage.users import Role, UserRow, insert_user
from tests import gateways
from tests.deployment import Callers, anonymous_client
from tests.storage.postgres_server import PostgresServer
from tests.storage.samples import key

DAYS: Final = 90
NOW: Final = 20_600 * DAY + DAY // 2
START: Final = NOW - DAYS * DAY
ROUNDS: Final = 5
_ID: Final = "'00000000-0000-7000-8000-' || {}"
_USERS: Final = 500
_KEYS: Final = 2  # of each user
_TABLES: Final = (
    ("usage_hourly", HOUR, "key_id, user_id, model, server", True),
    ("usage_daily", DAY, "key_id, user_id, model, server", True),
    ("usage_site_hourly", HOUR, "model, server", True),
    ("usage_site_daily", DAY, "model, server", True),
    ("usage_key_daily", DAY, "key_id, user_id", False),
)
_SUMS: Final = """
    count(*), sum(CASE WHEN outcome = 'ok' THEN 0 ELSE 1 END), sum(input_tokens), sum(output_tokens),
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, sum(duration_ms), sum(cost_nano), 0
"""
Call = Callable[[], Awaitable[object]]


class _Clock:
    def now_ms(self) -> int:
        return NOW


def user_id(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012}"


def key_id(user: int, number: int) -> str:
    return f"00000000-0000-7000-8000-{1_000_000 + number * _USERS + user:012}"


def _padded(number: str, engine: str) -> str:
    if engine == "sqlite":
        return _ID.format(f"printf('%012d', {number})")
    return _ID.format(f"lpad(CAST({number} AS TEXT), 12, '0')")


def _row(rows: int, engine: str) -> str:
    """The columns of row `n`."""
    user = f"n * 7919 % {_USERS}"
    return f"""
        {_padded("10000000 + n", engine)}, {START} + CAST(n * ({DAYS}.0 * {DAY} / {rows}) AS BIGINT),
        'request-' || n, {_padded(f"1000000 + n / {_USERS} % {_KEYS} * {_USERS} + {user}", engine)},
        {_padded(user, engine)}, 'chat.completions', 'model-' || (n / 7 * 31 % 8), 'server-' || (n * 17 % 3),
        CASE n % 100 WHEN 7 THEN 502 ELSE 200 END, CASE n % 100 WHEN 7 THEN 'upstream_error' ELSE 'ok' END,
        n % 2, 1, 500 + n % 3000, 200 + n % 700, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        'upstream', 50 + n * 13 % 900, 400 + n * 37 % 9000, 1000000 + n % 90000, '', 0, '2026-01-01',
        '2026-01', NULL, NULL, NULL, '', 0, '', '', '', '', NULL
    """


def _statements(rows: int, engine: str) -> Iterator[str]:
    """Rows first, then their indexes, then the sums day after day, so that each sort fits into memory."""
    if engine == "sqlite":
        numbers = (
            f"(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows})"  # noqa: S608
            " SELECT n FROM c)"
        )
        yield "DROP TRIGGER usage_roll_up"
    else:
        numbers = f"(SELECT n::bigint AS n FROM generate_series(1, {rows}) AS n)"  # noqa: S608 - numbers
    indexes = _indexes(engine)
    for name in indexes:
        yield f"DROP INDEX {name}"
    yield f"INSERT INTO usage ({USAGE_COLUMNS}) SELECT {_row(rows, engine)} FROM {numbers} AS numbers"  # noqa: S608
    yield from indexes.values()
    for day in range(START - START % DAY, NOW, DAY):
        for table, width, columns, has_histograms in _TABLES:
            yield _roll_up(table, width, columns, engine, day, has_histograms=has_histograms)
    yield "ANALYZE" if engine == "postgres" else "SELECT 1"


def _indexes(engine: str) -> dict[str, str]:
    """The statements that create the indexes of the log, from the schema."""
    schema = resources.files("storage.schema").joinpath(f"0001_initial.{engine}.sql").read_text()
    return {found[1]: found[0] for found in re.finditer(r"CREATE INDEX (\w+) ON usage .*(?=;)", schema)}


def _roll_up(table: str, width: int, columns: str, engine: str, day: int, *, has_histograms: bool) -> str:
    bucket = f"at - at % {width}"
    where = f"WHERE at >= {day} AND at < {day + DAY}"
    grouped = f"FROM usage {where} GROUP BY {bucket}, {columns}"
    if not has_histograms:
        return f"INSERT INTO {table} SELECT {bucket}, {columns}, {_SUMS} {grouped}"
    if engine == "sqlite":
        return (
            f"INSERT INTO {table} SELECT {bucket}, {columns}, {_SUMS}, histogram(duration_ms),"
            f" histogram(first_byte_ms) {grouped}"
        )
    bounds = f"ARRAY[{', '.join(map(str, LOWS))}]::bigint[]"
    names = ["bucket", *(name.strip() for name in columns.split(","))]
    same = " AND ".join(f"{{0}}.{name} = sums.{name}" for name in names)

    def histogram(column: str, name: str) -> str:
        low = f"({bounds})[width_bucket({column}, {bounds})]"
        return (
            f"(SELECT bucket, {columns}, jsonb_object_agg(low, n) AS counts FROM (SELECT {bucket} AS bucket,"  # noqa: S608
            f" {columns}, {low} AS low, count(*) AS n FROM usage {where} GROUP BY {bucket}, {columns}, {low})"
            f" AS one GROUP BY bucket, {columns}) AS {name}"
        )

    return (
        f"INSERT INTO {table} SELECT sums.*, durations.counts, first_bytes.counts FROM"  # noqa: S608
        f" (SELECT {bucket} AS bucket, {columns}, {_SUMS} {grouped}) AS sums"
        f" JOIN {histogram('duration_ms', 'durations')} ON {same.format('durations')}"
        f" JOIN {histogram('first_byte_ms', 'first_bytes')} ON {same.format('first_bytes')}"
    )


class _Histogram:
    """An aggregate function for SQLite."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def step(self, time: int) -> None:
        low = LOWS[bisect_right(LOWS, time) - 1]
        self._counts[low] = self._counts.get(low, 0) + 1

    def finalize(self) -> str:
        return json.dumps(self._counts, separators=(",", ":"))


def _calls(reports: UsageReports) -> dict[str, Call]:
    of_all = StatsQuery(NOW - 90 * DAY, NOW, ("day", "model"))
    page = LogQuery(50)
    user, one_key = user_id(7), key_id(7, 0)
    stats, log = reports.stats, reports.page
    hours = replace(of_all, since=NOW - DAY, groups=("hour",))
    of_user = replace(of_all, user_id=user)
    return {
        "stats, all, 90 days by day and model": partial(stats, of_all),
        "stats, all, 90 days by server": partial(stats, replace(of_all, groups=("server",))),
        "stats, all, 24 hours by hour": partial(stats, hours),
        "stats, all, 35 days by hour": partial(stats, replace(hours, since=NOW - 35 * DAY)),
        "stats, all, 90 days by user": partial(stats, replace(of_all, groups=("user",))),
        "stats, all, 90 days by key and month": partial(stats, replace(of_all, groups=("key", "month"))),
        "stats, all, 7 days by user and model": partial(
            stats, replace(of_all, since=NOW - 7 * DAY, groups=("user", "model"))
        ),
        "stats, all, 24 hours by hour and user": partial(stats, replace(hours, groups=("hour", "user"))),
        "stats, user, 90 days by day and model": partial(stats, of_user),
        "stats, user, 24 hours by hour": partial(stats, replace(hours, user_id=user)),
        "stats, user, 35 days by hour": partial(stats, replace(hours, since=NOW - 35 * DAY, user_id=user)),
        "stats, user, 90 days by tag": partial(stats, replace(of_user, groups=("tag",), tag="team")),
        "stats, key, 90 days by month": partial(stats, replace(of_user, groups=("month",), key_id=one_key)),
        "log, all": partial(log, page),
        "log, all, errors": partial(log, replace(page, failed=True)),
        "log, all, unknown model": partial(log, replace(page, model="unknown")),
        "log, all, by request id": partial(log, replace(page, request_id="request-77777")),
        "log, user": partial(log, replace(page, user_id=user)),
        "log, user, status 502": partial(log, replace(page, user_id=user, statuses=(502, 502))),
        "log, user, unknown model": partial(log, replace(page, user_id=user, model="unknown")),
        "log, user, one key": partial(log, replace(page, user_id=user, key_id=one_key)),
        "log, export of 1000 rows": partial(log, replace(page, limit=1000)),
        "costs, user": partial(reports.costs, user),
        "costs, all": partial(reports.costs, None),
        "ranking of models": partial(reports.totals, days=30, group="model"),
        "figures of a user, 90 days by key": partial(
            reports.figures, SeriesQuery(of_all.since, NOW, "day", "key", user), latest=6
        ),
        "figures, all, 24 hours": partial(
            reports.figures, SeriesQuery(hours.since, NOW, "hour", "none", None)
        ),
        "figures of 50 users": partial(reports.of_users, [user_id(number) for number in range(50)]),
    }


async def _measure(url: str) -> dict[str, tuple[float, float]]:
    found = {}
    async with open_store(url) as store:
        for name, call in _calls(UsageReports(store, clock=_Clock())).items():
            times = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                await call()
                times.append(1000 * (time.perf_counter() - began))
            found[name] = (times[0], statistics.median(times))
    return found


async def _measure_pages(url: str, home: Path) -> dict[str, tuple[float, float]]:
    """The times that the server reports for pages: those of a user, and those of an administrator."""
    found = {}
    async with trio.open_nursery() as nursery:
        gateway = await gateways.start(
            nursery, home, servers=[], clock=_Clock(), storage={"url": url}, usage={"hour_days": 0}
        )
        await gateway.services.store.write(_insert_accounts)
        callers = Callers(gateway, {"user": user_id(7), "admin": user_id(0)})
        for name, paths in _PAGES.items():
            token, _, _ = await callers.session(name)
            async with anonymous_client(
                gateway, accept="text/html", cookie=f"{PLAIN_COOKIE}={token}"
            ) as client:
                for path in paths:
                    times = []
                    for _ in range(ROUNDS):
                        answer = await client.get(path)
                        answer.raise_for_status()
                        times.append(float(answer.headers["server-timing"].removeprefix("page;dur=")))
                    found[f"page of {name}: {path}"[:60]] = (times[0], statistics.median(times))
        await gateway.stop()
    return found


async def _insert_accounts(connection: Connection) -> None:
    for number in range(_USERS):
        role: Role = "user" if number else "admin"
        email = f"user-{number}@example.com"
        user = UserRow(
            user_id(number), email, f"User {number}", role, None, None, START, email_verified_at=START
        )
        await insert_user(connection, user)
        for one in range(_KEYS):
            row = key(user, number * _KEYS + one)
            await insert_key(connection, replace(row, id=key_id(number, one), created_at=START))


_KEY_PAGE: Final = f"/dashboard/keys/{key_id(7, 0)}"
_PAGES: Final = {
    "user": (
        "/dashboard?range=90d",
        "/dashboard?range=24h",
        "/dashboard?range=90d&by=key",
        "/dashboard/usage?range=90d",
        "/dashboard/usage.csv?range=90d&by=key",
        "/dashboard/keys",
        f"{_KEY_PAGE}?range=90d",
        "/dashboard/requests",
        "/dashboard/requests?status=429",
        "/dashboard/requests?q=request-77777",
        "/dashboard/settings",
        "/dashboard/playground",
    ),
    "admin": (
        "/dashboard/admin/servers",
        "/dashboard/admin/models",
        "/dashboard/admin/routes",
        "/dashboard/admin/users",
        f"/dashboard/admin/users/{user_id(7)}",
        "/dashboard/admin/audit",
        "/dashboard/admin/tiers",
        "/dashboard/admin/system",
    ),
}


async def _create(url: str) -> None:
    async with open_store(url) as store:
        _: Store = store


def build_sqlite(path: Path, rows: int) -> str:
    url = f"sqlite://{path}"
    trio.run(_create, url)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA synchronous = off")
    database.execute("PRAGMA cache_size = -262144")
    database.create_aggregate("histogram", 1, _Histogram)  # type: ignore[arg-type]
    for statement in _statements(rows, "sqlite"):
        database.execute(statement)
    database.close()
    return url


def _build_postgres(server: PostgresServer, rows: int) -> str:
    url = server.create_database()
    trio.run(_create, url)
    name = urlsplit(url).path[1:]
    for statement in _statements(rows, "postgres"):
        server.psql(f"\\connect {name}\n{statement};")
    return url


def _measured_pages(url: str) -> dict[str, tuple[float, float]]:
    with tempfile.TemporaryDirectory(prefix="bm-bench-") as home:
        return trio.run(_measure_pages, url, Path(home))


@contextmanager
def _timed(what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - began:.0f} s", flush=True)


def _print(engine: str, found: dict[str, tuple[float, float]]) -> None:
    print(f"\n{engine:<60}{'first':>10}{'median':>10}  ms")
    for name, (first, median) in found.items():
        print(f"{name:<60}{first:>10.1f}{median:>10.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--engine", choices=("sqlite", "postgres", "both"), default="both")
    given: Any = parser.parse_args()
    if given.engine != "postgres":
        with tempfile.TemporaryDirectory(prefix="bm-bench-") as directory:
            with _timed(f"{given.rows} rows on SQLite"):
                url = build_sqlite(Path(directory) / "bench.db", given.rows)
            _print("SQLite", trio.run(_measure, url) | _measured_pages(url))
    if given.engine != "sqlite":
        server = PostgresServer()
        try:
            with _timed(f"{given.rows} rows on PostgreSQL"):
                url = _build_postgres(server, given.rows)
            _print("PostgreSQL", trio.run(_measure, url) | _measured_pages(url))
        finally:
            server.close()


if __name__ == "__main__":
    main()
