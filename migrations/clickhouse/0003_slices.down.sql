DROP VIEW IF EXISTS metric_slices_hourly_mv;
DROP VIEW IF EXISTS metric_slices_daily_mv;
DROP VIEW IF EXISTS event_slices_hourly_mv;
DROP VIEW IF EXISTS event_slices_daily_mv;
DROP TABLE IF EXISTS metric_slices_daily;
DROP TABLE IF EXISTS metric_slices_hourly;
DROP TABLE IF EXISTS event_slices_daily;
DROP TABLE IF EXISTS event_slices_hourly;

ALTER TABLE events_minute_mv MODIFY QUERY
SELECT org_id, event_type, toStartOfMinute(toDateTime(timestamp, 'UTC')) AS bucket, campaign_id,
       workload_id, user_id, toLowCardinality(dimensions['provider']) AS provider,
       toLowCardinality(dimensions['model']) AS model,
       toLowCardinality(dimensions['technique']) AS technique, event_category,
       count() AS events,
       countIf(dimensions['error_kind'] != '') AS errors,
       countIf(latency_ms > 0) AS timed,
       sum(toUInt64(latency_ms)) AS latency_ms_sum,
       min(if(latency_ms > 0, latency_ms, 4294967295)) AS latency_ms_min,
       max(latency_ms) AS latency_ms_max,
       quantilesTDigestStateIf(0.5, 0.9, 0.95, 0.99)(latency_ms, latency_ms > 0) AS latency_ms_q,
       sum(toDecimal128(cost, 12)) AS cost,
       max(timestamp) AS last_seen,
       sum(cityHash64(event_id)) AS fingerprint
FROM workload_events
GROUP BY org_id, event_type, bucket, campaign_id, workload_id, user_id, provider, model, technique, event_category;

ALTER TABLE events_hourly_mv MODIFY QUERY
SELECT org_id, event_type, toStartOfHour(e.bucket) AS bucket, campaign_id, workload_id, user_id,
       provider, model, technique, event_category, sum(e.events) AS events, sum(e.errors) AS errors,
       sum(e.timed) AS timed, sum(e.latency_ms_sum) AS latency_ms_sum,
       min(e.latency_ms_min) AS latency_ms_min, max(e.latency_ms_max) AS latency_ms_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(e.latency_ms_q) AS latency_ms_q,
       sum(e.cost) AS cost, max(e.last_seen) AS last_seen, sum(e.fingerprint) AS fingerprint
FROM events_minute AS e
GROUP BY org_id, event_type, toStartOfHour(e.bucket), campaign_id, workload_id, user_id, provider, model, technique, event_category;

ALTER TABLE metrics_minute_mv MODIFY QUERY
SELECT org_id, metric, toStartOfMinute(toDateTime(timestamp, 'UTC')) AS bucket, event_type,
       campaign_id, workload_id, user_id, toLowCardinality(dimensions['provider']) AS provider,
       toLowCardinality(dimensions['model']) AS model,
       toLowCardinality(dimensions['technique']) AS technique, event_category,
       count() AS points, sum(value) AS value_sum, min(value) AS value_min, max(value) AS value_max,
       quantilesTDigestState(0.5, 0.9, 0.95, 0.99)(value) AS value_q
FROM workload_events ARRAY JOIN metrics.name AS metric, metrics.value AS value
GROUP BY org_id, metric, bucket, event_type, campaign_id, workload_id, user_id, provider, model, technique, event_category;

ALTER TABLE metrics_hourly_mv MODIFY QUERY
SELECT org_id, metric, toStartOfHour(m.bucket) AS bucket, event_type, campaign_id, workload_id,
       user_id, provider, model, technique, event_category, sum(m.points) AS points,
       sum(m.value_sum) AS value_sum, min(m.value_min) AS value_min, max(m.value_max) AS value_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(m.value_q) AS value_q
FROM metrics_minute AS m
GROUP BY org_id, metric, toStartOfHour(m.bucket), event_type, campaign_id, workload_id, user_id, provider, model, technique, event_category;

ALTER TABLE workload_events
    DROP COLUMN IF EXISTS error_kind,
    DROP COLUMN IF EXISTS technique,
    DROP COLUMN IF EXISTS model,
    DROP COLUMN IF EXISTS provider;
