-- Whose database this is, and how a tenant's schema begins and ends. The reasons stand at the head of the crate.

-- Which part of which region this database belongs to: said once, at its first use, and compared ever after.
CREATE TABLE cell (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  region text NOT NULL CHECK (region <> ''),
  cell text NOT NULL CHECK (cell <> ''),
  marked_at timestamptz NOT NULL DEFAULT now()
);

-- Writes the mark where there is none, and tells what it says.
CREATE FUNCTION settle(wanted_region text, wanted_cell text, OUT marked_region text, OUT marked_cell text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF trailmesh.entered() IS DISTINCT FROM 'shared' THEN
    RAISE insufficient_privilege USING MESSAGE = 'a database is marked on the shared side';
  END IF;
  INSERT INTO trailmesh.cell (region, cell) VALUES (wanted_region, wanted_cell) ON CONFLICT DO NOTHING;
  SELECT c.region, c.cell INTO STRICT marked_region, marked_cell FROM trailmesh.cell c;
END $$;

-- prepared: made ahead, for whoever comes next. used: a tenant's. closed: no service can enter it any more.
ALTER TABLE tenant_schemas ADD COLUMN state text NOT NULL DEFAULT 'used' CHECK (state IN ('prepared', 'used', 'closed'));
CREATE INDEX tenant_schemas_prepared ON tenant_schemas (name) WHERE state = 'prepared';

-- As before, but a schema's tables are found by what depends on the schema: in pg_class, which has no index for that, finding them takes
-- time in proportion to all tenants there are.
CREATE OR REPLACE FUNCTION wall(place text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  side text := CASE WHEN EXISTS (SELECT FROM trailmesh.tenant_schemas s WHERE s.name = place) THEN place ELSE 'shared' END;
  open record;
BEGIN
  FOR open IN
    SELECT c.relname, c.relkind FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
    WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = place::regnamespace AND d.classid = 'pg_class'::regclass
      AND c.relkind IN ('r', 'p', 'm', 'f') AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
  LOOP
    IF open.relkind IN ('m', 'f') THEN
      RAISE feature_not_supported USING MESSAGE = format('%I.%I is a materialized view or a foreign table: it cannot be walled', place, open.relname);
    END IF;
    EXECUTE format('ALTER TABLE %I.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', place, open.relname);
    EXECUTE format('CREATE POLICY entered ON %I.%I USING ((SELECT trailmesh.entered()) = %L)', place, open.relname, side);
  END LOOP;
END $$;

-- As before, but a schema that was closed stays so.
CREATE OR REPLACE FUNCTION admit(place text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  login text;
BEGIN
  FOR login IN
    SELECT 'trailmesh_' || s.service FROM trailmesh.tenant_services s
    WHERE NOT EXISTS (SELECT FROM pg_auth_members m
      WHERE m.roleid = place::regrole AND m.member = ('trailmesh_' || s.service)::regrole)
    AND NOT EXISTS (SELECT FROM trailmesh.tenant_schemas c WHERE c.name = place AND c.state = 'closed')
  LOOP
    EXECUTE format('GRANT %I TO %I', place, login);
  END LOOP;
END $$;

CREATE FUNCTION on_shared_side() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF trailmesh.entered() IS DISTINCT FROM 'shared' THEN
    RAISE insufficient_privilege USING MESSAGE = 'a tenant begins and ends on the shared side';
  END IF;
END $$;

-- Makes a schema ahead, unless there are `most` of them.
CREATE FUNCTION prepare_tenant_schema(place text, most integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM trailmesh.on_shared_side();
  PERFORM pg_advisory_xact_lock(hashtextextended('trailmesh.prepare', 0));
  IF (SELECT count(*) FROM trailmesh.tenant_schemas s WHERE s.state = 'prepared') >= most THEN
    RETURN false;
  END IF;
  PERFORM trailmesh.create_tenant_schema(place);
  UPDATE trailmesh.tenant_schemas SET state = 'prepared' WHERE name = place;
  RETURN true;
END $$;

-- One that was made ahead, which is the caller's when the transaction commits. One that is being brought up to date is passed over.
CREATE FUNCTION take_prepared_schema() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  taken text;
BEGIN
  PERFORM trailmesh.on_shared_side();
  UPDATE trailmesh.tenant_schemas SET state = 'used'
  WHERE name = (SELECT s.name FROM trailmesh.tenant_schemas s WHERE s.state = 'prepared' ORDER BY s.name LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
  RETURNING name INTO taken;
  RETURN taken;
END $$;

-- From the commit on, no service enters the schema: none can take its role.
CREATE FUNCTION close_tenant_schema(place text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  login text;
BEGIN
  PERFORM trailmesh.on_shared_side();
  UPDATE trailmesh.tenant_schemas SET state = 'closed' WHERE name = place AND state IN ('used', 'closed');
  IF NOT FOUND THEN
    RAISE invalid_parameter_value USING MESSAGE = 'no tenant has this schema';
  END IF;
  FOR login IN
    SELECT r.rolname FROM trailmesh.tenant_services s JOIN pg_roles r ON r.rolname = 'trailmesh_' || s.service
    JOIN pg_auth_members m ON m.member = r.oid AND m.roleid = place::regrole
  LOOP
    EXECUTE format('REVOKE %I FROM %I', place, login);
  END LOOP;
END $$;

-- Takes a closing back; for operators only.
CREATE FUNCTION reopen_tenant_schema(place text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE trailmesh.tenant_schemas SET state = 'used' WHERE name = place AND state = 'closed';
  PERFORM trailmesh.admit(place);
END $$;

-- The end of a closed schema, of its role and of its lines in the ledger, if service tenant's own books say that it may go. Tells whether
-- there was one.
CREATE FUNCTION drop_tenant_schema(which text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
  found_state text;
  may boolean;
BEGIN
  PERFORM trailmesh.on_shared_side();
  SELECT s.state INTO found_state FROM trailmesh.tenant_schemas s WHERE s.name = which FOR UPDATE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  IF to_regprocedure('tenant.schema_may_go(text)') IS NOT NULL THEN
    EXECUTE 'SELECT tenant.schema_may_go($1)' INTO may USING which;
  END IF;
  IF found_state <> 'closed' OR may IS NOT TRUE THEN
    RAISE insufficient_privilege USING MESSAGE = 'this schema may not go';
  END IF;
  EXECUTE format('DROP SCHEMA %I CASCADE', which);
  DELETE FROM trailmesh.ledger WHERE place = which;
  DELETE FROM trailmesh.tenant_schemas WHERE name = which;
  BEGIN
    EXECUTE format('DROP ROLE IF EXISTS %I', which);
  EXCEPTION WHEN dependent_objects_still_exist THEN
    -- Another database of this server has a schema of the same tenant, which is being moved.
    NULL;
  END;
  RETURN true;
END $$;

GRANT EXECUTE ON FUNCTION settle(text, text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION prepare_tenant_schema(text, integer), take_prepared_schema(), close_tenant_schema(text), drop_tenant_schema(text)
TO trailmesh_tenant;
