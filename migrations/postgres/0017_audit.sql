-- migrate:up
-- The audit log beyond sealing: witnesses, search, statistics, findings, configuration by four eyes,
-- legal holds, dropped months, erased people, and accepted restores.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'chimera_upkeep') THEN
        BEGIN
            CREATE ROLE chimera_upkeep NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- another database of the cluster was migrated at the same moment
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'chimera_upkeep', 'SET') THEN
        EXECUTE format('GRANT chimera_upkeep TO %I', current_user);
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO chimera_upkeep', current_database());
END $$;

SET ROLE chimera_owner;
GRANT USAGE ON SCHEMA audit TO chimera_upkeep, chimera_lookup;
GRANT USAGE ON SCHEMA ops TO chimera_upkeep;

-- One more built-in role: reads the log of its organisation and nothing else.
DO $$
DECLARE
    its record;
BEGIN
    FOR its IN SELECT conrelid::regclass AS name, conname, pg_get_constraintdef(oid) AS known FROM pg_constraint
                WHERE contype = 'c' AND connamespace = 'identity'::regnamespace
                  AND pg_get_constraintdef(oid) LIKE '%ARRAY[''admin''::text, ''user''::text, ''viewer''::text]%'
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I %s', its.name, its.conname, its.conname,
                       replace(its.known, 'ARRAY[', 'ARRAY[''auditor''::text, '));
    END LOOP;
END $$;

-- --- reading: search, watching, machinery that reads across organisations ------------------------

-- What people search for: the opened values, and nothing of the salts beside them.
CREATE FUNCTION audit.words(fields jsonb) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_to_tsvector('simple'::regconfig, jsonb_path_query_array(fields, '$[*].value'), '["string"]')
$$;
CREATE INDEX events_words ON audit.events USING gin (audit.words(fields));
-- The person first: erasing somebody looks in every organisation.
CREATE INDEX events_actor ON audit.events (actor_id, org_id, id DESC);
CREATE INDEX events_action ON audit.events (org_id, action, id DESC);
CREATE INDEX events_log ON audit.events (org_id, log_index);
CREATE INDEX events_severity ON audit.events (org_id, severity, id DESC)
    WHERE severity IN ('warning', 'error', 'critical');

CREATE POLICY lookup ON audit.events FOR SELECT TO chimera_lookup USING (true);
CREATE POLICY machinery ON audit.events FOR SELECT TO chimera_worker, chimera_upkeep USING (true);
GRANT SELECT ON audit.events TO chimera_lookup, chimera_worker, chimera_upkeep;
GRANT SELECT ON audit.leaves TO chimera_lookup;
GRANT SELECT ON audit.leaves, audit.nodes, audit.checkpoints, audit.log_head TO chimera_upkeep;

-- --- witnesses -----------------------------------------------------------------------------------

CREATE TABLE audit.cosignatures (
    size bigint NOT NULL REFERENCES audit.checkpoints ON DELETE RESTRICT,
    verifier_key text NOT NULL,
    -- One signature line of the note, with its newline.
    line text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (size, verifier_key)
);
GRANT SELECT, INSERT ON audit.cosignatures TO chimera_sealer;
GRANT SELECT ON audit.cosignatures TO chimera_app, chimera_auditor, chimera_worker, chimera_upkeep;
CREATE TRIGGER no_change BEFORE UPDATE OR DELETE ON audit.cosignatures
    FOR EACH ROW EXECUTE FUNCTION audit.refuse();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.cosignatures
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();
ALTER TABLE audit.cosignatures ENABLE ALWAYS TRIGGER no_change;
ALTER TABLE audit.cosignatures ENABLE ALWAYS TRIGGER no_truncate;

-- --- the recovery ceremony -----------------------------------------------------------------------

