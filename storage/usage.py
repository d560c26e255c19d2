"""The usage log and its sums by hour and by day.

Every request ends in one `insert_batch`. A row that is inserted twice, with the same `at` and `id`, is
counted once, in the log and in all sums. Key, user, model or server are "" where a request has none; a token
count is None if it is not known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, LiteralString

from storage.base import Connection, Row
from storage.latency import LOWS
from storage.ledger import REVENUE, LedgerRow, post, wallet_account
from storage.receipts import ReceiptRow

HOUR = 3_600_000  # milliseconds
DAY = 24 * HOUR
Quarantine = Literal["", "implausible", "too_large", "cost"]
LATEST = (2**63 - 1, "")
"""The page position above every row."""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One request that was answered.

    `at`, `first_byte_ms`, `duration_ms` and `audio_ms` (of the audio that was read) are milliseconds.
    `cost_nano` is nano-USD, None if the model has no price; `price_version` is then "".
    `charged_nano` was paid with prepaid credit, None if the account has none. `day` and `month` name the
    periods of the limits that the request counts in.

    Meters: `own_input_tokens` and `own_output_tokens` are the gateway's own count, `reported_cost_nano` what
    the server says that the request costs. `quarantine` says why a report of the server was not used.

    For a new price: `markup` in hundredths of a percent, the `service_tier` in the response unless it is the
    standard one, and the names that prices are found by. `sent_model` is what the server got, `served_model`
    the fallback model; both are "" if they are `model`. `budget_tier` is the tier whose common budget the
    request counts in, "" for none.
    """

    id: str
    at: int
    request_id: str
    key_id: str
    user_id: str
    endpoint: str
    model: str
    server: str
    status: int
    outcome: str
    streamed: bool
    attempts: int
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    audio_input_tokens: int | None
    audio_output_tokens: int | None
    image_input_tokens: int | None
    image_output_tokens: int | None
    images: int | None
    audio_ms: int | None
    characters: int | None
    usage_source: Literal["upstream", "estimated", "cache", "none"]
    first_byte_ms: int | None
    duration_ms: int
    cost_nano: int | None
    price_version: str
    charged_nano: int | None
    day: str
    month: str
    own_input_tokens: int | None = None
    own_output_tokens: int | None = None
    reported_cost_nano: int | None = None
    quarantine: Quarantine = ""
    markup: int = 0
    service_tier: str = ""
    sent_model: str = ""
    served_model: str = ""
    budget_tier: str = ""
    cache_write_hour_tokens: int | None = None


async def insert_batch(
    connection: Connection, rows: Sequence[UsageRow], receipts: Sequence[ReceiptRow] = ()
) -> None:
    """Insert the rows with their receipts, add the rows to the sums, and charge those that are paid with
    prepaid credit. This commits and ends the unit.
    """
    if not rows:
        return
    charges = [_charge(row) for row in rows if row.charged_nano]
    if charges:
        await post(connection, charges)
    if connection.engine == "sqlite":
        await connection.many(INSERT_SQLITE, rows, also=(INSERT_RECEIPTS, receipts), final=True)
    else:
        columns = {name: [getattr(row, name) for row in rows] for name in UsageRow.__slots__}
        explained = {
            "receipt_ids": [one.id for one in receipts],
            "receipt_ats": [one.at for one in receipts],
            "receipts": [one.receipt for one in receipts],
        }
        await connection.execute(INSERT_POSTGRES, final=True, lows=LOWS, **columns, **explained)


async def select_usage(connection: Connection, at: int, request: str) -> UsageRow | None:
    """The row of one request, which arrived at `at`."""
    row = await connection.one(SELECT_ONE, at=at, id=request)
    return None if row is None else usage_row(row)


def _charge(row: UsageRow) -> LedgerRow:
    return LedgerRow(
        id=f"charge:{row.id}",
        at=row.at,
        kind="charge",
        debit=wallet_account(row.user_id),
        credit=REVENUE,
        amount_nano=row.charged_nano or 0,
        user_id=row.user_id,
        reference=row.id,
        detail="{}",
    )


