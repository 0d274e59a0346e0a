-- Sketches of another kind: DDSketch instead of t-digest.
--
-- A percentile of a DDSketch is off by two percent of its value at most, whatever the values are and
-- however often sketches were merged; a t-digest promises nothing. It is merged in a fifth of the time
-- (2.4 against 12 us with 1,000 values, more with more), which is most of what a question over weeks
-- costs. It grows with the range of values and not with their number: a metric counts as 0 below 1e-9
-- and as 1e15 beyond that, a latency cannot be so large. Metrics are in it 1e10 times as large as they
-- are, because the store rounds the logarithm of what is below 1 to the wrong side (26.9: up to 6 % off).
--
-- No values are left of what is rolled up, so the new columns are empty for the days before: the
-- reconciler finds such days and makes them anew from their events. Older days, and until then those too,
-- keep their numbers and have no part in percentiles. The old columns stay, empty from here on, for servers of
-- the release before.

ALTER TABLE events_hourly ADD COLUMN IF NOT EXISTS latency_ms_sketch
    AggregateFunction(quantilesDD(0.02, 0.5, 0.9, 0.95, 0.99), UInt32);

ALTER TABLE events_daily ADD COLUMN IF NOT EXISTS latency_ms_sketch
    AggregateFunction(quantilesDD(0.02, 0.5, 0.9, 0.95, 0.99), UInt32);

ALTER TABLE event_slices_hourly ADD COLUMN IF NOT EXISTS latency_ms_sketch
    AggregateFunction(quantilesDD(0.02, 0.5, 0.9, 0.95, 0.99), UInt32);

ALTER TABLE event_slices_daily ADD COLUMN IF NOT EXISTS latency_ms_sketch
    AggregateFunction(quantilesDD(0.02, 0.5, 0.9, 0.95, 0.99), UInt32);

ALTER TABLE metrics_hourly ADD COLUMN IF NOT EXISTS value_sketch
    AggregateFunction(quantilesDD(0.02, 0.5, 0.9, 0.95, 0.99), Float64);

ALTER TABLE metrics_daily ADD COLUMN IF NOT EXISTS value_sketch
    AggregateFunction(quantilesDD(0.02, 0.5, 0.9, 0.95, 0.99), Float64);

ALTER TABLE metric_slices_hourly ADD COLUMN IF NOT EXISTS value_sketch
    AggregateFunction(quantilesDD(0.02, 0.5, 0.9, 0.95, 0.99), Float64);

ALTER TABLE metric_slices_daily ADD COLUMN IF NOT EXISTS value_sketch
    AggregateFunction(quantilesDD(0.02, 0.5, 0.9, 0.95, 0.99), Float64);

ALTER TABLE metric_slices_daily_mv MODIFY QUERY
SELECT org_id, dimension, metric, toStartOfDay(m.bucket) AS bucket, event_type, slice, other,
       sum(m.points) AS points, sum(m.value_sum) AS value_sum, min(m.value_min) AS value_min,
       max(m.value_max) AS value_max,
       quantilesDDMergeState(0.02, 0.5, 0.9, 0.95, 0.99)(m.value_sketch) AS value_sketch
FROM metric_slices_hourly AS m
GROUP BY org_id, dimension, metric, toStartOfDay(m.bucket), event_type, slice, other;

ALTER TABLE event_slices_daily_mv MODIFY QUERY
SELECT org_id, dimension, toStartOfDay(e.bucket) AS bucket, event_type, slice, other,
       sum(e.events) AS events, sum(e.errors) AS errors,
       sum(e.timed) AS timed, sum(e.latency_ms_sum) AS latency_ms_sum,
       min(e.latency_ms_min) AS latency_ms_min, max(e.latency_ms_max) AS latency_ms_max,
       quantilesDDMergeState(0.02, 0.5, 0.9, 0.95, 0.99)(e.latency_ms_sketch) AS latency_ms_sketch,
       sum(e.cost) AS cost, sum(e.fingerprint) AS fingerprint
FROM event_slices_hourly AS e
GROUP BY org_id, dimension, toStartOfDay(e.bucket), event_type, slice, other;

ALTER TABLE metric_slices_hourly_mv MODIFY QUERY
SELECT org_id, part.1 AS dimension, metric, bucket, event_type, part.2 AS slice, part.3 AS other,
       sum(m.points) AS points, sum(m.value_sum) AS value_sum, min(m.value_min) AS value_min,
       max(m.value_max) AS value_max,
       quantilesDDMergeState(0.02, 0.5, 0.9, 0.95, 0.99)(m.value_sketch) AS value_sketch
FROM metrics_hourly AS m
ARRAY JOIN [('event_category', toString(event_category), ''),
            ('campaign_id', toString(campaign_id), ''),
            ('user_id', toString(user_id), ''),
            ('workload_id', workload_id, ''),
            ('provider', toString(provider), ''),
            ('model', toString(model), ''),
            ('technique', toString(technique), ''),
            ('event_category,campaign_id', toString(event_category), toString(campaign_id)),
            ('event_category,user_id', toString(event_category), toString(user_id)),
            ('event_category,provider', toString(event_category), toString(provider)),
            ('event_category,model', toString(event_category), toString(model)),
            ('event_category,technique', toString(event_category), toString(technique)),
            ('campaign_id,user_id', toString(campaign_id), toString(user_id)),
            ('campaign_id,provider', toString(campaign_id), toString(provider)),
            ('campaign_id,model', toString(campaign_id), toString(model)),
            ('campaign_id,technique', toString(campaign_id), toString(technique)),
            ('user_id,provider', toString(user_id), toString(provider)),
            ('user_id,model', toString(user_id), toString(model)),
            ('user_id,technique', toString(user_id), toString(technique)),
            ('provider,model', toString(provider), toString(model)),
            ('provider,technique', toString(provider), toString(technique)),
            ('model,technique', toString(model), toString(technique))] AS part
