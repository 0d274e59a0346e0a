-- migrate:up
-- An operator's mark counts for who has proved who they are since it was given: not for sessions that
-- an organisation's sign-in provider vouched for, nor for sessions and keys from before.
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

SET ROLE chimera_owner;
-- NULL: an operator from before this column, or from the start.
ALTER TABLE identity.users ADD COLUMN superuser_at timestamptz;

CREATE OR REPLACE FUNCTION identity.set_superuser(target uuid, value boolean) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Of two operators that take it from each other, one stays.
    PERFORM pg_advisory_xact_lock(hashtext('identity.set_superuser'));
    UPDATE identity.users u
       SET is_superuser = value, authz_epoch = u.authz_epoch + 1,
           superuser_at = CASE WHEN value AND NOT u.is_superuser THEN clock_timestamp() ELSE u.superuser_at END
     -- Taken from who is deleted as well: accounts come back.
     WHERE u.id = target AND (u.deleted_at IS NULL OR NOT value)
       AND EXISTS (SELECT FROM identity.users a
                    WHERE a.id = NULLIF(current_setting('app.user_id', true), '')::uuid
                      AND a.is_superuser AND a.state = 'active' AND a.deleted_at IS NULL)
       AND (value OR EXISTS (SELECT FROM identity.users o
                              WHERE o.id <> target AND o.is_superuser AND o.state = 'active'
                                AND o.deleted_at IS NULL AND o.erase_at IS NULL));
    RETURN FOUND;
END $$;
-- Whether nobody else operates the installation, until the end of the transaction.
CREATE FUNCTION identity.is_last_operator(target uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('identity.set_superuser'));
    RETURN EXISTS (SELECT FROM identity.users u WHERE u.id = target AND u.is_superuser)
       AND NOT EXISTS (SELECT FROM identity.users o
                        WHERE o.id <> target AND o.is_superuser AND o.state = 'active'
                          AND o.deleted_at IS NULL AND o.erase_at IS NULL);
