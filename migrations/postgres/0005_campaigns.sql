-- migrate:up
-- Campaigns, runs, shards, attempts, executions. Keys and order of locks: migrations/README.md.
SET ROLE chimera_owner;
CREATE SCHEMA campaigns;
GRANT USAGE ON SCHEMA campaigns TO chimera_app, chimera_worker;

CREATE TABLE campaigns.campaigns (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    objective text NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT 'draft' CHECK (state IN
        ('draft', 'scheduled', 'running', 'paused', 'completed', 'failed', 'cancelled', 'archived')),
    visibility text NOT NULL DEFAULT 'organisation' CHECK (visibility IN ('private', 'organisation')),
    -- chimera.v1.CampaignPlan.
    plan bytea NOT NULL,
    run_id uuid,
    success_rate double precision,
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    UNIQUE (org_id, id)
);
CREATE UNIQUE INDEX campaigns_name ON campaigns.campaigns (org_id, lower(name)) WHERE deleted_at IS NULL;
CREATE INDEX campaigns_newest ON campaigns.campaigns (org_id, id DESC);
CREATE TRIGGER touch BEFORE UPDATE ON campaigns.campaigns FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TABLE campaigns.runs (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'completed', 'failed', 'cancelled')),
    state_reason text NOT NULL DEFAULT '',
    cells_total bigint NOT NULL CHECK (cells_total > 0),
    shards_total int NOT NULL CHECK (shards_total > 0),
    shards_done int NOT NULL DEFAULT 0 CHECK (shards_done <= shards_total),
    concurrency int NOT NULL CHECK (concurrency > 0),
    attempts_max int NOT NULL CHECK (attempts_max > 0),
    priority int NOT NULL DEFAULT 0,
    -- When workers last took up a shard of it: equal priorities take turns.
    served_at timestamptz NOT NULL DEFAULT '-infinity',
    launched_by uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    FOREIGN KEY (org_id, campaign_id) REFERENCES campaigns.campaigns (org_id, id) ON DELETE RESTRICT
) WITH (fillfactor = 70);
CREATE INDEX runs_campaign ON campaigns.runs (org_id, campaign_id, id DESC);
CREATE INDEX runs_live ON campaigns.runs (priority DESC, served_at) WHERE state = 'running';

-- What a run executes, frozen at launch and never changed. Apart from runs, so that ticks and
-- listings do not read it.
CREATE TABLE campaigns.run_plans (
    run_id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    -- campaigns/plan.py, and SHA-256 (hex) of these bytes.
    plan bytea NOT NULL,
    plan_hash text NOT NULL,
    prompt_count bigint NOT NULL,
    technique_names text[] NOT NULL,
    target_names text[] NOT NULL,
    repetitions int NOT NULL
);

-- Money of a run with a limit: settled + held <= cost_max whenever something new is sent.
CREATE TABLE campaigns.run_money (
    run_id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    cost_max numeric(20, 12),
    settled numeric(20, 12) NOT NULL DEFAULT 0,
    held numeric(20, 12) NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE campaigns.shards (
    run_id uuid NOT NULL,
    shard_no int NOT NULL,
    org_id uuid NOT NULL,
    first_cell bigint NOT NULL,
    cells bigint NOT NULL CHECK (cells > 0),
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done')),
    owner text NOT NULL DEFAULT '',
    fence bigint NOT NULL DEFAULT 0,
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (run_id, shard_no)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX shards_open ON campaigns.shards (run_id, shard_no) WHERE state = 'open';

CREATE TABLE campaigns.attempts (
    run_id uuid NOT NULL,
    cell_no bigint NOT NULL,
    attempt_no int NOT NULL,
    org_id uuid NOT NULL,
    fence bigint NOT NULL,
    state text NOT NULL DEFAULT 'sent' CHECK (state IN ('sent', 'settled', 'unknown')),
    -- Sent with nothing else in flight, because its worker was lost with it before.
    alone boolean NOT NULL DEFAULT false,
    worst_cost numeric(20, 12) NOT NULL,
    cost numeric(20, 12),
    error_kind text,
    error_message text,
    http_status int,
    latency_ms int,
    sent_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at timestamptz,
    PRIMARY KEY (run_id, cell_no, attempt_no)
) PARTITION BY RANGE (run_id);

CREATE TABLE campaigns.executions (
    run_id uuid NOT NULL,
    cell_no bigint NOT NULL,
    org_id uuid NOT NULL,
    prompt_no bigint NOT NULL,
    technique_no int NOT NULL,
    target_no int NOT NULL,
    iteration_number int NOT NULL,
    state text NOT NULL CHECK (state IN ('succeeded', 'failed', 'parked', 'skipped')),
    original_prompt text NOT NULL,
    transformed_prompt text NOT NULL,
    response text NOT NULL,
    response_truncated boolean NOT NULL DEFAULT false,
    is_successful boolean,
    success_score real,
    verdict_reason text NOT NULL DEFAULT '',
    error_kind text NOT NULL DEFAULT '',
    attempts int NOT NULL,
    latency_ms int NOT NULL,
    input_tokens int NOT NULL,
    output_tokens int NOT NULL,
    cost numeric(20, 12) NOT NULL,
    started_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, cell_no)
) PARTITION BY RANGE (run_id);

-- One row a flushed batch: which results it recorded and the Merkle root over them. Watches tail it.
CREATE TABLE campaigns.flushes (
    run_id uuid NOT NULL,
    id uuid NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    org_id uuid NOT NULL,
    cells bigint[] NOT NULL,
    root bytea NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, xid, id)
) PARTITION BY RANGE (run_id);

