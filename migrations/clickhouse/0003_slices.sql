-- Roll-ups by one dimension, and columns for what charts use.
--
-- A slice is a roll-up once more, by one dimension: the name of a column and its value. A long range of
-- slices is a few thousand rows and sketches, where the roll-ups have one for every combination that
-- occurred. All together is the sum over the dimension with the fewest values, event_category.
--
-- Sketches begin with the hour. Those of a minute had a few values each, and cost more than everything
-- else: percentiles of minutes are counted from the events, which are kept as long. The columns stay, empty
-- from here on, for servers of the release before.

ALTER TABLE workload_events
    ADD COLUMN IF NOT EXISTS provider LowCardinality(String) MATERIALIZED dimensions['provider'],
    ADD COLUMN IF NOT EXISTS model LowCardinality(String) MATERIALIZED dimensions['model'],
    ADD COLUMN IF NOT EXISTS technique LowCardinality(String) MATERIALIZED dimensions['technique'],
    ADD COLUMN IF NOT EXISTS error_kind LowCardinality(String) MATERIALIZED dimensions['error_kind'];

ALTER TABLE events_hourly_mv MODIFY QUERY
SELECT org_id, event_type, toStartOfHour(toDateTime(timestamp, 'UTC')) AS bucket, campaign_id,
       workload_id, user_id, provider, model, technique, event_category,
       count() AS events,
       countIf(error_kind != '') AS errors,
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

ALTER TABLE events_minute_mv MODIFY QUERY
SELECT org_id, event_type, toStartOfMinute(toDateTime(timestamp, 'UTC')) AS bucket, campaign_id,
       workload_id, user_id, provider, model, technique, event_category,
       count() AS events,
       countIf(error_kind != '') AS errors,
       countIf(latency_ms > 0) AS timed,
       sum(toUInt64(latency_ms)) AS latency_ms_sum,
       min(if(latency_ms > 0, latency_ms, 4294967295)) AS latency_ms_min,
       max(latency_ms) AS latency_ms_max,
       sum(toDecimal128(cost, 12)) AS cost,
       max(timestamp) AS last_seen,
       sum(cityHash64(event_id)) AS fingerprint
FROM workload_events
GROUP BY org_id, event_type, bucket, campaign_id, workload_id, user_id, provider, model, technique, event_category;

ALTER TABLE metrics_hourly_mv MODIFY QUERY
SELECT org_id, metric, toStartOfHour(toDateTime(timestamp, 'UTC')) AS bucket, event_type,
       campaign_id, workload_id, user_id, provider, model, technique, event_category,
       count() AS points, sum(value) AS value_sum, min(value) AS value_min, max(value) AS value_max,
       quantilesTDigestState(0.5, 0.9, 0.95, 0.99)(value) AS value_q
FROM workload_events ARRAY JOIN metrics.name AS metric, metrics.value AS value
GROUP BY org_id, metric, bucket, event_type, campaign_id, workload_id, user_id, provider, model, technique, event_category;

ALTER TABLE metrics_minute_mv MODIFY QUERY
SELECT org_id, metric, toStartOfMinute(toDateTime(timestamp, 'UTC')) AS bucket, event_type,
       campaign_id, workload_id, user_id, provider, model, technique, event_category,
       count() AS points, sum(value) AS value_sum, min(value) AS value_min, max(value) AS value_max
FROM workload_events ARRAY JOIN metrics.name AS metric, metrics.value AS value
GROUP BY org_id, metric, bucket, event_type, campaign_id, workload_id, user_id, provider, model, technique, event_category;

CREATE TABLE IF NOT EXISTS event_slices_hourly (
    org_id UUID,
    dimension LowCardinality(String),
    bucket DateTime('UTC') CODEC(Delta, ZSTD(1)),
    event_type LowCardinality(String),
    slice String,
    events SimpleAggregateFunction(sum, UInt64),
    errors SimpleAggregateFunction(sum, UInt64),
    timed SimpleAggregateFunction(sum, UInt64),
    latency_ms_sum SimpleAggregateFunction(sum, UInt64),
    latency_ms_min SimpleAggregateFunction(min, UInt32),
    latency_ms_max SimpleAggregateFunction(max, UInt32),
    latency_ms_q AggregateFunction(quantilesTDigest(0.5, 0.9, 0.95, 0.99), UInt32),
    cost SimpleAggregateFunction(sum, Decimal(38, 12)),
    fingerprint SimpleAggregateFunction(sum, UInt64)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, dimension, bucket, event_type, slice)
TTL bucket + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, index_granularity = 1024;

CREATE TABLE IF NOT EXISTS event_slices_daily AS event_slices_hourly
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, dimension, bucket, event_type, slice)
TTL bucket + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, index_granularity = 1024;

CREATE TABLE IF NOT EXISTS metric_slices_hourly (
    org_id UUID,
    dimension LowCardinality(String),
    metric LowCardinality(String),
    bucket DateTime('UTC') CODEC(Delta, ZSTD(1)),
    event_type LowCardinality(String),
    slice String,
    points SimpleAggregateFunction(sum, UInt64),
    value_sum SimpleAggregateFunction(sum, Float64),
    value_min SimpleAggregateFunction(min, Float64),
    value_max SimpleAggregateFunction(max, Float64),
    value_q AggregateFunction(quantilesTDigest(0.5, 0.9, 0.95, 0.99), Float64)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, dimension, metric, bucket, event_type, slice)
TTL bucket + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, index_granularity = 1024;

CREATE TABLE IF NOT EXISTS metric_slices_daily AS metric_slices_hourly
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, dimension, metric, bucket, event_type, slice)
TTL bucket + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, index_granularity = 1024;

