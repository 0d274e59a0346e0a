-- migrate:up
-- Accounts: registration, invitations, second factor, known devices, password rules, erasure.
SET ROLE chimera_owner;

-- An organisation's rules for the passwords and sign-ins of its people. 0: no such rule.
ALTER TABLE identity.organisations
    ADD COLUMN password_characters_min int NOT NULL DEFAULT 8 CHECK (password_characters_min BETWEEN 8 AND 128),
    ADD COLUMN password_classes_min int NOT NULL DEFAULT 0 CHECK (password_classes_min BETWEEN 0 AND 4),
    ADD COLUMN password_history int NOT NULL DEFAULT 0 CHECK (password_history BETWEEN 0 AND 10),
    ADD COLUMN password_age_days_max int NOT NULL DEFAULT 0 CHECK (password_age_days_max BETWEEN 0 AND 3650),
    ADD COLUMN requires_second_factor boolean NOT NULL DEFAULT false;
CREATE TRIGGER touch BEFORE UPDATE ON identity.organisations FOR EACH ROW EXECUTE FUNCTION ops.touch();

ALTER TABLE identity.users
    -- Whose administrators manage the account itself; others manage only its membership.
    ADD COLUMN home_org_id uuid REFERENCES identity.organisations ON DELETE RESTRICT,
    ADD COLUMN email_verified_at timestamptz,
    -- providers/vault.py, bound to totp_version. Counts as a factor once confirmed.
    ADD COLUMN totp_sealed jsonb,
    ADD COLUMN totp_version int NOT NULL DEFAULT 0,
    ADD COLUMN totp_confirmed_at timestamptz,
    -- The 30 s step of the last accepted code; it only grows, so no code is accepted twice.
    ADD COLUMN totp_step bigint NOT NULL DEFAULT 0,
    ADD COLUMN erase_at timestamptz,
    ADD COLUMN erased_at timestamptz;
ALTER TABLE identity.users ALTER COLUMN home_org_id
    SET DEFAULT NULLIF(current_setting('app.org_id', true), '')::uuid;
CREATE INDEX users_erasure ON identity.users (erase_at) WHERE erase_at IS NOT NULL AND erased_at IS NULL;
CREATE INDEX users_home ON identity.users (home_org_id);

ALTER TABLE identity.users NO FORCE ROW LEVEL SECURITY;
ALTER TABLE identity.memberships NO FORCE ROW LEVEL SECURITY;
UPDATE identity.users u
   SET email_verified_at = CASE WHEN u.state = 'unverified' THEN NULL ELSE u.created_at END,
       home_org_id = (SELECT m.org_id FROM identity.memberships m WHERE m.user_id = u.id
                       ORDER BY m.created_at, m.org_id LIMIT 1);
ALTER TABLE identity.users FORCE ROW LEVEL SECURITY;
ALTER TABLE identity.memberships FORCE ROW LEVEL SECURITY;

ALTER TABLE identity.sessions
    -- When the person last proved who they are, and when with a second factor.
    ADD COLUMN auth_time timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN second_factor_at timestamptz,
    ADD COLUMN device_id uuid,
    ADD COLUMN ended_at timestamptz;
CREATE INDEX sessions_org ON identity.sessions (org_id, user_id);

