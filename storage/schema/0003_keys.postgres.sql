-- What a key may be used for and from where; lists are JSON, NULL is any. Limits join in one JSON object.

ALTER TABLE api_keys ADD COLUMN scopes TEXT;
ALTER TABLE api_keys ADD COLUMN allowed_models TEXT;
ALTER TABLE api_keys ADD COLUMN allowed_ips TEXT;
ALTER TABLE api_keys ADD COLUMN allowed_origins TEXT;
ALTER TABLE api_keys ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';
ALTER TABLE api_keys ADD COLUMN rotated_at BIGINT;
ALTER TABLE api_keys ADD COLUMN limits TEXT; -- JSON object; NULL is none of its own
UPDATE api_keys SET limits = json_strip_nulls(
    json_build_object('rpm', nullif(rpm, 0), 'concurrency', nullif(concurrency, 0))
)::text
WHERE rpm > 0 OR concurrency > 0;
ALTER TABLE api_keys DROP COLUMN rpm;
ALTER TABLE api_keys DROP COLUMN concurrency;

DROP INDEX api_keys_user;
CREATE INDEX api_keys_user ON api_keys (user_id, id);

-- A key that is rotated stays the same key; what it was before ends some time, 0 being at once.
CREATE TABLE replaced_digests (
    digest BYTEA NOT NULL PRIMARY KEY,
    key_id TEXT NOT NULL REFERENCES api_keys (id),
    ends_at BIGINT NOT NULL,
    replaced_at BIGINT NOT NULL
);

CREATE INDEX replaced_digests_key ON replaced_digests (key_id);
