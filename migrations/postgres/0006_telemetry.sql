-- migrate:up
-- The durable buffer before the column store.
SET ROLE chimera_owner;
CREATE SCHEMA telemetry;
GRANT USAGE ON SCHEMA telemetry TO chimera_app, chimera_worker;

-- A batch is accepted when it is committed here. Its bytes never change, so that what is resent
-- after a crash is what was sent before.
CREATE TABLE telemetry.batches (
    batch_id uuid NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    org_id uuid NOT NULL,
    producer text NOT NULL,
    -- Rows of the events table as JSON (telemetry/events.py).
    body bytea NOT NULL,
    events int NOT NULL CHECK (events > 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The frozen group it was or is being sent with: the deduplication token of the insert.
    group_id uuid,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'stored', 'dead')),
    tries int NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT '',
    PRIMARY KEY (batch_id)
) PARTITION BY RANGE (batch_id);
CREATE INDEX batches_waiting ON telemetry.batches (batch_id) WHERE state = 'waiting';
CREATE TABLE telemetry.batches_default PARTITION OF telemetry.batches DEFAULT;
INSERT INTO ops.partitioned VALUES ('telemetry.batches', '1 day', '7 days');

-- accepted = stored + dead + waiting, kept per organisation beyond the life of the batches.
CREATE TABLE telemetry.totals (
    org_id uuid NOT NULL,
    slot smallint NOT NULL,
    accepted bigint NOT NULL DEFAULT 0,
    stored bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (org_id, slot)
) WITH (fillfactor = 50);

ALTER TABLE telemetry.batches ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetry.batches FORCE ROW LEVEL SECURITY;
ALTER TABLE telemetry.batches_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetry.batches_default FORCE ROW LEVEL SECURITY;
ALTER TABLE telemetry.totals ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetry.totals FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON telemetry.batches TO chimera_app
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid))
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
CREATE POLICY tenant ON telemetry.totals TO chimera_app
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid))
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
CREATE POLICY machinery ON telemetry.batches TO chimera_worker USING (true) WITH CHECK (true);
CREATE POLICY machinery ON telemetry.totals TO chimera_worker USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON telemetry.batches TO chimera_app;
GRANT SELECT, INSERT, UPDATE ON telemetry.totals TO chimera_app;
GRANT SELECT, INSERT, UPDATE ON telemetry.batches, telemetry.totals TO chimera_worker;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP SCHEMA telemetry CASCADE;
DELETE FROM ops.partitioned WHERE table_name LIKE 'telemetry.%';
RESET ROLE;
