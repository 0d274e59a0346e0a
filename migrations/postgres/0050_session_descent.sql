-- migrate:up
-- A session that was opened out of another one is no new sign-in; and who left, left without keys.
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

SET ROLE chimera_owner;
ALTER TABLE identity.sessions
    -- The session it was opened out of, and ends with; NULL for a sign-in. It is found through the
    -- person's sessions, and purging keeps it as long as something descends from it.
    ADD COLUMN parent_id uuid,
    -- When the person signed in; NULL: when the session was made.
    ADD COLUMN signed_in_at timestamptz;
-- Whether a session can go on is told to its person in every organisation.
CREATE POLICY own ON identity.refresh_tokens FOR SELECT TO chimera_app
    USING (user_id = (SELECT NULLIF(current_setting('app.user_id', true), '')::uuid));

CREATE FUNCTION identity.signed_in_at(session_id uuid) RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.signed_in_at FROM identity.sessions s WHERE s.id = signed_in_at.session_id
$$;
GRANT CREATE ON SCHEMA identity TO chimera_lookup;
ALTER FUNCTION identity.signed_in_at(uuid) OWNER TO chimera_lookup;
REVOKE CREATE ON SCHEMA identity FROM chimera_lookup;
SET ROLE chimera_lookup;
REVOKE ALL ON FUNCTION identity.signed_in_at(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.signed_in_at(uuid) TO chimera_app;
RESET ROLE;

-- migrate:down
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

SET ROLE chimera_owner;
DROP FUNCTION identity.signed_in_at(uuid);
DROP POLICY own ON identity.refresh_tokens;
ALTER TABLE identity.sessions DROP COLUMN parent_id, DROP COLUMN signed_in_at;
RESET ROLE;
