-- migrate:up
-- Health of targets, circuits shared by the cluster, probes, routes, limits of credentials.
SET ROLE chimera_owner;

-- One row for each model an organisation sends to: how it is, and whether anything may go out.
-- forced: what people decided, whatever the calls say. openings: in a row, for the backoff.
-- opened_at: since when nothing came back. probe_no, probe_until: the one probe that is out.
ALTER TABLE providers.circuits DROP CONSTRAINT circuits_state_check;
ALTER TABLE providers.circuits
    ADD CONSTRAINT circuits_state_check CHECK (state IN ('closed', 'open', 'half_open')),
    ADD COLUMN forced text NOT NULL DEFAULT '' CHECK (forced IN ('', 'open', 'closed')),
    ADD COLUMN forced_by uuid,
    ADD COLUMN forced_reason text NOT NULL DEFAULT '',
    ADD COLUMN openings int NOT NULL DEFAULT 0,
    ADD COLUMN opened_at timestamptz,
    ADD COLUMN probe_no bigint NOT NULL DEFAULT 0,
    ADD COLUMN probe_until timestamptz,
    ADD COLUMN consecutive_failures int NOT NULL DEFAULT 0,
    ADD COLUMN response_time_ms double precision,
    ADD COLUMN last_error_kind text NOT NULL DEFAULT '',
    ADD COLUMN last_ok_at timestamptz,
    ADD COLUMN last_failed_at timestamptz,
    ADD COLUMN last_checked_at timestamptz,
    ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
ALTER TABLE providers.circuits SET (fillfactor = 50);

-- What calls of ten seconds said; kept for two days.
CREATE TABLE providers.health_points (
    org_id uuid NOT NULL,
    model_id uuid NOT NULL,
    at timestamptz NOT NULL,
    calls int NOT NULL,
    failures int NOT NULL,
    rate_limited int NOT NULL,
    latency_ms_sum bigint NOT NULL,
    latency_ms_max int NOT NULL,
    PRIMARY KEY (org_id, model_id, at)
) WITH (fillfactor = 70);
CREATE INDEX health_points_at ON providers.health_points USING brin (at);

-- Looks at a provider that cost nothing. No organisation: of a provider the installation offers.
CREATE TABLE providers.probes (
    provider_id uuid PRIMARY KEY REFERENCES providers.providers ON DELETE RESTRICT,
    org_id uuid,
    is_enabled boolean NOT NULL DEFAULT true,
    interval_s int NOT NULL DEFAULT 60 CHECK (interval_s BETWEEN 10 AND 86400),
    -- Without one the probe only asks whether anybody answers.
    provider_key_id uuid,
    due_at timestamptz NOT NULL DEFAULT '-infinity',
    is_ok boolean,
    consecutive_failures int NOT NULL DEFAULT 0,
    response_time_ms double precision,
    last_error_kind text NOT NULL DEFAULT '',
    last_ok_at timestamptz,
    last_checked_at timestamptz,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id()
);

CREATE TABLE providers.probe_results (
    provider_id uuid NOT NULL,
    org_id uuid,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    is_ok boolean NOT NULL,
    response_time_ms double precision NOT NULL,
    error_kind text NOT NULL DEFAULT '',
    PRIMARY KEY (provider_id, at)
);

