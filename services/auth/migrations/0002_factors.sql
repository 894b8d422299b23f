-- Second factors, API keys, and the keys that sign tokens. What is secret is sealed (bytea), what need only be recognised is a hash.

-- A person has at most one active factor and one that waits to be activated. `last_step` to `suspended_at` are the memory that every use of
-- its codes shares; times in it are seconds since 1970, as RFC 6238 counts steps.
CREATE TABLE auth.factor (
    id            text        PRIMARY KEY,
    account_id    text        NOT NULL REFERENCES auth.account (id) ON DELETE CASCADE,
    secret        bytea       NOT NULL,
    active        boolean     NOT NULL DEFAULT false,
    create_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    active_time   timestamptz,
    last_step     bigint,
    drift         smallint    NOT NULL DEFAULT 0 CHECK (drift BETWEEN -1 AND 1),
    near_step     bigint,
    near_drift    smallint,
    wrong         bigint[]    NOT NULL DEFAULT '{}' CHECK (cardinality(wrong) <= 20),
    streak        integer     NOT NULL DEFAULT 0,
    locked_until  bigint,
    suspended_at  bigint,
    CHECK (active = (active_time IS NOT NULL)),
    CONSTRAINT factor_one_of_each_key UNIQUE (account_id, active)
);

-- HMAC-SHA-256 under a key derived from the seal key.
CREATE TABLE auth.recovery_code (
    account_id    text        NOT NULL REFERENCES auth.account (id) ON DELETE CASCADE,
    mac           bytea       NOT NULL CHECK (octet_length(mac) = 32),
    PRIMARY KEY (account_id, mac)
);

CREATE TABLE auth.api_key (
    id            text        COLLATE "C" PRIMARY KEY,
    sha256        bytea       NOT NULL CHECK (octet_length(sha256) = 32),
    prefix        text        NOT NULL CHECK (char_length(prefix) = 11),
    tenant_id     text        NOT NULL,
    owner_id      text        NOT NULL REFERENCES auth.account (id) ON DELETE CASCADE,
    name          text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    role          text        NOT NULL CHECK (role IN ('viewer', 'analyst', 'operator', 'admin', 'owner')),
    scopes        text[]      NOT NULL,
    pools         text[]      NOT NULL,
    networks      text[]      NOT NULL,
    create_time   timestamptz NOT NULL,
    expire_time   timestamptz NOT NULL CHECK (expire_time <= create_time + interval '366 days'),
    revoke_time   timestamptz,
    last_use_time timestamptz,
    last_use_from text,
    CONSTRAINT api_key_sha256_key UNIQUE (sha256)
);

-- Ids grow with time, so that this is the order of the list too.
CREATE INDEX api_key_by_tenant ON auth.api_key (tenant_id, id DESC);
CREATE INDEX api_key_by_owner ON auth.api_key (owner_id);

-- A key is written once. Which one signs follows from `active_from` and the clock alone, so that replicas agree.
CREATE TABLE auth.signing_key (
    kid           text        PRIMARY KEY,
    ring          text        NOT NULL CHECK (ring IN ('access', 'context')),
    secret        bytea       NOT NULL,
    active_from   timestamptz NOT NULL,
    create_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT signing_key_one_at_a_time_key UNIQUE (ring, active_from)
);

REVOKE UPDATE ON auth.signing_key FROM trailmesh_auth;
