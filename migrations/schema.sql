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

CREATE FUNCTION audit.refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION '% on audit.% is refused: the log is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;

ALTER FUNCTION audit.refuse() OWNER TO chimera_owner;

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

CREATE FUNCTION identity.find_login(login text) RETURNS TABLE(user_id uuid, org_id uuid, role text, password_hash text, state text, is_superuser boolean, locked_until timestamp with time zone, authz_epoch bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT u.id, m.org_id, m.role, u.password_hash, u.state, u.is_superuser, u.locked_until, u.authz_epoch
      FROM identity.users u
      JOIN identity.memberships m ON m.user_id = u.id
      JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
     WHERE u.deleted_at IS NULL AND (lower(u.email) = lower(login) OR lower(u.username) = lower(login))
     ORDER BY lower(u.email) = lower(login) DESC, m.created_at
     LIMIT 1
$$;

ALTER FUNCTION identity.find_login(login text) OWNER TO chimera_lookup;

CREATE FUNCTION identity.find_refresh_token(token_hash bytea) RETURNS TABLE(session_id uuid, user_id uuid, org_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT t.session_id, t.user_id, t.org_id FROM identity.refresh_tokens t
     WHERE t.token_hash = find_refresh_token.token_hash
$$;

ALTER FUNCTION identity.find_refresh_token(token_hash bytea) OWNER TO chimera_lookup;

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

CREATE FUNCTION identity.own_teams() RETURNS uuid[]
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT coalesce(array_agg(m.team_id), '{}')
      FROM identity.team_members m JOIN identity.teams t ON t.id = m.team_id
     WHERE m.org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
       AND m.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
       AND t.deleted_at IS NULL
    $$;

ALTER FUNCTION identity.own_teams() OWNER TO chimera_lookup;

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
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

ALTER FUNCTION ops.uuid_floor(at timestamp with time zone) OWNER TO chimera_owner;

CREATE FUNCTION telemetry.backlog(OUT total_bytes bigint, OUT own_bytes bigint, OUT oldest_at timestamp with time zone) RETURNS record
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT coalesce(sum(octet_length(body)), 0),
           coalesce(sum(octet_length(body)) FILTER (
               WHERE org_id = NULLIF(current_setting('app.org_id', true), '')::uuid), 0),
           min(created_at)
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
    dropped int := 0;
BEGIN
    SELECT ops.uuid_floor(now() - keep) INTO keep_from
      FROM ops.partitioned WHERE table_name = 'telemetry.batches' AND keep IS NOT NULL;
    IF keep_from IS NULL THEN
        RETURN 0;
    END IF;
    FOR child IN
        SELECT c.oid::regclass FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'telemetry.batches'::regclass
           AND substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([0-9a-f-]{36})''\)')::uuid <= keep_from
         ORDER BY c.relname
    LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM telemetry.batches WHERE tableoid = child AND state = 'waiting');
        EXECUTE format('DROP TABLE %s', child);
        dropped := dropped + 1;
    END LOOP;
    -- What fell into the default partition while there was no other.
    DELETE FROM telemetry.batches
     WHERE tableoid = 'telemetry.batches_default'::regclass AND batch_id < keep_from AND state <> 'waiting';
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
    CONSTRAINT campaigns_state_check CHECK ((state = ANY (ARRAY['draft'::text, 'scheduled'::text, 'running'::text, 'paused'::text, 'completed'::text, 'failed'::text, 'cancelled'::text, 'archived'::text]))),
    CONSTRAINT campaigns_visibility_check CHECK ((visibility = ANY (ARRAY['private'::text, 'organisation'::text])))
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
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL
);

ALTER TABLE ONLY identity.api_keys FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.api_keys OWNER TO chimera_owner;

CREATE TABLE identity.memberships (
    org_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT memberships_role_check CHECK ((role = ANY (ARRAY['admin'::text, 'user'::text, 'viewer'::text])))
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
    absolute_expires_at timestamp with time zone NOT NULL
);

ALTER TABLE ONLY identity.sessions FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.sessions OWNER TO chimera_owner;

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
    CONSTRAINT templates_sharing_level_check CHECK ((sharing_level = ANY (ARRAY['private'::text, 'organisation'::text]))),
    CONSTRAINT templates_state_check CHECK ((state = ANY (ARRAY['draft'::text, 'review'::text, 'published'::text, 'archived'::text])))
);

ALTER TABLE ONLY templates.templates FORCE ROW LEVEL SECURITY;

ALTER TABLE templates.templates OWNER TO chimera_owner;

CREATE MATERIALIZED VIEW telemetry.user_summaries AS
 SELECT m.org_id,
    m.user_id,
    COALESCE(c.campaigns, (0)::bigint) AS campaigns,
    (COALESCE(e.executions, (0)::numeric))::bigint AS executions,
    COALESCE(t.templates, (0)::bigint) AS templates,
    (COALESCE(g.ratings, 0))::bigint AS ratings,
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
     LEFT JOIN ( SELECT NULL::uuid AS org_id,
            NULL::uuid AS user_id,
            0 AS ratings
          WHERE false) g ON (((g.org_id = m.org_id) AND (g.user_id = m.user_id))))
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
    AS $$ SELECT coalesce(array_agg(id), '{}') FROM campaigns.campaigns WHERE id = ANY(asked) $$;

ALTER FUNCTION telemetry.visible_campaigns(asked uuid[]) OWNER TO chimera_owner;

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
    created_at timestamp with time zone DEFAULT now() NOT NULL
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

CREATE TABLE audit.leaves (
    log_index bigint NOT NULL,
    event_id uuid NOT NULL,
    leaf_hash bytea NOT NULL,
    CONSTRAINT leaves_leaf_hash_check CHECK ((length(leaf_hash) = 32))
);

ALTER TABLE audit.leaves OWNER TO chimera_owner;

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
    provider_key_id uuid,
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
    provider_key_id uuid,
    CONSTRAINT attempts_state_check CHECK ((state = ANY (ARRAY['sent'::text, 'settled'::text, 'unknown'::text])))
);

ALTER TABLE ONLY campaigns.attempts_default FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.attempts_default OWNER TO chimera_owner;

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
    budgeted boolean DEFAULT false NOT NULL
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
    repetitions integer NOT NULL
);