-- Counters, one delta a batch; a few slots so that workers do not queue for one row. Summed on read.
CREATE TABLE campaigns.tallies (
    run_id uuid NOT NULL,
    slot smallint NOT NULL,
    technique_no int NOT NULL,
    target_no int NOT NULL,
    org_id uuid NOT NULL,
    scored bigint NOT NULL,
    successes bigint NOT NULL,
    failed bigint NOT NULL,
    parked bigint NOT NULL,
    skipped bigint NOT NULL,
    latency_ms_sum bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost numeric(20, 12) NOT NULL,
    PRIMARY KEY (run_id, slot, technique_no, target_no)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE campaigns.attempts_default PARTITION OF campaigns.attempts DEFAULT;
CREATE TABLE campaigns.executions_default PARTITION OF campaigns.executions DEFAULT;
CREATE TABLE campaigns.flushes_default PARTITION OF campaigns.flushes DEFAULT;
INSERT INTO ops.partitioned VALUES
    ('campaigns.attempts', '1 month', NULL),
    ('campaigns.executions', '1 month', NULL),
    ('campaigns.flushes', '1 month', NULL);

DO $$
DECLARE
    t text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
BEGIN
    FOREACH t IN ARRAY ARRAY['campaigns', 'runs', 'run_plans', 'run_money', 'shards', 'attempts', 'attempts_default',
                             'executions', 'executions_default', 'flushes', 'flushes_default', 'tallies'] LOOP
        EXECUTE format('ALTER TABLE campaigns.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE campaigns.%I FORCE ROW LEVEL SECURITY', t);
    END LOOP;
    -- What belongs to a run is seen by whoever is in its organisation and has asked for that run,
    -- which the operations look up under the campaign's own policy first.
    FOREACH t IN ARRAY ARRAY['runs', 'run_plans', 'run_money', 'shards', 'attempts', 'executions', 'flushes', 'tallies'] LOOP
        EXECUTE format('CREATE POLICY tenant ON campaigns.%I TO chimera_app, chimera_worker
            USING (org_id = %s) WITH CHECK (org_id = %s)', t, mine, mine);
        EXECUTE format('GRANT SELECT ON campaigns.%I TO chimera_app, chimera_worker', t);
    END LOOP;
    EXECUTE format('CREATE POLICY tenant ON campaigns.campaigns TO chimera_app
        USING (org_id = %s AND (visibility <> ''private''
               OR created_by = (SELECT NULLIF(current_setting(''app.user_id'', true), '''')::uuid)))
        WITH CHECK (org_id = %s)', mine, mine);
    EXECUTE format('CREATE POLICY worker ON campaigns.campaigns TO chimera_worker USING (org_id = %s)', mine);
END $$;
-- Leasing looks over all organisations; operators see and free what is stuck.
CREATE POLICY machinery ON campaigns.runs TO chimera_worker USING (true) WITH CHECK (true);
CREATE POLICY machinery ON campaigns.shards TO chimera_worker USING (true) WITH CHECK (true);
CREATE POLICY operator ON campaigns.shards TO chimera_app
    USING ((SELECT current_setting('app.role', true)) = 'operator');
CREATE POLICY operator ON campaigns.runs FOR SELECT TO chimera_app
    USING ((SELECT current_setting('app.role', true)) = 'operator');
CREATE POLICY operator ON campaigns.attempts FOR SELECT TO chimera_app
    USING ((SELECT current_setting('app.role', true)) = 'operator');
GRANT SELECT, INSERT, UPDATE ON campaigns.campaigns TO chimera_app;
GRANT SELECT ON campaigns.campaigns TO chimera_worker;
GRANT UPDATE (state, success_rate, updated_at) ON campaigns.campaigns TO chimera_worker;
GRANT INSERT, UPDATE ON campaigns.runs, campaigns.run_money, campaigns.shards TO chimera_app;
GRANT INSERT ON campaigns.run_plans TO chimera_app;
GRANT UPDATE ON campaigns.runs, campaigns.shards, campaigns.run_money TO chimera_worker;
GRANT INSERT, UPDATE ON campaigns.attempts, campaigns.tallies TO chimera_worker;
GRANT INSERT ON campaigns.executions, campaigns.flushes TO chimera_worker;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP SCHEMA campaigns CASCADE;
DELETE FROM ops.partitioned WHERE table_name LIKE 'campaigns.%';
RESET ROLE;
