-- migrate:up
-- Figures of campaigns by hour, technique and target; days and everything else are sums of them.
SET ROLE chimera_owner;

CREATE TABLE campaigns.windows (
    campaign_id uuid NOT NULL,
    -- Of an hour, UTC.
    window_start timestamptz NOT NULL,
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
    cost numeric(20, 12) NOT NULL,
    computed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (campaign_id, window_start, technique, provider, model),
    FOREIGN KEY (org_id, campaign_id) REFERENCES campaigns.campaigns (org_id, id) ON DELETE RESTRICT
) WITH (fillfactor = 70);
CREATE INDEX windows_time ON campaigns.windows (org_id, window_start);

-- How far the flushes of a run are in the windows; moved in the transaction that adds them.
CREATE TABLE campaigns.analysed (
    run_id uuid PRIMARY KEY REFERENCES campaigns.runs ON DELETE RESTRICT,
    org_id uuid NOT NULL,
    xid xid8 NOT NULL,
    -- The run is long over and everything is in.
    is_final boolean NOT NULL DEFAULT false
);

DO $$
DECLARE
    t text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
BEGIN
    FOREACH t IN ARRAY ARRAY['windows', 'analysed'] LOOP
        EXECUTE format('ALTER TABLE campaigns.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE campaigns.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON campaigns.%I TO chimera_app, chimera_worker
            USING (org_id = %s) WITH CHECK (org_id = %s)', t, mine, mine);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON campaigns.%I TO chimera_worker', t);
    END LOOP;
END $$;
GRANT SELECT ON campaigns.windows TO chimera_app;
-- Which runs have news is asked over all organisations.
CREATE POLICY machinery ON campaigns.analysed FOR SELECT TO chimera_worker USING (true);
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP TABLE campaigns.analysed, campaigns.windows;
RESET ROLE;