ALTER TABLE ONLY campaigns.run_plans FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.run_plans OWNER TO chimera_owner;

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
    CONSTRAINT scorings_state_check CHECK ((state = ANY (ARRAY['running'::text, 'completed'::text])))
);

ALTER TABLE ONLY campaigns.scorings FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.scorings OWNER TO chimera_owner;

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
    CONSTRAINT shards_cells_check CHECK ((cells > 0)),
    CONSTRAINT shards_state_check CHECK ((state = ANY (ARRAY['open'::text, 'done'::text])))
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.05');

ALTER TABLE ONLY campaigns.shards FORCE ROW LEVEL SECURITY;

ALTER TABLE campaigns.shards OWNER TO chimera_owner;

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

CREATE TABLE identity.organisations (
    id uuid NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT organisations_name_check CHECK (((length(name) >= 1) AND (length(name) <= 200)))
);

ALTER TABLE ONLY identity.organisations FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.organisations OWNER TO chimera_owner;

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

CREATE TABLE providers.circuits (
    org_id uuid NOT NULL,
    model_id uuid NOT NULL,
    state text NOT NULL,
    cause text DEFAULT ''::text NOT NULL,
    open_until timestamp with time zone,
    opened_count integer DEFAULT 0 NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT circuits_state_check CHECK ((state = ANY (ARRAY['closed'::text, 'open'::text])))
);

ALTER TABLE ONLY providers.circuits FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.circuits OWNER TO chimera_owner;

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
    deleted_at timestamp with time zone
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
    valid_from timestamp with time zone DEFAULT now() NOT NULL,
    created_by uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT price_versions_cached_input_per_million_check CHECK ((cached_input_per_million >= (0)::numeric)),
    CONSTRAINT price_versions_input_per_million_check CHECK ((input_per_million >= (0)::numeric)),
    CONSTRAINT price_versions_output_per_million_check CHECK ((output_per_million >= (0)::numeric)),
    CONSTRAINT price_versions_per_request_check CHECK ((per_request >= (0)::numeric)),
    CONSTRAINT price_versions_reasoning_per_million_check CHECK ((reasoning_per_million >= (0)::numeric))
);

ALTER TABLE ONLY providers.price_versions FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.price_versions OWNER TO chimera_owner;

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
    updated_at timestamp with time zone DEFAULT now() NOT NULL
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
    CONSTRAINT providers_provider_type_check CHECK ((provider_type = ANY (ARRAY['openai'::text, 'anthropic'::text, 'huggingface'::text, 'local'::text, 'custom'::text]))),
    CONSTRAINT providers_requests_per_minute_check CHECK ((requests_per_minute >= 0)),
    CONSTRAINT providers_timeout_s_check CHECK (((timeout_s >= 1) AND (timeout_s <= 600))),
    CONSTRAINT providers_tokens_per_minute_check CHECK ((tokens_per_minute >= 0))
);

ALTER TABLE ONLY providers.providers FORCE ROW LEVEL SECURITY;

ALTER TABLE providers.providers OWNER TO chimera_owner;

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
    checked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE ONLY telemetry.verified FORCE ROW LEVEL SECURITY;

ALTER TABLE telemetry.verified OWNER TO chimera_owner;

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
    CONSTRAINT versions_version_number_check CHECK ((version_number > 0))
);

ALTER TABLE ONLY templates.versions FORCE ROW LEVEL SECURITY;

ALTER TABLE templates.versions OWNER TO chimera_owner;

ALTER TABLE ONLY audit.events ATTACH PARTITION audit.events_default DEFAULT;

ALTER TABLE ONLY campaigns.attempts ATTACH PARTITION campaigns.attempts_default DEFAULT;

ALTER TABLE ONLY campaigns.executions ATTACH PARTITION campaigns.executions_default DEFAULT;

ALTER TABLE ONLY campaigns.flushes ATTACH PARTITION campaigns.flushes_default DEFAULT;

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

ALTER TABLE ONLY audit.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY audit.events_default
    ADD CONSTRAINT events_default_pkey PRIMARY KEY (id);

ALTER TABLE ONLY audit.leaves
    ADD CONSTRAINT leaves_event_id_key UNIQUE (event_id);

ALTER TABLE ONLY audit.leaves
    ADD CONSTRAINT leaves_pkey PRIMARY KEY (log_index);

ALTER TABLE ONLY audit.log_head
    ADD CONSTRAINT log_head_pkey PRIMARY KEY (the_one);

ALTER TABLE ONLY audit.nodes
    ADD CONSTRAINT nodes_pkey PRIMARY KEY (level, node_index);

ALTER TABLE ONLY audit.pending
    ADD CONSTRAINT pending_pkey PRIMARY KEY (id);

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

ALTER TABLE ONLY campaigns.executions
    ADD CONSTRAINT executions_pkey PRIMARY KEY (run_id, cell_no);

ALTER TABLE ONLY campaigns.executions_default
    ADD CONSTRAINT executions_default_pkey PRIMARY KEY (run_id, cell_no);

ALTER TABLE ONLY campaigns.flushes
    ADD CONSTRAINT flushes_pkey PRIMARY KEY (run_id, xid, id);

ALTER TABLE ONLY campaigns.flushes_default
    ADD CONSTRAINT flushes_default_pkey PRIMARY KEY (run_id, xid, id);

ALTER TABLE ONLY campaigns.overrides
    ADD CONSTRAINT overrides_pkey PRIMARY KEY (id);

ALTER TABLE ONLY campaigns.run_money
    ADD CONSTRAINT run_money_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY campaigns.run_plans
    ADD CONSTRAINT run_plans_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY campaigns.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY campaigns.scorings
    ADD CONSTRAINT scorings_pkey PRIMARY KEY (id);

ALTER TABLE ONLY campaigns.shards
    ADD CONSTRAINT shards_pkey PRIMARY KEY (run_id, shard_no);

ALTER TABLE ONLY campaigns.tallies
    ADD CONSTRAINT tallies_pkey PRIMARY KEY (run_id, slot, technique_no, target_no);

ALTER TABLE ONLY campaigns.verdicts
    ADD CONSTRAINT verdicts_pkey PRIMARY KEY (scoring_id, cell_no);

ALTER TABLE ONLY campaigns.verdicts_default
    ADD CONSTRAINT verdicts_default_pkey PRIMARY KEY (scoring_id, cell_no);

