DROP VIEW IF EXISTS metric_slice_totals_daily_mv;
DROP VIEW IF EXISTS metric_totals_daily_mv;
DROP VIEW IF EXISTS event_slice_totals_daily_mv;
DROP VIEW IF EXISTS event_totals_daily_mv;
DROP TABLE IF EXISTS metric_slice_totals_daily;
DROP TABLE IF EXISTS metric_totals_daily;
DROP TABLE IF EXISTS event_slice_totals_daily;
DROP TABLE IF EXISTS event_totals_daily;