END $$;
REVOKE ALL ON FUNCTION identity.is_last_operator(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.is_last_operator(uuid) TO chimera_app;

GRANT CREATE ON SCHEMA identity TO chimera_lookup;
SET ROLE chimera_lookup;
CREATE OR REPLACE FUNCTION identity.session_state(session_id uuid)
RETURNS TABLE (user_id uuid, org_id uuid, role text, is_active boolean, state text, is_superuser boolean,
               authz_epoch bigint, auth_time timestamptz, second_factor_at timestamptz, restriction text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.user_id, s.org_id, m.role, s.is_active AND s.absolute_expires_at > now(),
           CASE WHEN u.deleted_at IS NULL THEN u.state ELSE 'disabled' END,
           u.is_superuser AND p.auth_time > to_timestamp(0), u.authz_epoch, p.auth_time, s.second_factor_at,
           CASE WHEN o.requires_second_factor AND s.second_factor_at IS NULL THEN 'second_factor'
                WHEN o.password_age_days_max > 0 AND u.password_hash IS NOT NULL
                     AND u.password_changed_at < now() - make_interval(days => o.password_age_days_max)
                THEN 'password_expired' ELSE '' END
      FROM identity.sessions s
      JOIN identity.users u ON u.id = s.user_id
      JOIN identity.memberships m ON m.user_id = s.user_id AND m.org_id = s.org_id
      JOIN identity.organisations o ON o.id = s.org_id AND o.deleted_at IS NULL
     -- Who became an operator since has proved nothing as one.
     CROSS JOIN LATERAL (SELECT CASE WHEN u.is_superuser AND s.auth_time <= u.superuser_at
                                     THEN to_timestamp(0) ELSE s.auth_time END AS auth_time) p
     WHERE s.id = session_state.session_id
$$;
CREATE OR REPLACE FUNCTION identity.find_key(public_id text)
RETURNS TABLE (api_key_id uuid, user_id uuid, org_id uuid, role text, secret_hash bytea, scopes text[],
               source_networks text[], is_active boolean, expires_at timestamptz, state text, is_superuser boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.id, k.user_id, k.org_id, m.role,
           CASE WHEN k.public_id = find_key.public_id THEN k.secret_hash ELSE k.previous_secret_hash END,
           k.scopes, k.source_networks, k.is_active,
           CASE WHEN k.public_id = find_key.public_id THEN k.expires_at
                ELSE LEAST(k.expires_at, k.previous_expires_at) END,
           CASE WHEN u.deleted_at IS NULL THEN u.state ELSE 'disabled' END,
           u.is_superuser AND k.created_at > COALESCE(u.superuser_at, to_timestamp(0))
      FROM identity.api_keys k
      JOIN identity.users u ON u.id = k.user_id
      JOIN identity.memberships m ON m.user_id = k.user_id AND m.org_id = k.org_id
     WHERE k.public_id = find_key.public_id OR k.previous_public_id = find_key.public_id
$$;
-- Organisations with other people in which the calling person is the only working administrator. Who
-- is about to be erased neither administers nor is left alone.
CREATE OR REPLACE FUNCTION identity.sole_admin_of() RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(o.name ORDER BY o.name), '{}')
      FROM identity.memberships m JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
     WHERE m.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid AND m.role = 'admin'
       AND EXISTS (SELECT FROM identity.memberships x JOIN identity.users u ON u.id = x.user_id
                    WHERE x.org_id = m.org_id AND x.user_id <> m.user_id
                      AND u.deleted_at IS NULL AND u.state = 'active' AND u.erase_at IS NULL)
       AND NOT EXISTS (SELECT FROM identity.memberships x JOIN identity.users u ON u.id = x.user_id
                        WHERE x.org_id = m.org_id AND x.user_id <> m.user_id AND x.role = 'admin'
                          AND u.deleted_at IS NULL AND u.state = 'active' AND u.erase_at IS NULL)
$$;
SET ROLE chimera_owner;
REVOKE CREATE ON SCHEMA identity FROM chimera_lookup;
RESET ROLE;

-- migrate:down
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

SET ROLE chimera_owner;
DROP FUNCTION identity.is_last_operator(uuid);
CREATE OR REPLACE FUNCTION identity.set_superuser(target uuid, value boolean) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Of two operators that take it from each other, one stays.
    PERFORM pg_advisory_xact_lock(hashtext('identity.set_superuser'));
    UPDATE identity.users u SET is_superuser = value, authz_epoch = u.authz_epoch + 1
     WHERE u.id = target AND u.deleted_at IS NULL
       AND EXISTS (SELECT FROM identity.users a
                    WHERE a.id = NULLIF(current_setting('app.user_id', true), '')::uuid
                      AND a.is_superuser AND a.state = 'active' AND a.deleted_at IS NULL)
       AND (value OR EXISTS (SELECT FROM identity.users o
                              WHERE o.id <> target AND o.is_superuser AND o.state = 'active'
                                AND o.deleted_at IS NULL));
    RETURN FOUND;
END $$;

GRANT CREATE ON SCHEMA identity TO chimera_lookup;
SET ROLE chimera_lookup;
CREATE OR REPLACE FUNCTION identity.session_state(session_id uuid)
RETURNS TABLE (user_id uuid, org_id uuid, role text, is_active boolean, state text, is_superuser boolean,
               authz_epoch bigint, auth_time timestamptz, second_factor_at timestamptz, restriction text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.user_id, s.org_id, m.role, s.is_active AND s.absolute_expires_at > now(),
           CASE WHEN u.deleted_at IS NULL THEN u.state ELSE 'disabled' END, u.is_superuser, u.authz_epoch,
           s.auth_time, s.second_factor_at,
           CASE WHEN o.requires_second_factor AND s.second_factor_at IS NULL THEN 'second_factor'
                WHEN o.password_age_days_max > 0 AND u.password_hash IS NOT NULL
                     AND u.password_changed_at < now() - make_interval(days => o.password_age_days_max)
                THEN 'password_expired' ELSE '' END
      FROM identity.sessions s
      JOIN identity.users u ON u.id = s.user_id
      JOIN identity.memberships m ON m.user_id = s.user_id AND m.org_id = s.org_id
      JOIN identity.organisations o ON o.id = s.org_id AND o.deleted_at IS NULL
     WHERE s.id = session_state.session_id
$$;
CREATE OR REPLACE FUNCTION identity.find_key(public_id text)
RETURNS TABLE (api_key_id uuid, user_id uuid, org_id uuid, role text, secret_hash bytea, scopes text[],
               source_networks text[], is_active boolean, expires_at timestamptz, state text, is_superuser boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.id, k.user_id, k.org_id, m.role,
           CASE WHEN k.public_id = find_key.public_id THEN k.secret_hash ELSE k.previous_secret_hash END,
           k.scopes, k.source_networks, k.is_active,
           CASE WHEN k.public_id = find_key.public_id THEN k.expires_at
                ELSE LEAST(k.expires_at, k.previous_expires_at) END,
           CASE WHEN u.deleted_at IS NULL THEN u.state ELSE 'disabled' END, u.is_superuser
      FROM identity.api_keys k
      JOIN identity.users u ON u.id = k.user_id
      JOIN identity.memberships m ON m.user_id = k.user_id AND m.org_id = k.org_id
     WHERE k.public_id = find_key.public_id OR k.previous_public_id = find_key.public_id
$$;
CREATE OR REPLACE FUNCTION identity.sole_admin_of() RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(o.name ORDER BY o.name), '{}')
      FROM identity.memberships m JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
     WHERE m.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid AND m.role = 'admin'
       AND EXISTS (SELECT FROM identity.memberships x JOIN identity.users u ON u.id = x.user_id
                    WHERE x.org_id = m.org_id AND x.user_id <> m.user_id
                      AND u.deleted_at IS NULL AND u.state = 'active')
       AND NOT EXISTS (SELECT FROM identity.memberships x JOIN identity.users u ON u.id = x.user_id
                        WHERE x.org_id = m.org_id AND x.user_id <> m.user_id AND x.role = 'admin'
                          AND u.deleted_at IS NULL AND u.state = 'active')
$$;
SET ROLE chimera_owner;
REVOKE CREATE ON SCHEMA identity FROM chimera_lookup;
ALTER TABLE identity.users DROP COLUMN superuser_at;
RESET ROLE;
