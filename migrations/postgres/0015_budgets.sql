-- migrate:up
-- Budgets and their windows, usage by day, cost alerts, webhooks. What a budget needs to know of a
-- call is kept with the call: when it was sent, with which key.
SET LOCAL lock_timeout = '5s';
SET ROLE chimera_owner;
CREATE SCHEMA accounting;
GRANT USAGE ON SCHEMA accounting TO chimera_app, chimera_worker;

-- The key the run was launched with, if with one.
ALTER TABLE campaigns.runs ADD COLUMN api_key_id uuid;
-- Some budget concerns the run: its ticks move windows too. Set under the row's lock.
ALTER TABLE campaigns.run_money ADD COLUMN budgeted boolean NOT NULL DEFAULT false;
ALTER TABLE campaigns.attempts ADD COLUMN provider_key_id uuid;
-- sent_on: the UTC day of the call, also of what is booked for it later. NULL in rows from before
-- these columns: the day they were booked.
ALTER TABLE providers.ledger ADD COLUMN sent_on date, ADD COLUMN provider_key_id uuid,
    ADD COLUMN technique_no int;
CREATE INDEX ledger_xid ON providers.ledger (xid);

-- What may be spent in a day or month. requests_max, cost_max: by administrators; own_*: tighter
-- ones by those whom it concerns. The smaller of the two counts.
CREATE TABLE accounting.budgets (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    scope_kind text NOT NULL CHECK (scope_kind IN ('organisation', 'user', 'api_key', 'provider_key', 'campaign')),
    scope_id uuid NOT NULL,
    period text NOT NULL CHECK (period IN ('daily', 'monthly')),
    requests_max bigint CHECK (requests_max >= 0),
    cost_max numeric(20, 12) CHECK (cost_max >= 0),
    own_requests_max bigint CHECK (own_requests_max >= 0),
    own_cost_max numeric(20, 12) CHECK (own_cost_max >= 0),
    -- Whom it concerns beside the administrators; NULL for the organisation.
    owner_id uuid,
    set_by uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (scope_kind, scope_id, period),
    CHECK (num_nonnulls(requests_max, cost_max, own_requests_max, own_cost_max) > 0)
);
CREATE INDEX budgets_org ON accounting.budgets (org_id, id DESC);
CREATE TRIGGER touch BEFORE UPDATE ON accounting.budgets FOR EACH ROW EXECUTE FUNCTION ops.touch();

