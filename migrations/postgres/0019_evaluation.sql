-- migrate:up
-- What people make of recorded results: verdicts of people, and other scorers over the same answers.
SET ROLE chimera_owner;

CREATE TABLE campaigns.overrides (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    run_id uuid NOT NULL REFERENCES campaigns.runs ON DELETE RESTRICT,
    cell_no bigint NOT NULL,
    is_successful boolean NOT NULL,
    reason text NOT NULL CHECK (reason <> ''),
    recorded_is_successful boolean,
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    withdrawn_at timestamptz
);
CREATE UNIQUE INDEX overrides_standing ON campaigns.overrides (run_id, cell_no) WHERE withdrawn_at IS NULL;
CREATE INDEX overrides_run ON campaigns.overrides (run_id, id DESC);

CREATE TABLE campaigns.scorings (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    run_id uuid NOT NULL REFERENCES campaigns.runs ON DELETE RESTRICT,
    name text NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'completed')),
    -- chimera.v1.Scorer.
    scorer bytea NOT NULL,
    fingerprint text NOT NULL,
    -- The last cell that was looked at; moved on in the transaction that stores the verdicts.
    position bigint NOT NULL DEFAULT -1,
    answers bigint NOT NULL DEFAULT 0,
    scored bigint NOT NULL DEFAULT 0,
    successes bigint NOT NULL DEFAULT 0,
    errored bigint NOT NULL DEFAULT 0,
    flipped bigint NOT NULL DEFAULT 0,
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE INDEX scorings_run ON campaigns.scorings (run_id, id DESC);

CREATE TABLE campaigns.verdicts (
    scoring_id uuid NOT NULL,
    cell_no bigint NOT NULL,
    org_id uuid NOT NULL,
    is_successful boolean,
    success_score real,
    reason text NOT NULL DEFAULT '',
    recorded_is_successful boolean,
    PRIMARY KEY (scoring_id, cell_no)
) PARTITION BY RANGE (scoring_id);
CREATE TABLE campaigns.verdicts_default PARTITION OF campaigns.verdicts DEFAULT;
INSERT INTO ops.partitioned VALUES ('campaigns.verdicts', '1 month', NULL);

DO $$
DECLARE
    t text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
BEGIN
    FOREACH t IN ARRAY ARRAY['overrides', 'scorings', 'verdicts', 'verdicts_default'] LOOP
        EXECUTE format('ALTER TABLE campaigns.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE campaigns.%I FORCE ROW LEVEL SECURITY', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['overrides', 'scorings', 'verdicts'] LOOP
        EXECUTE format('CREATE POLICY tenant ON campaigns.%I TO chimera_app, chimera_worker
            USING (org_id = %s) WITH CHECK (org_id = %s)', t, mine, mine);
        EXECUTE format('GRANT SELECT ON campaigns.%I TO chimera_app, chimera_worker', t);
    END LOOP;
END $$;
GRANT INSERT ON campaigns.overrides, campaigns.scorings TO chimera_app;
GRANT UPDATE (withdrawn_at) ON campaigns.overrides TO chimera_app;
GRANT UPDATE ON campaigns.scorings TO chimera_worker;
GRANT INSERT ON campaigns.verdicts TO chimera_worker;
RESET ROLE;
SELECT ops.make_partitions();

-- migrate:down
SET ROLE chimera_owner;
DROP TABLE campaigns.verdicts, campaigns.scorings, campaigns.overrides;
DELETE FROM ops.partitioned WHERE table_name = 'campaigns.verdicts';
RESET ROLE;