-- Browsers and machines somebody signed in from; a lock for strangers does not hold for them.
CREATE TABLE identity.devices (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    token_hash bytea NOT NULL UNIQUE,
    user_agent text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX devices_user ON identity.devices (user_id);

CREATE TABLE identity.recovery_codes (
    user_id uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    -- SHA-256 of a code with 130 random bits.
    code_hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz,
    PRIMARY KEY (user_id, code_hash)
);

CREATE TABLE identity.password_history (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    password_hash text NOT NULL,
    replaced_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX password_history_user ON identity.password_history (user_id, replaced_at DESC);

-- 256 random bits each, of which the SHA-256 is stored; good for one purpose, once.
CREATE TABLE identity.one_time_tokens (
    token_hash bytea PRIMARY KEY,
    purpose text NOT NULL CHECK (purpose IN ('email_verification', 'email_change', 'password_reset', 'login')),
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    user_id uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    -- The address it was sent to; the new one when it changes.
    email text NOT NULL DEFAULT '',
    -- Of a login: which account epoch proved its password, and from which device.
    facts jsonb NOT NULL DEFAULT '{}',
    mail_id text NOT NULL DEFAULT '',
    attempts int NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE INDEX one_time_tokens_user ON identity.one_time_tokens (user_id, purpose);
CREATE INDEX one_time_tokens_expiry ON identity.one_time_tokens (expires_at);

CREATE TABLE identity.invitations (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    role text NOT NULL CHECK (role IN ('admin', 'user', 'viewer')),
    -- Empty: whoever holds the code.
    email text NOT NULL DEFAULT '',
    -- NULL until the mail that carries the code is written.
    code_hash bytea UNIQUE,
    uses int NOT NULL DEFAULT 0,
    uses_max int NOT NULL CHECK (uses_max BETWEEN 1 AND 10000),
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    UNIQUE (org_id, id),
    CONSTRAINT invitations_uses CHECK (uses BETWEEN 0 AND uses_max)
);
CREATE INDEX invitations_newest ON identity.invitations (org_id, id DESC);

CREATE TABLE identity.redemptions (
    org_id uuid NOT NULL,
    invitation_id uuid NOT NULL,
    user_id uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (invitation_id, user_id),
    FOREIGN KEY (org_id, invitation_id) REFERENCES identity.invitations (org_id, id) ON DELETE CASCADE
);

-- Somebody who wants an account and has not shown yet that the address is theirs. Nothing is
-- reserved for them. The organisation is the inviting one, or one that will be made.
CREATE TABLE identity.registrations (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    token_hash bytea UNIQUE,
    email text NOT NULL,
    username text NOT NULL,
    display_name text NOT NULL DEFAULT '',
    organisation_name text NOT NULL DEFAULT '',
    invitation_id uuid REFERENCES identity.invitations ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    confirmed_at timestamptz
);
CREATE INDEX registrations_email ON identity.registrations (lower(email), created_at DESC);
CREATE INDEX registrations_expiry ON identity.registrations (expires_at);

DO $$
DECLARE
    t text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
    me text := '(SELECT NULLIF(current_setting(''app.user_id'', true), '''')::uuid)';
BEGIN
    FOREACH t IN ARRAY ARRAY['devices', 'recovery_codes', 'password_history', 'one_time_tokens', 'invitations',
                             'redemptions', 'registrations'] LOOP
        EXECUTE format('ALTER TABLE identity.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE identity.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY lookup ON identity.%I FOR SELECT TO chimera_lookup USING (true)', t);
        EXECUTE format('GRANT SELECT ON identity.%I TO chimera_lookup', t);
        EXECUTE format('CREATE POLICY machinery ON identity.%I TO chimera_worker USING (true) WITH CHECK (true)', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['one_time_tokens', 'invitations', 'redemptions', 'registrations'] LOOP
        EXECUTE format('CREATE POLICY tenant ON identity.%I TO chimera_app USING (org_id = %s) WITH CHECK (org_id = %s)', t, mine, mine);
    END LOOP;
    -- What belongs to a person and to no organisation: seen by that person only.
    FOREACH t IN ARRAY ARRAY['devices', 'recovery_codes', 'password_history'] LOOP
        EXECUTE format('CREATE POLICY own ON identity.%I TO chimera_app USING (user_id = %s) WITH CHECK (user_id = %s)', t, me, me);
    END LOOP;
    -- A person's sessions in all organisations: a new password ends them everywhere.
    EXECUTE format('CREATE POLICY own ON identity.sessions TO chimera_app USING (user_id = %s) WITH CHECK (user_id = %s)', me, me);
    EXECUTE format('CREATE POLICY found ON identity.organisations FOR INSERT TO chimera_app WITH CHECK (id = %s)', mine);
    EXECUTE format('CREATE POLICY change ON identity.organisations FOR UPDATE TO chimera_app USING (id = %s)', mine);
    -- Mails that somebody unknown asks for: a reset, a verification.
    EXECUTE format('CREATE POLICY before_tenant ON ops.outbox FOR INSERT TO chimera_app
        WITH CHECK (org_id IS NULL AND task = ''send_mail'' AND %s IS NULL)', mine);
END $$;
-- A home organisation takes the second factor away from somebody who lost it.
CREATE POLICY managed ON identity.recovery_codes FOR DELETE TO chimera_app
    USING (EXISTS (SELECT FROM identity.users u WHERE u.id = recovery_codes.user_id
                   AND u.home_org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid)));
CREATE POLICY managed_read ON identity.recovery_codes FOR SELECT TO chimera_app
    USING (EXISTS (SELECT FROM identity.users u WHERE u.id = recovery_codes.user_id
                   AND u.home_org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid)));
CREATE POLICY machinery ON identity.users TO chimera_worker USING (true) WITH CHECK (true);
CREATE POLICY machinery ON identity.organisations FOR SELECT TO chimera_worker USING (true);
CREATE POLICY machinery ON identity.team_members TO chimera_worker USING (true);

GRANT INSERT ON identity.organisations TO chimera_app;
GRANT UPDATE (name, metadata, updated_at, password_characters_min, password_classes_min, password_history,
              password_age_days_max, requires_second_factor) ON identity.organisations TO chimera_app;
GRANT UPDATE (email_verified_at, totp_sealed, totp_version, totp_confirmed_at, totp_step, erase_at)
    ON identity.users TO chimera_app;
GRANT DELETE ON identity.memberships TO chimera_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON identity.devices, identity.recovery_codes, identity.password_history,
    identity.one_time_tokens TO chimera_app;
GRANT SELECT, INSERT, UPDATE ON identity.invitations, identity.redemptions, identity.registrations TO chimera_app;
GRANT SELECT ON identity.organisations TO chimera_worker;
GRANT SELECT, UPDATE ON identity.users TO chimera_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON identity.one_time_tokens, identity.invitations, identity.registrations TO chimera_worker;
GRANT SELECT, DELETE ON identity.devices, identity.recovery_codes, identity.password_history,
    identity.redemptions, identity.team_members TO chimera_worker;

GRANT UPDATE (is_active) ON providers.provider_keys TO chimera_worker;

-- The server may not touch the flag itself; it asks for it in the name of somebody who has it. The
-- owner may see and change people for this, and could lift FORCE anyway, so nothing is given away.
CREATE POLICY operators_read ON identity.users FOR SELECT TO chimera_owner USING (true);
CREATE POLICY operators_change ON identity.users FOR UPDATE TO chimera_owner USING (true);
CREATE FUNCTION identity.set_superuser(target uuid, value boolean) RETURNS boolean
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
REVOKE ALL ON FUNCTION identity.set_superuser(uuid, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.set_superuser(uuid, boolean) TO chimera_app;
RESET ROLE;

-- Before the tenant is known; owned by the role that may read these tables and nothing else.
SET ROLE chimera_owner;
GRANT CREATE ON SCHEMA identity TO chimera_lookup;
SET ROLE chimera_lookup;

-- Somebody who signs in, into the organisation asked for or the first one they joined.
CREATE FUNCTION identity.find_account(login text, device_hash bytea, org uuid)
RETURNS TABLE (user_id uuid, org_id uuid, role text, password_hash text, state text, is_superuser boolean,
               locked_until timestamptz, authz_epoch bigint, has_second_factor boolean, device_id uuid, restriction text,
               password_changed_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.id, m.org_id, m.role, u.password_hash, u.state, u.is_superuser, u.locked_until, u.authz_epoch,
           u.totp_confirmed_at IS NOT NULL,
           (SELECT d.id FROM identity.devices d
             WHERE d.token_hash = find_account.device_hash AND d.user_id = u.id AND d.expires_at > now()),
           CASE WHEN o.requires_second_factor AND u.totp_confirmed_at IS NULL THEN 'second_factor'
                WHEN o.password_age_days_max > 0
                     AND u.password_changed_at < now() - make_interval(days => o.password_age_days_max)
                THEN 'password_expired' ELSE '' END,
           u.password_changed_at
      FROM identity.users u
      JOIN identity.memberships m ON m.user_id = u.id
      JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
     WHERE u.deleted_at IS NULL AND (lower(u.email) = lower(login) OR lower(u.username) = lower(login))
       AND (find_account.org IS NULL OR m.org_id = find_account.org)
     ORDER BY lower(u.email) = lower(login) DESC, m.created_at, m.org_id
     LIMIT 1
$$;
-- The release before knows no second factor, so it must not let in who has one.
CREATE OR REPLACE FUNCTION identity.find_login(login text)
RETURNS TABLE (user_id uuid, org_id uuid, role text, password_hash text, state text, is_superuser boolean,
               locked_until timestamptz, authz_epoch bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.user_id, a.org_id, a.role, a.password_hash, a.state, a.is_superuser, a.locked_until, a.authz_epoch
      FROM identity.find_account(login, NULL, NULL) a WHERE NOT a.has_second_factor
$$;
CREATE FUNCTION identity.session_state(session_id uuid)
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
CREATE FUNCTION identity.find_one_time_token(token_hash bytea, purpose text)
RETURNS TABLE (user_id uuid, org_id uuid, role text, email text, username text, new_email text, facts jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.user_id, t.org_id, coalesce(m.role, ''), u.email, u.username, t.email, t.facts
      FROM identity.one_time_tokens t
      JOIN identity.users u ON u.id = t.user_id AND u.deleted_at IS NULL
      LEFT JOIN identity.memberships m ON m.user_id = t.user_id AND m.org_id = t.org_id
     WHERE t.token_hash = find_one_time_token.token_hash AND t.purpose = find_one_time_token.purpose
       AND t.used_at IS NULL AND t.expires_at > now()
$$;
CREATE FUNCTION identity.find_registration(token_hash bytea)
RETURNS TABLE (id uuid, org_id uuid, email text, username text, display_name text, organisation_name text,
               invitation_id uuid, role text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.id, r.org_id, r.email, r.username, r.display_name, r.organisation_name, r.invitation_id,
           coalesce(i.role, 'admin')
      FROM identity.registrations r LEFT JOIN identity.invitations i ON i.id = r.invitation_id
     WHERE r.token_hash = find_registration.token_hash AND r.confirmed_at IS NULL AND r.expires_at > now()
$$;
CREATE FUNCTION identity.find_invitation(code_hash bytea)
RETURNS TABLE (id uuid, org_id uuid, role text, email text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT i.id, i.org_id, i.role, i.email
      FROM identity.invitations i JOIN identity.organisations o ON o.id = i.org_id AND o.deleted_at IS NULL
     WHERE i.code_hash = find_invitation.code_hash AND i.revoked_at IS NULL AND i.expires_at > now()
       AND i.uses < i.uses_max
$$;
-- Who has an address, for the mails that are sent to it.
CREATE FUNCTION identity.find_person(email text)
RETURNS TABLE (user_id uuid, org_id uuid, has_password boolean, is_verified boolean, is_disabled boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.id, m.org_id, u.password_hash IS NOT NULL, u.email_verified_at IS NOT NULL, u.state = 'disabled'
      FROM identity.users u
      JOIN identity.memberships m ON m.user_id = u.id
      JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
     WHERE u.deleted_at IS NULL AND lower(u.email) = lower(find_person.email)
     ORDER BY m.org_id = u.home_org_id DESC, m.created_at LIMIT 1
$$;
-- The organisations of the calling person.
CREATE FUNCTION identity.own_organisations()
RETURNS TABLE (id uuid, name text, role text, created_at timestamptz, joined_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.id, o.name, m.role, o.created_at, m.created_at
      FROM identity.memberships m JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
     WHERE m.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
     ORDER BY m.created_at, o.id
$$;
-- The strictest rules of all organisations a person belongs to, and the hashes not to use again.
CREATE FUNCTION identity.password_rules(user_id uuid)
RETURNS TABLE (characters_min int, classes_min int, history int, has_second_factor boolean,
               password_hash text, old_hashes text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(r.characters_min, 8), coalesce(r.classes_min, 0), coalesce(r.history, 0),
           u.totp_confirmed_at IS NOT NULL, u.password_hash,
           ARRAY(SELECT h.password_hash FROM identity.password_history h WHERE h.user_id = u.id
                  ORDER BY h.replaced_at DESC LIMIT greatest(coalesce(r.history, 0) - 1, 0))
      FROM identity.users u
      CROSS JOIN LATERAL (
          SELECT max(o.password_characters_min) AS characters_min, max(o.password_classes_min) AS classes_min,
                 max(o.password_history) AS history
            FROM identity.memberships m JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
           WHERE m.user_id = u.id) r
     WHERE u.id = password_rules.user_id
$$;
CREATE FUNCTION identity.organisation_rules(org_id uuid)
RETURNS TABLE (characters_min int, classes_min int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.password_characters_min, o.password_classes_min FROM identity.organisations o
     WHERE o.id = organisation_rules.org_id
$$;
-- Organisations with other people in which the calling person is the only working administrator.
CREATE FUNCTION identity.sole_admin_of() RETURNS text[]
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
-- Where a worker that erases somebody has to look.
CREATE FUNCTION identity.organisations_of(user_id uuid) RETURNS uuid[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(m.org_id ORDER BY m.org_id), '{}') FROM identity.memberships m
     WHERE m.user_id = organisations_of.user_id
$$;
REVOKE ALL ON FUNCTION identity.organisations_of(uuid), identity.find_account(text, bytea, uuid), identity.session_state(uuid),
    identity.find_one_time_token(bytea, text), identity.find_registration(bytea), identity.find_invitation(bytea),
    identity.find_person(text), identity.own_organisations(), identity.password_rules(uuid),
    identity.organisation_rules(uuid), identity.sole_admin_of() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.find_account(text, bytea, uuid), identity.session_state(uuid),
    identity.find_one_time_token(bytea, text), identity.find_registration(bytea), identity.find_invitation(bytea),
    identity.own_organisations(), identity.password_rules(uuid), identity.organisation_rules(uuid),
    identity.sole_admin_of() TO chimera_app;
GRANT EXECUTE ON FUNCTION identity.find_person(text), identity.organisations_of(uuid) TO chimera_worker;
SET ROLE chimera_owner;
REVOKE CREATE ON SCHEMA identity FROM chimera_lookup;
RESET ROLE;

-- migrate:down
SET ROLE chimera_lookup;
DROP FUNCTION identity.organisations_of(uuid);
DROP FUNCTION identity.sole_admin_of();
DROP FUNCTION identity.organisation_rules(uuid);
DROP FUNCTION identity.password_rules(uuid);
DROP FUNCTION identity.own_organisations();
DROP FUNCTION identity.find_person(text);
DROP FUNCTION identity.find_invitation(bytea);
DROP FUNCTION identity.find_registration(bytea);
DROP FUNCTION identity.find_one_time_token(bytea, text);
DROP FUNCTION identity.session_state(uuid);
SET ROLE chimera_owner;
GRANT CREATE ON SCHEMA identity TO chimera_lookup;
SET ROLE chimera_lookup;
CREATE OR REPLACE FUNCTION identity.find_login(login text)
RETURNS TABLE (user_id uuid, org_id uuid, role text, password_hash text, state text, is_superuser boolean,
               locked_until timestamptz, authz_epoch bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.id, m.org_id, m.role, u.password_hash, u.state, u.is_superuser, u.locked_until, u.authz_epoch
      FROM identity.users u
      JOIN identity.memberships m ON m.user_id = u.id
      JOIN identity.organisations o ON o.id = m.org_id AND o.deleted_at IS NULL
     WHERE u.deleted_at IS NULL AND (lower(u.email) = lower(login) OR lower(u.username) = lower(login))
     ORDER BY lower(u.email) = lower(login) DESC, m.created_at
     LIMIT 1
$$;
DROP FUNCTION identity.find_account(text, bytea, uuid);
SET ROLE chimera_owner;
REVOKE CREATE ON SCHEMA identity FROM chimera_lookup;
DROP FUNCTION identity.set_superuser(uuid, boolean);
DROP POLICY operators_change ON identity.users;
DROP POLICY operators_read ON identity.users;
REVOKE UPDATE (is_active) ON providers.provider_keys FROM chimera_worker;
DROP POLICY machinery ON identity.team_members;
REVOKE SELECT, DELETE ON identity.team_members FROM chimera_worker;
DROP POLICY machinery ON identity.organisations;
REVOKE SELECT ON identity.organisations FROM chimera_worker;
DROP POLICY machinery ON identity.users;
REVOKE SELECT, UPDATE ON identity.users FROM chimera_worker;
DROP POLICY before_tenant ON ops.outbox;
DROP POLICY change ON identity.organisations;
DROP POLICY found ON identity.organisations;
REVOKE INSERT, UPDATE ON identity.organisations FROM chimera_app;
REVOKE UPDATE (name, metadata, updated_at) ON identity.organisations FROM chimera_app;
REVOKE DELETE ON identity.memberships FROM chimera_app;
DROP POLICY own ON identity.sessions;
DROP TABLE identity.registrations;
DROP TABLE identity.redemptions;
DROP TABLE identity.invitations;
DROP TABLE identity.one_time_tokens;
DROP TABLE identity.password_history;
DROP TABLE identity.recovery_codes;
DROP TABLE identity.devices;
ALTER TABLE identity.sessions
    DROP COLUMN auth_time, DROP COLUMN second_factor_at, DROP COLUMN device_id, DROP COLUMN ended_at;
DROP INDEX identity.sessions_org;
ALTER TABLE identity.users
    DROP COLUMN home_org_id, DROP COLUMN email_verified_at, DROP COLUMN totp_sealed, DROP COLUMN totp_version,
    DROP COLUMN totp_confirmed_at, DROP COLUMN totp_step, DROP COLUMN erase_at, DROP COLUMN erased_at;
DROP TRIGGER touch ON identity.organisations;
ALTER TABLE identity.organisations
    DROP COLUMN password_characters_min, DROP COLUMN password_classes_min, DROP COLUMN password_history,
    DROP COLUMN password_age_days_max, DROP COLUMN requires_second_factor;
RESET ROLE;