ALTER TABLE ONLY campaigns.windows
    ADD CONSTRAINT windows_pkey PRIMARY KEY (campaign_id, window_start, technique, provider, model);

ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_public_id_key UNIQUE (public_id);

ALTER TABLE ONLY identity.memberships
    ADD CONSTRAINT memberships_pkey PRIMARY KEY (org_id, user_id);

ALTER TABLE ONLY identity.organisations
    ADD CONSTRAINT organisations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY identity.refresh_tokens
    ADD CONSTRAINT refresh_tokens_pkey PRIMARY KEY (token_hash);

ALTER TABLE ONLY identity.refresh_tokens
    ADD CONSTRAINT refresh_tokens_session_id_generation_key UNIQUE (session_id, generation);

ALTER TABLE ONLY identity.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (id);

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

ALTER TABLE ONLY ops.kill_switches
    ADD CONSTRAINT kill_switches_org_id_key UNIQUE NULLS NOT DISTINCT (org_id);

ALTER TABLE ONLY ops.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (name);

ALTER TABLE ONLY ops.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY ops.partitioned
    ADD CONSTRAINT partitioned_pkey PRIMARY KEY (table_name);

ALTER TABLE ONLY ops.secrets
    ADD CONSTRAINT secrets_pkey PRIMARY KEY (name, version);

ALTER TABLE ONLY providers.allowed_targets
    ADD CONSTRAINT allowed_targets_pkey PRIMARY KEY (org_id, model_id);

ALTER TABLE ONLY providers.circuits
    ADD CONSTRAINT circuits_pkey PRIMARY KEY (org_id, model_id);

ALTER TABLE ONLY providers.ledger
    ADD CONSTRAINT ledger_pkey PRIMARY KEY (run_id, cell_no, attempt_no, entry_no);

ALTER TABLE ONLY providers.ledger_default
    ADD CONSTRAINT ledger_default_pkey PRIMARY KEY (run_id, cell_no, attempt_no, entry_no);

ALTER TABLE ONLY providers.models
    ADD CONSTRAINT models_pkey PRIMARY KEY (id);

ALTER TABLE ONLY providers.price_versions
    ADD CONSTRAINT price_versions_model_id_version_number_key UNIQUE (model_id, version_number);

ALTER TABLE ONLY providers.price_versions
    ADD CONSTRAINT price_versions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY providers.provider_keys
    ADD CONSTRAINT provider_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY providers.providers
    ADD CONSTRAINT providers_pkey PRIMARY KEY (id);

ALTER TABLE ONLY telemetry.batches
    ADD CONSTRAINT batches_pkey PRIMARY KEY (batch_id);

ALTER TABLE ONLY telemetry.batches_default
    ADD CONSTRAINT batches_default_pkey PRIMARY KEY (batch_id);

ALTER TABLE ONLY telemetry.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (id);

ALTER TABLE ONLY telemetry.receipts
    ADD CONSTRAINT receipts_pkey PRIMARY KEY (org_id, producer, batch_id);

ALTER TABLE ONLY telemetry.reconciliations
    ADD CONSTRAINT reconciliations_pkey PRIMARY KEY (org_id, day, producer);

ALTER TABLE ONLY telemetry.refreshes
    ADD CONSTRAINT refreshes_pkey PRIMARY KEY (name);

ALTER TABLE ONLY telemetry.totals
    ADD CONSTRAINT totals_pkey PRIMARY KEY (org_id, slot);

ALTER TABLE ONLY telemetry.verified
    ADD CONSTRAINT verified_pkey PRIMARY KEY (org_id);

ALTER TABLE ONLY templates.templates
    ADD CONSTRAINT templates_org_id_id_key UNIQUE (org_id, id);

ALTER TABLE ONLY templates.templates
    ADD CONSTRAINT templates_pkey PRIMARY KEY (id);

ALTER TABLE ONLY templates.versions
    ADD CONSTRAINT versions_org_id_template_id_version_number_key UNIQUE (org_id, template_id, version_number);

ALTER TABLE ONLY templates.versions
    ADD CONSTRAINT versions_pkey PRIMARY KEY (id);

CREATE INDEX alerts_org ON accounting.alerts USING btree (org_id, id DESC);

CREATE INDEX alerts_user ON accounting.alerts USING btree (org_id, user_id, id DESC);

CREATE INDEX budgets_org ON accounting.budgets USING btree (org_id, id DESC);

CREATE INDEX deliveries_webhook ON accounting.deliveries USING btree (webhook_id, created_at DESC, id DESC);

CREATE INDEX webhooks_org ON accounting.webhooks USING btree (org_id, id DESC);

CREATE INDEX windows_org ON accounting.windows USING btree (org_id, window_start);

CREATE INDEX events_index ON ONLY audit.events USING btree (log_index);

CREATE INDEX events_default_log_index_idx ON audit.events_default USING btree (log_index);

CREATE INDEX events_entity ON ONLY audit.events USING btree (org_id, entity, entity_id, id DESC);

CREATE INDEX events_default_org_id_entity_entity_id_id_idx ON audit.events_default USING btree (org_id, entity, entity_id, id DESC);

CREATE INDEX events_org ON ONLY audit.events USING btree (org_id, id DESC);

CREATE INDEX events_default_org_id_id_idx ON audit.events_default USING btree (org_id, id DESC);

CREATE INDEX pending_order ON audit.pending USING btree (xid);

CREATE INDEX attempts_unknown ON ONLY campaigns.attempts USING btree (run_id DESC, cell_no DESC, attempt_no DESC) WHERE (state = 'unknown'::text);

CREATE INDEX attempts_default_run_id_cell_no_attempt_no_idx ON campaigns.attempts_default USING btree (run_id DESC, cell_no DESC, attempt_no DESC) WHERE (state = 'unknown'::text);

CREATE UNIQUE INDEX campaigns_name ON campaigns.campaigns USING btree (org_id, lower(name)) WHERE (deleted_at IS NULL);

CREATE INDEX campaigns_newest ON campaigns.campaigns USING btree (org_id, id DESC);

CREATE INDEX overrides_run ON campaigns.overrides USING btree (run_id, id DESC);

CREATE UNIQUE INDEX overrides_standing ON campaigns.overrides USING btree (run_id, cell_no) WHERE (withdrawn_at IS NULL);

