-- The last version of each credential of a server, kept when the credential itself goes: a version is never used twice, so that a sealed value
-- of before opens in no later place.
CREATE TABLE credential_version (
    tenant_id text   NOT NULL,
    server_id text   NOT NULL REFERENCES server (id) ON DELETE CASCADE,
    kind      text   NOT NULL,
    last      bigint NOT NULL CHECK (last > 0),
    PRIMARY KEY (server_id, kind)
);

DO $own$
DECLARE
    own text := 'tnt_' || substr(current_schema(), 3);
BEGIN
    IF own !~ '^tnt_[0-7][0-9a-hjkmnp-tv-z]{25}$' THEN
        RAISE EXCEPTION 'the search path does not begin with a tenant''s schema';
    END IF;
    EXECUTE format(
        'ALTER TABLE credential_version ALTER COLUMN tenant_id SET DEFAULT %L, ADD CONSTRAINT credential_version_is_of_this_tenant CHECK (tenant_id = %L)',
        own, own
    );
END
$own$;
