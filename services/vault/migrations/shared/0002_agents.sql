-- Who vouches for agents, and what was issued. Private keys of authorities lie sealed in own_secret, purpose `agent-authority`.

-- One is active: it issues. A `next` one is trusted but does not issue before `activate_time`, so that every replica trusts it by then. Retired
-- ones are trusted until the last certificate that they issued has ended.
CREATE TABLE vault.agent_authority (
    id            text        PRIMARY KEY,
    certificate   bytea       NOT NULL,
    state         text        NOT NULL CHECK (state IN ('next', 'active', 'retired')),
    create_time   timestamptz NOT NULL DEFAULT now(),
    activate_time timestamptz NOT NULL,
    expire_time   timestamptz NOT NULL
);

CREATE UNIQUE INDEX agent_authority_active_key ON vault.agent_authority ((true)) WHERE state = 'active';
CREATE UNIQUE INDEX agent_authority_next_key ON vault.agent_authority ((true)) WHERE state = 'next';

-- Every certificate that counts: one that is not here is nobody's, whoever signed it.
CREATE TABLE vault.agent_certificate (
    serial       text        PRIMARY KEY CHECK (serial ~ '^[1-7][0-9a-f]{31}$'),
    tenant_id    text        NOT NULL,
    agent_id     text        NOT NULL,
    authority_id text        NOT NULL REFERENCES vault.agent_authority (id),
    issue_time   timestamptz NOT NULL DEFAULT now(),
    expire_time  timestamptz NOT NULL,
    revoke_time  timestamptz
);

CREATE INDEX agent_certificate_by_agent ON vault.agent_certificate (tenant_id, agent_id, issue_time);
CREATE INDEX agent_certificate_by_authority ON vault.agent_certificate (authority_id, expire_time);
CREATE INDEX agent_certificate_by_expiry ON vault.agent_certificate (expire_time);

GRANT USAGE ON SCHEMA tenant TO trailmesh_vault;
