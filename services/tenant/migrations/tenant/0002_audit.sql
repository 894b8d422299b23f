-- The audit log: a chain of records, written by the functions `tenant.audit_append` and `tenant.audit_trim` only. `body` is JSON, to the byte
-- what `hash` was taken over; `id`, `part` and `time` repeat what it says.
CREATE TABLE audit_record (
    seq  bigint      PRIMARY KEY CHECK (seq > 0),
    id   text        NOT NULL,
    part text        NOT NULL CHECK (part IN ('intent', 'result', 'event', 'trim')),
    time timestamptz NOT NULL,
    body text        NOT NULL,
    prev bytea       NOT NULL CHECK (octet_length(prev) = 32),
    hash bytea       NOT NULL CHECK (octet_length(hash) = 32)
);

-- Each entry has one beginning and one result.
CREATE UNIQUE INDEX audit_record_key ON audit_record (id, (part = 'result'));

DO $rights$ BEGIN
    EXECUTE format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON audit_record FROM %I', current_schema());
END $rights$;
