-- migrate:up
-- What gives lasting power is committed only while the session or the key it was asked with still stands.
SET lock_timeout = '5s';

SET ROLE chimera_owner;
-- With the rights of the caller. The locks make whoever ends a session or a key wait for what was asked
-- with it, or this wait for them. What the transaction ended by itself (its own xmin) stood until then.
CREATE FUNCTION identity.confirm_standing(own_session_id uuid, own_key_id uuid) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF own_key_id IS NOT NULL THEN
        PERFORM FROM identity.api_keys k LEFT JOIN identity.users u ON u.id = k.user_id
          WHERE k.id = own_key_id
            AND (k.xmin = pg_current_xact_id()::xid
                 OR k.is_active AND (u.xmin = pg_current_xact_id()::xid
                                     OR u.state = 'active' AND u.deleted_at IS NULL))
            FOR SHARE OF k;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the key has ended' USING ERRCODE = 'invalid_password';
        END IF;
        RETURN;
    END IF;
    PERFORM FROM identity.sessions s
      WHERE s.id = own_session_id AND (s.is_active OR s.xmin = pg_current_xact_id()::xid) FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the session has ended' USING ERRCODE = 'invalid_authorization_specification';
    END IF;
END $$;
REVOKE ALL ON FUNCTION identity.confirm_standing(uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.confirm_standing(uuid, uuid) TO chimera_app;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP FUNCTION identity.confirm_standing(uuid, uuid);
RESET ROLE;
