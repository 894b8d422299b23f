-- What agents report of the servers that they follow: how following goes, and how much is held of which table. No value of any row: the
-- messages that these rows are made from have no field for one.

-- `state` is a trailmesh.change.v1.FollowState.
CREATE TABLE server_statistics (
    tenant_id     text        NOT NULL,
    server_id     text        PRIMARY KEY,
    agent_id      text        NOT NULL,
    agent_version text        NOT NULL,
    agent_start   timestamptz,
    taken         timestamptz NOT NULL DEFAULT now(),
    state         bytea       NOT NULL,
    tables_left_out bigint    NOT NULL DEFAULT 0
);

CREATE TABLE table_statistics (
    tenant_id   text        NOT NULL,
    server_id   text        NOT NULL REFERENCES server_statistics (server_id) ON DELETE CASCADE,
    schema_name text        COLLATE "C" NOT NULL,
    table_name  text        COLLATE "C" NOT NULL,
    inserts     bigint      NOT NULL,
    updates     bigint      NOT NULL,
    deletes     bigint      NOT NULL,
    last_time   timestamptz,
    PRIMARY KEY (server_id, schema_name, table_name)
);

DO $own$
DECLARE
    own text := 'tnt_' || substr(current_schema(), 3);
    name text;
BEGIN
    IF own !~ '^tnt_[0-7][0-9a-hjkmnp-tv-z]{25}$' THEN
        RAISE EXCEPTION 'the search path does not begin with a tenant''s schema';
    END IF;
    FOREACH name IN ARRAY ARRAY['server_statistics', 'table_statistics'] LOOP
        EXECUTE format(
            'ALTER TABLE %I ALTER COLUMN tenant_id SET DEFAULT %L, ADD CONSTRAINT %I CHECK (tenant_id = %L)',
            name, own, name || '_is_of_this_tenant', own
        );
    END LOOP;
END
$own$;
