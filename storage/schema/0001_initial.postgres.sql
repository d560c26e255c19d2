-- The schema of a new database for PostgreSQL.
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
    disabled_at BIGINT,
    created_at BIGINT NOT NULL,
    tier TEXT, -- name of a tier in the settings
    email_verified_at BIGINT,
    limits TEXT, -- JSON object of the limits that differ from the tier
    prompt_log TEXT CHECK (prompt_log IN ('on', 'off')) -- NULL: as the settings say
);

CREATE UNIQUE INDEX users_email ON users (lower(email));

CREATE TABLE sessions (
    digest BYTEA NOT NULL PRIMARY KEY, -- SHA-256 of the session token
    id TEXT NOT NULL UNIQUE, -- shown in lists, used to end the session
    user_id TEXT NOT NULL REFERENCES users (id),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    address TEXT NOT NULL, -- client IP address
    user_agent TEXT NOT NULL
);

CREATE INDEX sessions_user ON sessions (user_id, id);
CREATE INDEX sessions_end ON sessions (expires_at);

CREATE TABLE one_time_tokens (
    digest BYTEA NOT NULL PRIMARY KEY, -- SHA-256 of the token
    id TEXT NOT NULL UNIQUE, -- shown in lists, used to delete an invitation
    purpose TEXT NOT NULL CHECK (purpose IN ('verify_email', 'reset_password', 'invite')),
    user_id TEXT REFERENCES users (id), -- NULL for an invitation
    email TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT
);

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
    created_at BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX identities_subject ON identities (issuer, subject);
CREATE INDEX identities_user ON identities (user_id, id);

-- Mails that wait to be sent
CREATE TABLE mail_outbox (
    id TEXT NOT NULL PRIMARY KEY, -- also the idempotency key
    kind TEXT NOT NULL,
    sealed BYTEA NOT NULL, -- the message, encrypted
    decoy BIGINT NOT NULL CHECK (decoy IN (0, 1)), -- 1: never sent
    priority BIGINT NOT NULL, -- the lowest is sent first
    attempts BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL, -- not sent after this time
    created_at BIGINT NOT NULL
);

CREATE INDEX mail_outbox_due ON mail_outbox (due_at);

-- Addresses that get no mail
CREATE TABLE mail_suppressions (
    id TEXT NOT NULL PRIMARY KEY,
    email TEXT NOT NULL UNIQUE, -- in lower case
    reason TEXT NOT NULL CHECK (reason IN ('bounced', 'complained')),
    created_at BIGINT NOT NULL
);

-- Optional mails that users have turned off, and the time zone of their mails
CREATE TABLE mail_preferences (
    user_id TEXT NOT NULL PRIMARY KEY REFERENCES users (id),
    turned_off TEXT NOT NULL, -- JSON list of groups of mails
    time_zone TEXT NOT NULL, -- '' for that of the settings
    updated_at BIGINT NOT NULL
);

-- One-time codes of authenticator apps, which are asked for when a user signs in
CREATE TABLE second_factors (
    user_id TEXT NOT NULL PRIMARY KEY REFERENCES users (id),
    sealed_secret BYTEA NOT NULL, -- encrypted
    confirmed_at BIGINT, -- NULL: the first code is missing, and none is asked for
    last_step BIGINT NOT NULL, -- the last accepted step of 30 seconds
    created_at BIGINT NOT NULL
);

-- Codes for users who have lost their app. A used code is deleted.
CREATE TABLE recovery_codes (
    user_id TEXT NOT NULL REFERENCES users (id),
    digest BYTEA NOT NULL, -- HMAC-SHA256
    PRIMARY KEY (user_id, digest)
);

-- API keys

