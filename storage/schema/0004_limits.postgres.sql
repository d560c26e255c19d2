-- What has been used: by key and by user, in the calendar periods the gateway names and in all.

ALTER TABLE usage ADD COLUMN cost_nano BIGINT; -- nano-USD; NULL is an unknown price
ALTER TABLE usage ADD COLUMN day TEXT NOT NULL DEFAULT ''; -- 2026-02-28 in the time zone of limits
ALTER TABLE usage ADD COLUMN month TEXT NOT NULL DEFAULT ''; -- 2026-02

-- unpriced: answers that used tokens of a model without a price, so that the cost does not tell all.
ALTER TABLE usage_hourly ADD COLUMN cost_nano BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_hourly ADD COLUMN unpriced BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_daily ADD COLUMN cost_nano BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_daily ADD COLUMN unpriced BIGINT NOT NULL DEFAULT 0;

CREATE TABLE quota_counters (
    subject TEXT NOT NULL PRIMARY KEY, -- key:ID or user:ID
    day TEXT NOT NULL,
    day_tokens BIGINT NOT NULL,
    day_nano BIGINT NOT NULL,
    month TEXT NOT NULL,
    month_tokens BIGINT NOT NULL,
    month_nano BIGINT NOT NULL,
    total_tokens BIGINT NOT NULL,
    total_nano BIGINT NOT NULL
);

-- Which instance hands out the limits; it renews the lease for as long as it lives.
CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
