-- What service auth asks before it delegates a question about a server to an agent: the server's pool, and whether the agent serves there at this
-- moment. Nothing, where the tenant has no such server, or its plan no room for it.
--
-- Servers and agents are in the tenant's own schema, which auth cannot enter: for one statement that takes two ids the function does, as only
-- whoever owns the seal can.
CREATE FUNCTION tenant.asked(whose text, asked_server text, asked_agent text, OUT pool_id text, OUT serves boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $asked$
DECLARE
    place text := 't_' || substr(whose, 5);
    own   text := current_setting('trailmesh.ticket', true);
BEGIN
    IF trailmesh.entered() IS DISTINCT FROM 'shared'
        OR NOT EXISTS (SELECT FROM trailmesh.tenant_schemas AS s WHERE s.name = place AND s.state = 'used') THEN
        RETURN;
    END IF;
    -- What fails from here on takes this back together with the transaction, or with the savepoint.
    PERFORM set_config('trailmesh.ticket', trailmesh.ticket(place, ''), true);
    EXECUTE format(
        'SELECT s.pool_id, a.id IS NOT NULL FROM %1$I.server AS s
         LEFT JOIN %1$I.agent AS a ON a.id = $2 AND a.pool_id = s.pool_id AND a.state = ''enrolled'' AND a.frozen_time IS NULL
         WHERE s.id = $1 AND s.frozen_time IS NULL', place)
    INTO pool_id, serves USING asked_server, asked_agent;
    PERFORM set_config('trailmesh.ticket', own, true);
END
$asked$;

REVOKE ALL ON FUNCTION tenant.asked(text, text, text) FROM public, trailmesh_tenant;
GRANT EXECUTE ON FUNCTION tenant.asked(text, text, text) TO trailmesh_auth;