-- A digest is the HMAC-SHA256 of a secret. Rotation moves the current digest to previous_digest, which is accepted
-- until previous_until (NULL: not at all). In the lists, which are JSON, NULL means "any".
CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    digest BYTEA NOT NULL,
    prefix TEXT NOT NULL, -- first characters of the secret, for display
    last4 TEXT NOT NULL, -- last characters of the secret, for display
    scopes TEXT,
    allowed_models TEXT,
    allowed_ips TEXT,
    allowed_origins TEXT,
    limits TEXT, -- JSON object
    metadata TEXT NOT NULL, -- JSON object
    expires_at BIGINT,
    revoked_at BIGINT,
    last_used_at BIGINT,
    created_at BIGINT NOT NULL,
    rotated_at BIGINT,
    previous_digest BYTEA,
    previous_until BIGINT,
    prompt_log TEXT CHECK (prompt_log IN ('on', 'off')) -- NULL: as the account
);

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
    sealed_api_keys BYTEA, -- encrypted JSON list
    api_version TEXT NOT NULL, -- '' for none
    sealed_headers BYTEA, -- encrypted JSON object
    models TEXT NOT NULL, -- JSON list of names
    weight BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    passthrough BIGINT NOT NULL CHECK (passthrough IN (0, 1)),
    passthrough_paths TEXT NOT NULL, -- JSON list of paths
    region TEXT NOT NULL, -- '' for none
    tags TEXT NOT NULL, -- JSON list of names
    mode TEXT NOT NULL CHECK (mode IN ('active', 'draining', 'off')),
    max_concurrency BIGINT NOT NULL, -- 0 for no cap
    rpm BIGINT NOT NULL, -- 0 for no cap
    options TEXT NOT NULL, -- JSON object of what differs from the defaults
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX servers_name ON servers (name);

