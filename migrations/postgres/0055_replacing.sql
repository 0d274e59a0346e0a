-- migrate:up
-- Batches are compared by a fingerprint too, and those that differ are replaced from the buffer when asked.
SET lock_timeout = '5s';
SET ROLE chimera_owner;
-- Of the ids of its events, from when they were stored; NULL: stored before this column.
ALTER TABLE telemetry.batches ADD COLUMN fingerprint bigint;
-- Somebody asked to take out of the store what differs, and to store it anew.
ALTER TABLE telemetry.verified ADD COLUMN is_replacing boolean NOT NULL DEFAULT false;
RESET ROLE;

-- migrate:down
SET lock_timeout = '5s';
SET ROLE chimera_owner;
ALTER TABLE telemetry.verified DROP COLUMN is_replacing;
ALTER TABLE telemetry.batches DROP COLUMN fingerprint;
RESET ROLE;
