-- Plans of undos: what was chosen, numbers, and the digest of the script. No row, no value of a conflict and no script is here: the agent that
-- has the history makes the script again. `filter`, `summary` and `stale_since` are messages of trailmesh.change.v1, encoded; the summary says up to where
-- history was taken into account.
CREATE TABLE undo_plan (
    tenant_id    text        NOT NULL,
    id           text        PRIMARY KEY,
    server_id    text        NOT NULL,
    filter       bytea       NOT NULL CHECK (octet_length(filter) <= 1048576),
    mode         text        NOT NULL CHECK (mode IN ('safe', 'force')),
    summary      bytea       NOT NULL CHECK (octet_length(summary) <= 1048576),
    digest       bytea       NOT NULL CHECK (octet_length(digest) = 32),
    script_bytes bigint      NOT NULL CHECK (script_bytes >= 0),
    dialect      text        NOT NULL CHECK (dialect IN ('mysql', 'mariadb')),
    complete     boolean     NOT NULL,
    because      text        NOT NULL CHECK (length(because) <= 2000),
    author_id    text        NOT NULL,
    create_time  timestamptz NOT NULL,
    expire_time  timestamptz NOT NULL CHECK (expire_time > create_time),
    stale_since  bytea       CHECK (octet_length(stale_since) <= 4096)
);

CREATE INDEX undo_plan_by_server ON undo_plan (server_id, id);
CREATE INDEX undo_plan_by_expiry ON undo_plan (expire_time);

DO $own$
DECLARE
    own text := 'tnt_' || substr(current_schema(), 3);
BEGIN
    IF own !~ '^tnt_[0-7][0-9a-hjkmnp-tv-z]{25}$' THEN
        RAISE EXCEPTION 'the search path does not begin with a tenant''s schema';
    END IF;
    EXECUTE format(
        'ALTER TABLE undo_plan ALTER COLUMN tenant_id SET DEFAULT %L, ADD CONSTRAINT undo_plan_is_of_this_tenant CHECK (tenant_id = %L)',
        own, own
    );
END
$own$;
