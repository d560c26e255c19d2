-- What a key may be used for and from where; lists are JSON, NULL is any. Limits join in one JSON object.

ALTER TABLE api_keys ADD COLUMN scopes TEXT;
ALTER TABLE api_keys ADD COLUMN allowed_models TEXT;
ALTER TABLE api_keys ADD COLUMN allowed_ips TEXT;
ALTER TABLE api_keys ADD COLUMN allowed_origins TEXT;
ALTER TABLE api_keys ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';
ALTER TABLE api_keys ADD COLUMN rotated_from TEXT;
ALTER TABLE api_keys ADD COLUMN limits TEXT; -- JSON object; NULL is none of its own
UPDATE api_keys
SET limits = json_patch('{}', json_object('rpm', nullif(rpm, 0), 'concurrency', nullif(concurrency, 0)))
WHERE rpm > 0 OR concurrency > 0;
ALTER TABLE api_keys DROP COLUMN rpm;
ALTER TABLE api_keys DROP COLUMN concurrency;

DROP INDEX api_keys_user;
CREATE INDEX api_keys_user ON api_keys (user_id, id);
