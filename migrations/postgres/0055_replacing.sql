-- migrate:up
-- Batches are compared by a fingerprint too, and those that differ are replaced from the buffer when asked.
SET lock_timeout = '5s';
SET ROLE chimera_owner;
-- Of the ids of its events, from when they were stored; NULL: stored before this column.
ALTER TABLE telemetry.batches ADD COLUMN fingerprint bigint;
ALTER TABLE telemetry.verified
    -- Somebody asked to take out of the store what differs, and to store it anew.
    ADD COLUMN is_replacing boolean NOT NULL DEFAULT false,
    -- The earliest day whose roll-ups were made anew of late, and when: answers from before lack some of it.
    ADD COLUMN rebuilt_day date,
    ADD COLUMN rebuilt_at timestamptz;

-- Days whose roll-ups hold what was taken out of the store: to be made anew from the events.
CREATE TABLE telemetry.stale_days (
    org_id uuid NOT NULL,
    day date NOT NULL,
    PRIMARY KEY (org_id, day)
);
ALTER TABLE telemetry.stale_days ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetry.stale_days FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON telemetry.stale_days TO chimera_app
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid))
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
CREATE POLICY machinery ON telemetry.stale_days TO chimera_worker USING (true) WITH CHECK (true);
GRANT SELECT ON telemetry.stale_days TO chimera_app;
GRANT SELECT, INSERT, DELETE ON telemetry.stale_days TO chimera_worker;
RESET ROLE;

-- migrate:down
SET lock_timeout = '5s';
SET ROLE chimera_owner;
DROP TABLE telemetry.stale_days;
ALTER TABLE telemetry.verified DROP COLUMN rebuilt_at, DROP COLUMN rebuilt_day, DROP COLUMN is_replacing;
ALTER TABLE telemetry.batches DROP COLUMN fingerprint;
RESET ROLE;
