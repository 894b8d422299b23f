-- What agents open: one value of each kind for a server, sealed. Service tenant writes it with the server; the vault reads it for the agent of
-- the server's pool, and seals it anew when the tenant's key changes (`envelope` and `key_version`; the value and its `version` stay). A value
-- that was taken away leaves no row here; service tenant's `credential_version` goes on counting, so that an old envelope never fits again.
CREATE TABLE credential (
    tenant_id   text        NOT NULL,
    server_id   text        NOT NULL REFERENCES server (id) ON DELETE CASCADE,
    kind        text        NOT NULL CHECK (kind IN ('mysql_password', 'service_token', 'ssh_key', 'dsn', 'tls_key')),
    field       text        NOT NULL DEFAULT 'value',
    envelope    text        NOT NULL,
    key_version bigint      NOT NULL,
    version     bigint      NOT NULL DEFAULT 1 CHECK (version > 0),
    set_time    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (server_id, kind)
);

CREATE INDEX credential_by_key ON credential (key_version);

DO $own$
DECLARE
    own text := 'tnt_' || substr(current_schema(), 3);
BEGIN
    IF own !~ '^tnt_[0-7][0-9a-hjkmnp-tv-z]{25}$' THEN
        RAISE EXCEPTION 'the search path does not begin with a tenant''s schema';
    END IF;
    EXECUTE format(
        'ALTER TABLE credential ALTER COLUMN tenant_id SET DEFAULT %L, ADD CONSTRAINT credential_is_of_this_tenant CHECK (tenant_id = %L)',
        own, own
    );
END
$own$;