CREATE TABLE audit.restores (
    id uuid PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('proposed', 'approved', 'done')),
    reason text NOT NULL,
    approvals_needed int NOT NULL CHECK (approvals_needed BETWEEN 1 AND 2),
    proposed_by uuid NOT NULL,
    approved_by uuid,
    -- As they stand in the statement.
    names text[] NOT NULL,
    statement text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    done_at timestamptz,
    CHECK (approved_by <> proposed_by),
    CHECK (state = 'proposed' OR approvals_needed = 1 OR approved_by IS NOT NULL)
);
CREATE UNIQUE INDEX restores_open ON audit.restores ((true)) WHERE state <> 'done';
ALTER TABLE audit.restores ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit.restores FORCE ROW LEVEL SECURITY;
CREATE POLICY operator ON audit.restores TO chimera_app
    USING ((SELECT current_setting('app.role', true)) = 'operator')
    WITH CHECK ((SELECT current_setting('app.role', true)) = 'operator');
CREATE POLICY sealer ON audit.restores TO chimera_sealer USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON audit.restores TO chimera_app;
GRANT SELECT, UPDATE ON audit.restores TO chimera_sealer;
GRANT INSERT ON audit.pending TO chimera_sealer;
GRANT INSERT, UPDATE ON audit.writers TO chimera_sealer;

-- --- monitoring: statistics and findings, by one watermark ----------------------------------------

CREATE TABLE audit.watermarks (
    name text PRIMARY KEY,
    log_index bigint NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON audit.watermarks TO chimera_worker;
GRANT SELECT ON audit.watermarks TO chimera_app;

CREATE TABLE audit.daily (
    org_id uuid,
    day date NOT NULL,
    action text NOT NULL,
    severity text NOT NULL,
    outcome text NOT NULL,
    actor_id uuid,
    events bigint NOT NULL,
    UNIQUE NULLS NOT DISTINCT (org_id, day, action, severity, outcome, actor_id)
) WITH (fillfactor = 70);

CREATE TABLE audit.rule_counts (
    org_id uuid,
    rule text NOT NULL,
    subject text NOT NULL,
    bucket timestamptz NOT NULL,
    events bigint NOT NULL,
    UNIQUE NULLS NOT DISTINCT (org_id, rule, subject, bucket)
) WITH (fillfactor = 70);
CREATE INDEX rule_counts_age ON audit.rule_counts (bucket);

-- Networks (/24, /48) an API key was used from.
CREATE TABLE audit.key_networks (
    org_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    network text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (api_key_id, network)
);

CREATE TABLE audit.findings (
    id uuid PRIMARY KEY,
    -- None: of nobody's organisation, as a failed sign-in of somebody unknown; for operators.
    org_id uuid,
    rule text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('debug', 'info', 'notice', 'warning', 'error', 'critical')),
    subject text NOT NULL,
    summary text NOT NULL,
    events bigint NOT NULL,
    -- The event that completed it.
    event_id uuid NOT NULL,
    log_index bigint NOT NULL,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'acknowledged')),
    note text NOT NULL DEFAULT '',
    acknowledged_by uuid,
    acknowledged_at timestamptz,
    occurred_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (rule, subject, log_index)
);
CREATE INDEX findings_org ON audit.findings (org_id, id DESC);
CREATE INDEX findings_recent ON audit.findings (rule, subject, occurred_at DESC);

-- --- configuration by four eyes -------------------------------------------------------------------

CREATE TABLE audit.configuration (
    org_id uuid NOT NULL,
    key text NOT NULL,
    value jsonb NOT NULL,
    version bigint NOT NULL,
    change_id uuid NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, key)
);
CREATE TABLE audit.configuration_changes (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    key text NOT NULL,
    old_value jsonb,
    new_value jsonb NOT NULL,
    -- Version the old value had; 0 where the default stood.
    base_version bigint NOT NULL,
    reason text NOT NULL CHECK (reason <> ''),
    requires_approval boolean NOT NULL,
    state text NOT NULL CHECK (state IN ('proposed', 'applied', 'rejected', 'withdrawn', 'expired')),
    changed_by uuid NOT NULL,
    decided_by uuid,
    decision_reason text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz,
    expires_at timestamptz NOT NULL,
    CONSTRAINT changes_four_eyes CHECK
        (NOT requires_approval OR state NOT IN ('applied', 'rejected') OR decided_by <> changed_by)
);
CREATE INDEX changes_org ON audit.configuration_changes (org_id, id DESC);
CREATE INDEX changes_open ON audit.configuration_changes (expires_at) WHERE state = 'proposed';

-- --- retention, holds, drops ----------------------------------------------------------------------

