CREATE TABLE IF NOT EXISTS workload_events (
    org_id UUID,
    event_type LowCardinality(String),
    event_category LowCardinality(String),
    timestamp DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    workload_id String,
    event_id UUID,
    user_id UUID,
    campaign_id UUID,
    session_id String,
    correlation_id String,
    metrics Nested(name LowCardinality(String), value Float64, unit LowCardinality(String)),
    dimensions Map(LowCardinality(String), String),
    payload String CODEC(ZSTD(3)),
    latency_ms UInt32,
    cost Decimal(20, 12),
    INDEX by_workload workload_id TYPE bloom_filter GRANULARITY 1,
    INDEX by_type event_type TYPE set(100) GRANULARITY 1
) ENGINE = MergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (org_id, event_type, toStartOfHour(timestamp), workload_id, event_id)
TTL toDateTime(timestamp) + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- Latency is that of scored answers: what failed or was never sent has none worth charting. An hour
-- without one has the largest number as its minimum.
CREATE TABLE IF NOT EXISTS executions_hourly (
    org_id UUID,
    workload_id String,
    hour DateTime('UTC'),
    executions SimpleAggregateFunction(sum, UInt64),
    scored SimpleAggregateFunction(sum, UInt64),
    successes SimpleAggregateFunction(sum, UInt64),
    latency_ms_sum SimpleAggregateFunction(sum, UInt64),
    latency_ms_min SimpleAggregateFunction(min, UInt32),
    latency_ms_max SimpleAggregateFunction(max, UInt32),
    latency_ms_q AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), UInt32),
    cost SimpleAggregateFunction(sum, Decimal(38, 12)),
    fingerprint SimpleAggregateFunction(sum, UInt64)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (org_id, workload_id, hour)
TTL hour + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS executions_hourly_mv TO executions_hourly AS
SELECT org_id, workload_id, toStartOfHour(toDateTime(timestamp, 'UTC')) AS hour,
       count() AS executions,
       countIf(dimensions['state'] = 'succeeded') AS scored,
       countIf(dimensions['is_successful'] = 'true') AS successes,
       sumIf(toUInt64(latency_ms), dimensions['state'] = 'succeeded') AS latency_ms_sum,
       min(if(dimensions['state'] = 'succeeded', latency_ms, 4294967295)) AS latency_ms_min,
       maxIf(latency_ms, dimensions['state'] = 'succeeded') AS latency_ms_max,
       quantilesTDigestStateIf(0.5, 0.95, 0.99)(latency_ms, dimensions['state'] = 'succeeded') AS latency_ms_q,
       sum(toDecimal128(cost, 12)) AS cost,
       sum(cityHash64(event_id)) AS fingerprint
FROM workload_events
WHERE event_type = 'execution.recorded'
GROUP BY org_id, workload_id, hour;