CREATE INDEX runs_campaign ON campaigns.runs USING btree (org_id, campaign_id, id DESC);

CREATE INDEX runs_live ON campaigns.runs USING btree (priority DESC, served_at) WHERE (state = 'running'::text);

CREATE INDEX scorings_run ON campaigns.scorings USING btree (run_id, id DESC);

CREATE INDEX shards_open ON campaigns.shards USING btree (run_id, shard_no) WHERE (state = 'open'::text);

CREATE INDEX windows_time ON campaigns.windows USING btree (org_id, window_start);

CREATE INDEX api_keys_user ON identity.api_keys USING btree (org_id, user_id, id);

CREATE INDEX memberships_user ON identity.memberships USING btree (user_id);

CREATE UNIQUE INDEX organisations_name ON identity.organisations USING btree (lower(name)) WHERE (deleted_at IS NULL);

CREATE INDEX sessions_expiry ON identity.sessions USING btree (absolute_expires_at);

CREATE INDEX sessions_user ON identity.sessions USING btree (user_id, created_at);

CREATE INDEX team_members_user ON identity.team_members USING btree (org_id, user_id, team_id);

CREATE UNIQUE INDEX teams_name ON identity.teams USING btree (org_id, lower(name)) WHERE (deleted_at IS NULL);

CREATE UNIQUE INDEX users_email ON identity.users USING btree (lower(email)) WHERE (deleted_at IS NULL);

CREATE UNIQUE INDEX users_username ON identity.users USING btree (lower(username)) WHERE (deleted_at IS NULL);

CREATE INDEX idempotency_age ON ops.idempotency USING btree (created_at);

CREATE INDEX outbox_due ON ops.outbox USING btree (due_at) WHERE (state <> 'dead'::text);

CREATE INDEX ledger_xid ON ONLY providers.ledger USING btree (xid);

CREATE INDEX ledger_default_xid_idx ON providers.ledger_default USING btree (xid);

CREATE UNIQUE INDEX models_name ON providers.models USING btree (provider_id, name, version) WHERE (deleted_at IS NULL);

CREATE UNIQUE INDEX provider_keys_default ON providers.provider_keys USING btree (user_id, provider_id) WHERE (is_default AND is_active);

CREATE UNIQUE INDEX provider_keys_name ON providers.provider_keys USING btree (user_id, provider_id, name) WHERE is_active;

CREATE UNIQUE INDEX providers_name ON providers.providers USING btree (org_id, name) NULLS NOT DISTINCT WHERE (deleted_at IS NULL);

CREATE INDEX batches_waiting ON ONLY telemetry.batches USING btree (batch_id) WHERE (state = 'waiting'::text);

CREATE INDEX batches_default_batch_id_idx ON telemetry.batches_default USING btree (batch_id) WHERE (state = 'waiting'::text);

CREATE INDEX batches_new ON ONLY telemetry.batches USING btree (batch_id) WHERE ((state = 'waiting'::text) AND (group_id IS NULL));

CREATE INDEX batches_default_batch_id_idx1 ON telemetry.batches_default USING btree (batch_id) WHERE ((state = 'waiting'::text) AND (group_id IS NULL));

CREATE INDEX batches_open ON ONLY telemetry.batches USING btree (group_id) WHERE ((state = 'waiting'::text) AND (group_id IS NOT NULL));

CREATE INDEX batches_default_group_id_idx ON telemetry.batches_default USING btree (group_id) WHERE ((state = 'waiting'::text) AND (group_id IS NOT NULL));

CREATE INDEX batches_tail ON ONLY telemetry.batches USING btree (org_id, xid, batch_id);

CREATE INDEX batches_default_org_id_xid_batch_id_idx ON telemetry.batches_default USING btree (org_id, xid, batch_id);

CREATE INDEX dead_letters_newest ON telemetry.dead_letters USING btree (org_id, id DESC);

CREATE INDEX receipts_age ON telemetry.receipts USING brin (created_at);

CREATE UNIQUE INDEX user_summaries_key ON telemetry.user_summaries USING btree (org_id, user_id);

ALTER INDEX audit.events_index ATTACH PARTITION audit.events_default_log_index_idx;

ALTER INDEX audit.events_entity ATTACH PARTITION audit.events_default_org_id_entity_entity_id_id_idx;

ALTER INDEX audit.events_org ATTACH PARTITION audit.events_default_org_id_id_idx;

ALTER INDEX audit.events_pkey ATTACH PARTITION audit.events_default_pkey;

ALTER INDEX campaigns.attempts_pkey ATTACH PARTITION campaigns.attempts_default_pkey;

ALTER INDEX campaigns.attempts_unknown ATTACH PARTITION campaigns.attempts_default_run_id_cell_no_attempt_no_idx;

ALTER INDEX campaigns.executions_pkey ATTACH PARTITION campaigns.executions_default_pkey;

ALTER INDEX campaigns.flushes_pkey ATTACH PARTITION campaigns.flushes_default_pkey;

ALTER INDEX campaigns.verdicts_pkey ATTACH PARTITION campaigns.verdicts_default_pkey;

ALTER INDEX providers.ledger_pkey ATTACH PARTITION providers.ledger_default_pkey;

ALTER INDEX providers.ledger_xid ATTACH PARTITION providers.ledger_default_xid_idx;

ALTER INDEX telemetry.batches_waiting ATTACH PARTITION telemetry.batches_default_batch_id_idx;

ALTER INDEX telemetry.batches_new ATTACH PARTITION telemetry.batches_default_batch_id_idx1;

ALTER INDEX telemetry.batches_open ATTACH PARTITION telemetry.batches_default_group_id_idx;

ALTER INDEX telemetry.batches_tail ATTACH PARTITION telemetry.batches_default_org_id_xid_batch_id_idx;

ALTER INDEX telemetry.batches_pkey ATTACH PARTITION telemetry.batches_default_pkey;

CREATE TRIGGER touch BEFORE UPDATE ON accounting.budgets FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON accounting.webhooks FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER no_change BEFORE DELETE OR UPDATE ON audit.checkpoints FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.checkpoints ENABLE ALWAYS TRIGGER no_change;

CREATE TRIGGER no_change BEFORE DELETE OR UPDATE ON audit.events FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.events ENABLE ALWAYS TRIGGER no_change;