-- The servers that get the requests for a model
CREATE TABLE routes (
    id TEXT NOT NULL PRIMARY KEY,
    model TEXT NOT NULL, -- a name, or the start of names and *
    conditions TEXT NOT NULL, -- JSON object, '' for none
    definition TEXT NOT NULL, -- JSON object
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX routes_model ON routes (model, conditions);

-- Stored responses, and objects at servers

-- Responses that the gateway keeps itself. A response continues the one in previous_id, if any.
CREATE TABLE stored_responses (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    key_id TEXT NOT NULL,
    previous_id TEXT,
    sealed BYTEA NOT NULL, -- input and response, encrypted
    size BIGINT NOT NULL, -- bytes before encryption
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX stored_responses_user ON stored_responses (user_id, created_at, size);
CREATE INDEX stored_responses_end ON stored_responses (expires_at);

-- The items in a stored response, which later requests may refer to. Clients choose some of the IDs.
CREATE TABLE stored_items (
    id TEXT NOT NULL,
    response_id TEXT NOT NULL REFERENCES stored_responses (id) ON DELETE CASCADE,
    PRIMARY KEY (id, response_id)
);

CREATE INDEX stored_items_response ON stored_items (response_id);

-- Objects that requests created at a server: responses, files, batches and others. They belong to an account.
CREATE TABLE server_objects (
    id TEXT NOT NULL, -- as the server wrote it
    server TEXT NOT NULL, -- name of the server
    kind TEXT NOT NULL, -- collection that the object is in
    user_id TEXT REFERENCES users (id), -- NULL: the account was deleted
    key_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT, -- NULL: when it is deleted
    PRIMARY KEY (id, server)
);

CREATE INDEX server_objects_user ON server_objects (user_id, server, kind);
CREATE INDEX server_objects_end ON server_objects (expires_at) WHERE expires_at IS NOT NULL;

-- Keys of users for vendors, at most one of each vendor.
CREATE TABLE vendor_keys (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    vendor TEXT NOT NULL,
    sealed_api_key BYTEA NOT NULL, -- encrypted
    last4 TEXT NOT NULL, -- last characters of the key, for display
    mode TEXT NOT NULL CHECK (mode IN ('first', 'only')),
    models TEXT NOT NULL, -- JSON list: the models that the user named
    listed TEXT NOT NULL, -- JSON list: the models that the vendor listed in the last test
    problem TEXT, -- what the last test found wrong
    tested_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX vendor_keys_user ON vendor_keys (user_id, vendor);

-- Chats of the playground
CREATE TABLE chats (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    sealed BYTEA NOT NULL, -- title, model and parameters, encrypted
    messages BIGINT NOT NULL, -- number of messages
    size BIGINT NOT NULL, -- bytes of the messages before encryption
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX chats_user ON chats (user_id, updated_at, id);

CREATE TABLE chat_messages (
    chat_id TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
    position BIGINT NOT NULL, -- from 0
    sealed BYTEA NOT NULL, -- the message, encrypted
    size BIGINT NOT NULL, -- bytes before encryption
    created_at BIGINT NOT NULL,
    PRIMARY KEY (chat_id, position)
);

-- Usage

-- One row for each request; rows are never changed. There are no foreign keys, because rows outlive keys and users.
CREATE TABLE usage (
    id TEXT NOT NULL,
    at BIGINT NOT NULL, -- arrival of the request
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
    input_tokens BIGINT, -- all input tokens, cached ones included
    output_tokens BIGINT, -- all output tokens, reasoning included
    cache_read_tokens BIGINT,
    cache_write_tokens BIGINT,
    reasoning_tokens BIGINT,
    audio_input_tokens BIGINT,
    audio_output_tokens BIGINT,
    image_input_tokens BIGINT,
    image_output_tokens BIGINT,
    images BIGINT, -- pictures made
    audio_ms BIGINT, -- milliseconds of audio that was read
    characters BIGINT, -- of text that was spoken
    usage_source TEXT NOT NULL,
    first_byte_ms BIGINT,
    duration_ms BIGINT NOT NULL,
    cost_nano BIGINT, -- NULL: the model has no price
    price_version TEXT NOT NULL, -- of the price that the cost follows from; '' without a price
    charged_nano BIGINT, -- paid with prepaid credit; NULL: the account has none
    day TEXT NOT NULL, -- such as 2026-02-28, in the time zone of the limits
    month TEXT NOT NULL, -- such as 2026-02
    own_input_tokens BIGINT, -- the gateway's own count
    own_output_tokens BIGINT,
    reported_cost_nano BIGINT, -- what the server says that it costs
    quarantine TEXT NOT NULL, -- why a report of the server was not used; '' for none
    markup BIGINT NOT NULL, -- in the cost, in hundredths of a percent
    service_tier TEXT NOT NULL, -- in the response; '' is the standard one
    sent_model TEXT NOT NULL, -- the name that the server got; '' is that of the client
    served_model TEXT NOT NULL, -- the fallback model; '' is that of the client
    budget_tier TEXT NOT NULL, -- tier whose common budget it counts in; '' for none
    cache_write_hour_tokens BIGINT, -- of cache_write_tokens, those that are kept for an hour
    PRIMARY KEY (at, id)
);

-- Pages of the log are read newest first: of all users, of a user, or of the errors.
CREATE INDEX usage_user ON usage (user_id, at, id);
CREATE INDEX usage_errors ON usage (at, id) WHERE outcome NOT IN ('ok', 'client_gone', 'stopped');
-- The id of most requests is made by the gateway and is the id of the row.
CREATE INDEX usage_request ON usage (request_id) WHERE request_id <> id;

-- How a request was routed. The ids are those of the usage rows, and UUIDv7, so that they are in the order of time.
CREATE TABLE receipts (
    id TEXT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL, -- of the usage row
    receipt TEXT NOT NULL -- JSON object
);

-- Requests and responses in full, for keys whose owners want it. The ids are those of the usage rows.
CREATE TABLE prompt_log (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    key_id TEXT NOT NULL,
    at BIGINT NOT NULL, -- of the usage row
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    sealed_preview BYTEA NOT NULL, -- the beginning of the last message, encrypted
    sealed BYTEA NOT NULL, -- request and response, encrypted
    size BIGINT NOT NULL -- bytes before encryption
);

CREATE INDEX prompt_log_user ON prompt_log (user_id, id);

-- Sums of usage by hour and by day (UTC), for each key, and for all users together.
-- Statistics read only these tables.
-- The bounds of the histograms are in storage/latency.py.
CREATE TABLE usage_hourly (
    bucket_start BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    requests BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    audio_input_tokens BIGINT NOT NULL,
    audio_output_tokens BIGINT NOT NULL,
    image_input_tokens BIGINT NOT NULL,
    image_output_tokens BIGINT NOT NULL,
    images BIGINT NOT NULL,
    audio_ms BIGINT NOT NULL,
    characters BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL, -- without the unpriced requests
    unpriced BIGINT NOT NULL, -- requests that used a model without a price
    durations JSONB NOT NULL, -- JSON object: number of requests by lower bound of their duration
    first_bytes JSONB NOT NULL, -- the same for the time until the first byte
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
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    audio_input_tokens BIGINT NOT NULL,
    audio_output_tokens BIGINT NOT NULL,
    image_input_tokens BIGINT NOT NULL,
    image_output_tokens BIGINT NOT NULL,
    images BIGINT NOT NULL,
    audio_ms BIGINT NOT NULL,
    characters BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL, -- without the unpriced requests
    unpriced BIGINT NOT NULL, -- requests that used a model without a price
    durations JSONB NOT NULL, -- JSON object: number of requests by lower bound of their duration
    first_bytes JSONB NOT NULL, -- the same for the time until the first byte
    PRIMARY KEY (bucket_start, key_id, user_id, model, server)
);

CREATE INDEX usage_daily_user ON usage_daily (user_id, bucket_start, key_id);

CREATE TABLE usage_site_hourly (
    bucket_start BIGINT NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    requests BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    audio_input_tokens BIGINT NOT NULL,
    audio_output_tokens BIGINT NOT NULL,
    image_input_tokens BIGINT NOT NULL,
    image_output_tokens BIGINT NOT NULL,
    images BIGINT NOT NULL,
    audio_ms BIGINT NOT NULL,
    characters BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL, -- without the unpriced requests
    unpriced BIGINT NOT NULL, -- requests that used a model without a price
    durations JSONB NOT NULL, -- JSON object: number of requests by lower bound of their duration
    first_bytes JSONB NOT NULL, -- the same for the time until the first byte
    PRIMARY KEY (bucket_start, model, server)
);

CREATE TABLE usage_site_daily (
    bucket_start BIGINT NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    requests BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    audio_input_tokens BIGINT NOT NULL,
    audio_output_tokens BIGINT NOT NULL,
    image_input_tokens BIGINT NOT NULL,
    image_output_tokens BIGINT NOT NULL,
    images BIGINT NOT NULL,
    audio_ms BIGINT NOT NULL,
    characters BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL, -- without the unpriced requests
    unpriced BIGINT NOT NULL, -- requests that used a model without a price
    durations JSONB NOT NULL, -- JSON object: number of requests by lower bound of their duration
    first_bytes JSONB NOT NULL, -- the same for the time until the first byte
    PRIMARY KEY (bucket_start, model, server)
);

-- Sums for each key of all models and servers together.
CREATE TABLE usage_key_daily (
    bucket_start BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    requests BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    audio_input_tokens BIGINT NOT NULL,
    audio_output_tokens BIGINT NOT NULL,
    image_input_tokens BIGINT NOT NULL,
    image_output_tokens BIGINT NOT NULL,
    images BIGINT NOT NULL,
    audio_ms BIGINT NOT NULL,
    characters BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL, -- without the unpriced requests
    unpriced BIGINT NOT NULL, -- requests that used a model without a price
    PRIMARY KEY (bucket_start, key_id, user_id)
);

CREATE INDEX usage_key_daily_user ON usage_key_daily (user_id, bucket_start);

-- A histogram of bounds, without those that are NULL.
CREATE FUNCTION count_values(BIGINT []) RETURNS JSONB LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(low, n), '{}') FROM (
        SELECT low, count(*) AS n FROM unnest($1) AS low WHERE low IS NOT NULL GROUP BY low
    ) AS counts
$$;

-- The sums of two histograms.
CREATE FUNCTION add_counts(JSONB, JSONB) RETURNS JSONB LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(key, n), '{}') FROM (
        SELECT key, sum(value::bigint) AS n
        FROM (SELECT * FROM jsonb_each_text($1) UNION ALL SELECT * FROM jsonb_each_text($2)) AS counts
        GROUP BY key
    ) AS sums
$$;

-- The two meters by day (UTC): sums of requests that both have counted. Output is only of requests without reasoning,
-- which a server may hide; costs are only of requests with a price whose cost the server has reported.
CREATE TABLE usage_meters (
    bucket_start BIGINT NOT NULL,
    model TEXT NOT NULL,
    server TEXT NOT NULL,
    compared BIGINT NOT NULL, -- requests
    own_input BIGINT NOT NULL,
    reported_input BIGINT NOT NULL,
    own_output BIGINT NOT NULL,
    reported_output BIGINT NOT NULL,
    costed BIGINT NOT NULL, -- requests with both costs
    own_cost_nano BIGINT NOT NULL, -- without a markup
    reported_cost_nano BIGINT NOT NULL,
    quarantined BIGINT NOT NULL, -- requests
    PRIMARY KEY (bucket_start, model, server)
);

-- Amounts that count towards limits: in the latest day, in the latest month, and in total.
CREATE TABLE quota_counters (
    subject TEXT NOT NULL PRIMARY KEY, -- key:ID, user:ID or tier:NAME
    day TEXT NOT NULL,
    day_tokens BIGINT NOT NULL,
    day_nano BIGINT NOT NULL,
    month TEXT NOT NULL,
    month_tokens BIGINT NOT NULL,
    month_nano BIGINT NOT NULL,
    total_tokens BIGINT NOT NULL,
    total_nano BIGINT NOT NULL
);

-- Prices that the operator has set. Lines with the same server, model and date are one price.
CREATE TABLE prices (
    server TEXT NOT NULL, -- '' is every server
    model TEXT NOT NULL,
    since BIGINT NOT NULL, -- from when it counts
    service_tier TEXT NOT NULL, -- '' is the standard one
    from_tokens BIGINT NOT NULL, -- it counts from this many input tokens on
    rates TEXT NOT NULL, -- JSON object: nano-USD for a million units
    max_output BIGINT,
    until BIGINT, -- from when it does not count any more
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (model, server, since, service_tier, from_tokens)
);

-- Prepaid credit. Entries are only appended: each is a link of the hash chain "ledger" (storage/chain.py).
CREATE TABLE ledger (
    seq BIGINT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE, -- idempotency key, such as charge:USAGE_ID
    at BIGINT NOT NULL,
    kind TEXT NOT NULL, -- see EntryKind in storage/ledger.py
    debit TEXT NOT NULL, -- accounts: wallet:USER_ID, revenue, grants, payments:manual, expired, adjustments
    credit TEXT NOT NULL,
    amount_nano BIGINT NOT NULL CHECK (amount_nano > 0),
    user_id TEXT NOT NULL,
    reference TEXT NOT NULL,
    detail TEXT NOT NULL, -- JSON object
    hash TEXT NOT NULL -- HMAC-SHA256 in hexadecimal
);

CREATE INDEX ledger_user ON ledger (user_id, seq);

-- New costs of settled requests. The last row of a request has its current cost; see storage/reprice.py.
CREATE TABLE usage_adjustments (
    usage_id TEXT NOT NULL,
    number BIGINT NOT NULL, -- from 1
    usage_at BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL,
    price_version TEXT NOT NULL,
    charged_nano BIGINT, -- what is now paid with prepaid credit; NULL: the account has none
    posted_nano BIGINT NOT NULL, -- the change of the balance
    PRIMARY KEY (usage_id, number)
);

-- The balance of each user with prepaid credit: the sum of the entries.
CREATE TABLE wallets (
    user_id TEXT NOT NULL PRIMARY KEY,
    balance_nano BIGINT NOT NULL,
    grants TEXT NOT NULL, -- JSON array: id, what is left, end
    revision BIGINT NOT NULL -- number of entries that are not charges
);

-- Codes that give credit once, in batches of one amount.
CREATE TABLE redeem_batches (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    amount_nano BIGINT NOT NULL CHECK (amount_nano > 0), -- of each code
    codes BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT, -- codes cannot be redeemed from then on
    ends_at BIGINT, -- when what is left of the credit ends
    revoked_at BIGINT,
    redeemed BIGINT NOT NULL -- number of codes
);

CREATE TABLE redeem_codes (
    digest BYTEA NOT NULL PRIMARY KEY, -- SHA-256 of the code
    batch_id TEXT NOT NULL REFERENCES redeem_batches (id),
    number BIGINT NOT NULL, -- from 1
    last_four TEXT NOT NULL,
    redeemed_at BIGINT,
    user_id TEXT
);

CREATE UNIQUE INDEX redeem_codes_batch ON redeem_codes (batch_id, number);

-- Plans and payments. Orders, subscriptions and payments stay when their user is deleted.

CREATE TABLE billing_customers (
    provider TEXT NOT NULL,
    id TEXT NOT NULL, -- at the provider
    user_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (provider, id)
);

CREATE INDEX billing_customers_user ON billing_customers (user_id, provider);

-- What users want to buy: a plan, or credit.
CREATE TABLE orders (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    plan TEXT NOT NULL, -- empty for credit
    amount_cents BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    checkout_id TEXT NOT NULL, -- at the provider; empty until it is known
    state TEXT NOT NULL CHECK (state IN ('open', 'paid', 'expired', 'refused', 'canceled'))
);

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
    period_start BIGINT NOT NULL,
    period_end BIGINT NOT NULL,
    cancel_at_end BIGINT NOT NULL,
    next_plan TEXT NOT NULL, -- in force from the next period; empty: no change
    is_paid BIGINT NOT NULL, -- the first payment matches the order
    granted_nano BIGINT NOT NULL, -- included credit of this period
    past_due_since BIGINT,
    reminders BIGINT NOT NULL, -- sent since then
    ends_at BIGINT,
    tier TEXT, -- what the account has because of it
    due_at BIGINT, -- when something changes without an event
    created_at BIGINT NOT NULL
);

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
    paid_cents BIGINT NOT NULL, -- with the tax
    tax_cents BIGINT NOT NULL,
    credit_nano BIGINT NOT NULL, -- credit that was added
    reversed_cents BIGINT NOT NULL, -- refunded or charged back
    state TEXT NOT NULL CHECK (state IN ('paid', 'refused', 'duplicate')),
    at BIGINT NOT NULL
);

