-- The audit log as a chain: every row has the next number and a MAC over itself and the MAC of the row before.
-- Rows older than the chain keep an empty one. The setting audit_head repeats the newest number and MAC.

ALTER TABLE audit RENAME TO audit_before;

CREATE TABLE audit (
    seq BIGINT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL, -- JSON object
    address TEXT NOT NULL,
    hash TEXT NOT NULL -- HMAC-SHA256 in hex
);

INSERT INTO audit
SELECT row_number() OVER (ORDER BY at, id), id, at, actor, action, subject, detail, address, ''
FROM audit_before;

DROP TABLE audit_before;

INSERT INTO settings (name, value) SELECT 'audit_head', count(*) || ':' FROM audit;

CREATE INDEX audit_actor ON audit (actor, seq);
CREATE INDEX audit_subject ON audit (subject, seq);
