-- Days of all types of events together.
--
-- Who asks by anything but the type of an event has to have the sketches of all types merged, for each
-- group and day. These roll-ups have that done once, when events come: a question over weeks reads a
-- fraction of the rows, and with percentiles takes a fraction of the time. They are apart from those by
-- type, so that servers of the release before count nothing twice. Granules are small, because a few
-- thousand rows with sketches are worth two threads.

DROP VIEW IF EXISTS event_totals_daily_mv;
DROP VIEW IF EXISTS event_slice_totals_daily_mv;
DROP VIEW IF EXISTS metric_totals_daily_mv;
DROP VIEW IF EXISTS metric_slice_totals_daily_mv;

CREATE TABLE IF NOT EXISTS event_totals_daily (
    org_id UUID,
    bucket DateTime('UTC') CODEC(Delta, ZSTD(1)),
    campaign_id UUID,
    workload_id String,
    user_id UUID,
    provider LowCardinality(String),
    model LowCardinality(String),
    technique LowCardinality(String),
    event_category LowCardinality(String),
    events SimpleAggregateFunction(sum, UInt64),
    errors SimpleAggregateFunction(sum, UInt64),
    timed SimpleAggregateFunction(sum, UInt64),
    latency_ms_sum SimpleAggregateFunction(sum, UInt64),
    latency_ms_min SimpleAggregateFunction(min, UInt32),
    latency_ms_max SimpleAggregateFunction(max, UInt32),
    latency_ms_sketch AggregateFunction(quantilesDD(0.02, 0.5, 0.9, 0.95, 0.99), UInt32),
    cost SimpleAggregateFunction(sum, Decimal(38, 12)),
    fingerprint SimpleAggregateFunction(sum, UInt64)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, bucket, campaign_id, workload_id, user_id, provider, model, technique, event_category)
TTL bucket + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, index_granularity = 1024;

CREATE TABLE IF NOT EXISTS event_slice_totals_daily (
    org_id UUID,
    dimension LowCardinality(String),
    bucket DateTime('UTC') CODEC(Delta, ZSTD(1)),
    slice String,
    other String,
    events SimpleAggregateFunction(sum, UInt64),
    errors SimpleAggregateFunction(sum, UInt64),
    timed SimpleAggregateFunction(sum, UInt64),
    latency_ms_sum SimpleAggregateFunction(sum, UInt64),
    latency_ms_min SimpleAggregateFunction(min, UInt32),
    latency_ms_max SimpleAggregateFunction(max, UInt32),
    latency_ms_sketch AggregateFunction(quantilesDD(0.02, 0.5, 0.9, 0.95, 0.99), UInt32),
    cost SimpleAggregateFunction(sum, Decimal(38, 12)),
    fingerprint SimpleAggregateFunction(sum, UInt64)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, dimension, bucket, slice, other)
TTL bucket + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, index_granularity = 1024;

CREATE TABLE IF NOT EXISTS metric_totals_daily (
    org_id UUID,
    metric LowCardinality(String),
    bucket DateTime('UTC') CODEC(Delta, ZSTD(1)),
    campaign_id UUID,
    workload_id String,
    user_id UUID,
    provider LowCardinality(String),
    model LowCardinality(String),
    technique LowCardinality(String),
    event_category LowCardinality(String),
    points SimpleAggregateFunction(sum, UInt64),
    value_sum SimpleAggregateFunction(sum, Float64),
    value_min SimpleAggregateFunction(min, Float64),
    value_max SimpleAggregateFunction(max, Float64),
    value_sketch AggregateFunction(quantilesDD(0.02, 0.5, 0.9, 0.95, 0.99), Float64)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, metric, bucket, campaign_id, workload_id, user_id, provider, model, technique, event_category)
TTL bucket + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, index_granularity = 1024;

CREATE TABLE IF NOT EXISTS metric_slice_totals_daily (
    org_id UUID,
    dimension LowCardinality(String),
    metric LowCardinality(String),
    bucket DateTime('UTC') CODEC(Delta, ZSTD(1)),
    slice String,
    other String,
    points SimpleAggregateFunction(sum, UInt64),
    value_sum SimpleAggregateFunction(sum, Float64),
    value_min SimpleAggregateFunction(min, Float64),
    value_max SimpleAggregateFunction(max, Float64),
    value_sketch AggregateFunction(quantilesDD(0.02, 0.5, 0.9, 0.95, 0.99), Float64)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, dimension, metric, bucket, slice, other)
TTL bucket + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, index_granularity = 1024;

-- What was there before, also when this is run a second time. What comes in between is missing: the
-- reconciler finds such days.
TRUNCATE TABLE event_totals_daily;
TRUNCATE TABLE event_slice_totals_daily;
TRUNCATE TABLE metric_totals_daily;
TRUNCATE TABLE metric_slice_totals_daily;

