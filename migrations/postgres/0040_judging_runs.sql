-- migrate:up
-- Stored answers judged by models: the calls of such a scoring are those of a run of its own.
SET lock_timeout = '5s';
SET ROLE chimera_owner;

-- Of a run that judges the answers of another one, the scoring it does that for.
ALTER TABLE campaigns.runs ADD COLUMN scoring_id uuid;
ALTER TABLE campaigns.runs ADD CONSTRAINT runs_scoring_id_fkey
    FOREIGN KEY (scoring_id) REFERENCES campaigns.scorings ON DELETE RESTRICT NOT VALID;
ALTER TABLE campaigns.runs VALIDATE CONSTRAINT runs_scoring_id_fkey;
CREATE UNIQUE INDEX runs_scoring ON campaigns.runs (scoring_id) WHERE scoring_id IS NOT NULL;

-- answers_total: how many there are to judge; NULL until somebody has counted.
ALTER TABLE campaigns.scorings ADD COLUMN answers_total bigint;
ALTER TABLE campaigns.scorings DROP CONSTRAINT scorings_state_check;
ALTER TABLE campaigns.scorings ADD CONSTRAINT scorings_state_check
    CHECK (state IN ('running', 'completed', 'cancelled')) NOT VALID;
ALTER TABLE campaigns.scorings VALIDATE CONSTRAINT scorings_state_check;
GRANT UPDATE (state, finished_at) ON campaigns.scorings TO chimera_app;
DO $$
DECLARE
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
BEGIN
    EXECUTE format('CREATE POLICY changed ON campaigns.scorings FOR UPDATE TO chimera_app
        USING (org_id = %s AND campaigns.may_run(run_id, ''execute'')) WITH CHECK (org_id = %s)', mine, mine);
END $$;
RESET ROLE;

-- migrate:down
SET lock_timeout = '5s';
SET ROLE chimera_owner;
DROP POLICY changed ON campaigns.scorings;
REVOKE UPDATE (state, finished_at) ON campaigns.scorings FROM chimera_app;
UPDATE campaigns.scorings SET state = 'completed' WHERE state = 'cancelled';
ALTER TABLE campaigns.scorings DROP CONSTRAINT scorings_state_check;
ALTER TABLE campaigns.scorings ADD CONSTRAINT scorings_state_check CHECK (state IN ('running', 'completed'));
ALTER TABLE campaigns.scorings DROP COLUMN answers_total;
ALTER TABLE campaigns.runs DROP COLUMN scoring_id;
RESET ROLE;
