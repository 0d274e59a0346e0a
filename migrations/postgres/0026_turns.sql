-- migrate:up
-- Cells that are conversations: what each call brought, and what attackers and judges cost apart.
SET ROLE chimera_owner;

-- One recorded call of a cell's conversation. What comes next follows from the plan and these rows
-- alone, so whoever takes a cell over goes on from the last of them. Texts are masked.
-- marks: of an answer that a judge looks at, what the other scorers said, by their place.
-- message: what the attacker wants said to the target; NULL when it could not be read.
CREATE TABLE campaigns.turns (
    run_id uuid NOT NULL,
    cell_no bigint NOT NULL,
    turn_no int NOT NULL CHECK (turn_no > 0),
    org_id uuid NOT NULL,
    purpose text NOT NULL CHECK (purpose IN ('target', 'attacker', 'judge')),
    model_no int NOT NULL,
    attempt_no int NOT NULL,
    request text NOT NULL,
    reply text NOT NULL,
    reply_truncated boolean NOT NULL DEFAULT false,
    finish_reason text NOT NULL DEFAULT '',
    message text,
    marks jsonb,
    is_successful boolean,
    success_score double precision,
    verdict_reason text NOT NULL DEFAULT '',
    error_kind text NOT NULL DEFAULT '',
    input_tokens int NOT NULL,
    output_tokens int NOT NULL,
    cost numeric(20, 12) NOT NULL,
    latency_ms int NOT NULL,
    started_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, cell_no, turn_no)
) PARTITION BY RANGE (run_id);
CREATE TABLE campaigns.turns_default PARTITION OF campaigns.turns DEFAULT;
INSERT INTO ops.partitioned VALUES ('campaigns.turns', '1 month', NULL);

-- Who sits in on the conversations of a run beside its targets, with money of their own.
CREATE TABLE campaigns.seats (
    run_id uuid NOT NULL,
    seat_no int NOT NULL,
    org_id uuid NOT NULL,
    purpose text NOT NULL CHECK (purpose IN ('attacker', 'judge')),
    target_name text NOT NULL,
    cost_max numeric(20, 12),
    settled numeric(20, 12) NOT NULL DEFAULT 0,
    held numeric(20, 12) NOT NULL DEFAULT 0,
    calls bigint NOT NULL DEFAULT 0,
    input_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, seat_no)
) WITH (fillfactor = 50);

-- turn_count 0: the cell was one call. decided_turn_no: the answer that the verdict is about.
-- transcript: SHA-256 over the turns.
ALTER TABLE campaigns.attempts ADD COLUMN purpose text NOT NULL DEFAULT 'target';
ALTER TABLE campaigns.executions
    ADD COLUMN turn_count int NOT NULL DEFAULT 0,
    ADD COLUMN decided_turn_no int,
    ADD COLUMN ended_by text NOT NULL DEFAULT '',
    ADD COLUMN transcript bytea;

DO $$
DECLARE
    t text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
BEGIN
    FOREACH t IN ARRAY ARRAY['turns', 'turns_default', 'seats'] LOOP
        EXECUTE format('ALTER TABLE campaigns.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE campaigns.%I FORCE ROW LEVEL SECURITY', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['turns', 'seats'] LOOP
        EXECUTE format('CREATE POLICY tenant ON campaigns.%I TO chimera_app, chimera_worker
            USING (org_id = %s) WITH CHECK (org_id = %s)', t, mine, mine);
        EXECUTE format('GRANT SELECT ON campaigns.%I TO chimera_app, chimera_worker', t);
    END LOOP;
END $$;
GRANT INSERT ON campaigns.turns TO chimera_worker;
GRANT INSERT ON campaigns.seats TO chimera_app;
GRANT UPDATE ON campaigns.seats TO chimera_worker;
RESET ROLE;
SELECT ops.make_partitions();

-- migrate:down
SET ROLE chimera_owner;
ALTER TABLE campaigns.executions
    DROP COLUMN turn_count, DROP COLUMN decided_turn_no, DROP COLUMN ended_by, DROP COLUMN transcript;
ALTER TABLE campaigns.attempts DROP COLUMN purpose;
DROP TABLE campaigns.seats, campaigns.turns;
DELETE FROM ops.partitioned WHERE table_name = 'campaigns.turns';
RESET ROLE;