GROUP BY org_id, dimension, metric, bucket, event_type, slice, other;

ALTER TABLE event_slices_hourly_mv MODIFY QUERY
SELECT org_id, part.1 AS dimension, bucket, event_type, part.2 AS slice, part.3 AS other,
       sum(e.events) AS events, sum(e.errors) AS errors,
       sum(e.timed) AS timed, sum(e.latency_ms_sum) AS latency_ms_sum,
       min(e.latency_ms_min) AS latency_ms_min, max(e.latency_ms_max) AS latency_ms_max,
       quantilesDDMergeState(0.02, 0.5, 0.9, 0.95, 0.99)(e.latency_ms_sketch) AS latency_ms_sketch,
       sum(e.cost) AS cost, sum(e.fingerprint) AS fingerprint
FROM events_hourly AS e
ARRAY JOIN [('event_category', toString(event_category), ''),
            ('campaign_id', toString(campaign_id), ''),
            ('user_id', toString(user_id), ''),
            ('workload_id', workload_id, ''),
            ('provider', toString(provider), ''),
            ('model', toString(model), ''),
            ('technique', toString(technique), ''),
            ('event_category,campaign_id', toString(event_category), toString(campaign_id)),
            ('event_category,user_id', toString(event_category), toString(user_id)),
            ('event_category,provider', toString(event_category), toString(provider)),
            ('event_category,model', toString(event_category), toString(model)),
            ('event_category,technique', toString(event_category), toString(technique)),
            ('campaign_id,user_id', toString(campaign_id), toString(user_id)),
            ('campaign_id,provider', toString(campaign_id), toString(provider)),
            ('campaign_id,model', toString(campaign_id), toString(model)),
            ('campaign_id,technique', toString(campaign_id), toString(technique)),
            ('user_id,provider', toString(user_id), toString(provider)),
            ('user_id,model', toString(user_id), toString(model)),
            ('user_id,technique', toString(user_id), toString(technique)),
            ('provider,model', toString(provider), toString(model)),
            ('provider,technique', toString(provider), toString(technique)),
            ('model,technique', toString(model), toString(technique))] AS part
GROUP BY org_id, dimension, bucket, event_type, slice, other;

ALTER TABLE metrics_daily_mv MODIFY QUERY
SELECT org_id, metric, toStartOfDay(m.bucket) AS bucket, event_type, campaign_id, workload_id,
       user_id, provider, model, technique, event_category, sum(m.points) AS points,
       sum(m.value_sum) AS value_sum, min(m.value_min) AS value_min, max(m.value_max) AS value_max,
       quantilesDDMergeState(0.02, 0.5, 0.9, 0.95, 0.99)(m.value_sketch) AS value_sketch
FROM metrics_hourly AS m
GROUP BY org_id, metric, toStartOfDay(m.bucket), event_type, campaign_id, workload_id, user_id, provider, model, technique, event_category;

ALTER TABLE events_daily_mv MODIFY QUERY
SELECT org_id, event_type, toStartOfDay(e.bucket) AS bucket, campaign_id, workload_id, user_id,
       provider, model, technique, event_category, sum(e.events) AS events, sum(e.errors) AS errors,
       sum(e.timed) AS timed, sum(e.latency_ms_sum) AS latency_ms_sum,
       min(e.latency_ms_min) AS latency_ms_min, max(e.latency_ms_max) AS latency_ms_max,
       quantilesDDMergeState(0.02, 0.5, 0.9, 0.95, 0.99)(e.latency_ms_sketch) AS latency_ms_sketch,
       sum(e.cost) AS cost, max(e.last_seen) AS last_seen, sum(e.fingerprint) AS fingerprint
FROM events_hourly AS e
GROUP BY org_id, event_type, toStartOfDay(e.bucket), campaign_id, workload_id, user_id, provider, model, technique, event_category;

ALTER TABLE metrics_hourly_mv MODIFY QUERY
SELECT org_id, metric, toStartOfHour(toDateTime(timestamp, 'UTC')) AS bucket, event_type,
       campaign_id, workload_id, user_id, provider, model, technique, event_category,
       count() AS points, sum(value) AS value_sum, min(value) AS value_min, max(value) AS value_max,
       quantilesDDState(0.02, 0.5, 0.9, 0.95, 0.99)(
           if(abs(value) < 1e-9, 0, least(greatest(value, -1e15), 1e15)) * 1e10) AS value_sketch
FROM workload_events ARRAY JOIN metrics.name AS metric, metrics.value AS value
GROUP BY org_id, metric, bucket, event_type, campaign_id, workload_id, user_id, provider, model, technique, event_category;

ALTER TABLE events_hourly_mv MODIFY QUERY
SELECT org_id, event_type, toStartOfHour(toDateTime(timestamp, 'UTC')) AS bucket, campaign_id,
       workload_id, user_id, provider, model, technique, event_category,
       count() AS events,
       countIf(error_kind != '') AS errors,
       countIf(latency_ms > 0) AS timed,
       sum(toUInt64(latency_ms)) AS latency_ms_sum,
       min(if(latency_ms > 0, latency_ms, 4294967295)) AS latency_ms_min,
       max(latency_ms) AS latency_ms_max,
       quantilesDDStateIf(0.02, 0.5, 0.9, 0.95, 0.99)(latency_ms, latency_ms > 0) AS latency_ms_sketch,
       sum(toDecimal128(cost, 12)) AS cost,
       max(timestamp) AS last_seen,
       sum(cityHash64(event_id)) AS fingerprint
FROM workload_events
GROUP BY org_id, event_type, bucket, campaign_id, workload_id, user_id, provider, model, technique, event_category;
