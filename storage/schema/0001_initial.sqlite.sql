-- The schema of a new database for SQLite.
--
-- IDs are UUIDv7 as text. Times are milliseconds since the epoch (UTC), durations are milliseconds, money is
-- nano-USD, flags are 0 or 1. The caller supplies all of them.

-- Accounts

CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    email TEXT, -- NULL: no login with a password
    full_name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('user', 'admin')),
    password_hash TEXT, -- NULL: no login with a password
    disabled_at INTEGER,
    created_at INTEGER NOT NULL,
    tier TEXT, -- name of a tier in the settings
    email_verified_at INTEGER,
    limits TEXT, -- JSON object of the limits that differ from the tier
    prompt_log TEXT CHECK (prompt_log IN ('on', 'off')) -- NULL: as the settings say
) STRICT;

CREATE UNIQUE INDEX users_email ON users (lower(email));

CREATE TABLE sessions (
    digest BLOB NOT NULL PRIMARY KEY, -- SHA-256 of the session token
    id TEXT NOT NULL UNIQUE, -- shown in lists, used to end the session
    user_id TEXT NOT NULL REFERENCES users (id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    address TEXT NOT NULL, -- client IP address
    user_agent TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_user ON sessions (user_id, id);
CREATE INDEX sessions_end ON sessions (expires_at);

CREATE TABLE one_time_tokens (
    digest BLOB NOT NULL PRIMARY KEY, -- SHA-256 of the token
    id TEXT NOT NULL UNIQUE, -- shown in lists, used to delete an invitation
    purpose TEXT NOT NULL CHECK (purpose IN ('verify_email', 'reset_password', 'invite')),
    user_id TEXT REFERENCES users (id), -- NULL for an invitation
    email TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX one_time_tokens_user ON one_time_tokens (user_id, purpose);
CREATE INDEX one_time_tokens_end ON one_time_tokens (expires_at);

-- Identities of users at services that they sign in with
CREATE TABLE identities (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    provider TEXT NOT NULL, -- name in the settings at the time of the link
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    email TEXT, -- what the provider last said
    created_at INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX identities_subject ON identities (issuer, subject);
CREATE INDEX identities_user ON identities (user_id, id);

-- Mails that wait to be sent
CREATE TABLE mail_outbox (
    id TEXT NOT NULL PRIMARY KEY, -- also the idempotency key
    kind TEXT NOT NULL,
    sealed BLOB NOT NULL, -- the message, encrypted
    decoy INTEGER NOT NULL CHECK (decoy IN (0, 1)), -- 1: never sent
    priority INTEGER NOT NULL, -- the lowest is sent first
    attempts INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL, -- not sent after this time
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX mail_outbox_due ON mail_outbox (due_at);

-- Addresses that get no mail
CREATE TABLE mail_suppressions (
    id TEXT NOT NULL PRIMARY KEY,
    email TEXT NOT NULL UNIQUE, -- in lower case
    reason TEXT NOT NULL CHECK (reason IN ('bounced', 'complained')),
    created_at INTEGER NOT NULL
) STRICT;

-- Optional mails that users have turned off, and the time zone of their mails
CREATE TABLE mail_preferences (
    user_id TEXT NOT NULL PRIMARY KEY REFERENCES users (id),
    turned_off TEXT NOT NULL, -- JSON list of groups of mails
    time_zone TEXT NOT NULL, -- '' for that of the settings
    updated_at INTEGER NOT NULL
) STRICT;

-- One-time codes of authenticator apps, which are asked for when a user signs in
CREATE TABLE second_factors (
    user_id TEXT NOT NULL PRIMARY KEY REFERENCES users (id),
    sealed_secret BLOB NOT NULL, -- encrypted
    confirmed_at INTEGER, -- NULL: the first code is missing, and none is asked for
    last_step INTEGER NOT NULL, -- the last accepted step of 30 seconds
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Codes for users who have lost their app. A used code is deleted.
CREATE TABLE recovery_codes (
    user_id TEXT NOT NULL REFERENCES users (id),
    digest BLOB NOT NULL, -- HMAC-SHA256
    PRIMARY KEY (user_id, digest)
) STRICT, WITHOUT ROWID;

-- API keys

-- A digest is the HMAC-SHA256 of a secret. Rotation moves the current digest to previous_digest, which is accepted
-- until previous_until (NULL: not at all). In the lists, which are JSON, NULL means "any".
CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    digest BLOB NOT NULL,
    prefix TEXT NOT NULL, -- first characters of the secret, for display
    last4 TEXT NOT NULL, -- last characters of the secret, for display
    scopes TEXT,
    allowed_models TEXT,
    allowed_ips TEXT,
    allowed_origins TEXT,
    limits TEXT, -- JSON object
    metadata TEXT NOT NULL, -- JSON object
    expires_at INTEGER,
    revoked_at INTEGER,
    last_used_at INTEGER,
    created_at INTEGER NOT NULL,
    rotated_at INTEGER,
    previous_digest BLOB,
    previous_until INTEGER,
    prompt_log TEXT CHECK (prompt_log IN ('on', 'off')) -- NULL: as the account
) STRICT;

CREATE UNIQUE INDEX api_keys_digest ON api_keys (digest);
CREATE UNIQUE INDEX api_keys_previous_digest ON api_keys (previous_digest);
CREATE INDEX api_keys_user ON api_keys (user_id, id);
CREATE INDEX api_keys_end ON api_keys (expires_at) WHERE expires_at IS NOT NULL AND revoked_at IS NULL;
CREATE INDEX api_keys_origins ON api_keys (allowed_origins)
WHERE allowed_origins IS NOT NULL AND revoked_at IS NULL;

-- Upstream servers

CREATE TABLE servers (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    vendor TEXT NOT NULL, -- '' for one that only the URL shows
    dialect TEXT NOT NULL,
    url TEXT NOT NULL,
    sealed_api_keys BLOB, -- encrypted JSON list
    api_version TEXT NOT NULL, -- '' for none
    sealed_headers BLOB, -- encrypted JSON object
    models TEXT NOT NULL, -- JSON list of names
    weight INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    passthrough INTEGER NOT NULL CHECK (passthrough IN (0, 1)),
    passthrough_paths TEXT NOT NULL, -- JSON list of paths
    region TEXT NOT NULL, -- '' for none
    tags TEXT NOT NULL, -- JSON list of names
    mode TEXT NOT NULL CHECK (mode IN ('active', 'draining', 'off')),
    max_concurrency INTEGER NOT NULL, -- 0 for no cap
    rpm INTEGER NOT NULL, -- 0 for no cap
    options TEXT NOT NULL, -- JSON object of what differs from the defaults
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX servers_name ON servers (name);

-- The servers that get the requests for a model
CREATE TABLE routes (
    id TEXT NOT NULL PRIMARY KEY,
    model TEXT NOT NULL, -- a name, or the start of names and *
    conditions TEXT NOT NULL, -- JSON object, '' for none
    definition TEXT NOT NULL, -- JSON object
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX routes_model ON routes (model, conditions);

-- Stored responses, and objects at servers

-- Responses that the gateway keeps itself. A response continues the one in previous_id, if any.
CREATE TABLE stored_responses (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    key_id TEXT NOT NULL,
    previous_id TEXT,
    sealed BLOB NOT NULL, -- input and response, encrypted
    size INTEGER NOT NULL, -- bytes before encryption
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX stored_responses_user ON stored_responses (user_id, created_at, size);
CREATE INDEX stored_responses_end ON stored_responses (expires_at);

-- The items in a stored response, which later requests may refer to. Clients choose some of the IDs.
CREATE TABLE stored_items (
    id TEXT NOT NULL,
    response_id TEXT NOT NULL REFERENCES stored_responses (id) ON DELETE CASCADE,
    PRIMARY KEY (id, response_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX stored_items_response ON stored_items (response_id);

-- Objects that requests created at a server: responses, files, batches and others. They belong to an account.
CREATE TABLE server_objects (
    id TEXT NOT NULL, -- as the server wrote it
    server TEXT NOT NULL, -- name of the server
    kind TEXT NOT NULL, -- collection that the object is in
    user_id TEXT REFERENCES users (id), -- NULL: the account was deleted
    key_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER, -- NULL: when it is deleted
    PRIMARY KEY (id, server)
) STRICT, WITHOUT ROWID;

CREATE INDEX server_objects_user ON server_objects (user_id, server, kind);
CREATE INDEX server_objects_end ON server_objects (expires_at) WHERE expires_at IS NOT NULL;

-- Keys of users for vendors, at most one of each vendor.
CREATE TABLE vendor_keys (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    vendor TEXT NOT NULL,
    sealed_api_key BLOB NOT NULL, -- encrypted
    last4 TEXT NOT NULL, -- last characters of the key, for display
    mode TEXT NOT NULL CHECK (mode IN ('first', 'only')),
    models TEXT NOT NULL, -- JSON list: the models that the user named
    listed TEXT NOT NULL, -- JSON list: the models that the vendor listed in the last test
    problem TEXT, -- what the last test found wrong
    tested_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX vendor_keys_user ON vendor_keys (user_id, vendor);

-- Chats of the playground
CREATE TABLE chats (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    sealed BLOB NOT NULL, -- title, model and parameters, encrypted
    messages INTEGER NOT NULL, -- number of messages
    size INTEGER NOT NULL, -- bytes of the messages before encryption
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE INDEX chats_user ON chats (user_id, updated_at, id);

CREATE TABLE chat_messages (
    chat_id TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    position INTEGER NOT NULL, -- from 0
    sealed BLOB NOT NULL, -- the message, encrypted
    size INTEGER NOT NULL, -- bytes before encryption
    created_at INTEGER NOT NULL,
    PRIMARY KEY (chat_id, position)
) STRICT;

-- Usage

-- One row for each request; rows are never changed. There are no foreign keys, because rows outlive keys and users.
-- The table is ordered by time, so that an insert touches only its last page.
CREATE TABLE usage (
    id TEXT NOT NULL,
    at INTEGER NOT NULL, -- arrival of the request
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
    input_tokens INTEGER, -- all input tokens, cached ones included
    output_tokens INTEGER, -- all output tokens, reasoning included
    cache_read_tokens INTEGER,
    cache_write_tokens INTEGER,
    reasoning_tokens INTEGER,
    audio_input_tokens INTEGER,
    audio_output_tokens INTEGER,
    image_input_tokens INTEGER,
    image_output_tokens INTEGER,
    images INTEGER, -- pictures made
    audio_ms INTEGER, -- milliseconds of audio that was read
    characters INTEGER, -- of text that was spoken
    usage_source TEXT NOT NULL,
    first_byte_ms INTEGER,
    duration_ms INTEGER NOT NULL,
    cost_nano INTEGER, -- NULL: the model has no price
    price_version TEXT NOT NULL, -- of the price that the cost follows from; '' without a price
    charged_nano INTEGER, -- paid with prepaid credit; NULL: the account has none
    day TEXT NOT NULL, -- such as 2026-02-28, in the time zone of the limits
    month TEXT NOT NULL, -- such as 2026-02
    own_input_tokens INTEGER, -- the gateway's own count
    own_output_tokens INTEGER,
    reported_cost_nano INTEGER, -- what the server says that it costs
    quarantine TEXT NOT NULL, -- why a report of the server was not used; '' for none
    markup INTEGER NOT NULL, -- in the cost, in hundredths of a percent
    service_tier TEXT NOT NULL, -- in the response; '' is the standard one
    sent_model TEXT NOT NULL, -- the name that the server got; '' is that of the client
    served_model TEXT NOT NULL, -- the fallback model; '' is that of the client
    budget_tier TEXT NOT NULL, -- tier whose common budget it counts in; '' for none
    cache_write_hour_tokens INTEGER, -- of cache_write_tokens, those that are kept for an hour
    PRIMARY KEY (at, id)
) STRICT, WITHOUT ROWID;

-- Pages of the log are read newest first: of all users, of a user, or of the errors.
CREATE INDEX usage_user ON usage (user_id, at, id);
CREATE INDEX usage_errors ON usage (at, id) WHERE outcome NOT IN ('ok', 'client_gone', 'stopped');
-- The id of most requests is made by the gateway and is the id of the row.
CREATE INDEX usage_request ON usage (request_id) WHERE request_id <> id;

-- How a request was routed. The ids are those of the usage rows, and UUIDv7, so that they are in the order of time.
CREATE TABLE receipts (
    id TEXT NOT NULL PRIMARY KEY,
    at INTEGER NOT NULL, -- of the usage row
    receipt TEXT NOT NULL -- JSON object
) STRICT, WITHOUT ROWID;

-- Requests and responses in full, for keys whose owners want it. The ids are those of the usage rows.
CREATE TABLE prompt_log (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    key_id TEXT NOT NULL,
    at INTEGER NOT NULL, -- of the usage row
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    sealed_preview BLOB NOT NULL, -- the beginning of the last message, encrypted
    sealed BLOB NOT NULL, -- request and response, encrypted
    size INTEGER NOT NULL -- bytes before encryption
) STRICT;

CREATE INDEX prompt_log_user ON prompt_log (user_id, id);

-- Sums of usage by hour and by day (UTC), for each key, and for all users together.
-- Statistics read only these tables.
-- The bounds of the histograms are in storage/latency.py.
CREATE TABLE usage_hourly (
    bucket_start INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    audio_input_tokens INTEGER NOT NULL,
    audio_output_tokens INTEGER NOT NULL,
    image_input_tokens INTEGER NOT NULL,
    image_output_tokens INTEGER NOT NULL,
    images INTEGER NOT NULL,
    audio_ms INTEGER NOT NULL,
    characters INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL, -- without the unpriced requests
    unpriced INTEGER NOT NULL, -- requests that used a model without a price
    durations TEXT NOT NULL, -- JSON object: number of requests by lower bound of their duration
    first_bytes TEXT NOT NULL, -- the same for the time until the first byte
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
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    audio_input_tokens INTEGER NOT NULL,
    audio_output_tokens INTEGER NOT NULL,
    image_input_tokens INTEGER NOT NULL,
    image_output_tokens INTEGER NOT NULL,
    images INTEGER NOT NULL,
    audio_ms INTEGER NOT NULL,
    characters INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL, -- without the unpriced requests
    unpriced INTEGER NOT NULL, -- requests that used a model without a price
    durations TEXT NOT NULL, -- JSON object: number of requests by lower bound of their duration
    first_bytes TEXT NOT NULL, -- the same for the time until the first byte
    PRIMARY KEY (bucket_start, key_id, user_id, model, server)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_daily_user ON usage_daily (user_id, bucket_start, key_id);

CREATE TABLE usage_site_hourly (
    bucket_start INTEGER NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    audio_input_tokens INTEGER NOT NULL,
    audio_output_tokens INTEGER NOT NULL,
    image_input_tokens INTEGER NOT NULL,
    image_output_tokens INTEGER NOT NULL,
    images INTEGER NOT NULL,
    audio_ms INTEGER NOT NULL,
    characters INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL, -- without the unpriced requests
    unpriced INTEGER NOT NULL, -- requests that used a model without a price
    durations TEXT NOT NULL, -- JSON object: number of requests by lower bound of their duration
    first_bytes TEXT NOT NULL, -- the same for the time until the first byte
    PRIMARY KEY (bucket_start, model, server)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_site_daily (
    bucket_start INTEGER NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    audio_input_tokens INTEGER NOT NULL,
    audio_output_tokens INTEGER NOT NULL,
    image_input_tokens INTEGER NOT NULL,
    image_output_tokens INTEGER NOT NULL,
    images INTEGER NOT NULL,
    audio_ms INTEGER NOT NULL,
    characters INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL, -- without the unpriced requests
    unpriced INTEGER NOT NULL, -- requests that used a model without a price
    durations TEXT NOT NULL, -- JSON object: number of requests by lower bound of their duration
    first_bytes TEXT NOT NULL, -- the same for the time until the first byte
    PRIMARY KEY (bucket_start, model, server)
) STRICT, WITHOUT ROWID;

-- Sums for each key of all models and servers together.
CREATE TABLE usage_key_daily (
    bucket_start INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    audio_input_tokens INTEGER NOT NULL,
    audio_output_tokens INTEGER NOT NULL,
    image_input_tokens INTEGER NOT NULL,
    image_output_tokens INTEGER NOT NULL,
    images INTEGER NOT NULL,
    audio_ms INTEGER NOT NULL,
    characters INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL, -- without the unpriced requests
    unpriced INTEGER NOT NULL, -- requests that used a model without a price
    PRIMARY KEY (bucket_start, key_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_key_daily_user ON usage_key_daily (user_id, bucket_start);

-- The two meters by day (UTC): sums of requests that both have counted. Output is only of requests without reasoning,
-- which a server may hide; costs are only of requests with a price whose cost the server has reported.
CREATE TABLE usage_meters (
    bucket_start INTEGER NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    compared INTEGER NOT NULL, -- requests
    own_input INTEGER NOT NULL,
    reported_input INTEGER NOT NULL,
    own_output INTEGER NOT NULL,
    reported_output INTEGER NOT NULL,
    costed INTEGER NOT NULL, -- requests with both costs
    own_cost_nano INTEGER NOT NULL, -- without a markup
    reported_cost_nano INTEGER NOT NULL,
    quarantined INTEGER NOT NULL, -- requests
    PRIMARY KEY (bucket_start, model, server)
) STRICT, WITHOUT ROWID;

-- Amounts that count towards limits: in the latest day, in the latest month, and in total.
CREATE TABLE quota_counters (
    subject TEXT NOT NULL PRIMARY KEY, -- key:ID, user:ID or tier:NAME
    day TEXT NOT NULL,
    day_tokens INTEGER NOT NULL,
    day_nano INTEGER NOT NULL,
    month TEXT NOT NULL,
    month_tokens INTEGER NOT NULL,
    month_nano INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    total_nano INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Lower bounds of the histograms, in milliseconds, for the trigger below.
CREATE TABLE latency_bounds (
    low INTEGER NOT NULL PRIMARY KEY
) STRICT;

INSERT INTO latency_bounds (low) VALUES
    (0), (1), (2), (3), (4), (5), (6), (7), (8), (10), (11), (13), (16), (19), (23), (27), (32), (38), (45),
    (54), (64), (76), (91), (108), (128), (152), (181), (215), (256), (304), (362), (431), (512), (609), (724),
    (861), (1024), (1218), (1448), (1722), (2048), (2435), (2896), (3444), (4096), (4871), (5793), (6889),
    (8192), (9742), (11585), (13777), (16384), (19484), (23170), (27554), (32768), (38968), (46341), (55109),
    (65536), (77936), (92682), (110218), (131072), (155872), (185364), (220436), (262144), (311744), (370728),
    (440872), (524288), (623487), (741455), (881744), (1048576), (1246974), (1482910), (1763488), (2097152),
    (2493948), (2965821), (3526975), (4194304);

-- Adds each usage row to the sums. In a trigger, a row that is inserted twice is counted once: the second INSERT
-- changes nothing and fires nothing. (For PostgreSQL, storage/usage.py does the same in one statement.)
CREATE TRIGGER usage_roll_up AFTER INSERT ON usage
BEGIN
    INSERT INTO usage_hourly
    VALUES (
        new.at - new.at % 3600000, new.key_id, new.user_id, new.model, new.server,
        1, new.outcome NOT IN ('ok', 'client_gone', 'stopped'),
        coalesce(new.input_tokens, 0), coalesce(new.output_tokens, 0),
        coalesce(new.cache_read_tokens, 0), coalesce(new.cache_write_tokens, 0),
        coalesce(new.reasoning_tokens, 0),
        coalesce(new.audio_input_tokens, 0), coalesce(new.audio_output_tokens, 0),
        coalesce(new.image_input_tokens, 0), coalesce(new.image_output_tokens, 0),
        coalesce(new.images, 0), coalesce(new.audio_ms, 0), coalesce(new.characters, 0),
        new.duration_ms, coalesce(new.cost_nano, 0),
        new.cost_nano IS NULL AND coalesce(new.input_tokens, 0) + coalesce(new.output_tokens, 0)
            + coalesce(new.images, 0) + coalesce(new.audio_ms, 0) + coalesce(new.characters, 0) > 0,
        '{"' || (SELECT max(low) FROM latency_bounds WHERE low <= new.duration_ms) || '":1}',
        CASE WHEN new.first_byte_ms IS NULL THEN '{}'
            ELSE '{"' || (SELECT max(low) FROM latency_bounds WHERE low <= new.first_byte_ms) || '":1}' END
    )
    ON CONFLICT DO UPDATE SET
        requests = requests + 1,
        errors = errors + excluded.errors,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
        cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
        audio_input_tokens = audio_input_tokens + excluded.audio_input_tokens,
        audio_output_tokens = audio_output_tokens + excluded.audio_output_tokens,
        image_input_tokens = image_input_tokens + excluded.image_input_tokens,
        image_output_tokens = image_output_tokens + excluded.image_output_tokens,
        images = images + excluded.images,
        audio_ms = audio_ms + excluded.audio_ms,
        characters = characters + excluded.characters,
        duration_ms = duration_ms + excluded.duration_ms,
        cost_nano = cost_nano + excluded.cost_nano,
        unpriced = unpriced + excluded.unpriced,
        durations = json_set(
            durations, '$.' || substr(excluded.durations, 2, instr(excluded.durations, ':') - 2),
            coalesce(durations -> ('$.' || substr(excluded.durations, 2, instr(excluded.durations, ':') - 2)), 0) + 1
        ),
        first_bytes = CASE WHEN new.first_byte_ms IS NULL THEN first_bytes ELSE json_set(
            first_bytes, '$.' || substr(excluded.first_bytes, 2, instr(excluded.first_bytes, ':') - 2),
            coalesce(first_bytes -> ('$.' || substr(excluded.first_bytes, 2, instr(excluded.first_bytes, ':') - 2)), 0) + 1
        ) END;
    INSERT INTO usage_daily
    VALUES (
        new.at - new.at % 86400000, new.key_id, new.user_id, new.model, new.server,
        1, new.outcome NOT IN ('ok', 'client_gone', 'stopped'),
        coalesce(new.input_tokens, 0), coalesce(new.output_tokens, 0),
        coalesce(new.cache_read_tokens, 0), coalesce(new.cache_write_tokens, 0),
        coalesce(new.reasoning_tokens, 0),
        coalesce(new.audio_input_tokens, 0), coalesce(new.audio_output_tokens, 0),
        coalesce(new.image_input_tokens, 0), coalesce(new.image_output_tokens, 0),
        coalesce(new.images, 0), coalesce(new.audio_ms, 0), coalesce(new.characters, 0),
        new.duration_ms, coalesce(new.cost_nano, 0),
        new.cost_nano IS NULL AND coalesce(new.input_tokens, 0) + coalesce(new.output_tokens, 0)
            + coalesce(new.images, 0) + coalesce(new.audio_ms, 0) + coalesce(new.characters, 0) > 0,
        '{"' || (SELECT max(low) FROM latency_bounds WHERE low <= new.duration_ms) || '":1}',
        CASE WHEN new.first_byte_ms IS NULL THEN '{}'
            ELSE '{"' || (SELECT max(low) FROM latency_bounds WHERE low <= new.first_byte_ms) || '":1}' END
    )
    ON CONFLICT DO UPDATE SET
        requests = requests + 1,
        errors = errors + excluded.errors,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
        cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
        audio_input_tokens = audio_input_tokens + excluded.audio_input_tokens,
        audio_output_tokens = audio_output_tokens + excluded.audio_output_tokens,
        image_input_tokens = image_input_tokens + excluded.image_input_tokens,
        image_output_tokens = image_output_tokens + excluded.image_output_tokens,
        images = images + excluded.images,
        audio_ms = audio_ms + excluded.audio_ms,
        characters = characters + excluded.characters,
        duration_ms = duration_ms + excluded.duration_ms,
        cost_nano = cost_nano + excluded.cost_nano,
        unpriced = unpriced + excluded.unpriced,
        durations = json_set(
            durations, '$.' || substr(excluded.durations, 2, instr(excluded.durations, ':') - 2),
            coalesce(durations -> ('$.' || substr(excluded.durations, 2, instr(excluded.durations, ':') - 2)), 0) + 1
        ),
        first_bytes = CASE WHEN new.first_byte_ms IS NULL THEN first_bytes ELSE json_set(
            first_bytes, '$.' || substr(excluded.first_bytes, 2, instr(excluded.first_bytes, ':') - 2),
            coalesce(first_bytes -> ('$.' || substr(excluded.first_bytes, 2, instr(excluded.first_bytes, ':') - 2)), 0) + 1
        ) END;
    INSERT INTO usage_site_hourly
    VALUES (
        new.at - new.at % 3600000, new.model, new.server,
        1, new.outcome NOT IN ('ok', 'client_gone', 'stopped'),
        coalesce(new.input_tokens, 0), coalesce(new.output_tokens, 0),
        coalesce(new.cache_read_tokens, 0), coalesce(new.cache_write_tokens, 0),
        coalesce(new.reasoning_tokens, 0),
        coalesce(new.audio_input_tokens, 0), coalesce(new.audio_output_tokens, 0),
        coalesce(new.image_input_tokens, 0), coalesce(new.image_output_tokens, 0),
        coalesce(new.images, 0), coalesce(new.audio_ms, 0), coalesce(new.characters, 0),
        new.duration_ms, coalesce(new.cost_nano, 0),
        new.cost_nano IS NULL AND coalesce(new.input_tokens, 0) + coalesce(new.output_tokens, 0)
            + coalesce(new.images, 0) + coalesce(new.audio_ms, 0) + coalesce(new.characters, 0) > 0,
        '{"' || (SELECT max(low) FROM latency_bounds WHERE low <= new.duration_ms) || '":1}',
        CASE WHEN new.first_byte_ms IS NULL THEN '{}'
            ELSE '{"' || (SELECT max(low) FROM latency_bounds WHERE low <= new.first_byte_ms) || '":1}' END
    )
    ON CONFLICT DO UPDATE SET
        requests = requests + 1,
        errors = errors + excluded.errors,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
        cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
        audio_input_tokens = audio_input_tokens + excluded.audio_input_tokens,
        audio_output_tokens = audio_output_tokens + excluded.audio_output_tokens,
        image_input_tokens = image_input_tokens + excluded.image_input_tokens,
        image_output_tokens = image_output_tokens + excluded.image_output_tokens,
        images = images + excluded.images,
        audio_ms = audio_ms + excluded.audio_ms,
        characters = characters + excluded.characters,
        duration_ms = duration_ms + excluded.duration_ms,
        cost_nano = cost_nano + excluded.cost_nano,
        unpriced = unpriced + excluded.unpriced,
        durations = json_set(
            durations, '$.' || substr(excluded.durations, 2, instr(excluded.durations, ':') - 2),
            coalesce(durations -> ('$.' || substr(excluded.durations, 2, instr(excluded.durations, ':') - 2)), 0) + 1
        ),
        first_bytes = CASE WHEN new.first_byte_ms IS NULL THEN first_bytes ELSE json_set(
            first_bytes, '$.' || substr(excluded.first_bytes, 2, instr(excluded.first_bytes, ':') - 2),
            coalesce(first_bytes -> ('$.' || substr(excluded.first_bytes, 2, instr(excluded.first_bytes, ':') - 2)), 0) + 1
        ) END;
    INSERT INTO usage_site_daily
    VALUES (
        new.at - new.at % 86400000, new.model, new.server,
        1, new.outcome NOT IN ('ok', 'client_gone', 'stopped'),
        coalesce(new.input_tokens, 0), coalesce(new.output_tokens, 0),
        coalesce(new.cache_read_tokens, 0), coalesce(new.cache_write_tokens, 0),
        coalesce(new.reasoning_tokens, 0),
        coalesce(new.audio_input_tokens, 0), coalesce(new.audio_output_tokens, 0),
        coalesce(new.image_input_tokens, 0), coalesce(new.image_output_tokens, 0),
        coalesce(new.images, 0), coalesce(new.audio_ms, 0), coalesce(new.characters, 0),
        new.duration_ms, coalesce(new.cost_nano, 0),
        new.cost_nano IS NULL AND coalesce(new.input_tokens, 0) + coalesce(new.output_tokens, 0)
            + coalesce(new.images, 0) + coalesce(new.audio_ms, 0) + coalesce(new.characters, 0) > 0,
        '{"' || (SELECT max(low) FROM latency_bounds WHERE low <= new.duration_ms) || '":1}',
        CASE WHEN new.first_byte_ms IS NULL THEN '{}'
            ELSE '{"' || (SELECT max(low) FROM latency_bounds WHERE low <= new.first_byte_ms) || '":1}' END
    )
    ON CONFLICT DO UPDATE SET
        requests = requests + 1,
        errors = errors + excluded.errors,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
        cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
        audio_input_tokens = audio_input_tokens + excluded.audio_input_tokens,
        audio_output_tokens = audio_output_tokens + excluded.audio_output_tokens,
        image_input_tokens = image_input_tokens + excluded.image_input_tokens,
        image_output_tokens = image_output_tokens + excluded.image_output_tokens,
        images = images + excluded.images,
        audio_ms = audio_ms + excluded.audio_ms,
        characters = characters + excluded.characters,
        duration_ms = duration_ms + excluded.duration_ms,
        cost_nano = cost_nano + excluded.cost_nano,
        unpriced = unpriced + excluded.unpriced,
        durations = json_set(
            durations, '$.' || substr(excluded.durations, 2, instr(excluded.durations, ':') - 2),
            coalesce(durations -> ('$.' || substr(excluded.durations, 2, instr(excluded.durations, ':') - 2)), 0) + 1
        ),
        first_bytes = CASE WHEN new.first_byte_ms IS NULL THEN first_bytes ELSE json_set(
            first_bytes, '$.' || substr(excluded.first_bytes, 2, instr(excluded.first_bytes, ':') - 2),
            coalesce(first_bytes -> ('$.' || substr(excluded.first_bytes, 2, instr(excluded.first_bytes, ':') - 2)), 0) + 1
        ) END;
    INSERT INTO usage_key_daily
    VALUES (
        new.at - new.at % 86400000, new.key_id, new.user_id,
        1, new.outcome NOT IN ('ok', 'client_gone', 'stopped'),
        coalesce(new.input_tokens, 0), coalesce(new.output_tokens, 0),
        coalesce(new.cache_read_tokens, 0), coalesce(new.cache_write_tokens, 0),
        coalesce(new.reasoning_tokens, 0),
        coalesce(new.audio_input_tokens, 0), coalesce(new.audio_output_tokens, 0),
        coalesce(new.image_input_tokens, 0), coalesce(new.image_output_tokens, 0),
        coalesce(new.images, 0), coalesce(new.audio_ms, 0), coalesce(new.characters, 0),
        new.duration_ms, coalesce(new.cost_nano, 0),
        new.cost_nano IS NULL AND coalesce(new.input_tokens, 0) + coalesce(new.output_tokens, 0)
            + coalesce(new.images, 0) + coalesce(new.audio_ms, 0) + coalesce(new.characters, 0) > 0
    )
    ON CONFLICT DO UPDATE SET
        requests = requests + 1,
        errors = errors + excluded.errors,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
        cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
        audio_input_tokens = audio_input_tokens + excluded.audio_input_tokens,
        audio_output_tokens = audio_output_tokens + excluded.audio_output_tokens,
        image_input_tokens = image_input_tokens + excluded.image_input_tokens,
        image_output_tokens = image_output_tokens + excluded.image_output_tokens,
        images = images + excluded.images,
        audio_ms = audio_ms + excluded.audio_ms,
        characters = characters + excluded.characters,
        duration_ms = duration_ms + excluded.duration_ms,
        cost_nano = cost_nano + excluded.cost_nano,
        unpriced = unpriced + excluded.unpriced;
    -- A newer day or month replaces the counters of the one before; an older one is not counted.
    INSERT INTO quota_counters
    SELECT
        subject, new.day, tokens, nano, new.month, tokens, nano, tokens, nano
    FROM (
        SELECT
            column1 AS subject,
            coalesce(new.input_tokens, 0) + coalesce(new.output_tokens, 0) AS tokens,
            coalesce(new.cost_nano, 0) AS nano
        FROM (VALUES ('key:' || new.key_id), ('user:' || new.user_id), ('tier:' || new.budget_tier))
    )
    WHERE subject NOT IN ('key:', 'user:', 'tier:')
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

-- Adds each usage row to the sums of the two meters.
CREATE TRIGGER usage_compare AFTER INSERT ON usage
WHEN new.own_input_tokens IS NOT NULL OR new.reported_cost_nano IS NOT NULL OR new.quarantine <> ''
BEGIN
    INSERT INTO usage_meters
    SELECT
        new.at - new.at % 86400000, new.model, new.server, compared,
        compared * coalesce(new.own_input_tokens, 0), compared * coalesce(new.input_tokens, 0),
        measured * coalesce(new.own_output_tokens, 0), measured * coalesce(new.output_tokens, 0),
        costed, costed * (coalesce(new.cost_nano, 0) * 10000 / (10000 + new.markup)),
        costed * coalesce(new.reported_cost_nano, 0),
        new.quarantine <> ''
    FROM (SELECT
        new.usage_source = 'upstream' AND new.own_input_tokens IS NOT NULL AS compared,
        new.usage_source = 'upstream' AND new.own_output_tokens IS NOT NULL
            AND coalesce(new.reasoning_tokens, 0) = 0 AS measured,
        new.usage_source = 'upstream' AND new.cost_nano IS NOT NULL
            AND new.reported_cost_nano IS NOT NULL AS costed
    )
    WHERE true
    ON CONFLICT DO UPDATE SET
        compared = compared + excluded.compared,
        own_input = own_input + excluded.own_input,
        reported_input = reported_input + excluded.reported_input,
        own_output = own_output + excluded.own_output,
        reported_output = reported_output + excluded.reported_output,
        costed = costed + excluded.costed,
        own_cost_nano = own_cost_nano + excluded.own_cost_nano,
        reported_cost_nano = reported_cost_nano + excluded.reported_cost_nano,
        quarantined = quarantined + excluded.quarantined;
END;

-- Prices that the operator has set. Lines with the same server, model and date are one price.
CREATE TABLE prices (
    server TEXT NOT NULL, -- '' is every server
    model TEXT NOT NULL,
    since INTEGER NOT NULL, -- from when it counts
    service_tier TEXT NOT NULL, -- '' is the standard one
    from_tokens INTEGER NOT NULL, -- it counts from this many input tokens on
    rates TEXT NOT NULL, -- JSON object: nano-USD for a million units
    max_output INTEGER,
    until INTEGER, -- from when it does not count any more
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (model, server, since, service_tier, from_tokens)
) STRICT, WITHOUT ROWID;

-- Prepaid credit. Entries are only appended: each is a link of the hash chain "ledger" (storage/chain.py).
CREATE TABLE ledger (
    seq INTEGER NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE, -- idempotency key, such as charge:USAGE_ID
    at INTEGER NOT NULL,
    kind TEXT NOT NULL, -- see EntryKind in storage/ledger.py
    debit TEXT NOT NULL, -- accounts: wallet:USER_ID, revenue, grants, payments:manual, expired, adjustments,
    -- redeem_codes
    credit TEXT NOT NULL,
    amount_nano INTEGER NOT NULL CHECK (amount_nano > 0),
    user_id TEXT NOT NULL,
    reference TEXT NOT NULL,
    detail TEXT NOT NULL, -- JSON object
    hash TEXT NOT NULL -- HMAC-SHA256 in hexadecimal
) STRICT;

CREATE INDEX ledger_user ON ledger (user_id, seq);

-- New costs of settled requests. The last row of a request has its current cost; see storage/reprice.py.
CREATE TABLE usage_adjustments (
    usage_id TEXT NOT NULL,
    number INTEGER NOT NULL, -- from 1
    usage_at INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL,
    price_version TEXT NOT NULL,
    charged_nano INTEGER, -- what is now paid with prepaid credit; NULL: the account has none
    posted_nano INTEGER NOT NULL, -- the change of the balance
    PRIMARY KEY (usage_id, number)
) STRICT, WITHOUT ROWID;

-- The balance of each user with prepaid credit: the sum of the entries.
CREATE TABLE wallets (
    user_id TEXT NOT NULL PRIMARY KEY,
    balance_nano INTEGER NOT NULL,
    grants TEXT NOT NULL, -- JSON array: id, what is left, end
    revision INTEGER NOT NULL -- number of entries that are not charges
) STRICT;

-- Codes that give credit once, in batches of one amount.
CREATE TABLE redeem_batches (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    amount_nano INTEGER NOT NULL CHECK (amount_nano > 0), -- of each code
    codes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER, -- codes cannot be redeemed from then on
    ends_at INTEGER, -- when what is left of the credit ends
    revoked_at INTEGER,
    redeemed INTEGER NOT NULL -- number of codes
) STRICT;

CREATE TABLE redeem_codes (
    digest BLOB NOT NULL PRIMARY KEY, -- SHA-256 of the code
    batch_id TEXT NOT NULL REFERENCES redeem_batches (id),
    number INTEGER NOT NULL, -- from 1
    last_four TEXT NOT NULL,
    redeemed_at INTEGER,
    user_id TEXT
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX redeem_codes_batch ON redeem_codes (batch_id, number);

-- Plans and payments. Orders, subscriptions and payments stay when their user is deleted.

CREATE TABLE billing_customers (
    provider TEXT NOT NULL,
    id TEXT NOT NULL, -- at the provider
    user_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (provider, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX billing_customers_user ON billing_customers (user_id, provider);

-- What users want to buy: a plan, or credit.
CREATE TABLE orders (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    plan TEXT NOT NULL, -- empty for credit
    amount_cents INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    checkout_id TEXT NOT NULL, -- at the provider; empty until it is known
    state TEXT NOT NULL CHECK (state IN ('open', 'paid', 'expired', 'refused', 'canceled'))
) STRICT, WITHOUT ROWID;

CREATE INDEX orders_user ON orders (user_id, state, id);
CREATE INDEX orders_state ON orders (state, id);

CREATE TABLE subscriptions (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    order_id TEXT NOT NULL,
    plan TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('incomplete', 'trialing', 'active', 'past_due', 'paused', 'ended')),
    period_start INTEGER NOT NULL,
    period_end INTEGER NOT NULL,
    cancel_at_end INTEGER NOT NULL,
    next_plan TEXT NOT NULL, -- in force from the next period; empty: no change
    is_paid INTEGER NOT NULL, -- the first payment matches the order
    granted_nano INTEGER NOT NULL, -- included credit of this period
    past_due_since INTEGER,
    reminders INTEGER NOT NULL, -- sent since then
    ends_at INTEGER,
    tier TEXT, -- what the account has because of it
    due_at INTEGER, -- when something changes without an event
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX subscriptions_provider ON subscriptions (provider, provider_id);
CREATE INDEX subscriptions_user ON subscriptions (user_id, id);
CREATE INDEX subscriptions_due ON subscriptions (due_at);

CREATE TABLE payments (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    order_id TEXT NOT NULL,
    subscription_id TEXT NOT NULL, -- empty: a payment for credit
    title TEXT NOT NULL,
    currency TEXT NOT NULL,
    paid_cents INTEGER NOT NULL, -- with the tax
    tax_cents INTEGER NOT NULL,
    credit_nano INTEGER NOT NULL, -- credit that was added
    reversed_cents INTEGER NOT NULL, -- refunded or charged back
    state TEXT NOT NULL CHECK (state IN ('paid', 'refused', 'duplicate')),
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX payments_provider ON payments (provider, provider_id);
CREATE INDEX payments_user ON payments (user_id, id);

-- Invoices and credit notes. Numbers have no gaps, because the head of the ledger is locked.
CREATE TABLE invoices (
    number INTEGER NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    payment_id TEXT NOT NULL,
    of_number INTEGER, -- of the invoice that a credit note is for
    issued_at INTEGER NOT NULL,
    title TEXT NOT NULL,
    currency TEXT NOT NULL,
    total_cents INTEGER NOT NULL, -- with the tax; below 0 for a credit note
    tax_cents INTEGER NOT NULL,
    seller TEXT NOT NULL, -- JSON array of lines
    buyer TEXT NOT NULL
) STRICT;

CREATE INDEX invoices_user ON invoices (user_id, number);
CREATE INDEX invoices_payment ON invoices (payment_id);

-- What users want to have on their invoices, such as a company and its address.
CREATE TABLE billing_details (
    user_id TEXT NOT NULL PRIMARY KEY REFERENCES users (id),
    lines TEXT NOT NULL -- JSON array
) STRICT, WITHOUT ROWID;

-- Trials. A person has one: the digest is of the normalised address.
CREATE TABLE trials (
    person BLOB NOT NULL PRIMARY KEY, -- SHA-256
    user_id TEXT NOT NULL UNIQUE,
    started_at INTEGER NOT NULL,
    ends_at INTEGER NOT NULL,
    due_at INTEGER -- when the next event is due
) STRICT, WITHOUT ROWID;

CREATE INDEX trials_due ON trials (due_at);

CREATE TABLE referral_codes (
    user_id TEXT NOT NULL PRIMARY KEY REFERENCES users (id),
    code TEXT NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;

-- Who was invited by whom. Both get a grant after the first payment.
CREATE TABLE referrals (
    user_id TEXT NOT NULL PRIMARY KEY,
    referrer_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    payment_id TEXT NOT NULL, -- empty until there is one
    earned_nano INTEGER NOT NULL -- by the referrer
) STRICT, WITHOUT ROWID;

CREATE INDEX referrals_referrer ON referrals (referrer_id);

-- Plans that administrators have added to those of the configuration.
CREATE TABLE plans (
    name TEXT NOT NULL PRIMARY KEY,
    fields TEXT NOT NULL -- JSON object
) STRICT, WITHOUT ROWID;

-- Events of providers that were handled.
CREATE TABLE billing_events (
    provider TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (provider, id)
) STRICT, WITHOUT ROWID;

-- What requests that run for more than a second have used so far. At startup they are settled with it.
CREATE TABLE open_requests (
    id TEXT NOT NULL PRIMARY KEY, -- of the usage row
    at INTEGER NOT NULL,
    usage TEXT NOT NULL -- JSON object: the usage row
) STRICT, WITHOUT ROWID;

-- What routes have spent today for hedged requests and for copies to a shadow.
CREATE TABLE extra_costs (
    kind TEXT NOT NULL, -- hedged or shadow
    route TEXT NOT NULL, -- its model
    day INTEGER NOT NULL, -- since the epoch, UTC
    nano INTEGER NOT NULL,
    PRIMARY KEY (kind, route)
) STRICT, WITHOUT ROWID;

-- Events: what has happened, written in the transaction that changes it. IDs are UUIDv7, which orders them by time.
CREATE TABLE events (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL, -- such as key.created
    account_id TEXT, -- user that it concerns; NULL: only operators
    at INTEGER NOT NULL,
    data TEXT NOT NULL, -- JSON object
    dispatched_at INTEGER -- NULL: consumers have not got it yet
) STRICT, WITHOUT ROWID;

CREATE INDEX events_new ON events (id) WHERE dispatched_at IS NULL;
CREATE INDEX events_account ON events (account_id) WHERE account_id IS NOT NULL;

-- Events that are written once have a mark.
CREATE TABLE event_marks (
    mark TEXT NOT NULL PRIMARY KEY,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX event_marks_at ON event_marks (at);

-- Alerts that administrators added, and the states of all alerts.
CREATE TABLE alert_rules (
    name TEXT NOT NULL PRIMARY KEY,
    definition TEXT NOT NULL, -- JSON object
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE alert_states (
    name TEXT NOT NULL PRIMARY KEY, -- of an alert, also of one in the settings
    state TEXT NOT NULL -- JSON object
) STRICT, WITHOUT ROWID;

-- Endpoints that get events, with the secret that signs them.
CREATE TABLE webhooks (
    id TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL, -- user; '' for one of the operators, which gets the events of all accounts
    url TEXT NOT NULL,
    description TEXT NOT NULL,
    events TEXT NOT NULL, -- JSON list of kinds, groups such as payment.*, or *
    sealed_secret BLOB NOT NULL, -- encrypted
    sealed_previous BLOB, -- the secret before, which signs too until previous_until
    previous_until INTEGER,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    disabled_reason TEXT NOT NULL, -- '' if the owner disabled it
    last_success_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE INDEX webhooks_owner ON webhooks (owner, id);

-- An event for an endpoint. The first try of the current schedule is at since; tries counts within it.
CREATE TABLE webhook_deliveries (
    id TEXT NOT NULL PRIMARY KEY,
    webhook_id TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    tries INTEGER NOT NULL,
    since INTEGER NOT NULL,
    next_at INTEGER, -- when it is tried next; NULL unless pending
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX webhook_deliveries_log ON webhook_deliveries (webhook_id, id);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, next_at) WHERE next_at IS NOT NULL;

CREATE TABLE webhook_attempts (
    delivery_id TEXT NOT NULL REFERENCES webhook_deliveries (id) ON DELETE CASCADE,
    number INTEGER NOT NULL, -- from 1
    at INTEGER NOT NULL,
    status INTEGER, -- NULL: there was no answer
    error TEXT NOT NULL,
    duration_ms INTEGER NOT NULL,
    answer TEXT NOT NULL, -- the beginning of the body
    PRIMARY KEY (delivery_id, number)
) STRICT;

-- Named leases. The holder of "limits" is the only instance that grants requests; it renews the lease.
CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch INTEGER NOT NULL, -- incremented whenever the lease is taken
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Audit log

-- Each row is a link of the hash chain "audit" (storage/chain.py): seq has no gaps, hash covers the row and the hash
-- of the row before.
CREATE TABLE audit (
    seq INTEGER NOT NULL PRIMARY KEY,
    id TEXT NOT NULL,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL, -- JSON object
    address TEXT NOT NULL,
    hash TEXT NOT NULL -- HMAC-SHA256 in hexadecimal
) STRICT;

-- Pages are read newest first. Each combination of filters has an index, so that a page reads only the rows it
-- returns; SQLite has no statistics to choose a plan by.
CREATE INDEX audit_at ON audit (at, seq);
CREATE INDEX audit_actor ON audit (actor, at, seq);
CREATE INDEX audit_action ON audit (action, at, seq);
CREATE INDEX audit_subject ON audit (subject, at, seq);
CREATE INDEX audit_actor_action ON audit (actor, action, at, seq);
CREATE INDEX audit_actor_subject ON audit (actor, subject, at, seq);
CREATE INDEX audit_subject_action ON audit (subject, action, at, seq);

-- The last position of each hash chain, kept apart from its rows so that truncation is detected.
CREATE TABLE chain_heads (
    chain TEXT NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL,
    hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO chain_heads (chain, seq, hash) VALUES ('audit', 0, ''), ('ledger', 0, '');

-- Values that the product stores for itself

CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
