"""`python -m bench.usage`: fill the usage tables of both engines, and time each call of the usage API.

The rows are made in the database: 500 users with two keys each, 8 models, 3 servers, 90 days, 1 % errors.
Each call runs five times; the table shows the first and the median, in milliseconds. Nothing is checked.
"""

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import trio

from bluesminds.accounts.usage import UsageReports
from storage import Store, open_store
from storage.latency import LOWS
from storage.usage import DAY, HOUR, USAGE_COLUMNS
from storage.usage_log import LogQuery
from storage.usage_stats import StatsQuery
from tests.storage.postgres_server import PostgresServer

DAYS: Final = 90
NOW: Final = 20_600 * DAY + DAY // 2
START: Final = NOW - DAYS * DAY
ROUNDS: Final = 5
_USER: Final = "'user-' || (n * 7919 % 500)"
_KEY: Final = "'key-' || (n * 7919 % 500) || '-' || (n / 500 % 2)"
_ROW: Final = f"""
    '00000000-0000-7000-8000-' || lpad(CAST(n AS TEXT), 12, '0'),
    {START} + CAST(n * ({DAYS}.0 * {DAY} / :rows) AS BIGINT), 'request-' || n, {_KEY}, {_USER},
    'chat.completions', 'model-' || (n * 31 % 8), 'server-' || (n * 17 % 3),
    CASE n % 100 WHEN 7 THEN 502 ELSE 200 END, CASE n % 100 WHEN 7 THEN 'upstream_error' ELSE 'ok' END,
    n % 2, 1, 500 + n % 3000, 200 + n % 700, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'upstream',
    50 + n * 13 % 900, 400 + n * 37 % 9000, 1000000 + n % 90000, '', 0, '2026-01-01', '2026-01'
"""
_SUMS: Final = """
    count(*), sum(CASE WHEN outcome = 'ok' THEN 0 ELSE 1 END), sum(input_tokens), sum(output_tokens),
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, sum(duration_ms), sum(cost_nano), 0
"""
_BY_KEY: Final = "key_id, user_id, model, server"
_TABLES: Final = (
    ("usage_hourly", HOUR, _BY_KEY),
    ("usage_daily", DAY, _BY_KEY),
    ("usage_site", DAY, "model, server"),
)
Call = Callable[[], Awaitable[object]]


class _Clock:
    def now_ms(self) -> int:
        return NOW


def _statements(rows: int, engine: str) -> Iterator[str]:
    numbers = f"(SELECT n::bigint AS n FROM generate_series(1, {rows}) AS n)"  # noqa: S608 - numbers
    if engine == "sqlite":
        numbers = (
            "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c"  # noqa: S608 - numbers
            f" WHERE n < {rows}) SELECT n FROM c)"
        )
    row = _ROW.replace(":rows", str(rows))
    if engine == "sqlite":
        row = row.replace("lpad(CAST(n AS TEXT), 12, '0')", "printf('%012d', n)")
        yield "DROP TRIGGER usage_roll_up"
    yield f"INSERT INTO usage ({USAGE_COLUMNS}) SELECT {row} FROM {numbers} AS numbers"  # noqa: S608
    for table, width, columns in _TABLES:
        yield _roll_up(table, width, columns, engine)
    yield "ANALYZE" if engine == "postgres" else "SELECT 1"


