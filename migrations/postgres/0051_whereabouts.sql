-- migrate:up
-- Where somebody has been: erasing them reaches organisations they have left, and who belongs to none
-- any more can be invited again.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

SET ROLE chimera_owner;
GRANT SELECT (org_id, created_by) ON campaigns.comments TO chimera_lookup;
CREATE POLICY lookup ON campaigns.comments FOR SELECT TO chimera_lookup USING (true);
-- Of an account that belongs nowhere; whoever takes it in manages it.
GRANT UPDATE (home_org_id) ON identity.users TO chimera_app;

GRANT CREATE ON SCHEMA identity TO chimera_lookup;
SET ROLE chimera_lookup;
-- Where a worker that erases somebody has to look: where they are, and where something of them is left.
CREATE OR REPLACE FUNCTION identity.organisations_of(user_id uuid) RETURNS uuid[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(x.org_id ORDER BY x.org_id), '{}') FROM (
        SELECT m.org_id FROM identity.memberships m WHERE m.user_id = organisations_of.user_id
         UNION
        SELECT k.org_id FROM providers.provider_keys k WHERE k.user_id = organisations_of.user_id
         UNION  -- by organisation, as these tables have their indexes
        SELECT o.id FROM identity.organisations o
         WHERE EXISTS (SELECT FROM campaigns.comments c
                        WHERE c.org_id = o.id AND c.created_by = organisations_of.user_id)
            OR EXISTS (SELECT FROM campaigns.shares s
                        WHERE s.org_id = o.id AND s.user_id = organisations_of.user_id)) x
$$;
-- An account that belongs to no organisation any more: nobody could sign in to it or manage it. Not an
-- operator's, whose mark would come back to life with it.
CREATE FUNCTION identity.find_unattached(email text)
RETURNS TABLE (user_id uuid, is_proven boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.id, u.email_verified_at IS NOT NULL FROM identity.users u
     WHERE lower(u.email) = lower(find_unattached.email) AND u.erased_at IS NULL AND NOT u.is_superuser
       AND NOT EXISTS (SELECT FROM identity.memberships m
                         JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
                        WHERE m.user_id = u.id)
     ORDER BY u.deleted_at DESC NULLS FIRST LIMIT 1
$$;
REVOKE ALL ON FUNCTION identity.find_unattached(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.find_unattached(text) TO chimera_app;
SET ROLE chimera_owner;
REVOKE CREATE ON SCHEMA identity FROM chimera_lookup;
RESET ROLE;

-- migrate:down
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

SET ROLE chimera_owner;
GRANT CREATE ON SCHEMA identity TO chimera_lookup;
SET ROLE chimera_lookup;
DROP FUNCTION identity.find_unattached(text);
CREATE OR REPLACE FUNCTION identity.organisations_of(user_id uuid) RETURNS uuid[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(m.org_id ORDER BY m.org_id), '{}') FROM identity.memberships m
     WHERE m.user_id = organisations_of.user_id
$$;
SET ROLE chimera_owner;
REVOKE CREATE ON SCHEMA identity FROM chimera_lookup;
REVOKE UPDATE (home_org_id) ON identity.users FROM chimera_app;
DROP POLICY lookup ON campaigns.comments;
REVOKE SELECT (org_id, created_by) ON campaigns.comments FROM chimera_lookup;
RESET ROLE;
