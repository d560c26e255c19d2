-- Ids are UUIDv7 text, times are milliseconds since the epoch (UTC), flags are 0 or 1. The caller makes them.

CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    email TEXT,
    full_name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('user', 'admin')),
    password_hash TEXT,
    disabled_at INTEGER,
    created_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX users_email ON users (lower(email));

CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    digest BLOB NOT NULL,
    prefix TEXT NOT NULL,
    last4 TEXT NOT NULL,
    rpm INTEGER,
    concurrency INTEGER,
    expires_at INTEGER,
    revoked_at INTEGER,
    last_used_at INTEGER,
    created_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX api_keys_digest ON api_keys (digest);
CREATE INDEX api_keys_user ON api_keys (user_id);

CREATE TABLE servers (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    dialect TEXT NOT NULL,
    url TEXT NOT NULL,
    sealed_api_key BLOB,
    models TEXT NOT NULL, -- JSON list of names
    weight INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX servers_name ON servers (name);

-- Append-only, and without references: history outlives keys and users. Clustered by time, so that an
-- insert touches the last page; one index serves the pages of a user and of a key.
CREATE TABLE usage (
    id TEXT NOT NULL,
    at INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    status INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    streamed INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    cached_tokens INTEGER,
    reasoning_tokens INTEGER,
    usage_source TEXT NOT NULL,
    first_byte_ms INTEGER,
    duration_ms INTEGER NOT NULL,
    PRIMARY KEY (at, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_user_key ON usage (user_id, key_id, at);

CREATE TABLE usage_hourly (
    bucket_start INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    PRIMARY KEY (bucket_start, key_id, user_id, model, server)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_hourly_user ON usage_hourly (user_id, bucket_start);

CREATE TABLE usage_daily (
    bucket_start INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    PRIMARY KEY (bucket_start, key_id, user_id, model, server)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_daily_user ON usage_daily (user_id, bucket_start, key_id);

-- Rolling up in a trigger makes "same transaction" and "once per row" properties of the table: a row that
-- is inserted again changes nothing and fires nothing.
CREATE TRIGGER usage_roll_up AFTER INSERT ON usage
BEGIN
    INSERT INTO usage_hourly
    VALUES (
        new.at - new.at % 3600000, new.key_id, new.user_id, new.model, new.server,
        1, new.outcome NOT IN ('ok', 'client_gone'),
        coalesce(new.prompt_tokens, 0), coalesce(new.completion_tokens, 0),
        coalesce(new.cached_tokens, 0), coalesce(new.reasoning_tokens, 0), new.duration_ms
    )
    ON CONFLICT DO UPDATE SET
        requests = requests + 1,
        errors = errors + excluded.errors,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens,
        reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
        duration_ms = duration_ms + excluded.duration_ms;
    INSERT INTO usage_daily
    VALUES (
        new.at - new.at % 86400000, new.key_id, new.user_id, new.model, new.server,
        1, new.outcome NOT IN ('ok', 'client_gone'),
        coalesce(new.prompt_tokens, 0), coalesce(new.completion_tokens, 0),
        coalesce(new.cached_tokens, 0), coalesce(new.reasoning_tokens, 0), new.duration_ms
    )
    ON CONFLICT DO UPDATE SET
        requests = requests + 1,
        errors = errors + excluded.errors,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens,
        reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
        duration_ms = duration_ms + excluded.duration_ms;
END;

CREATE TABLE audit (
    id TEXT NOT NULL,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL, -- JSON object
    address TEXT NOT NULL,
    PRIMARY KEY (at, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
