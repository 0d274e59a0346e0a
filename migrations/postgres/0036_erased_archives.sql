-- migrate:up
-- Whoever is erased goes out of the archives of dropped months as well, one archive after the other.
SET ROLE chimera_owner;
ALTER TABLE audit.erasures ADD COLUMN archives_through text NOT NULL DEFAULT '';
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
ALTER TABLE audit.erasures DROP COLUMN archives_through;
RESET ROLE;
