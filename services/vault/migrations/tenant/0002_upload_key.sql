-- The key of each uploaded log, sealed. Service query writes it with the upload, which goes with it; the vault opens it for service query, and
-- seals it anew when the tenant's key changes (`envelope` and `key_version`).
CREATE TABLE upload_key (
    tenant_id   text   NOT NULL,
    upload_id   text   PRIMARY KEY,
    envelope    text   NOT NULL,
    key_version bigint NOT NULL,
    version     bigint NOT NULL DEFAULT 1 CHECK (version > 0)
);

CREATE INDEX upload_key_by_key ON upload_key (key_version);

DO $own$
DECLARE
    own text := 'tnt_' || substr(current_schema(), 3);
BEGIN
    IF own !~ '^tnt_[0-7][0-9a-hjkmnp-tv-z]{25}$' THEN
        RAISE EXCEPTION 'the search path does not begin with a tenant''s schema';
    END IF;
    EXECUTE format(
        'ALTER TABLE upload_key ALTER COLUMN tenant_id SET DEFAULT %L, ADD CONSTRAINT upload_key_is_of_this_tenant CHECK (tenant_id = %L)',
        own, own
    );
END
$own$;