USAGE_COLUMNS = """
    id, at, request_id, key_id, user_id, endpoint, model, server, status, outcome, streamed, attempts,
    input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,
    audio_input_tokens, audio_output_tokens, image_input_tokens, image_output_tokens,
    images, audio_ms, characters, usage_source,
    first_byte_ms, duration_ms, cost_nano, price_version, charged_nano, day, month,
    own_input_tokens, own_output_tokens, reported_cost_nano, quarantine,
    markup, service_tier, sent_model, served_model, budget_tier, cache_write_hour_tokens
"""
_INSERT = "INSERT INTO usage (" + USAGE_COLUMNS + ")"

# A trigger adds the rows to the sums.
INSERT_SQLITE = (
    _INSERT
    + """VALUES (
        :id, :at, :request_id, :key_id, :user_id, :endpoint, :model, :server, :status, :outcome, :streamed,
        :attempts, :input_tokens, :output_tokens, :cache_read_tokens, :cache_write_tokens, :reasoning_tokens,
        :audio_input_tokens, :audio_output_tokens, :image_input_tokens, :image_output_tokens,
        :images, :audio_ms, :characters, :usage_source, :first_byte_ms, :duration_ms, :cost_nano,
        :price_version, :charged_nano, :day, :month,
        :own_input_tokens, :own_output_tokens, :reported_cost_nano, :quarantine,
        :markup, :service_tier, :sent_model, :served_model, :budget_tier, :cache_write_hour_tokens
    )
    ON CONFLICT DO NOTHING
    """
)

INSERT_RECEIPTS: LiteralString = (
    "INSERT INTO receipts (id, at, receipt) VALUES (:id, :at, :receipt) ON CONFLICT DO NOTHING"
)

_SUM_ROWS: LiteralString = """
        count(*), count(*) FILTER (WHERE outcome NOT IN ('ok', 'client_gone', 'stopped')),
        coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),
        coalesce(sum(cache_read_tokens), 0), coalesce(sum(cache_write_tokens), 0),
        coalesce(sum(reasoning_tokens), 0),
        coalesce(sum(audio_input_tokens), 0), coalesce(sum(audio_output_tokens), 0),
        coalesce(sum(image_input_tokens), 0), coalesce(sum(image_output_tokens), 0),
        coalesce(sum(images), 0), coalesce(sum(audio_ms), 0), coalesce(sum(characters), 0),
        sum(duration_ms), coalesce(sum(cost_nano), 0),
        count(*) FILTER (WHERE cost_nano IS NULL AND
            coalesce(input_tokens, 0) + coalesce(output_tokens, 0)
            + coalesce(images, 0) + coalesce(audio_ms, 0) + coalesce(characters, 0) > 0)
"""
_HISTOGRAMS: LiteralString = (
    ", count_values(array_agg(duration_low)), count_values(array_agg(first_byte_low))"
)
_ADD_SUMS: LiteralString = """ DO UPDATE SET
        requests = total.requests + excluded.requests,
        errors = total.errors + excluded.errors,
        input_tokens = total.input_tokens + excluded.input_tokens,
        output_tokens = total.output_tokens + excluded.output_tokens,
        cache_read_tokens = total.cache_read_tokens + excluded.cache_read_tokens,
        cache_write_tokens = total.cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = total.reasoning_tokens + excluded.reasoning_tokens,
        audio_input_tokens = total.audio_input_tokens + excluded.audio_input_tokens,
        audio_output_tokens = total.audio_output_tokens + excluded.audio_output_tokens,
        image_input_tokens = total.image_input_tokens + excluded.image_input_tokens,
        image_output_tokens = total.image_output_tokens + excluded.image_output_tokens,
        images = total.images + excluded.images,
        audio_ms = total.audio_ms + excluded.audio_ms,
        characters = total.characters + excluded.characters,
        duration_ms = total.duration_ms + excluded.duration_ms,
        cost_nano = total.cost_nano + excluded.cost_nano,
        unpriced = total.unpriced + excluded.unpriced
"""
_ADD_HISTOGRAMS: LiteralString = """,
        durations = add_counts(total.durations, excluded.durations),
        first_bytes = add_counts(total.first_bytes, excluded.first_bytes)
"""
# Rows of the sums are locked in the order of their keys, so that two instances cannot deadlock.
_EACH_ROWS: LiteralString = (
    " key_id, user_id, model, server,"
    + _SUM_ROWS
    + _HISTOGRAMS
    + " FROM timed GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"
    + " ON CONFLICT (bucket_start, key_id, user_id, model, server)"
    + _ADD_SUMS
    + _ADD_HISTOGRAMS
)
_KEY_ROWS: LiteralString = (
    " key_id, user_id,"
    + _SUM_ROWS
    + " FROM timed GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 ON CONFLICT (bucket_start, key_id, user_id)"
    + _ADD_SUMS
)
_SITE_ROWS: LiteralString = (
    " model, server,"
    + _SUM_ROWS
    + _HISTOGRAMS
    + " FROM timed GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 ON CONFLICT (bucket_start, model, server)"
    + _ADD_SUMS
    + _ADD_HISTOGRAMS
)

