-- What the audit logs of all tenants have in common. The log itself is in each tenant's schema (`audit_record`), and nobody writes it but
-- through `audit_append` and `audit_trim` below: they make the chain, so that even a service that has been taken over can only add to it.

-- Events of accounts and services on their way into the logs, written in the transaction of what happened. With a `tenant_id` for that tenant;
-- else for every tenant in which `user_id` has a seat. What cannot be understood stays, with its `problem`.
CREATE TABLE tenant.audit_inbox (
    id          text        PRIMARY KEY,
    tenant_id   text,
    user_id     text,
    event       jsonb       NOT NULL,
    -- When it is to be taken (again).
    due_time    timestamptz NOT NULL DEFAULT now(),
    attempts    integer     NOT NULL DEFAULT 0,
    problem     text
);

CREATE INDEX audit_inbox_by_time ON tenant.audit_inbox (due_time, id) WHERE problem IS NULL;

GRANT USAGE ON SCHEMA tenant TO trailmesh_auth, trailmesh_vault;
GRANT INSERT (id, tenant_id, user_id, event) ON tenant.audit_inbox TO trailmesh_auth, trailmesh_vault;

-- Intents that have no result yet, and when each is closed as unknown if none comes: half a minute after its deadline; later, where that failed.
CREATE TABLE tenant.audit_intent (
    tenant_id text        NOT NULL,
    id        text        NOT NULL,
    due_time  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

CREATE INDEX audit_intent_by_time ON tenant.audit_intent (due_time);
REVOKE INSERT, UPDATE, TRUNCATE ON tenant.audit_intent FROM trailmesh_tenant;
GRANT UPDATE (due_time) ON tenant.audit_intent TO trailmesh_tenant;

-- The end of each chain, and how far it has been signed.
CREATE TABLE tenant.audit_chain (
    tenant_id   text        PRIMARY KEY,
    size        bigint      NOT NULL,
    hash        bytea       NOT NULL,
    signed_size bigint      NOT NULL DEFAULT 0,
    -- Since when there is more than was signed.
    ahead_since timestamptz,
    try_time    timestamptz,
    statement   text,
    signature   text,
    key_id      text,
    trim_time   timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- The functions run as the owner of the tables, in transactions that are on a tenant's side.
CREATE POLICY functions ON tenant.audit_intent TO trailmesh_owner USING (true);
CREATE POLICY functions ON tenant.audit_chain TO trailmesh_owner USING (true);
CREATE POLICY functions ON tenant.tenant FOR SELECT TO trailmesh_owner USING (true);

-- As `audit::link` computes it.
CREATE FUNCTION tenant.audit_link(seq bigint, prev bytea, body text) RETURNS bytea
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $link$
    SELECT sha256(convert_to('trailmesh.audit.record.v1', 'UTF8') || '\x00'::bytea || int8send(seq) || prev || convert_to(body, 'UTF8'))
$link$;

-- Writes one more record at the end of the chain of `place`, which is locked; 0 when it is there already.
CREATE FUNCTION tenant.audit_write(
    place text, seq bigint, prev bytea, id text, part text, at timestamptz, body text, hash bytea
) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $write$
DECLARE
    written bigint;
BEGIN
    EXECUTE format(
        'INSERT INTO %I.audit_record (seq, id, part, time, body, prev, hash) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (id, (part = ''result'')) DO NOTHING', place)
    USING seq, id, part, at, body, prev, hash;
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END
$write$;

-- Locks the chain of `place`, and tells its end.
CREATE FUNCTION tenant.audit_end(place text, OUT seq bigint, OUT hash bytea)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $end$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('audit ' || place, 0));
    EXECUTE format('SELECT r.seq, r.hash FROM %I.audit_record AS r ORDER BY r.seq DESC LIMIT 1', place) INTO seq, hash;
    IF seq IS NULL THEN
        seq := 0;
        hash := sha256(convert_to('trailmesh.audit.genesis.v1', 'UTF8') || '\x00'::bytea || convert_to('tnt_' || substr(place, 3), 'UTF8'));
    END IF;
END
$end$;

CREATE FUNCTION tenant.audit_grew(whose text, new_size bigint, new_hash bytea) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $grew$
    INSERT INTO tenant.audit_chain AS c (tenant_id, size, hash, ahead_since) VALUES (whose, new_size, new_hash, now())
    ON CONFLICT (tenant_id) DO UPDATE
    SET size = excluded.size, hash = excluded.hash, ahead_since = coalesce(c.ahead_since, now())
$grew$;

-- Appends intents, results and events, as JSON, to the log of the tenant whose transaction this is. For each: its number; 0 when it is there
-- already; -1 for a result without an intent. The lock of the chain is held until the transaction ends, so numbers become visible in order.
-- An id is `aud_` and 26 digits, so that nobody takes the one of a trim. A record says when it was written: by a clock that is no more than an
-- hour off this one's, because that time decides how long it is kept.
CREATE FUNCTION tenant.audit_append(bodies text []) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $append$
DECLARE
    place text := trailmesh.entered();
    whose text := 'tnt_' || substr(place, 3);
    body  text;
    said  jsonb;
    named text;
    kind  text;
    at    timestamptz;
    begun boolean;
    fresh bytea;
    grown boolean := false;
    last  record;
BEGIN
    IF place IS NULL OR place !~ '^t_' THEN
        RAISE insufficient_privilege USING MESSAGE = 'an audit log is written on its tenant''s side';
    END IF;
    SELECT e.seq, e.hash INTO last FROM tenant.audit_end(place) AS e;
    FOREACH body IN ARRAY bodies LOOP
        said := body::jsonb;
        named := said ->> 'id';
        kind := said ->> 'part';
        IF kind IS NULL OR kind NOT IN ('intent', 'result', 'event') OR octet_length(body) > 32768
            OR named IS NULL OR named !~ '^aud_[0-7][0-9a-hjkmnp-tv-z]{25}$' THEN
            RAISE check_violation USING MESSAGE = 'not an audit record';
        END IF;
        at := to_timestamp((said ->> 'time')::numeric / 1000000);
        IF at IS NULL OR at NOT BETWEEN clock_timestamp() - interval '1 hour' AND clock_timestamp() + interval '1 hour' THEN
            RAISE datetime_field_overflow USING MESSAGE = 'an audit record is not of this hour: the clock of whoever writes it is wrong';
        END IF;
        IF kind = 'result' THEN
            EXECUTE format('SELECT true FROM %I.audit_record AS r WHERE r.id = $1 AND r.part = ''intent''', place) INTO begun USING named;
            IF begun IS NULL THEN
                RETURN NEXT -1;
                CONTINUE;
            END IF;
        END IF;
        fresh := tenant.audit_link(last.seq + 1, last.hash, body);
        IF tenant.audit_write(place, last.seq + 1, last.hash, named, kind, at, body, fresh) = 0 THEN
            RETURN NEXT 0;
            CONTINUE;
        END IF;
        grown := true;
        last.seq := last.seq + 1;
        last.hash := fresh;
        IF kind = 'intent' THEN
            INSERT INTO tenant.audit_intent (tenant_id, id, due_time)
            VALUES (whose, named, to_timestamp((said ->> 'deadline')::numeric / 1000000) + interval '30 seconds') ON CONFLICT DO NOTHING;
        ELSIF kind = 'result' THEN
            DELETE FROM tenant.audit_intent AS i WHERE i.tenant_id = whose AND i.id = named;
        END IF;
        RETURN NEXT last.seq;
    END LOOP;
    IF grown THEN
        PERFORM tenant.audit_grew(whose, last.seq, last.hash);
    END IF;
END
$append$;

-- Removes what is older than the tenant's plan keeps, from the front, and appends the record that says so. At most 20,000 records at a time,
-- and once all is removed not again for a day. How many were removed; the day is that of the database's clock.
CREATE FUNCTION tenant.audit_trim() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $trim$
DECLARE
    at_most CONSTANT bigint := 20000;
    place   text := trailmesh.entered();
    whose   text := 'tnt_' || substr(place, 3);
    days    integer;
    cut     timestamptz;
    first   bigint;
    kept    bigint;
    gone    bytea;
    body    text;
    fresh   bytea;
    last    record;
BEGIN
    IF place IS NULL OR place !~ '^t_' THEN
        RAISE insufficient_privilege USING MESSAGE = 'an audit log is trimmed on its tenant''s side';
    END IF;
    SELECT CASE t.plan WHEN 'free' THEN 30 WHEN 'pro' THEN 90 WHEN 'premium' THEN 90 WHEN 'enterprise' THEN 365 END
    INTO days FROM tenant.tenant AS t WHERE t.id = whose;
    IF days IS NULL THEN
        RETURN 0;
    END IF;
    SELECT e.seq, e.hash INTO last FROM tenant.audit_end(place) AS e;
    IF last.seq = 0 OR EXISTS (SELECT FROM tenant.audit_chain AS c WHERE c.tenant_id = whose AND c.trim_time > now() - interval '1 day') THEN
        RETURN 0;
    END IF;
    cut := now() - make_interval(days => days);
    EXECUTE format('SELECT min(r.seq) FROM %I.audit_record AS r', place) INTO first;
    EXECUTE format('SELECT r.seq FROM %I.audit_record AS r WHERE r.time >= $1 ORDER BY r.seq LIMIT 1', place) INTO kept USING cut;
    kept := least(coalesce(kept, last.seq + 1), first + at_most);
    IF kept < first + at_most THEN
        UPDATE tenant.audit_chain AS c SET trim_time = now() WHERE c.tenant_id = whose;
    END IF;
    IF kept = first THEN
        RETURN 0;
    END IF;
    EXECUTE format('SELECT r.hash FROM %I.audit_record AS r WHERE r.seq = $1', place) INTO gone USING kept - 1;
    EXECUTE format('DELETE FROM %I.audit_record AS r WHERE r.seq < $1', place) USING kept;
    body := format('{"part":"trim","id":"trim_%s","time":%s,"through":%s,"hash":"%s","days":%s,"before":%s}',
        kept - 1, (extract(epoch FROM now()) * 1000000)::bigint, kept - 1, encode(gone, 'hex'), days, (extract(epoch FROM cut) * 1000000)::bigint);
    fresh := tenant.audit_link(last.seq + 1, last.hash, body);
    -- Nothing goes without the record that says so.
    IF tenant.audit_write(place, last.seq + 1, last.hash, 'trim_' || kept - 1, 'trim', now(), body, fresh) <> 1 THEN
        RAISE unique_violation USING MESSAGE = 'a trim of the audit log cannot be written down';
    END IF;
    PERFORM tenant.audit_grew(whose, last.seq + 1, fresh);
    RETURN kept - first;
END
$trim$;

-- A tenant's role finds the two functions by name. It sees no table here: none is granted to it.
REVOKE ALL ON FUNCTION tenant.audit_link(bigint, bytea, text), tenant.audit_end(text), tenant.audit_grew(text, bigint, bytea),
tenant.audit_write(text, bigint, bytea, text, text, timestamptz, text, bytea) FROM public, trailmesh_tenant;
GRANT USAGE ON SCHEMA tenant TO public;
GRANT EXECUTE ON FUNCTION tenant.audit_append(text []), tenant.audit_trim() TO public;
