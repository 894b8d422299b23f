-- What keeps tenants apart, and what makes a new one. The reasons stand at the head of the crate.

CREATE TABLE tenant_schemas (
  name text PRIMARY KEY CHECK (name ~ '^t_[0-7][0-9a-hjkmnp-tv-z]{25}$'),
  made_at timestamptz NOT NULL DEFAULT now()
);

-- The services whose roles enter tenants' schemas.
CREATE TABLE tenant_services (service text PRIMARY KEY);

-- What a new tenant's schema is made from.
CREATE TABLE templates (
  service text NOT NULL,
  version integer NOT NULL,
  name text NOT NULL,
  fingerprint text NOT NULL,
  sql text NOT NULL,
  PRIMARY KEY (service, version)
);

CREATE TABLE seal (one boolean PRIMARY KEY DEFAULT true CHECK (one), key bytea NOT NULL);
INSERT INTO seal (key) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));

-- A ticket: the side, the lock, and a seal that holds in this transaction of this session only.
CREATE FUNCTION ticket(side text, lock text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  said text := side || ' ' || lock;
  key bytea;
BEGIN
  SELECT s.key INTO STRICT key FROM trailmesh.seal s;
  RETURN said || ' ' || encode(sha256(key || sha256(key || timestamptz_send(transaction_timestamp())
    || int4send(pg_backend_pid()) || convert_to(said, 'UTF8'))), 'hex');
END $$;

-- The side this transaction is on: 'shared', a tenant's schema, or NULL.
CREATE FUNCTION entered() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  shown text := current_setting('trailmesh.ticket', true);
  side text := split_part(shown, ' ', 1);
BEGIN
  IF shown = trailmesh.ticket(side, split_part(shown, ' ', 2)) THEN
    RETURN side;
  END IF;
  RETURN NULL;
END $$;

-- Only in the message that also carries BEGIN do the two clocks agree; so a statement that comes later cannot enter again.
CREATE FUNCTION enter(side text, lock text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF statement_timestamp() <> transaction_timestamp() THEN
    RAISE insufficient_privilege USING MESSAGE = 'a transaction is entered in its first message';
  END IF;
  PERFORM set_config('trailmesh.ticket', trailmesh.ticket(side, lock), true);
END $$;

-- Later, only who shows the key of the ticket's lock changes the side, and gives the next lock.
CREATE FUNCTION change_side(side text, key text, next_lock text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  lock text := split_part(current_setting('trailmesh.ticket', true), ' ', 2);
BEGIN
  IF trailmesh.entered() IS NULL OR lock IS DISTINCT FROM encode(sha256(convert_to(key, 'UTF8')), 'hex') THEN
    RAISE insufficient_privilege USING MESSAGE = 'this transaction may not change sides';
  END IF;
  PERFORM set_config('trailmesh.ticket', trailmesh.ticket(side, next_lock), true);
END $$;

-- Every table of a schema is for those on its side only.
CREATE FUNCTION wall(place text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  side text := CASE WHEN EXISTS (SELECT FROM trailmesh.tenant_schemas s WHERE s.name = place) THEN place ELSE 'shared' END;
  open record;
BEGIN
  FOR open IN
    SELECT c.relname, c.relkind FROM pg_class c
    WHERE c.relnamespace = place::regnamespace AND c.relkind IN ('r', 'p', 'm', 'f') AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
  LOOP
    IF open.relkind IN ('m', 'f') THEN
      RAISE feature_not_supported USING MESSAGE = format('%I.%I is a materialized view or a foreign table: it cannot be walled', place, open.relname);
    END IF;
    EXECUTE format('ALTER TABLE %I.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', place, open.relname);
    EXECUTE format('CREATE POLICY entered ON %I.%I USING ((SELECT trailmesh.entered()) = %L)', place, open.relname, side);
  END LOOP;
END $$;

-- The roles of services may become a tenant's.
CREATE FUNCTION admit(place text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  login text;
BEGIN
  FOR login IN
    SELECT 'trailmesh_' || s.service FROM trailmesh.tenant_services s
    WHERE NOT EXISTS (SELECT FROM pg_auth_members m
      WHERE m.roleid = place::regrole AND m.member = ('trailmesh_' || s.service)::regrole)
  LOOP
    EXECUTE format('GRANT %I TO %I', place, login);
  END LOOP;
END $$;

-- All of a new tenant, at the newest version, in the caller's transaction.
CREATE FUNCTION create_tenant_schema(place text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  step record;
  began timestamptz;
BEGIN
  IF trailmesh.entered() IS DISTINCT FROM 'shared' THEN
    RAISE insufficient_privilege USING MESSAGE = 'a tenant is made on the shared side';
  END IF;
  -- A run of migrations waits for us, or we for it; so it either sees this schema or we see its templates.
  LOCK TABLE trailmesh.templates IN SHARE MODE;
  INSERT INTO trailmesh.tenant_schemas (name) VALUES (place);
  IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = place) THEN
    EXECUTE format('CREATE ROLE %I NOLOGIN', place);
  END IF;
  PERFORM trailmesh.admit(place);
  EXECUTE format('CREATE SCHEMA %I', place);
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', place, place);
  EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %I', place, place);
  EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT EXECUTE ON FUNCTIONS TO %I', place, place);
  FOR step IN SELECT t.* FROM trailmesh.templates t ORDER BY t.service, t.version LOOP
    began := clock_timestamp();
    PERFORM set_config('search_path', place || ', pg_temp', true);
    EXECUTE step.sql;
    PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
    INSERT INTO trailmesh.ledger (place, service, version, name, fingerprint, took)
    VALUES (place, step.service, step.version, step.name, step.fingerprint, clock_timestamp() - began);
  END LOOP;
  PERFORM trailmesh.wall(place);
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA trailmesh FROM PUBLIC;
GRANT USAGE ON SCHEMA trailmesh TO PUBLIC;
GRANT EXECUTE ON FUNCTION entered() TO PUBLIC;