CREATE TABLE providers.routes (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    version_number int NOT NULL DEFAULT 1,
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX routes_name ON providers.routes (org_id, lower(name)) WHERE deleted_at IS NULL;
CREATE TRIGGER touch BEFORE UPDATE ON providers.routes FOR EACH ROW EXECUTE FUNCTION ops.touch();

-- Immutable. steps: chimera.v1.RouteStep as JSON, in order.
CREATE TABLE providers.route_versions (
    route_id uuid NOT NULL REFERENCES providers.routes ON DELETE RESTRICT,
    version_number int NOT NULL,
    org_id uuid NOT NULL,
    strategy text NOT NULL CHECK (strategy IN ('ordered', 'weighted')),
    steps jsonb NOT NULL,
    created_by uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (route_id, version_number)
);

-- Of a single key, instead of what its provider says. 0: none.
CREATE TABLE providers.rate_limits (
    provider_key_id uuid PRIMARY KEY REFERENCES providers.provider_keys ON DELETE CASCADE,
    org_id uuid NOT NULL,
    requests_per_minute int NOT NULL CHECK (requests_per_minute >= 0),
    tokens_per_minute int NOT NULL CHECK (tokens_per_minute >= 0),
    set_by uuid NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER touch BEFORE UPDATE ON providers.rate_limits FOR EACH ROW EXECUTE FUNCTION ops.touch();

-- Which model of the frozen plan an attempt went to and an answer came from. NULL: of a run from
-- before there were routes, where a target was a model. reserve: held beyond the attempt's own worst
-- cost, for those that its route may still try after it.
ALTER TABLE campaigns.attempts
    ADD COLUMN model_no int,
    ADD COLUMN reserve numeric(20, 12) NOT NULL DEFAULT 0;
ALTER TABLE campaigns.executions ADD COLUMN model_no int;
ALTER TABLE campaigns.run_plans
    ADD COLUMN model_ids uuid[] NOT NULL DEFAULT '{}',
    ADD COLUMN model_names text[] NOT NULL DEFAULT '{}';

-- As tallies, by the model that answered; for runs with routes.
CREATE TABLE campaigns.model_tallies (
    run_id uuid NOT NULL,
    slot smallint NOT NULL,
    model_no int NOT NULL,
    org_id uuid NOT NULL,
    scored bigint NOT NULL,
    successes bigint NOT NULL,
    failed bigint NOT NULL,
    latency_ms_sum bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost numeric(20, 12) NOT NULL,
    PRIMARY KEY (run_id, slot, model_no)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

DO $$
DECLARE
    t text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
    operator text := '(org_id IS NULL AND (SELECT current_setting(''app.role'', true)) = ''operator'')';
BEGIN
    FOREACH t IN ARRAY ARRAY['providers.health_points', 'providers.probes', 'providers.probe_results',
                             'providers.routes', 'providers.route_versions', 'providers.rate_limits',
                             'campaigns.model_tallies'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['providers.health_points', 'providers.routes', 'providers.route_versions',
                             'providers.rate_limits', 'campaigns.model_tallies'] LOOP
        EXECUTE format('CREATE POLICY tenant ON %s TO chimera_app, chimera_worker
            USING (org_id = %s) WITH CHECK (org_id = %s)', t, mine, mine);
        EXECUTE format('GRANT SELECT ON %s TO chimera_app, chimera_worker', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['providers.probes', 'providers.probe_results'] LOOP
        EXECUTE format('CREATE POLICY readable ON %s FOR SELECT TO chimera_app
            USING (org_id IS NULL OR org_id = %s)', t, mine);
        EXECUTE format('GRANT SELECT ON %s TO chimera_app', t);
    END LOOP;
    EXECUTE format('CREATE POLICY tenant ON providers.probes TO chimera_app
        USING (org_id = %s) WITH CHECK (org_id = %s)', mine, mine);
    EXECUTE format('CREATE POLICY operator ON providers.probes TO chimera_app
        USING %s WITH CHECK %s', operator, operator);
END $$;
-- The prober goes round the providers of all organisations, and upkeep empties what is old.
CREATE POLICY machinery ON providers.providers FOR SELECT TO chimera_worker USING (true);
CREATE POLICY machinery ON providers.probes TO chimera_worker USING (true) WITH CHECK (true);
CREATE POLICY machinery ON providers.probe_results TO chimera_worker USING (true) WITH CHECK (true);
CREATE POLICY machinery ON providers.health_points FOR ALL TO chimera_worker USING (true)
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
GRANT SELECT, INSERT, UPDATE ON providers.probes TO chimera_app, chimera_worker;
GRANT SELECT, INSERT, DELETE ON providers.probe_results TO chimera_worker;
GRANT INSERT, UPDATE, DELETE ON providers.health_points TO chimera_worker;
GRANT INSERT, UPDATE ON providers.circuits TO chimera_app;
GRANT INSERT, UPDATE ON providers.routes TO chimera_app;
GRANT INSERT ON providers.route_versions TO chimera_app;
GRANT INSERT, UPDATE, DELETE ON providers.rate_limits TO chimera_app;
GRANT INSERT, UPDATE ON campaigns.model_tallies TO chimera_worker;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP TABLE campaigns.model_tallies, providers.rate_limits, providers.route_versions, providers.routes,
    providers.probe_results, providers.probes, providers.health_points;
DROP POLICY machinery ON providers.providers;
REVOKE INSERT, UPDATE ON providers.circuits FROM chimera_app;
ALTER TABLE campaigns.run_plans DROP COLUMN model_ids, DROP COLUMN model_names;
ALTER TABLE campaigns.executions DROP COLUMN model_no;
ALTER TABLE campaigns.attempts DROP COLUMN model_no, DROP COLUMN reserve;
ALTER TABLE providers.circuits
    DROP CONSTRAINT circuits_state_check,
    DROP COLUMN forced, DROP COLUMN forced_by, DROP COLUMN forced_reason, DROP COLUMN openings,
    DROP COLUMN opened_at, DROP COLUMN probe_no, DROP COLUMN probe_until,
    DROP COLUMN consecutive_failures, DROP COLUMN response_time_ms, DROP COLUMN last_error_kind,
    DROP COLUMN last_ok_at, DROP COLUMN last_failed_at, DROP COLUMN last_checked_at, DROP COLUMN xid;
ALTER TABLE providers.circuits
    ADD CONSTRAINT circuits_state_check CHECK (state IN ('closed', 'open')) NOT VALID,
    RESET (fillfactor);
RESET ROLE;
