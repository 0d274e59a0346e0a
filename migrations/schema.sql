CREATE SCHEMA accounting;

ALTER SCHEMA accounting OWNER TO chimera_owner;

CREATE SCHEMA audit;

ALTER SCHEMA audit OWNER TO chimera_owner;

CREATE SCHEMA campaigns;

ALTER SCHEMA campaigns OWNER TO chimera_owner;

CREATE SCHEMA identity;

ALTER SCHEMA identity OWNER TO chimera_owner;

CREATE SCHEMA ops;

ALTER SCHEMA ops OWNER TO chimera_owner;

CREATE SCHEMA providers;

ALTER SCHEMA providers OWNER TO chimera_owner;

CREATE SCHEMA telemetry;

ALTER SCHEMA telemetry OWNER TO chimera_owner;

CREATE SCHEMA templates;

ALTER SCHEMA templates OWNER TO chimera_owner;

CREATE TYPE providers.uuid_range AS RANGE (
    subtype = uuid,
    multirange_type_name = providers.uuid_multirange
);

ALTER TYPE providers.uuid_range OWNER TO chimera_owner;

CREATE FUNCTION accounting.count_sealed_secrets(is_previous boolean) RETURNS TABLE(kek_version integer, count bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT (s.secret->>'kek_version')::int, count(*) FROM accounting.webhooks w
     CROSS JOIN LATERAL (SELECT CASE WHEN is_previous THEN w.previous_sealed ELSE w.sealed END AS secret) s
     WHERE s.secret ? 'kek_version' GROUP BY 1
    $$;

ALTER FUNCTION accounting.count_sealed_secrets(is_previous boolean) OWNER TO chimera_lookup;

CREATE FUNCTION accounting.find_sealed_secrets(newest integer, is_previous boolean, after_id uuid, size integer) RETURNS TABLE(id uuid, org_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT w.id, w.org_id FROM accounting.webhooks w
     CROSS JOIN LATERAL (SELECT CASE WHEN is_previous THEN w.previous_sealed ELSE w.sealed END AS secret) s
     WHERE s.secret ? 'kek_version' AND (s.secret->>'kek_version')::int <> newest AND w.id > after_id
     ORDER BY w.id LIMIT size
    $$;

ALTER FUNCTION accounting.find_sealed_secrets(newest integer, is_previous boolean, after_id uuid, size integer) OWNER TO chimera_lookup;

CREATE FUNCTION audit.check_leaves(low bigint, high bigint) RETURNS TABLE(log_index bigint, leaf_hash bytea, previous_hash bytea, is_there boolean, is_right boolean, drop_range text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

ALTER FUNCTION audit.check_leaves(low bigint, high bigint) OWNER TO chimera_lookup;

CREATE FUNCTION audit.drop_partition(child regclass, default_days integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '2s'
    AS $$
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

ALTER FUNCTION audit.drop_partition(child regclass, default_days integer) OWNER TO chimera_owner;

CREATE FUNCTION audit.erase_events(subject uuid, batch integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
END $_$;

ALTER FUNCTION audit.erase_events(subject uuid, batch integer) OWNER TO chimera_owner;

CREATE TABLE audit.events (
    id uuid NOT NULL,
    log_index bigint NOT NULL,
    org_id uuid,
    occurred_at timestamp with time zone NOT NULL,
    actor_kind text NOT NULL,
    actor_id uuid,
    action text NOT NULL,
    entity text NOT NULL,
    entity_id text NOT NULL,
    outcome text NOT NULL,
    severity text NOT NULL,
    facts jsonb NOT NULL,
    fields jsonb NOT NULL,
    leaf bytea NOT NULL,
    leaf_hash bytea NOT NULL,
    previous_hash bytea NOT NULL
)
PARTITION BY RANGE (id);

ALTER TABLE ONLY audit.events FORCE ROW LEVEL SECURITY;

ALTER TABLE audit.events OWNER TO chimera_owner;

CREATE FUNCTION audit.find_events(words text, after_id uuid, of_action text, of_entity text, of_entity_id text, of_actor uuid, of_kind text, of_severity text, of_outcome text, of_ip text, of_session text, since timestamp with time zone, until timestamp with time zone, size integer) RETURNS SETOF audit.events
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_custom_plan'
    AS $$
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

ALTER FUNCTION audit.find_events(words text, after_id uuid, of_action text, of_entity text, of_entity_id text, of_actor uuid, of_kind text, of_severity text, of_outcome text, of_ip text, of_session text, since timestamp with time zone, until timestamp with time zone, size integer) OWNER TO chimera_lookup;

CREATE FUNCTION audit.first_words(fields jsonb) RETURNS tsvector
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$
    SELECT to_tsvector('simple'::regconfig,
                       COALESCE(left(string_agg(left(v #>> '{}', 100000), ' '), 100000), ''))
      FROM jsonb_path_query(fields, '$[*].value') AS v
$_$;

ALTER FUNCTION audit.first_words(fields jsonb) OWNER TO chimera_owner;

CREATE FUNCTION audit.is_erased(before jsonb, after jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT jsonb_array_length(before) = jsonb_array_length(after)
       AND (SELECT bool_and(a.item = b.item OR a.item = jsonb_build_object('name', b.item->'name'))
              FROM jsonb_array_elements(before) WITH ORDINALITY AS b (item, at)
              JOIN jsonb_array_elements(after) WITH ORDINALITY AS a (item, at) USING (at))
$$;

ALTER FUNCTION audit.is_erased(before jsonb, after jsonb) OWNER TO chimera_owner;

CREATE FUNCTION audit.keep_until(child regclass, default_days integer) RETURNS timestamp with time zone
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

ALTER FUNCTION audit.keep_until(child regclass, default_days integer) OWNER TO chimera_owner;

CREATE FUNCTION audit.refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND current_user = 'chimera_owner' AND to_jsonb(OLD) ? 'fields' THEN
        IF to_jsonb(NEW) - 'fields' = to_jsonb(OLD) - 'fields' AND audit.is_erased(OLD.fields, NEW.fields) THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% on audit.% is refused: the log is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;

ALTER FUNCTION audit.refuse() OWNER TO chimera_owner;

CREATE FUNCTION audit.words(fields jsonb) RETURNS tsvector
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$
    SELECT CASE WHEN octet_length(fields::text) > 250000 THEN audit.first_words(fields)
           ELSE jsonb_to_tsvector('simple'::regconfig, jsonb_path_query_array(fields, '$[*].value'), '["string"]') END
$_$;

ALTER FUNCTION audit.words(fields jsonb) OWNER TO chimera_owner;

CREATE FUNCTION campaigns.count_running_time() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF OLD.state = 'running' THEN
        NEW.ran_s := OLD.ran_s + extract(epoch FROM clock_timestamp() - OLD.running_since);
    ELSIF NEW.state = 'running' THEN
        NEW.running_since := clock_timestamp();
    END IF;
    RETURN NEW;
END $$;

ALTER FUNCTION campaigns.count_running_time() OWNER TO chimera_owner;

CREATE FUNCTION campaigns.may(campaign uuid, needed text) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $$
DECLARE
    levels text[] := ARRAY['view', 'comment', 'edit', 'execute', 'admin'];
BEGIN
    RETURN coalesce(array_position(levels, campaigns.own_level(campaign)) >= array_position(levels, needed), false);
END $$;

ALTER FUNCTION campaigns.may(campaign uuid, needed text) OWNER TO chimera_owner;

CREATE FUNCTION campaigns.may_run(run uuid, needed text) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $$
BEGIN
    RETURN EXISTS (SELECT FROM campaigns.runs r WHERE r.id = run AND campaigns.may(r.campaign_id, needed));
END $$;

ALTER FUNCTION campaigns.may_run(run uuid, needed text) OWNER TO chimera_owner;

CREATE FUNCTION campaigns.own_level(campaign uuid) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $$
DECLARE
    me uuid := NULLIF(current_setting('app.user_id', true), '')::uuid;
    mine uuid := NULLIF(current_setting('app.org_id', true), '')::uuid;
    levels text[] := ARRAY['view', 'comment', 'edit', 'execute', 'admin'];
    it record;
    given int;
BEGIN
    SELECT c.org_id, c.created_by, c.visibility, c.team_id INTO it FROM campaigns.campaigns c WHERE c.id = campaign;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF it.org_id IS DISTINCT FROM mine THEN
        RETURN 'view';
    ELSIF it.created_by = me OR current_setting('app.reach', true) = 'all' THEN
        RETURN 'admin';
    END IF;
    SELECT max(array_position(levels, s.permission)) INTO given
      FROM campaigns.shares s
     WHERE s.campaign_id = campaign AND (s.user_id = me OR s.team_id = ANY (identity.own_teams()))
       AND (s.expires_at IS NULL OR s.expires_at > now());
    -- Whoever may write or run at all may, with what the whole organisation or a team of theirs sees.
    IF it.visibility IN ('organisation', 'public')
       OR (it.visibility = 'team' AND it.team_id = ANY (identity.own_teams())) THEN
        given := greatest(given, array_position(levels, 'execute'));
    END IF;
    RETURN levels[given];
END $$;

ALTER FUNCTION campaigns.own_level(campaign uuid) OWNER TO chimera_owner;

CREATE FUNCTION campaigns.own_shares() RETURNS uuid[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    teams uuid[] := identity.own_teams();
BEGIN
    RETURN ARRAY(SELECT s.campaign_id
                   FROM campaigns.shares s
                  WHERE s.org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
                    AND (s.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid OR s.team_id = ANY (teams))
                    AND (s.expires_at IS NULL OR s.expires_at > now()));
END $$;

ALTER FUNCTION campaigns.own_shares() OWNER TO chimera_lookup;

CREATE FUNCTION campaigns.runs_in_view() RETURNS uuid[]
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $$
DECLARE
    named uuid[] := NULLIF(current_setting('app.run_ids', true), '')::uuid[];
BEGIN
    IF named IS NULL THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT r.id FROM campaigns.runs r
                  WHERE r.id = ANY (named)
                    AND (current_setting('app.role', true) IS DISTINCT FROM 'operator' OR campaigns.sees(r.campaign_id)));
END $$;

ALTER FUNCTION campaigns.runs_in_view() OWNER TO chimera_owner;

CREATE FUNCTION campaigns.scorings_in_view() RETURNS uuid[]
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $$
BEGIN
    RETURN ARRAY(SELECT s.id FROM campaigns.scorings s WHERE s.run_id = ANY (campaigns.runs_in_view()));
END $$;

ALTER FUNCTION campaigns.scorings_in_view() OWNER TO chimera_owner;

CREATE FUNCTION campaigns.sees(campaign uuid) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $$
BEGIN
    RETURN EXISTS (SELECT FROM campaigns.campaigns c WHERE c.id = campaign);
END $$;

ALTER FUNCTION campaigns.sees(campaign uuid) OWNER TO chimera_owner;

CREATE FUNCTION campaigns.sees_run(run uuid) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $$
BEGIN
    RETURN EXISTS (SELECT FROM campaigns.runs r
                    WHERE r.id = run
                      AND (current_setting('app.role', true) IS DISTINCT FROM 'operator' OR campaigns.sees(r.campaign_id)));
END $$;

ALTER FUNCTION campaigns.sees_run(run uuid) OWNER TO chimera_owner;

CREATE FUNCTION campaigns.sees_scoring(scoring uuid) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $$
BEGIN
    RETURN EXISTS (SELECT FROM campaigns.scorings s WHERE s.id = scoring);
END $$;

ALTER FUNCTION campaigns.sees_scoring(scoring uuid) OWNER TO chimera_owner;

CREATE FUNCTION identity.confirm_standing(own_session_id uuid, own_key_id uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF own_key_id IS NOT NULL THEN
        PERFORM FROM identity.api_keys k LEFT JOIN identity.users u ON u.id = k.user_id
          WHERE k.id = own_key_id
            AND (k.xmin = pg_current_xact_id()::xid
                 OR k.is_active AND (u.xmin = pg_current_xact_id()::xid
                                     OR u.state = 'active' AND u.deleted_at IS NULL))
            FOR SHARE OF k;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the key has ended' USING ERRCODE = 'invalid_password';
        END IF;
        RETURN;
    END IF;
    PERFORM FROM identity.sessions s
      WHERE s.id = own_session_id AND (s.is_active OR s.xmin = pg_current_xact_id()::xid) FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the session has ended' USING ERRCODE = 'invalid_authorization_specification';
    END IF;
END $$;

ALTER FUNCTION identity.confirm_standing(own_session_id uuid, own_key_id uuid) OWNER TO chimera_owner;

CREATE FUNCTION identity.count_sealed_sign_in() RETURNS TABLE(kek_version integer, count bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT (p.sealed->>'kek_version')::int, count(*) FROM identity.sign_in_providers p
     WHERE p.sealed ? 'kek_version' GROUP BY 1
    $$;

ALTER FUNCTION identity.count_sealed_sign_in() OWNER TO chimera_lookup;

CREATE FUNCTION identity.count_sealed_totp() RETURNS TABLE(kek_version integer, count bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT (u.totp_sealed->>'kek_version')::int, count(*) FROM identity.users u
     WHERE u.totp_sealed IS NOT NULL GROUP BY 1
    $$;

ALTER FUNCTION identity.count_sealed_totp() OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_account(login text, device_hash bytea, org uuid) RETURNS TABLE(user_id uuid, org_id uuid, role text, password_hash text, state text, is_superuser boolean, locked_until timestamp with time zone, authz_epoch bigint, has_second_factor boolean, device_id uuid, restriction text, password_changed_at timestamp with time zone)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT u.id, m.org_id, m.role, u.password_hash, u.state, u.is_superuser, u.locked_until, u.authz_epoch,
           u.totp_confirmed_at IS NOT NULL,
           (SELECT d.id FROM identity.devices d
             WHERE d.token_hash = find_account.device_hash AND d.user_id = u.id AND d.expires_at > now()),
           CASE WHEN o.requires_second_factor AND u.totp_confirmed_at IS NULL THEN 'second_factor'
                WHEN o.password_age_days_max > 0
                     AND u.password_changed_at < now() - make_interval(days => o.password_age_days_max)
                THEN 'password_expired' ELSE '' END,
           u.password_changed_at
      FROM identity.users u
      JOIN identity.memberships m ON m.user_id = u.id
      JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
     WHERE u.deleted_at IS NULL AND (lower(u.email) = lower(login) OR lower(u.username) = lower(login))
       AND (find_account.org IS NULL OR m.org_id = find_account.org)
     ORDER BY lower(u.email) = lower(login) DESC, m.created_at, m.org_id
     LIMIT 1
$$;

ALTER FUNCTION identity.find_account(login text, device_hash bytea, org uuid) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_api_key(public_id text) RETURNS TABLE(api_key_id uuid, user_id uuid, org_id uuid, role text, secret_hash bytea, scopes text[], is_active boolean, expires_at timestamp with time zone, state text, is_superuser boolean)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT k.id, k.user_id, k.org_id, m.role, k.secret_hash, k.scopes, k.is_active, k.expires_at,
           CASE WHEN u.deleted_at IS NULL THEN u.state ELSE 'disabled' END, u.is_superuser
      FROM identity.api_keys k
      JOIN identity.users u ON u.id = k.user_id
      JOIN identity.memberships m ON m.user_id = k.user_id AND m.org_id = k.org_id
     WHERE k.public_id = find_api_key.public_id
$$;

ALTER FUNCTION identity.find_api_key(public_id text) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_grants(org_id uuid, user_id uuid) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object(
               'grant_id', g.id, 'role_id', coalesce(g.role_id::text, ''), 'built_in_role', coalesce(g.built_in_role, ''),
               'role_name', coalesce(r.name, g.built_in_role), 'permissions', coalesce(r.permissions, '{}'),
               'team_id', coalesce(t.id::text, ''), 'team_name', coalesce(t.name, ''), 'conditions', g.conditions) ORDER BY g.id), '[]')
      FROM (SELECT d.* FROM identity.grants d
             WHERE d.org_id = find_grants.org_id AND d.user_id = find_grants.user_id AND d.revoked_at IS NULL
            UNION ALL
            SELECT d.* FROM identity.team_members m
              JOIN identity.grants d ON d.org_id = m.org_id AND d.team_id = m.team_id AND d.revoked_at IS NULL
             WHERE m.org_id = find_grants.org_id AND m.user_id = find_grants.user_id) g
      LEFT JOIN identity.roles r ON r.id = g.role_id AND r.deleted_at IS NULL
      LEFT JOIN identity.teams t ON t.id = g.team_id AND t.deleted_at IS NULL
     WHERE (g.role_id IS NULL OR r.id IS NOT NULL) AND (g.team_id IS NULL OR t.id IS NOT NULL)
$$;

ALTER FUNCTION identity.find_grants(org_id uuid, user_id uuid) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_invitation(code_hash bytea) RETURNS TABLE(id uuid, org_id uuid, role text, email text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT i.id, i.org_id, i.role, i.email
      FROM identity.invitations i JOIN identity.organisations o ON o.id = i.org_id AND o.deleted_at IS NULL
     WHERE i.code_hash = find_invitation.code_hash AND i.revoked_at IS NULL AND i.expires_at > now()
       AND i.uses < i.uses_max
$$;

ALTER FUNCTION identity.find_invitation(code_hash bytea) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_key(public_id text) RETURNS TABLE(api_key_id uuid, user_id uuid, org_id uuid, role text, secret_hash bytea, scopes text[], source_networks text[], is_active boolean, expires_at timestamp with time zone, state text, is_superuser boolean)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT k.id, k.user_id, k.org_id, m.role,
           CASE WHEN k.public_id = find_key.public_id THEN k.secret_hash ELSE k.previous_secret_hash END,
           k.scopes, k.source_networks, k.is_active,
           CASE WHEN k.public_id = find_key.public_id THEN k.expires_at
                ELSE LEAST(k.expires_at, k.previous_expires_at) END,
           CASE WHEN u.deleted_at IS NULL THEN u.state ELSE 'disabled' END,
           u.is_superuser AND k.created_at > COALESCE(u.superuser_at, to_timestamp(0))
      FROM identity.api_keys k
      JOIN identity.users u ON u.id = k.user_id
      JOIN identity.memberships m ON m.user_id = k.user_id AND m.org_id = k.org_id
     WHERE k.public_id = find_key.public_id OR k.previous_public_id = find_key.public_id
$$;

ALTER FUNCTION identity.find_key(public_id text) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_linked_identity(provider_org_id uuid, issuer text, subject text) RETURNS TABLE(linked_identity_id uuid, user_id uuid, org_id uuid, role text, state text, authz_epoch bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT l.id, l.user_id, l.org_id, m.role,
           CASE WHEN u.deleted_at IS NULL THEN u.state ELSE 'disabled' END, u.authz_epoch
      FROM identity.linked_identities l
      JOIN identity.users u ON u.id = l.user_id
      JOIN identity.memberships m ON m.user_id = l.user_id AND m.org_id = l.org_id
      JOIN identity.organisations o ON o.id = l.org_id AND o.deleted_at IS NULL
     WHERE l.provider_org_id IS NOT DISTINCT FROM find_linked_identity.provider_org_id
       AND l.issuer = find_linked_identity.issuer AND l.subject = find_linked_identity.subject
$$;

ALTER FUNCTION identity.find_linked_identity(provider_org_id uuid, issuer text, subject text) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_login(login text) RETURNS TABLE(user_id uuid, org_id uuid, role text, password_hash text, state text, is_superuser boolean, locked_until timestamp with time zone, authz_epoch bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT a.user_id, a.org_id, a.role, a.password_hash, a.state, a.is_superuser, a.locked_until, a.authz_epoch
      FROM identity.find_account(login, NULL, NULL) a WHERE NOT a.has_second_factor
$$;

ALTER FUNCTION identity.find_login(login text) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_one_time_token(token_hash bytea, purpose text) RETURNS TABLE(user_id uuid, org_id uuid, role text, email text, username text, new_email text, facts jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT t.user_id, t.org_id, coalesce(m.role, ''), u.email, u.username, t.email, t.facts
      FROM identity.one_time_tokens t
      JOIN identity.users u ON u.id = t.user_id AND u.deleted_at IS NULL
      LEFT JOIN identity.memberships m ON m.user_id = t.user_id AND m.org_id = t.org_id
     WHERE t.token_hash = find_one_time_token.token_hash AND t.purpose = find_one_time_token.purpose
       AND t.used_at IS NULL AND t.expires_at > now()
$$;

ALTER FUNCTION identity.find_one_time_token(token_hash bytea, purpose text) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_person(email text) RETURNS TABLE(user_id uuid, org_id uuid, has_password boolean, is_verified boolean, is_disabled boolean)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT u.id, m.org_id, u.password_hash IS NOT NULL, u.email_verified_at IS NOT NULL, u.state = 'disabled'
      FROM identity.users u
      JOIN identity.memberships m ON m.user_id = u.id
      JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
     WHERE u.deleted_at IS NULL AND lower(u.email) = lower(find_person.email)
     ORDER BY m.org_id = u.home_org_id DESC, m.created_at LIMIT 1
$$;

ALTER FUNCTION identity.find_person(email text) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_refresh_token(token_hash bytea) RETURNS TABLE(session_id uuid, user_id uuid, org_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT t.session_id, t.user_id, t.org_id FROM identity.refresh_tokens t
     WHERE t.token_hash = find_refresh_token.token_hash
$$;

ALTER FUNCTION identity.find_refresh_token(token_hash bytea) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_registration(token_hash bytea) RETURNS TABLE(id uuid, org_id uuid, email text, username text, display_name text, organisation_name text, invitation_id uuid, role text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT r.id, r.org_id, r.email, r.username, r.display_name, r.organisation_name, r.invitation_id,
           coalesce(i.role, 'admin')
      FROM identity.registrations r LEFT JOIN identity.invitations i ON i.id = r.invitation_id
     WHERE r.token_hash = find_registration.token_hash AND r.confirmed_at IS NULL AND r.expires_at > now()
$$;

ALTER FUNCTION identity.find_registration(token_hash bytea) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_sealed_sign_in(newest integer, after_id uuid, size integer) RETURNS TABLE(id uuid, org_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT p.id, p.org_id FROM identity.sign_in_providers p
     WHERE p.sealed ? 'kek_version' AND (p.sealed->>'kek_version')::int <> newest AND p.id > after_id
     ORDER BY p.id LIMIT size
    $$;

ALTER FUNCTION identity.find_sealed_sign_in(newest integer, after_id uuid, size integer) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_session(session_id uuid) RETURNS TABLE(user_id uuid, org_id uuid, role text, is_active boolean, state text, is_superuser boolean, authz_epoch bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT s.user_id, s.org_id, m.role, s.is_active AND s.absolute_expires_at > now(),
           CASE WHEN u.deleted_at IS NULL THEN u.state ELSE 'disabled' END, u.is_superuser, u.authz_epoch
      FROM identity.sessions s
      JOIN identity.users u ON u.id = s.user_id
      JOIN identity.memberships m ON m.user_id = s.user_id AND m.org_id = s.org_id
     WHERE s.id = find_session.session_id
$$;

ALTER FUNCTION identity.find_session(session_id uuid) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_sign_in_provider(provider_id uuid) RETURNS TABLE(id uuid, org_id uuid, name text, kind text, issuer text, client_id text, sealed jsonb, row_version integer, redirect_uris text[], new_user_role text, email_domains text[])
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT p.id, p.org_id, p.name, p.kind, p.issuer, p.client_id, p.sealed, p.row_version, p.redirect_uris,
           p.new_user_role, p.email_domains
      FROM identity.sign_in_providers p
      JOIN identity.organisations o ON o.id = p.org_id AND o.deleted_at IS NULL
     WHERE p.id = find_sign_in_provider.provider_id AND p.is_enabled AND p.deleted_at IS NULL
$$;

ALTER FUNCTION identity.find_sign_in_provider(provider_id uuid) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_thing(kind text, thing_id uuid) RETURNS TABLE(ids uuid[], owner_id uuid)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
BEGIN
    CASE kind
    WHEN 'campaign' THEN RETURN QUERY
        SELECT ARRAY[c.id], c.created_by FROM campaigns.campaigns c WHERE c.id = thing_id;
    WHEN 'run' THEN RETURN QUERY
        SELECT ARRAY[r.id, c.id], c.created_by
          FROM campaigns.runs r JOIN campaigns.campaigns c ON c.id = r.campaign_id WHERE r.id = thing_id;
    WHEN 'scoring' THEN RETURN QUERY
        SELECT ARRAY[s.id, r.id, c.id], c.created_by
          FROM campaigns.scorings s JOIN campaigns.runs r ON r.id = s.run_id
          JOIN campaigns.campaigns c ON c.id = r.campaign_id WHERE s.id = thing_id;
    WHEN 'template' THEN RETURN QUERY
        SELECT ARRAY[t.id], t.created_by FROM templates.templates t WHERE t.id = thing_id;
    WHEN 'suite' THEN RETURN QUERY
        SELECT ARRAY[s.id], s.created_by FROM campaigns.technique_suites s WHERE s.id = thing_id;
    WHEN 'dataset' THEN RETURN QUERY
        SELECT ARRAY[d.id], d.created_by FROM templates.datasets d WHERE d.id = thing_id;
    WHEN 'provider' THEN RETURN QUERY
        SELECT ARRAY[p.id], p.created_by FROM providers.providers p WHERE p.id = thing_id;
    WHEN 'model' THEN RETURN QUERY
        SELECT ARRAY[m.id, p.id], p.created_by
          FROM providers.models m JOIN providers.providers p ON p.id = m.provider_id WHERE m.id = thing_id;
    WHEN 'price_version' THEN RETURN QUERY
        SELECT ARRAY[v.id, m.id, p.id], p.created_by
          FROM providers.price_versions v JOIN providers.models m ON m.id = v.model_id
          JOIN providers.providers p ON p.id = m.provider_id WHERE v.id = thing_id;
    WHEN 'provider_key' THEN RETURN QUERY
        SELECT ARRAY[k.id, k.provider_id], k.user_id FROM providers.provider_keys k WHERE k.id = thing_id;
    WHEN 'route' THEN RETURN QUERY
        SELECT ARRAY[r.id], r.created_by FROM providers.routes r WHERE r.id = thing_id;
    WHEN 'budget' THEN RETURN QUERY
        SELECT ARRAY[b.id, b.scope_id], coalesce(b.owner_id, b.set_by) FROM accounting.budgets b WHERE b.id = thing_id;
    WHEN 'alert' THEN RETURN QUERY
        SELECT ARRAY[a.id, a.budget_id, a.scope_id], a.user_id FROM accounting.alerts a WHERE a.id = thing_id;
    WHEN 'webhook' THEN RETURN QUERY
        SELECT ARRAY[w.id], w.created_by FROM accounting.webhooks w WHERE w.id = thing_id;
    WHEN 'delivery' THEN RETURN QUERY
        SELECT ARRAY[d.id, w.id], w.created_by
          FROM accounting.deliveries d JOIN accounting.webhooks w ON w.id = d.webhook_id WHERE d.id = thing_id;
    WHEN 'dead_letter' THEN RETURN QUERY
        SELECT ARRAY[l.id, l.batch_id], NULL::uuid FROM telemetry.dead_letters l WHERE l.id = thing_id;
    WHEN 'team' THEN RETURN QUERY
        SELECT ARRAY[t.id], t.created_by FROM identity.teams t WHERE t.id = thing_id;
    WHEN 'user' THEN RETURN QUERY
        SELECT ARRAY[u.id], u.id FROM identity.users u WHERE u.id = thing_id;
    WHEN 'api_key' THEN RETURN QUERY
        SELECT ARRAY[k.id, k.user_id], k.user_id FROM identity.api_keys k WHERE k.id = thing_id;
    WHEN 'invitation' THEN RETURN QUERY
        SELECT ARRAY[i.id], i.created_by FROM identity.invitations i WHERE i.id = thing_id;
    WHEN 'role' THEN RETURN QUERY
        SELECT ARRAY[r.id], r.created_by FROM identity.roles r WHERE r.id = thing_id;
    WHEN 'grant' THEN RETURN QUERY
        SELECT ARRAY[g.id, g.role_id], g.granted_by FROM identity.grants g WHERE g.id = thing_id;
    WHEN 'sign_in_provider' THEN RETURN QUERY
        SELECT ARRAY[p.id], p.created_by FROM identity.sign_in_providers p WHERE p.id = thing_id;
    WHEN 'change' THEN RETURN QUERY
        SELECT ARRAY[c.id], c.changed_by FROM audit.configuration_changes c WHERE c.id = thing_id;
    WHEN 'legal_hold' THEN RETURN QUERY
        SELECT ARRAY[h.id], h.placed_by FROM audit.legal_holds h WHERE h.id = thing_id;
    WHEN 'finding' THEN RETURN QUERY
        SELECT ARRAY[f.id], NULL::uuid FROM audit.findings f WHERE f.id = thing_id;
    END CASE;
END $$;

ALTER FUNCTION identity.find_thing(kind text, thing_id uuid) OWNER TO chimera_owner;

CREATE FUNCTION identity.find_unattached(email text) RETURNS TABLE(user_id uuid, is_proven boolean)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT u.id, u.email_verified_at IS NOT NULL FROM identity.users u
     WHERE lower(u.email) = lower(find_unattached.email) AND u.erased_at IS NULL AND NOT u.is_superuser
       AND NOT EXISTS (SELECT FROM identity.memberships m
                         JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
                        WHERE m.user_id = u.id)
     ORDER BY u.deleted_at DESC NULLS FIRST LIMIT 1
$$;

ALTER FUNCTION identity.find_unattached(email text) OWNER TO chimera_lookup;

CREATE FUNCTION identity.is_last_operator(target uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('identity.set_superuser'));
    RETURN EXISTS (SELECT FROM identity.users u WHERE u.id = target AND u.is_superuser)
       AND NOT EXISTS (SELECT FROM identity.users o
                        WHERE o.id <> target AND o.is_superuser AND o.state = 'active'
                          AND o.deleted_at IS NULL AND o.erase_at IS NULL);
END $$;

ALTER FUNCTION identity.is_last_operator(target uuid) OWNER TO chimera_owner;

CREATE FUNCTION identity.list_sign_in_providers(org_id uuid) RETURNS TABLE(id uuid, name text, kind text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT p.id, p.name, p.kind
      FROM identity.sign_in_providers p
      JOIN identity.organisations o ON o.id = p.org_id AND o.deleted_at IS NULL
     WHERE p.org_id = list_sign_in_providers.org_id AND p.is_enabled AND p.deleted_at IS NULL
     ORDER BY p.name
$$;

ALTER FUNCTION identity.list_sign_in_providers(org_id uuid) OWNER TO chimera_lookup;

CREATE FUNCTION identity.organisation_rules(org_id uuid) RETURNS TABLE(characters_min integer, classes_min integer)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT o.password_characters_min, o.password_classes_min FROM identity.organisations o
     WHERE o.id = organisation_rules.org_id
$$;

ALTER FUNCTION identity.organisation_rules(org_id uuid) OWNER TO chimera_lookup;

CREATE FUNCTION identity.organisations_of(user_id uuid) RETURNS uuid[]
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT coalesce(array_agg(x.org_id ORDER BY x.org_id), '{}') FROM (
        SELECT m.org_id FROM identity.memberships m WHERE m.user_id = organisations_of.user_id
         UNION
        SELECT k.org_id FROM providers.provider_keys k WHERE k.user_id = organisations_of.user_id
         UNION  -- by organisation, as these tables have their indexes
        SELECT o.id FROM identity.organisations o
         WHERE EXISTS (SELECT FROM campaigns.comments c
                        WHERE c.org_id = o.id AND c.created_by = organisations_of.user_id)
            OR EXISTS (SELECT FROM campaigns.shares s
                        WHERE s.org_id = o.id AND s.user_id = organisations_of.user_id)) x
$$;

ALTER FUNCTION identity.organisations_of(user_id uuid) OWNER TO chimera_lookup;

CREATE FUNCTION identity.own_organisations() RETURNS TABLE(id uuid, name text, role text, created_at timestamp with time zone, joined_at timestamp with time zone)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT o.id, o.name, m.role, o.created_at, m.created_at
      FROM identity.memberships m JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
     WHERE m.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
     ORDER BY m.created_at, o.id
$$;

ALTER FUNCTION identity.own_organisations() OWNER TO chimera_lookup;

CREATE FUNCTION identity.own_teams() RETURNS uuid[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN ARRAY(SELECT m.team_id
                   FROM identity.team_members m JOIN identity.teams t ON t.id = m.team_id
                  WHERE m.org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
                    AND m.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
                    AND t.deleted_at IS NULL);
END $$;

ALTER FUNCTION identity.own_teams() OWNER TO chimera_lookup;

CREATE FUNCTION identity.password_rules(user_id uuid) RETURNS TABLE(characters_min integer, classes_min integer, history integer, has_second_factor boolean, password_hash text, old_hashes text[])
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT coalesce(r.characters_min, 8), coalesce(r.classes_min, 0), coalesce(r.history, 0),
           u.totp_confirmed_at IS NOT NULL, u.password_hash,
           ARRAY(SELECT h.password_hash FROM identity.password_history h WHERE h.user_id = u.id
                  ORDER BY h.replaced_at DESC LIMIT greatest(coalesce(r.history, 0) - 1, 0))
      FROM identity.users u
      CROSS JOIN LATERAL (
          SELECT max(o.password_characters_min) AS characters_min, max(o.password_classes_min) AS classes_min,
                 max(o.password_history) AS history
            FROM identity.memberships m JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
           WHERE m.user_id = u.id) r
     WHERE u.id = password_rules.user_id
$$;

ALTER FUNCTION identity.password_rules(user_id uuid) OWNER TO chimera_lookup;

CREATE FUNCTION identity.session_state(session_id uuid) RETURNS TABLE(user_id uuid, org_id uuid, role text, is_active boolean, state text, is_superuser boolean, authz_epoch bigint, auth_time timestamp with time zone, second_factor_at timestamp with time zone, restriction text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT s.user_id, s.org_id, m.role, s.is_active AND s.absolute_expires_at > now(),
           CASE WHEN u.deleted_at IS NULL THEN u.state ELSE 'disabled' END,
           u.is_superuser AND p.auth_time > to_timestamp(0), u.authz_epoch, p.auth_time, s.second_factor_at,
           CASE WHEN o.requires_second_factor AND s.second_factor_at IS NULL THEN 'second_factor'
                WHEN o.password_age_days_max > 0 AND u.password_hash IS NOT NULL
                     AND u.password_changed_at < now() - make_interval(days => o.password_age_days_max)
                THEN 'password_expired' ELSE '' END
      FROM identity.sessions s
      JOIN identity.users u ON u.id = s.user_id
      JOIN identity.memberships m ON m.user_id = s.user_id AND m.org_id = s.org_id
      JOIN identity.organisations o ON o.id = s.org_id AND o.deleted_at IS NULL
     -- Who became an operator since has proved nothing as one.
     CROSS JOIN LATERAL (SELECT CASE WHEN u.is_superuser AND s.auth_time <= u.superuser_at
                                     THEN to_timestamp(0) ELSE s.auth_time END AS auth_time) p
     WHERE s.id = session_state.session_id
$$;

ALTER FUNCTION identity.session_state(session_id uuid) OWNER TO chimera_lookup;

CREATE FUNCTION identity.set_superuser(target uuid, value boolean) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    -- Of two operators that take it from each other, one stays.
    PERFORM pg_advisory_xact_lock(hashtext('identity.set_superuser'));
    UPDATE identity.users u
       SET is_superuser = value, authz_epoch = u.authz_epoch + 1,
           superuser_at = CASE WHEN value AND NOT u.is_superuser THEN clock_timestamp() ELSE u.superuser_at END
     -- Taken from who is deleted as well: accounts come back.
     WHERE u.id = target AND (u.deleted_at IS NULL OR NOT value)
       AND EXISTS (SELECT FROM identity.users a
                    WHERE a.id = NULLIF(current_setting('app.user_id', true), '')::uuid
                      AND a.is_superuser AND a.state = 'active' AND a.deleted_at IS NULL)
       AND (value OR EXISTS (SELECT FROM identity.users o
                              WHERE o.id <> target AND o.is_superuser AND o.state = 'active'
                                AND o.deleted_at IS NULL AND o.erase_at IS NULL));
    RETURN FOUND;
END $$;

ALTER FUNCTION identity.set_superuser(target uuid, value boolean) OWNER TO chimera_owner;

CREATE FUNCTION identity.sign_in_provider(provider_id uuid) RETURNS TABLE(id uuid, org_id uuid, name text, kind text, issuer text, client_id text, sealed jsonb, row_version integer, redirect_uris text[], new_user_role text, email_domains text[], second_factor_amr text[], second_factor_acr text[])
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT p.id, p.org_id, p.name, p.kind, p.issuer, p.client_id, p.sealed, p.row_version, p.redirect_uris,
           p.new_user_role, p.email_domains, p.second_factor_amr, p.second_factor_acr
      FROM identity.sign_in_providers p
      JOIN identity.organisations o ON o.id = p.org_id AND o.deleted_at IS NULL
     WHERE p.id = sign_in_provider.provider_id AND p.is_enabled AND p.deleted_at IS NULL
$$;

ALTER FUNCTION identity.sign_in_provider(provider_id uuid) OWNER TO chimera_lookup;

CREATE FUNCTION identity.signed_in_at(session_id uuid) RETURNS timestamp with time zone
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT s.signed_in_at FROM identity.sessions s WHERE s.id = signed_in_at.session_id
$$;

ALTER FUNCTION identity.signed_in_at(session_id uuid) OWNER TO chimera_lookup;

CREATE FUNCTION identity.sole_admin_of() RETURNS text[]
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT coalesce(array_agg(o.name ORDER BY o.name), '{}')
      FROM identity.memberships m JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
     WHERE m.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid AND m.role = 'admin'
       AND EXISTS (SELECT FROM identity.memberships x JOIN identity.users u ON u.id = x.user_id
                    WHERE x.org_id = m.org_id AND x.user_id <> m.user_id
                      AND u.deleted_at IS NULL AND u.state = 'active' AND u.erase_at IS NULL)
       AND NOT EXISTS (SELECT FROM identity.memberships x JOIN identity.users u ON u.id = x.user_id
                        WHERE x.org_id = m.org_id AND x.user_id <> m.user_id AND x.role = 'admin'
                          AND u.deleted_at IS NULL AND u.state = 'active' AND u.erase_at IS NULL)
$$;

ALTER FUNCTION identity.sole_admin_of() OWNER TO chimera_lookup;

CREATE FUNCTION ops.hold_key_version() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    wanted int;
    stored jsonb := to_jsonb(NEW);
BEGIN
    FOR i IN 0 .. TG_NARGS - 1 LOOP
        wanted := (stored->TG_ARGV[i]->>'kek_version')::int;
        CONTINUE WHEN wanted IS NULL;
        PERFORM pg_advisory_xact_lock_shared(hashtext('ops.master_keys'), wanted);
        IF EXISTS (SELECT FROM ops.master_keys WHERE version = wanted AND state IN ('disabled', 'destroyed')) THEN
            RAISE EXCEPTION 'master key version % is retired', wanted USING ERRCODE = 'check_violation',
                CONSTRAINT = 'master_key_retired';
        END IF;
    END LOOP;
    RETURN NEW;
END $$;

ALTER FUNCTION ops.hold_key_version() OWNER TO chimera_owner;

CREATE FUNCTION ops.make_partitions(OUT made integer, OUT refused text[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    parent record;
    unit text;
    start timestamptz;
    stop timestamptz;
    child text;
BEGIN
    made := 0;
    refused := '{}';
    PERFORM pg_advisory_xact_lock(hashtext('ops.make_partitions'));
    FOR parent IN SELECT * FROM ops.partitioned ORDER BY table_name LOOP
        unit := CASE WHEN parent.step >= interval '1 month' THEN 'month' ELSE 'day' END;
        FOR i IN 0..2 LOOP
            start := date_trunc(unit, now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
            start := ((start AT TIME ZONE 'UTC') + i * parent.step) AT TIME ZONE 'UTC';
            stop := ((start AT TIME ZONE 'UTC') + parent.step) AT TIME ZONE 'UTC';
            child := parent.table_name || to_char(start AT TIME ZONE 'UTC',
                CASE unit WHEN 'month' THEN '_YYYYMM' ELSE '_YYYYMMDD' END);
            CONTINUE WHEN to_regclass(child) IS NOT NULL;
            BEGIN
                EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
                               child, parent.table_name, ops.uuid_floor(start), ops.uuid_floor(stop));
            EXCEPTION WHEN check_violation THEN
                refused := refused || child;
                CONTINUE;
            END;
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', child);
            EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', child);
            IF parent.table_name = 'audit.events' THEN
                EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON %s
                    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse()', child);
                EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER no_truncate', child);
            END IF;
            made := made + 1;
        END LOOP;
    END LOOP;
END $$;

ALTER FUNCTION ops.make_partitions(OUT made integer, OUT refused text[]) OWNER TO chimera_owner;

CREATE FUNCTION ops.touch() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.updated_at = now();
    RETURN NEW;
END $$;

ALTER FUNCTION ops.touch() OWNER TO chimera_owner;

CREATE FUNCTION ops.uuid_floor(at timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT (lpad(to_hex(GREATEST(floor(extract(epoch FROM at) * 1000), 0)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

ALTER FUNCTION ops.uuid_floor(at timestamp with time zone) OWNER TO chimera_owner;

CREATE FUNCTION providers.count_sealed_keys() RETURNS TABLE(kek_version integer, count bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT (k.sealed->>'kek_version')::int, count(*) FROM providers.provider_keys k
     WHERE k.sealed ? 'kek_version' GROUP BY 1
    $$;

ALTER FUNCTION providers.count_sealed_keys() OWNER TO chimera_lookup;

CREATE FUNCTION providers.find_keys_due(size integer) RETURNS TABLE(id uuid, org_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT k.id, k.org_id FROM providers.provider_keys k
     WHERE k.is_active AND k.rotate_at <= now() AND k.reminded_at IS NULL
     ORDER BY k.rotate_at LIMIT size
    $$;

ALTER FUNCTION providers.find_keys_due(size integer) OWNER TO chimera_lookup;

CREATE FUNCTION providers.find_sealed_keys(newest integer, after_id uuid, size integer) RETURNS TABLE(id uuid, org_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT k.id, k.org_id FROM providers.provider_keys k
     WHERE k.sealed ? 'kek_version' AND (k.sealed->>'kek_version')::int <> newest AND k.id > after_id
     ORDER BY k.id LIMIT size
    $$;

ALTER FUNCTION providers.find_sealed_keys(newest integer, after_id uuid, size integer) OWNER TO chimera_lookup;

CREATE FUNCTION providers.fit_price() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    NEW.valid_until := (SELECT min(p.valid_from) FROM providers.price_versions p
                         WHERE p.model_id = NEW.model_id AND p.valid_from > NEW.valid_from
                           AND NOT isempty(tstzrange(p.valid_from, p.valid_until)));
    UPDATE providers.price_versions p SET valid_until = NEW.valid_from
     WHERE p.model_id = NEW.model_id AND tstzrange(p.valid_from, p.valid_until) @> NEW.valid_from;
    RETURN NEW;
END $$;

ALTER FUNCTION providers.fit_price() OWNER TO chimera_owner;

CREATE FUNCTION providers.held(own text, everywhere text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN 'open' IN (own, everywhere) THEN 'open'
                WHEN 'closed' IN (own, everywhere) THEN 'closed' ELSE '' END
    $$;

ALTER FUNCTION providers.held(own text, everywhere text) OWNER TO chimera_owner;

CREATE FUNCTION providers.host_of(url text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT lower(substring(url FROM '^([^:/]+://(?:\[[^]]*\]|[^:/]*))')) $$;

ALTER FUNCTION providers.host_of(url text) OWNER TO chimera_owner;

CREATE FUNCTION providers.keep_price() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF OLD.valid_until <= transaction_timestamp() OR NEW.valid_until IS NULL
       OR NEW.valid_until < transaction_timestamp() THEN
        RAISE EXCEPTION 'the price of a past time cannot be changed' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'price_versions_past';
    END IF;
    RETURN NEW;
END $$;

ALTER FUNCTION providers.keep_price() OWNER TO chimera_owner;

CREATE FUNCTION providers.note_host() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    SELECT providers.host_of(p.base_url) INTO NEW.stored_for
      FROM providers.providers p WHERE p.id = NEW.provider_id;
    RETURN NEW;
END
$$;

ALTER FUNCTION providers.note_host() OWNER TO chimera_owner;

CREATE FUNCTION providers.owner_of_key(key_id uuid) RETURNS TABLE(email text, display_name text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT u.email, u.display_name FROM providers.provider_keys k JOIN identity.users u ON u.id = k.user_id
     WHERE k.id = key_id AND u.deleted_at IS NULL
       AND k.org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    $$;

ALTER FUNCTION providers.owner_of_key(key_id uuid) OWNER TO chimera_lookup;

CREATE FUNCTION telemetry.backlog(OUT total_bytes bigint, OUT own_bytes bigint, OUT oldest_at timestamp with time zone) RETURNS record
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT coalesce(sum(octet_length(body)), 0),
           coalesce(sum(octet_length(body)) FILTER (
               WHERE org_id = NULLIF(current_setting('app.org_id', true), '')::uuid), 0),
           min(created_at) FILTER (
               WHERE group_failures = 0 OR org_id = NULLIF(current_setting('app.org_id', true), '')::uuid)
      FROM telemetry.batches WHERE state = 'waiting'
    $$;

ALTER FUNCTION telemetry.backlog(OUT total_bytes bigint, OUT own_bytes bigint, OUT oldest_at timestamp with time zone) OWNER TO chimera_owner;

CREATE FUNCTION telemetry.drop_partitions() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '2s'
    AS $$
DECLARE
    keep_from uuid;
    child regclass;
    bound text;
    since uuid;
    until uuid;
    dropped int := 0;
BEGIN
    SELECT ops.uuid_floor(now() - keep) INTO keep_from
      FROM ops.partitioned WHERE table_name = 'telemetry.batches' AND keep IS NOT NULL;
    IF keep_from IS NULL THEN
        RETURN 0;
    END IF;
    FOR child, bound IN
        SELECT c.oid::regclass, pg_get_expr(c.relpartbound, c.oid)
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'telemetry.batches'::regclass
           AND substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([0-9a-f-]{36})''\)')::uuid <= keep_from
         ORDER BY c.relname
    LOOP
        -- By its bounds: the planner leaves out no partition for its tableoid.
        since := substring(bound FROM 'FROM \(''([0-9a-f-]{36})''\)')::uuid;
        until := substring(bound FROM 'TO \(''([0-9a-f-]{36})''\)')::uuid;
        CONTINUE WHEN EXISTS (
            SELECT FROM telemetry.batches b
             WHERE b.batch_id >= since AND b.batch_id < until AND b.state = 'waiting');
        CONTINUE WHEN EXISTS (
            SELECT FROM telemetry.batches b WHERE b.batch_id >= since AND b.batch_id < until
               AND (NOT EXISTS (SELECT FROM telemetry.verified v
                                 WHERE v.org_id = b.org_id AND (b.xid, b.batch_id) <= (v.xid, v.batch_id))
                    OR EXISTS (SELECT FROM telemetry.differing d WHERE d.batch_id = b.batch_id)));
        EXECUTE format('DROP TABLE %s', child);
        dropped := dropped + 1;
    END LOOP;
    -- What fell into the default partition while there was no other.
    DELETE FROM telemetry.batches b
     WHERE b.tableoid = 'telemetry.batches_default'::regclass AND b.batch_id < keep_from AND b.state <> 'waiting'
       AND EXISTS (SELECT FROM telemetry.verified v
                    WHERE v.org_id = b.org_id AND (b.xid, b.batch_id) <= (v.xid, v.batch_id))
       AND NOT EXISTS (SELECT FROM telemetry.differing d WHERE d.batch_id = b.batch_id);
    RETURN dropped;
END $$;

ALTER FUNCTION telemetry.drop_partitions() OWNER TO chimera_owner;

CREATE TABLE campaigns.campaigns (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    name text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    objective text DEFAULT ''::text NOT NULL,
    state text DEFAULT 'draft'::text NOT NULL,
    visibility text DEFAULT 'organisation'::text NOT NULL,
    plan bytea NOT NULL,
    run_id uuid,
    success_rate double precision,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    team_id uuid,
    labels text[] DEFAULT '{}'::text[] NOT NULL,
    CONSTRAINT campaigns_state_check CHECK ((state = ANY (ARRAY['draft'::text, 'scheduled'::text, 'running'::text, 'paused'::text, 'completed'::text, 'failed'::text, 'cancelled'::text, 'archived'::text]))),
    CONSTRAINT campaigns_team_given CHECK (((visibility = 'team'::text) = (team_id IS NOT NULL))),
    CONSTRAINT campaigns_visibility_check CHECK ((visibility = ANY (ARRAY['private'::text, 'team'::text, 'organisation'::text, 'public'::text])))
);

ALTER TABLE ONLY campaigns.campaigns FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.campaigns OWNER TO chimera_owner;

CREATE TABLE campaigns.runs (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    state text DEFAULT 'running'::text NOT NULL,
    state_reason text DEFAULT ''::text NOT NULL,
    cells_total bigint NOT NULL,
    shards_total integer NOT NULL,
    shards_done integer DEFAULT 0 NOT NULL,
    concurrency integer NOT NULL,
    attempts_max integer NOT NULL,
    priority integer DEFAULT 0 NOT NULL,
    served_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    launched_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    api_key_id uuid,
    skipped bigint DEFAULT 0 NOT NULL,
    ran_s double precision DEFAULT 0 NOT NULL,
    running_since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    origins uuid[] DEFAULT '{}'::uuid[] NOT NULL,
    scoring_id uuid,
    CONSTRAINT runs_attempts_max_check CHECK ((attempts_max > 0)),
    CONSTRAINT runs_cells_total_check CHECK ((cells_total > 0)),
    CONSTRAINT runs_check CHECK ((shards_done <= shards_total)),
    CONSTRAINT runs_concurrency_check CHECK ((concurrency > 0)),
    CONSTRAINT runs_shards_total_check CHECK ((shards_total > 0)),
    CONSTRAINT runs_state_check CHECK ((state = ANY (ARRAY['running'::text, 'paused'::text, 'completed'::text, 'failed'::text, 'cancelled'::text])))
)
WITH (fillfactor='70');

ALTER TABLE ONLY campaigns.runs FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.runs OWNER TO chimera_owner;

CREATE TABLE campaigns.tallies (
    run_id uuid NOT NULL,
    slot smallint NOT NULL,
    technique_no integer NOT NULL,
    target_no integer NOT NULL,
    org_id uuid NOT NULL,
    scored bigint NOT NULL,
    successes bigint NOT NULL,
    failed bigint NOT NULL,
    parked bigint NOT NULL,
    skipped bigint NOT NULL,
    latency_ms_sum bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost numeric(20,12) NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.05');

ALTER TABLE ONLY campaigns.tallies FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.tallies OWNER TO chimera_owner;

CREATE TABLE identity.api_keys (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    user_id uuid NOT NULL,
    name text NOT NULL,
    public_id text NOT NULL,
    prefix text NOT NULL,
    secret_hash bytea NOT NULL,
    scopes text[] DEFAULT '{}'::text[] NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    last_used_at timestamp with time zone,
    usage_count bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    source_networks text[] DEFAULT '{}'::text[] NOT NULL,
    last_used_ip inet,
    previous_public_id text,
    previous_secret_hash bytea,
    previous_expires_at timestamp with time zone,
    rotated_at timestamp with time zone,
    CONSTRAINT api_keys_previous CHECK ((num_nonnulls(previous_public_id, previous_secret_hash, previous_expires_at) = ANY (ARRAY[0, 3])))
);

ALTER TABLE ONLY identity.api_keys FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.api_keys OWNER TO chimera_owner;

CREATE TABLE identity.memberships (
    org_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT memberships_role_check CHECK ((role = ANY (ARRAY['auditor'::text, 'admin'::text, 'user'::text, 'viewer'::text])))
);

ALTER TABLE ONLY identity.memberships FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.memberships OWNER TO chimera_owner;

CREATE TABLE identity.sessions (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    user_id uuid NOT NULL,
    device_info jsonb DEFAULT '{}'::jsonb NOT NULL,
    ip_address inet,
    user_agent text DEFAULT ''::text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    ended_reason text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_used_at timestamp with time zone DEFAULT now() NOT NULL,
    absolute_expires_at timestamp with time zone NOT NULL,
    auth_time timestamp with time zone DEFAULT now() NOT NULL,
    second_factor_at timestamp with time zone,
    device_id uuid,
    ended_at timestamp with time zone,
    is_vouched boolean DEFAULT false NOT NULL,
    parent_id uuid,
    signed_in_at timestamp with time zone
);

ALTER TABLE ONLY identity.sessions FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.sessions OWNER TO chimera_owner;

CREATE TABLE templates.ratings (
    org_id uuid NOT NULL,
    template_id uuid NOT NULL,
    version_number integer NOT NULL,
    user_id uuid NOT NULL,
    id uuid NOT NULL,
    owner_org_id uuid NOT NULL,
    rating smallint NOT NULL,
    is_effective boolean,
    review text DEFAULT ''::text NOT NULL,
    campaign_id uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT ratings_rating_check CHECK (((rating >= 1) AND (rating <= 5)))
);

ALTER TABLE ONLY templates.ratings FORCE ROW LEVEL SECURITY;

ALTER TABLE templates.ratings OWNER TO chimera_owner;

CREATE TABLE templates.templates (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    title text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    technique_type text DEFAULT ''::text NOT NULL,
    vulnerability_type text DEFAULT ''::text NOT NULL,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    state text DEFAULT 'draft'::text NOT NULL,
    sharing_level text DEFAULT 'organisation'::text NOT NULL,
    version_number integer DEFAULT 1 NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    team_id uuid,
    forked_from_id uuid,
    forked_from_version_number integer,
    submitted_by uuid,
    import_hash text,
    rating_count integer DEFAULT 0 NOT NULL,
    rating_sum bigint DEFAULT 0 NOT NULL,
    effective_votes integer DEFAULT 0 NOT NULL,
    ineffective_votes integer DEFAULT 0 NOT NULL,
    average_rating double precision GENERATED ALWAYS AS (((rating_sum)::double precision / (NULLIF(rating_count, 0))::double precision)) STORED,
    usage_count integer DEFAULT 0 NOT NULL,
    scored_count bigint DEFAULT 0 NOT NULL,
    success_count bigint DEFAULT 0 NOT NULL,
    success_rate double precision GENERATED ALWAYS AS (((success_count)::double precision / (NULLIF(scored_count, 0))::double precision)) STORED,
    body text DEFAULT ''::text NOT NULL,
    search tsvector DEFAULT ''::tsvector NOT NULL,
    CONSTRAINT templates_sharing_level_check CHECK ((sharing_level = ANY (ARRAY['private'::text, 'team'::text, 'organisation'::text, 'public'::text]))),
    CONSTRAINT templates_state_check CHECK ((state = ANY (ARRAY['draft'::text, 'review'::text, 'published'::text, 'archived'::text]))),
    CONSTRAINT templates_team_given CHECK (((sharing_level = 'team'::text) = (team_id IS NOT NULL)))
);

ALTER TABLE ONLY templates.templates FORCE ROW LEVEL SECURITY;

ALTER TABLE templates.templates OWNER TO chimera_owner;

CREATE MATERIALIZED VIEW telemetry.user_summaries AS
 SELECT m.org_id,
    m.user_id,
    COALESCE(c.campaigns, (0)::bigint) AS campaigns,
    (COALESCE(e.executions, (0)::numeric))::bigint AS executions,
    COALESCE(t.templates, (0)::bigint) AS templates,
    COALESCE(g.ratings, (0)::bigint) AS ratings,
    GREATEST(c.last_at, e.last_at, t.last_at, s.last_at, k.last_at) AS last_activity_at
   FROM ((((((identity.memberships m
     LEFT JOIN ( SELECT campaigns.org_id,
            campaigns.created_by,
            count(*) AS campaigns,
            max(campaigns.created_at) AS last_at
           FROM campaigns.campaigns
          WHERE (campaigns.deleted_at IS NULL)
          GROUP BY campaigns.org_id, campaigns.created_by) c ON (((c.org_id = m.org_id) AND (c.created_by = m.user_id))))
     LEFT JOIN ( SELECT r.org_id,
            r.launched_by,
            sum(n.executions) AS executions,
            max(r.created_at) AS last_at
           FROM (campaigns.runs r
             LEFT JOIN ( SELECT tallies.run_id,
                    sum((((tallies.scored + tallies.failed) + tallies.parked) + tallies.skipped)) AS executions
                   FROM campaigns.tallies
                  GROUP BY tallies.run_id) n ON ((n.run_id = r.id)))
          GROUP BY r.org_id, r.launched_by) e ON (((e.org_id = m.org_id) AND (e.launched_by = m.user_id))))
     LEFT JOIN ( SELECT templates.org_id,
            templates.created_by,
            count(*) AS templates,
            max(templates.created_at) AS last_at
           FROM templates.templates
          WHERE (templates.deleted_at IS NULL)
          GROUP BY templates.org_id, templates.created_by) t ON (((t.org_id = m.org_id) AND (t.created_by = m.user_id))))
     LEFT JOIN ( SELECT ratings.org_id,
            ratings.user_id,
            count(*) AS ratings
           FROM templates.ratings
          GROUP BY ratings.org_id, ratings.user_id) g ON (((g.org_id = m.org_id) AND (g.user_id = m.user_id))))
     LEFT JOIN ( SELECT sessions.org_id,
            sessions.user_id,
            max(sessions.last_used_at) AS last_at
           FROM identity.sessions
          GROUP BY sessions.org_id, sessions.user_id) s ON (((s.org_id = m.org_id) AND (s.user_id = m.user_id))))
     LEFT JOIN ( SELECT api_keys.org_id,
            api_keys.user_id,
            max(api_keys.last_used_at) AS last_at
           FROM identity.api_keys
          GROUP BY api_keys.org_id, api_keys.user_id) k ON (((k.org_id = m.org_id) AND (k.user_id = m.user_id))))
  WITH NO DATA;

ALTER MATERIALIZED VIEW telemetry.user_summaries OWNER TO chimera_summary;

CREATE FUNCTION telemetry.list_user_summaries(asked_user uuid, after_user uuid, size integer) RETURNS SETOF telemetry.user_summaries
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT * FROM telemetry.user_summaries
     WHERE org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
       AND (asked_user IS NULL OR user_id = asked_user)
       AND (after_user IS NULL OR user_id > after_user)
     ORDER BY user_id LIMIT size
    $$;

ALTER FUNCTION telemetry.list_user_summaries(asked_user uuid, after_user uuid, size integer) OWNER TO chimera_summary;

CREATE FUNCTION telemetry.refresh_user_summaries() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    BEGIN
        IF (SELECT relispopulated FROM pg_class WHERE oid = 'telemetry.user_summaries'::regclass) THEN
            REFRESH MATERIALIZED VIEW CONCURRENTLY telemetry.user_summaries;
        ELSE
            REFRESH MATERIALIZED VIEW telemetry.user_summaries;
        END IF;
        INSERT INTO telemetry.refreshes VALUES ('user_summaries', now())
            ON CONFLICT (name) DO UPDATE SET refreshed_at = EXCLUDED.refreshed_at;
    END $$;

ALTER FUNCTION telemetry.refresh_user_summaries() OWNER TO chimera_summary;

CREATE FUNCTION telemetry.visible_campaigns(asked uuid[]) RETURNS uuid[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT coalesce(array_agg(id), '{}') FROM campaigns.campaigns
     WHERE id = ANY(asked) AND org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    $$;

ALTER FUNCTION telemetry.visible_campaigns(asked uuid[]) OWNER TO chimera_owner;

CREATE FUNCTION templates.count_rating() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    it templates.ratings := COALESCE(NEW, OLD);
    number int := (TG_OP <> 'DELETE')::int - (TG_OP <> 'INSERT')::int;
    points int := COALESCE(NEW.rating, 0) - COALESCE(OLD.rating, 0);
    yes int := COALESCE(NEW.is_effective::int, 0) - COALESCE(OLD.is_effective::int, 0);
    no int := COALESCE((NOT NEW.is_effective)::int, 0) - COALESCE((NOT OLD.is_effective)::int, 0);
BEGIN
    UPDATE templates.templates t
       SET rating_count = t.rating_count + number, rating_sum = t.rating_sum + points,
           effective_votes = t.effective_votes + yes, ineffective_votes = t.ineffective_votes + no
     WHERE t.id = it.template_id;
    UPDATE templates.versions v
       SET rating_count = v.rating_count + number, rating_sum = v.rating_sum + points,
           effective_votes = v.effective_votes + yes, ineffective_votes = v.ineffective_votes + no
     WHERE v.template_id = it.template_id AND v.version_number = it.version_number;
    RETURN NULL;
END $$;

ALTER FUNCTION templates.count_rating() OWNER TO chimera_library;

CREATE FUNCTION templates.count_usage() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    scored bigint := NEW.scored_count - COALESCE(OLD.scored_count, 0);
    successes bigint := NEW.success_count - COALESCE(OLD.success_count, 0);
BEGIN
    UPDATE templates.templates t
       SET usage_count = t.usage_count + (TG_OP = 'INSERT')::int,
           scored_count = t.scored_count + scored, success_count = t.success_count + successes
     WHERE t.id = NEW.template_id;
    UPDATE templates.versions v
       SET scored_count = v.scored_count + scored, success_count = v.success_count + successes
     WHERE v.template_id = NEW.template_id AND v.version_number = NEW.version_number;
    RETURN NULL;
END $$;

ALTER FUNCTION templates.count_usage() OWNER TO chimera_library;

CREATE FUNCTION templates.index_text() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    keys text[];
BEGIN
    IF NEW.deleted_at IS NOT NULL THEN
        NEW.search := '';
        RETURN NEW;
    END IF;
    keys := ARRAY[
        templates.key('s', NEW.state), templates.key('k', NEW.technique_type),
        templates.key('v', NEW.vulnerability_type), templates.key('l', NEW.sharing_level),
        templates.key('u', NEW.created_by::text)];
    IF NEW.sharing_level IN ('organisation', 'public') THEN
        keys := keys || templates.key('o', NEW.org_id::text);
    ELSIF NEW.sharing_level = 'team' THEN
        keys := keys || templates.key('t', NEW.team_id::text);
    END IF;
    IF NEW.sharing_level = 'public' AND NEW.state = 'published' THEN
        keys := keys || templates.key('p', '');
    END IF;
    keys := keys || ARRAY(SELECT templates.key('#', tag) FROM unnest(NEW.tags) AS tag);
    -- A tsvector ends at 1 MB and 16,383 positions; what a text says is in its first 50,000 characters.
    NEW.search := setweight(to_tsvector('english', NEW.title), 'A')
        || setweight(to_tsvector('english', array_to_string(NEW.tags, ' ')), 'B')
        || setweight(to_tsvector('english', NEW.description), 'C')
        || setweight(to_tsvector('english', left(NEW.body, 50000)), 'D')
        || array_to_tsvector(keys);
    RETURN NEW;
END $$;

ALTER FUNCTION templates.index_text() OWNER TO chimera_owner;

CREATE FUNCTION templates.key(kind text, value text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT chr(1) || kind || md5(value) $$;

ALTER FUNCTION templates.key(kind text, value text) OWNER TO chimera_owner;

CREATE FUNCTION templates.own_shares(permissions text[]) RETURNS uuid[]
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT coalesce(array_agg(s.template_id), '{}')
      FROM templates.shares s
     WHERE s.org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
       AND (s.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
            OR s.team_id = ANY ((SELECT identity.own_teams())::uuid[]))
       AND s.permission = ANY (permissions)
       AND (s.expires_at IS NULL OR s.expires_at > now())
    $$;

ALTER FUNCTION templates.own_shares(permissions text[]) OWNER TO chimera_library;

CREATE FUNCTION templates.pinned_rows(dataset_id uuid, version_number integer, row_nos integer[]) RETURNS TABLE(row_no integer, fields json)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT r.row_no, r.fields FROM templates.dataset_rows r
     WHERE r.org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
       AND r.dataset_id = pinned_rows.dataset_id AND r.version_number = pinned_rows.version_number
       AND r.row_no = ANY (pinned_rows.row_nos)
    $$;

ALTER FUNCTION templates.pinned_rows(dataset_id uuid, version_number integer, row_nos integer[]) OWNER TO chimera_library;

CREATE FUNCTION templates.search(words text, prefixes text[], keys text[], after_rank double precision, after_id uuid, page integer, bound integer, with_facets boolean) RETURNS TABLE(total integer, ids uuid[], ranks double precision[], titles text[], snippets text[], facets jsonb)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_custom_plan'
    SET work_mem TO '32MB'
    SET jit TO 'off'
    AS $$
DECLARE
    org uuid := NULLIF(current_setting('app.org_id', true), '')::uuid;
    me uuid := NULLIF(current_setting('app.user_id', true), '')::uuid;
    teams uuid[] := identity.own_teams();
    shared uuid[] := templates.own_shares(ARRAY['view', 'edit', 'admin']);
    said tsquery := websearch_to_tsquery('english', words);
    asked tsquery;
    audience tsquery;
    part text;
    beginning tsquery;
    marks text := 'StartSel=' || chr(2) || ', StopSel=' || chr(3);
BEGIN
    IF org IS NULL THEN
        RETURN;
    END IF;
    FOREACH part IN ARRAY prefixes LOOP
        -- Stems are looked for as well as what was typed: a stem may be shorter than its beginning.
        beginning := to_tsquery('simple', '''' || ltrim(part, '-') || ''':*')
                     || to_tsquery('english', '''' || ltrim(part, '-') || ''':*');
        said := said && CASE WHEN starts_with(part, '-') THEN !! beginning ELSE beginning END;
    END LOOP;
    asked := said;
    FOREACH part IN ARRAY keys LOOP
        asked := asked && quote_literal(part)::tsquery;
    END LOOP;
    audience := quote_literal(templates.key('o', org::text))::tsquery || quote_literal(templates.key('p', ''))::tsquery
                || quote_literal(templates.key('u', COALESCE(me::text, '')))::tsquery;
    FOREACH part IN ARRAY teams::text[] LOOP
        audience := audience || quote_literal(templates.key('t', part))::tsquery;
    END LOOP;
    RETURN QUERY
    WITH near AS MATERIALIZED (
        SELECT t.id, t.state, t.technique_type, t.vulnerability_type, t.sharing_level, t.tags,
               ts_rank('{0.1, 0.2, 0.4, 1.0}', t.search, said, 1)::float8 AS rank
          FROM templates.templates t
         WHERE numnode(said) > 0 AND t.search @@ (audience && asked)
           AND ((t.org_id = org
                 AND (t.created_by = me OR t.sharing_level IN ('organisation', 'public')
                      OR (t.sharing_level = 'team' AND t.team_id = ANY (teams))))
                OR (t.sharing_level = 'public' AND t.state = 'published'))
         LIMIT bound + 1
    ), newest AS MATERIALIZED (
        SELECT t.id, t.state, t.technique_type, t.vulnerability_type, t.sharing_level, t.tags, 0::float8 AS rank
          FROM templates.templates t
         WHERE numnode(said) = 0 AND t.search @@ (audience && asked)
           AND ((t.org_id = org
                 AND (t.created_by = me OR t.sharing_level IN ('organisation', 'public')
                      OR (t.sharing_level = 'team' AND t.team_id = ANY (teams))))
                OR (t.sharing_level = 'public' AND t.state = 'published'))
         ORDER BY t.id DESC LIMIT bound + 1
    ), handed AS MATERIALIZED (
        SELECT t.id, t.state, t.technique_type, t.vulnerability_type, t.sharing_level, t.tags,
               CASE WHEN numnode(said) > 0 THEN ts_rank('{0.1, 0.2, 0.4, 1.0}', t.search, said, 1)::float8
                    ELSE 0 END AS rank
          FROM templates.templates t
         WHERE t.id = ANY (shared) AND t.org_id = org AND t.deleted_at IS NULL
           AND (numnode(asked) = 0 OR t.search @@ asked)
         LIMIT bound + 1
    ), found AS MATERIALIZED (
        (SELECT * FROM near UNION ALL SELECT * FROM newest
         UNION ALL
         SELECT h.* FROM handed h
          WHERE NOT EXISTS (SELECT FROM near n WHERE n.id = h.id)
            AND NOT EXISTS (SELECT FROM newest n WHERE n.id = h.id))
        LIMIT bound + 1
    ), paged AS (
        SELECT f.id, f.rank FROM found f
         WHERE after_id IS NULL OR (f.rank, f.id) < (after_rank, after_id)
         ORDER BY f.rank DESC, f.id DESC
         LIMIT page
    ), shown AS (
        SELECT p.id, p.rank, translate(t.title, chr(2) || chr(3), '') AS title,
               translate(t.description || E'\n' || left(t.body, 20000), chr(2) || chr(3), '') AS content
          FROM paged p JOIN templates.templates t ON t.id = p.id
    )
    SELECT (SELECT count(*)::int FROM found),
           COALESCE(array_agg(s.id ORDER BY s.rank DESC, s.id DESC), '{}'),
           COALESCE(array_agg(s.rank ORDER BY s.rank DESC, s.id DESC), '{}'),
           COALESCE(array_agg(CASE WHEN numnode(said) > 0
                                   THEN ts_headline('english', s.title, said, marks || ', HighlightAll=true')
                                   ELSE s.title END ORDER BY s.rank DESC, s.id DESC), '{}'),
           COALESCE(array_agg(CASE WHEN numnode(said) > 0
                                   THEN ts_headline('english', s.content, said,
                                                    marks || ', MaxFragments=2, MinWords=5, MaxWords=20')
                                   ELSE left(s.content, 200) END ORDER BY s.rank DESC, s.id DESC), '{}'),
           CASE WHEN with_facets THEN (
               SELECT jsonb_build_object(
                   'state', (SELECT jsonb_object_agg(x.v, x.n) FROM
                       (SELECT f.state AS v, count(*) AS n FROM found f GROUP BY 1) x),
                   'sharing_level', (SELECT jsonb_object_agg(x.v, x.n) FROM
                       (SELECT f.sharing_level AS v, count(*) AS n FROM found f GROUP BY 1) x),
                   'technique_type', (SELECT jsonb_object_agg(x.v, x.n) FROM
                       (SELECT f.technique_type AS v, count(*) AS n FROM found f GROUP BY 1
                         ORDER BY 2 DESC, 1 LIMIT 50) x),
                   'vulnerability_type', (SELECT jsonb_object_agg(x.v, x.n) FROM
                       (SELECT f.vulnerability_type AS v, count(*) AS n FROM found f GROUP BY 1
                         ORDER BY 2 DESC, 1 LIMIT 50) x),
                   'tag', (SELECT jsonb_object_agg(x.v, x.n) FROM
                       (SELECT u.tag AS v, count(*) AS n FROM found f CROSS JOIN unnest(f.tags) AS u (tag) GROUP BY 1
                         ORDER BY 2 DESC, 1 LIMIT 50) x))
           ) END
      FROM shown s;
END $$;

ALTER FUNCTION templates.search(words text, prefixes text[], keys text[], after_rank double precision, after_id uuid, page integer, bound integer, with_facets boolean) OWNER TO chimera_library;

CREATE TABLE accounting.alerts (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    budget_id uuid NOT NULL,
    scope_kind text NOT NULL,
    scope_id uuid NOT NULL,
    period text NOT NULL,
    window_start date NOT NULL,
    alert_type text NOT NULL,
    threshold_percentage integer NOT NULL,
    user_id uuid,
    requests_settled bigint NOT NULL,
    requests_max bigint,
    cost_settled numeric(20,12) NOT NULL,
    cost_max numeric(20,12),
    triggered_at timestamp with time zone DEFAULT now() NOT NULL,
    announced_at timestamp with time zone,
    acknowledged boolean DEFAULT false NOT NULL,
    acknowledged_at timestamp with time zone,
    acknowledged_by uuid,
    note text DEFAULT ''::text NOT NULL,
    CONSTRAINT alerts_alert_type_check CHECK ((alert_type = ANY (ARRAY['daily_80'::text, 'daily_90'::text, 'daily_100'::text, 'monthly_80'::text, 'monthly_90'::text, 'monthly_100'::text])))
);

ALTER TABLE ONLY accounting.alerts FORCE ROW LEVEL SECURITY;

ALTER TABLE accounting.alerts OWNER TO chimera_owner;

CREATE TABLE accounting.budgets (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    scope_kind text NOT NULL,
    scope_id uuid NOT NULL,
    period text NOT NULL,
    requests_max bigint,
    cost_max numeric(20,12),
    own_requests_max bigint,
    own_cost_max numeric(20,12),
    owner_id uuid,
    set_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT budgets_check CHECK ((num_nonnulls(requests_max, cost_max, own_requests_max, own_cost_max) > 0)),
    CONSTRAINT budgets_cost_max_check CHECK ((cost_max >= (0)::numeric)),
    CONSTRAINT budgets_own_cost_max_check CHECK ((own_cost_max >= (0)::numeric)),
    CONSTRAINT budgets_own_requests_max_check CHECK ((own_requests_max >= 0)),
    CONSTRAINT budgets_period_check CHECK ((period = ANY (ARRAY['daily'::text, 'monthly'::text]))),
    CONSTRAINT budgets_requests_max_check CHECK ((requests_max >= 0)),
    CONSTRAINT budgets_scope_kind_check CHECK ((scope_kind = ANY (ARRAY['organisation'::text, 'user'::text, 'api_key'::text, 'provider_key'::text, 'campaign'::text])))
);

ALTER TABLE ONLY accounting.budgets FORCE ROW LEVEL SECURITY;

ALTER TABLE accounting.budgets OWNER TO chimera_owner;

CREATE TABLE accounting.deliveries (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    event_id uuid NOT NULL,
    event_type text NOT NULL,
    body text NOT NULL,
    state text DEFAULT 'waiting'::text NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    tries_max integer DEFAULT 10 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    CONSTRAINT deliveries_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'delivered'::text, 'failed'::text])))
);

ALTER TABLE ONLY accounting.deliveries FORCE ROW LEVEL SECURITY;

ALTER TABLE accounting.deliveries OWNER TO chimera_owner;

CREATE TABLE accounting.delivery_tries (
    delivery_id uuid NOT NULL,
    try_no integer NOT NULL,
    org_id uuid NOT NULL,
    response_class text NOT NULL,
    http_status integer,
    latency_ms integer NOT NULL,
    tried_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT delivery_tries_response_class_check CHECK ((response_class = ANY (ARRAY['success'::text, 'redirect'::text, 'client_error'::text, 'server_error'::text, 'timeout'::text, 'unreachable'::text, 'refused_address'::text])))
);

ALTER TABLE ONLY accounting.delivery_tries FORCE ROW LEVEL SECURITY;

ALTER TABLE accounting.delivery_tries OWNER TO chimera_owner;

CREATE TABLE accounting.usage_daily (
    org_id uuid NOT NULL,
    day date NOT NULL,
    run_id uuid NOT NULL,
    user_id uuid NOT NULL,
    model_id uuid NOT NULL,
    provider_key_id uuid NOT NULL,
    technique_no integer NOT NULL,
    requests bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost numeric(20,12) NOT NULL,
    discarded_cost numeric(20,12) NOT NULL
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.05');

ALTER TABLE ONLY accounting.usage_daily FORCE ROW LEVEL SECURITY;

ALTER TABLE accounting.usage_daily OWNER TO chimera_owner;

CREATE TABLE accounting.usage_mark (
    id boolean DEFAULT true NOT NULL,
    upto xid8 NOT NULL,
    moved_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT usage_mark_id_check CHECK (id)
);

ALTER TABLE accounting.usage_mark OWNER TO chimera_owner;

CREATE TABLE accounting.waits (
    run_id uuid NOT NULL,
    org_id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    scope_kind text NOT NULL,
    scope_id uuid NOT NULL,
    period text NOT NULL,
    window_start date NOT NULL,
    cost numeric(20,12) NOT NULL,
    until timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    other_models uuid[] DEFAULT '{}'::uuid[] NOT NULL,
    other_keys uuid[] DEFAULT '{}'::uuid[] NOT NULL
);

ALTER TABLE ONLY accounting.waits FORCE ROW LEVEL SECURITY;

ALTER TABLE accounting.waits OWNER TO chimera_owner;

CREATE TABLE accounting.webhooks (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    url text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    event_types text[] DEFAULT '{}'::text[] NOT NULL,
    sealed jsonb NOT NULL,
    row_version integer DEFAULT 1 NOT NULL,
    previous_sealed jsonb,
    previous_row_version integer,
    previous_expires_at timestamp with time zone,
    is_active boolean DEFAULT true NOT NULL,
    disabled_reason text DEFAULT ''::text NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    failing_since timestamp with time zone,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone
);

ALTER TABLE ONLY accounting.webhooks FORCE ROW LEVEL SECURITY;

ALTER TABLE accounting.webhooks OWNER TO chimera_owner;

CREATE TABLE accounting.windows (
    scope_kind text NOT NULL,
    scope_id uuid NOT NULL,
    period text NOT NULL,
    window_start date NOT NULL,
    org_id uuid NOT NULL,
    requests_max bigint,
    cost_max numeric(20,12),
    requests_settled bigint DEFAULT 0 NOT NULL,
    requests_held bigint DEFAULT 0 NOT NULL,
    cost_settled numeric(20,12) DEFAULT 0 NOT NULL,
    cost_held numeric(20,12) DEFAULT 0 NOT NULL,
    alerted smallint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.05');

ALTER TABLE ONLY accounting.windows FORCE ROW LEVEL SECURITY;

ALTER TABLE accounting.windows OWNER TO chimera_owner;

CREATE TABLE audit.checkpoints (
    size bigint NOT NULL,
    root bytea NOT NULL,
    note text NOT NULL,
    verifier_key text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT checkpoints_root_check CHECK ((length(root) = 32))
);

ALTER TABLE audit.checkpoints OWNER TO chimera_owner;

CREATE TABLE audit.configuration (
    org_id uuid NOT NULL,
    key text NOT NULL,
    value jsonb NOT NULL,
    version bigint NOT NULL,
    change_id uuid NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY audit.configuration FORCE ROW LEVEL SECURITY;

ALTER TABLE audit.configuration OWNER TO chimera_owner;

CREATE TABLE audit.configuration_changes (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    key text NOT NULL,
    old_value jsonb,
    new_value jsonb NOT NULL,
    base_version bigint NOT NULL,
    reason text NOT NULL,
    requires_approval boolean NOT NULL,
    state text NOT NULL,
    changed_by uuid NOT NULL,
    decided_by uuid,
    decision_reason text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    decided_at timestamp with time zone,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT changes_four_eyes CHECK (((NOT requires_approval) OR (state <> ALL (ARRAY['applied'::text, 'rejected'::text])) OR (decided_by <> changed_by))),
    CONSTRAINT configuration_changes_reason_check CHECK ((reason <> ''::text)),
    CONSTRAINT configuration_changes_state_check CHECK ((state = ANY (ARRAY['proposed'::text, 'applied'::text, 'rejected'::text, 'withdrawn'::text, 'expired'::text])))
);

ALTER TABLE ONLY audit.configuration_changes FORCE ROW LEVEL SECURITY;

ALTER TABLE audit.configuration_changes OWNER TO chimera_owner;

CREATE TABLE audit.cosignatures (
    size bigint NOT NULL,
    verifier_key text NOT NULL,
    line text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE audit.cosignatures OWNER TO chimera_owner;

CREATE TABLE audit.daily (
    org_id uuid,
    day date NOT NULL,
    action text NOT NULL,
    severity text NOT NULL,
    outcome text NOT NULL,
    actor_id uuid,
    events bigint NOT NULL
)
WITH (fillfactor='70');

ALTER TABLE ONLY audit.daily FORCE ROW LEVEL SECURITY;

ALTER TABLE audit.daily OWNER TO chimera_owner;

CREATE TABLE audit.drops (
    partition_name text NOT NULL,
    first_index bigint NOT NULL,
    last_index bigint NOT NULL,
    events bigint NOT NULL,
    state text NOT NULL,
    archive_first bigint NOT NULL,
    archive_size bigint NOT NULL,
    archive_file text NOT NULL,
    archive_sha256 bytea NOT NULL,
    event_id uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    dropped_at timestamp with time zone,
    CONSTRAINT drops_state_check CHECK ((state = ANY (ARRAY['archived'::text, 'recorded'::text, 'dropped'::text])))
);

ALTER TABLE audit.drops OWNER TO chimera_owner;

CREATE TABLE audit.erasures (
    id uuid NOT NULL,
    subject_id uuid NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    events bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    done_at timestamp with time zone,
    archives_through text DEFAULT ''::text NOT NULL,
    CONSTRAINT erasures_state_check CHECK ((state = ANY (ARRAY['open'::text, 'done'::text])))
);

ALTER TABLE audit.erasures OWNER TO chimera_owner;

CREATE TABLE audit.events_default (
    id uuid CONSTRAINT events_id_not_null NOT NULL,
    log_index bigint CONSTRAINT events_log_index_not_null NOT NULL,
    org_id uuid,
    occurred_at timestamp with time zone CONSTRAINT events_occurred_at_not_null NOT NULL,
    actor_kind text CONSTRAINT events_actor_kind_not_null NOT NULL,
    actor_id uuid,
    action text CONSTRAINT events_action_not_null NOT NULL,
    entity text CONSTRAINT events_entity_not_null NOT NULL,
    entity_id text CONSTRAINT events_entity_id_not_null NOT NULL,
    outcome text CONSTRAINT events_outcome_not_null NOT NULL,
    severity text CONSTRAINT events_severity_not_null NOT NULL,
    facts jsonb CONSTRAINT events_facts_not_null NOT NULL,
    fields jsonb CONSTRAINT events_fields_not_null NOT NULL,
    leaf bytea CONSTRAINT events_leaf_not_null NOT NULL,
    leaf_hash bytea CONSTRAINT events_leaf_hash_not_null NOT NULL,
    previous_hash bytea CONSTRAINT events_previous_hash_not_null NOT NULL
);

ALTER TABLE ONLY audit.events_default FORCE ROW LEVEL SECURITY;

ALTER TABLE audit.events_default OWNER TO chimera_owner;

CREATE TABLE audit.findings (
    id uuid NOT NULL,
    org_id uuid,
    rule text NOT NULL,
    severity text NOT NULL,
    subject text NOT NULL,
    summary text NOT NULL,
    events bigint NOT NULL,
    event_id uuid NOT NULL,
    log_index bigint NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    note text DEFAULT ''::text NOT NULL,
    acknowledged_by uuid,
    acknowledged_at timestamp with time zone,
    occurred_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT findings_severity_check CHECK ((severity = ANY (ARRAY['debug'::text, 'info'::text, 'notice'::text, 'warning'::text, 'error'::text, 'critical'::text]))),
    CONSTRAINT findings_state_check CHECK ((state = ANY (ARRAY['open'::text, 'acknowledged'::text])))
);

ALTER TABLE ONLY audit.findings FORCE ROW LEVEL SECURITY;

ALTER TABLE audit.findings OWNER TO chimera_owner;

CREATE TABLE audit.key_networks (
    org_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    network text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY audit.key_networks FORCE ROW LEVEL SECURITY;

ALTER TABLE audit.key_networks OWNER TO chimera_owner;

CREATE TABLE audit.leaves (
    log_index bigint NOT NULL,
    event_id uuid NOT NULL,
    leaf_hash bytea NOT NULL,
    CONSTRAINT leaves_leaf_hash_check CHECK ((length(leaf_hash) = 32))
);

ALTER TABLE audit.leaves OWNER TO chimera_owner;

CREATE TABLE audit.legal_holds (
    id uuid NOT NULL,
    org_id uuid,
    name text NOT NULL,
    reason text NOT NULL,
    placed_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    released_by uuid,
    released_at timestamp with time zone,
    release_reason text DEFAULT ''::text NOT NULL,
    CONSTRAINT legal_holds_name_check CHECK ((name <> ''::text))
);

ALTER TABLE ONLY audit.legal_holds FORCE ROW LEVEL SECURITY;

ALTER TABLE audit.legal_holds OWNER TO chimera_owner;

CREATE TABLE audit.log_head (
    the_one boolean DEFAULT true NOT NULL,
    size bigint NOT NULL,
    fence bigint NOT NULL,
    last_hash bytea NOT NULL,
    CONSTRAINT log_head_the_one_check CHECK (the_one)
);

ALTER TABLE audit.log_head OWNER TO chimera_owner;

CREATE TABLE audit.nodes (
    level smallint NOT NULL,
    node_index bigint NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT nodes_hash_check CHECK ((length(hash) = 32)),
    CONSTRAINT nodes_level_check CHECK ((level > 0))
);

ALTER TABLE audit.nodes OWNER TO chimera_owner;

CREATE TABLE audit.pending (
    id uuid NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    org_id uuid,
    occurred_at timestamp with time zone NOT NULL,
    facts jsonb NOT NULL,
    fields jsonb NOT NULL,
    leaf bytea NOT NULL
);

ALTER TABLE ONLY audit.pending FORCE ROW LEVEL SECURITY;

ALTER TABLE audit.pending OWNER TO chimera_owner;

CREATE TABLE audit.restores (
    id uuid NOT NULL,
    state text NOT NULL,
    reason text NOT NULL,
    approvals_needed integer NOT NULL,
    proposed_by uuid NOT NULL,
    approved_by uuid,
    names text[] NOT NULL,
    statement text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    done_at timestamp with time zone,
    CONSTRAINT restores_approvals_needed_check CHECK (((approvals_needed >= 1) AND (approvals_needed <= 2))),
    CONSTRAINT restores_check CHECK ((approved_by <> proposed_by)),
    CONSTRAINT restores_check1 CHECK (((state = 'proposed'::text) OR (approvals_needed = 1) OR (approved_by IS NOT NULL))),
    CONSTRAINT restores_state_check CHECK ((state = ANY (ARRAY['proposed'::text, 'approved'::text, 'done'::text])))
);

ALTER TABLE ONLY audit.restores FORCE ROW LEVEL SECURITY;

ALTER TABLE audit.restores OWNER TO chimera_owner;

CREATE TABLE audit.rule_counts (
    org_id uuid,
    rule text NOT NULL,
    subject text NOT NULL,
    bucket timestamp with time zone NOT NULL,
    events bigint NOT NULL
)
WITH (fillfactor='70');

ALTER TABLE ONLY audit.rule_counts FORCE ROW LEVEL SECURITY;

ALTER TABLE audit.rule_counts OWNER TO chimera_owner;

CREATE VIEW audit.statistics WITH (security_invoker='true') AS
 SELECT org_id,
    day,
    action,
    severity,
    outcome,
    actor_id,
    events,
        CASE
            WHEN (outcome = 'success'::text) THEN (0)::bigint
            ELSE events
        END AS failures
   FROM audit.daily;

ALTER VIEW audit.statistics OWNER TO chimera_owner;

CREATE TABLE audit.watermarks (
    name text NOT NULL,
    log_index bigint NOT NULL
);

ALTER TABLE audit.watermarks OWNER TO chimera_owner;

CREATE TABLE audit.writers (
    writer_id uuid NOT NULL,
    seq bigint NOT NULL
)
WITH (fillfactor='50');

ALTER TABLE audit.writers OWNER TO chimera_owner;

CREATE TABLE campaigns.analysed (
    run_id uuid NOT NULL,
    org_id uuid NOT NULL,
    xid xid8 NOT NULL,
    is_final boolean DEFAULT false NOT NULL
);

ALTER TABLE ONLY campaigns.analysed FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.analysed OWNER TO chimera_owner;

CREATE TABLE campaigns.attempts (
    run_id uuid NOT NULL,
    cell_no bigint NOT NULL,
    attempt_no integer NOT NULL,
    org_id uuid NOT NULL,
    fence bigint NOT NULL,
    state text DEFAULT 'sent'::text NOT NULL,
    alone boolean DEFAULT false NOT NULL,
    worst_cost numeric(20,12) NOT NULL,
    cost numeric(20,12),
    error_kind text,
    error_message text,
    http_status integer,
    latency_ms integer,
    sent_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    settled_at timestamp with time zone,
    model_no integer,
    reserve numeric(20,12) DEFAULT 0 NOT NULL,
    provider_key_id uuid,
    purpose text DEFAULT 'target'::text NOT NULL,
    worst_tokens bigint DEFAULT 0 NOT NULL,
    CONSTRAINT attempts_state_check CHECK ((state = ANY (ARRAY['sent'::text, 'settled'::text, 'unknown'::text])))
)
PARTITION BY RANGE (run_id);

ALTER TABLE ONLY campaigns.attempts FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.attempts OWNER TO chimera_owner;

CREATE TABLE campaigns.attempts_default (
    run_id uuid CONSTRAINT attempts_run_id_not_null NOT NULL,
    cell_no bigint CONSTRAINT attempts_cell_no_not_null NOT NULL,
    attempt_no integer CONSTRAINT attempts_attempt_no_not_null NOT NULL,
    org_id uuid CONSTRAINT attempts_org_id_not_null NOT NULL,
    fence bigint CONSTRAINT attempts_fence_not_null NOT NULL,
    state text DEFAULT 'sent'::text CONSTRAINT attempts_state_not_null NOT NULL,
    alone boolean DEFAULT false CONSTRAINT attempts_alone_not_null NOT NULL,
    worst_cost numeric(20,12) CONSTRAINT attempts_worst_cost_not_null NOT NULL,
    cost numeric(20,12),
    error_kind text,
    error_message text,
    http_status integer,
    latency_ms integer,
    sent_at timestamp with time zone DEFAULT clock_timestamp() CONSTRAINT attempts_sent_at_not_null NOT NULL,
    settled_at timestamp with time zone,
    model_no integer,
    reserve numeric(20,12) DEFAULT 0 CONSTRAINT attempts_reserve_not_null NOT NULL,
    provider_key_id uuid,
    purpose text DEFAULT 'target'::text CONSTRAINT attempts_purpose_not_null NOT NULL,
    worst_tokens bigint DEFAULT 0 CONSTRAINT attempts_worst_tokens_not_null NOT NULL,
    CONSTRAINT attempts_state_check CHECK ((state = ANY (ARRAY['sent'::text, 'settled'::text, 'unknown'::text])))
);

ALTER TABLE ONLY campaigns.attempts_default FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.attempts_default OWNER TO chimera_owner;

CREATE TABLE campaigns.comments (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    run_id uuid,
    cell_no bigint,
    reply_to uuid,
    text text NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    edited_at timestamp with time zone,
    deleted_at timestamp with time zone,
    CONSTRAINT comments_check CHECK (((cell_no IS NULL) OR (run_id IS NOT NULL)))
);

ALTER TABLE ONLY campaigns.comments FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.comments OWNER TO chimera_owner;

CREATE TABLE campaigns.executions (
    run_id uuid NOT NULL,
    cell_no bigint NOT NULL,
    org_id uuid NOT NULL,
    prompt_no bigint NOT NULL,
    technique_no integer NOT NULL,
    target_no integer NOT NULL,
    iteration_number integer NOT NULL,
    state text NOT NULL,
    original_prompt text NOT NULL,
    transformed_prompt text NOT NULL,
    response text NOT NULL,
    response_truncated boolean DEFAULT false NOT NULL,
    is_successful boolean,
    success_score real,
    verdict_reason text DEFAULT ''::text NOT NULL,
    error_kind text DEFAULT ''::text NOT NULL,
    attempts integer NOT NULL,
    latency_ms integer NOT NULL,
    input_tokens integer NOT NULL,
    output_tokens integer NOT NULL,
    cost numeric(20,12) NOT NULL,
    started_at timestamp with time zone NOT NULL,
    recorded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    model_no integer,
    turn_count integer DEFAULT 0 NOT NULL,
    decided_turn_no integer,
    ended_by text DEFAULT ''::text NOT NULL,
    transcript bytea,
    finish_reason text,
    CONSTRAINT executions_state_check CHECK ((state = ANY (ARRAY['succeeded'::text, 'failed'::text, 'parked'::text, 'skipped'::text])))
)
PARTITION BY RANGE (run_id);

ALTER TABLE ONLY campaigns.executions FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.executions OWNER TO chimera_owner;

CREATE TABLE campaigns.executions_default (
    run_id uuid CONSTRAINT executions_run_id_not_null NOT NULL,
    cell_no bigint CONSTRAINT executions_cell_no_not_null NOT NULL,
    org_id uuid CONSTRAINT executions_org_id_not_null NOT NULL,
    prompt_no bigint CONSTRAINT executions_prompt_no_not_null NOT NULL,
    technique_no integer CONSTRAINT executions_technique_no_not_null NOT NULL,
    target_no integer CONSTRAINT executions_target_no_not_null NOT NULL,
    iteration_number integer CONSTRAINT executions_iteration_number_not_null NOT NULL,
    state text CONSTRAINT executions_state_not_null NOT NULL,
    original_prompt text CONSTRAINT executions_original_prompt_not_null NOT NULL,
    transformed_prompt text CONSTRAINT executions_transformed_prompt_not_null NOT NULL,
    response text CONSTRAINT executions_response_not_null NOT NULL,
    response_truncated boolean DEFAULT false CONSTRAINT executions_response_truncated_not_null NOT NULL,
    is_successful boolean,
    success_score real,
    verdict_reason text DEFAULT ''::text CONSTRAINT executions_verdict_reason_not_null NOT NULL,
    error_kind text DEFAULT ''::text CONSTRAINT executions_error_kind_not_null NOT NULL,
    attempts integer CONSTRAINT executions_attempts_not_null NOT NULL,
    latency_ms integer CONSTRAINT executions_latency_ms_not_null NOT NULL,
    input_tokens integer CONSTRAINT executions_input_tokens_not_null NOT NULL,
    output_tokens integer CONSTRAINT executions_output_tokens_not_null NOT NULL,
    cost numeric(20,12) CONSTRAINT executions_cost_not_null NOT NULL,
    started_at timestamp with time zone CONSTRAINT executions_started_at_not_null NOT NULL,
    recorded_at timestamp with time zone DEFAULT clock_timestamp() CONSTRAINT executions_recorded_at_not_null NOT NULL,
    model_no integer,
    turn_count integer DEFAULT 0 CONSTRAINT executions_turn_count_not_null NOT NULL,
    decided_turn_no integer,
    ended_by text DEFAULT ''::text CONSTRAINT executions_ended_by_not_null NOT NULL,
    transcript bytea,
    finish_reason text,
    CONSTRAINT executions_state_check CHECK ((state = ANY (ARRAY['succeeded'::text, 'failed'::text, 'parked'::text, 'skipped'::text])))
);

ALTER TABLE ONLY campaigns.executions_default FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.executions_default OWNER TO chimera_owner;

CREATE TABLE campaigns.flushes (
    run_id uuid NOT NULL,
    id uuid NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    org_id uuid NOT NULL,
    cells bigint[] NOT NULL,
    root bytea NOT NULL,
    recorded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
PARTITION BY RANGE (run_id);

ALTER TABLE ONLY campaigns.flushes FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.flushes OWNER TO chimera_owner;

CREATE TABLE campaigns.flushes_default (
    run_id uuid CONSTRAINT flushes_run_id_not_null NOT NULL,
    id uuid CONSTRAINT flushes_id_not_null NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() CONSTRAINT flushes_xid_not_null NOT NULL,
    org_id uuid CONSTRAINT flushes_org_id_not_null NOT NULL,
    cells bigint[] CONSTRAINT flushes_cells_not_null NOT NULL,
    root bytea CONSTRAINT flushes_root_not_null NOT NULL,
    recorded_at timestamp with time zone DEFAULT clock_timestamp() CONSTRAINT flushes_recorded_at_not_null NOT NULL
);

ALTER TABLE ONLY campaigns.flushes_default FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.flushes_default OWNER TO chimera_owner;

CREATE TABLE campaigns.model_tallies (
    run_id uuid NOT NULL,
    slot smallint NOT NULL,
    model_no integer NOT NULL,
    org_id uuid NOT NULL,
    scored bigint NOT NULL,
    successes bigint NOT NULL,
    failed bigint NOT NULL,
    latency_ms_sum bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost numeric(20,12) NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.05');

ALTER TABLE ONLY campaigns.model_tallies FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.model_tallies OWNER TO chimera_owner;

CREATE TABLE campaigns.overrides (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    run_id uuid NOT NULL,
    cell_no bigint NOT NULL,
    is_successful boolean NOT NULL,
    reason text NOT NULL,
    recorded_is_successful boolean,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    withdrawn_at timestamp with time zone,
    CONSTRAINT overrides_reason_check CHECK ((reason <> ''::text))
);

ALTER TABLE ONLY campaigns.overrides FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.overrides OWNER TO chimera_owner;

CREATE TABLE campaigns.run_money (
    run_id uuid NOT NULL,
    org_id uuid NOT NULL,
    cost_max numeric(20,12),
    settled numeric(20,12) DEFAULT 0 NOT NULL,
    held numeric(20,12) DEFAULT 0 NOT NULL,
    budgeted boolean DEFAULT false NOT NULL,
    executions_max bigint,
    tokens_max bigint,
    wall_time_s bigint,
    error_share_max double precision,
    error_cells_min bigint DEFAULT 20 NOT NULL,
    interval_width_max double precision,
    cells_begun bigint DEFAULT 0 NOT NULL,
    cells_recorded bigint DEFAULT 0 NOT NULL,
    cells_failed bigint DEFAULT 0 NOT NULL,
    cells_successful bigint DEFAULT 0 NOT NULL,
    tokens_settled bigint DEFAULT 0 NOT NULL,
    tokens_held bigint DEFAULT 0 NOT NULL,
    stop_reason text,
    CONSTRAINT run_money_executions_max_check CHECK ((executions_max > 0)),
    CONSTRAINT run_money_stop_reason_check CHECK ((stop_reason = ANY (ARRAY['executions'::text, 'tokens'::text, 'wall_time'::text, 'error_share'::text, 'interval'::text]))),
    CONSTRAINT run_money_tokens_max_check CHECK ((tokens_max > 0)),
    CONSTRAINT run_money_wall_time_s_check CHECK ((wall_time_s > 0))
)
WITH (fillfactor='50');

ALTER TABLE ONLY campaigns.run_money FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.run_money OWNER TO chimera_owner;

CREATE TABLE campaigns.run_plans (
    run_id uuid NOT NULL,
    org_id uuid NOT NULL,
    plan bytea NOT NULL,
    plan_hash text NOT NULL,
    prompt_count bigint NOT NULL,
    technique_names text[] NOT NULL,
    target_names text[] NOT NULL,
    repetitions integer NOT NULL,
    model_ids uuid[] DEFAULT '{}'::uuid[] NOT NULL,
    model_names text[] DEFAULT '{}'::text[] NOT NULL
);

ALTER TABLE ONLY campaigns.run_plans FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.run_plans OWNER TO chimera_owner;

CREATE TABLE campaigns.schedules (
    campaign_id uuid NOT NULL,
    org_id uuid NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    state_reason text DEFAULT ''::text NOT NULL,
    start_at timestamp with time zone,
    cron text,
    time_zone text,
    next_at timestamp with time zone,
    scheduled_by uuid NOT NULL,
    api_key_id uuid,
    launch_count integer DEFAULT 0 NOT NULL,
    last_run_id uuid,
    last_launched_at timestamp with time zone,
    watched_run_id uuid,
    refused_at timestamp with time zone,
    refusal_reason text DEFAULT ''::text NOT NULL,
    refusal_message text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT schedules_check CHECK (((start_at IS NULL) = (cron IS NOT NULL))),
    CONSTRAINT schedules_check1 CHECK (((cron IS NULL) = (time_zone IS NULL))),
    CONSTRAINT schedules_check2 CHECK (((state = 'active'::text) = (next_at IS NOT NULL))),
    CONSTRAINT schedules_state_check CHECK ((state = ANY (ARRAY['active'::text, 'done'::text, 'stopped'::text])))
);

ALTER TABLE ONLY campaigns.schedules FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.schedules OWNER TO chimera_owner;

CREATE TABLE campaigns.scorings (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    run_id uuid NOT NULL,
    name text DEFAULT ''::text NOT NULL,
    state text DEFAULT 'running'::text NOT NULL,
    scorer bytea NOT NULL,
    fingerprint text NOT NULL,
    "position" bigint DEFAULT '-1'::integer NOT NULL,
    answers bigint DEFAULT 0 NOT NULL,
    scored bigint DEFAULT 0 NOT NULL,
    successes bigint DEFAULT 0 NOT NULL,
    errored bigint DEFAULT 0 NOT NULL,
    flipped bigint DEFAULT 0 NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    answers_total bigint,
    CONSTRAINT scorings_state_check CHECK ((state = ANY (ARRAY['running'::text, 'completed'::text, 'cancelled'::text])))
);

ALTER TABLE ONLY campaigns.scorings FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.scorings OWNER TO chimera_owner;

CREATE TABLE campaigns.seats (
    run_id uuid NOT NULL,
    seat_no integer NOT NULL,
    org_id uuid NOT NULL,
    purpose text NOT NULL,
    target_name text NOT NULL,
    cost_max numeric(20,12),
    settled numeric(20,12) DEFAULT 0 NOT NULL,
    held numeric(20,12) DEFAULT 0 NOT NULL,
    calls bigint DEFAULT 0 NOT NULL,
    input_tokens bigint DEFAULT 0 NOT NULL,
    output_tokens bigint DEFAULT 0 NOT NULL,
    CONSTRAINT seats_purpose_check CHECK ((purpose = ANY (ARRAY['attacker'::text, 'judge'::text])))
)
WITH (fillfactor='50');

ALTER TABLE ONLY campaigns.seats FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.seats OWNER TO chimera_owner;

CREATE TABLE campaigns.shards (
    run_id uuid NOT NULL,
    shard_no integer NOT NULL,
    org_id uuid NOT NULL,
    first_cell bigint NOT NULL,
    cells bigint NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    owner text DEFAULT ''::text NOT NULL,
    fence bigint DEFAULT 0 NOT NULL,
    lease_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    wanted bigint[],
    CONSTRAINT shards_cells_check CHECK ((cells > 0)),
    CONSTRAINT shards_state_check CHECK ((state = ANY (ARRAY['open'::text, 'done'::text])))
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.05');

ALTER TABLE ONLY campaigns.shards FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.shards OWNER TO chimera_owner;

CREATE TABLE campaigns.shares (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    user_id uuid,
    team_id uuid,
    permission text NOT NULL,
    shared_by uuid NOT NULL,
    shared_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    CONSTRAINT shares_check CHECK (((user_id IS NULL) <> (team_id IS NULL))),
    CONSTRAINT shares_permission_check CHECK ((permission = ANY (ARRAY['view'::text, 'comment'::text, 'edit'::text, 'execute'::text, 'admin'::text])))
);

ALTER TABLE ONLY campaigns.shares FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.shares OWNER TO chimera_owner;

CREATE TABLE campaigns.technique_suite_versions (
    org_id uuid NOT NULL,
    suite_id uuid NOT NULL,
    version_number integer NOT NULL,
    chains bytea NOT NULL,
    chain_count integer NOT NULL,
    content_hash text NOT NULL,
    change_note text DEFAULT ''::text NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT technique_suite_versions_chain_count_check CHECK ((chain_count > 0)),
    CONSTRAINT technique_suite_versions_version_number_check CHECK ((version_number > 0))
);

ALTER TABLE ONLY campaigns.technique_suite_versions FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.technique_suite_versions OWNER TO chimera_owner;

CREATE TABLE campaigns.technique_suites (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    name text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    version_number integer DEFAULT 0 NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    CONSTRAINT technique_suites_name_check CHECK (((length(name) >= 1) AND (length(name) <= 64)))
);

ALTER TABLE ONLY campaigns.technique_suites FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.technique_suites OWNER TO chimera_owner;

CREATE TABLE campaigns.turns (
    run_id uuid NOT NULL,
    cell_no bigint NOT NULL,
    turn_no integer NOT NULL,
    org_id uuid NOT NULL,
    purpose text NOT NULL,
    model_no integer NOT NULL,
    attempt_no integer NOT NULL,
    request text NOT NULL,
    reply text NOT NULL,
    reply_truncated boolean DEFAULT false NOT NULL,
    finish_reason text DEFAULT ''::text NOT NULL,
    message text,
    marks jsonb,
    is_successful boolean,
    success_score double precision,
    verdict_reason text DEFAULT ''::text NOT NULL,
    error_kind text DEFAULT ''::text NOT NULL,
    input_tokens integer NOT NULL,
    output_tokens integer NOT NULL,
    cost numeric(20,12) NOT NULL,
    latency_ms integer NOT NULL,
    started_at timestamp with time zone NOT NULL,
    recorded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT turns_purpose_check CHECK ((purpose = ANY (ARRAY['target'::text, 'attacker'::text, 'judge'::text]))),
    CONSTRAINT turns_turn_no_check CHECK ((turn_no > 0))
)
PARTITION BY RANGE (run_id);

ALTER TABLE ONLY campaigns.turns FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.turns OWNER TO chimera_owner;

CREATE TABLE campaigns.turns_default (
    run_id uuid CONSTRAINT turns_run_id_not_null NOT NULL,
    cell_no bigint CONSTRAINT turns_cell_no_not_null NOT NULL,
    turn_no integer CONSTRAINT turns_turn_no_not_null NOT NULL,
    org_id uuid CONSTRAINT turns_org_id_not_null NOT NULL,
    purpose text CONSTRAINT turns_purpose_not_null NOT NULL,
    model_no integer CONSTRAINT turns_model_no_not_null NOT NULL,
    attempt_no integer CONSTRAINT turns_attempt_no_not_null NOT NULL,
    request text CONSTRAINT turns_request_not_null NOT NULL,
    reply text CONSTRAINT turns_reply_not_null NOT NULL,
    reply_truncated boolean DEFAULT false CONSTRAINT turns_reply_truncated_not_null NOT NULL,
    finish_reason text DEFAULT ''::text CONSTRAINT turns_finish_reason_not_null NOT NULL,
    message text,
    marks jsonb,
    is_successful boolean,
    success_score double precision,
    verdict_reason text DEFAULT ''::text CONSTRAINT turns_verdict_reason_not_null NOT NULL,
    error_kind text DEFAULT ''::text CONSTRAINT turns_error_kind_not_null NOT NULL,
    input_tokens integer CONSTRAINT turns_input_tokens_not_null NOT NULL,
    output_tokens integer CONSTRAINT turns_output_tokens_not_null NOT NULL,
    cost numeric(20,12) CONSTRAINT turns_cost_not_null NOT NULL,
    latency_ms integer CONSTRAINT turns_latency_ms_not_null NOT NULL,
    started_at timestamp with time zone CONSTRAINT turns_started_at_not_null NOT NULL,
    recorded_at timestamp with time zone DEFAULT clock_timestamp() CONSTRAINT turns_recorded_at_not_null NOT NULL,
    CONSTRAINT turns_purpose_check CHECK ((purpose = ANY (ARRAY['target'::text, 'attacker'::text, 'judge'::text]))),
    CONSTRAINT turns_turn_no_check CHECK ((turn_no > 0))
);

ALTER TABLE ONLY campaigns.turns_default FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.turns_default OWNER TO chimera_owner;

CREATE TABLE campaigns.verdicts (
    scoring_id uuid NOT NULL,
    cell_no bigint NOT NULL,
    org_id uuid NOT NULL,
    is_successful boolean,
    success_score real,
    reason text DEFAULT ''::text NOT NULL,
    recorded_is_successful boolean
)
PARTITION BY RANGE (scoring_id);

ALTER TABLE ONLY campaigns.verdicts FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.verdicts OWNER TO chimera_owner;

CREATE TABLE campaigns.verdicts_default (
    scoring_id uuid CONSTRAINT verdicts_scoring_id_not_null NOT NULL,
    cell_no bigint CONSTRAINT verdicts_cell_no_not_null NOT NULL,
    org_id uuid CONSTRAINT verdicts_org_id_not_null NOT NULL,
    is_successful boolean,
    success_score real,
    reason text DEFAULT ''::text CONSTRAINT verdicts_reason_not_null NOT NULL,
    recorded_is_successful boolean
);

ALTER TABLE ONLY campaigns.verdicts_default FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.verdicts_default OWNER TO chimera_owner;

CREATE TABLE campaigns.windows (
    campaign_id uuid NOT NULL,
    window_start timestamp with time zone NOT NULL,
    technique text NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    org_id uuid NOT NULL,
    results bigint NOT NULL,
    attempts bigint NOT NULL,
    scored bigint NOT NULL,
    successes bigint NOT NULL,
    failed bigint NOT NULL,
    latency_ms_sum bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost numeric(20,12) NOT NULL,
    computed_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='70');

ALTER TABLE ONLY campaigns.windows FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.windows OWNER TO chimera_owner;

CREATE TABLE identity.devices (
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    token_hash bytea NOT NULL,
    user_agent text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_used_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL
);

ALTER TABLE ONLY identity.devices FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.devices OWNER TO chimera_owner;

CREATE TABLE identity.grants (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    role_id uuid,
    built_in_role text,
    user_id uuid,
    team_id uuid,
    conditions jsonb DEFAULT '{}'::jsonb NOT NULL,
    granted_by uuid NOT NULL,
    granted_at timestamp with time zone DEFAULT now() NOT NULL,
    revoked_at timestamp with time zone,
    CONSTRAINT grants_built_in_role_check CHECK ((built_in_role = ANY (ARRAY['auditor'::text, 'admin'::text, 'user'::text, 'viewer'::text]))),
    CONSTRAINT grants_one_grantee CHECK ((num_nonnulls(user_id, team_id) = 1)),
    CONSTRAINT grants_one_role CHECK ((num_nonnulls(role_id, built_in_role) = 1))
);

ALTER TABLE ONLY identity.grants FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.grants OWNER TO chimera_owner;

CREATE TABLE identity.invitations (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    role text NOT NULL,
    email text DEFAULT ''::text NOT NULL,
    code_hash bytea,
    uses integer DEFAULT 0 NOT NULL,
    uses_max integer NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    revoked_at timestamp with time zone,
    CONSTRAINT invitations_role_check CHECK ((role = ANY (ARRAY['auditor'::text, 'admin'::text, 'user'::text, 'viewer'::text]))),
    CONSTRAINT invitations_uses CHECK (((uses >= 0) AND (uses <= uses_max))),
    CONSTRAINT invitations_uses_max_check CHECK (((uses_max >= 1) AND (uses_max <= 10000)))
);

ALTER TABLE ONLY identity.invitations FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.invitations OWNER TO chimera_owner;

CREATE TABLE identity.letters (
    address_hash bytea NOT NULL,
    kind text NOT NULL,
    mail_id text NOT NULL,
    written_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE identity.letters OWNER TO chimera_owner;

CREATE TABLE identity.linked_identities (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    user_id uuid NOT NULL,
    provider_org_id uuid,
    provider_name text NOT NULL,
    issuer text NOT NULL,
    subject text NOT NULL,
    email text DEFAULT ''::text NOT NULL,
    display_name text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_used_at timestamp with time zone,
    CONSTRAINT linked_identities_own_provider CHECK (((provider_org_id IS NULL) OR (provider_org_id = org_id)))
);

ALTER TABLE ONLY identity.linked_identities FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.linked_identities OWNER TO chimera_owner;

CREATE TABLE identity.one_time_tokens (
    token_hash bytea NOT NULL,
    purpose text NOT NULL,
    org_id uuid NOT NULL,
    user_id uuid NOT NULL,
    email text DEFAULT ''::text NOT NULL,
    facts jsonb DEFAULT '{}'::jsonb NOT NULL,
    mail_id text DEFAULT ''::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone,
    CONSTRAINT one_time_tokens_purpose_check CHECK ((purpose = ANY (ARRAY['email_verification'::text, 'email_change'::text, 'password_reset'::text, 'login'::text])))
);

ALTER TABLE ONLY identity.one_time_tokens FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.one_time_tokens OWNER TO chimera_owner;

CREATE TABLE identity.organisations (
    id uuid NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    password_characters_min integer DEFAULT 8 NOT NULL,
    password_classes_min integer DEFAULT 0 NOT NULL,
    password_history integer DEFAULT 0 NOT NULL,
    password_age_days_max integer DEFAULT 0 NOT NULL,
    requires_second_factor boolean DEFAULT false NOT NULL,
    CONSTRAINT organisations_name_check CHECK (((length(name) >= 1) AND (length(name) <= 200))),
    CONSTRAINT organisations_password_age_days_max_check CHECK (((password_age_days_max >= 0) AND (password_age_days_max <= 3650))),
    CONSTRAINT organisations_password_characters_min_check CHECK (((password_characters_min >= 8) AND (password_characters_min <= 128))),
    CONSTRAINT organisations_password_classes_min_check CHECK (((password_classes_min >= 0) AND (password_classes_min <= 4))),
    CONSTRAINT organisations_password_history_check CHECK (((password_history >= 0) AND (password_history <= 10)))
);

ALTER TABLE ONLY identity.organisations FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.organisations OWNER TO chimera_owner;

CREATE TABLE identity.password_history (
    id uuid NOT NULL,
    user_id uuid NOT NULL,
    password_hash text NOT NULL,
    replaced_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY identity.password_history FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.password_history OWNER TO chimera_owner;

CREATE TABLE identity.recovery_codes (
    user_id uuid NOT NULL,
    code_hash bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    used_at timestamp with time zone
);

ALTER TABLE ONLY identity.recovery_codes FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.recovery_codes OWNER TO chimera_owner;

CREATE TABLE identity.redemptions (
    org_id uuid NOT NULL,
    invitation_id uuid NOT NULL,
    user_id uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY identity.redemptions FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.redemptions OWNER TO chimera_owner;

CREATE TABLE identity.refresh_tokens (
    token_hash bytea NOT NULL,
    session_id uuid NOT NULL,
    org_id uuid NOT NULL,
    user_id uuid NOT NULL,
    generation integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone,
    successor_sealed bytea
);

ALTER TABLE ONLY identity.refresh_tokens FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.refresh_tokens OWNER TO chimera_owner;

CREATE TABLE identity.registrations (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    token_hash bytea,
    email text NOT NULL,
    username text NOT NULL,
    display_name text DEFAULT ''::text NOT NULL,
    organisation_name text DEFAULT ''::text NOT NULL,
    invitation_id uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    confirmed_at timestamp with time zone
);

ALTER TABLE ONLY identity.registrations FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.registrations OWNER TO chimera_owner;

CREATE TABLE identity.roles (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    name text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    permissions text[] NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    CONSTRAINT roles_name_check CHECK (((length(name) >= 1) AND (length(name) <= 100))),
    CONSTRAINT roles_not_built_in CHECK ((lower(name) <> ALL (ARRAY['admin'::text, 'user'::text, 'viewer'::text, 'operator'::text]))),
    CONSTRAINT roles_permissions_check CHECK ((cardinality(permissions) > 0))
);

ALTER TABLE ONLY identity.roles FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.roles OWNER TO chimera_owner;

CREATE TABLE identity.sign_in_providers (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    issuer text NOT NULL,
    client_id text NOT NULL,
    sealed jsonb NOT NULL,
    row_version integer DEFAULT 1 NOT NULL,
    redirect_uris text[] NOT NULL,
    new_user_role text,
    email_domains text[] DEFAULT '{}'::text[] NOT NULL,
    is_enabled boolean DEFAULT true NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    second_factor_amr text[] DEFAULT '{}'::text[] NOT NULL,
    second_factor_acr text[] DEFAULT '{}'::text[] NOT NULL,
    CONSTRAINT sign_in_providers_kind_check CHECK ((kind = ANY (ARRAY['google'::text, 'github'::text, 'oidc'::text]))),
    CONSTRAINT sign_in_providers_name_check CHECK (((length(name) >= 1) AND (length(name) <= 100))),
    CONSTRAINT sign_in_providers_new_user_role_check CHECK ((new_user_role = ANY (ARRAY['user'::text, 'viewer'::text]))),
    CONSTRAINT sign_in_providers_redirect_uris_check CHECK ((cardinality(redirect_uris) > 0))
);

ALTER TABLE ONLY identity.sign_in_providers FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.sign_in_providers OWNER TO chimera_owner;

CREATE TABLE identity.sign_ins (
    handle_hash bytea NOT NULL,
    sealed bytea NOT NULL,
    expires_at timestamp with time zone NOT NULL
);

ALTER TABLE identity.sign_ins OWNER TO chimera_owner;

CREATE TABLE identity.signing_keys (
    version integer NOT NULL,
    kid text NOT NULL,
    public_key bytea NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    signs_from timestamp with time zone NOT NULL,
    verifies_until timestamp with time zone,
    CONSTRAINT signing_keys_public_key_check CHECK ((length(public_key) = 32))
);

ALTER TABLE identity.signing_keys OWNER TO chimera_owner;

CREATE TABLE identity.team_members (
    org_id uuid NOT NULL,
    team_id uuid NOT NULL,
    user_id uuid NOT NULL,
    is_lead boolean DEFAULT false NOT NULL,
    added_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY identity.team_members FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.team_members OWNER TO chimera_owner;

CREATE TABLE identity.teams (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    name text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    CONSTRAINT teams_name_check CHECK (((length(name) >= 1) AND (length(name) <= 200)))
);

ALTER TABLE ONLY identity.teams FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.teams OWNER TO chimera_owner;

CREATE TABLE identity.users (
    id uuid NOT NULL,
    email text NOT NULL,
    username text NOT NULL,
    display_name text DEFAULT ''::text NOT NULL,
    picture_url text DEFAULT ''::text NOT NULL,
    password_hash text,
    password_changed_at timestamp with time zone,
    state text DEFAULT 'unverified'::text NOT NULL,
    is_superuser boolean DEFAULT false NOT NULL,
    preferences jsonb DEFAULT '{}'::jsonb NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    failed_login_attempts integer DEFAULT 0 NOT NULL,
    locked_until timestamp with time zone,
    last_login_at timestamp with time zone,
    authz_epoch bigint DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    home_org_id uuid DEFAULT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid,
    email_verified_at timestamp with time zone,
    totp_sealed jsonb,
    totp_version integer DEFAULT 0 NOT NULL,
    totp_confirmed_at timestamp with time zone,
    totp_step bigint DEFAULT 0 NOT NULL,
    erase_at timestamp with time zone,
    erased_at timestamp with time zone,
    superuser_at timestamp with time zone,
    CONSTRAINT users_state_check CHECK ((state = ANY (ARRAY['unverified'::text, 'active'::text, 'disabled'::text])))
);

ALTER TABLE ONLY identity.users FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.users OWNER TO chimera_owner;

CREATE TABLE ops.idempotency (
    org_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    method text NOT NULL,
    request_id uuid NOT NULL,
    body_hash bytea NOT NULL,
    answer bytea,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY ops.idempotency FORCE ROW LEVEL SECURITY;

ALTER TABLE ops.idempotency OWNER TO chimera_owner;

CREATE TABLE ops.key_rotations (
    id uuid NOT NULL,
    to_version integer NOT NULL,
    state text NOT NULL,
    values_total bigint NOT NULL,
    values_done bigint DEFAULT 0 NOT NULL,
    values_unreadable bigint DEFAULT 0 NOT NULL,
    last_error text DEFAULT ''::text NOT NULL,
    requested_by uuid,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    completed_at timestamp with time zone,
    CONSTRAINT key_rotations_state_check CHECK ((state = ANY (ARRAY['running'::text, 'completed'::text])))
);

ALTER TABLE ops.key_rotations OWNER TO chimera_owner;

CREATE TABLE ops.kill_switches (
    org_id uuid,
    sending_stopped boolean NOT NULL,
    reason text NOT NULL,
    set_by uuid,
    set_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY ops.kill_switches FORCE ROW LEVEL SECURITY;

ALTER TABLE ops.kill_switches OWNER TO chimera_owner;

CREATE TABLE ops.leases (
    name text NOT NULL,
    owner text NOT NULL,
    fence bigint DEFAULT 1 NOT NULL,
    lease_until timestamp with time zone NOT NULL
);

ALTER TABLE ops.leases OWNER TO chimera_owner;

CREATE TABLE ops.master_keys (
    version integer NOT NULL,
    kind text NOT NULL,
    key_ref text DEFAULT ''::text NOT NULL,
    state text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    retired_at timestamp with time zone,
    CONSTRAINT master_keys_kind_check CHECK ((kind = ANY (ARRAY['local_file'::text, 'aws_kms'::text]))),
    CONSTRAINT master_keys_state_check CHECK ((state = ANY (ARRAY['enabled'::text, 'decrypt_only'::text, 'disabled'::text, 'destroyed'::text]))),
    CONSTRAINT master_keys_version_check CHECK ((version > 0))
);

ALTER TABLE ops.master_keys OWNER TO chimera_owner;

CREATE TABLE ops.outbox (
    id uuid NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    org_id uuid,
    task text NOT NULL,
    args jsonb DEFAULT '{}'::jsonb NOT NULL,
    state text DEFAULT 'waiting'::text NOT NULL,
    rings integer DEFAULT 0 NOT NULL,
    rings_max integer DEFAULT 10 NOT NULL,
    due_at timestamp with time zone DEFAULT now() NOT NULL,
    last_error text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT outbox_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'rung'::text, 'dead'::text])))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='500');

ALTER TABLE ONLY ops.outbox FORCE ROW LEVEL SECURITY;

ALTER TABLE ops.outbox OWNER TO chimera_owner;

CREATE TABLE ops.partitioned (
    table_name text NOT NULL,
    step interval NOT NULL,
    keep interval
);

ALTER TABLE ops.partitioned OWNER TO chimera_owner;

CREATE TABLE ops.secrets (
    name text NOT NULL,
    version integer NOT NULL,
    sealed jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ops.secrets OWNER TO chimera_owner;

CREATE TABLE providers.allowed_targets (
    org_id uuid NOT NULL,
    model_id uuid NOT NULL,
    allowed_by uuid NOT NULL,
    allowed_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY providers.allowed_targets FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.allowed_targets OWNER TO chimera_owner;

CREATE TABLE providers.circuit_holds (
    model_id uuid NOT NULL,
    forced text NOT NULL,
    forced_by uuid NOT NULL,
    forced_reason text DEFAULT ''::text NOT NULL,
    changed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    CONSTRAINT circuit_holds_forced_check CHECK ((forced = ANY (ARRAY[''::text, 'open'::text, 'closed'::text])))
);

ALTER TABLE ONLY providers.circuit_holds FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.circuit_holds OWNER TO chimera_owner;

CREATE TABLE providers.circuits (
    org_id uuid NOT NULL,
    model_id uuid NOT NULL,
    state text NOT NULL,
    cause text DEFAULT ''::text NOT NULL,
    open_until timestamp with time zone,
    opened_count integer DEFAULT 0 NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    forced text DEFAULT ''::text NOT NULL,
    forced_by uuid,
    forced_reason text DEFAULT ''::text NOT NULL,
    openings integer DEFAULT 0 NOT NULL,
    opened_at timestamp with time zone,
    probe_no bigint DEFAULT 0 NOT NULL,
    probe_until timestamp with time zone,
    consecutive_failures integer DEFAULT 0 NOT NULL,
    response_time_ms double precision,
    last_error_kind text DEFAULT ''::text NOT NULL,
    last_ok_at timestamp with time zone,
    last_failed_at timestamp with time zone,
    last_checked_at timestamp with time zone,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    CONSTRAINT circuits_forced_check CHECK ((forced = ANY (ARRAY[''::text, 'open'::text, 'closed'::text]))),
    CONSTRAINT circuits_state_check CHECK ((state = ANY (ARRAY['closed'::text, 'open'::text, 'half_open'::text])))
)
WITH (fillfactor='50');

ALTER TABLE ONLY providers.circuits FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.circuits OWNER TO chimera_owner;

CREATE TABLE providers.health_points (
    org_id uuid NOT NULL,
    model_id uuid NOT NULL,
    at timestamp with time zone NOT NULL,
    calls integer NOT NULL,
    failures integer NOT NULL,
    rate_limited integer NOT NULL,
    latency_ms_sum bigint NOT NULL,
    latency_ms_max integer NOT NULL
)
WITH (fillfactor='70');

ALTER TABLE ONLY providers.health_points FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.health_points OWNER TO chimera_owner;

CREATE TABLE providers.key_usage (
    provider_key_id uuid NOT NULL,
    org_id uuid NOT NULL,
    requests bigint NOT NULL,
    last_used_at timestamp with time zone NOT NULL
)
WITH (fillfactor='70');

ALTER TABLE ONLY providers.key_usage FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.key_usage OWNER TO chimera_owner;

CREATE TABLE providers.ledger (
    run_id uuid NOT NULL,
    cell_no bigint NOT NULL,
    attempt_no integer NOT NULL,
    entry_no integer DEFAULT 0 NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    org_id uuid NOT NULL,
    user_id uuid NOT NULL,
    model_id uuid NOT NULL,
    price_version_id uuid NOT NULL,
    kind text NOT NULL,
    discarded boolean NOT NULL,
    input_tokens integer NOT NULL,
    output_tokens integer NOT NULL,
    cost numeric(20,12) NOT NULL,
    booked_at timestamp with time zone DEFAULT now() NOT NULL,
    sent_on date,
    provider_key_id uuid,
    technique_no integer,
    CONSTRAINT ledger_kind_check CHECK ((kind = ANY (ARRAY['charge'::text, 'worst'::text, 'correction'::text])))
)
PARTITION BY RANGE (run_id);

ALTER TABLE ONLY providers.ledger FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.ledger OWNER TO chimera_owner;

CREATE TABLE providers.ledger_default (
    run_id uuid CONSTRAINT ledger_run_id_not_null NOT NULL,
    cell_no bigint CONSTRAINT ledger_cell_no_not_null NOT NULL,
    attempt_no integer CONSTRAINT ledger_attempt_no_not_null NOT NULL,
    entry_no integer DEFAULT 0 CONSTRAINT ledger_entry_no_not_null NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() CONSTRAINT ledger_xid_not_null NOT NULL,
    org_id uuid CONSTRAINT ledger_org_id_not_null NOT NULL,
    user_id uuid CONSTRAINT ledger_user_id_not_null NOT NULL,
    model_id uuid CONSTRAINT ledger_model_id_not_null NOT NULL,
    price_version_id uuid CONSTRAINT ledger_price_version_id_not_null NOT NULL,
    kind text CONSTRAINT ledger_kind_not_null NOT NULL,
    discarded boolean CONSTRAINT ledger_discarded_not_null NOT NULL,
    input_tokens integer CONSTRAINT ledger_input_tokens_not_null NOT NULL,
    output_tokens integer CONSTRAINT ledger_output_tokens_not_null NOT NULL,
    cost numeric(20,12) CONSTRAINT ledger_cost_not_null NOT NULL,
    booked_at timestamp with time zone DEFAULT now() CONSTRAINT ledger_booked_at_not_null NOT NULL,
    sent_on date,
    provider_key_id uuid,
    technique_no integer,
    CONSTRAINT ledger_kind_check CHECK ((kind = ANY (ARRAY['charge'::text, 'worst'::text, 'correction'::text])))
);

ALTER TABLE ONLY providers.ledger_default FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.ledger_default OWNER TO chimera_owner;

CREATE TABLE providers.model_aliases (
    provider_id uuid NOT NULL,
    alias text NOT NULL,
    org_id uuid,
    model_id uuid NOT NULL,
    CONSTRAINT model_aliases_alias_check CHECK (((length(alias) >= 1) AND (length(alias) <= 200)))
);

ALTER TABLE ONLY providers.model_aliases FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.model_aliases OWNER TO chimera_owner;

CREATE TABLE providers.models (
    id uuid NOT NULL,
    org_id uuid,
    provider_id uuid NOT NULL,
    name text NOT NULL,
    display_name text DEFAULT ''::text NOT NULL,
    version text DEFAULT ''::text NOT NULL,
    context_tokens_max integer DEFAULT 0 NOT NULL,
    output_tokens_max integer DEFAULT 0 NOT NULL,
    is_available boolean DEFAULT true NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    capabilities text[] DEFAULT '{}'::text[] NOT NULL,
    available_from timestamp with time zone,
    available_until timestamp with time zone,
    deprecated_at timestamp with time zone,
    replaced_by uuid,
    source text DEFAULT ''::text NOT NULL,
    CONSTRAINT models_capabilities_check CHECK ((capabilities <@ ARRAY['chat'::text, 'streaming'::text, 'embeddings'::text, 'vision'::text, 'audio'::text, 'reasoning'::text, 'json_mode'::text, 'structured_output'::text, 'tools'::text, 'prompt_caching'::text])),
    CONSTRAINT models_window CHECK ((available_from < available_until))
);

ALTER TABLE ONLY providers.models FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.models OWNER TO chimera_owner;

CREATE TABLE providers.price_versions (
    id uuid NOT NULL,
    org_id uuid,
    model_id uuid NOT NULL,
    version_number integer NOT NULL,
    input_per_million numeric(20,12) NOT NULL,
    output_per_million numeric(20,12) NOT NULL,
    cached_input_per_million numeric(20,12) NOT NULL,
    reasoning_per_million numeric(20,12) NOT NULL,
    per_request numeric(20,12) NOT NULL,
    valid_from timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    created_by uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    cache_write_per_million numeric(20,12),
    long_from_tokens integer DEFAULT 0 NOT NULL,
    long_prices jsonb,
    valid_until timestamp with time zone,
    source text DEFAULT ''::text NOT NULL,
    CONSTRAINT price_versions_cache_write_per_million_check CHECK ((cache_write_per_million >= (0)::numeric)),
    CONSTRAINT price_versions_cached_input_per_million_check CHECK ((cached_input_per_million >= (0)::numeric)),
    CONSTRAINT price_versions_input_per_million_check CHECK ((input_per_million >= (0)::numeric)),
    CONSTRAINT price_versions_interval CHECK ((valid_from <= valid_until)),
    CONSTRAINT price_versions_long CHECK (((long_from_tokens > 0) = (long_prices IS NOT NULL))),
    CONSTRAINT price_versions_long_from_tokens_check CHECK ((long_from_tokens >= 0)),
    CONSTRAINT price_versions_output_per_million_check CHECK ((output_per_million >= (0)::numeric)),
    CONSTRAINT price_versions_per_request_check CHECK ((per_request >= (0)::numeric)),
    CONSTRAINT price_versions_reasoning_per_million_check CHECK ((reasoning_per_million >= (0)::numeric))
);

ALTER TABLE ONLY providers.price_versions FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.price_versions OWNER TO chimera_owner;

CREATE TABLE providers.probe_results (
    provider_id uuid NOT NULL,
    org_id uuid,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    is_ok boolean NOT NULL,
    response_time_ms double precision NOT NULL,
    error_kind text DEFAULT ''::text NOT NULL
);

ALTER TABLE ONLY providers.probe_results FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.probe_results OWNER TO chimera_owner;

CREATE TABLE providers.probes (
    provider_id uuid NOT NULL,
    org_id uuid,
    is_enabled boolean DEFAULT true NOT NULL,
    interval_s integer DEFAULT 60 NOT NULL,
    provider_key_id uuid,
    due_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    is_ok boolean,
    consecutive_failures integer DEFAULT 0 NOT NULL,
    response_time_ms double precision,
    last_error_kind text DEFAULT ''::text NOT NULL,
    last_ok_at timestamp with time zone,
    last_checked_at timestamp with time zone,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    CONSTRAINT probes_interval_s_check CHECK (((interval_s >= 10) AND (interval_s <= 86400)))
);

ALTER TABLE ONLY providers.probes FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.probes OWNER TO chimera_owner;

CREATE TABLE providers.provider_keys (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    user_id uuid NOT NULL,
    provider_id uuid NOT NULL,
    name text NOT NULL,
    prefix text NOT NULL,
    last_four text NOT NULL,
    sealed jsonb NOT NULL,
    row_version integer DEFAULT 1 NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    is_default boolean DEFAULT false NOT NULL,
    usage_count bigint DEFAULT 0 NOT NULL,
    last_used_at timestamp with time zone,
    rotate_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    secret_changed_at timestamp with time zone DEFAULT now() NOT NULL,
    revoked_at timestamp with time zone,
    reminded_at timestamp with time zone,
    stored_for text DEFAULT ''::text NOT NULL
);

ALTER TABLE ONLY providers.provider_keys FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.provider_keys OWNER TO chimera_owner;

CREATE TABLE providers.providers (
    id uuid NOT NULL,
    org_id uuid,
    name text NOT NULL,
    display_name text DEFAULT ''::text NOT NULL,
    provider_type text NOT NULL,
    base_url text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    timeout_s integer DEFAULT 60 NOT NULL,
    requests_per_minute integer DEFAULT 0 NOT NULL,
    tokens_per_minute integer DEFAULT 0 NOT NULL,
    default_config jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_by uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    source text DEFAULT ''::text NOT NULL,
    CONSTRAINT providers_default_config CHECK ((jsonb_typeof(default_config) = 'object'::text)),
    CONSTRAINT providers_provider_type_check CHECK ((provider_type = ANY (ARRAY['openai'::text, 'anthropic'::text, 'huggingface'::text, 'local'::text, 'custom'::text]))),
    CONSTRAINT providers_requests_per_minute_check CHECK ((requests_per_minute >= 0)),
    CONSTRAINT providers_timeout_s_check CHECK (((timeout_s >= 1) AND (timeout_s <= 600))),
    CONSTRAINT providers_tokens_per_minute_check CHECK ((tokens_per_minute >= 0))
);

ALTER TABLE ONLY providers.providers FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.providers OWNER TO chimera_owner;

CREATE TABLE providers.rate_limits (
    provider_key_id uuid NOT NULL,
    org_id uuid NOT NULL,
    requests_per_minute integer NOT NULL,
    tokens_per_minute integer NOT NULL,
    set_by uuid NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT rate_limits_requests_per_minute_check CHECK ((requests_per_minute >= 0)),
    CONSTRAINT rate_limits_tokens_per_minute_check CHECK ((tokens_per_minute >= 0))
);

ALTER TABLE ONLY providers.rate_limits FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.rate_limits OWNER TO chimera_owner;

CREATE TABLE providers.route_versions (
    route_id uuid NOT NULL,
    version_number integer NOT NULL,
    org_id uuid NOT NULL,
    strategy text NOT NULL,
    steps jsonb NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT route_versions_strategy_check CHECK ((strategy = ANY (ARRAY['ordered'::text, 'weighted'::text])))
);

ALTER TABLE ONLY providers.route_versions FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.route_versions OWNER TO chimera_owner;

CREATE TABLE providers.routes (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    name text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    version_number integer DEFAULT 1 NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone
);

ALTER TABLE ONLY providers.routes FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.routes OWNER TO chimera_owner;

CREATE TABLE telemetry.batches (
    batch_id uuid NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    org_id uuid NOT NULL,
    producer text NOT NULL,
    body bytea NOT NULL,
    events integer NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    group_id uuid,
    state text DEFAULT 'waiting'::text NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    last_error text DEFAULT ''::text NOT NULL,
    resent_at timestamp with time zone,
    group_failures integer DEFAULT 0 NOT NULL,
    group_failed_at timestamp with time zone,
    requeued_at timestamp with time zone,
    fingerprint bigint,
    CONSTRAINT batches_events_check CHECK ((events > 0)),
    CONSTRAINT batches_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'stored'::text, 'dead'::text])))
)
PARTITION BY RANGE (batch_id);
ALTER TABLE ONLY telemetry.batches ALTER COLUMN body SET STORAGE EXTERNAL;

ALTER TABLE ONLY telemetry.batches FORCE ROW LEVEL SECURITY;

ALTER TABLE telemetry.batches OWNER TO chimera_owner;

CREATE TABLE telemetry.batches_default (
    batch_id uuid CONSTRAINT batches_batch_id_not_null NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() CONSTRAINT batches_xid_not_null NOT NULL,
    org_id uuid CONSTRAINT batches_org_id_not_null NOT NULL,
    producer text CONSTRAINT batches_producer_not_null NOT NULL,
    body bytea CONSTRAINT batches_body_not_null NOT NULL,
    events integer CONSTRAINT batches_events_not_null NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() CONSTRAINT batches_created_at_not_null NOT NULL,
    group_id uuid,
    state text DEFAULT 'waiting'::text CONSTRAINT batches_state_not_null NOT NULL,
    tries integer DEFAULT 0 CONSTRAINT batches_tries_not_null NOT NULL,
    last_error text DEFAULT ''::text CONSTRAINT batches_last_error_not_null NOT NULL,
    resent_at timestamp with time zone,
    group_failures integer DEFAULT 0 CONSTRAINT batches_group_failures_not_null NOT NULL,
    group_failed_at timestamp with time zone,
    requeued_at timestamp with time zone,
    fingerprint bigint,
    CONSTRAINT batches_events_check CHECK ((events > 0)),
    CONSTRAINT batches_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'stored'::text, 'dead'::text])))
);
ALTER TABLE ONLY telemetry.batches_default ALTER COLUMN body SET STORAGE EXTERNAL;

ALTER TABLE ONLY telemetry.batches_default FORCE ROW LEVEL SECURITY;

ALTER TABLE telemetry.batches_default OWNER TO chimera_owner;

CREATE TABLE telemetry.dead_letters (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    kind text NOT NULL,
    producer text NOT NULL,
    batch_id uuid NOT NULL,
    event_index integer,
    events integer NOT NULL,
    body bytea NOT NULL,
    reason text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT dead_letters_events_check CHECK ((events > 0)),
    CONSTRAINT dead_letters_kind_check CHECK ((kind = ANY (ARRAY['event'::text, 'batch'::text])))
);
ALTER TABLE ONLY telemetry.dead_letters ALTER COLUMN body SET STORAGE EXTERNAL;

ALTER TABLE ONLY telemetry.dead_letters FORCE ROW LEVEL SECURITY;

ALTER TABLE telemetry.dead_letters OWNER TO chimera_owner;

CREATE TABLE telemetry.differing (
    batch_id uuid NOT NULL,
    org_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL,
    found bigint NOT NULL,
    is_missing boolean NOT NULL,
    is_surplus boolean NOT NULL,
    checked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE ONLY telemetry.differing FORCE ROW LEVEL SECURITY;

ALTER TABLE telemetry.differing OWNER TO chimera_owner;

CREATE TABLE telemetry.receipts (
    org_id uuid NOT NULL,
    producer text NOT NULL,
    batch_id uuid NOT NULL,
    body_hash bytea NOT NULL,
    answer bytea NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE ONLY telemetry.receipts FORCE ROW LEVEL SECURITY;

ALTER TABLE telemetry.receipts OWNER TO chimera_owner;

CREATE TABLE telemetry.reconciliations (
    org_id uuid NOT NULL,
    day date NOT NULL,
    producer text NOT NULL,
    accepted bigint NOT NULL,
    stored bigint NOT NULL,
    dead bigint NOT NULL,
    found bigint NOT NULL,
    missing_batches integer DEFAULT 0 NOT NULL,
    surplus_batches integer DEFAULT 0 NOT NULL,
    resent_batches integer DEFAULT 0 NOT NULL,
    checked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE ONLY telemetry.reconciliations FORCE ROW LEVEL SECURITY;

ALTER TABLE telemetry.reconciliations OWNER TO chimera_owner;

CREATE TABLE telemetry.refreshes (
    name text NOT NULL,
    refreshed_at timestamp with time zone NOT NULL
);

ALTER TABLE telemetry.refreshes OWNER TO chimera_owner;

CREATE TABLE telemetry.stale_days (
    org_id uuid NOT NULL,
    day date NOT NULL
);

ALTER TABLE ONLY telemetry.stale_days FORCE ROW LEVEL SECURITY;

ALTER TABLE telemetry.stale_days OWNER TO chimera_owner;

CREATE TABLE telemetry.totals (
    org_id uuid NOT NULL,
    slot smallint NOT NULL,
    accepted bigint DEFAULT 0 NOT NULL,
    stored bigint DEFAULT 0 NOT NULL,
    dead bigint DEFAULT 0 NOT NULL,
    discarded bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50');

ALTER TABLE ONLY telemetry.totals FORCE ROW LEVEL SECURITY;

ALTER TABLE telemetry.totals OWNER TO chimera_owner;

CREATE TABLE telemetry.verified (
    org_id uuid NOT NULL,
    xid xid8 DEFAULT '0'::xid8 NOT NULL,
    batch_id uuid DEFAULT '00000000-0000-0000-0000-000000000000'::uuid NOT NULL,
    verified_to timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    is_asked boolean DEFAULT false NOT NULL,
    checked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    rollups_checked_at timestamp with time zone,
    rebuilding_day date,
    is_replacing boolean DEFAULT false NOT NULL,
    rebuilt_day date,
    rebuilt_at timestamp with time zone
);

ALTER TABLE ONLY telemetry.verified FORCE ROW LEVEL SECURITY;

ALTER TABLE telemetry.verified OWNER TO chimera_owner;

CREATE TABLE templates.dataset_rows (
    org_id uuid NOT NULL,
    dataset_id uuid NOT NULL,
    version_number integer NOT NULL,
    row_no integer NOT NULL,
    fields json NOT NULL,
    CONSTRAINT dataset_rows_row_no_check CHECK ((row_no > 0))
);

ALTER TABLE ONLY templates.dataset_rows FORCE ROW LEVEL SECURITY;

ALTER TABLE templates.dataset_rows OWNER TO chimera_owner;

CREATE TABLE templates.dataset_versions (
    org_id uuid NOT NULL,
    dataset_id uuid NOT NULL,
    version_number integer NOT NULL,
    columns text[] NOT NULL,
    row_count bigint NOT NULL,
    content_hash text NOT NULL,
    change_note text DEFAULT ''::text NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT dataset_versions_version_number_check CHECK ((version_number > 0))
);

ALTER TABLE ONLY templates.dataset_versions FORCE ROW LEVEL SECURITY;

ALTER TABLE templates.dataset_versions OWNER TO chimera_owner;

CREATE TABLE templates.datasets (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    name text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    sharing_level text DEFAULT 'organisation'::text NOT NULL,
    version_number integer DEFAULT 0 NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    CONSTRAINT datasets_name_check CHECK (((length(name) >= 1) AND (length(name) <= 200))),
    CONSTRAINT datasets_sharing_level_check CHECK ((sharing_level = ANY (ARRAY['private'::text, 'organisation'::text])))
);

ALTER TABLE ONLY templates.datasets FORCE ROW LEVEL SECURITY;

ALTER TABLE templates.datasets OWNER TO chimera_owner;

CREATE TABLE templates.label_moves (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    template_id uuid NOT NULL,
    name text NOT NULL,
    from_version_number integer NOT NULL,
    to_version_number integer NOT NULL,
    note text DEFAULT ''::text NOT NULL,
    moved_by uuid NOT NULL,
    moved_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE ONLY templates.label_moves FORCE ROW LEVEL SECURITY;

ALTER TABLE templates.label_moves OWNER TO chimera_owner;

CREATE TABLE templates.labels (
    org_id uuid NOT NULL,
    template_id uuid NOT NULL,
    name text NOT NULL,
    version_number integer NOT NULL,
    moved_by uuid NOT NULL,
    moved_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT labels_name_check CHECK (((name ~ '^[a-z][a-z0-9_-]{0,63}$'::text) AND (name <> 'latest'::text)))
);

ALTER TABLE ONLY templates.labels FORCE ROW LEVEL SECURITY;

ALTER TABLE templates.labels OWNER TO chimera_owner;

CREATE TABLE templates.review_rules (
    org_id uuid NOT NULL,
    review_required boolean NOT NULL,
    other_reviewer_required boolean NOT NULL,
    updated_by uuid NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY templates.review_rules FORCE ROW LEVEL SECURITY;

ALTER TABLE templates.review_rules OWNER TO chimera_owner;

CREATE TABLE templates.shares (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    template_id uuid NOT NULL,
    user_id uuid,
    team_id uuid,
    permission text NOT NULL,
    expires_at timestamp with time zone,
    shared_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT shares_check CHECK (((user_id IS NULL) <> (team_id IS NULL))),
    CONSTRAINT shares_permission_check CHECK ((permission = ANY (ARRAY['view'::text, 'edit'::text, 'admin'::text])))
);

ALTER TABLE ONLY templates.shares FORCE ROW LEVEL SECURITY;

ALTER TABLE templates.shares OWNER TO chimera_owner;

CREATE TABLE templates.usages (
    run_id uuid NOT NULL,
    template_id uuid NOT NULL,
    version_number integer NOT NULL,
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    used_by uuid NOT NULL,
    is_private boolean DEFAULT false NOT NULL,
    original_prompt text NOT NULL,
    customizations jsonb DEFAULT '{}'::jsonb NOT NULL,
    scored_count bigint DEFAULT 0 NOT NULL,
    success_count bigint DEFAULT 0 NOT NULL,
    success_score double precision,
    used_at timestamp with time zone DEFAULT now() NOT NULL,
    settled_at timestamp with time zone
);

ALTER TABLE ONLY templates.usages FORCE ROW LEVEL SECURITY;

ALTER TABLE templates.usages OWNER TO chimera_owner;

CREATE TABLE templates.versions (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    template_id uuid NOT NULL,
    version_number integer NOT NULL,
    parent_version_number integer,
    messages jsonb NOT NULL,
    variables jsonb NOT NULL,
    content_hash text NOT NULL,
    change_note text DEFAULT ''::text NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    partials jsonb DEFAULT '[]'::jsonb NOT NULL,
    rating_count integer DEFAULT 0 NOT NULL,
    rating_sum bigint DEFAULT 0 NOT NULL,
    effective_votes integer DEFAULT 0 NOT NULL,
    ineffective_votes integer DEFAULT 0 NOT NULL,
    average_rating double precision GENERATED ALWAYS AS (((rating_sum)::double precision / (NULLIF(rating_count, 0))::double precision)) STORED,
    scored_count bigint DEFAULT 0 NOT NULL,
    success_count bigint DEFAULT 0 NOT NULL,
    success_rate double precision GENERATED ALWAYS AS (((success_count)::double precision / (NULLIF(scored_count, 0))::double precision)) STORED,
    CONSTRAINT versions_version_number_check CHECK ((version_number > 0))
);

ALTER TABLE ONLY templates.versions FORCE ROW LEVEL SECURITY;

ALTER TABLE templates.versions OWNER TO chimera_owner;

ALTER TABLE ONLY audit.events ATTACH PARTITION audit.events_default DEFAULT;

ALTER TABLE ONLY campaigns.attempts ATTACH PARTITION campaigns.attempts_default DEFAULT;

ALTER TABLE ONLY campaigns.executions ATTACH PARTITION campaigns.executions_default DEFAULT;

ALTER TABLE ONLY campaigns.flushes ATTACH PARTITION campaigns.flushes_default DEFAULT;

ALTER TABLE ONLY campaigns.turns ATTACH PARTITION campaigns.turns_default DEFAULT;

ALTER TABLE ONLY campaigns.verdicts ATTACH PARTITION campaigns.verdicts_default DEFAULT;

ALTER TABLE ONLY providers.ledger ATTACH PARTITION providers.ledger_default DEFAULT;

ALTER TABLE ONLY telemetry.batches ATTACH PARTITION telemetry.batches_default DEFAULT;

ALTER TABLE ONLY accounting.alerts
    ADD CONSTRAINT alerts_budget_id_window_start_alert_type_key UNIQUE (budget_id, window_start, alert_type);

ALTER TABLE ONLY accounting.alerts
    ADD CONSTRAINT alerts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY accounting.budgets
    ADD CONSTRAINT budgets_pkey PRIMARY KEY (id);

ALTER TABLE ONLY accounting.budgets
    ADD CONSTRAINT budgets_scope_kind_scope_id_period_key UNIQUE (scope_kind, scope_id, period);

ALTER TABLE ONLY accounting.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (id);

ALTER TABLE ONLY accounting.deliveries
    ADD CONSTRAINT deliveries_webhook_id_event_id_key UNIQUE (webhook_id, event_id);

ALTER TABLE ONLY accounting.delivery_tries
    ADD CONSTRAINT delivery_tries_pkey PRIMARY KEY (delivery_id, try_no);

ALTER TABLE ONLY accounting.usage_daily
    ADD CONSTRAINT usage_daily_pkey PRIMARY KEY (org_id, day, run_id, user_id, model_id, provider_key_id, technique_no);

ALTER TABLE ONLY accounting.usage_mark
    ADD CONSTRAINT usage_mark_pkey PRIMARY KEY (id);

ALTER TABLE ONLY accounting.waits
    ADD CONSTRAINT waits_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY accounting.webhooks
    ADD CONSTRAINT webhooks_pkey PRIMARY KEY (id);

ALTER TABLE ONLY accounting.windows
    ADD CONSTRAINT windows_pkey PRIMARY KEY (scope_kind, scope_id, period, window_start);

ALTER TABLE ONLY audit.checkpoints
    ADD CONSTRAINT checkpoints_pkey PRIMARY KEY (size);

ALTER TABLE ONLY audit.configuration_changes
    ADD CONSTRAINT configuration_changes_pkey PRIMARY KEY (id);

ALTER TABLE ONLY audit.configuration
    ADD CONSTRAINT configuration_pkey PRIMARY KEY (org_id, key);

ALTER TABLE ONLY audit.cosignatures
    ADD CONSTRAINT cosignatures_pkey PRIMARY KEY (size, verifier_key);

ALTER TABLE ONLY audit.daily
    ADD CONSTRAINT daily_org_id_day_action_severity_outcome_actor_id_key UNIQUE NULLS NOT DISTINCT (org_id, day, action, severity, outcome, actor_id);

ALTER TABLE ONLY audit.drops
    ADD CONSTRAINT drops_pkey PRIMARY KEY (partition_name);

ALTER TABLE ONLY audit.erasures
    ADD CONSTRAINT erasures_pkey PRIMARY KEY (id);

ALTER TABLE ONLY audit.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY audit.events_default
    ADD CONSTRAINT events_default_pkey PRIMARY KEY (id);

ALTER TABLE ONLY audit.findings
    ADD CONSTRAINT findings_pkey PRIMARY KEY (id);

ALTER TABLE ONLY audit.findings
    ADD CONSTRAINT findings_rule_subject_log_index_key UNIQUE (rule, subject, log_index);

ALTER TABLE ONLY audit.key_networks
    ADD CONSTRAINT key_networks_pkey PRIMARY KEY (api_key_id, network);

ALTER TABLE ONLY audit.leaves
    ADD CONSTRAINT leaves_event_id_key UNIQUE (event_id);

ALTER TABLE ONLY audit.leaves
    ADD CONSTRAINT leaves_pkey PRIMARY KEY (log_index);

ALTER TABLE ONLY audit.legal_holds
    ADD CONSTRAINT legal_holds_pkey PRIMARY KEY (id);

ALTER TABLE ONLY audit.log_head
    ADD CONSTRAINT log_head_pkey PRIMARY KEY (the_one);

ALTER TABLE ONLY audit.nodes
    ADD CONSTRAINT nodes_pkey PRIMARY KEY (level, node_index);

ALTER TABLE ONLY audit.pending
    ADD CONSTRAINT pending_pkey PRIMARY KEY (id);

ALTER TABLE ONLY audit.restores
    ADD CONSTRAINT restores_pkey PRIMARY KEY (id);

ALTER TABLE ONLY audit.rule_counts
    ADD CONSTRAINT rule_counts_org_id_rule_subject_bucket_key UNIQUE NULLS NOT DISTINCT (org_id, rule, subject, bucket);

ALTER TABLE ONLY audit.watermarks
    ADD CONSTRAINT watermarks_pkey PRIMARY KEY (name);

ALTER TABLE ONLY audit.writers
    ADD CONSTRAINT writers_pkey PRIMARY KEY (writer_id);

ALTER TABLE ONLY campaigns.analysed
    ADD CONSTRAINT analysed_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY campaigns.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (run_id, cell_no, attempt_no);

ALTER TABLE ONLY campaigns.attempts_default
    ADD CONSTRAINT attempts_default_pkey PRIMARY KEY (run_id, cell_no, attempt_no);

ALTER TABLE ONLY campaigns.campaigns
    ADD CONSTRAINT campaigns_org_id_id_key UNIQUE (org_id, id);

ALTER TABLE ONLY campaigns.campaigns
    ADD CONSTRAINT campaigns_pkey PRIMARY KEY (id);

ALTER TABLE ONLY campaigns.comments
    ADD CONSTRAINT comments_campaign_id_id_key UNIQUE (campaign_id, id);

ALTER TABLE ONLY campaigns.comments
    ADD CONSTRAINT comments_pkey PRIMARY KEY (id);

ALTER TABLE ONLY campaigns.executions
    ADD CONSTRAINT executions_pkey PRIMARY KEY (run_id, cell_no);

ALTER TABLE ONLY campaigns.executions_default
    ADD CONSTRAINT executions_default_pkey PRIMARY KEY (run_id, cell_no);

ALTER TABLE ONLY campaigns.flushes
    ADD CONSTRAINT flushes_pkey PRIMARY KEY (run_id, xid, id);

ALTER TABLE ONLY campaigns.flushes_default
    ADD CONSTRAINT flushes_default_pkey PRIMARY KEY (run_id, xid, id);

ALTER TABLE ONLY campaigns.model_tallies
    ADD CONSTRAINT model_tallies_pkey PRIMARY KEY (run_id, slot, model_no);

ALTER TABLE ONLY campaigns.overrides
    ADD CONSTRAINT overrides_pkey PRIMARY KEY (id);

ALTER TABLE ONLY campaigns.run_money
    ADD CONSTRAINT run_money_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY campaigns.run_plans
    ADD CONSTRAINT run_plans_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY campaigns.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY campaigns.schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (campaign_id);

ALTER TABLE ONLY campaigns.scorings
    ADD CONSTRAINT scorings_pkey PRIMARY KEY (id);

ALTER TABLE ONLY campaigns.seats
    ADD CONSTRAINT seats_pkey PRIMARY KEY (run_id, seat_no);

ALTER TABLE ONLY campaigns.shards
    ADD CONSTRAINT shards_pkey PRIMARY KEY (run_id, shard_no);

ALTER TABLE ONLY campaigns.shares
    ADD CONSTRAINT shares_campaign_id_user_id_team_id_key UNIQUE NULLS NOT DISTINCT (campaign_id, user_id, team_id);

ALTER TABLE ONLY campaigns.shares
    ADD CONSTRAINT shares_pkey PRIMARY KEY (id);

ALTER TABLE ONLY campaigns.tallies
    ADD CONSTRAINT tallies_pkey PRIMARY KEY (run_id, slot, technique_no, target_no);

ALTER TABLE ONLY campaigns.technique_suite_versions
    ADD CONSTRAINT technique_suite_versions_pkey PRIMARY KEY (suite_id, version_number);

ALTER TABLE ONLY campaigns.technique_suites
    ADD CONSTRAINT technique_suites_org_id_id_key UNIQUE (org_id, id);

ALTER TABLE ONLY campaigns.technique_suites
    ADD CONSTRAINT technique_suites_pkey PRIMARY KEY (id);

ALTER TABLE ONLY campaigns.turns
    ADD CONSTRAINT turns_pkey PRIMARY KEY (run_id, cell_no, turn_no);

ALTER TABLE ONLY campaigns.turns_default
    ADD CONSTRAINT turns_default_pkey PRIMARY KEY (run_id, cell_no, turn_no);

ALTER TABLE ONLY campaigns.verdicts
    ADD CONSTRAINT verdicts_pkey PRIMARY KEY (scoring_id, cell_no);

ALTER TABLE ONLY campaigns.verdicts_default
    ADD CONSTRAINT verdicts_default_pkey PRIMARY KEY (scoring_id, cell_no);

ALTER TABLE ONLY campaigns.windows
    ADD CONSTRAINT windows_pkey PRIMARY KEY (campaign_id, window_start, technique, provider, model);

ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_previous_public_id_key UNIQUE (previous_public_id);

ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_public_id_key UNIQUE (public_id);

ALTER TABLE ONLY identity.devices
    ADD CONSTRAINT devices_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.devices
    ADD CONSTRAINT devices_token_hash_key UNIQUE (token_hash);

ALTER TABLE ONLY identity.grants
    ADD CONSTRAINT grants_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.invitations
    ADD CONSTRAINT invitations_code_hash_key UNIQUE (code_hash);

ALTER TABLE ONLY identity.invitations
    ADD CONSTRAINT invitations_org_id_id_key UNIQUE (org_id, id);

ALTER TABLE ONLY identity.invitations
    ADD CONSTRAINT invitations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.letters
    ADD CONSTRAINT letters_pkey PRIMARY KEY (address_hash, kind, mail_id);

ALTER TABLE ONLY identity.linked_identities
    ADD CONSTRAINT linked_identities_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.linked_identities
    ADD CONSTRAINT linked_identities_subject UNIQUE NULLS NOT DISTINCT (provider_org_id, issuer, subject);

ALTER TABLE ONLY identity.memberships
    ADD CONSTRAINT memberships_pkey PRIMARY KEY (org_id, user_id);

ALTER TABLE ONLY identity.one_time_tokens
    ADD CONSTRAINT one_time_tokens_pkey PRIMARY KEY (token_hash);

ALTER TABLE ONLY identity.organisations
    ADD CONSTRAINT organisations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.password_history
    ADD CONSTRAINT password_history_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.recovery_codes
    ADD CONSTRAINT recovery_codes_pkey PRIMARY KEY (user_id, code_hash);

ALTER TABLE ONLY identity.redemptions
    ADD CONSTRAINT redemptions_pkey PRIMARY KEY (invitation_id, user_id);

ALTER TABLE ONLY identity.refresh_tokens
    ADD CONSTRAINT refresh_tokens_pkey PRIMARY KEY (token_hash);

ALTER TABLE ONLY identity.refresh_tokens
    ADD CONSTRAINT refresh_tokens_session_id_generation_key UNIQUE (session_id, generation);

ALTER TABLE ONLY identity.registrations
    ADD CONSTRAINT registrations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.registrations
    ADD CONSTRAINT registrations_token_hash_key UNIQUE (token_hash);

ALTER TABLE ONLY identity.roles
    ADD CONSTRAINT roles_org_id_id_key UNIQUE (org_id, id);

ALTER TABLE ONLY identity.roles
    ADD CONSTRAINT roles_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.sign_in_providers
    ADD CONSTRAINT sign_in_providers_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.sign_ins
    ADD CONSTRAINT sign_ins_pkey PRIMARY KEY (handle_hash);

ALTER TABLE ONLY identity.signing_keys
    ADD CONSTRAINT signing_keys_kid_key UNIQUE (kid);

ALTER TABLE ONLY identity.signing_keys
    ADD CONSTRAINT signing_keys_pkey PRIMARY KEY (version);

ALTER TABLE ONLY identity.team_members
    ADD CONSTRAINT team_members_pkey PRIMARY KEY (team_id, user_id);

ALTER TABLE ONLY identity.teams
    ADD CONSTRAINT teams_org_id_id_key UNIQUE (org_id, id);

ALTER TABLE ONLY identity.teams
    ADD CONSTRAINT teams_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);

ALTER TABLE ONLY ops.idempotency
    ADD CONSTRAINT idempotency_pkey PRIMARY KEY (org_id, principal_id, method, request_id);

ALTER TABLE ONLY ops.key_rotations
    ADD CONSTRAINT key_rotations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY ops.kill_switches
    ADD CONSTRAINT kill_switches_org_id_key UNIQUE NULLS NOT DISTINCT (org_id);

ALTER TABLE ONLY ops.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (name);

ALTER TABLE ONLY ops.master_keys
    ADD CONSTRAINT master_keys_pkey PRIMARY KEY (version);

ALTER TABLE ONLY ops.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY ops.partitioned
    ADD CONSTRAINT partitioned_pkey PRIMARY KEY (table_name);

ALTER TABLE ONLY ops.secrets
    ADD CONSTRAINT secrets_pkey PRIMARY KEY (name, version);

ALTER TABLE ONLY providers.allowed_targets
    ADD CONSTRAINT allowed_targets_pkey PRIMARY KEY (org_id, model_id);

ALTER TABLE ONLY providers.circuit_holds
    ADD CONSTRAINT circuit_holds_pkey PRIMARY KEY (model_id);

ALTER TABLE ONLY providers.circuits
    ADD CONSTRAINT circuits_pkey PRIMARY KEY (org_id, model_id);

ALTER TABLE ONLY providers.health_points
    ADD CONSTRAINT health_points_pkey PRIMARY KEY (org_id, model_id, at);

ALTER TABLE ONLY providers.key_usage
    ADD CONSTRAINT key_usage_pkey PRIMARY KEY (provider_key_id);

ALTER TABLE ONLY providers.ledger
    ADD CONSTRAINT ledger_pkey PRIMARY KEY (run_id, cell_no, attempt_no, entry_no);

ALTER TABLE ONLY providers.ledger_default
    ADD CONSTRAINT ledger_default_pkey PRIMARY KEY (run_id, cell_no, attempt_no, entry_no);

ALTER TABLE ONLY providers.model_aliases
    ADD CONSTRAINT model_aliases_pkey PRIMARY KEY (provider_id, alias);

ALTER TABLE ONLY providers.models
    ADD CONSTRAINT models_pkey PRIMARY KEY (id);

ALTER TABLE ONLY providers.price_versions
    ADD CONSTRAINT price_versions_model_id_version_number_key UNIQUE (model_id, version_number);

ALTER TABLE ONLY providers.price_versions
    ADD CONSTRAINT price_versions_one_at_a_time EXCLUDE USING gist (providers.uuid_range(model_id, model_id, '[]'::text) WITH &&, tstzrange(valid_from, valid_until) WITH &&);

ALTER TABLE ONLY providers.price_versions
    ADD CONSTRAINT price_versions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY providers.probe_results
    ADD CONSTRAINT probe_results_pkey PRIMARY KEY (provider_id, at);

ALTER TABLE ONLY providers.probes
    ADD CONSTRAINT probes_pkey PRIMARY KEY (provider_id);

ALTER TABLE ONLY providers.provider_keys
    ADD CONSTRAINT provider_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY providers.providers
    ADD CONSTRAINT providers_pkey PRIMARY KEY (id);

ALTER TABLE ONLY providers.rate_limits
    ADD CONSTRAINT rate_limits_pkey PRIMARY KEY (provider_key_id);

ALTER TABLE ONLY providers.route_versions
    ADD CONSTRAINT route_versions_pkey PRIMARY KEY (route_id, version_number);

ALTER TABLE ONLY providers.routes
    ADD CONSTRAINT routes_pkey PRIMARY KEY (id);

ALTER TABLE ONLY telemetry.batches
    ADD CONSTRAINT batches_pkey PRIMARY KEY (batch_id);

ALTER TABLE ONLY telemetry.batches_default
    ADD CONSTRAINT batches_default_pkey PRIMARY KEY (batch_id);

ALTER TABLE ONLY telemetry.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (id);

ALTER TABLE ONLY telemetry.differing
    ADD CONSTRAINT differing_pkey PRIMARY KEY (batch_id);

ALTER TABLE ONLY telemetry.receipts
    ADD CONSTRAINT receipts_pkey PRIMARY KEY (org_id, producer, batch_id);

ALTER TABLE ONLY telemetry.reconciliations
    ADD CONSTRAINT reconciliations_pkey PRIMARY KEY (org_id, day, producer);

ALTER TABLE ONLY telemetry.refreshes
    ADD CONSTRAINT refreshes_pkey PRIMARY KEY (name);

ALTER TABLE ONLY telemetry.stale_days
    ADD CONSTRAINT stale_days_pkey PRIMARY KEY (org_id, day);

ALTER TABLE ONLY telemetry.totals
    ADD CONSTRAINT totals_pkey PRIMARY KEY (org_id, slot);

ALTER TABLE ONLY telemetry.verified
    ADD CONSTRAINT verified_pkey PRIMARY KEY (org_id);

ALTER TABLE ONLY templates.dataset_rows
    ADD CONSTRAINT dataset_rows_pkey PRIMARY KEY (dataset_id, version_number, row_no);

ALTER TABLE ONLY templates.dataset_versions
    ADD CONSTRAINT dataset_versions_pkey PRIMARY KEY (dataset_id, version_number);

ALTER TABLE ONLY templates.datasets
    ADD CONSTRAINT datasets_org_id_id_key UNIQUE (org_id, id);

ALTER TABLE ONLY templates.datasets
    ADD CONSTRAINT datasets_pkey PRIMARY KEY (id);

ALTER TABLE ONLY templates.label_moves
    ADD CONSTRAINT label_moves_pkey PRIMARY KEY (id);

ALTER TABLE ONLY templates.labels
    ADD CONSTRAINT labels_pkey PRIMARY KEY (template_id, name);

ALTER TABLE ONLY templates.ratings
    ADD CONSTRAINT ratings_id_key UNIQUE (id);

ALTER TABLE ONLY templates.ratings
    ADD CONSTRAINT ratings_pkey PRIMARY KEY (template_id, version_number, user_id);

ALTER TABLE ONLY templates.review_rules
    ADD CONSTRAINT review_rules_pkey PRIMARY KEY (org_id);

ALTER TABLE ONLY templates.shares
    ADD CONSTRAINT shares_pkey PRIMARY KEY (id);

ALTER TABLE ONLY templates.shares
    ADD CONSTRAINT shares_template_id_user_id_team_id_key UNIQUE NULLS NOT DISTINCT (template_id, user_id, team_id);

ALTER TABLE ONLY templates.templates
    ADD CONSTRAINT templates_org_id_id_key UNIQUE (org_id, id);

ALTER TABLE ONLY templates.templates
    ADD CONSTRAINT templates_pkey PRIMARY KEY (id);

ALTER TABLE ONLY templates.usages
    ADD CONSTRAINT usages_id_key UNIQUE (id);

ALTER TABLE ONLY templates.usages
    ADD CONSTRAINT usages_pkey PRIMARY KEY (run_id, template_id, version_number);

ALTER TABLE ONLY templates.versions
    ADD CONSTRAINT versions_org_id_template_id_version_number_key UNIQUE (org_id, template_id, version_number);

ALTER TABLE ONLY templates.versions
    ADD CONSTRAINT versions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY templates.versions
    ADD CONSTRAINT versions_template_id_version_number_key UNIQUE (template_id, version_number);

CREATE INDEX alerts_org ON accounting.alerts USING btree (org_id, id DESC);

CREATE INDEX alerts_user ON accounting.alerts USING btree (org_id, user_id, id DESC);

CREATE INDEX budgets_org ON accounting.budgets USING btree (org_id, id DESC);

CREATE INDEX deliveries_finished ON accounting.deliveries USING btree (finished_at) WHERE (finished_at IS NOT NULL);

CREATE INDEX deliveries_webhook ON accounting.deliveries USING btree (webhook_id, created_at DESC, id DESC);

CREATE INDEX webhooks_org ON accounting.webhooks USING btree (org_id, id DESC);

CREATE INDEX windows_org ON accounting.windows USING btree (org_id, window_start);

CREATE INDEX windows_start ON accounting.windows USING brin (window_start);

CREATE INDEX changes_open ON audit.configuration_changes USING btree (expires_at) WHERE (state = 'proposed'::text);

CREATE INDEX changes_org ON audit.configuration_changes USING btree (org_id, id DESC);

CREATE INDEX erasures_open ON audit.erasures USING btree (id) WHERE (state = 'open'::text);

CREATE INDEX events_about ON ONLY audit.events USING btree (entity_id) WHERE (entity = 'user'::text);

CREATE INDEX events_action ON ONLY audit.events USING btree (org_id, action, id DESC);

CREATE INDEX events_actor ON ONLY audit.events USING btree (actor_id, org_id, id DESC);

CREATE INDEX events_default_actor_id_org_id_id_idx ON audit.events_default USING btree (actor_id, org_id, id DESC);

CREATE INDEX events_default_entity_id_idx ON audit.events_default USING btree (entity_id) WHERE (entity = 'user'::text);

CREATE INDEX events_index ON ONLY audit.events USING btree (log_index);

CREATE INDEX events_default_log_index_idx ON audit.events_default USING btree (log_index);

CREATE INDEX events_default_org_id_action_id_idx ON audit.events_default USING btree (org_id, action, id DESC);

CREATE INDEX events_entity ON ONLY audit.events USING btree (org_id, entity, entity_id, id DESC);

CREATE INDEX events_default_org_id_entity_entity_id_id_idx ON audit.events_default USING btree (org_id, entity, entity_id, id DESC);

CREATE INDEX events_org ON ONLY audit.events USING btree (org_id, id DESC);

CREATE INDEX events_default_org_id_id_idx ON audit.events_default USING btree (org_id, id DESC);

CREATE INDEX events_log ON ONLY audit.events USING btree (org_id, log_index);

CREATE INDEX events_default_org_id_log_index_idx ON audit.events_default USING btree (org_id, log_index);

CREATE INDEX events_severity ON ONLY audit.events USING btree (org_id, severity, id DESC) WHERE (severity = ANY (ARRAY['warning'::text, 'error'::text, 'critical'::text]));

CREATE INDEX events_default_org_id_severity_id_idx ON audit.events_default USING btree (org_id, severity, id DESC) WHERE (severity = ANY (ARRAY['warning'::text, 'error'::text, 'critical'::text]));

CREATE INDEX events_words ON ONLY audit.events USING gin (audit.words(fields));

CREATE INDEX events_default_words_idx ON audit.events_default USING gin (audit.words(fields));

CREATE INDEX findings_org ON audit.findings USING btree (org_id, id DESC);

CREATE INDEX findings_recent ON audit.findings USING btree (rule, subject, occurred_at DESC);

CREATE INDEX legal_holds_org ON audit.legal_holds USING btree (org_id, id DESC);

CREATE INDEX pending_order ON audit.pending USING btree (xid);

CREATE UNIQUE INDEX restores_open ON audit.restores USING btree ((true)) WHERE (state <> 'done'::text);

CREATE INDEX rule_counts_age ON audit.rule_counts USING btree (bucket);

CREATE INDEX attempts_unknown ON ONLY campaigns.attempts USING btree (run_id DESC, cell_no DESC, attempt_no DESC) WHERE (state = 'unknown'::text);

CREATE INDEX attempts_default_run_id_cell_no_attempt_no_idx ON campaigns.attempts_default USING btree (run_id DESC, cell_no DESC, attempt_no DESC) WHERE (state = 'unknown'::text);

CREATE UNIQUE INDEX campaigns_name ON campaigns.campaigns USING btree (org_id, lower(name)) WHERE (deleted_at IS NULL);

CREATE INDEX campaigns_newest ON campaigns.campaigns USING btree (org_id, id DESC);

CREATE INDEX campaigns_public ON campaigns.campaigns USING btree (id DESC) WHERE (visibility = 'public'::text);

CREATE INDEX comments_author ON campaigns.comments USING btree (org_id, created_by);

CREATE INDEX comments_replies ON campaigns.comments USING btree (reply_to, id) WHERE (reply_to IS NOT NULL);

CREATE INDEX comments_run ON campaigns.comments USING btree (run_id, id DESC) WHERE ((reply_to IS NULL) AND (run_id IS NOT NULL));

CREATE INDEX comments_threads ON campaigns.comments USING btree (campaign_id, id DESC) WHERE (reply_to IS NULL);

CREATE INDEX overrides_run ON campaigns.overrides USING btree (run_id, id DESC);

CREATE UNIQUE INDEX overrides_standing ON campaigns.overrides USING btree (run_id, cell_no) WHERE (withdrawn_at IS NULL);

CREATE INDEX runs_campaign ON campaigns.runs USING btree (org_id, campaign_id, id DESC);

CREATE INDEX runs_live ON campaigns.runs USING btree (priority DESC, served_at) WHERE (state = 'running'::text);

CREATE UNIQUE INDEX runs_scoring ON campaigns.runs USING btree (scoring_id) WHERE (scoring_id IS NOT NULL);

CREATE INDEX schedules_due ON campaigns.schedules USING btree (next_at) WHERE (state = 'active'::text);

CREATE INDEX schedules_newest ON campaigns.schedules USING btree (org_id, campaign_id DESC);

CREATE INDEX schedules_watched ON campaigns.schedules USING btree (watched_run_id) WHERE (watched_run_id IS NOT NULL);

CREATE INDEX scorings_run ON campaigns.scorings USING btree (run_id, id DESC);

CREATE INDEX shards_open ON campaigns.shards USING btree (run_id, shard_no) WHERE (state = 'open'::text);

CREATE INDEX shares_team ON campaigns.shares USING btree (org_id, team_id) WHERE (team_id IS NOT NULL);

CREATE INDEX shares_user ON campaigns.shares USING btree (org_id, user_id) WHERE (user_id IS NOT NULL);

CREATE UNIQUE INDEX technique_suites_name ON campaigns.technique_suites USING btree (org_id, lower(name)) WHERE (deleted_at IS NULL);

CREATE INDEX technique_suites_newest ON campaigns.technique_suites USING btree (org_id, id DESC);

CREATE INDEX windows_time ON campaigns.windows USING btree (org_id, window_start);

CREATE UNIQUE INDEX api_keys_name ON identity.api_keys USING btree (org_id, user_id, lower(name)) WHERE is_active;

CREATE INDEX api_keys_user ON identity.api_keys USING btree (org_id, user_id, id);

CREATE INDEX devices_user ON identity.devices USING btree (user_id);

CREATE INDEX grants_role ON identity.grants USING btree (org_id, role_id) WHERE (revoked_at IS NULL);

CREATE INDEX grants_team ON identity.grants USING btree (org_id, team_id) WHERE ((revoked_at IS NULL) AND (team_id IS NOT NULL));

CREATE INDEX grants_user ON identity.grants USING btree (org_id, user_id) WHERE ((revoked_at IS NULL) AND (user_id IS NOT NULL));

CREATE INDEX invitations_newest ON identity.invitations USING btree (org_id, id DESC);

CREATE INDEX letters_written ON identity.letters USING btree (written_at);

CREATE INDEX linked_identities_user ON identity.linked_identities USING btree (org_id, user_id);

CREATE INDEX memberships_user ON identity.memberships USING btree (user_id);

CREATE INDEX one_time_tokens_expiry ON identity.one_time_tokens USING btree (expires_at);

CREATE INDEX one_time_tokens_user ON identity.one_time_tokens USING btree (user_id, purpose);

CREATE UNIQUE INDEX organisations_name ON identity.organisations USING btree (lower(name)) WHERE (deleted_at IS NULL);

CREATE INDEX password_history_user ON identity.password_history USING btree (user_id, replaced_at DESC);

CREATE INDEX registrations_email ON identity.registrations USING btree (lower(email), created_at DESC);

CREATE INDEX registrations_expiry ON identity.registrations USING btree (expires_at);

CREATE UNIQUE INDEX roles_name ON identity.roles USING btree (org_id, lower(name)) WHERE (deleted_at IS NULL);

CREATE INDEX sessions_expiry ON identity.sessions USING btree (absolute_expires_at);

CREATE INDEX sessions_org ON identity.sessions USING btree (org_id, user_id);

CREATE INDEX sessions_user ON identity.sessions USING btree (user_id, created_at);

CREATE UNIQUE INDEX sign_in_providers_name ON identity.sign_in_providers USING btree (org_id, lower(name)) WHERE (deleted_at IS NULL);

CREATE INDEX sign_ins_expiry ON identity.sign_ins USING btree (expires_at);

CREATE INDEX team_members_user ON identity.team_members USING btree (org_id, user_id, team_id);

CREATE UNIQUE INDEX teams_name ON identity.teams USING btree (org_id, lower(name)) WHERE (deleted_at IS NULL);

CREATE UNIQUE INDEX users_email ON identity.users USING btree (lower(email)) WHERE (deleted_at IS NULL);

CREATE INDEX users_erasure ON identity.users USING btree (erase_at) WHERE ((erase_at IS NOT NULL) AND (erased_at IS NULL));

CREATE INDEX users_home ON identity.users USING btree (home_org_id);

CREATE UNIQUE INDEX users_username ON identity.users USING btree (lower(username)) WHERE (deleted_at IS NULL);

CREATE INDEX idempotency_age ON ops.idempotency USING btree (created_at);

CREATE UNIQUE INDEX key_rotations_running ON ops.key_rotations USING btree ((true)) WHERE (state = 'running'::text);

CREATE INDEX outbox_due ON ops.outbox USING btree (due_at) WHERE (state <> 'dead'::text);

CREATE INDEX health_points_at ON providers.health_points USING brin (at);

CREATE INDEX key_usage_org ON providers.key_usage USING btree (org_id);

CREATE INDEX ledger_xid ON ONLY providers.ledger USING btree (xid);

CREATE INDEX ledger_default_xid_idx ON providers.ledger_default USING btree (xid);

CREATE INDEX model_aliases_model ON providers.model_aliases USING btree (model_id);

CREATE UNIQUE INDEX models_name ON providers.models USING btree (provider_id, name, version) WHERE (deleted_at IS NULL);

CREATE INDEX models_replaced_by ON providers.models USING btree (replaced_by) WHERE (replaced_by IS NOT NULL);

CREATE INDEX price_versions_valid ON providers.price_versions USING btree (model_id, valid_from DESC);

CREATE UNIQUE INDEX provider_keys_default ON providers.provider_keys USING btree (user_id, provider_id) WHERE (is_default AND is_active);

CREATE INDEX provider_keys_due ON providers.provider_keys USING btree (rotate_at) WHERE (is_active AND (rotate_at IS NOT NULL) AND (reminded_at IS NULL));

CREATE UNIQUE INDEX provider_keys_name ON providers.provider_keys USING btree (user_id, provider_id, name) WHERE is_active;

CREATE INDEX provider_keys_sealed ON providers.provider_keys USING btree ((((sealed ->> 'kek_version'::text))::integer), id) WHERE (sealed ? 'kek_version'::text);

CREATE UNIQUE INDEX providers_name ON providers.providers USING btree (org_id, name) NULLS NOT DISTINCT WHERE (deleted_at IS NULL);

CREATE UNIQUE INDEX routes_name ON providers.routes USING btree (org_id, lower(name)) WHERE (deleted_at IS NULL);

CREATE INDEX batches_waiting ON ONLY telemetry.batches USING btree (batch_id) WHERE (state = 'waiting'::text);

CREATE INDEX batches_default_batch_id_idx ON telemetry.batches_default USING btree (batch_id) WHERE (state = 'waiting'::text);

CREATE INDEX batches_new ON ONLY telemetry.batches USING btree (batch_id) WHERE ((state = 'waiting'::text) AND (group_id IS NULL));

CREATE INDEX batches_default_batch_id_idx1 ON telemetry.batches_default USING btree (batch_id) WHERE ((state = 'waiting'::text) AND (group_id IS NULL));

CREATE INDEX batches_open ON ONLY telemetry.batches USING btree (group_id) WHERE ((state = 'waiting'::text) AND (group_id IS NOT NULL));

CREATE INDEX batches_default_group_id_idx ON telemetry.batches_default USING btree (group_id) WHERE ((state = 'waiting'::text) AND (group_id IS NOT NULL));

CREATE INDEX batches_tail ON ONLY telemetry.batches USING btree (org_id, xid, batch_id);

CREATE INDEX batches_default_org_id_xid_batch_id_idx ON telemetry.batches_default USING btree (org_id, xid, batch_id);

CREATE INDEX dead_letters_newest ON telemetry.dead_letters USING btree (org_id, id DESC);

CREATE INDEX differing_checked ON telemetry.differing USING btree (org_id, checked_at);

CREATE INDEX receipts_age ON telemetry.receipts USING brin (created_at);

CREATE UNIQUE INDEX user_summaries_key ON telemetry.user_summaries USING btree (org_id, user_id);

CREATE UNIQUE INDEX datasets_name ON templates.datasets USING btree (org_id, lower(name)) WHERE (deleted_at IS NULL);

CREATE INDEX datasets_newest ON templates.datasets USING btree (org_id, id DESC);

CREATE INDEX label_moves_template ON templates.label_moves USING btree (template_id, id DESC);

CREATE INDEX ratings_template ON templates.ratings USING btree (template_id, id DESC);

CREATE INDEX shares_team ON templates.shares USING btree (org_id, team_id) WHERE (team_id IS NOT NULL);

CREATE INDEX shares_user ON templates.shares USING btree (org_id, user_id) WHERE (user_id IS NOT NULL);

CREATE UNIQUE INDEX templates_import ON templates.templates USING btree (org_id, created_by, import_hash) WHERE (deleted_at IS NULL);

CREATE INDEX templates_newest ON templates.templates USING btree (org_id, id DESC);

CREATE INDEX templates_public ON templates.templates USING btree (id DESC) WHERE (sharing_level = 'public'::text);

CREATE INDEX templates_search ON templates.templates USING gin (search) WITH (fastupdate=off);

CREATE INDEX usages_template ON templates.usages USING btree (template_id, id DESC);

ALTER INDEX audit.events_actor ATTACH PARTITION audit.events_default_actor_id_org_id_id_idx;

ALTER INDEX audit.events_about ATTACH PARTITION audit.events_default_entity_id_idx;

ALTER INDEX audit.events_index ATTACH PARTITION audit.events_default_log_index_idx;

ALTER INDEX audit.events_action ATTACH PARTITION audit.events_default_org_id_action_id_idx;

ALTER INDEX audit.events_entity ATTACH PARTITION audit.events_default_org_id_entity_entity_id_id_idx;

ALTER INDEX audit.events_org ATTACH PARTITION audit.events_default_org_id_id_idx;

ALTER INDEX audit.events_log ATTACH PARTITION audit.events_default_org_id_log_index_idx;

ALTER INDEX audit.events_severity ATTACH PARTITION audit.events_default_org_id_severity_id_idx;

ALTER INDEX audit.events_pkey ATTACH PARTITION audit.events_default_pkey;

ALTER INDEX audit.events_words ATTACH PARTITION audit.events_default_words_idx;

ALTER INDEX campaigns.attempts_pkey ATTACH PARTITION campaigns.attempts_default_pkey;

ALTER INDEX campaigns.attempts_unknown ATTACH PARTITION campaigns.attempts_default_run_id_cell_no_attempt_no_idx;

ALTER INDEX campaigns.executions_pkey ATTACH PARTITION campaigns.executions_default_pkey;

ALTER INDEX campaigns.flushes_pkey ATTACH PARTITION campaigns.flushes_default_pkey;

ALTER INDEX campaigns.turns_pkey ATTACH PARTITION campaigns.turns_default_pkey;

ALTER INDEX campaigns.verdicts_pkey ATTACH PARTITION campaigns.verdicts_default_pkey;

ALTER INDEX providers.ledger_pkey ATTACH PARTITION providers.ledger_default_pkey;

ALTER INDEX providers.ledger_xid ATTACH PARTITION providers.ledger_default_xid_idx;

ALTER INDEX telemetry.batches_waiting ATTACH PARTITION telemetry.batches_default_batch_id_idx;

ALTER INDEX telemetry.batches_new ATTACH PARTITION telemetry.batches_default_batch_id_idx1;

ALTER INDEX telemetry.batches_open ATTACH PARTITION telemetry.batches_default_group_id_idx;

ALTER INDEX telemetry.batches_tail ATTACH PARTITION telemetry.batches_default_org_id_xid_batch_id_idx;

ALTER INDEX telemetry.batches_pkey ATTACH PARTITION telemetry.batches_default_pkey;

CREATE TRIGGER hold_key_version BEFORE INSERT OR UPDATE OF sealed, previous_sealed ON accounting.webhooks FOR EACH ROW EXECUTE FUNCTION ops.hold_key_version('sealed', 'previous_sealed');

CREATE TRIGGER touch BEFORE UPDATE ON accounting.budgets FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON accounting.webhooks FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER no_change BEFORE DELETE OR UPDATE ON audit.checkpoints FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.checkpoints ENABLE ALWAYS TRIGGER no_change;

CREATE TRIGGER no_change BEFORE DELETE OR UPDATE ON audit.cosignatures FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.cosignatures ENABLE ALWAYS TRIGGER no_change;

CREATE TRIGGER no_change BEFORE DELETE OR UPDATE ON audit.events FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.events ENABLE ALWAYS TRIGGER no_change;

CREATE TRIGGER no_change BEFORE DELETE OR UPDATE ON audit.leaves FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.leaves ENABLE ALWAYS TRIGGER no_change;

CREATE TRIGGER no_change BEFORE DELETE OR UPDATE ON audit.nodes FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.nodes ENABLE ALWAYS TRIGGER no_change;

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.checkpoints FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.checkpoints ENABLE ALWAYS TRIGGER no_truncate;

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.cosignatures FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.cosignatures ENABLE ALWAYS TRIGGER no_truncate;

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.events FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.events ENABLE ALWAYS TRIGGER no_truncate;

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.events_default FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.events_default ENABLE ALWAYS TRIGGER no_truncate;

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.leaves FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.leaves ENABLE ALWAYS TRIGGER no_truncate;

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.nodes FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.nodes ENABLE ALWAYS TRIGGER no_truncate;

CREATE TRIGGER count_running_time BEFORE UPDATE OF state ON campaigns.runs FOR EACH ROW WHEN ((old.state <> new.state)) EXECUTE FUNCTION campaigns.count_running_time();

CREATE TRIGGER touch BEFORE UPDATE ON campaigns.campaigns FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON campaigns.schedules FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON campaigns.technique_suites FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER hold_key_version BEFORE INSERT OR UPDATE OF sealed ON identity.sign_in_providers FOR EACH ROW EXECUTE FUNCTION ops.hold_key_version('sealed');

CREATE TRIGGER hold_key_version BEFORE INSERT OR UPDATE OF totp_sealed ON identity.users FOR EACH ROW EXECUTE FUNCTION ops.hold_key_version('totp_sealed');

CREATE TRIGGER touch BEFORE UPDATE ON identity.organisations FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON identity.roles FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON identity.sign_in_providers FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON identity.teams FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON identity.users FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER hold_key_version BEFORE INSERT OR UPDATE OF sealed ON ops.secrets FOR EACH ROW EXECUTE FUNCTION ops.hold_key_version('sealed');

CREATE TRIGGER touch BEFORE UPDATE ON ops.key_rotations FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER fit BEFORE INSERT ON providers.price_versions FOR EACH ROW EXECUTE FUNCTION providers.fit_price();

CREATE TRIGGER hold_key_version BEFORE INSERT OR UPDATE OF sealed ON providers.provider_keys FOR EACH ROW EXECUTE FUNCTION ops.hold_key_version('sealed');

CREATE TRIGGER keep BEFORE UPDATE ON providers.price_versions FOR EACH ROW EXECUTE FUNCTION providers.keep_price();

CREATE TRIGGER note_host BEFORE INSERT OR UPDATE OF row_version ON providers.provider_keys FOR EACH ROW EXECUTE FUNCTION providers.note_host();

CREATE TRIGGER touch BEFORE UPDATE ON providers.models FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON providers.provider_keys FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON providers.providers FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON providers.rate_limits FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON providers.routes FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER count_rating AFTER INSERT OR DELETE OR UPDATE ON templates.ratings FOR EACH ROW EXECUTE FUNCTION templates.count_rating();

CREATE TRIGGER count_usage AFTER INSERT OR UPDATE ON templates.usages FOR EACH ROW EXECUTE FUNCTION templates.count_usage();

CREATE TRIGGER index_text BEFORE INSERT OR UPDATE OF title, description, tags, body, state, technique_type, vulnerability_type, sharing_level, team_id, deleted_at ON templates.templates FOR EACH ROW EXECUTE FUNCTION templates.index_text();

CREATE TRIGGER touch BEFORE UPDATE ON templates.datasets FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON templates.ratings FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON templates.review_rules FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE OF title, description, technique_type, vulnerability_type, tags, state, sharing_level, team_id, submitted_by, version_number, deleted_at, metadata ON templates.templates FOR EACH ROW EXECUTE FUNCTION ops.touch();

ALTER TABLE ONLY accounting.budgets
    ADD CONSTRAINT budgets_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY accounting.deliveries
    ADD CONSTRAINT deliveries_webhook_id_fkey FOREIGN KEY (webhook_id) REFERENCES accounting.webhooks(id) ON DELETE RESTRICT;

ALTER TABLE ONLY accounting.delivery_tries
    ADD CONSTRAINT delivery_tries_delivery_id_fkey FOREIGN KEY (delivery_id) REFERENCES accounting.deliveries(id) ON DELETE CASCADE;

ALTER TABLE ONLY accounting.webhooks
    ADD CONSTRAINT webhooks_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY audit.cosignatures
    ADD CONSTRAINT cosignatures_size_fkey FOREIGN KEY (size) REFERENCES audit.checkpoints(size) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.analysed
    ADD CONSTRAINT analysed_run_id_fkey FOREIGN KEY (run_id) REFERENCES campaigns.runs(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.campaigns
    ADD CONSTRAINT campaigns_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.campaigns
    ADD CONSTRAINT campaigns_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.campaigns
    ADD CONSTRAINT campaigns_org_id_team_id_fkey FOREIGN KEY (org_id, team_id) REFERENCES identity.teams(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.comments
    ADD CONSTRAINT comments_campaign_id_reply_to_fkey FOREIGN KEY (campaign_id, reply_to) REFERENCES campaigns.comments(campaign_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.comments
    ADD CONSTRAINT comments_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.comments
    ADD CONSTRAINT comments_org_id_campaign_id_fkey FOREIGN KEY (org_id, campaign_id) REFERENCES campaigns.campaigns(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.comments
    ADD CONSTRAINT comments_run_id_fkey FOREIGN KEY (run_id) REFERENCES campaigns.runs(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.overrides
    ADD CONSTRAINT overrides_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.overrides
    ADD CONSTRAINT overrides_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.overrides
    ADD CONSTRAINT overrides_run_id_fkey FOREIGN KEY (run_id) REFERENCES campaigns.runs(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.runs
    ADD CONSTRAINT runs_org_id_campaign_id_fkey FOREIGN KEY (org_id, campaign_id) REFERENCES campaigns.campaigns(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.runs
    ADD CONSTRAINT runs_scoring_id_fkey FOREIGN KEY (scoring_id) REFERENCES campaigns.scorings(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.schedules
    ADD CONSTRAINT schedules_org_id_campaign_id_fkey FOREIGN KEY (org_id, campaign_id) REFERENCES campaigns.campaigns(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.schedules
    ADD CONSTRAINT schedules_scheduled_by_fkey FOREIGN KEY (scheduled_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.scorings
    ADD CONSTRAINT scorings_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.scorings
    ADD CONSTRAINT scorings_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.scorings
    ADD CONSTRAINT scorings_run_id_fkey FOREIGN KEY (run_id) REFERENCES campaigns.runs(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.shares
    ADD CONSTRAINT shares_org_id_campaign_id_fkey FOREIGN KEY (org_id, campaign_id) REFERENCES campaigns.campaigns(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.shares
    ADD CONSTRAINT shares_org_id_team_id_fkey FOREIGN KEY (org_id, team_id) REFERENCES identity.teams(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.shares
    ADD CONSTRAINT shares_org_id_user_id_fkey FOREIGN KEY (org_id, user_id) REFERENCES identity.memberships(org_id, user_id) ON DELETE CASCADE;

ALTER TABLE ONLY campaigns.shares
    ADD CONSTRAINT shares_shared_by_fkey FOREIGN KEY (shared_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.technique_suite_versions
    ADD CONSTRAINT technique_suite_versions_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.technique_suite_versions
    ADD CONSTRAINT technique_suite_versions_org_id_suite_id_fkey FOREIGN KEY (org_id, suite_id) REFERENCES campaigns.technique_suites(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.technique_suites
    ADD CONSTRAINT technique_suites_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.technique_suites
    ADD CONSTRAINT technique_suites_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.windows
    ADD CONSTRAINT windows_org_id_campaign_id_fkey FOREIGN KEY (org_id, campaign_id) REFERENCES campaigns.campaigns(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.devices
    ADD CONSTRAINT devices_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.grants
    ADD CONSTRAINT grants_granted_by_fkey FOREIGN KEY (granted_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.grants
    ADD CONSTRAINT grants_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.grants
    ADD CONSTRAINT grants_org_id_role_id_fkey FOREIGN KEY (org_id, role_id) REFERENCES identity.roles(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.grants
    ADD CONSTRAINT grants_org_id_team_id_fkey FOREIGN KEY (org_id, team_id) REFERENCES identity.teams(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.grants
    ADD CONSTRAINT grants_org_id_user_id_fkey FOREIGN KEY (org_id, user_id) REFERENCES identity.memberships(org_id, user_id) ON DELETE CASCADE;

ALTER TABLE ONLY identity.invitations
    ADD CONSTRAINT invitations_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.invitations
    ADD CONSTRAINT invitations_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.linked_identities
    ADD CONSTRAINT linked_identities_org_id_user_id_fkey FOREIGN KEY (org_id, user_id) REFERENCES identity.memberships(org_id, user_id) ON DELETE CASCADE;

ALTER TABLE ONLY identity.memberships
    ADD CONSTRAINT memberships_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.memberships
    ADD CONSTRAINT memberships_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.one_time_tokens
    ADD CONSTRAINT one_time_tokens_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.one_time_tokens
    ADD CONSTRAINT one_time_tokens_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.password_history
    ADD CONSTRAINT password_history_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.recovery_codes
    ADD CONSTRAINT recovery_codes_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.redemptions
    ADD CONSTRAINT redemptions_org_id_invitation_id_fkey FOREIGN KEY (org_id, invitation_id) REFERENCES identity.invitations(org_id, id) ON DELETE CASCADE;

ALTER TABLE ONLY identity.redemptions
    ADD CONSTRAINT redemptions_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.refresh_tokens
    ADD CONSTRAINT refresh_tokens_session_id_fkey FOREIGN KEY (session_id) REFERENCES identity.sessions(id) ON DELETE CASCADE;

ALTER TABLE ONLY identity.registrations
    ADD CONSTRAINT registrations_invitation_id_fkey FOREIGN KEY (invitation_id) REFERENCES identity.invitations(id) ON DELETE CASCADE;

ALTER TABLE ONLY identity.roles
    ADD CONSTRAINT roles_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.roles
    ADD CONSTRAINT roles_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.sessions
    ADD CONSTRAINT sessions_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.sessions
    ADD CONSTRAINT sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.sign_in_providers
    ADD CONSTRAINT sign_in_providers_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.sign_in_providers
    ADD CONSTRAINT sign_in_providers_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.team_members
    ADD CONSTRAINT team_members_added_by_fkey FOREIGN KEY (added_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.team_members
    ADD CONSTRAINT team_members_org_id_team_id_fkey FOREIGN KEY (org_id, team_id) REFERENCES identity.teams(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.team_members
    ADD CONSTRAINT team_members_org_id_user_id_fkey FOREIGN KEY (org_id, user_id) REFERENCES identity.memberships(org_id, user_id) ON DELETE CASCADE;

ALTER TABLE ONLY identity.teams
    ADD CONSTRAINT teams_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.teams
    ADD CONSTRAINT teams_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.users
    ADD CONSTRAINT users_home_org_id_fkey FOREIGN KEY (home_org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.allowed_targets
    ADD CONSTRAINT allowed_targets_model_id_fkey FOREIGN KEY (model_id) REFERENCES providers.models(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.allowed_targets
    ADD CONSTRAINT allowed_targets_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.circuit_holds
    ADD CONSTRAINT circuit_holds_model_id_fkey FOREIGN KEY (model_id) REFERENCES providers.models(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.circuits
    ADD CONSTRAINT circuits_model_id_fkey FOREIGN KEY (model_id) REFERENCES providers.models(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.model_aliases
    ADD CONSTRAINT model_aliases_model_id_fkey FOREIGN KEY (model_id) REFERENCES providers.models(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.model_aliases
    ADD CONSTRAINT model_aliases_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES providers.providers(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.models
    ADD CONSTRAINT models_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES providers.providers(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.models
    ADD CONSTRAINT models_replaced_by_fkey FOREIGN KEY (replaced_by) REFERENCES providers.models(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.price_versions
    ADD CONSTRAINT price_versions_model_id_fkey FOREIGN KEY (model_id) REFERENCES providers.models(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.probes
    ADD CONSTRAINT probes_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES providers.providers(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.provider_keys
    ADD CONSTRAINT provider_keys_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.provider_keys
    ADD CONSTRAINT provider_keys_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES providers.providers(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.provider_keys
    ADD CONSTRAINT provider_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.providers
    ADD CONSTRAINT providers_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.rate_limits
    ADD CONSTRAINT rate_limits_provider_key_id_fkey FOREIGN KEY (provider_key_id) REFERENCES providers.provider_keys(id) ON DELETE CASCADE;

ALTER TABLE ONLY providers.route_versions
    ADD CONSTRAINT route_versions_route_id_fkey FOREIGN KEY (route_id) REFERENCES providers.routes(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.routes
    ADD CONSTRAINT routes_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.routes
    ADD CONSTRAINT routes_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.dataset_rows
    ADD CONSTRAINT dataset_rows_dataset_id_version_number_fkey FOREIGN KEY (dataset_id, version_number) REFERENCES templates.dataset_versions(dataset_id, version_number) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.dataset_versions
    ADD CONSTRAINT dataset_versions_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.dataset_versions
    ADD CONSTRAINT dataset_versions_org_id_dataset_id_fkey FOREIGN KEY (org_id, dataset_id) REFERENCES templates.datasets(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.datasets
    ADD CONSTRAINT datasets_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.datasets
    ADD CONSTRAINT datasets_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.label_moves
    ADD CONSTRAINT label_moves_moved_by_fkey FOREIGN KEY (moved_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.label_moves
    ADD CONSTRAINT label_moves_template_id_fkey FOREIGN KEY (template_id) REFERENCES templates.templates(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.labels
    ADD CONSTRAINT labels_moved_by_fkey FOREIGN KEY (moved_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.labels
    ADD CONSTRAINT labels_org_id_template_id_version_number_fkey FOREIGN KEY (org_id, template_id, version_number) REFERENCES templates.versions(org_id, template_id, version_number) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.ratings
    ADD CONSTRAINT ratings_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.ratings
    ADD CONSTRAINT ratings_template_id_version_number_fkey FOREIGN KEY (template_id, version_number) REFERENCES templates.versions(template_id, version_number) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.ratings
    ADD CONSTRAINT ratings_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.review_rules
    ADD CONSTRAINT review_rules_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.review_rules
    ADD CONSTRAINT review_rules_updated_by_fkey FOREIGN KEY (updated_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.shares
    ADD CONSTRAINT shares_org_id_team_id_fkey FOREIGN KEY (org_id, team_id) REFERENCES identity.teams(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.shares
    ADD CONSTRAINT shares_org_id_template_id_fkey FOREIGN KEY (org_id, template_id) REFERENCES templates.templates(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.shares
    ADD CONSTRAINT shares_org_id_user_id_fkey FOREIGN KEY (org_id, user_id) REFERENCES identity.memberships(org_id, user_id) ON DELETE CASCADE;

ALTER TABLE ONLY templates.shares
    ADD CONSTRAINT shares_shared_by_fkey FOREIGN KEY (shared_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.templates
    ADD CONSTRAINT templates_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.templates
    ADD CONSTRAINT templates_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.templates
    ADD CONSTRAINT templates_org_id_team_id_fkey FOREIGN KEY (org_id, team_id) REFERENCES identity.teams(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.templates
    ADD CONSTRAINT templates_submitted_by_fkey FOREIGN KEY (submitted_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.usages
    ADD CONSTRAINT usages_template_id_version_number_fkey FOREIGN KEY (template_id, version_number) REFERENCES templates.versions(template_id, version_number) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.usages
    ADD CONSTRAINT usages_used_by_fkey FOREIGN KEY (used_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.versions
    ADD CONSTRAINT versions_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.versions
    ADD CONSTRAINT versions_org_id_template_id_fkey FOREIGN KEY (org_id, template_id) REFERENCES templates.templates(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.versions
    ADD CONSTRAINT versions_org_id_template_id_parent_version_number_fkey FOREIGN KEY (org_id, template_id, parent_version_number) REFERENCES templates.versions(org_id, template_id, version_number) ON DELETE RESTRICT;

ALTER TABLE accounting.alerts ENABLE ROW LEVEL SECURITY;

ALTER TABLE accounting.budgets ENABLE ROW LEVEL SECURITY;

ALTER TABLE accounting.deliveries ENABLE ROW LEVEL SECURITY;

ALTER TABLE accounting.delivery_tries ENABLE ROW LEVEL SECURITY;

CREATE POLICY lookup ON accounting.webhooks FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY machinery ON accounting.usage_daily TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON accounting.waits FOR SELECT TO chimera_worker USING (true);

CREATE POLICY machinery ON accounting.windows FOR SELECT TO chimera_worker USING (true);

CREATE POLICY tenant ON accounting.alerts TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON accounting.budgets TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON accounting.deliveries TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON accounting.delivery_tries TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON accounting.usage_daily TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON accounting.waits TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON accounting.webhooks TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON accounting.windows TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY upkeep ON accounting.deliveries FOR DELETE TO chimera_worker USING ((finished_at < (now() - '30 days'::interval)));

CREATE POLICY upkeep ON accounting.windows FOR DELETE TO chimera_worker USING ((window_start < (((now() AT TIME ZONE 'UTC'::text))::date - 120)));

CREATE POLICY upkeep_look ON accounting.deliveries FOR SELECT TO chimera_worker USING ((finished_at < (now() - '30 days'::interval)));

ALTER TABLE accounting.usage_daily ENABLE ROW LEVEL SECURITY;

ALTER TABLE accounting.waits ENABLE ROW LEVEL SECURITY;

ALTER TABLE accounting.webhooks ENABLE ROW LEVEL SECURITY;

ALTER TABLE accounting.windows ENABLE ROW LEVEL SECURITY;

CREATE POLICY capture ON audit.pending FOR INSERT TO chimera_app, chimera_worker WITH CHECK (true);

ALTER TABLE audit.configuration ENABLE ROW LEVEL SECURITY;

ALTER TABLE audit.configuration_changes ENABLE ROW LEVEL SECURITY;

ALTER TABLE audit.daily ENABLE ROW LEVEL SECURITY;

CREATE POLICY dropping ON audit.configuration FOR SELECT TO chimera_owner USING (true);

CREATE POLICY dropping ON audit.events FOR SELECT TO chimera_owner USING (true);

CREATE POLICY dropping ON audit.legal_holds FOR SELECT TO chimera_owner USING (true);

CREATE POLICY erasing ON audit.events FOR UPDATE TO chimera_owner USING (true);

CREATE POLICY erasing ON audit.pending FOR UPDATE TO chimera_owner USING (true);

CREATE POLICY erasing_sees ON audit.pending FOR SELECT TO chimera_owner USING (true);

ALTER TABLE audit.events ENABLE ROW LEVEL SECURITY;

ALTER TABLE audit.events_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE audit.findings ENABLE ROW LEVEL SECURITY;

ALTER TABLE audit.key_networks ENABLE ROW LEVEL SECURITY;

ALTER TABLE audit.legal_holds ENABLE ROW LEVEL SECURITY;

CREATE POLICY lookup ON audit.events FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY machinery ON audit.configuration TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON audit.configuration_changes TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON audit.daily TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON audit.events FOR SELECT TO chimera_worker, chimera_upkeep USING (true);

CREATE POLICY machinery ON audit.findings TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON audit.key_networks TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON audit.legal_holds TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON audit.rule_counts TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY operator ON audit.findings TO chimera_app USING (((org_id IS NULL) AND (( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text))) WITH CHECK (((org_id IS NULL) AND (( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)));

CREATE POLICY operator ON audit.legal_holds TO chimera_app USING (((org_id IS NULL) AND (( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text))) WITH CHECK (((org_id IS NULL) AND (( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)));

CREATE POLICY operator ON audit.restores TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)) WITH CHECK ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

ALTER TABLE audit.pending ENABLE ROW LEVEL SECURITY;

ALTER TABLE audit.restores ENABLE ROW LEVEL SECURITY;

ALTER TABLE audit.rule_counts ENABLE ROW LEVEL SECURITY;

CREATE POLICY sealer ON audit.events TO chimera_sealer USING (true) WITH CHECK (true);

CREATE POLICY sealer ON audit.pending TO chimera_sealer USING (true);

CREATE POLICY sealer ON audit.restores TO chimera_sealer USING (true) WITH CHECK (true);

CREATE POLICY tenant ON audit.configuration TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON audit.configuration_changes TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON audit.daily TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON audit.findings TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON audit.key_networks TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON audit.legal_holds TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON audit.rule_counts TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant_read ON audit.events FOR SELECT TO chimera_app, chimera_auditor USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant_read ON audit.pending FOR SELECT TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY upkeep ON audit.configuration FOR SELECT TO chimera_upkeep USING (true);

CREATE POLICY upkeep ON audit.legal_holds FOR SELECT TO chimera_upkeep USING (true);

ALTER TABLE campaigns.analysed ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.attempts ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.attempts_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.campaigns ENABLE ROW LEVEL SECURITY;

CREATE POLICY changed ON campaigns.campaigns FOR UPDATE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.may(id,
CASE
    WHEN (deleted_at IS NULL) THEN 'edit'::text
    ELSE 'admin'::text
END))) WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.may(id,
CASE
    WHEN (deleted_at IS NULL) THEN 'edit'::text
    ELSE 'admin'::text
END)));

CREATE POLICY changed ON campaigns.comments FOR UPDATE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (((created_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.sees(campaign_id)) OR campaigns.may(campaign_id, 'admin'::text)))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY changed ON campaigns.overrides FOR UPDATE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.may_run(run_id, 'edit'::text))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY changed ON campaigns.run_money FOR UPDATE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text) OR campaigns.may_run(run_id, 'execute'::text)))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY changed ON campaigns.runs FOR UPDATE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text) OR campaigns.may(campaign_id, 'execute'::text)))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY changed ON campaigns.schedules FOR UPDATE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.may(campaign_id, 'execute'::text))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY changed ON campaigns.scorings FOR UPDATE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.may_run(run_id, 'execute'::text))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY changed ON campaigns.shares FOR UPDATE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.may(campaign_id, 'admin'::text))) WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (shared_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))));

ALTER TABLE campaigns.comments ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.executions ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.executions_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.flushes ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.flushes_default ENABLE ROW LEVEL SECURITY;

CREATE POLICY lookup ON campaigns.comments FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON campaigns.shares FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY machinery ON campaigns.analysed FOR SELECT TO chimera_worker USING (true);

CREATE POLICY machinery ON campaigns.runs TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON campaigns.schedules TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON campaigns.shards TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY made ON campaigns.campaigns FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (created_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")) AND (visibility <> 'public'::text)));

CREATE POLICY made ON campaigns.comments FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (created_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.may(campaign_id, 'comment'::text)));

CREATE POLICY made ON campaigns.overrides FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (created_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.may_run(run_id, 'edit'::text)));

CREATE POLICY made ON campaigns.run_money FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text) OR campaigns.may_run(run_id, 'execute'::text))));

CREATE POLICY made ON campaigns.run_plans FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text) OR campaigns.may_run(run_id, 'execute'::text))));

CREATE POLICY made ON campaigns.runs FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.may(campaign_id, 'execute'::text)));

CREATE POLICY made ON campaigns.schedules FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.may(campaign_id, 'execute'::text)));

CREATE POLICY made ON campaigns.scorings FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text) OR campaigns.may_run(run_id, 'execute'::text))));

CREATE POLICY made ON campaigns.seats FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text) OR campaigns.may_run(run_id, 'execute'::text))));

CREATE POLICY made ON campaigns.shards FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (run_id = ANY (( SELECT campaigns.runs_in_view() AS runs_in_view)::uuid[]))));

CREATE POLICY made ON campaigns.shares FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (shared_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.may(campaign_id, 'admin'::text)));

ALTER TABLE campaigns.model_tallies ENABLE ROW LEVEL SECURITY;

CREATE POLICY operator ON campaigns.attempts FOR SELECT TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

CREATE POLICY operator ON campaigns.runs FOR SELECT TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

CREATE POLICY operator ON campaigns.shards TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

ALTER TABLE campaigns.overrides ENABLE ROW LEVEL SECURITY;

CREATE POLICY removed ON campaigns.shares FOR DELETE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.may(campaign_id, 'admin'::text)));

ALTER TABLE campaigns.run_money ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.run_plans ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.runs ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.schedules ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.scorings ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.seats ENABLE ROW LEVEL SECURITY;

CREATE POLICY seen ON campaigns.attempts FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text)) OR (run_id = ANY (( SELECT campaigns.runs_in_view() AS runs_in_view)::uuid[])) OR campaigns.sees_run(run_id)));

CREATE POLICY seen ON campaigns.campaigns FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((visibility = ANY (ARRAY['organisation'::text, 'public'::text])) OR (created_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")) OR (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text) OR ((visibility = 'team'::text) AND (team_id = ANY (( SELECT identity.own_teams() AS own_teams)::uuid[]))) OR (id = ANY (( SELECT campaigns.own_shares() AS own_shares)::uuid[])))) OR ((visibility = 'public'::text) AND (deleted_at IS NULL) AND (NULLIF(current_setting('app.org_id'::text, true), ''::text) IS NOT NULL))));

CREATE POLICY seen ON campaigns.comments FOR SELECT TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text) OR campaigns.sees(campaign_id))));

CREATE POLICY seen ON campaigns.executions FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text)) OR (run_id = ANY (( SELECT campaigns.runs_in_view() AS runs_in_view)::uuid[])) OR campaigns.sees_run(run_id)));

CREATE POLICY seen ON campaigns.flushes FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text)) OR (run_id = ANY (( SELECT campaigns.runs_in_view() AS runs_in_view)::uuid[])) OR campaigns.sees_run(run_id)));

CREATE POLICY seen ON campaigns.model_tallies FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text)) OR (run_id = ANY (( SELECT campaigns.runs_in_view() AS runs_in_view)::uuid[])) OR campaigns.sees_run(run_id)));

CREATE POLICY seen ON campaigns.overrides FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text)) OR (run_id = ANY (( SELECT campaigns.runs_in_view() AS runs_in_view)::uuid[])) OR campaigns.sees_run(run_id)));

CREATE POLICY seen ON campaigns.run_money FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text)) OR (run_id = ANY (( SELECT campaigns.runs_in_view() AS runs_in_view)::uuid[])) OR campaigns.sees_run(run_id)));

CREATE POLICY seen ON campaigns.run_plans FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text)) OR (run_id = ANY (( SELECT campaigns.runs_in_view() AS runs_in_view)::uuid[])) OR campaigns.sees_run(run_id)));

CREATE POLICY seen ON campaigns.runs FOR SELECT TO chimera_app USING (
CASE
    WHEN (org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) THEN ((( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text) OR (EXISTS ( SELECT
       FROM campaigns.campaigns c
      WHERE ((c.id = runs.campaign_id) AND (c.org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))))))
    ELSE campaigns.sees(campaign_id)
END);

CREATE POLICY seen ON campaigns.schedules FOR SELECT TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text) OR campaigns.sees(campaign_id))));

CREATE POLICY seen ON campaigns.scorings FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text)) OR (run_id = ANY (( SELECT campaigns.runs_in_view() AS runs_in_view)::uuid[])) OR campaigns.sees_run(run_id)));

CREATE POLICY seen ON campaigns.seats FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text)) OR (run_id = ANY (( SELECT campaigns.runs_in_view() AS runs_in_view)::uuid[])) OR campaigns.sees_run(run_id)));

CREATE POLICY seen ON campaigns.shards FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text)) OR (run_id = ANY (( SELECT campaigns.runs_in_view() AS runs_in_view)::uuid[])) OR campaigns.sees_run(run_id)));

CREATE POLICY seen ON campaigns.shares FOR SELECT TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text) OR campaigns.sees(campaign_id))));

