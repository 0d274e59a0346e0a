ALTER TABLE workload_events
    ADD COLUMN IF NOT EXISTS batch_id UUID,
    ADD INDEX IF NOT EXISTS by_batch batch_id TYPE minmax GRANULARITY 1,
    ADD INDEX IF NOT EXISTS by_campaign campaign_id TYPE bloom_filter GRANULARITY 1,
    ADD INDEX IF NOT EXISTS by_correlation correlation_id TYPE bloom_filter GRANULARITY 1;

-- Roll-ups of events. An event is an error when its dimension error_kind is not empty, and has a
-- latency when that is above 0; a row without any has the largest number as its minimum.
CREATE TABLE IF NOT EXISTS events_minute (
    org_id UUID,
    event_type LowCardinality(String),
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
    latency_ms_q AggregateFunction(quantilesTDigest(0.5, 0.9, 0.95, 0.99), UInt32),
    cost SimpleAggregateFunction(sum, Decimal(38, 12)),
    last_seen SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
    fingerprint SimpleAggregateFunction(sum, UInt64)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, event_type, bucket, campaign_id, workload_id, user_id, provider, model, technique, event_category)
TTL bucket + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS events_hourly AS events_minute
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, event_type, bucket, campaign_id, workload_id, user_id, provider, model, technique, event_category)
TTL bucket + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS events_daily AS events_minute
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, event_type, bucket, campaign_id, workload_id, user_id, provider, model, technique, event_category)
TTL bucket + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- Roll-ups of metrics: one point a metric of an event.
CREATE TABLE IF NOT EXISTS metrics_minute (
    org_id UUID,
    metric LowCardinality(String),
    bucket DateTime('UTC') CODEC(Delta, ZSTD(1)),
    event_type LowCardinality(String),
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
    value_q AggregateFunction(quantilesTDigest(0.5, 0.9, 0.95, 0.99), Float64)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, metric, bucket, event_type, campaign_id, workload_id, user_id, provider, model, technique, event_category)
TTL bucket + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS metrics_hourly AS metrics_minute
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, metric, bucket, event_type, campaign_id, workload_id, user_id, provider, model, technique, event_category)
TTL bucket + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS metrics_daily AS metrics_minute
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (org_id, metric, bucket, event_type, campaign_id, workload_id, user_id, provider, model, technique, event_category)
TTL bucket + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- What each user did on each day, and for how long in all.
CREATE TABLE IF NOT EXISTS user_activity (
    org_id UUID,
    user_id UUID,
    day Date,
    action LowCardinality(String),
    events SimpleAggregateFunction(sum, UInt64),
    duration_ms SimpleAggregateFunction(sum, UInt64)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (org_id, user_id, day, action)
TTL day + INTERVAL 6 MONTH
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- A chained view sees the inserted block only, which is right for states that can be merged.
CREATE MATERIALIZED VIEW IF NOT EXISTS events_minute_mv TO events_minute AS
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

CREATE MATERIALIZED VIEW IF NOT EXISTS events_hourly_mv TO events_hourly AS
SELECT org_id, event_type, toStartOfHour(e.bucket) AS bucket, campaign_id, workload_id, user_id,
       provider, model, technique, event_category, sum(e.events) AS events, sum(e.errors) AS errors,
       sum(e.timed) AS timed, sum(e.latency_ms_sum) AS latency_ms_sum,
       min(e.latency_ms_min) AS latency_ms_min, max(e.latency_ms_max) AS latency_ms_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(e.latency_ms_q) AS latency_ms_q,
       sum(e.cost) AS cost, max(e.last_seen) AS last_seen, sum(e.fingerprint) AS fingerprint
FROM events_minute AS e
GROUP BY org_id, event_type, toStartOfHour(e.bucket), campaign_id, workload_id, user_id, provider, model, technique, event_category;

CREATE MATERIALIZED VIEW IF NOT EXISTS events_daily_mv TO events_daily AS
SELECT org_id, event_type, toStartOfDay(e.bucket) AS bucket, campaign_id, workload_id, user_id,
       provider, model, technique, event_category, sum(e.events) AS events, sum(e.errors) AS errors,
       sum(e.timed) AS timed, sum(e.latency_ms_sum) AS latency_ms_sum,
       min(e.latency_ms_min) AS latency_ms_min, max(e.latency_ms_max) AS latency_ms_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(e.latency_ms_q) AS latency_ms_q,
       sum(e.cost) AS cost, max(e.last_seen) AS last_seen, sum(e.fingerprint) AS fingerprint
FROM events_hourly AS e
GROUP BY org_id, event_type, toStartOfDay(e.bucket), campaign_id, workload_id, user_id, provider, model, technique, event_category;

CREATE MATERIALIZED VIEW IF NOT EXISTS user_activity_mv TO user_activity AS
SELECT org_id, user_id, toDate(bucket) AS day, event_type AS action, sum(e.events) AS events,
       sum(e.latency_ms_sum) AS duration_ms
FROM events_hourly AS e
GROUP BY org_id, user_id, day, action;

CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_minute_mv TO metrics_minute AS
SELECT org_id, metric, toStartOfMinute(toDateTime(timestamp, 'UTC')) AS bucket, event_type,
       campaign_id, workload_id, user_id, toLowCardinality(dimensions['provider']) AS provider,
       toLowCardinality(dimensions['model']) AS model,
       toLowCardinality(dimensions['technique']) AS technique, event_category,
       count() AS points, sum(value) AS value_sum, min(value) AS value_min, max(value) AS value_max,
       quantilesTDigestState(0.5, 0.9, 0.95, 0.99)(value) AS value_q
FROM workload_events ARRAY JOIN metrics.name AS metric, metrics.value AS value
GROUP BY org_id, metric, bucket, event_type, campaign_id, workload_id, user_id, provider, model, technique, event_category;

CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_hourly_mv TO metrics_hourly AS
SELECT org_id, metric, toStartOfHour(m.bucket) AS bucket, event_type, campaign_id, workload_id,
       user_id, provider, model, technique, event_category, sum(m.points) AS points,
       sum(m.value_sum) AS value_sum, min(m.value_min) AS value_min, max(m.value_max) AS value_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(m.value_q) AS value_q
FROM metrics_minute AS m
GROUP BY org_id, metric, toStartOfHour(m.bucket), event_type, campaign_id, workload_id, user_id, provider, model, technique, event_category;

CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_daily_mv TO metrics_daily AS
SELECT org_id, metric, toStartOfDay(m.bucket) AS bucket, event_type, campaign_id, workload_id,
       user_id, provider, model, technique, event_category, sum(m.points) AS points,
       sum(m.value_sum) AS value_sum, min(m.value_min) AS value_min, max(m.value_max) AS value_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(m.value_q) AS value_q
FROM metrics_hourly AS m
GROUP BY org_id, metric, toStartOfDay(m.bucket), event_type, campaign_id, workload_id, user_id, provider, model, technique, event_category;

-- Of the last seven days, to the hour.
CREATE VIEW IF NOT EXISTS recent_workloads AS
SELECT org_id, workload_id, campaign_id, user_id, max(last_seen) AS seen_at, sum(events) AS event_count,
       uniqExact(event_type) AS event_types
FROM events_hourly
WHERE bucket > toStartOfHour(now('UTC')) - INTERVAL 7 DAY
GROUP BY org_id, workload_id, campaign_id, user_id;