def _roll_up(table: str, width: int, columns: str, engine: str) -> str:
    bucket = f"at - at % {width}"
    if engine == "sqlite":
        low = "(SELECT max(low) FROM latency_bounds WHERE low <= {})"
        counts = "json_group_object(CAST(low AS TEXT), n)"
    else:
        bounds = f"ARRAY[{', '.join(map(str, LOWS))}]::bigint[]"
        low = f"({bounds})[width_bucket({{}}, {bounds})]"
        counts = "jsonb_object_agg(low, n)"
    names = ["bucket", *(name.strip() for name in columns.split(","))]
    same = " AND ".join(f"{{0}}.{name} = sums.{name}" for name in names)

    def histogram(column: str, name: str) -> str:
        return (
            f"(SELECT bucket, {columns}, {counts} AS counts FROM (SELECT {bucket} AS bucket, {columns},"  # noqa: S608
            f" {low.format(column)} AS low, count(*) AS n FROM usage GROUP BY {bucket}, {columns},"
            f" {low.format(column)}) AS one GROUP BY bucket, {columns}) AS {name}"
        )

    return (
        f"INSERT INTO {table} SELECT sums.*, durations.counts, first_bytes.counts FROM"  # noqa: S608
        f" (SELECT {bucket} AS bucket, {columns}, {_SUMS} FROM usage GROUP BY {bucket}, {columns}) AS sums"
        f" JOIN {histogram('duration_ms', 'durations')} ON {same.format('durations')}"
        f" JOIN {histogram('first_byte_ms', 'first_bytes')} ON {same.format('first_bytes')}"
    )


def _calls(reports: UsageReports) -> dict[str, Call]:
    of_all = StatsQuery(NOW - 90 * DAY, NOW, ("day", "model"))
    page = LogQuery(50)
    user, key = "user-7", "key-7-0"
    month = NOW - 30 * DAY
    stats, log = reports.stats, reports.page
    return {
        "stats, all, 90 days by day and model": partial(stats, of_all),
        "stats, all, 90 days by server": partial(stats, replace(of_all, groups=("server",))),
        "stats, all, 24 h by hour": partial(stats, replace(of_all, since=NOW - DAY, groups=("hour",))),
        "stats, all, 7 days by user": partial(stats, replace(of_all, since=NOW - 7 * DAY, groups=("user",))),
        "stats, all, 30 days by user": partial(stats, replace(of_all, since=month, groups=("user",))),
        "stats, user, 90 days by day and model": partial(stats, replace(of_all, user_id=user)),
        "stats, user, 24 h by hour": partial(
            stats, replace(of_all, since=NOW - DAY, groups=("hour",), user_id=user)
        ),
        "stats, key, 90 days by month": partial(
            stats, replace(of_all, groups=("month",), user_id=user, key_id=key)
        ),
        "log, all": partial(log, page),
        "log, all, errors": partial(log, replace(page, failed=True)),
        "log, all, unknown model": partial(log, replace(page, model="unknown")),
        "log, all, by request id": partial(log, replace(page, request_id="request-77777")),
        "log, user": partial(log, replace(page, user_id=user)),
        "log, user, status 502": partial(log, replace(page, user_id=user, statuses=(502, 502))),
        "log, user, one key": partial(log, replace(page, user_id=user, key_id=key)),
        "costs, user": partial(reports.costs, user),
        "costs, all": partial(reports.costs, None),
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


async def _create(url: str) -> None:
    async with open_store(url) as store:
        _: Store = store


def _build_sqlite(path: Path, rows: int) -> str:
    url = f"sqlite://{path}"
    trio.run(_create, url)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA synchronous = off")
    database.execute("PRAGMA cache_size = -262144")
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


@contextmanager
def _timed(what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - began:.0f} s", flush=True)


def _print(engine: str, found: dict[str, tuple[float, float]]) -> None:
    print(f"\n{engine:<42}{'first':>10}{'median':>10}  ms")
    for name, (first, median) in found.items():
        print(f"{name:<42}{first:>10.1f}{median:>10.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--engine", choices=("sqlite", "postgres", "both"), default="both")
    given: Any = parser.parse_args()
    if given.engine != "postgres":
        with tempfile.TemporaryDirectory(prefix="bm-bench-") as directory:
            with _timed(f"{given.rows} rows on SQLite"):
                url = _build_sqlite(Path(directory) / "bench.db", given.rows)
            _print("SQLite", trio.run(_measure, url))
    if given.engine != "sqlite":
        server = PostgresServer()
        try:
            with _timed(f"{given.rows} rows on PostgreSQL"):
                url = _build_postgres(server, given.rows)
            _print("PostgreSQL", trio.run(_measure, url))
        finally:
            server.close()


if __name__ == "__main__":
    main()