CREATE POLICY seen ON campaigns.tallies FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text)) OR (run_id = ANY (( SELECT campaigns.runs_in_view() AS runs_in_view)::uuid[])) OR campaigns.sees_run(run_id)));

CREATE POLICY seen ON campaigns.turns FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text)) OR (run_id = ANY (( SELECT campaigns.runs_in_view() AS runs_in_view)::uuid[])) OR campaigns.sees_run(run_id)));

CREATE POLICY seen ON campaigns.verdicts FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text)) OR (scoring_id = ANY (( SELECT campaigns.scorings_in_view() AS scorings_in_view)::uuid[])) OR campaigns.sees_scoring(scoring_id)));

CREATE POLICY seen ON campaigns.windows FOR SELECT TO chimera_app USING (
CASE
    WHEN (org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) THEN ((( SELECT current_setting('app.reach'::text, true) AS current_setting) = 'all'::text) OR (EXISTS ( SELECT
       FROM campaigns.campaigns c
      WHERE ((c.id = windows.campaign_id) AND (c.org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))))))
    ELSE campaigns.sees(campaign_id)
END);

ALTER TABLE campaigns.shards ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.shares ENABLE ROW LEVEL SECURITY;

CREATE POLICY summary ON campaigns.campaigns FOR SELECT TO chimera_summary USING (true);

