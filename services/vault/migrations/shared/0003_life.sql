-- What service tenant calls when a tenant is gone: what is here of it beside its destroyed keys and the proof of that, which stay.
CREATE FUNCTION vault.forget_tenant(gone text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $forget$
    DELETE FROM vault.agent_certificate WHERE tenant_id = gone;
    DELETE FROM vault.was_under WHERE tenant_id = gone;
    DELETE FROM vault.audit_head WHERE tenant_id = gone;
$forget$;

-- A certificate that is issued while the tenant is being taken to another cell would be unknown there.
CREATE FUNCTION vault.not_behind_a_move() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $behind$
BEGIN
    PERFORM tenant.not_behind_a_move(NEW.tenant_id);
    RETURN NEW;
END
$behind$;

CREATE TRIGGER not_behind_a_move BEFORE INSERT ON vault.agent_certificate
FOR EACH ROW EXECUTE FUNCTION vault.not_behind_a_move();
