-- An address that has an account has no open invitations. Those from before this was so go.

DELETE FROM one_time_tokens
WHERE purpose = 'invite' AND used_at IS NULL AND EXISTS (
    SELECT 1 FROM users WHERE lower(users.email) = lower(one_time_tokens.email)
        AND (users.email_verified_at IS NOT NULL OR users.disabled_at IS NOT NULL)
);

-- The audit log is read from the newest time on. Whatever is filtered by, and whatever the times, an index leads to
-- what is found: none of these is to be left to statistics, which SQLite does not have.

DROP INDEX audit_actor;
DROP INDEX audit_action;
DROP INDEX audit_subject;
CREATE INDEX audit_at ON audit (at, seq);
CREATE INDEX audit_actor ON audit (actor, at, seq);
CREATE INDEX audit_action ON audit (action, at, seq);
CREATE INDEX audit_subject ON audit (subject, at, seq);
CREATE INDEX audit_actor_action ON audit (actor, action, at, seq);
CREATE INDEX audit_actor_subject ON audit (actor, subject, at, seq);
CREATE INDEX audit_subject_action ON audit (subject, action, at, seq);
