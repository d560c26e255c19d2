-- Filters by action, as those by actor and subject, read what they find and not the whole log.

CREATE INDEX audit_action ON audit (action, seq);
