-- Ids are UUIDv7 text, times are milliseconds since the epoch (UTC), flags are 0 or 1. The caller makes them.

CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    email TEXT,
    full_name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('user', 'admin')),
    password_hash TEXT,
    disabled_at BIGINT,
    created_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX users_email ON users (lower(email));

CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    digest BYTEA NOT NULL,
    prefix TEXT NOT NULL,
    last4 TEXT NOT NULL,
    rpm BIGINT,
    concurrency BIGINT,
    expires_at BIGINT,
    revoked_at BIGINT,
    last_used_at BIGINT,
    created_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX api_keys_digest ON api_keys (digest);
CREATE INDEX api_keys_user ON api_keys (user_id);

CREATE TABLE servers (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    dialect TEXT NOT NULL,
    url TEXT NOT NULL,
    sealed_api_key BYTEA,
    models TEXT NOT NULL, -- JSON list of names
    weight BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    enabled BIGINT NOT NULL CHECK (enabled IN (0, 1)),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX servers_name ON servers (name);

-- Append-only, and without references: history outlives keys and users. One index serves the pages of a
-- user and of a key. The statement that inserts also rolls up.
CREATE TABLE usage (
    id TEXT NOT NULL,
    at BIGINT NOT NULL,
    request_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    status BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    streamed BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    prompt_tokens BIGINT,
    completion_tokens BIGINT,
    cached_tokens BIGINT,
    reasoning_tokens BIGINT,
    usage_source TEXT NOT NULL,
    first_byte_ms BIGINT,
    duration_ms BIGINT NOT NULL,
    PRIMARY KEY (at, id)
);

CREATE INDEX usage_user_key ON usage (user_id, key_id, at);

CREATE TABLE usage_hourly (
    bucket_start BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    requests BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    PRIMARY KEY (bucket_start, key_id, user_id, model, server)
);

CREATE INDEX usage_hourly_user ON usage_hourly (user_id, bucket_start);

CREATE TABLE usage_daily (
    bucket_start BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    requests BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    PRIMARY KEY (bucket_start, key_id, user_id, model, server)
);

CREATE INDEX usage_daily_user ON usage_daily (user_id, bucket_start, key_id);

CREATE TABLE audit (
    id TEXT NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL, -- JSON object
    address TEXT NOT NULL,
    PRIMARY KEY (at, id)
);

CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
