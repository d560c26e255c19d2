-- An invitation is shown and withdrawn by its id, not by the digest of what opens it.

ALTER TABLE one_time_tokens ADD COLUMN id TEXT NOT NULL DEFAULT '';

-- Those that are out get one that begins with the time, as all ids do, so that they keep their order.
UPDATE one_time_tokens SET id = lower(
    substr(printf('%012x', created_at), 1, 8) || '-' || substr(printf('%012x', created_at), 9)
    || '-7' || substr(hex(digest), 1, 3) || '-8' || substr(hex(digest), 4, 3) || '-' || substr(hex(digest), 7, 12)
);

CREATE UNIQUE INDEX one_time_tokens_id ON one_time_tokens (id);