INSERT INTO event_totals_daily
       (org_id, bucket, campaign_id, workload_id, user_id, provider, model, technique, event_category,
       events, errors, timed, latency_ms_sum, latency_ms_min, latency_ms_max, latency_ms_sketch, cost,
       fingerprint)
SELECT org_id, bucket, campaign_id, workload_id, user_id, provider, model, technique, event_category,
       events, errors, timed, latency_ms_sum, latency_ms_min, latency_ms_max, latency_ms_sketch, cost,
       fingerprint
FROM events_daily
SETTINGS insert_deduplicate = 0;

INSERT INTO event_slice_totals_daily
       (org_id, dimension, bucket, slice, other, events, errors, timed, latency_ms_sum, latency_ms_min,
       latency_ms_max, latency_ms_sketch, cost, fingerprint)
SELECT org_id, dimension, bucket, slice, other, events, errors, timed, latency_ms_sum, latency_ms_min,
       latency_ms_max, latency_ms_sketch, cost, fingerprint
FROM event_slices_daily
SETTINGS insert_deduplicate = 0;

INSERT INTO metric_totals_daily
       (org_id, metric, bucket, campaign_id, workload_id, user_id, provider, model, technique,
       event_category, points, value_sum, value_min, value_max, value_sketch)
SELECT org_id, metric, bucket, campaign_id, workload_id, user_id, provider, model, technique,
       event_category, points, value_sum, value_min, value_max, value_sketch
FROM metrics_daily
SETTINGS insert_deduplicate = 0;

INSERT INTO metric_slice_totals_daily
       (org_id, dimension, metric, bucket, slice, other, points, value_sum, value_min, value_max,
       value_sketch)
SELECT org_id, dimension, metric, bucket, slice, other, points, value_sum, value_min, value_max,
       value_sketch
FROM metric_slices_daily
SETTINGS insert_deduplicate = 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS event_totals_daily_mv TO event_totals_daily AS
SELECT org_id, toStartOfDay(e.bucket) AS bucket, campaign_id, workload_id, user_id, provider, model,
       technique, event_category, sum(e.events) AS events, sum(e.errors) AS errors,
       sum(e.timed) AS timed, sum(e.latency_ms_sum) AS latency_ms_sum,
       min(e.latency_ms_min) AS latency_ms_min, max(e.latency_ms_max) AS latency_ms_max,
       quantilesDDMergeState(0.02, 0.5, 0.9, 0.95, 0.99)(e.latency_ms_sketch) AS latency_ms_sketch,
       sum(e.cost) AS cost, sum(e.fingerprint) AS fingerprint
FROM events_hourly AS e
GROUP BY org_id, toStartOfDay(e.bucket), campaign_id, workload_id, user_id, provider, model, technique, event_category;

CREATE MATERIALIZED VIEW IF NOT EXISTS event_slice_totals_daily_mv TO event_slice_totals_daily AS
SELECT org_id, dimension, toStartOfDay(e.bucket) AS bucket, slice, other,
       sum(e.events) AS events, sum(e.errors) AS errors,
       sum(e.timed) AS timed, sum(e.latency_ms_sum) AS latency_ms_sum,
       min(e.latency_ms_min) AS latency_ms_min, max(e.latency_ms_max) AS latency_ms_max,
       quantilesDDMergeState(0.02, 0.5, 0.9, 0.95, 0.99)(e.latency_ms_sketch) AS latency_ms_sketch,
       sum(e.cost) AS cost, sum(e.fingerprint) AS fingerprint
FROM event_slices_hourly AS e
GROUP BY org_id, dimension, toStartOfDay(e.bucket), slice, other;

CREATE MATERIALIZED VIEW IF NOT EXISTS metric_totals_daily_mv TO metric_totals_daily AS
SELECT org_id, metric, toStartOfDay(m.bucket) AS bucket, campaign_id, workload_id, user_id, provider,
       model, technique, event_category, sum(m.points) AS points, sum(m.value_sum) AS value_sum,
       min(m.value_min) AS value_min, max(m.value_max) AS value_max,
       quantilesDDMergeState(0.02, 0.5, 0.9, 0.95, 0.99)(m.value_sketch) AS value_sketch
FROM metrics_hourly AS m
GROUP BY org_id, metric, toStartOfDay(m.bucket), campaign_id, workload_id, user_id, provider, model, technique, event_category;

CREATE MATERIALIZED VIEW IF NOT EXISTS metric_slice_totals_daily_mv TO metric_slice_totals_daily AS
SELECT org_id, dimension, metric, toStartOfDay(m.bucket) AS bucket, slice, other,
       sum(m.points) AS points, sum(m.value_sum) AS value_sum, min(m.value_min) AS value_min,
       max(m.value_max) AS value_max,
       quantilesDDMergeState(0.02, 0.5, 0.9, 0.95, 0.99)(m.value_sketch) AS value_sketch
FROM metric_slices_hourly AS m
GROUP BY org_id, dimension, metric, toStartOfDay(m.bucket), slice, other;