CREATE POLICY summary ON campaigns.runs FOR SELECT TO chimera_summary USING (true);

CREATE POLICY summary ON campaigns.tallies FOR SELECT TO chimera_summary USING (true);

ALTER TABLE campaigns.tallies ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.technique_suite_versions ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.technique_suites ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON campaigns.analysed TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.attempts TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.comments TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.executions TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.flushes TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.model_tallies TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.overrides TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.run_money TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.run_plans TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.runs TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.scorings TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.seats TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.shards TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.shares TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.tallies TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.technique_suite_versions TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.technique_suites TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.turns TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.verdicts TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.windows TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE campaigns.turns ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.turns_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.verdicts ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.verdicts_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.windows ENABLE ROW LEVEL SECURITY;

CREATE POLICY worker ON campaigns.campaigns TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE identity.api_keys ENABLE ROW LEVEL SECURITY;

CREATE POLICY bootstrap ON identity.memberships FOR INSERT TO chimera_owner WITH CHECK (true);

CREATE POLICY bootstrap ON identity.organisations FOR INSERT TO chimera_owner WITH CHECK (true);

CREATE POLICY bootstrap ON identity.users FOR INSERT TO chimera_owner WITH CHECK (true);

CREATE POLICY change ON identity.organisations FOR UPDATE TO chimera_app USING ((id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE identity.devices ENABLE ROW LEVEL SECURITY;

CREATE POLICY found ON identity.organisations FOR INSERT TO chimera_app WITH CHECK ((id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE identity.grants ENABLE ROW LEVEL SECURITY;

ALTER TABLE identity.invitations ENABLE ROW LEVEL SECURITY;

CREATE POLICY letters ON identity.memberships FOR SELECT TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY letters ON identity.users FOR SELECT TO chimera_worker USING ((EXISTS ( SELECT
   FROM identity.memberships m
  WHERE ((m.user_id = users.id) AND (m.org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))))));

ALTER TABLE identity.linked_identities ENABLE ROW LEVEL SECURITY;

CREATE POLICY lookup ON identity.api_keys FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.devices FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.grants FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.invitations FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.linked_identities FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.memberships FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.one_time_tokens FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.organisations FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.password_history FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.recovery_codes FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.redemptions FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.refresh_tokens FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.registrations FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.roles FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.sessions FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.sign_in_providers FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.team_members FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.teams FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.users FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY machinery ON identity.api_keys TO chimera_worker USING (true);

CREATE POLICY machinery ON identity.devices TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON identity.invitations TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON identity.linked_identities TO chimera_worker USING (true);

CREATE POLICY machinery ON identity.one_time_tokens TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON identity.organisations FOR SELECT TO chimera_worker USING (true);

CREATE POLICY machinery ON identity.password_history TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON identity.recovery_codes TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON identity.redemptions TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON identity.refresh_tokens TO chimera_worker USING (true);

CREATE POLICY machinery ON identity.registrations TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON identity.sessions TO chimera_worker USING (true);

CREATE POLICY machinery ON identity.team_members TO chimera_worker USING (true);

CREATE POLICY machinery ON identity.users TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY managed ON identity.recovery_codes FOR DELETE TO chimera_app USING ((EXISTS ( SELECT
   FROM identity.users u
  WHERE ((u.id = recovery_codes.user_id) AND (u.home_org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))))));

CREATE POLICY managed_read ON identity.recovery_codes FOR SELECT TO chimera_app USING ((EXISTS ( SELECT
   FROM identity.users u
  WHERE ((u.id = recovery_codes.user_id) AND (u.home_org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))))));

CREATE POLICY member_add ON identity.users FOR INSERT TO chimera_app WITH CHECK (((( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif") IS NOT NULL) AND (NOT is_superuser)));

CREATE POLICY member_change ON identity.users FOR UPDATE TO chimera_app USING ((EXISTS ( SELECT
   FROM identity.memberships m
  WHERE (m.user_id = users.id))));

CREATE POLICY member_read ON identity.users FOR SELECT TO chimera_app USING ((EXISTS ( SELECT
   FROM identity.memberships m
  WHERE (m.user_id = users.id))));

ALTER TABLE identity.memberships ENABLE ROW LEVEL SECURITY;

ALTER TABLE identity.one_time_tokens ENABLE ROW LEVEL SECURITY;

CREATE POLICY operators_change ON identity.users FOR UPDATE TO chimera_owner USING (true);

CREATE POLICY operators_read ON identity.users FOR SELECT TO chimera_owner USING (true);

ALTER TABLE identity.organisations ENABLE ROW LEVEL SECURITY;

CREATE POLICY own ON identity.devices TO chimera_app USING ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY own ON identity.one_time_tokens TO chimera_app USING ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY own ON identity.password_history TO chimera_app USING ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY own ON identity.recovery_codes TO chimera_app USING ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY own ON identity.refresh_tokens FOR SELECT TO chimera_app USING ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY own ON identity.sessions TO chimera_app USING ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY own_end ON identity.api_keys FOR UPDATE TO chimera_app USING ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK (((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")) AND (NOT is_active)));

CREATE POLICY own_end ON identity.linked_identities FOR DELETE TO chimera_app USING ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY own_read ON identity.api_keys FOR SELECT TO chimera_app USING ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY own_read ON identity.linked_identities FOR SELECT TO chimera_app USING ((user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE identity.password_history ENABLE ROW LEVEL SECURITY;

ALTER TABLE identity.recovery_codes ENABLE ROW LEVEL SECURITY;

ALTER TABLE identity.redemptions ENABLE ROW LEVEL SECURITY;

ALTER TABLE identity.refresh_tokens ENABLE ROW LEVEL SECURITY;

ALTER TABLE identity.registrations ENABLE ROW LEVEL SECURITY;

CREATE POLICY rewrapping ON identity.sign_in_providers TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE identity.roles ENABLE ROW LEVEL SECURITY;

ALTER TABLE identity.sessions ENABLE ROW LEVEL SECURITY;

ALTER TABLE identity.sign_in_providers ENABLE ROW LEVEL SECURITY;

CREATE POLICY summary ON identity.api_keys FOR SELECT TO chimera_summary USING (true);

CREATE POLICY summary ON identity.memberships FOR SELECT TO chimera_summary USING (true);

CREATE POLICY summary ON identity.sessions FOR SELECT TO chimera_summary USING (true);

ALTER TABLE identity.team_members ENABLE ROW LEVEL SECURITY;

ALTER TABLE identity.teams ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON identity.api_keys TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.grants TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.invitations TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.linked_identities TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.memberships TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.one_time_tokens TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.organisations FOR SELECT TO chimera_app USING ((id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.redemptions TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.refresh_tokens TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.registrations TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.roles TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.sessions TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.sign_in_providers TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.team_members TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.teams TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE identity.users ENABLE ROW LEVEL SECURITY;

CREATE POLICY before_tenant ON ops.outbox FOR INSERT TO chimera_app WITH CHECK (((org_id IS NULL) AND (task = 'send_mail'::text) AND (( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif") IS NULL)));

ALTER TABLE ops.idempotency ENABLE ROW LEVEL SECURITY;

ALTER TABLE ops.kill_switches ENABLE ROW LEVEL SECURITY;

CREATE POLICY machinery ON ops.idempotency TO chimera_worker USING (true);

CREATE POLICY machinery ON ops.kill_switches FOR SELECT TO chimera_worker USING (true);

CREATE POLICY machinery ON ops.outbox TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY operator ON ops.kill_switches TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)) WITH CHECK ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

CREATE POLICY operator ON ops.outbox TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)) WITH CHECK ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

ALTER TABLE ops.outbox ENABLE ROW LEVEL SECURITY;

CREATE POLICY readable ON ops.kill_switches FOR SELECT TO chimera_app USING (((org_id IS NULL) OR (org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))));

CREATE POLICY tenant ON ops.idempotency TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON ops.kill_switches TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON ops.outbox TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE providers.allowed_targets ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.circuit_holds ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.circuits ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.health_points ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.key_usage ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.ledger ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.ledger_default ENABLE ROW LEVEL SECURITY;

CREATE POLICY lookup ON providers.provider_keys FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY machinery ON providers.circuits FOR SELECT TO chimera_worker USING (true);

CREATE POLICY machinery ON providers.health_points TO chimera_worker USING (true) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY machinery ON providers.key_usage TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON providers.ledger FOR SELECT TO chimera_worker USING (true);

CREATE POLICY machinery ON providers.probe_results TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON providers.probes TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON providers.providers FOR SELECT TO chimera_worker USING (true);

ALTER TABLE providers.model_aliases ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.models ENABLE ROW LEVEL SECURITY;

CREATE POLICY operator ON providers.circuit_holds TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)) WITH CHECK ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

CREATE POLICY operator ON providers.model_aliases TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)) WITH CHECK ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

CREATE POLICY operator ON providers.models TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)) WITH CHECK ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

CREATE POLICY operator ON providers.price_versions TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)) WITH CHECK ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

CREATE POLICY operator ON providers.probes TO chimera_app USING (((org_id IS NULL) AND (( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text))) WITH CHECK (((org_id IS NULL) AND (( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)));

CREATE POLICY operator ON providers.providers TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)) WITH CHECK ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

ALTER TABLE providers.price_versions ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.probe_results ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.probes ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.provider_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.providers ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.rate_limits ENABLE ROW LEVEL SECURITY;

CREATE POLICY readable ON providers.circuit_holds FOR SELECT TO chimera_app, chimera_worker USING (true);

CREATE POLICY readable ON providers.model_aliases FOR SELECT TO chimera_app, chimera_worker USING (((org_id IS NULL) OR (org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))));

CREATE POLICY readable ON providers.models FOR SELECT TO chimera_app, chimera_worker USING (((org_id IS NULL) OR (org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))));

CREATE POLICY readable ON providers.price_versions FOR SELECT TO chimera_app, chimera_worker USING (((org_id IS NULL) OR (org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))));

