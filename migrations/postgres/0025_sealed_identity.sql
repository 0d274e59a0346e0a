-- migrate:up
-- Client secrets of sign-in providers and authenticator secrets follow the rotation of the master key.
SET ROLE chimera_owner;
CREATE TRIGGER hold_key_version BEFORE INSERT OR UPDATE OF sealed ON identity.sign_in_providers
    FOR EACH ROW EXECUTE FUNCTION ops.hold_key_version('sealed');
CREATE TRIGGER hold_key_version BEFORE INSERT OR UPDATE OF totp_sealed ON identity.users
    FOR EACH ROW EXECUTE FUNCTION ops.hold_key_version('totp_sealed');
CREATE POLICY rewrapping ON identity.sign_in_providers TO chimera_worker
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid))
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
GRANT SELECT, UPDATE (sealed) ON identity.sign_in_providers TO chimera_worker;

CREATE FUNCTION identity.find_sealed_sign_in(newest int, after_id uuid, size int)
    RETURNS TABLE (id uuid, org_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT p.id, p.org_id FROM identity.sign_in_providers p
     WHERE p.sealed ? 'kek_version' AND (p.sealed->>'kek_version')::int <> newest AND p.id > after_id
     ORDER BY p.id LIMIT size
    $$;
CREATE FUNCTION identity.count_sealed_sign_in()
    RETURNS TABLE (kek_version int, count bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT (p.sealed->>'kek_version')::int, count(*) FROM identity.sign_in_providers p
     WHERE p.sealed ? 'kek_version' GROUP BY 1
    $$;
CREATE FUNCTION identity.count_sealed_totp()
    RETURNS TABLE (kek_version int, count bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT (u.totp_sealed->>'kek_version')::int, count(*) FROM identity.users u
     WHERE u.totp_sealed IS NOT NULL GROUP BY 1
    $$;
GRANT CREATE ON SCHEMA identity TO chimera_lookup;
ALTER FUNCTION identity.count_sealed_totp() OWNER TO chimera_lookup;
ALTER FUNCTION identity.find_sealed_sign_in(int, uuid, int) OWNER TO chimera_lookup;
ALTER FUNCTION identity.count_sealed_sign_in() OWNER TO chimera_lookup;
REVOKE CREATE ON SCHEMA identity FROM chimera_lookup;
SET ROLE chimera_lookup;
REVOKE ALL ON FUNCTION identity.find_sealed_sign_in(int, uuid, int), identity.count_sealed_sign_in(),
    identity.count_sealed_totp() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.find_sealed_sign_in(int, uuid, int) TO chimera_worker;
GRANT EXECUTE ON FUNCTION identity.count_sealed_sign_in(), identity.count_sealed_totp() TO chimera_app, chimera_worker;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP FUNCTION identity.count_sealed_totp();
DROP FUNCTION identity.count_sealed_sign_in();
DROP FUNCTION identity.find_sealed_sign_in(int, uuid, int);
REVOKE SELECT, UPDATE (sealed) ON identity.sign_in_providers FROM chimera_worker;
DROP POLICY rewrapping ON identity.sign_in_providers;
DROP TRIGGER hold_key_version ON identity.users;
DROP TRIGGER hold_key_version ON identity.sign_in_providers;
RESET ROLE;
