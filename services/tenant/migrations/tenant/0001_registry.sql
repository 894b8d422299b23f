-- What one tenant has. Every table carries the tenant's id and refuses any other: rows that are restored into the wrong schema fail.

CREATE TABLE server (
    tenant_id   text        NOT NULL,
    id          text        PRIMARY KEY,
    name        text        COLLATE "C" NOT NULL,
    host        text        NOT NULL,
    port        integer     NOT NULL CHECK (port BETWEEN 1 AND 65535),
    username    text        NOT NULL,
    tls_mode    text        NOT NULL CHECK (tls_mode IN ('verify_identity', 'verify_ca', 'required', 'disabled')),
    engine      text        CHECK (engine IN ('mysql', 'mariadb')),
    pool_id     text        NOT NULL,
    labels      jsonb       NOT NULL DEFAULT '{}',
    version     bigint      NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT server_name_key UNIQUE (name)
);

CREATE INDEX server_by_pool ON server (pool_id, name);

-- `enrolment_sha256` is of the only token that enrols it; null once it was used or the agent was revoked.
CREATE TABLE agent (
    tenant_id             text        NOT NULL,
    id                    text        PRIMARY KEY,
    name                  text        COLLATE "C" NOT NULL,
    pool_id               text        NOT NULL,
    state                 text        NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'enrolled', 'revoked')),
    create_time           timestamptz NOT NULL DEFAULT now(),
    enrolment_sha256      bytea       CHECK (octet_length(enrolment_sha256) = 32),
    enrolment_expire_time timestamptz,
    revoke_time           timestamptz,
    CHECK ((state = 'pending') = (enrolment_sha256 IS NOT NULL)),
    CHECK ((state = 'pending') = (enrolment_expire_time IS NOT NULL)),
    CHECK ((state = 'revoked') = (revoke_time IS NOT NULL))
);

-- A revoked agent gives its name back.
CREATE UNIQUE INDEX agent_name_key ON agent (name) WHERE state <> 'revoked';
CREATE INDEX agent_by_name ON agent (name, id);
CREATE UNIQUE INDEX agent_enrolment_key ON agent (enrolment_sha256);

-- Schema and table `*` and no columns mean all.
CREATE TABLE access_rule (
    tenant_id   text        NOT NULL,
    id          text        PRIMARY KEY,
    role        text        NOT NULL CHECK (role IN ('viewer', 'analyst', 'operator')),
    server_id   text        REFERENCES server (id) ON DELETE CASCADE,
    schema_name text        NOT NULL,
    table_name  text        NOT NULL,
    columns     text[]      NOT NULL,
    effect      text        NOT NULL CHECK (effect IN ('allow', 'deny')),
    create_time timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX access_rule_by_server ON access_rule (server_id);

-- Proofs of a second factor that an action was done with: each is good for one.
CREATE TABLE used_grant (
    tenant_id   text        NOT NULL,
    id          text        CONSTRAINT used_grant_key PRIMARY KEY,
    expire_time timestamptz NOT NULL
);

CREATE INDEX used_grant_by_expiry ON used_grant (expire_time);

-- The schema's name says whose it is: `t_` and the digits of the id.
DO $own$
DECLARE
    own text := 'tnt_' || substr(current_schema(), 3);
    relation text;
BEGIN
    IF own !~ '^tnt_[0-7][0-9a-hjkmnp-tv-z]{25}$' THEN
        RAISE EXCEPTION 'the search path does not begin with a tenant''s schema';
    END IF;
    FOREACH relation IN ARRAY ARRAY['server', 'agent', 'access_rule', 'used_grant'] LOOP
        EXECUTE format(
            'ALTER TABLE %I ALTER COLUMN tenant_id SET DEFAULT %L, ADD CONSTRAINT %I CHECK (tenant_id = %L)',
            relation, own, relation || '_is_of_this_tenant', own
        );
    END LOOP;
END
$own$;