CREATE POLICY readable ON providers.probe_results FOR SELECT TO chimera_app USING (((org_id IS NULL) OR (org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))));

CREATE POLICY readable ON providers.probes FOR SELECT TO chimera_app USING (((org_id IS NULL) OR (org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))));

CREATE POLICY readable ON providers.providers FOR SELECT TO chimera_app, chimera_worker USING (((org_id IS NULL) OR (org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))));

ALTER TABLE providers.route_versions ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.routes ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON providers.allowed_targets TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.circuits TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.health_points TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.key_usage FOR SELECT TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.ledger TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.model_aliases TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.models TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.price_versions TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.probes TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.provider_keys TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.providers TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.rate_limits TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.route_versions TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.routes TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY upkeep ON providers.circuits FOR DELETE TO chimera_worker USING (((forced = ''::text) AND (GREATEST(changed_at, last_checked_at) < (now() - '30 days'::interval))));

ALTER TABLE telemetry.batches ENABLE ROW LEVEL SECURITY;

ALTER TABLE telemetry.batches_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE telemetry.dead_letters ENABLE ROW LEVEL SECURITY;

ALTER TABLE telemetry.differing ENABLE ROW LEVEL SECURITY;

CREATE POLICY machinery ON telemetry.batches TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON telemetry.dead_letters TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON telemetry.differing TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON telemetry.receipts TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON telemetry.reconciliations TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON telemetry.stale_days TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON telemetry.totals TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON telemetry.verified TO chimera_worker USING (true) WITH CHECK (true);

