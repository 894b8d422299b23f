-- Where enrolment tokens lead. The vault looks a token up here, and then spends it in the agent's own row, in its tenant's schema; so a row
-- that lies here too long enrols nobody. One token an agent.
CREATE TABLE tenant.enrolment (
    agent_id    text        PRIMARY KEY,
    tenant_id   text        NOT NULL REFERENCES tenant.tenant (id) ON DELETE CASCADE,
    sha256      bytea       NOT NULL CONSTRAINT enrolment_sha256_key UNIQUE CHECK (octet_length(sha256) = 32),
    expire_time timestamptz NOT NULL
);

CREATE INDEX enrolment_by_expiry ON tenant.enrolment (expire_time);
CREATE INDEX enrolment_by_tenant ON tenant.enrolment (tenant_id);

-- Whether a tenant is served at the moment.
CREATE VIEW tenant.standing AS
SELECT
    id AS tenant_id,
    state
FROM tenant.tenant;

GRANT USAGE ON SCHEMA tenant TO trailmesh_vault;
GRANT SELECT ON tenant.enrolment, tenant.standing TO trailmesh_vault;
