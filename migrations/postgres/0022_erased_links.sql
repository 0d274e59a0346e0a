-- migrate:up
-- Whoever is erased is no longer anybody elsewhere either.
SET ROLE chimera_owner;
CREATE POLICY machinery ON identity.linked_identities TO chimera_worker USING (true);
GRANT SELECT, DELETE ON identity.linked_identities TO chimera_worker;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
REVOKE SELECT, DELETE ON identity.linked_identities FROM chimera_worker;
DROP POLICY machinery ON identity.linked_identities;
RESET ROLE;