CREATE TRIGGER no_change BEFORE DELETE OR UPDATE ON audit.leaves FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.leaves ENABLE ALWAYS TRIGGER no_change;

CREATE TRIGGER no_change BEFORE DELETE OR UPDATE ON audit.nodes FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.nodes ENABLE ALWAYS TRIGGER no_change;

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.checkpoints FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.checkpoints ENABLE ALWAYS TRIGGER no_truncate;

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.events FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.events ENABLE ALWAYS TRIGGER no_truncate;

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.events_default FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.events_default ENABLE ALWAYS TRIGGER no_truncate;

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.leaves FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.leaves ENABLE ALWAYS TRIGGER no_truncate;

CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.nodes FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.nodes ENABLE ALWAYS TRIGGER no_truncate;

CREATE TRIGGER touch BEFORE UPDATE ON campaigns.campaigns FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON identity.teams FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON identity.users FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON providers.models FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON providers.provider_keys FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON providers.providers FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TRIGGER touch BEFORE UPDATE ON templates.templates FOR EACH ROW EXECUTE FUNCTION ops.touch();

ALTER TABLE ONLY accounting.budgets
    ADD CONSTRAINT budgets_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY accounting.deliveries
    ADD CONSTRAINT deliveries_webhook_id_fkey FOREIGN KEY (webhook_id) REFERENCES accounting.webhooks(id) ON DELETE RESTRICT;

ALTER TABLE ONLY accounting.delivery_tries
    ADD CONSTRAINT delivery_tries_delivery_id_fkey FOREIGN KEY (delivery_id) REFERENCES accounting.deliveries(id) ON DELETE RESTRICT;