INSERT_POSTGRES = (
    "WITH logged AS ("  # noqa: S608 - literals
    + _INSERT
    + """SELECT * FROM unnest(
            :id::text[], :at::bigint[], :request_id::text[], :key_id::text[], :user_id::text[],
            :endpoint::text[], :model::text[], :server::text[], :status::bigint[], :outcome::text[],
            :streamed::bigint[], :attempts::bigint[], :input_tokens::bigint[], :output_tokens::bigint[],
            :cache_read_tokens::bigint[], :cache_write_tokens::bigint[], :reasoning_tokens::bigint[],
            :audio_input_tokens::bigint[], :audio_output_tokens::bigint[], :image_input_tokens::bigint[],
            :image_output_tokens::bigint[], :images::bigint[], :audio_ms::bigint[], :characters::bigint[],
            :usage_source::text[], :first_byte_ms::bigint[], :duration_ms::bigint[], :cost_nano::bigint[],
            :price_version::text[], :charged_nano::bigint[], :day::text[], :month::text[],
            :own_input_tokens::bigint[], :own_output_tokens::bigint[], :reported_cost_nano::bigint[],
            :quarantine::text[], :markup::bigint[], :service_tier::text[], :sent_model::text[],
            :served_model::text[], :budget_tier::text[], :cache_write_hour_tokens::bigint[]
        )
        ON CONFLICT DO NOTHING
        RETURNING *
    ), explained AS (
        INSERT INTO receipts SELECT * FROM unnest(
            :receipt_ids::text[], :receipt_ats::bigint[], :receipts::text[]
        )
        ON CONFLICT DO NOTHING
    ), timed AS (
        SELECT
            *, (:lows::bigint[])[width_bucket(duration_ms, :lows)] AS duration_low,
            (:lows)[width_bucket(first_byte_ms, :lows)] AS first_byte_low
        FROM logged
    ), hourly AS (
        INSERT INTO usage_hourly AS total SELECT at - at % 3600000,"""
    + _EACH_ROWS
    + """
    ), site_hourly AS (
        INSERT INTO usage_site_hourly AS total SELECT at - at % 3600000,"""
    + _SITE_ROWS
    + """
    ), meters AS (
        INSERT INTO usage_meters AS total
        SELECT
            at - at % 86400000, model, server, sum(compared),
            sum(compared * coalesce(own_input_tokens, 0)), sum(compared * coalesce(input_tokens, 0)),
            sum(measured * coalesce(own_output_tokens, 0)), sum(measured * coalesce(output_tokens, 0)),
            sum(costed), sum(costed * (coalesce(cost_nano, 0) * 10000 / (10000 + markup))),
            sum(costed * coalesce(reported_cost_nano, 0)),
            count(*) FILTER (WHERE quarantine <> '')
        FROM logged, LATERAL (SELECT
            (usage_source = 'upstream' AND own_input_tokens IS NOT NULL)::int AS compared,
            (usage_source = 'upstream' AND own_output_tokens IS NOT NULL
                AND coalesce(reasoning_tokens, 0) = 0)::int AS measured,
            (usage_source = 'upstream' AND cost_nano IS NOT NULL
                AND reported_cost_nano IS NOT NULL)::int AS costed
        ) AS meters
        WHERE own_input_tokens IS NOT NULL OR reported_cost_nano IS NOT NULL OR quarantine <> ''
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (bucket_start, model, server) DO UPDATE SET
            compared = total.compared + excluded.compared,
            own_input = total.own_input + excluded.own_input,
            reported_input = total.reported_input + excluded.reported_input,
            own_output = total.own_output + excluded.own_output,
            reported_output = total.reported_output + excluded.reported_output,
            costed = total.costed + excluded.costed,
            own_cost_nano = total.own_cost_nano + excluded.own_cost_nano,
            reported_cost_nano = total.reported_cost_nano + excluded.reported_cost_nano,
            quarantined = total.quarantined + excluded.quarantined
    ), site_daily AS (
        INSERT INTO usage_site_daily AS total SELECT at - at % 86400000,"""
    + _SITE_ROWS
    + """
    ), key_daily AS (
        INSERT INTO usage_key_daily AS total SELECT at - at % 86400000,"""
    + _KEY_ROWS
    + """
    ), counted AS (
        SELECT
            subject, day, month, coalesce(input_tokens, 0) + coalesce(output_tokens, 0) AS tokens,
            coalesce(cost_nano, 0) AS nano
        FROM logged, LATERAL (
            VALUES ('key:' || key_id), ('user:' || user_id), ('tier:' || budget_tier)
        ) AS subjects (subject)
        WHERE subject NOT IN ('key:', 'user:', 'tier:')
    ), latest AS (
        SELECT subject, max(day) AS day, max(month) AS month FROM counted GROUP BY subject
    ), quotas AS (
        INSERT INTO quota_counters AS total
        SELECT
            subject, latest.day,
            coalesce(sum(tokens) FILTER (WHERE counted.day = latest.day), 0),
            coalesce(sum(nano) FILTER (WHERE counted.day = latest.day), 0),
            latest.month,
            coalesce(sum(tokens) FILTER (WHERE counted.month = latest.month), 0),
            coalesce(sum(nano) FILTER (WHERE counted.month = latest.month), 0),
            sum(tokens), sum(nano)
        FROM counted JOIN latest USING (subject) GROUP BY 1, 2, 5 ORDER BY 1
        ON CONFLICT (subject) DO UPDATE SET
            day_tokens = CASE WHEN excluded.day > total.day THEN excluded.day_tokens
                WHEN excluded.day = total.day THEN total.day_tokens + excluded.day_tokens
                ELSE total.day_tokens END,
            day_nano = CASE WHEN excluded.day > total.day THEN excluded.day_nano
                WHEN excluded.day = total.day THEN total.day_nano + excluded.day_nano
                ELSE total.day_nano END,
            day = greatest(total.day, excluded.day),
            month_tokens = CASE WHEN excluded.month > total.month THEN excluded.month_tokens
                WHEN excluded.month = total.month THEN total.month_tokens + excluded.month_tokens
                ELSE total.month_tokens END,
            month_nano = CASE WHEN excluded.month > total.month THEN excluded.month_nano
                WHEN excluded.month = total.month THEN total.month_nano + excluded.month_nano
                ELSE total.month_nano END,
            month = greatest(total.month, excluded.month),
            total_tokens = total.total_tokens + excluded.total_tokens,
            total_nano = total.total_nano + excluded.total_nano
    )
    INSERT INTO usage_daily AS total SELECT at - at % 86400000,"""
    + _EACH_ROWS
)


_STREAMED = UsageRow.__slots__.index("streamed")


def usage_row(row: Row) -> UsageRow:
    values = list(row)
    values[_STREAMED] = bool(values[_STREAMED])
    return UsageRow(*values)


SELECT_ONE = "SELECT" + USAGE_COLUMNS + "FROM usage WHERE at = :at AND id = :id"