ALTER TABLE telemetry.receipts ENABLE ROW LEVEL SECURITY;

ALTER TABLE telemetry.reconciliations ENABLE ROW LEVEL SECURITY;

ALTER TABLE telemetry.stale_days ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON telemetry.batches TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON telemetry.dead_letters TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON telemetry.differing TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON telemetry.receipts TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON telemetry.reconciliations TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON telemetry.stale_days TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON telemetry.totals TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON telemetry.verified TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE telemetry.totals ENABLE ROW LEVEL SECURITY;

CREATE POLICY upkeep_deletes ON telemetry.batches FOR DELETE TO chimera_owner USING ((state <> 'waiting'::text));

CREATE POLICY upkeep_sees ON telemetry.batches FOR SELECT TO chimera_owner USING (true);

CREATE POLICY upkeep_sees ON telemetry.differing FOR SELECT TO chimera_owner USING (true);

CREATE POLICY upkeep_sees ON telemetry.verified FOR SELECT TO chimera_owner USING (true);

ALTER TABLE telemetry.verified ENABLE ROW LEVEL SECURITY;

CREATE POLICY changed ON templates.labels FOR UPDATE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (EXISTS ( SELECT
   FROM templates.templates t
  WHERE (t.id = labels.template_id))))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY changed ON templates.ratings FOR UPDATE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")))) WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))));

