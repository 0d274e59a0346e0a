DROP VIEW IF EXISTS executions_hourly_mv;
DROP TABLE IF EXISTS executions_hourly;
DROP TABLE IF EXISTS workload_events;
