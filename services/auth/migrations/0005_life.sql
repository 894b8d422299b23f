-- What service tenant calls when a tenant is gone: all that is here of it.
CREATE FUNCTION auth.forget_tenant(gone text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $forget$
    DELETE FROM auth.api_key WHERE tenant_id = gone
$forget$;
