-- Whose uploads are to be looked at next, and when: one that waits to be read, or one that is kept no longer. Nobody enters every tenant's
-- schema to find that there is nothing to do.
CREATE TABLE query.upload_due (
    tenant_id text        PRIMARY KEY,
    due_time  timestamptz NOT NULL
);

CREATE INDEX upload_due_by_time ON query.upload_due (due_time);

-- What service tenant calls when a tenant is gone: all that is here of it.
CREATE FUNCTION query.forget_tenant(gone text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $forget$
    DELETE FROM query.upload_due WHERE tenant_id = gone
$forget$;
