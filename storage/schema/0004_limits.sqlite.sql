-- What has been used: by key and by user, in the calendar periods the gateway names and in all.

ALTER TABLE usage ADD COLUMN cost_nano INTEGER; -- nano-USD; NULL is an unknown price
ALTER TABLE usage ADD COLUMN day TEXT NOT NULL DEFAULT ''; -- 2026-02-28 in the time zone of limits
ALTER TABLE usage ADD COLUMN month TEXT NOT NULL DEFAULT ''; -- 2026-02

-- unpriced: answers that used tokens of a model without a price, so that the cost does not tell all.
ALTER TABLE usage_hourly ADD COLUMN cost_nano INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_hourly ADD COLUMN unpriced INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_daily ADD COLUMN cost_nano INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_daily ADD COLUMN unpriced INTEGER NOT NULL DEFAULT 0;

CREATE TABLE quota_counters (
    subject TEXT NOT NULL PRIMARY KEY, -- key:ID or user:ID
    day TEXT NOT NULL,
    day_tokens INTEGER NOT NULL,
    day_nano INTEGER NOT NULL,
    month TEXT NOT NULL,
    month_tokens INTEGER NOT NULL,
    month_nano INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    total_nano INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which instance hands out the limits; it renews the lease for as long as it lives.
CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

DROP TRIGGER usage_roll_up;

-- Rolling up in a trigger makes "same transaction" and "once per row" properties of the table: a row that
-- is inserted again changes nothing and fires nothing.
CREATE TRIGGER usage_roll_up AFTER INSERT ON usage
BEGIN
    INSERT INTO usage_hourly
    VALUES (
        new.at - new.at % 3600000, new.key_id, new.user_id, new.model, new.server,
        1, new.outcome NOT IN ('ok', 'client_gone'),
        coalesce(new.prompt_tokens, 0), coalesce(new.completion_tokens, 0),
        coalesce(new.cached_tokens, 0), coalesce(new.reasoning_tokens, 0), new.duration_ms,
        coalesce(new.cost_nano, 0),
        new.cost_nano IS NULL AND coalesce(new.prompt_tokens, 0) + coalesce(new.completion_tokens, 0) > 0
    )
    ON CONFLICT DO UPDATE SET
        requests = requests + 1,
        errors = errors + excluded.errors,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens,
        reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
        duration_ms = duration_ms + excluded.duration_ms,
        cost_nano = cost_nano + excluded.cost_nano,
        unpriced = unpriced + excluded.unpriced;
    INSERT INTO usage_daily
    VALUES (
        new.at - new.at % 86400000, new.key_id, new.user_id, new.model, new.server,
        1, new.outcome NOT IN ('ok', 'client_gone'),
        coalesce(new.prompt_tokens, 0), coalesce(new.completion_tokens, 0),
        coalesce(new.cached_tokens, 0), coalesce(new.reasoning_tokens, 0), new.duration_ms,
        coalesce(new.cost_nano, 0),
        new.cost_nano IS NULL AND coalesce(new.prompt_tokens, 0) + coalesce(new.completion_tokens, 0) > 0
    )
    ON CONFLICT DO UPDATE SET
        requests = requests + 1,
        errors = errors + excluded.errors,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens,
        reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
        duration_ms = duration_ms + excluded.duration_ms,
        cost_nano = cost_nano + excluded.cost_nano,
        unpriced = unpriced + excluded.unpriced;
    -- Of a subject only the latest period is kept: a newer one takes its place, an older one is past.
    INSERT INTO quota_counters
    SELECT
        subject, new.day, tokens, nano, new.month, tokens, nano, tokens, nano
    FROM (
        SELECT
            'key:' || new.key_id AS subject,
            coalesce(new.prompt_tokens, 0) + coalesce(new.completion_tokens, 0) AS tokens,
            coalesce(new.cost_nano, 0) AS nano
        UNION ALL
        SELECT
            'user:' || new.user_id,
            coalesce(new.prompt_tokens, 0) + coalesce(new.completion_tokens, 0),
            coalesce(new.cost_nano, 0)
    )
    WHERE subject NOT IN ('key:', 'user:')
    ON CONFLICT DO UPDATE SET
        day_tokens = excluded.day_tokens * (excluded.day >= day) + day_tokens * (day >= excluded.day),
        day_nano = excluded.day_nano * (excluded.day >= day) + day_nano * (day >= excluded.day),
        day = max(day, excluded.day),
        month_tokens = excluded.month_tokens * (excluded.month >= month)
            + month_tokens * (month >= excluded.month),
        month_nano = excluded.month_nano * (excluded.month >= month)
            + month_nano * (month >= excluded.month),
        month = max(month, excluded.month),
        total_tokens = total_tokens + excluded.total_tokens,
        total_nano = total_nano + excluded.total_nano;
END;
