-- The end of a tenant, here or in another cell.

-- deleting: nobody reaches it any more, and what it had is being destroyed. moved: it lives in the cell at `moved_to`.
ALTER TABLE tenant.tenant
    DROP CONSTRAINT tenant_state_check,
    ADD CONSTRAINT tenant_state_check CHECK (state IN ('active', 'suspended', 'deleting', 'moved')),
    ADD COLUMN moved_to text,
    ADD CONSTRAINT tenant_moved_to_check CHECK ((state = 'moved') = (moved_to IS NOT NULL));

-- All that remains of a tenant: its id, who ended it and when, and the vault's word that its keys are gone. A step is done when what it
-- leaves is there: the certificate; no schema; no row in the directory, and then `end_time`.
CREATE TABLE tenant.deletion (
    tenant_id    text        PRIMARY KEY CHECK (tenant_id ~ '^tnt_[0-7][0-9a-hjkmnp-tv-z]{25}$'),
    requested_by text        NOT NULL,
    request_time timestamptz NOT NULL DEFAULT now(),
    attempts     integer     NOT NULL DEFAULT 0,
    due_time     timestamptz NOT NULL DEFAULT now(),
    certificate  text,
    signature    text,
    key_id       text,
    end_time     timestamptz,
    CHECK (num_nulls(certificate, signature, key_id) IN (0, 3)),
    CHECK (end_time IS NULL OR certificate IS NOT NULL)
);

CREATE INDEX deletion_by_turn ON tenant.deletion (due_time) WHERE end_time IS NULL;
CREATE INDEX deletion_by_end ON tenant.deletion (end_time) WHERE end_time IS NOT NULL;
REVOKE TRUNCATE ON tenant.deletion FROM trailmesh_tenant;

-- Where a tenant lives is the operator's word alone, whose account is the schemas' owner or may become it. No service says it, or takes it
-- back; nor does a tenant become another one.
CREATE FUNCTION tenant.operators_word() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $word$
BEGIN
    IF NOT pg_has_role(session_user, 'trailmesh_owner', 'MEMBER') THEN
        RAISE insufficient_privilege USING MESSAGE = 'only an operator moves a tenant';
    END IF;
    RETURN NEW;
END
$word$;

CREATE TRIGGER operators_word BEFORE UPDATE ON tenant.tenant
FOR EACH ROW WHEN (
    NEW.id IS DISTINCT FROM OLD.id OR NEW.moved_to IS DISTINCT FROM OLD.moved_to
    OR (NEW.state = 'moved') IS DISTINCT FROM (OLD.state = 'moved')
) EXECUTE FUNCTION tenant.operators_word();
CREATE TRIGGER operators_word_at_first BEFORE INSERT ON tenant.tenant
FOR EACH ROW WHEN (NEW.state = 'moved') EXECUTE FUNCTION tenant.operators_word();

-- Whether the vault has destroyed a tenant's keys, by the vault's own row, which no other service can write.
CREATE FUNCTION tenant.keys_are_destroyed(gone text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $destroyed$
BEGIN
    IF to_regclass('vault.key_ring') IS NULL THEN
        RETURN false;
    END IF;
    RETURN EXISTS (SELECT FROM vault.key_ring AS k WHERE k.tenant_id = gone AND k.statement IS NOT NULL);
END
$destroyed$;

-- What `trailmesh.drop_tenant_schema` asks before it drops one: the keys are gone first, so that a copy of the schema is of no use. Nothing
-- that it believes can be written by service tenant.
CREATE FUNCTION tenant.schema_may_go(place text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $may$
    SELECT EXISTS (
        SELECT FROM tenant.tenant AS t
        WHERE t.id = 'tnt_' || substr(place, 3) AND (t.state = 'moved' OR (t.state = 'deleting' AND tenant.keys_are_destroyed(t.id)))
    )
$may$;

-- For the vault, before it does what a tenant's log or its copy in another cell must know of: waits while the tenant is being taken there, and
-- fails once it is gone. The fence of a move holds the same lock alone.
CREATE FUNCTION tenant.not_behind_a_move(whose text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $behind$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('trailmesh.move:' || whose, 0));
    IF EXISTS (SELECT FROM tenant.tenant AS t WHERE t.id = whose AND t.state = 'moved') THEN
        RAISE serialization_failure USING MESSAGE = 'the tenant has moved';
    END IF;
END
$behind$;

REVOKE ALL ON FUNCTION tenant.not_behind_a_move(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenant.not_behind_a_move(text) TO trailmesh_vault;

-- The last step: every row of a tenant whose keys and schema are gone. In this schema those are the rows with its id in `tenant_id`, in
-- whatever tables there are by then; another service says in its own function `forget_tenant(text)` what it has of a tenant.
CREATE FUNCTION tenant.forget_tenant(gone text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $forget$
DECLARE
    known text;
BEGIN
    IF trailmesh.entered() IS DISTINCT FROM 'shared'
        OR EXISTS (SELECT FROM trailmesh.tenant_schemas AS s WHERE s.name = 't_' || substr(gone, 5))
        OR NOT tenant.keys_are_destroyed(gone)
        OR NOT EXISTS (SELECT FROM tenant.deletion AS d WHERE d.tenant_id = gone AND d.certificate IS NOT NULL)
        OR EXISTS (SELECT FROM tenant.tenant AS t WHERE t.id = gone AND t.state <> 'deleting') THEN
        RAISE insufficient_privilege USING MESSAGE = 'this tenant may not be forgotten';
    END IF;
    DELETE FROM tenant.tenant AS t WHERE t.id = gone;
    FOR known IN
        SELECT c.oid::regclass::text FROM pg_depend AS d
        JOIN pg_class AS c ON c.oid = d.objid AND c.relkind IN ('r', 'p') AND c.relname <> 'deletion'
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = 'tenant'::regnamespace AND d.classid = 'pg_class'::regclass
    LOOP
        EXECUTE format('DELETE FROM %s WHERE tenant_id = $1', known) USING gone;
    END LOOP;
    FOR known IN
        SELECT quote_ident(n.nspname) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE p.proname = 'forget_tenant' AND p.proowner = 'trailmesh_owner'::regrole
            AND p.pronargs = 1 AND p.proargtypes[0] = 'text'::regtype AND n.nspname <> 'tenant'
    LOOP
        EXECUTE format('SELECT %s.forget_tenant($1)', known) USING gone;
    END LOOP;
END
$forget$;

-- What service auth tells members of a tenant that lives elsewhere now.
CREATE VIEW tenant.moved_seat AS
SELECT
    m.user_id,
    m.tenant_id,
    t.moved_to AS host
FROM tenant.member AS m
INNER JOIN tenant.tenant AS t ON m.tenant_id = t.id
WHERE t.state = 'moved' AND m.frozen_time IS NULL;

GRANT SELECT ON tenant.moved_seat TO trailmesh_auth;
