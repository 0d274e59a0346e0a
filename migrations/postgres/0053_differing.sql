-- migrate:up
-- Batches that the store has in part, twice or not at all stand beside the ledger instead of holding it
-- up; nothing is dropped before it was compared; what was put back is in the books once.
SET lock_timeout = '5s';
SET ROLE chimera_owner;
CREATE TABLE telemetry.differing (
    batch_id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    -- Of the batch: verified_to stays before it.
    created_at timestamptz NOT NULL,
    -- Its events that the store has.
    found bigint NOT NULL,
    is_missing boolean NOT NULL,
    is_surplus boolean NOT NULL,
    checked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX differing_checked ON telemetry.differing (org_id, checked_at);
ALTER TABLE telemetry.differing ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetry.differing FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON telemetry.differing TO chimera_app
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid))
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
CREATE POLICY machinery ON telemetry.differing TO chimera_worker USING (true) WITH CHECK (true);
GRANT SELECT ON telemetry.differing TO chimera_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON telemetry.differing TO chimera_worker;

-- The dead batch whose letter was put back: its events are in a batch of their own since.
ALTER TABLE telemetry.batches ADD COLUMN requeued_at timestamptz;
GRANT UPDATE (requeued_at) ON telemetry.batches TO chimera_app;
GRANT UPDATE (accepted, dead) ON telemetry.reconciliations TO chimera_app;

-- FORCE holds for the owner too, and the function below must see how far was compared.
CREATE POLICY upkeep_sees ON telemetry.verified FOR SELECT TO chimera_owner USING (true);
CREATE POLICY upkeep_sees ON telemetry.differing FOR SELECT TO chimera_owner USING (true);

-- Drops the partitions that are past their time and of which everything was compared and found; returns
-- how many. What is kept for longer has the only sound copy of something.
-- Gives up (lock_timeout) rather than hold up everyone behind a slow transaction.
CREATE OR REPLACE FUNCTION telemetry.drop_partitions() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    keep_from uuid;
    child regclass;
    bound text;
    since uuid;
    until uuid;
    dropped int := 0;
BEGIN
    SELECT ops.uuid_floor(now() - keep) INTO keep_from
      FROM ops.partitioned WHERE table_name = 'telemetry.batches' AND keep IS NOT NULL;
    IF keep_from IS NULL THEN
        RETURN 0;
    END IF;
    FOR child, bound IN
        SELECT c.oid::regclass, pg_get_expr(c.relpartbound, c.oid)
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'telemetry.batches'::regclass
           AND substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([0-9a-f-]{36})''\)')::uuid <= keep_from
         ORDER BY c.relname
    LOOP
        -- By its bounds: the planner leaves out no partition for its tableoid.
        since := substring(bound FROM 'FROM \(''([0-9a-f-]{36})''\)')::uuid;
        until := substring(bound FROM 'TO \(''([0-9a-f-]{36})''\)')::uuid;
        CONTINUE WHEN EXISTS (
            SELECT FROM telemetry.batches b
             WHERE b.batch_id >= since AND b.batch_id < until AND b.state = 'waiting');
        CONTINUE WHEN EXISTS (
            SELECT FROM telemetry.batches b WHERE b.batch_id >= since AND b.batch_id < until
               AND (NOT EXISTS (SELECT FROM telemetry.verified v
                                 WHERE v.org_id = b.org_id AND (b.xid, b.batch_id) <= (v.xid, v.batch_id))
                    OR EXISTS (SELECT FROM telemetry.differing d WHERE d.batch_id = b.batch_id)));
        EXECUTE format('DROP TABLE %s', child);
        dropped := dropped + 1;
    END LOOP;
    -- What fell into the default partition while there was no other.
    DELETE FROM telemetry.batches b
     WHERE b.tableoid = 'telemetry.batches_default'::regclass AND b.batch_id < keep_from AND b.state <> 'waiting'
       AND EXISTS (SELECT FROM telemetry.verified v
                    WHERE v.org_id = b.org_id AND (b.xid, b.batch_id) <= (v.xid, v.batch_id))
       AND NOT EXISTS (SELECT FROM telemetry.differing d WHERE d.batch_id = b.batch_id);
    RETURN dropped;
END $$;
RESET ROLE;

-- migrate:down
SET lock_timeout = '5s';
SET ROLE chimera_owner;
CREATE OR REPLACE FUNCTION telemetry.drop_partitions() RETURNS int
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
DROP POLICY upkeep_sees ON telemetry.verified;
REVOKE UPDATE (accepted, dead) ON telemetry.reconciliations FROM chimera_app;
REVOKE UPDATE (requeued_at) ON telemetry.batches FROM chimera_app;
ALTER TABLE telemetry.batches DROP COLUMN requeued_at;
DROP TABLE telemetry.differing;
RESET ROLE;
