-- The reconciler looks for batches of a few minutes at a time.
--
-- A UUID sorts by its second half, so the extremes of an index over batch_id say nothing: as bytes,
-- ids of version 7 are in the order of their times.
ALTER TABLE workload_events
    DROP INDEX IF EXISTS by_batch,
    ADD INDEX IF NOT EXISTS by_batch_time UUIDToNum(batch_id) TYPE minmax GRANULARITY 1;

ALTER TABLE workload_events MATERIALIZE INDEX by_batch_time;
