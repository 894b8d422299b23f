-- The directory: which tenants there are, who is in them, and which pools they have. Ids are text with their prefix.

CREATE TABLE tenant.tenant (
    id          text        PRIMARY KEY CHECK (id ~ '^tnt_[0-7][0-9a-hjkmnp-tv-z]{25}$'),
    name        text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    region      text        NOT NULL CHECK (region IN ('us', 'eu')),
    cell        text        NOT NULL,
    plan        text        NOT NULL DEFAULT 'free' CHECK (plan IN ('free', 'pro', 'premium', 'enterprise')),
    state       text        NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'suspended')),
    create_time timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION tenant.keep_region() RETURNS trigger LANGUAGE plpgsql AS $keep$
BEGIN
    RAISE EXCEPTION 'the region of a tenant never changes' USING ERRCODE = 'check_violation', CONSTRAINT = 'tenant_region_is_for_ever';
END
$keep$;

CREATE TRIGGER keep_region BEFORE UPDATE ON tenant.tenant
    FOR EACH ROW WHEN (OLD.region IS DISTINCT FROM NEW.region) EXECUTE FUNCTION tenant.keep_region();

-- `role` is that in the whole tenant; null is for who has roles in single pools only.
CREATE TABLE tenant.member (
    tenant_id   text        NOT NULL REFERENCES tenant.tenant (id) ON DELETE CASCADE,
    user_id     text        NOT NULL,
    role        text        CHECK (role IN ('viewer', 'analyst', 'operator', 'admin', 'owner')),
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT member_key PRIMARY KEY (tenant_id, user_id)
);

CREATE INDEX member_by_user ON tenant.member (user_id, tenant_id);
CREATE INDEX member_by_time ON tenant.member (tenant_id, create_time, user_id);

CREATE TABLE tenant.pool (
    id          text        PRIMARY KEY,
    tenant_id   text        NOT NULL REFERENCES tenant.tenant (id) ON DELETE CASCADE,
    name        text        COLLATE "C" NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pool_name_key UNIQUE (tenant_id, name),
    CONSTRAINT pool_tenant_key UNIQUE (tenant_id, id)
);

CREATE TABLE tenant.binding (
    tenant_id   text        NOT NULL,
    user_id     text        NOT NULL,
    pool_id     text        NOT NULL,
    role        text        NOT NULL CHECK (role IN ('viewer', 'analyst', 'operator')),
    PRIMARY KEY (tenant_id, user_id, pool_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES tenant.member (tenant_id, user_id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, pool_id) REFERENCES tenant.pool (tenant_id, id) ON DELETE CASCADE
);

CREATE INDEX binding_by_pool ON tenant.binding (tenant_id, pool_id);

-- `email_key` is the address in the form in which two of them are compared. `mail_due` is when the mail is to be tried (again); null is
-- when it has gone out.
CREATE TABLE tenant.invitation (
    id            text        PRIMARY KEY,
    tenant_id     text        NOT NULL REFERENCES tenant.tenant (id) ON DELETE CASCADE,
    email         text        NOT NULL,
    email_key     text        NOT NULL,
    role          text        NOT NULL CHECK (role IN ('viewer', 'analyst', 'operator', 'admin', 'owner')),
    pool_id       text,
    invited_by    text        NOT NULL,
    create_time   timestamptz NOT NULL DEFAULT now(),
    expire_time   timestamptz NOT NULL,
    mail_due      timestamptz,
    mail_attempts integer     NOT NULL DEFAULT 0,
    CONSTRAINT invitation_email_key UNIQUE (tenant_id, email_key),
    CHECK (pool_id IS NULL OR role IN ('viewer', 'analyst', 'operator')),
    FOREIGN KEY (tenant_id, pool_id) REFERENCES tenant.pool (tenant_id, id) ON DELETE CASCADE
);

CREATE INDEX invitation_by_expiry ON tenant.invitation (expire_time);
CREATE INDEX invitation_by_mail ON tenant.invitation (mail_due) WHERE mail_due IS NOT NULL;

-- Each mail of an invitation carries a token of its own, of which only the SHA-256 is kept; any of them accepts it, once.
CREATE TABLE tenant.invitation_token (
    sha256        bytea PRIMARY KEY CHECK (octet_length(sha256) = 32),
    invitation_id text  NOT NULL REFERENCES tenant.invitation (id) ON DELETE CASCADE
);

CREATE INDEX invitation_token_by_invitation ON tenant.invitation_token (invitation_id);

-- What service auth reads: each person's seat in each active tenant, and which pool is whose.
CREATE VIEW tenant.seat AS
SELECT
    m.user_id,
    m.tenant_id,
    m.role,
    coalesce(
        (
            SELECT jsonb_object_agg(b.pool_id, b.role)
            FROM tenant.binding AS b
            WHERE b.tenant_id = m.tenant_id AND b.user_id = m.user_id
        ),
        '{}'
    ) AS pools,
    t.plan,
    t.region
FROM tenant.member AS m
INNER JOIN tenant.tenant AS t ON m.tenant_id = t.id
WHERE t.state = 'active';

CREATE VIEW tenant.pool_of AS
SELECT
    tenant_id,
    id AS pool_id
FROM tenant.pool;

GRANT USAGE ON SCHEMA tenant TO trailmesh_auth;
GRANT SELECT ON tenant.seat, tenant.pool_of TO trailmesh_auth;
REVOKE DELETE, TRUNCATE ON tenant.tenant FROM trailmesh_tenant;
