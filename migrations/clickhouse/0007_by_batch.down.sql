ALTER TABLE workload_events
    DROP INDEX IF EXISTS by_batch_time,
    ADD INDEX IF NOT EXISTS by_batch batch_id TYPE minmax GRANULARITY 1;
