-- migrate:up
-- Limits of a run beside money and concurrency, what stopped it, and why an answer ended.
SET ROLE chimera_owner;

-- As the adapter says it; NULL: recorded before it was kept, and hashed without it.
ALTER TABLE campaigns.executions ADD COLUMN finish_reason text;

-- What a call may take at most, held until it has come back.
ALTER TABLE campaigns.attempts ADD COLUMN worst_tokens bigint NOT NULL DEFAULT 0;

-- Beside the money, for every tick holds this row anyway. A limit that is NULL is none.
-- cells_begun: sent at least once, or recorded without; cells_begun <= executions_max and
-- tokens_settled + tokens_held <= tokens_max whenever something new is sent. cells_failed: failed
-- or parked. Counted for runs that were launched since.
-- stop_reason: the limit that stopped it. From then on nothing is sent, and only who holds a shard
-- records in it.
ALTER TABLE campaigns.run_money
    ADD COLUMN executions_max bigint CHECK (executions_max > 0),
    ADD COLUMN tokens_max bigint CHECK (tokens_max > 0),
    ADD COLUMN wall_time_s bigint CHECK (wall_time_s > 0),
    ADD COLUMN error_share_max double precision,
    ADD COLUMN error_cells_min bigint NOT NULL DEFAULT 20,
    ADD COLUMN interval_width_max double precision,
    ADD COLUMN cells_begun bigint NOT NULL DEFAULT 0,
    ADD COLUMN cells_recorded bigint NOT NULL DEFAULT 0,
    ADD COLUMN cells_failed bigint NOT NULL DEFAULT 0,
    ADD COLUMN cells_successful bigint NOT NULL DEFAULT 0,
    ADD COLUMN tokens_settled bigint NOT NULL DEFAULT 0,
    ADD COLUMN tokens_held bigint NOT NULL DEFAULT 0,
    ADD COLUMN stop_reason text
        CHECK (stop_reason IN ('executions', 'tokens', 'wall_time', 'error_share', 'interval'));

-- skipped: cells of a stopped run that were never recorded; they have no rows.
-- ran_s: how long it ran before running_since, pauses left out.
ALTER TABLE campaigns.runs
    ADD COLUMN skipped bigint NOT NULL DEFAULT 0,
    ADD COLUMN ran_s double precision NOT NULL DEFAULT 0,
    ADD COLUMN running_since timestamptz NOT NULL DEFAULT clock_timestamp();

-- Whoever pauses or resumes it, for whatever reason.
CREATE FUNCTION campaigns.count_running_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'running' THEN
        NEW.ran_s := OLD.ran_s + extract(epoch FROM clock_timestamp() - OLD.running_since);
    ELSIF NEW.state = 'running' THEN
        NEW.running_since := clock_timestamp();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER count_running_time BEFORE UPDATE OF state ON campaigns.runs
    FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION campaigns.count_running_time();
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP TRIGGER count_running_time ON campaigns.runs;
DROP FUNCTION campaigns.count_running_time();
ALTER TABLE campaigns.runs DROP COLUMN skipped, DROP COLUMN ran_s, DROP COLUMN running_since;
ALTER TABLE campaigns.run_money
    DROP COLUMN executions_max, DROP COLUMN tokens_max, DROP COLUMN wall_time_s,
    DROP COLUMN error_share_max, DROP COLUMN error_cells_min, DROP COLUMN interval_width_max,
    DROP COLUMN cells_begun, DROP COLUMN cells_recorded, DROP COLUMN cells_failed,
    DROP COLUMN cells_successful, DROP COLUMN tokens_settled, DROP COLUMN tokens_held,
    DROP COLUMN stop_reason;
ALTER TABLE campaigns.attempts DROP COLUMN worst_tokens;
ALTER TABLE campaigns.executions DROP COLUMN finish_reason;
RESET ROLE;