CREATE TABLE audit.legal_holds (
    id uuid PRIMARY KEY,
    -- None: every organisation's events are held.
    org_id uuid,
    name text NOT NULL CHECK (name <> ''),
    reason text NOT NULL,
    placed_by uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    released_by uuid,
    released_at timestamptz,
    release_reason text NOT NULL DEFAULT ''
);
CREATE INDEX legal_holds_org ON audit.legal_holds (org_id, id DESC);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['daily', 'rule_counts', 'key_networks', 'findings', 'configuration',
                             'configuration_changes', 'legal_holds'] LOOP
        EXECUTE format('ALTER TABLE audit.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE audit.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON audit.%I TO chimera_app
            USING (org_id = (SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid))
            WITH CHECK (org_id = (SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid))', t);
        EXECUTE format('CREATE POLICY machinery ON audit.%I TO chimera_worker USING (true) WITH CHECK (true)', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['configuration', 'legal_holds'] LOOP
        EXECUTE format('CREATE POLICY upkeep ON audit.%I FOR SELECT TO chimera_upkeep USING (true)', t);
        EXECUTE format('CREATE POLICY dropping ON audit.%I FOR SELECT TO chimera_owner USING (true)', t);
        EXECUTE format('GRANT SELECT ON audit.%I TO chimera_upkeep', t);
    END LOOP;
END $$;
CREATE POLICY operator ON audit.findings TO chimera_app
    USING (org_id IS NULL AND (SELECT current_setting('app.role', true)) = 'operator')
    WITH CHECK (org_id IS NULL AND (SELECT current_setting('app.role', true)) = 'operator');
CREATE POLICY operator ON audit.legal_holds TO chimera_app
    USING (org_id IS NULL AND (SELECT current_setting('app.role', true)) = 'operator')
    WITH CHECK (org_id IS NULL AND (SELECT current_setting('app.role', true)) = 'operator');
GRANT SELECT ON audit.daily TO chimera_app;
GRANT SELECT, UPDATE ON audit.findings TO chimera_app;
GRANT SELECT, INSERT, UPDATE ON audit.configuration, audit.configuration_changes, audit.legal_holds TO chimera_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON audit.rule_counts TO chimera_worker;
GRANT SELECT, INSERT, UPDATE ON audit.daily, audit.key_networks, audit.findings TO chimera_worker;
GRANT SELECT ON audit.configuration, audit.legal_holds TO chimera_worker;
GRANT SELECT, UPDATE ON audit.configuration_changes TO chimera_worker;

-- What happened, by day: counted by the monitor as it reads the log, each event once.
CREATE VIEW audit.statistics WITH (security_invoker = true) AS
    SELECT org_id, day, action, severity, outcome, actor_id, events,
           CASE WHEN outcome = 'success' THEN 0 ELSE events END AS failures
      FROM audit.daily;
GRANT SELECT ON audit.statistics TO chimera_app;

-- One row a partition on its way out: archived, its drop recorded as an event, dropped.
CREATE TABLE audit.drops (
    partition_name text PRIMARY KEY,
    first_index bigint NOT NULL,
    last_index bigint NOT NULL,
    events bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('archived', 'recorded', 'dropped')),
    -- The archive is a range of the bundle format over [archive_first, archive_size).
    archive_first bigint NOT NULL,
    archive_size bigint NOT NULL,
    archive_file text NOT NULL,
    archive_sha256 bytea NOT NULL,
    event_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    dropped_at timestamptz
);
GRANT SELECT, INSERT, UPDATE ON audit.drops TO chimera_worker;
GRANT SELECT ON audit.drops TO chimera_app, chimera_upkeep;

-- The oldest month that still has its payloads, and until when it has to keep them: the longest time
-- any organisation in it asks for, else the installation's; infinity under a hold.
CREATE FUNCTION audit.keep_until(child regclass, default_days int) RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    start uuid;
    stop uuid;
    until timestamptz;
    days int;
BEGIN
    SELECT substring(b.bound FROM 'FROM \(''([0-9a-f-]{36})''\)')::uuid,
           substring(b.bound FROM 'TO \(''([0-9a-f-]{36})''\)')::uuid INTO start, stop
      FROM (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound
              FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'audit.events'::regclass AND c.oid = child) b;
    IF stop IS NULL THEN
        RETURN 'infinity';
    END IF;
    until := to_timestamp(('x' || lpad(left(replace(stop::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0);
    IF EXISTS (SELECT FROM audit.legal_holds h WHERE h.released_at IS NULL AND (h.org_id IS NULL OR EXISTS (
                   SELECT FROM audit.events e WHERE e.id >= start AND e.id < stop AND e.org_id = h.org_id))) THEN
        RETURN 'infinity';
    END IF;
    SELECT max(COALESCE((c.value #>> '{}')::int, default_days)) INTO days
      FROM (SELECT DISTINCT e.org_id FROM audit.events e WHERE e.id >= start AND e.id < stop) o
      LEFT JOIN audit.configuration c ON c.org_id = o.org_id AND c.key = 'audit_retention_days';
    RETURN until + make_interval(days => COALESCE(days, default_days));
END $$;

-- Drops a month. Only when its time is over, no hold lies on it, and the event that says so is
-- sealed and under a signed checkpoint. Gives up (lock_timeout) rather than hold up everyone.
CREATE FUNCTION audit.drop_partition(child regclass, default_days int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    its record;
BEGIN
    SELECT d.*, l.log_index AS drop_index INTO its
      FROM audit.drops d JOIN audit.leaves l ON l.event_id = d.event_id
     WHERE d.partition_name = child::text AND d.state = 'recorded';
    IF its IS NULL OR its.drop_index >= COALESCE((SELECT max(size) FROM audit.checkpoints), 0) THEN
        RAISE EXCEPTION 'the drop of % is not sealed and signed yet', child USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF audit.keep_until(child, default_days) > now() THEN
        RAISE EXCEPTION '% has to be kept', child USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF EXISTS (SELECT FROM audit.events e WHERE e.tableoid = child AND e.log_index > its.last_index) THEN
        RAISE EXCEPTION '% holds events its drop does not name', child USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('DROP TABLE %s', child);
END $$;
CREATE POLICY dropping ON audit.events FOR SELECT TO chimera_owner USING (true);
REVOKE ALL ON FUNCTION audit.keep_until(regclass, int), audit.drop_partition(regclass, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.keep_until(regclass, int), audit.drop_partition(regclass, int) TO chimera_upkeep;

-- --- erasing people -------------------------------------------------------------------------------

CREATE TABLE audit.erasures (
    id uuid PRIMARY KEY,
    subject_id uuid NOT NULL,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done')),
    events bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    done_at timestamptz
);
CREATE INDEX erasures_open ON audit.erasures (id) WHERE state = 'open';
GRANT INSERT ON audit.erasures TO chimera_app;
GRANT SELECT, INSERT, UPDATE ON audit.erasures TO chimera_worker;
CREATE INDEX events_about ON audit.events (entity_id) WHERE entity = 'user';

-- Whether `after` is `before` with some values and their salts taken out.
CREATE FUNCTION audit.is_erased(before jsonb, after jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_array_length(before) = jsonb_array_length(after)
       AND (SELECT bool_and(a.item = b.item OR a.item = jsonb_build_object('name', b.item->'name'))
              FROM jsonb_array_elements(before) WITH ORDINALITY AS b (item, at)
              JOIN jsonb_array_elements(after) WITH ORDINALITY AS a (item, at) USING (at))
$$;

-- As before, but for the one change there is: values and salts behind commitments go.
CREATE OR REPLACE FUNCTION audit.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND current_user = 'chimera_owner' AND to_jsonb(OLD) ? 'fields' THEN
        IF to_jsonb(NEW) - 'fields' = to_jsonb(OLD) - 'fields' AND audit.is_erased(OLD.fields, NEW.fields) THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% on audit.% is refused: the log is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;

-- Takes values and salts out of up to `batch` events by or about a person; returns out of how many.
-- What waits to be sealed is taken as well: the leaf, which is what counts, stays as it is.
CREATE FUNCTION audit.erase_events(subject uuid, batch int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    erased int;
    waiting int;
BEGIN
    IF NOT EXISTS (SELECT FROM audit.erasures WHERE subject_id = subject AND state = 'open') THEN
        RAISE EXCEPTION 'nobody asked to erase %', subject USING ERRCODE = 'insufficient_privilege';
    END IF;
    WITH found AS (
        SELECT id FROM audit.events
         WHERE (actor_id = subject OR (entity = 'user' AND entity_id = subject::text))
           AND fields @? '$[*].value'
         ORDER BY id LIMIT batch
    )
    UPDATE audit.events e
       SET fields = (SELECT COALESCE(jsonb_agg(jsonb_build_object('name', f->'name') ORDER BY at), '[]')
                       FROM jsonb_array_elements(e.fields) WITH ORDINALITY AS x (f, at))
      FROM found WHERE e.id = found.id;
    GET DIAGNOSTICS erased = ROW_COUNT;
    UPDATE audit.pending p
       SET fields = (SELECT COALESCE(jsonb_agg(jsonb_build_object('name', f->'name') ORDER BY at), '[]')
                       FROM jsonb_array_elements(p.fields) WITH ORDINALITY AS x (f, at))
     WHERE (p.facts->>'actor_id' = subject::text
            OR (p.facts->>'entity' = 'user' AND p.facts->>'entity_id' = subject::text))
       AND p.fields @? '$[*].value';
    GET DIAGNOSTICS waiting = ROW_COUNT;
    RETURN erased + waiting;
END $$;
CREATE POLICY erasing ON audit.events FOR UPDATE TO chimera_owner USING (true);
CREATE POLICY erasing_sees ON audit.pending FOR SELECT TO chimera_owner USING (true);
CREATE POLICY erasing ON audit.pending FOR UPDATE TO chimera_owner USING (true);
REVOKE ALL ON FUNCTION audit.erase_events(uuid, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.erase_events(uuid, int) TO chimera_worker;
RESET ROLE;

-- --- functions before the row policies --------------------------------------------------------------

-- Search of the caller's organisation. @@ and ->> are not leakproof, so under a row policy they use no
-- index; this applies the organisation itself.
CREATE FUNCTION audit.find_events(
    words text, after_id uuid, of_action text, of_entity text, of_entity_id text, of_actor uuid,
    of_kind text, of_severity text, of_outcome text, of_ip text, of_session text,
    since timestamptz, until timestamptz, size int
) RETURNS SETOF audit.events
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    mine uuid := NULLIF(current_setting('app.org_id', true), '')::uuid;
    wanted tsquery := websearch_to_tsquery('simple', words);
    address tsquery := plainto_tsquery('simple', of_ip);
BEGIN
    RETURN QUERY
    SELECT e.* FROM audit.events e
     WHERE e.org_id = mine
       AND (after_id IS NULL OR e.id < after_id)
       AND (since IS NULL OR (e.id >= ops.uuid_floor(since) AND e.occurred_at >= since))
       AND (until IS NULL OR (e.id < ops.uuid_floor(until + interval '1 ms') AND e.occurred_at < until))
       AND (of_action IS NULL OR e.action = of_action)
       AND (of_entity IS NULL OR e.entity = of_entity)
       AND (of_entity_id IS NULL OR e.entity_id = of_entity_id)
       AND (of_actor IS NULL OR e.actor_id = of_actor)
       AND (of_severity IS NULL OR e.severity = of_severity)
       AND (of_outcome IS NULL OR e.outcome = of_outcome)
       AND (of_kind IS NULL OR e.facts->>'kind' = of_kind)
       AND (of_session IS NULL OR e.facts->>'session_id' = of_session)
       AND (words IS NULL OR audit.words(e.fields) @@ wanted)
       AND (of_ip IS NULL OR (audit.words(e.fields) @@ address
            AND e.fields @> jsonb_build_array(jsonb_build_object('name', 'ip', 'value', of_ip))))
     ORDER BY e.id DESC
     LIMIT size;
END $$;
ALTER FUNCTION audit.find_events(text, uuid, text, text, text, uuid, text, text, text, text, text, timestamptz, timestamptz, int) OWNER TO chimera_lookup;
REVOKE ALL ON FUNCTION audit.find_events(text, uuid, text, text, text, uuid, text, text, text, text, text, timestamptz, timestamptz, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.find_events(text, uuid, text, text, text, uuid, text, text, text, text, text, timestamptz, timestamptz, int) TO chimera_app;

-- Leaves for an operator who verifies all of it and reads nothing: whether each hash is that of its
-- event's bytes. is_there: false where the payload was dropped.
CREATE FUNCTION audit.check_leaves(low bigint, high bigint)
RETURNS TABLE (log_index bigint, leaf_hash bytea, previous_hash bytea, is_there boolean, is_right boolean, drop_range text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('app.role', true) IS DISTINCT FROM 'operator' THEN
        RAISE EXCEPTION 'only operators verify the whole log' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN QUERY
    SELECT l.log_index, l.leaf_hash, e.previous_hash, e.id IS NOT NULL,
           e.leaf_hash = l.leaf_hash AND e.log_index = l.log_index
               AND sha256('\x00'::bytea || e.previous_hash || sha256(e.leaf)) = l.leaf_hash,
           CASE WHEN e.action = 'audit.payloads.drop' AND e.entity = 'audit.leaves' AND e.outcome = 'success'
                THEN e.entity_id END
      FROM audit.leaves l LEFT JOIN audit.events e ON e.id = l.event_id
     WHERE l.log_index >= low AND l.log_index < high
     ORDER BY l.log_index;
END $$;
ALTER FUNCTION audit.check_leaves(bigint, bigint) OWNER TO chimera_lookup;
REVOKE ALL ON FUNCTION audit.check_leaves(bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.check_leaves(bigint, bigint) TO chimera_app;

-- migrate:down
DROP FUNCTION audit.check_leaves(bigint, bigint);
DROP FUNCTION audit.find_events(text, uuid, text, text, text, uuid, text, text, text, text, text, timestamptz, timestamptz, int);
SET ROLE chimera_owner;
CREATE OR REPLACE FUNCTION audit.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on audit.% is refused: the log is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
DROP POLICY erasing ON audit.pending;
DROP POLICY erasing_sees ON audit.pending;
DROP POLICY erasing ON audit.events;
DROP FUNCTION audit.erase_events(uuid, int);
DROP FUNCTION audit.is_erased(jsonb, jsonb);
DROP INDEX audit.events_about;
DROP TABLE audit.erasures;
DROP POLICY dropping ON audit.events;
DROP FUNCTION audit.drop_partition(regclass, int);
DROP FUNCTION audit.keep_until(regclass, int);
DROP TABLE audit.drops;
DROP VIEW audit.statistics;
DROP TABLE audit.legal_holds, audit.configuration_changes, audit.configuration, audit.findings,
    audit.key_networks, audit.rule_counts, audit.daily, audit.watermarks, audit.restores, audit.cosignatures;
REVOKE INSERT, UPDATE ON audit.writers FROM chimera_sealer;
REVOKE INSERT ON audit.pending FROM chimera_sealer;
REVOKE SELECT ON audit.leaves, audit.nodes, audit.checkpoints, audit.log_head FROM chimera_upkeep;
REVOKE SELECT ON audit.leaves FROM chimera_lookup;
REVOKE SELECT ON audit.events FROM chimera_lookup, chimera_worker, chimera_upkeep;
DROP POLICY machinery ON audit.events;
DROP POLICY lookup ON audit.events;
DROP INDEX audit.events_severity, audit.events_log, audit.events_action, audit.events_actor, audit.events_words;
DROP FUNCTION audit.words(jsonb);
DO $$
DECLARE
    its record;
BEGIN
    FOR its IN SELECT conrelid::regclass AS name, conname, pg_get_constraintdef(oid) AS known FROM pg_constraint
                WHERE contype = 'c' AND connamespace = 'identity'::regnamespace
                  AND pg_get_constraintdef(oid) LIKE '%ARRAY[''auditor''::text, %'
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I %s', its.name, its.conname, its.conname,
                       replace(its.known, '''auditor''::text, ', ''));
    END LOOP;
END $$;
REVOKE USAGE ON SCHEMA ops FROM chimera_upkeep;
REVOKE USAGE ON SCHEMA audit FROM chimera_upkeep, chimera_lookup;
RESET ROLE;
