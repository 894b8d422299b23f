-- How far each sink of the audit log has come. What it is, is in its tenant's schema (`audit_sink`); what is here lets the task that delivers
-- find what is due without going through all schemas. `lease` is of the replica that delivers at the moment, and nobody else moves the cursor.
CREATE TABLE tenant.audit_delivery (
    sink_id            text        PRIMARY KEY,
    tenant_id          text        NOT NULL REFERENCES tenant.tenant (id) ON DELETE CASCADE,
    delivered_sequence bigint      NOT NULL DEFAULT 0,
    due_time           timestamptz NOT NULL DEFAULT now(),
    attempts           integer     NOT NULL DEFAULT 0,
    lease              text        NOT NULL DEFAULT '',
    lease_until        timestamptz NOT NULL DEFAULT '-infinity',
    last_attempt_time  timestamptz,
    last_error         text        NOT NULL DEFAULT '' CHECK (char_length(last_error) <= 300),
    -- Which file a file sink wrote last, and how long it was: `device:inode:size`.
    file_mark          text        NOT NULL DEFAULT ''
) WITH (fillfactor = 50);

CREATE INDEX audit_delivery_by_tenant ON tenant.audit_delivery (tenant_id);
CREATE INDEX audit_delivery_by_time ON tenant.audit_delivery (due_time);
