-- migrate:up
-- Groups that the store fails at come after the others; a rebuild of roll-ups that dies leaves a mark.
SET lock_timeout = '5s';
SET ROLE chimera_owner;
ALTER TABLE telemetry.batches
    -- How often the batch's group failed while others got through: it waits longer each time.
    ADD COLUMN group_failures int NOT NULL DEFAULT 0,
    ADD COLUMN group_failed_at timestamptz;
-- The day whose roll-ups are being made anew: until then they lack some of it.
ALTER TABLE telemetry.verified ADD COLUMN rebuilding_day date;

-- As before, but a group that fails by itself makes only its own organisation's backlog old.
CREATE OR REPLACE FUNCTION telemetry.backlog(OUT total_bytes bigint, OUT own_bytes bigint, OUT oldest_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(sum(octet_length(body)), 0),
           coalesce(sum(octet_length(body)) FILTER (
               WHERE org_id = NULLIF(current_setting('app.org_id', true), '')::uuid), 0),
           min(created_at) FILTER (
               WHERE group_failures = 0 OR org_id = NULLIF(current_setting('app.org_id', true), '')::uuid)
      FROM telemetry.batches WHERE state = 'waiting'
    $$;
RESET ROLE;

-- migrate:down
SET lock_timeout = '5s';
SET ROLE chimera_owner;
CREATE OR REPLACE FUNCTION telemetry.backlog(OUT total_bytes bigint, OUT own_bytes bigint, OUT oldest_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(sum(octet_length(body)), 0),
           coalesce(sum(octet_length(body)) FILTER (
               WHERE org_id = NULLIF(current_setting('app.org_id', true), '')::uuid), 0),
           min(created_at)
      FROM telemetry.batches WHERE state = 'waiting'
    $$;
ALTER TABLE telemetry.verified DROP COLUMN rebuilding_day;
ALTER TABLE telemetry.batches DROP COLUMN group_failed_at, DROP COLUMN group_failures;
RESET ROLE;