-- What is there already. From the top if this runs twice; what comes in between is found by the
-- reconciler, which compares days with their events.
TRUNCATE TABLE event_slices_hourly;

TRUNCATE TABLE event_slices_daily;

TRUNCATE TABLE metric_slices_hourly;

TRUNCATE TABLE metric_slices_daily;

INSERT INTO event_slices_hourly
       (org_id, dimension, bucket, event_type, slice, events, errors, timed, latency_ms_sum,
       latency_ms_min, latency_ms_max, latency_ms_q, cost, fingerprint)
SELECT org_id, part.1, bucket, event_type, part.2, events, errors, timed, latency_ms_sum,
       latency_ms_min, latency_ms_max, latency_ms_q, cost, fingerprint
FROM events_hourly
ARRAY JOIN [('event_category', toString(event_category)), ('campaign_id', toString(campaign_id)),
            ('user_id', toString(user_id)), ('workload_id', workload_id),
            ('provider', toString(provider)), ('model', toString(model)),
            ('technique', toString(technique))] AS part;

INSERT INTO event_slices_daily
       (org_id, dimension, bucket, event_type, slice, events, errors, timed, latency_ms_sum,
       latency_ms_min, latency_ms_max, latency_ms_q, cost, fingerprint)
SELECT org_id, dimension, toStartOfDay(bucket), event_type, slice, events, errors, timed, latency_ms_sum,
       latency_ms_min, latency_ms_max, latency_ms_q, cost, fingerprint
FROM event_slices_hourly;

INSERT INTO metric_slices_hourly
       (org_id, dimension, metric, bucket, event_type, slice, points, value_sum, value_min,
       value_max, value_q)
SELECT org_id, part.1, metric, bucket, event_type, part.2, points, value_sum, value_min,
       value_max, value_q
FROM metrics_hourly
ARRAY JOIN [('event_category', toString(event_category)), ('campaign_id', toString(campaign_id)),
            ('user_id', toString(user_id)), ('workload_id', workload_id),
            ('provider', toString(provider)), ('model', toString(model)),
            ('technique', toString(technique))] AS part;

INSERT INTO metric_slices_daily
       (org_id, dimension, metric, bucket, event_type, slice, points, value_sum, value_min,
       value_max, value_q)
SELECT org_id, dimension, metric, toStartOfDay(bucket), event_type, slice, points, value_sum, value_min,
       value_max, value_q
FROM metric_slices_hourly;

CREATE MATERIALIZED VIEW IF NOT EXISTS event_slices_daily_mv TO event_slices_daily AS
SELECT org_id, dimension, toStartOfDay(e.bucket) AS bucket, event_type, slice, sum(e.events) AS events, sum(e.errors) AS errors,
       sum(e.timed) AS timed, sum(e.latency_ms_sum) AS latency_ms_sum,
       min(e.latency_ms_min) AS latency_ms_min, max(e.latency_ms_max) AS latency_ms_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(e.latency_ms_q) AS latency_ms_q,
       sum(e.cost) AS cost, sum(e.fingerprint) AS fingerprint
FROM event_slices_hourly AS e
GROUP BY org_id, dimension, toStartOfDay(e.bucket), event_type, slice;

CREATE MATERIALIZED VIEW IF NOT EXISTS event_slices_hourly_mv TO event_slices_hourly AS
SELECT org_id, part.1 AS dimension, bucket, event_type, part.2 AS slice, sum(e.events) AS events, sum(e.errors) AS errors,
       sum(e.timed) AS timed, sum(e.latency_ms_sum) AS latency_ms_sum,
       min(e.latency_ms_min) AS latency_ms_min, max(e.latency_ms_max) AS latency_ms_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(e.latency_ms_q) AS latency_ms_q,
       sum(e.cost) AS cost, sum(e.fingerprint) AS fingerprint
FROM events_hourly AS e
ARRAY JOIN [('event_category', toString(event_category)), ('campaign_id', toString(campaign_id)),
            ('user_id', toString(user_id)), ('workload_id', workload_id),
            ('provider', toString(provider)), ('model', toString(model)),
            ('technique', toString(technique))] AS part
GROUP BY org_id, dimension, bucket, event_type, slice;

CREATE MATERIALIZED VIEW IF NOT EXISTS metric_slices_daily_mv TO metric_slices_daily AS
SELECT org_id, dimension, metric, toStartOfDay(m.bucket) AS bucket, event_type, slice,
       sum(m.points) AS points, sum(m.value_sum) AS value_sum, min(m.value_min) AS value_min,
       max(m.value_max) AS value_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(m.value_q) AS value_q
FROM metric_slices_hourly AS m
GROUP BY org_id, dimension, metric, toStartOfDay(m.bucket), event_type, slice;

CREATE MATERIALIZED VIEW IF NOT EXISTS metric_slices_hourly_mv TO metric_slices_hourly AS
SELECT org_id, part.1 AS dimension, metric, bucket, event_type, part.2 AS slice,
       sum(m.points) AS points, sum(m.value_sum) AS value_sum, min(m.value_min) AS value_min,
       max(m.value_max) AS value_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(m.value_q) AS value_q
FROM metrics_hourly AS m
ARRAY JOIN [('event_category', toString(event_category)), ('campaign_id', toString(campaign_id)),
            ('user_id', toString(user_id)), ('workload_id', workload_id),
            ('provider', toString(provider)), ('model', toString(model)),
            ('technique', toString(technique))] AS part
GROUP BY org_id, dimension, metric, bucket, event_type, slice;