CREATE UNIQUE INDEX payments_provider ON payments (provider, provider_id);
CREATE INDEX payments_user ON payments (user_id, id);

-- Invoices and credit notes. Numbers have no gaps, because the head of the ledger is locked.
CREATE TABLE invoices (
    number BIGINT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    payment_id TEXT NOT NULL,
    of_number BIGINT, -- of the invoice that a credit note is for
    issued_at BIGINT NOT NULL,
    title TEXT NOT NULL,
    currency TEXT NOT NULL,
    total_cents BIGINT NOT NULL, -- with the tax; below 0 for a credit note
    tax_cents BIGINT NOT NULL,
    seller TEXT NOT NULL, -- JSON array of lines
    buyer TEXT NOT NULL
);

CREATE INDEX invoices_user ON invoices (user_id, number);
CREATE INDEX invoices_payment ON invoices (payment_id);

-- What users want to have on their invoices, such as a company and its address.
CREATE TABLE billing_details (
    user_id TEXT NOT NULL PRIMARY KEY REFERENCES users (id),
    lines TEXT NOT NULL -- JSON array
);

-- Trials. A person has one: the digest is of the normalised address.
CREATE TABLE trials (
    person BYTEA NOT NULL PRIMARY KEY, -- SHA-256
    user_id TEXT NOT NULL UNIQUE,
    started_at BIGINT NOT NULL,
    ends_at BIGINT NOT NULL,
    due_at BIGINT -- when the next event is due
);