ALTER TABLE ONLY accounting.webhooks
    ADD CONSTRAINT webhooks_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.analysed
    ADD CONSTRAINT analysed_run_id_fkey FOREIGN KEY (run_id) REFERENCES campaigns.runs(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.campaigns
    ADD CONSTRAINT campaigns_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.campaigns
    ADD CONSTRAINT campaigns_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.overrides
    ADD CONSTRAINT overrides_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.overrides
    ADD CONSTRAINT overrides_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.overrides
    ADD CONSTRAINT overrides_run_id_fkey FOREIGN KEY (run_id) REFERENCES campaigns.runs(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.runs
    ADD CONSTRAINT runs_org_id_campaign_id_fkey FOREIGN KEY (org_id, campaign_id) REFERENCES campaigns.campaigns(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.scorings
    ADD CONSTRAINT scorings_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.scorings
    ADD CONSTRAINT scorings_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.scorings
    ADD CONSTRAINT scorings_run_id_fkey FOREIGN KEY (run_id) REFERENCES campaigns.runs(id) ON DELETE RESTRICT;

ALTER TABLE ONLY campaigns.windows
    ADD CONSTRAINT windows_org_id_campaign_id_fkey FOREIGN KEY (org_id, campaign_id) REFERENCES campaigns.campaigns(org_id, id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.api_keys
    ADD CONSTRAINT api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.memberships
    ADD CONSTRAINT memberships_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.memberships
    ADD CONSTRAINT memberships_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.refresh_tokens
    ADD CONSTRAINT refresh_tokens_session_id_fkey FOREIGN KEY (session_id) REFERENCES identity.sessions(id) ON DELETE CASCADE;

ALTER TABLE ONLY identity.sessions
    ADD CONSTRAINT sessions_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY identity.sessions
    ADD CONSTRAINT sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

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

ALTER TABLE ONLY providers.allowed_targets
    ADD CONSTRAINT allowed_targets_model_id_fkey FOREIGN KEY (model_id) REFERENCES providers.models(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.allowed_targets
    ADD CONSTRAINT allowed_targets_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.circuits
    ADD CONSTRAINT circuits_model_id_fkey FOREIGN KEY (model_id) REFERENCES providers.models(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.models
    ADD CONSTRAINT models_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES providers.providers(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.price_versions
    ADD CONSTRAINT price_versions_model_id_fkey FOREIGN KEY (model_id) REFERENCES providers.models(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.provider_keys
    ADD CONSTRAINT provider_keys_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.provider_keys
    ADD CONSTRAINT provider_keys_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES providers.providers(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.provider_keys
    ADD CONSTRAINT provider_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY providers.providers
    ADD CONSTRAINT providers_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.templates
    ADD CONSTRAINT templates_created_by_fkey FOREIGN KEY (created_by) REFERENCES identity.users(id) ON DELETE RESTRICT;

ALTER TABLE ONLY templates.templates
    ADD CONSTRAINT templates_org_id_fkey FOREIGN KEY (org_id) REFERENCES identity.organisations(id) ON DELETE RESTRICT;

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

ALTER TABLE accounting.usage_daily ENABLE ROW LEVEL SECURITY;

ALTER TABLE accounting.waits ENABLE ROW LEVEL SECURITY;

ALTER TABLE accounting.webhooks ENABLE ROW LEVEL SECURITY;

ALTER TABLE accounting.windows ENABLE ROW LEVEL SECURITY;

CREATE POLICY capture ON audit.pending FOR INSERT TO chimera_app, chimera_worker WITH CHECK (true);

ALTER TABLE audit.events ENABLE ROW LEVEL SECURITY;

ALTER TABLE audit.events_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE audit.pending ENABLE ROW LEVEL SECURITY;

CREATE POLICY sealer ON audit.events TO chimera_sealer USING (true) WITH CHECK (true);

CREATE POLICY sealer ON audit.pending TO chimera_sealer USING (true);

CREATE POLICY tenant_read ON audit.events FOR SELECT TO chimera_app, chimera_auditor USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant_read ON audit.pending FOR SELECT TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE campaigns.analysed ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.attempts ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.attempts_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.campaigns ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.executions ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.executions_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.flushes ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.flushes_default ENABLE ROW LEVEL SECURITY;

CREATE POLICY machinery ON campaigns.analysed FOR SELECT TO chimera_worker USING (true);

CREATE POLICY machinery ON campaigns.runs TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON campaigns.shards TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY operator ON campaigns.attempts FOR SELECT TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

CREATE POLICY operator ON campaigns.runs FOR SELECT TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

CREATE POLICY operator ON campaigns.shards TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

ALTER TABLE campaigns.overrides ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.run_money ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.run_plans ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.runs ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.scorings ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.shards ENABLE ROW LEVEL SECURITY;

CREATE POLICY summary ON campaigns.campaigns FOR SELECT TO chimera_summary USING (true);

CREATE POLICY summary ON campaigns.runs FOR SELECT TO chimera_summary USING (true);

CREATE POLICY summary ON campaigns.tallies FOR SELECT TO chimera_summary USING (true);

ALTER TABLE campaigns.tallies ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON campaigns.analysed TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.attempts TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.campaigns TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((visibility <> 'private'::text) OR (created_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.executions TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.flushes TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.overrides TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.run_money TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.run_plans TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.runs TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.scorings TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.shards TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.tallies TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.verdicts TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON campaigns.windows TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE campaigns.verdicts ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.verdicts_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE campaigns.windows ENABLE ROW LEVEL SECURITY;

CREATE POLICY worker ON campaigns.campaigns TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE identity.api_keys ENABLE ROW LEVEL SECURITY;

CREATE POLICY bootstrap ON identity.memberships FOR INSERT TO chimera_owner WITH CHECK (true);

CREATE POLICY bootstrap ON identity.organisations FOR INSERT TO chimera_owner WITH CHECK (true);

CREATE POLICY bootstrap ON identity.users FOR INSERT TO chimera_owner WITH CHECK (true);

CREATE POLICY letters ON identity.memberships FOR SELECT TO chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY letters ON identity.users FOR SELECT TO chimera_worker USING ((EXISTS ( SELECT
   FROM identity.memberships m
  WHERE ((m.user_id = users.id) AND (m.org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))))));

CREATE POLICY lookup ON identity.api_keys FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.memberships FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.organisations FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.refresh_tokens FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.sessions FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.team_members FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.teams FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY lookup ON identity.users FOR SELECT TO chimera_lookup USING (true);

CREATE POLICY machinery ON identity.api_keys TO chimera_worker USING (true);

CREATE POLICY machinery ON identity.refresh_tokens TO chimera_worker USING (true);

CREATE POLICY machinery ON identity.sessions TO chimera_worker USING (true);

CREATE POLICY member_add ON identity.users FOR INSERT TO chimera_app WITH CHECK (((( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif") IS NOT NULL) AND (NOT is_superuser)));

CREATE POLICY member_change ON identity.users FOR UPDATE TO chimera_app USING ((EXISTS ( SELECT
   FROM identity.memberships m
  WHERE (m.user_id = users.id))));

CREATE POLICY member_read ON identity.users FOR SELECT TO chimera_app USING ((EXISTS ( SELECT
   FROM identity.memberships m
  WHERE (m.user_id = users.id))));

ALTER TABLE identity.memberships ENABLE ROW LEVEL SECURITY;

ALTER TABLE identity.organisations ENABLE ROW LEVEL SECURITY;

ALTER TABLE identity.refresh_tokens ENABLE ROW LEVEL SECURITY;

ALTER TABLE identity.sessions ENABLE ROW LEVEL SECURITY;

CREATE POLICY summary ON identity.api_keys FOR SELECT TO chimera_summary USING (true);

CREATE POLICY summary ON identity.memberships FOR SELECT TO chimera_summary USING (true);

CREATE POLICY summary ON identity.sessions FOR SELECT TO chimera_summary USING (true);

ALTER TABLE identity.team_members ENABLE ROW LEVEL SECURITY;

ALTER TABLE identity.teams ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON identity.api_keys TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.memberships TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.organisations FOR SELECT TO chimera_app USING ((id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.refresh_tokens TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.sessions TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.team_members TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON identity.teams TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE identity.users ENABLE ROW LEVEL SECURITY;

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

ALTER TABLE providers.circuits ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.ledger ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.ledger_default ENABLE ROW LEVEL SECURITY;

CREATE POLICY machinery ON providers.ledger FOR SELECT TO chimera_worker USING (true);

ALTER TABLE providers.models ENABLE ROW LEVEL SECURITY;

CREATE POLICY operator ON providers.models TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)) WITH CHECK ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

CREATE POLICY operator ON providers.price_versions TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)) WITH CHECK ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

CREATE POLICY operator ON providers.providers TO chimera_app USING ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text)) WITH CHECK ((( SELECT current_setting('app.role'::text, true) AS current_setting) = 'operator'::text));

ALTER TABLE providers.price_versions ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.provider_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE providers.providers ENABLE ROW LEVEL SECURITY;

CREATE POLICY readable ON providers.models FOR SELECT TO chimera_app, chimera_worker USING (((org_id IS NULL) OR (org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))));

CREATE POLICY readable ON providers.price_versions FOR SELECT TO chimera_app, chimera_worker USING (((org_id IS NULL) OR (org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))));

CREATE POLICY readable ON providers.providers FOR SELECT TO chimera_app, chimera_worker USING (((org_id IS NULL) OR (org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))));

CREATE POLICY tenant ON providers.allowed_targets TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.circuits TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.ledger TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.models TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.price_versions TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.provider_keys TO chimera_app, chimera_worker USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON providers.providers TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE telemetry.batches ENABLE ROW LEVEL SECURITY;

ALTER TABLE telemetry.batches_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE telemetry.dead_letters ENABLE ROW LEVEL SECURITY;

CREATE POLICY machinery ON telemetry.batches TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON telemetry.dead_letters TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON telemetry.receipts TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON telemetry.reconciliations TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON telemetry.totals TO chimera_worker USING (true) WITH CHECK (true);

CREATE POLICY machinery ON telemetry.verified TO chimera_worker USING (true) WITH CHECK (true);

ALTER TABLE telemetry.receipts ENABLE ROW LEVEL SECURITY;

ALTER TABLE telemetry.reconciliations ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON telemetry.batches TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON telemetry.dead_letters TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON telemetry.receipts TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON telemetry.reconciliations TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON telemetry.totals TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON telemetry.verified TO chimera_app USING ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif"))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE telemetry.totals ENABLE ROW LEVEL SECURITY;

CREATE POLICY upkeep_deletes ON telemetry.batches FOR DELETE TO chimera_owner USING ((state <> 'waiting'::text));

CREATE POLICY upkeep_sees ON telemetry.batches FOR SELECT TO chimera_owner USING (true);

ALTER TABLE telemetry.verified ENABLE ROW LEVEL SECURITY;

CREATE POLICY summary ON templates.templates FOR SELECT TO chimera_summary USING (true);

ALTER TABLE templates.templates ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON templates.templates TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND ((sharing_level <> 'private'::text) OR (created_by = ( SELECT (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid AS "nullif"))))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

CREATE POLICY tenant ON templates.versions TO chimera_app USING (((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")) AND (EXISTS ( SELECT
   FROM templates.templates t
  WHERE ((t.org_id = versions.org_id) AND (t.id = versions.template_id)))))) WITH CHECK ((org_id = ( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS "nullif")));

ALTER TABLE templates.versions ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA accounting TO chimera_app;
GRANT USAGE ON SCHEMA accounting TO chimera_worker;

GRANT USAGE ON SCHEMA audit TO chimera_app;
GRANT USAGE ON SCHEMA audit TO chimera_worker;
GRANT USAGE ON SCHEMA audit TO chimera_sealer;
GRANT USAGE ON SCHEMA audit TO chimera_auditor;

GRANT USAGE ON SCHEMA campaigns TO chimera_app;
GRANT USAGE ON SCHEMA campaigns TO chimera_worker;
GRANT USAGE ON SCHEMA campaigns TO chimera_summary;

GRANT USAGE ON SCHEMA identity TO chimera_app;
GRANT USAGE ON SCHEMA identity TO chimera_worker;
GRANT USAGE ON SCHEMA identity TO chimera_lookup;
GRANT USAGE ON SCHEMA identity TO chimera_auditor;
GRANT USAGE ON SCHEMA identity TO chimera_summary;

GRANT USAGE ON SCHEMA ops TO chimera_app;
GRANT USAGE ON SCHEMA ops TO chimera_worker;
GRANT USAGE ON SCHEMA ops TO chimera_sealer;
GRANT USAGE ON SCHEMA ops TO chimera_auditor;
GRANT USAGE ON SCHEMA ops TO chimera_lookup;

GRANT USAGE ON SCHEMA providers TO chimera_app;
GRANT USAGE ON SCHEMA providers TO chimera_worker;

GRANT USAGE ON SCHEMA telemetry TO chimera_app;
GRANT USAGE ON SCHEMA telemetry TO chimera_worker;
GRANT USAGE ON SCHEMA telemetry TO chimera_summary;

GRANT USAGE ON SCHEMA templates TO chimera_app;
GRANT USAGE ON SCHEMA templates TO chimera_worker;
GRANT USAGE ON SCHEMA templates TO chimera_summary;

REVOKE ALL ON FUNCTION identity.find_api_key(public_id text) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_api_key(public_id text) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_login(login text) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_login(login text) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_refresh_token(token_hash bytea) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_refresh_token(token_hash bytea) TO chimera_app;

REVOKE ALL ON FUNCTION identity.find_session(session_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION identity.find_session(session_id uuid) TO chimera_app;

REVOKE ALL ON FUNCTION identity.own_teams() FROM PUBLIC;
GRANT ALL ON FUNCTION identity.own_teams() TO chimera_app;
GRANT ALL ON FUNCTION identity.own_teams() TO chimera_worker;

REVOKE ALL ON FUNCTION ops.make_partitions(OUT made integer, OUT refused text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION ops.make_partitions(OUT made integer, OUT refused text[]) TO chimera_worker;

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
GRANT SELECT,INSERT,UPDATE ON TABLE identity.memberships TO chimera_app;
GRANT SELECT ON TABLE identity.memberships TO chimera_worker;
GRANT SELECT ON TABLE identity.memberships TO chimera_summary;

GRANT SELECT ON TABLE identity.sessions TO chimera_lookup;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.sessions TO chimera_app;
GRANT SELECT,DELETE,UPDATE ON TABLE identity.sessions TO chimera_worker;
GRANT SELECT ON TABLE identity.sessions TO chimera_summary;

GRANT SELECT,INSERT,UPDATE ON TABLE templates.templates TO chimera_app;
GRANT SELECT ON TABLE templates.templates TO chimera_summary;

REVOKE ALL ON FUNCTION telemetry.list_user_summaries(asked_user uuid, after_user uuid, size integer) FROM PUBLIC;
GRANT ALL ON FUNCTION telemetry.list_user_summaries(asked_user uuid, after_user uuid, size integer) TO chimera_app;

REVOKE ALL ON FUNCTION telemetry.refresh_user_summaries() FROM PUBLIC;
GRANT ALL ON FUNCTION telemetry.refresh_user_summaries() TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE accounting.alerts TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE accounting.alerts TO chimera_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE accounting.budgets TO chimera_app;
GRANT SELECT ON TABLE accounting.budgets TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE accounting.deliveries TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE accounting.deliveries TO chimera_worker;

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

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE accounting.windows TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE accounting.windows TO chimera_worker;

GRANT SELECT,INSERT ON TABLE audit.checkpoints TO chimera_sealer;
GRANT SELECT ON TABLE audit.checkpoints TO chimera_app;
GRANT SELECT ON TABLE audit.checkpoints TO chimera_auditor;
GRANT SELECT ON TABLE audit.checkpoints TO chimera_worker;

GRANT SELECT ON TABLE audit.events TO chimera_app;
GRANT SELECT ON TABLE audit.events TO chimera_auditor;
GRANT SELECT,INSERT ON TABLE audit.events TO chimera_sealer;

GRANT SELECT,INSERT ON TABLE audit.leaves TO chimera_sealer;
GRANT SELECT ON TABLE audit.leaves TO chimera_app;
GRANT SELECT ON TABLE audit.leaves TO chimera_auditor;
GRANT SELECT ON TABLE audit.leaves TO chimera_worker;

GRANT SELECT,UPDATE ON TABLE audit.log_head TO chimera_sealer;
GRANT SELECT ON TABLE audit.log_head TO chimera_app;
GRANT SELECT ON TABLE audit.log_head TO chimera_auditor;
GRANT SELECT ON TABLE audit.log_head TO chimera_worker;

GRANT SELECT,INSERT ON TABLE audit.nodes TO chimera_sealer;
GRANT SELECT ON TABLE audit.nodes TO chimera_app;
GRANT SELECT ON TABLE audit.nodes TO chimera_auditor;
GRANT SELECT ON TABLE audit.nodes TO chimera_worker;

GRANT SELECT,INSERT ON TABLE audit.pending TO chimera_app;
GRANT INSERT ON TABLE audit.pending TO chimera_worker;
GRANT SELECT,DELETE ON TABLE audit.pending TO chimera_sealer;

GRANT SELECT,INSERT,UPDATE ON TABLE audit.writers TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE audit.writers TO chimera_worker;
GRANT SELECT ON TABLE audit.writers TO chimera_sealer;
GRANT SELECT ON TABLE audit.writers TO chimera_auditor;

GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.analysed TO chimera_worker;

GRANT SELECT ON TABLE campaigns.attempts TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.attempts TO chimera_worker;

GRANT SELECT ON TABLE campaigns.executions TO chimera_app;
GRANT SELECT,INSERT ON TABLE campaigns.executions TO chimera_worker;

GRANT SELECT ON TABLE campaigns.flushes TO chimera_app;
GRANT SELECT,INSERT ON TABLE campaigns.flushes TO chimera_worker;

GRANT SELECT,INSERT ON TABLE campaigns.overrides TO chimera_app;
GRANT SELECT ON TABLE campaigns.overrides TO chimera_worker;

GRANT UPDATE(withdrawn_at) ON TABLE campaigns.overrides TO chimera_app;

GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.run_money TO chimera_app;
GRANT SELECT,UPDATE ON TABLE campaigns.run_money TO chimera_worker;

GRANT SELECT,INSERT ON TABLE campaigns.run_plans TO chimera_app;
GRANT SELECT ON TABLE campaigns.run_plans TO chimera_worker;

GRANT SELECT,INSERT ON TABLE campaigns.scorings TO chimera_app;
GRANT SELECT,UPDATE ON TABLE campaigns.scorings TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.shards TO chimera_app;
GRANT SELECT,UPDATE ON TABLE campaigns.shards TO chimera_worker;

GRANT SELECT ON TABLE campaigns.verdicts TO chimera_app;
GRANT SELECT,INSERT ON TABLE campaigns.verdicts TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE campaigns.windows TO chimera_worker;
GRANT SELECT ON TABLE campaigns.windows TO chimera_app;

GRANT SELECT ON TABLE identity.organisations TO chimera_lookup;
GRANT SELECT ON TABLE identity.organisations TO chimera_app;

GRANT SELECT ON TABLE identity.refresh_tokens TO chimera_lookup;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.refresh_tokens TO chimera_app;
GRANT SELECT,DELETE ON TABLE identity.refresh_tokens TO chimera_worker;

GRANT SELECT ON TABLE identity.team_members TO chimera_lookup;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE identity.team_members TO chimera_app;

GRANT SELECT ON TABLE identity.teams TO chimera_lookup;
GRANT SELECT,INSERT,UPDATE ON TABLE identity.teams TO chimera_app;

GRANT SELECT ON TABLE identity.users TO chimera_lookup;
GRANT SELECT,INSERT ON TABLE identity.users TO chimera_app;

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

GRANT SELECT,INSERT,UPDATE ON TABLE ops.idempotency TO chimera_app;
GRANT SELECT,DELETE ON TABLE ops.idempotency TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE ops.kill_switches TO chimera_app;
GRANT SELECT ON TABLE ops.kill_switches TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE ops.leases TO chimera_worker;
GRANT SELECT,INSERT,UPDATE ON TABLE ops.leases TO chimera_sealer;

GRANT SELECT,INSERT,UPDATE ON TABLE ops.outbox TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE ops.outbox TO chimera_worker;

GRANT SELECT ON TABLE ops.partitioned TO chimera_worker;

GRANT SELECT,INSERT ON TABLE ops.secrets TO chimera_app;
GRANT SELECT,INSERT ON TABLE ops.secrets TO chimera_worker;
GRANT SELECT,INSERT ON TABLE ops.secrets TO chimera_sealer;

GRANT SELECT,INSERT,DELETE ON TABLE providers.allowed_targets TO chimera_app;
GRANT SELECT ON TABLE providers.allowed_targets TO chimera_worker;

GRANT SELECT ON TABLE providers.circuits TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE providers.circuits TO chimera_worker;

GRANT SELECT ON TABLE providers.ledger TO chimera_app;
GRANT SELECT,INSERT ON TABLE providers.ledger TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE providers.models TO chimera_app;
GRANT SELECT ON TABLE providers.models TO chimera_worker;

GRANT SELECT,INSERT ON TABLE providers.price_versions TO chimera_app;
GRANT SELECT ON TABLE providers.price_versions TO chimera_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE providers.provider_keys TO chimera_app;
GRANT SELECT ON TABLE providers.provider_keys TO chimera_worker;

GRANT UPDATE(usage_count) ON TABLE providers.provider_keys TO chimera_worker;

GRANT UPDATE(last_used_at) ON TABLE providers.provider_keys TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE providers.providers TO chimera_app;
GRANT SELECT ON TABLE providers.providers TO chimera_worker;

GRANT SELECT,INSERT ON TABLE telemetry.batches TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE telemetry.batches TO chimera_worker;

GRANT SELECT,INSERT,DELETE ON TABLE telemetry.dead_letters TO chimera_app;
GRANT SELECT,INSERT,DELETE ON TABLE telemetry.dead_letters TO chimera_worker;

GRANT SELECT,INSERT ON TABLE telemetry.receipts TO chimera_app;
GRANT SELECT,DELETE ON TABLE telemetry.receipts TO chimera_worker;

GRANT SELECT ON TABLE telemetry.reconciliations TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE telemetry.reconciliations TO chimera_worker;

GRANT SELECT ON TABLE telemetry.refreshes TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE telemetry.refreshes TO chimera_summary;

GRANT SELECT,INSERT,UPDATE ON TABLE telemetry.totals TO chimera_app;
GRANT SELECT,INSERT,UPDATE ON TABLE telemetry.totals TO chimera_worker;

GRANT SELECT,INSERT,UPDATE ON TABLE telemetry.verified TO chimera_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE telemetry.verified TO chimera_worker;

GRANT SELECT,INSERT ON TABLE templates.versions TO chimera_app;