CREATE POLICY changed ON templates.templates FOR UPDATE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((created_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")) OR (sharing_level = ANY (ARRAY['organisation'::text, 'public'::text])) OR ((sharing_level = 'team'::text) AND (team_id = ANY (( SELECT identity.own_teams() AS own_teams)::uuid[]))) OR (id = ANY (( SELECT templates.own_shares('{edit,admin}'::text[]) AS own_shares)::uuid[]))))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE templates.dataset_rows ENABLE ROW LEVEL SECURITY;

ALTER TABLE templates.dataset_versions ENABLE ROW LEVEL SECURITY;

ALTER TABLE templates.datasets ENABLE ROW LEVEL SECURITY;

ALTER TABLE templates.label_moves ENABLE ROW LEVEL SECURITY;

ALTER TABLE templates.labels ENABLE ROW LEVEL SECURITY;

CREATE POLICY library_count ON templates.templates FOR UPDATE TO chimera_library USING (true);

CREATE POLICY library_count ON templates.versions FOR UPDATE TO chimera_library USING (true);

CREATE POLICY library_read ON templates.dataset_rows FOR SELECT TO chimera_library USING (true);

CREATE POLICY library_read ON templates.shares FOR SELECT TO chimera_library USING (true);

CREATE POLICY library_read ON templates.templates FOR SELECT TO chimera_library USING (true);

CREATE POLICY library_read ON templates.versions FOR SELECT TO chimera_library USING (true);

CREATE POLICY made ON templates.label_moves FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (EXISTS ( SELECT
   FROM templates.templates t
  WHERE (t.id = label_moves.template_id)))));

