-- migrate:up
-- Upkeep of the telemetry buffer, and indexes for what waits or is unknown.
SET ROLE chimera_owner;
-- The few groups that were begun and are not stored, found without walking over all that waits.
CREATE INDEX batches_open ON telemetry.batches (group_id) WHERE state = 'waiting' AND group_id IS NOT NULL;
CREATE INDEX batches_new ON telemetry.batches (batch_id) WHERE state = 'waiting' AND group_id IS NULL;
-- Bodies come compressed (telemetry/events.py); trying again only costs time.
ALTER TABLE telemetry.batches ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE INDEX attempts_unknown ON campaigns.attempts (run_id DESC, cell_no DESC, attempt_no DESC)
    WHERE state = 'unknown';

-- FORCE holds for the owner too, and the function below must see what waits.
CREATE POLICY upkeep_sees ON telemetry.batches FOR SELECT TO chimera_owner USING (true);
CREATE POLICY upkeep_deletes ON telemetry.batches FOR DELETE TO chimera_owner USING (state <> 'waiting');

-- Drops the partitions that are past their time and hold nothing that waits; returns how many.
-- Gives up (lock_timeout) rather than hold up everyone behind a slow transaction.
CREATE FUNCTION telemetry.drop_partitions() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
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
REVOKE ALL ON FUNCTION telemetry.drop_partitions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION telemetry.drop_partitions() TO chimera_worker;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP FUNCTION telemetry.drop_partitions();
DROP POLICY upkeep_deletes ON telemetry.batches;
DROP POLICY upkeep_sees ON telemetry.batches;
DROP INDEX campaigns.attempts_unknown;
ALTER TABLE telemetry.batches ALTER COLUMN body SET STORAGE EXTENDED;
DROP INDEX telemetry.batches_new;
DROP INDEX telemetry.batches_open;
RESET ROLE;