CREATE INDEX trials_due ON trials (due_at);

CREATE TABLE referral_codes (
    user_id TEXT NOT NULL PRIMARY KEY REFERENCES users (id),
    code TEXT NOT NULL UNIQUE
);

-- Who was invited by whom. Both get a grant after the first payment.
CREATE TABLE referrals (
    user_id TEXT NOT NULL PRIMARY KEY,
    referrer_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    payment_id TEXT NOT NULL, -- empty until there is one
    earned_nano BIGINT NOT NULL -- by the referrer
);

CREATE INDEX referrals_referrer ON referrals (referrer_id);

-- Plans that administrators have added to those of the configuration.
CREATE TABLE plans (
    name TEXT NOT NULL PRIMARY KEY,
    fields TEXT NOT NULL -- JSON object
);

-- Events of providers that were handled.
CREATE TABLE billing_events (
    provider TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (provider, id)
);

-- What requests that run for more than a second have used so far. At startup they are settled with it.
CREATE TABLE open_requests (
    id TEXT NOT NULL PRIMARY KEY, -- of the usage row
    at BIGINT NOT NULL,
    usage TEXT NOT NULL -- JSON object: the usage row
);

-- What routes have spent today for hedged requests and for copies to a shadow.
CREATE TABLE extra_costs (
    kind TEXT NOT NULL, -- hedged or shadow
    route TEXT NOT NULL, -- its model
    day BIGINT NOT NULL, -- since the epoch, UTC
    nano BIGINT NOT NULL,
    PRIMARY KEY (kind, route)
);

