-- The key tree below the root, which is never in the database: key-encryption keys (KEKs), each tenant's data keys, the cell's own secrets.
-- Nothing here opens anything without the root.

-- What wraps data keys and the cell's own secrets, wrapped by the root itself. `root` says by which. A destroyed one keeps its row.
CREATE TABLE vault.kek (
    version        bigint      PRIMARY KEY CHECK (version > 0),
    state          text        NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining', 'destroyed')),
    root           text        NOT NULL,
    wrapped        bytea,
    create_time    timestamptz NOT NULL DEFAULT now(),
    supersede_time timestamptz,
    end_time       timestamptz,
    CHECK ((state = 'destroyed') = (wrapped IS NULL)),
    CHECK ((state = 'destroyed') = (end_time IS NOT NULL))
);

CREATE UNIQUE INDEX kek_active_key ON vault.kek ((true)) WHERE state = 'active';

-- One row a tenant, locked by whoever changes its keys. After its keys were destroyed it holds the proof, and no key is made again.
CREATE TABLE vault.key_ring (
    tenant_id    text        PRIMARY KEY CHECK (tenant_id ~ '^tnt_[0-7][0-9a-hjkmnp-tv-z]{25}$'),
    create_time  timestamptz NOT NULL DEFAULT now(),
    destroy_time timestamptz,
    statement    text,
    signature    text,
    signed_by    text,
    CHECK ((destroy_time IS NULL) = (statement IS NULL)),
    CHECK ((statement IS NULL) = (signature IS NULL)),
    CHECK ((statement IS NULL) = (signed_by IS NULL))
);

-- A tenant's data keys, each wrapped by a KEK. `remaining` is how many values were still sealed with it when that was last counted.
-- A revoked one keeps its wrapped bytes for a while, for values that were on their way when it was superseded; it opens nothing for anybody.
CREATE TABLE vault.data_key (
    tenant_id      text        NOT NULL REFERENCES vault.key_ring (tenant_id),
    version        bigint      NOT NULL CHECK (version > 0),
    state          text        NOT NULL DEFAULT 'active'
    CHECK (state IN ('active', 'draining', 'retired', 'destroyed', 'revoked')),
    compromised    boolean     NOT NULL DEFAULT false,
    kek_version    bigint      NOT NULL REFERENCES vault.kek (version),
    wrapped        bytea,
    create_time    timestamptz NOT NULL DEFAULT now(),
    supersede_time timestamptz,
    end_time       timestamptz,
    remaining      bigint      NOT NULL DEFAULT 0,
    CONSTRAINT data_key_key PRIMARY KEY (tenant_id, version),
    CHECK (state NOT IN ('active', 'draining', 'retired') OR wrapped IS NOT NULL),
    CHECK (state <> 'destroyed' OR wrapped IS NULL),
    CHECK ((state = 'active') = (supersede_time IS NULL)),
    CHECK ((state IN ('active', 'draining')) = (end_time IS NULL))
);

CREATE UNIQUE INDEX data_key_active_key ON vault.data_key (tenant_id) WHERE state = 'active';
CREATE INDEX data_key_by_age ON vault.data_key (create_time) WHERE state = 'active';
CREATE INDEX data_key_by_kek ON vault.data_key (kek_version) WHERE wrapped IS NOT NULL;
CREATE INDEX data_key_in_work ON vault.data_key (tenant_id) WHERE state <> 'active' AND wrapped IS NOT NULL;

-- What was sealed with a version when it was superseded: for the list of what to change at its source when that version turns out to be known
-- to others.
CREATE TABLE vault.was_under (
    tenant_id   text   NOT NULL,
    key_version bigint NOT NULL,
    record_id   text   NOT NULL,
    kind        text   NOT NULL,
    version     bigint NOT NULL,
    PRIMARY KEY (tenant_id, key_version, record_id, kind),
    FOREIGN KEY (tenant_id, key_version) REFERENCES vault.data_key (tenant_id, version) ON DELETE CASCADE
);

-- Secrets of the cell itself, sealed by a KEK: the keys that sign.
CREATE TABLE vault.own_secret (
    purpose     text        NOT NULL,
    id          text        NOT NULL,
    kek_version bigint      NOT NULL REFERENCES vault.kek (version),
    sealed      bytea       NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (purpose, id)
);

CREATE INDEX own_secret_by_kek ON vault.own_secret (kek_version);

-- The public halves of the keys that sign heads of audit chains and proofs of destruction.
CREATE TABLE vault.signing_key (
    id          text        PRIMARY KEY,
    public      bytea       NOT NULL CHECK (octet_length(public) = 32),
    create_time timestamptz NOT NULL DEFAULT now()
);

-- The last signed head of each tenant's audit chain. It only moves ahead, whoever asks.
CREATE TABLE vault.audit_head (
    tenant_id text        PRIMARY KEY,
    size      bigint      NOT NULL CHECK (size > 0),
    hash      bytea       NOT NULL CHECK (octet_length(hash) = 32),
    statement text        NOT NULL,
    signature text        NOT NULL,
    signed_by text        NOT NULL REFERENCES vault.signing_key (id),
    time      timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION vault.only_ahead() RETURNS trigger LANGUAGE plpgsql AS $ahead$
BEGIN
    RAISE EXCEPTION 'the head of an audit chain only moves ahead'
        USING ERRCODE = 'check_violation', CONSTRAINT = 'audit_head_only_ahead';
END
$ahead$;

CREATE TRIGGER only_ahead BEFORE UPDATE ON vault.audit_head
    FOR EACH ROW WHEN (NEW.size <= OLD.size) EXECUTE FUNCTION vault.only_ahead();

-- What replicas look at twice a second. The one row of `epoch` is locked by every transaction that changes keys, so its number grows in the
-- order of their commits. `purge` says which tenants' keys to forget; `*` is all.
CREATE TABLE vault.epoch (one boolean PRIMARY KEY DEFAULT true CHECK (one), number bigint NOT NULL DEFAULT 0);
INSERT INTO vault.epoch DEFAULT VALUES;

CREATE TABLE vault.purge (
    tenant_id text   PRIMARY KEY,
    number    bigint NOT NULL
);

CREATE INDEX purge_by_number ON vault.purge (number);

REVOKE DELETE, TRUNCATE ON vault.kek, vault.key_ring, vault.data_key, vault.signing_key, vault.audit_head, vault.epoch FROM trailmesh_vault;

-- The role of a caller is read again in the transaction of what they do.
GRANT USAGE ON SCHEMA tenant TO trailmesh_vault;
GRANT SELECT ON tenant.seat TO trailmesh_vault;
