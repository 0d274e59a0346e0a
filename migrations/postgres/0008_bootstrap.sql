-- migrate:up
-- Makes the first organisation possible. FORCE keeps the owner of the tables out as well, and the
-- app role sees only organisations that exist. The owner may therefore insert here, and only that:
-- nobody logs in as it, and it could lift FORCE anyway, so nothing is given away.
SET ROLE chimera_owner;
CREATE POLICY bootstrap ON identity.organisations FOR INSERT TO chimera_owner WITH CHECK (true);
CREATE POLICY bootstrap ON identity.users FOR INSERT TO chimera_owner WITH CHECK (true);
CREATE POLICY bootstrap ON identity.memberships FOR INSERT TO chimera_owner WITH CHECK (true);
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP POLICY bootstrap ON identity.memberships;
DROP POLICY bootstrap ON identity.users;
DROP POLICY bootstrap ON identity.organisations;
RESET ROLE;
