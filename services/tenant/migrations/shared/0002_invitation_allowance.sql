-- What the tenant's hourly allowance of invitations was spent on: a row for each that was to be mailed, whatever has become of it since.
CREATE TABLE tenant.invitation_spent (
    tenant_id  text        NOT NULL REFERENCES tenant.tenant (id) ON DELETE CASCADE,
    spend_time timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX invitation_spent_by_time ON tenant.invitation_spent (tenant_id, spend_time);