-- Events: what has happened, written in the transaction that changes it. IDs are UUIDv7, which orders them by time.
CREATE TABLE events (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL, -- such as key.created
    account_id TEXT, -- user that it concerns; NULL: only operators
    at BIGINT NOT NULL,
    data TEXT NOT NULL, -- JSON object
    dispatched_at BIGINT -- NULL: consumers have not got it yet
);

CREATE INDEX events_new ON events (id) WHERE dispatched_at IS NULL;
CREATE INDEX events_account ON events (account_id) WHERE account_id IS NOT NULL;

-- Events that are written once have a mark.
CREATE TABLE event_marks (
    mark TEXT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL
);

CREATE INDEX event_marks_at ON event_marks (at);

-- Alerts that administrators added, and the states of all alerts.
CREATE TABLE alert_rules (
    name TEXT NOT NULL PRIMARY KEY,
    definition TEXT NOT NULL, -- JSON object
    created_at BIGINT NOT NULL
);

CREATE TABLE alert_states (
    name TEXT NOT NULL PRIMARY KEY, -- of an alert, also of one in the settings
    state TEXT NOT NULL -- JSON object
);

-- Endpoints that get events, with the secret that signs them.
CREATE TABLE webhooks (
    id TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL, -- user; '' for one of the operators, which gets the events of all accounts
    url TEXT NOT NULL,
    description TEXT NOT NULL,
    events TEXT NOT NULL, -- JSON list of kinds, groups such as payment.*, or *
    sealed_secret BYTEA NOT NULL, -- encrypted
    sealed_previous BYTEA, -- the secret before, which signs too until previous_until
    previous_until BIGINT,
    enabled BIGINT NOT NULL CHECK (enabled IN (0, 1)),
    disabled_reason TEXT NOT NULL, -- '' if the owner disabled it
    last_success_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX webhooks_owner ON webhooks (owner, id);

-- An event for an endpoint. The first try of the current schedule is at since; tries counts within it.
CREATE TABLE webhook_deliveries (
    id TEXT NOT NULL PRIMARY KEY,
    webhook_id TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    tries BIGINT NOT NULL,
    since BIGINT NOT NULL,
    next_at BIGINT, -- when it is tried next; NULL unless pending
    created_at BIGINT NOT NULL
);

CREATE INDEX webhook_deliveries_log ON webhook_deliveries (webhook_id, id);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, next_at) WHERE next_at IS NOT NULL;

