-- migrate:up
-- When the roll-ups of an organisation were last compared with its events.
SET lock_timeout = '5s';
SET ROLE chimera_owner;
ALTER TABLE telemetry.verified ADD COLUMN rollups_checked_at timestamptz;
RESET ROLE;

-- migrate:down
SET lock_timeout = '5s';
SET ROLE chimera_owner;
ALTER TABLE telemetry.verified DROP COLUMN rollups_checked_at;
RESET ROLE;
