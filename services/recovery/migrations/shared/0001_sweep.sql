-- Whose plans are to be looked at next, and when: nobody enters every tenant's schema to find that there is nothing to sweep away.
CREATE TABLE recovery.plan_sweep (
    tenant_id text        PRIMARY KEY,
    due_time  timestamptz NOT NULL
);

CREATE INDEX plan_sweep_by_time ON recovery.plan_sweep (due_time);

-- What service tenant calls when a tenant is gone: all that is here of it.
CREATE FUNCTION recovery.forget_tenant(gone text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $forget$
    DELETE FROM recovery.plan_sweep WHERE tenant_id = gone
$forget$;