CREATE POLICY made ON templates.labels FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (EXISTS ( SELECT
   FROM templates.templates t
  WHERE (t.id = labels.template_id)))));

CREATE POLICY made ON templates.ratings FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")) AND (EXISTS ( SELECT
   FROM templates.templates t
  WHERE (t.id = ratings.template_id)))));

CREATE POLICY made ON templates.templates FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (created_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))));

CREATE POLICY made ON templates.usages FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (used_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))));

CREATE POLICY made ON templates.versions FOR INSERT TO chimera_app WITH CHECK (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (EXISTS ( SELECT
   FROM templates.templates t
  WHERE (t.id = versions.template_id)))));

CREATE POLICY own ON templates.ratings FOR SELECT TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))));

ALTER TABLE templates.ratings ENABLE ROW LEVEL SECURITY;

CREATE POLICY removed ON templates.labels FOR DELETE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (EXISTS ( SELECT
   FROM templates.templates t
  WHERE (t.id = labels.template_id)))));

CREATE POLICY removed ON templates.ratings FOR DELETE TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (user_id = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))));

ALTER TABLE templates.review_rules ENABLE ROW LEVEL SECURITY;

CREATE POLICY seen ON templates.label_moves FOR SELECT TO chimera_app USING ((EXISTS ( SELECT
   FROM templates.templates t
  WHERE (t.id = label_moves.template_id))));

CREATE POLICY seen ON templates.labels FOR SELECT TO chimera_app USING ((EXISTS ( SELECT
   FROM templates.templates t
  WHERE (t.id = labels.template_id))));

CREATE POLICY seen ON templates.ratings FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) OR (owner_org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) AND (EXISTS ( SELECT
   FROM templates.templates t
  WHERE (t.id = ratings.template_id)))));

CREATE POLICY seen ON templates.templates FOR SELECT TO chimera_app USING ((((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((created_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif")) OR (sharing_level = ANY (ARRAY['organisation'::text, 'public'::text])) OR ((sharing_level = 'team'::text) AND (team_id = ANY (( SELECT identity.own_teams() AS own_teams)::uuid[]))) OR (id = ANY (( SELECT templates.own_shares('{view,edit,admin}'::text[]) AS own_shares)::uuid[])))) OR ((sharing_level = 'public'::text) AND (state = 'published'::text) AND (deleted_at IS NULL) AND (( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif") IS NOT NULL))));

CREATE POLICY seen ON templates.usages FOR SELECT TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND campaigns.sees(campaign_id)));

CREATE POLICY seen ON templates.versions FOR SELECT TO chimera_app USING ((EXISTS ( SELECT
   FROM templates.templates t
  WHERE (t.id = versions.template_id))));

ALTER TABLE templates.shares ENABLE ROW LEVEL SECURITY;

CREATE POLICY summary ON templates.ratings FOR SELECT TO chimera_summary USING (true);

CREATE POLICY summary ON templates.templates FOR SELECT TO chimera_summary USING (true);

