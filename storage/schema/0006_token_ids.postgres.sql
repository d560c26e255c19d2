-- An invitation is shown and withdrawn by its id, not by the digest of what opens it.

ALTER TABLE one_time_tokens ADD COLUMN id TEXT NOT NULL DEFAULT '';

-- Those that are out get one that begins with the time, as all ids do, so that they keep their order.
UPDATE one_time_tokens SET id =
    substr(lpad(to_hex(created_at), 12, '0'), 1, 8) || '-' || substr(lpad(to_hex(created_at), 12, '0'), 9)
    || '-7' || substr(encode(digest, 'hex'), 1, 3) || '-8' || substr(encode(digest, 'hex'), 4, 3)
    || '-' || substr(encode(digest, 'hex'), 7, 12);

CREATE UNIQUE INDEX one_time_tokens_id ON one_time_tokens (id);