CREATE TABLE webhook_attempts (
    delivery_id TEXT NOT NULL REFERENCES webhook_deliveries (id) ON DELETE CASCADE,
    number BIGINT NOT NULL, -- from 1
    at BIGINT NOT NULL,
    status BIGINT, -- NULL: there was no answer
    error TEXT NOT NULL,
    duration_ms BIGINT NOT NULL,
    answer TEXT NOT NULL, -- the beginning of the body
    PRIMARY KEY (delivery_id, number)
);

-- Named leases. The holder of "limits" is the only instance that grants requests; it renews the lease.
CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch BIGINT NOT NULL, -- incremented whenever the lease is taken
    expires_at BIGINT NOT NULL
);

-- Audit log

-- Each row is a link of the hash chain "audit" (storage/chain.py): seq has no gaps, hash covers the row and the hash
-- of the row before.
CREATE TABLE audit (
    seq BIGINT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL, -- JSON object
    address TEXT NOT NULL,
    hash TEXT NOT NULL -- HMAC-SHA256 in hexadecimal
);

-- Pages are read newest first. Each combination of filters has an index, so that a page reads only the rows it
-- returns.
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
    seq BIGINT NOT NULL,
    hash TEXT NOT NULL
);

INSERT INTO chain_heads (chain, seq, hash) VALUES ('audit', 0, ''), ('ledger', 0, '');

-- Values that the product stores for itself

CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