ALTER TABLE templates.templates ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON templates.dataset_rows TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (EXISTS ( SELECT
   FROM templates.datasets d
  WHERE (d.id = dataset_rows.dataset_id))))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON templates.dataset_versions TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (EXISTS ( SELECT
   FROM templates.datasets d
  WHERE (d.id = dataset_versions.dataset_id))))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON templates.datasets TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((sharing_level = 'organisation'::text) OR (created_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON templates.review_rules TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON templates.shares TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (EXISTS ( SELECT
   FROM templates.templates t
  WHERE (t.id = shares.template_id))))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON templates.usages TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE templates.usages ENABLE ROW LEVEL SECURITY;

ALTER TABLE templates.versions ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA accounting TO chimera_app;
GRANT USAGE ON SCHEMA accounting TO chimera_worker;
GRANT USAGE ON SCHEMA accounting TO chimera_lookup;

GRANT USAGE ON SCHEMA audit TO chimera_app;
GRANT USAGE ON SCHEMA audit TO chimera_worker;
GRANT USAGE ON SCHEMA audit TO chimera_sealer;
GRANT USAGE ON SCHEMA audit TO chimera_auditor;
GRANT USAGE ON SCHEMA audit TO chimera_upkeep;
GRANT USAGE ON SCHEMA audit TO chimera_lookup;

GRANT USAGE ON SCHEMA campaigns TO chimera_app;
GRANT USAGE ON SCHEMA campaigns TO chimera_worker;
GRANT USAGE ON SCHEMA campaigns TO chimera_summary;
GRANT USAGE ON SCHEMA campaigns TO chimera_lookup;

GRANT USAGE ON SCHEMA identity TO chimera_app;
GRANT USAGE ON SCHEMA identity TO chimera_worker;
GRANT USAGE ON SCHEMA identity TO chimera_lookup;
GRANT USAGE ON SCHEMA identity TO chimera_auditor;
GRANT USAGE ON SCHEMA identity TO chimera_library;
GRANT USAGE ON SCHEMA identity TO chimera_summary;

GRANT USAGE ON SCHEMA ops TO chimera_app;
GRANT USAGE ON SCHEMA ops TO chimera_worker;
GRANT USAGE ON SCHEMA ops TO chimera_sealer;
GRANT USAGE ON SCHEMA ops TO chimera_auditor;
GRANT USAGE ON SCHEMA ops TO chimera_lookup;
GRANT USAGE ON SCHEMA ops TO chimera_upkeep;

GRANT USAGE ON SCHEMA providers TO chimera_app;
GRANT USAGE ON SCHEMA providers TO chimera_worker;
GRANT USAGE ON SCHEMA providers TO chimera_lookup;

GRANT USAGE ON SCHEMA telemetry TO chimera_app;
GRANT USAGE ON SCHEMA telemetry TO chimera_worker;
GRANT USAGE ON SCHEMA telemetry TO chimera_summary;

GRANT USAGE ON SCHEMA templates TO chimera_app;
GRANT USAGE ON SCHEMA templates TO chimera_worker;
GRANT USAGE ON SCHEMA templates TO chimera_library;
GRANT USAGE ON SCHEMA templates TO chimera_summary;

REVOKE ALL ON FUNCTION accounting.count_sealed_secrets(is_previous boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION accounting.count_sealed_secrets(is_previous boolean) TO chimera_app;
GRANT ALL ON FUNCTION accounting.count_sealed_secrets(is_previous boolean) TO chimera_worker;

REVOKE ALL ON FUNCTION accounting.find_sealed_secrets(newest integer, is_previous boolean, after_id uuid, size integer) FROM PUBLIC;
GRANT ALL ON FUNCTION accounting.find_sealed_secrets(newest integer, is_previous boolean, after_id uuid, size integer) TO chimera_worker;

REVOKE ALL ON FUNCTION audit.check_leaves(low bigint, high bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION audit.check_leaves(low bigint, high bigint) TO chimera_app;

REVOKE ALL ON FUNCTION audit.drop_partition(child regclass, default_days integer) FROM PUBLIC;
GRANT ALL ON FUNCTION audit.drop_partition(child regclass, default_days integer) TO chimera_upkeep;

REVOKE ALL ON FUNCTION audit.erase_events(subject uuid, batch integer) FROM PUBLIC;
GRANT ALL ON FUNCTION audit.erase_events(subject uuid, batch integer) TO chimera_worker;

GRANT SELECT ON TABLE audit.events TO chimera_app;
GRANT SELECT ON TABLE audit.events TO chimera_auditor;
GRANT SELECT,INSERT ON TABLE audit.events TO chimera_sealer;
GRANT SELECT ON TABLE audit.events TO chimera_lookup;
GRANT SELECT ON TABLE audit.events TO chimera_worker;
GRANT SELECT ON TABLE audit.events TO chimera_upkeep;

REVOKE ALL ON FUNCTION audit.find_events(words text, after_id uuid, of_action text, of_entity text, of_entity_id text, of_actor uuid, of_kind text, of_severity text, of_outcome text, of_ip text, of_session text, since timestamp with time zone, until timestamp with time zone, size integer) FROM PUBLIC;
GRANT ALL ON FUNCTION audit.find_events(words text, after_id uuid, of_action text, of_entity text, of_entity_id text, of_actor uuid, of_kind text, of_severity text, of_outcome text, of_ip text, of_session text, since timestamp with time zone, until timestamp with time zone, size integer) TO chimera_app;

REVOKE ALL ON FUNCTION audit.keep_until(child regclass, default_days integer) FROM PUBLIC;
GRANT ALL ON FUNCTION audit.keep_until(child regclass, default_days integer) TO chimera_upkeep;

REVOKE ALL ON FUNCTION campaigns.may(campaign uuid, needed text) FROM PUBLIC;
GRANT ALL ON FUNCTION campaigns.may(campaign uuid, needed text) TO chimera_app;

REVOKE ALL ON FUNCTION campaigns.may_run(run uuid, needed text) FROM PUBLIC;
GRANT ALL ON FUNCTION campaigns.may_run(run uuid, needed text) TO chimera_app;

REVOKE ALL ON FUNCTION campaigns.own_level(campaign uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION campaigns.own_level(campaign uuid) TO chimera_app;

REVOKE ALL ON FUNCTION campaigns.own_shares() FROM PUBLIC;
GRANT ALL ON FUNCTION campaigns.own_shares() TO chimera_app;

REVOKE ALL ON FUNCTION campaigns.runs_in_view() FROM PUBLIC;
GRANT ALL ON FUNCTION campaigns.runs_in_view() TO chimera_app;

REVOKE ALL ON FUNCTION campaigns.scorings_in_view() FROM PUBLIC;
GRANT ALL ON FUNCTION campaigns.scorings_in_view() TO chimera_app;

REVOKE ALL ON FUNCTION campaigns.sees(campaign uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION campaigns.sees(campaign uuid) TO chimera_app;

REVOKE ALL ON FUNCTION campaigns.sees_run(run uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION campaigns.sees_run(run uuid) TO chimera_app;

REVOKE ALL ON FUNCTION campaigns.sees_scoring(scoring uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION campaigns.sees_scoring(scoring uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.confirm_standing(own_session_id uuid, own_key_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.confirm_standing(own_session_id uuid, own_key_id uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.count_sealed_sign_in() FROM PUBLIC;
GRANT ALL ON FUNCTION identity.count_sealed_sign_in() TO chimera_app;
GRANT ALL ON FUNCTION identity.count_sealed_sign_in() TO chimera_worker;

REVOKE ALL ON FUNCTION identity.count_sealed_totp() FROM PUBLIC;
GRANT ALL ON FUNCTION identity.count_sealed_totp() TO chimera_app;
GRANT ALL ON FUNCTION identity.count_sealed_totp() TO chimera_worker;

REVOKE ALL ON FUNCTION identity.find_account(login text, device_hash bytea, org uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_account(login text, device_hash bytea, org uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_api_key(public_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_api_key(public_id text) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_grants(org_id uuid, user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_grants(org_id uuid, user_id uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_invitation(code_hash bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_invitation(code_hash bytea) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_key(public_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_key(public_id text) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_linked_identity(provider_org_id uuid, issuer text, subject text) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_linked_identity(provider_org_id uuid, issuer text, subject text) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_login(login text) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_login(login text) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_one_time_token(token_hash bytea, purpose text) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_one_time_token(token_hash bytea, purpose text) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_person(email text) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_person(email text) TO chimera_worker;

REVOKE ALL ON FUNCTION identity.find_refresh_token(token_hash bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_refresh_token(token_hash bytea) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_registration(token_hash bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_registration(token_hash bytea) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_sealed_sign_in(newest integer, after_id uuid, size integer) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_sealed_sign_in(newest integer, after_id uuid, size integer) TO chimera_worker;

REVOKE ALL ON FUNCTION identity.find_session(session_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_session(session_id uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_sign_in_provider(provider_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_sign_in_provider(provider_id uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_thing(kind text, thing_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_thing(kind text, thing_id uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_unattached(email text) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_unattached(email text) TO chimera_app;

REVOKE ALL ON FUNCTION identity.is_last_operator(target uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.is_last_operator(target uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.list_sign_in_providers(org_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.list_sign_in_providers(org_id uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.organisation_rules(org_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.organisation_rules(org_id uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.organisations_of(user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.organisations_of(user_id uuid) TO chimera_worker;

REVOKE ALL ON FUNCTION identity.own_organisations() FROM PUBLIC;
GRANT ALL ON FUNCTION identity.own_organisations() TO chimera_app;

REVOKE ALL ON FUNCTION identity.own_teams() FROM PUBLIC;
GRANT ALL ON FUNCTION identity.own_teams() TO chimera_app;
GRANT ALL ON FUNCTION identity.own_teams() TO chimera_worker;
GRANT ALL ON FUNCTION identity.own_teams() TO chimera_library;

REVOKE ALL ON FUNCTION identity.password_rules(user_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.password_rules(user_id uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.session_state(session_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.session_state(session_id uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.set_superuser(target uuid, value boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.set_superuser(target uuid, value boolean) TO chimera_app;

REVOKE ALL ON FUNCTION identity.sign_in_provider(provider_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.sign_in_provider(provider_id uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.signed_in_at(session_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.signed_in_at(session_id uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.sole_admin_of() FROM PUBLIC;
GRANT ALL ON FUNCTION identity.sole_admin_of() TO chimera_app;

REVOKE ALL ON FUNCTION ops.make_partitions(OUT made integer, OUT refused text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION ops.make_partitions(OUT made integer, OUT refused text[]) TO chimera_worker;

REVOKE ALL ON FUNCTION providers.count_sealed_keys() FROM PUBLIC;
GRANT ALL ON FUNCTION providers.count_sealed_keys() TO chimera_app;
GRANT ALL ON FUNCTION providers.count_sealed_keys() TO chimera_worker;

REVOKE ALL ON FUNCTION providers.find_keys_due(size integer) FROM PUBLIC;
GRANT ALL ON FUNCTION providers.find_keys_due(size integer) TO chimera_worker;

REVOKE ALL ON FUNCTION providers.find_sealed_keys(newest integer, after_id uuid, size integer) FROM PUBLIC;
GRANT ALL ON FUNCTION providers.find_sealed_keys(newest integer, after_id uuid, size integer) TO chimera_worker;

REVOKE ALL ON FUNCTION providers.owner_of_key(key_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION providers.owner_of_key(key_id uuid) TO chimera_worker;

REVOKE ALL ON FUNCTION telemetry.backlog(OUT total_bytes bigint, OUT own_bytes bigint, OUT oldest_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION telemetry.backlog(OUT total_bytes bigint, OUT own_bytes bigint, OUT oldest_at timestamp with time zone) TO chimera_app;
GRANT ALL ON FUNCTION telemetry.backlog(OUT total_bytes bigint, OUT own_bytes bigint, OUT oldest_at timestamp with time zone) TO chimera_worker;

REVOKE ALL ON FUNCTION telemetry.drop_partitions() FROM PUBLIC;
GRANT ALL ON FUNCTION telemetry.drop_partitions() TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.campaigns TO chimera_app;
GRANT SELECT ON TABLE campaigns.campaigns TO chimera_worker;
GRANT SELECT ON TABLE campaigns.campaigns TO chimera_summary;

GRANT UPDATE(state) ON TABLE campaigns.campaigns TO chimera_worker;

GRANT UPDATE(success_rate) ON TABLE campaigns.campaigns TO chimera_worker;

GRANT UPDATE(updated_at) ON TABLE campaigns.campaigns TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.runs TO chimera_app;
GRANT SELECT,UPDATE ON TABLE campaigns.runs TO chimera_worker;
GRANT SELECT ON TABLE campaigns.runs TO chimera_summary;

GRANT SELECT ON TABLE campaigns.tallies TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.tallies TO chimera_worker;
GRANT SELECT ON TABLE campaigns.tallies TO chimera_summary;

GRANT SELECT ON TABLE identity.api_keys TO chimera_lookup;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.api_keys TO chimera_app;
GRANT SELECT,UPDATE ON TABLE identity.api_keys TO chimera_worker;
GRANT SELECT ON TABLE identity.api_keys TO chimera_summary;

GRANT SELECT ON TABLE identity.memberships TO chimera_lookup;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.memberships TO chimera_app;
GRANT SELECT ON TABLE identity.memberships TO chimera_worker;
GRANT SELECT ON TABLE identity.memberships TO chimera_summary;

GRANT SELECT ON TABLE identity.sessions TO chimera_lookup;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.sessions TO chimera_app;
GRANT SELECT,DELETE,UPDATE ON TABLE identity.sessions TO chimera_worker;
GRANT SELECT ON TABLE identity.sessions TO chimera_summary;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE templates.ratings TO chimera_app;
GRANT SELECT ON TABLE templates.ratings TO chimera_summary;

GRANT SELECT,INSERT,UPDATE ON TABLE templates.templates TO chimera_app;
GRANT SELECT ON TABLE templates.templates TO chimera_library;
GRANT SELECT ON TABLE templates.templates TO chimera_summary;

GRANT UPDATE(rating_count) ON TABLE templates.templates TO chimera_library;

GRANT UPDATE(rating_sum) ON TABLE templates.templates TO chimera_library;

GRANT UPDATE(effective_votes) ON TABLE templates.templates TO chimera_library;

GRANT UPDATE(ineffective_votes) ON TABLE templates.templates TO chimera_library;

GRANT UPDATE(usage_count) ON TABLE templates.templates TO chimera_library;

GRANT UPDATE(scored_count) ON TABLE templates.templates TO chimera_library;

GRANT UPDATE(success_count) ON TABLE templates.templates TO chimera_library;

REVOKE ALL ON FUNCTION telemetry.list_user_summaries(asked_user uuid, after_user uuid, size integer) FROM PUBLIC;
GRANT ALL ON FUNCTION telemetry.list_user_summaries(asked_user uuid, after_user uuid, size integer) TO chimera_app;

REVOKE ALL ON FUNCTION telemetry.refresh_user_summaries() FROM PUBLIC;
GRANT ALL ON FUNCTION telemetry.refresh_user_summaries() TO chimera_worker;

REVOKE ALL ON FUNCTION templates.count_rating() FROM PUBLIC;

REVOKE ALL ON FUNCTION templates.count_usage() FROM PUBLIC;

REVOKE ALL ON FUNCTION templates.own_shares(permissions text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION templates.own_shares(permissions text[]) TO chimera_app;
GRANT ALL ON FUNCTION templates.own_shares(permissions text[]) TO chimera_worker;

REVOKE ALL ON FUNCTION templates.pinned_rows(dataset_id uuid, version_number integer, row_nos integer[]) FROM PUBLIC;
GRANT ALL ON FUNCTION templates.pinned_rows(dataset_id uuid, version_number integer, row_nos integer[]) TO chimera_app;
GRANT ALL ON FUNCTION templates.pinned_rows(dataset_id uuid, version_number integer, row_nos integer[]) TO chimera_worker;

REVOKE ALL ON FUNCTION templates.search(words text, prefixes text[], keys text[], after_rank double precision, after_id uuid, page integer, bound integer, with_facets boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION templates.search(words text, prefixes text[], keys text[], after_rank double precision, after_id uuid, page integer, bound integer, with_facets boolean) TO chimera_app;

GRANT SELECT,INSERT,UPDATE ON TABLE accounting.alerts TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE accounting.alerts TO chimera_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE accounting.budgets TO chimera_app;
GRANT SELECT ON TABLE accounting.budgets TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE accounting.deliveries TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE accounting.deliveries TO chimera_worker;

GRANT SELECT ON TABLE accounting.delivery_tries TO chimera_app;
GRANT SELECT,INSERT ON TABLE accounting.delivery_tries TO chimera_worker;

GRANT SELECT ON TABLE accounting.usage_daily TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE accounting.usage_daily TO chimera_worker;

GRANT SELECT ON TABLE accounting.usage_mark TO chimera_app;
GRANT SELECT,UPDATE ON TABLE accounting.usage_mark TO chimera_worker;

GRANT SELECT,DELETE ON TABLE accounting.waits TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE accounting.waits TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE accounting.webhooks TO chimera_app;
GRANT SELECT,UPDATE ON TABLE accounting.webhooks TO chimera_worker;
GRANT SELECT ON TABLE accounting.webhooks TO chimera_lookup;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE accounting.windows TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE accounting.windows TO chimera_worker;

GRANT SELECT,INSERT ON TABLE audit.checkpoints TO chimera_sealer;
GRANT SELECT ON TABLE audit.checkpoints TO chimera_app;
GRANT SELECT ON TABLE audit.checkpoints TO chimera_auditor;
GRANT SELECT ON TABLE audit.checkpoints TO chimera_worker;
GRANT SELECT ON TABLE audit.checkpoints TO chimera_upkeep;

GRANT SELECT ON TABLE audit.configuration TO chimera_upkeep;
GRANT SELECT,INSERT,UPDATE ON TABLE audit.configuration TO chimera_app;
GRANT SELECT ON TABLE audit.configuration TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE audit.configuration_changes TO chimera_app;
GRANT SELECT,UPDATE ON TABLE audit.configuration_changes TO chimera_worker;

GRANT SELECT,INSERT ON TABLE audit.cosignatures TO chimera_sealer;
GRANT SELECT ON TABLE audit.cosignatures TO chimera_app;
GRANT SELECT ON TABLE audit.cosignatures TO chimera_auditor;
GRANT SELECT ON TABLE audit.cosignatures TO chimera_worker;
GRANT SELECT ON TABLE audit.cosignatures TO chimera_upkeep;

GRANT SELECT ON TABLE audit.daily TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE audit.daily TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE audit.drops TO chimera_worker;
GRANT SELECT ON TABLE audit.drops TO chimera_app;
GRANT SELECT ON TABLE audit.drops TO chimera_upkeep;

GRANT INSERT ON TABLE audit.erasures TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE audit.erasures TO chimera_worker;

GRANT SELECT,UPDATE ON TABLE audit.findings TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE audit.findings TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE audit.key_networks TO chimera_worker;

GRANT SELECT,INSERT ON TABLE audit.leaves TO chimera_sealer;
GRANT SELECT ON TABLE audit.leaves TO chimera_app;
GRANT SELECT ON TABLE audit.leaves TO chimera_auditor;
GRANT SELECT ON TABLE audit.leaves TO chimera_worker;
GRANT SELECT ON TABLE audit.leaves TO chimera_lookup;
GRANT SELECT ON TABLE audit.leaves TO chimera_upkeep;

GRANT SELECT ON TABLE audit.legal_holds TO chimera_upkeep;
GRANT SELECT,INSERT,UPDATE ON TABLE audit.legal_holds TO chimera_app;
GRANT SELECT ON TABLE audit.legal_holds TO chimera_worker;

GRANT SELECT,UPDATE ON TABLE audit.log_head TO chimera_sealer;
GRANT SELECT ON TABLE audit.log_head TO chimera_app;
GRANT SELECT ON TABLE audit.log_head TO chimera_auditor;
GRANT SELECT ON TABLE audit.log_head TO chimera_worker;
GRANT SELECT ON TABLE audit.log_head TO chimera_upkeep;

GRANT SELECT,INSERT ON TABLE audit.nodes TO chimera_sealer;
GRANT SELECT ON TABLE audit.nodes TO chimera_app;
GRANT SELECT ON TABLE audit.nodes TO chimera_auditor;
GRANT SELECT ON TABLE audit.nodes TO chimera_worker;
GRANT SELECT ON TABLE audit.nodes TO chimera_upkeep;

GRANT SELECT,INSERT ON TABLE audit.pending TO chimera_app;
GRANT INSERT ON TABLE audit.pending TO chimera_worker;
GRANT SELECT,INSERT,DELETE ON TABLE audit.pending TO chimera_sealer;

GRANT SELECT,INSERT,UPDATE ON TABLE audit.restores TO chimera_app;
GRANT SELECT,UPDATE ON TABLE audit.restores TO chimera_sealer;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE audit.rule_counts TO chimera_worker;

GRANT SELECT ON TABLE audit.statistics TO chimera_app;

GRANT SELECT,INSERT,UPDATE ON TABLE audit.watermarks TO chimera_worker;
GRANT SELECT ON TABLE audit.watermarks TO chimera_app;

GRANT SELECT,INSERT,UPDATE ON TABLE audit.writers TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE audit.writers TO chimera_worker;
GRANT SELECT,INSERT,UPDATE ON TABLE audit.writers TO chimera_sealer;
GRANT SELECT ON TABLE audit.writers TO chimera_auditor;

GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.analysed TO chimera_worker;

GRANT SELECT ON TABLE campaigns.attempts TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.attempts TO chimera_worker;

GRANT SELECT,INSERT ON TABLE campaigns.comments TO chimera_app;
GRANT SELECT ON TABLE campaigns.comments TO chimera_worker;

GRANT SELECT(org_id) ON TABLE campaigns.comments TO chimera_lookup;

GRANT UPDATE(text) ON TABLE campaigns.comments TO chimera_app;
GRANT UPDATE(text) ON TABLE campaigns.comments TO chimera_worker;

GRANT SELECT(created_by) ON TABLE campaigns.comments TO chimera_lookup;

GRANT UPDATE(edited_at) ON TABLE campaigns.comments TO chimera_app;

GRANT UPDATE(deleted_at) ON TABLE campaigns.comments TO chimera_app;
GRANT UPDATE(deleted_at) ON TABLE campaigns.comments TO chimera_worker;

GRANT SELECT ON TABLE campaigns.executions TO chimera_app;
GRANT SELECT,INSERT ON TABLE campaigns.executions TO chimera_worker;

GRANT SELECT ON TABLE campaigns.flushes TO chimera_app;
GRANT SELECT,INSERT ON TABLE campaigns.flushes TO chimera_worker;

GRANT SELECT ON TABLE campaigns.model_tallies TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.model_tallies TO chimera_worker;

GRANT SELECT,INSERT ON TABLE campaigns.overrides TO chimera_app;
GRANT SELECT ON TABLE campaigns.overrides TO chimera_worker;

GRANT UPDATE(withdrawn_at) ON TABLE campaigns.overrides TO chimera_app;

GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.run_money TO chimera_app;
GRANT SELECT,UPDATE ON TABLE campaigns.run_money TO chimera_worker;

GRANT SELECT,INSERT ON TABLE campaigns.run_plans TO chimera_app;
GRANT SELECT ON TABLE campaigns.run_plans TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.schedules TO chimera_app;
GRANT SELECT,UPDATE ON TABLE campaigns.schedules TO chimera_worker;

GRANT SELECT,INSERT ON TABLE campaigns.scorings TO chimera_app;
GRANT SELECT,UPDATE ON TABLE campaigns.scorings TO chimera_worker;

GRANT UPDATE(state) ON TABLE campaigns.scorings TO chimera_app;

GRANT UPDATE(finished_at) ON TABLE campaigns.scorings TO chimera_app;

GRANT SELECT,INSERT ON TABLE campaigns.seats TO chimera_app;
GRANT SELECT,UPDATE ON TABLE campaigns.seats TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.shards TO chimera_app;
GRANT SELECT,UPDATE ON TABLE campaigns.shards TO chimera_worker;

GRANT SELECT ON TABLE campaigns.shares TO chimera_lookup;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE campaigns.shares TO chimera_app;
GRANT SELECT,DELETE ON TABLE campaigns.shares TO chimera_worker;

GRANT SELECT,INSERT ON TABLE campaigns.technique_suite_versions TO chimera_app;

GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.technique_suites TO chimera_app;

GRANT SELECT ON TABLE campaigns.turns TO chimera_app;
GRANT SELECT,INSERT ON TABLE campaigns.turns TO chimera_worker;

GRANT SELECT ON TABLE campaigns.verdicts TO chimera_app;
GRANT SELECT,INSERT ON TABLE campaigns.verdicts TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.windows TO chimera_worker;
GRANT SELECT ON TABLE campaigns.windows TO chimera_app;

GRANT SELECT ON TABLE identity.devices TO chimera_lookup;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.devices TO chimera_app;
GRANT SELECT,DELETE ON TABLE identity.devices TO chimera_worker;

GRANT SELECT ON TABLE identity.grants TO chimera_lookup;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.grants TO chimera_app;

GRANT SELECT ON TABLE identity.invitations TO chimera_lookup;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.invitations TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.invitations TO chimera_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.letters TO chimera_worker;

GRANT SELECT ON TABLE identity.linked_identities TO chimera_lookup;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.linked_identities TO chimera_app;
GRANT SELECT,DELETE ON TABLE identity.linked_identities TO chimera_worker;

GRANT SELECT ON TABLE identity.one_time_tokens TO chimera_lookup;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.one_time_tokens TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.one_time_tokens TO chimera_worker;

GRANT SELECT ON TABLE identity.organisations TO chimera_lookup;
GRANT SELECT,INSERT ON TABLE identity.organisations TO chimera_app;
GRANT SELECT ON TABLE identity.organisations TO chimera_worker;

GRANT UPDATE(name) ON TABLE identity.organisations TO chimera_app;

GRANT UPDATE(updated_at) ON TABLE identity.organisations TO chimera_app;

GRANT UPDATE(metadata) ON TABLE identity.organisations TO chimera_app;

GRANT UPDATE(password_characters_min) ON TABLE identity.organisations TO chimera_app;

GRANT UPDATE(password_classes_min) ON TABLE identity.organisations TO chimera_app;

GRANT UPDATE(password_history) ON TABLE identity.organisations TO chimera_app;

GRANT UPDATE(password_age_days_max) ON TABLE identity.organisations TO chimera_app;

GRANT UPDATE(requires_second_factor) ON TABLE identity.organisations TO chimera_app;

GRANT SELECT ON TABLE identity.password_history TO chimera_lookup;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.password_history TO chimera_app;
GRANT SELECT,DELETE ON TABLE identity.password_history TO chimera_worker;

GRANT SELECT ON TABLE identity.recovery_codes TO chimera_lookup;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.recovery_codes TO chimera_app;
GRANT SELECT,DELETE ON TABLE identity.recovery_codes TO chimera_worker;

GRANT SELECT ON TABLE identity.redemptions TO chimera_lookup;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.redemptions TO chimera_app;
GRANT SELECT,DELETE ON TABLE identity.redemptions TO chimera_worker;

GRANT SELECT ON TABLE identity.refresh_tokens TO chimera_lookup;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.refresh_tokens TO chimera_app;
GRANT SELECT,DELETE ON TABLE identity.refresh_tokens TO chimera_worker;

GRANT SELECT ON TABLE identity.registrations TO chimera_lookup;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.registrations TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.registrations TO chimera_worker;

GRANT SELECT ON TABLE identity.roles TO chimera_lookup;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.roles TO chimera_app;

GRANT SELECT ON TABLE identity.sign_in_providers TO chimera_lookup;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.sign_in_providers TO chimera_app;
GRANT SELECT ON TABLE identity.sign_in_providers TO chimera_worker;

GRANT UPDATE(sealed) ON TABLE identity.sign_in_providers TO chimera_worker;

GRANT SELECT,INSERT,DELETE ON TABLE identity.sign_ins TO chimera_app;
GRANT SELECT,DELETE ON TABLE identity.sign_ins TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE identity.signing_keys TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.signing_keys TO chimera_worker;

GRANT SELECT ON TABLE identity.team_members TO chimera_lookup;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.team_members TO chimera_app;
GRANT SELECT,DELETE ON TABLE identity.team_members TO chimera_worker;

GRANT SELECT ON TABLE identity.teams TO chimera_lookup;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.teams TO chimera_app;

GRANT SELECT ON TABLE identity.users TO chimera_lookup;
GRANT SELECT,INSERT ON TABLE identity.users TO chimera_app;
GRANT SELECT,UPDATE ON TABLE identity.users TO chimera_worker;

GRANT SELECT(id) ON TABLE identity.users TO chimera_worker;

GRANT UPDATE(email) ON TABLE identity.users TO chimera_app;
GRANT SELECT(email) ON TABLE identity.users TO chimera_worker;

GRANT UPDATE(username) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(display_name) ON TABLE identity.users TO chimera_app;
GRANT SELECT(display_name) ON TABLE identity.users TO chimera_worker;

GRANT UPDATE(picture_url) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(password_hash) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(password_changed_at) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(state) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(preferences) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(metadata) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(failed_login_attempts) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(locked_until) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(last_login_at) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(authz_epoch) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(updated_at) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(deleted_at) ON TABLE identity.users TO chimera_app;
GRANT SELECT(deleted_at) ON TABLE identity.users TO chimera_worker;

GRANT UPDATE(home_org_id) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(email_verified_at) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(totp_sealed) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(totp_version) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(totp_confirmed_at) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(totp_step) ON TABLE identity.users TO chimera_app;

GRANT UPDATE(erase_at) ON TABLE identity.users TO chimera_app;

GRANT SELECT,INSERT,UPDATE ON TABLE ops.idempotency TO chimera_app;
GRANT SELECT,DELETE ON TABLE ops.idempotency TO chimera_worker;

GRANT SELECT,INSERT ON TABLE ops.key_rotations TO chimera_app;
GRANT SELECT,UPDATE ON TABLE ops.key_rotations TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE ops.kill_switches TO chimera_app;
GRANT SELECT ON TABLE ops.kill_switches TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE ops.leases TO chimera_worker;
GRANT SELECT,INSERT,UPDATE ON TABLE ops.leases TO chimera_sealer;

GRANT SELECT,INSERT ON TABLE ops.master_keys TO chimera_app;
GRANT SELECT,INSERT ON TABLE ops.master_keys TO chimera_worker;
GRANT SELECT,INSERT ON TABLE ops.master_keys TO chimera_sealer;

GRANT UPDATE(state) ON TABLE ops.master_keys TO chimera_app;

GRANT UPDATE(retired_at) ON TABLE ops.master_keys TO chimera_app;

GRANT SELECT,INSERT,UPDATE ON TABLE ops.outbox TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE ops.outbox TO chimera_worker;

GRANT SELECT ON TABLE ops.partitioned TO chimera_worker;

GRANT SELECT,INSERT ON TABLE ops.secrets TO chimera_app;
GRANT SELECT,INSERT,DELETE ON TABLE ops.secrets TO chimera_worker;
GRANT SELECT,INSERT ON TABLE ops.secrets TO chimera_sealer;

GRANT UPDATE(sealed) ON TABLE ops.secrets TO chimera_worker;

GRANT SELECT,INSERT,DELETE ON TABLE providers.allowed_targets TO chimera_app;
GRANT SELECT ON TABLE providers.allowed_targets TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE providers.circuit_holds TO chimera_app;
GRANT SELECT ON TABLE providers.circuit_holds TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE providers.circuits TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE providers.circuits TO chimera_worker;

GRANT SELECT ON TABLE providers.health_points TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE providers.health_points TO chimera_worker;

GRANT SELECT ON TABLE providers.key_usage TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE providers.key_usage TO chimera_worker;

GRANT SELECT ON TABLE providers.ledger TO chimera_app;
GRANT SELECT,INSERT ON TABLE providers.ledger TO chimera_worker;

GRANT SELECT,INSERT,DELETE ON TABLE providers.model_aliases TO chimera_app;
GRANT SELECT ON TABLE providers.model_aliases TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE providers.models TO chimera_app;
GRANT SELECT ON TABLE providers.models TO chimera_worker;

GRANT SELECT,INSERT ON TABLE providers.price_versions TO chimera_app;
GRANT SELECT ON TABLE providers.price_versions TO chimera_worker;

GRANT UPDATE(valid_until) ON TABLE providers.price_versions TO chimera_app;

GRANT SELECT ON TABLE providers.probe_results TO chimera_app;
GRANT SELECT,INSERT,DELETE ON TABLE providers.probe_results TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE providers.probes TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE providers.probes TO chimera_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE providers.provider_keys TO chimera_app;
GRANT SELECT ON TABLE providers.provider_keys TO chimera_worker;
GRANT SELECT ON TABLE providers.provider_keys TO chimera_lookup;

GRANT UPDATE(name) ON TABLE providers.provider_keys TO chimera_worker;

GRANT UPDATE(prefix) ON TABLE providers.provider_keys TO chimera_worker;

GRANT UPDATE(last_four) ON TABLE providers.provider_keys TO chimera_worker;

GRANT UPDATE(sealed) ON TABLE providers.provider_keys TO chimera_worker;

GRANT UPDATE(is_active) ON TABLE providers.provider_keys TO chimera_worker;

GRANT UPDATE(is_default) ON TABLE providers.provider_keys TO chimera_worker;

GRANT UPDATE(usage_count) ON TABLE providers.provider_keys TO chimera_worker;

GRANT UPDATE(last_used_at) ON TABLE providers.provider_keys TO chimera_worker;

GRANT UPDATE(rotate_at) ON TABLE providers.provider_keys TO chimera_worker;

GRANT UPDATE(revoked_at) ON TABLE providers.provider_keys TO chimera_worker;

GRANT UPDATE(reminded_at) ON TABLE providers.provider_keys TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE providers.providers TO chimera_app;
GRANT SELECT ON TABLE providers.providers TO chimera_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE providers.rate_limits TO chimera_app;
GRANT SELECT ON TABLE providers.rate_limits TO chimera_worker;

GRANT SELECT,INSERT ON TABLE providers.route_versions TO chimera_app;
GRANT SELECT ON TABLE providers.route_versions TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE providers.routes TO chimera_app;
GRANT SELECT ON TABLE providers.routes TO chimera_worker;

GRANT SELECT,INSERT ON TABLE telemetry.batches TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE telemetry.batches TO chimera_worker;

GRANT UPDATE(requeued_at) ON TABLE telemetry.batches TO chimera_app;

GRANT SELECT,INSERT,DELETE ON TABLE telemetry.dead_letters TO chimera_app;
GRANT SELECT,INSERT,DELETE ON TABLE telemetry.dead_letters TO chimera_worker;

GRANT SELECT ON TABLE telemetry.differing TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE telemetry.differing TO chimera_worker;

GRANT SELECT,INSERT ON TABLE telemetry.receipts TO chimera_app;
GRANT SELECT,DELETE ON TABLE telemetry.receipts TO chimera_worker;

GRANT SELECT ON TABLE telemetry.reconciliations TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE telemetry.reconciliations TO chimera_worker;

GRANT UPDATE(accepted) ON TABLE telemetry.reconciliations TO chimera_app;

GRANT UPDATE(dead) ON TABLE telemetry.reconciliations TO chimera_app;

GRANT SELECT ON TABLE telemetry.refreshes TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE telemetry.refreshes TO chimera_summary;

GRANT SELECT ON TABLE telemetry.stale_days TO chimera_app;
GRANT SELECT,INSERT,DELETE ON TABLE telemetry.stale_days TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE telemetry.totals TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE telemetry.totals TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE telemetry.verified TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE telemetry.verified TO chimera_worker;

GRANT SELECT,INSERT ON TABLE templates.dataset_rows TO chimera_app;
GRANT SELECT ON TABLE templates.dataset_rows TO chimera_library;

GRANT SELECT,INSERT ON TABLE templates.dataset_versions TO chimera_app;

GRANT SELECT,INSERT,UPDATE ON TABLE templates.datasets TO chimera_app;

GRANT SELECT,INSERT ON TABLE templates.label_moves TO chimera_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE templates.labels TO chimera_app;

GRANT SELECT,INSERT,UPDATE ON TABLE templates.review_rules TO chimera_app;

GRANT SELECT ON TABLE templates.shares TO chimera_library;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE templates.shares TO chimera_app;

GRANT SELECT,INSERT ON TABLE templates.usages TO chimera_app;
GRANT SELECT ON TABLE templates.usages TO chimera_worker;

GRANT UPDATE(scored_count) ON TABLE templates.usages TO chimera_worker;

GRANT UPDATE(success_count) ON TABLE templates.usages TO chimera_worker;

GRANT UPDATE(success_score) ON TABLE templates.usages TO chimera_worker;

GRANT UPDATE(settled_at) ON TABLE templates.usages TO chimera_worker;

GRANT SELECT,INSERT ON TABLE templates.versions TO chimera_app;
GRANT SELECT ON TABLE templates.versions TO chimera_library;

GRANT UPDATE(rating_count) ON TABLE templates.versions TO chimera_library;

GRANT UPDATE(rating_sum) ON TABLE templates.versions TO chimera_library;

GRANT UPDATE(effective_votes) ON TABLE templates.versions TO chimera_library;

GRANT UPDATE(ineffective_votes) ON TABLE templates.versions TO chimera_library;

GRANT UPDATE(scored_count) ON TABLE templates.versions TO chimera_library;

GRANT UPDATE(success_count) ON TABLE templates.versions TO chimera_library;
