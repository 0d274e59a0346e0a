-- Slices by two dimensions at once.
--
-- A slice by two dimensions has both names in `dimension`, in the order below, and the value of the
-- second in `other`. They answer percentiles by (or of) any two of six over weeks; without them every
-- combination of all dimensions that occurred is read and its sketch merged. The workload is in no pair:
-- there may be as many workloads as calls, and who asks about them names a few.

ALTER TABLE event_slices_hourly
    ADD COLUMN IF NOT EXISTS other String,
    MODIFY ORDER BY (org_id, dimension, bucket, event_type, slice, other);

ALTER TABLE event_slices_daily
    ADD COLUMN IF NOT EXISTS other String,
    MODIFY ORDER BY (org_id, dimension, bucket, event_type, slice, other);

ALTER TABLE metric_slices_hourly
    ADD COLUMN IF NOT EXISTS other String,
    MODIFY ORDER BY (org_id, dimension, metric, bucket, event_type, slice, other);

ALTER TABLE metric_slices_daily
    ADD COLUMN IF NOT EXISTS other String,
    MODIFY ORDER BY (org_id, dimension, metric, bucket, event_type, slice, other);

ALTER TABLE event_slices_daily_mv MODIFY QUERY
SELECT org_id, dimension, toStartOfDay(e.bucket) AS bucket, event_type, slice, other,
       sum(e.events) AS events, sum(e.errors) AS errors,
       sum(e.timed) AS timed, sum(e.latency_ms_sum) AS latency_ms_sum,
       min(e.latency_ms_min) AS latency_ms_min, max(e.latency_ms_max) AS latency_ms_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(e.latency_ms_q) AS latency_ms_q,
       sum(e.cost) AS cost, sum(e.fingerprint) AS fingerprint
FROM event_slices_hourly AS e
GROUP BY org_id, dimension, toStartOfDay(e.bucket), event_type, slice, other;

ALTER TABLE metric_slices_daily_mv MODIFY QUERY
SELECT org_id, dimension, metric, toStartOfDay(m.bucket) AS bucket, event_type, slice, other,
       sum(m.points) AS points, sum(m.value_sum) AS value_sum, min(m.value_min) AS value_min,
       max(m.value_max) AS value_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(m.value_q) AS value_q
FROM metric_slices_hourly AS m
GROUP BY org_id, dimension, metric, toStartOfDay(m.bucket), event_type, slice, other;

-- What is there already, through the views just changed also by the day. From the top if this runs
-- twice, and then the same rows again must not be taken for a repetition. What comes in before the last
-- statement is found by the reconciler, which compares days with their events.
DELETE FROM event_slices_hourly WHERE position(dimension, ',') > 0;

DELETE FROM event_slices_daily WHERE position(dimension, ',') > 0;

DELETE FROM metric_slices_hourly WHERE position(dimension, ',') > 0;

DELETE FROM metric_slices_daily WHERE position(dimension, ',') > 0;

INSERT INTO event_slices_hourly
       (org_id, dimension, bucket, event_type, slice, other, events, errors, timed, latency_ms_sum,
       latency_ms_min, latency_ms_max, latency_ms_q, cost, fingerprint)
SELECT org_id, part.1, bucket, event_type, part.2, part.3, events, errors, timed, latency_ms_sum,
       latency_ms_min, latency_ms_max, latency_ms_q, cost, fingerprint
FROM events_hourly
ARRAY JOIN [('event_category,campaign_id', toString(event_category), toString(campaign_id)),
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
SETTINGS insert_deduplicate = 0, deduplicate_blocks_in_dependent_materialized_views = 0;

INSERT INTO metric_slices_hourly
       (org_id, dimension, metric, bucket, event_type, slice, other, points, value_sum, value_min,
       value_max, value_q)
SELECT org_id, part.1, metric, bucket, event_type, part.2, part.3, points, value_sum, value_min,
       value_max, value_q
FROM metrics_hourly
ARRAY JOIN [('event_category,campaign_id', toString(event_category), toString(campaign_id)),
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
SETTINGS insert_deduplicate = 0, deduplicate_blocks_in_dependent_materialized_views = 0;

ALTER TABLE event_slices_hourly_mv MODIFY QUERY
SELECT org_id, part.1 AS dimension, bucket, event_type, part.2 AS slice, part.3 AS other,
       sum(e.events) AS events, sum(e.errors) AS errors,
       sum(e.timed) AS timed, sum(e.latency_ms_sum) AS latency_ms_sum,
       min(e.latency_ms_min) AS latency_ms_min, max(e.latency_ms_max) AS latency_ms_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(e.latency_ms_q) AS latency_ms_q,
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

ALTER TABLE metric_slices_hourly_mv MODIFY QUERY
SELECT org_id, part.1 AS dimension, metric, bucket, event_type, part.2 AS slice, part.3 AS other,
       sum(m.points) AS points, sum(m.value_sum) AS value_sum, min(m.value_min) AS value_min,
       max(m.value_max) AS value_max,
       quantilesTDigestMergeState(0.5, 0.9, 0.95, 0.99)(m.value_q) AS value_q
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