-- settled + held never exceeds the limits when something new is sent. window_start: UTC.
CREATE TABLE accounting.windows (
    scope_kind text NOT NULL,
    scope_id uuid NOT NULL,
    period text NOT NULL,
    window_start date NOT NULL,
    org_id uuid NOT NULL,
    requests_max bigint,
    cost_max numeric(20, 12),
    requests_settled bigint NOT NULL DEFAULT 0,
    requests_held bigint NOT NULL DEFAULT 0,
    cost_settled numeric(20, 12) NOT NULL DEFAULT 0,
    cost_held numeric(20, 12) NOT NULL DEFAULT 0,
    -- The highest threshold that was told of, in percent.
    alerted smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (scope_kind, scope_id, period, window_start)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX windows_org ON accounting.windows (org_id, window_start);

-- Runs that were paused because a budget is spent, and what their next call needs at least.
CREATE TABLE accounting.waits (
    run_id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    scope_kind text NOT NULL,
    scope_id uuid NOT NULL,
    period text NOT NULL,
    window_start date NOT NULL,
    cost numeric(20, 12) NOT NULL,
    until timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The ledger by day, written by the aggregator alone.
CREATE TABLE accounting.usage_daily (
    org_id uuid NOT NULL,
    day date NOT NULL,
    run_id uuid NOT NULL,
    user_id uuid NOT NULL,
    model_id uuid NOT NULL,
    provider_key_id uuid NOT NULL,
    technique_no int NOT NULL,
    requests bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost numeric(20, 12) NOT NULL,
    discarded_cost numeric(20, 12) NOT NULL,
    PRIMARY KEY (org_id, day, run_id, user_id, model_id, provider_key_id, technique_no)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- Ledger rows of transactions before this one are in usage_daily.
CREATE TABLE accounting.usage_mark (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    upto xid8 NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO accounting.usage_mark (upto) VALUES ('0');

CREATE TABLE accounting.alerts (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    budget_id uuid NOT NULL,
    scope_kind text NOT NULL,
    scope_id uuid NOT NULL,
    period text NOT NULL,
    window_start date NOT NULL,
    alert_type text NOT NULL CHECK (alert_type IN
        ('daily_80', 'daily_90', 'daily_100', 'monthly_80', 'monthly_90', 'monthly_100')),
    threshold_percentage int NOT NULL,
    -- Whom it concerns; NULL for the organisation's administrators.
    user_id uuid,
    requests_settled bigint NOT NULL,
    requests_max bigint,
    cost_settled numeric(20, 12) NOT NULL,
    cost_max numeric(20, 12),
    triggered_at timestamptz NOT NULL DEFAULT now(),
    announced_at timestamptz,
    acknowledged boolean NOT NULL DEFAULT false,
    acknowledged_at timestamptz,
    acknowledged_by uuid,
    note text NOT NULL DEFAULT '',
    UNIQUE (budget_id, window_start, alert_type)
);
CREATE INDEX alerts_org ON accounting.alerts (org_id, id DESC);
CREATE INDEX alerts_user ON accounting.alerts (org_id, user_id, id DESC);

CREATE TABLE accounting.webhooks (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    url text NOT NULL,
    description text NOT NULL DEFAULT '',
    event_types text[] NOT NULL DEFAULT '{}',
    -- chimera/keyring.py sealed_json. The previous secret signs too until it expires.
    sealed jsonb NOT NULL,
    row_version int NOT NULL DEFAULT 1,
    previous_sealed jsonb,
    previous_row_version int,
    previous_expires_at timestamptz,
    is_active boolean NOT NULL DEFAULT true,
    disabled_reason text NOT NULL DEFAULT '',
    failures int NOT NULL DEFAULT 0,
    failing_since timestamptz,
    created_by uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE INDEX webhooks_org ON accounting.webhooks (org_id, id DESC);
CREATE TRIGGER touch BEFORE UPDATE ON accounting.webhooks FOR EACH ROW EXECUTE FUNCTION ops.touch();

-- One event for one endpoint; event_id is what receivers recognise a repetition by.
CREATE TABLE accounting.deliveries (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    webhook_id uuid NOT NULL REFERENCES accounting.webhooks ON DELETE RESTRICT,
    event_id uuid NOT NULL,
    event_type text NOT NULL,
    body text NOT NULL,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'failed')),
    tries int NOT NULL DEFAULT 0,
    tries_max int NOT NULL DEFAULT 10,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    UNIQUE (webhook_id, event_id)
);
CREATE INDEX deliveries_webhook ON accounting.deliveries (webhook_id, created_at DESC, id DESC);

CREATE TABLE accounting.delivery_tries (
    delivery_id uuid NOT NULL REFERENCES accounting.deliveries ON DELETE RESTRICT,
    try_no int NOT NULL,
    org_id uuid NOT NULL,
    response_class text NOT NULL CHECK (response_class IN
        ('success', 'redirect', 'client_error', 'server_error', 'timeout', 'unreachable', 'refused_address')),
    http_status int,
    latency_ms int NOT NULL,
    tried_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (delivery_id, try_no)
);

DO $$
DECLARE
    t text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
BEGIN
    FOREACH t IN ARRAY ARRAY['budgets', 'windows', 'waits', 'usage_daily', 'alerts', 'webhooks', 'deliveries',
                             'delivery_tries'] LOOP
        EXECUTE format('ALTER TABLE accounting.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE accounting.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON accounting.%I TO chimera_app, chimera_worker
            USING (org_id = %s) WITH CHECK (org_id = %s)', t, mine, mine);
        EXECUTE format('GRANT SELECT ON accounting.%I TO chimera_app, chimera_worker', t);
    END LOOP;
    -- Whom a mail about an alert goes to.
    EXECUTE format('CREATE POLICY letters ON identity.memberships FOR SELECT TO chimera_worker
        USING (org_id = %s)', mine);
    EXECUTE format('CREATE POLICY letters ON identity.users FOR SELECT TO chimera_worker
        USING (EXISTS (SELECT FROM identity.memberships m WHERE m.user_id = users.id AND m.org_id = %s))', mine);
END $$;
-- Aggregation tails the ledger of all organisations; waking looks at all that wait.
CREATE POLICY machinery ON providers.ledger FOR SELECT TO chimera_worker USING (true);
CREATE POLICY machinery ON accounting.usage_daily TO chimera_worker USING (true) WITH CHECK (true);
CREATE POLICY machinery ON accounting.waits FOR SELECT TO chimera_worker USING (true);
CREATE POLICY machinery ON accounting.windows FOR SELECT TO chimera_worker USING (true);

GRANT INSERT, UPDATE, DELETE ON accounting.budgets, accounting.windows TO chimera_app;
GRANT INSERT, UPDATE ON accounting.windows TO chimera_worker;
GRANT DELETE ON accounting.waits TO chimera_app;
GRANT INSERT, UPDATE, DELETE ON accounting.waits TO chimera_worker;
GRANT INSERT, UPDATE ON accounting.usage_daily TO chimera_worker;
GRANT SELECT ON accounting.usage_mark TO chimera_app, chimera_worker;
GRANT UPDATE ON accounting.usage_mark TO chimera_worker;
GRANT INSERT, UPDATE ON accounting.alerts TO chimera_app, chimera_worker;
GRANT INSERT, UPDATE ON accounting.webhooks, accounting.deliveries TO chimera_app;
GRANT UPDATE ON accounting.webhooks TO chimera_worker;
GRANT INSERT, UPDATE ON accounting.deliveries TO chimera_worker;
GRANT INSERT ON accounting.delivery_tries TO chimera_worker;
GRANT SELECT ON identity.memberships TO chimera_worker;
GRANT SELECT (id, email, display_name, deleted_at) ON identity.users TO chimera_worker;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP POLICY letters ON identity.users;
DROP POLICY letters ON identity.memberships;
REVOKE SELECT ON identity.memberships FROM chimera_worker;
REVOKE SELECT (id, email, display_name, deleted_at) ON identity.users FROM chimera_worker;
DROP POLICY machinery ON providers.ledger;
DROP SCHEMA accounting CASCADE;
DROP INDEX providers.ledger_xid;
ALTER TABLE providers.ledger DROP COLUMN sent_on, DROP COLUMN provider_key_id, DROP COLUMN technique_no;
ALTER TABLE campaigns.attempts DROP COLUMN provider_key_id;
ALTER TABLE campaigns.run_money DROP COLUMN budgeted;
ALTER TABLE campaigns.runs DROP COLUMN api_key_id;
RESET ROLE;
