-- Signing in: sessions, single-use tokens, and what an account may do.

ALTER TABLE users ADD COLUMN tier TEXT; -- a tier of the settings; NULL is none, and no limits from one
ALTER TABLE users ADD COLUMN email_verified_at INTEGER;
ALTER TABLE users ADD COLUMN limits TEXT; -- JSON object of what differs from the tier; NULL is nothing

-- Until now only the operator made accounts, and vouched for their addresses.
UPDATE users SET email_verified_at = created_at WHERE email IS NOT NULL;

CREATE TABLE sessions (
    digest BLOB NOT NULL PRIMARY KEY, -- SHA-256 of the token
    id TEXT NOT NULL UNIQUE, -- what people see and revoke
    user_id TEXT NOT NULL REFERENCES users (id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_user ON sessions (user_id, id);
CREATE INDEX sessions_end ON sessions (expires_at);

CREATE TABLE one_time_tokens (
    digest BLOB NOT NULL PRIMARY KEY, -- SHA-256 of the token
    purpose TEXT NOT NULL CHECK (purpose IN ('verify_email', 'reset_password', 'invite')),
    user_id TEXT REFERENCES users (id), -- NULL for an invitation
    email TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX one_time_tokens_user ON one_time_tokens (user_id, purpose);
CREATE INDEX one_time_tokens_end ON one_time_tokens (expires_at);
