-- migrate:up
-- Secrets of webhooks are wrapped anew with the others when the master key changes, and are counted
-- before a version of it is retired.
SET LOCAL lock_timeout = '5s';
SET ROLE chimera_owner;
CREATE TRIGGER hold_key_version BEFORE INSERT OR UPDATE OF sealed, previous_sealed ON accounting.webhooks
    FOR EACH ROW EXECUTE FUNCTION ops.hold_key_version('sealed', 'previous_sealed');
CREATE POLICY lookup ON accounting.webhooks FOR SELECT TO chimera_lookup USING (true);
GRANT USAGE ON SCHEMA accounting TO chimera_lookup;
GRANT SELECT ON accounting.webhooks TO chimera_lookup;
RESET ROLE;

-- Webhooks one of whose secrets another than the newest version wraps, of all organisations: which,
-- not what. is_previous: of the secret before the one in use.
CREATE FUNCTION accounting.find_sealed_secrets(newest int, is_previous boolean, after_id uuid, size int)
    RETURNS TABLE (id uuid, org_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT w.id, w.org_id FROM accounting.webhooks w
     CROSS JOIN LATERAL (SELECT CASE WHEN is_previous THEN w.previous_sealed ELSE w.sealed END AS secret) s
     WHERE s.secret ? 'kek_version' AND (s.secret->>'kek_version')::int <> newest AND w.id > after_id
     ORDER BY w.id LIMIT size
    $$;
-- How many of them each version of the master key wraps.
CREATE FUNCTION accounting.count_sealed_secrets(is_previous boolean)
    RETURNS TABLE (kek_version int, count bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT (s.secret->>'kek_version')::int, count(*) FROM accounting.webhooks w
     CROSS JOIN LATERAL (SELECT CASE WHEN is_previous THEN w.previous_sealed ELSE w.sealed END AS secret) s
     WHERE s.secret ? 'kek_version' GROUP BY 1
    $$;
ALTER FUNCTION accounting.find_sealed_secrets(int, boolean, uuid, int) OWNER TO chimera_lookup;
ALTER FUNCTION accounting.count_sealed_secrets(boolean) OWNER TO chimera_lookup;
REVOKE ALL ON FUNCTION accounting.find_sealed_secrets(int, boolean, uuid, int),
    accounting.count_sealed_secrets(boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION accounting.find_sealed_secrets(int, boolean, uuid, int) TO chimera_worker;
GRANT EXECUTE ON FUNCTION accounting.count_sealed_secrets(boolean) TO chimera_app, chimera_worker;

-- migrate:down
DROP FUNCTION accounting.count_sealed_secrets(boolean);
DROP FUNCTION accounting.find_sealed_secrets(int, boolean, uuid, int);
SET ROLE chimera_owner;
REVOKE SELECT ON accounting.webhooks FROM chimera_lookup;
REVOKE USAGE ON SCHEMA accounting FROM chimera_lookup;
DROP POLICY lookup ON accounting.webhooks;
DROP TRIGGER hold_key_version ON accounting.webhooks;
RESET ROLE;
