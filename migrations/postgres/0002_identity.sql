-- migrate:up
-- Organisations (tenants), people, sessions and API keys.
SET ROLE chimera_owner;
CREATE SCHEMA identity;
GRANT USAGE ON SCHEMA identity TO chimera_app, chimera_worker, chimera_lookup, chimera_auditor;

CREATE TABLE identity.organisations (
    id uuid PRIMARY KEY,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX organisations_name ON identity.organisations (lower(name)) WHERE deleted_at IS NULL;

CREATE TABLE identity.users (
    id uuid PRIMARY KEY,
    email text NOT NULL,
    username text NOT NULL,
    display_name text NOT NULL DEFAULT '',
    picture_url text NOT NULL DEFAULT '',
    -- Argon2id in PHC form; NULL for people who sign in elsewhere.
    password_hash text,
    password_changed_at timestamptz,
    state text NOT NULL DEFAULT 'unverified' CHECK (state IN ('unverified', 'active', 'disabled')),
    is_superuser boolean NOT NULL DEFAULT false,
    preferences jsonb NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}',
    failed_login_attempts int NOT NULL DEFAULT 0,
    locked_until timestamptz,
    last_login_at timestamptz,
    -- Grows with every change of what the person may do; tokens carry it.
    authz_epoch bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX users_email ON identity.users (lower(email)) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX users_username ON identity.users (lower(username)) WHERE deleted_at IS NULL;
CREATE TRIGGER touch BEFORE UPDATE ON identity.users FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TABLE identity.memberships (
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    user_id uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    role text NOT NULL CHECK (role IN ('admin', 'user', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX memberships_user ON identity.memberships (user_id);

CREATE TABLE identity.sessions (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    user_id uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    device_info jsonb NOT NULL DEFAULT '{}',
    ip_address inet,
    user_agent text NOT NULL DEFAULT '',
    is_active boolean NOT NULL DEFAULT true,
    ended_reason text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    -- Carried over unchanged by every refresh.
    absolute_expires_at timestamptz NOT NULL
);
CREATE INDEX sessions_user ON identity.sessions (user_id, created_at);
CREATE INDEX sessions_expiry ON identity.sessions (absolute_expires_at);

-- One family a session; the newest unused generation is the live one.
CREATE TABLE identity.refresh_tokens (
    token_hash bytea PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES identity.sessions ON DELETE CASCADE,
    org_id uuid NOT NULL,
    user_id uuid NOT NULL,
    generation int NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    -- The next token under a key derived from this one, for a retry within ten seconds.
    successor_sealed bytea,
    UNIQUE (session_id, generation)
);

CREATE TABLE identity.api_keys (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    user_id uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    name text NOT NULL,
    -- What stands in the key and finds the row; random, unlike the id.
    public_id text NOT NULL UNIQUE,
    prefix text NOT NULL,
    -- SHA-256 of the secret part, which has 256 random bits.
    secret_hash bytea NOT NULL,
    scopes text[] NOT NULL DEFAULT '{}',
    is_active boolean NOT NULL DEFAULT true,
    expires_at timestamptz NOT NULL,
    last_used_at timestamptz,
    usage_count bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    metadata jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX api_keys_user ON identity.api_keys (org_id, user_id, id);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['organisations', 'users', 'memberships', 'sessions', 'refresh_tokens', 'api_keys'] LOOP
        EXECUTE format('ALTER TABLE identity.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE identity.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY lookup ON identity.%I FOR SELECT TO chimera_lookup USING (true)', t);
        EXECUTE format('GRANT SELECT ON identity.%I TO chimera_lookup', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['memberships', 'sessions', 'refresh_tokens', 'api_keys'] LOOP
        EXECUTE format('CREATE POLICY tenant ON identity.%I TO chimera_app
            USING (org_id = (SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid))
            WITH CHECK (org_id = (SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid))', t);
    END LOOP;
END $$;
CREATE POLICY tenant ON identity.organisations FOR SELECT TO chimera_app
    USING (id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
-- People are seen by the organisations they belong to. A new one belongs nowhere yet.
CREATE POLICY member_read ON identity.users FOR SELECT TO chimera_app
    USING (EXISTS (SELECT FROM identity.memberships m WHERE m.user_id = users.id));
CREATE POLICY member_change ON identity.users FOR UPDATE TO chimera_app
    USING (EXISTS (SELECT FROM identity.memberships m WHERE m.user_id = users.id));
CREATE POLICY member_add ON identity.users FOR INSERT TO chimera_app
    WITH CHECK ((SELECT NULLIF(current_setting('app.org_id', true), '')::uuid) IS NOT NULL AND NOT is_superuser);
CREATE POLICY machinery ON identity.api_keys TO chimera_worker USING (true);
CREATE POLICY machinery ON identity.sessions TO chimera_worker USING (true);
CREATE POLICY machinery ON identity.refresh_tokens TO chimera_worker USING (true);
GRANT SELECT ON identity.organisations TO chimera_app;
GRANT SELECT, INSERT ON identity.users TO chimera_app;
GRANT UPDATE (display_name, picture_url, password_hash, password_changed_at, state, preferences, metadata,
              failed_login_attempts, locked_until, last_login_at, authz_epoch, updated_at, deleted_at, email, username)
    ON identity.users TO chimera_app;
GRANT SELECT, INSERT, UPDATE ON identity.memberships, identity.sessions, identity.refresh_tokens, identity.api_keys TO chimera_app;
GRANT SELECT, UPDATE ON identity.api_keys, identity.sessions TO chimera_worker;
GRANT SELECT, DELETE ON identity.refresh_tokens TO chimera_worker;
GRANT DELETE ON identity.sessions TO chimera_worker;

-- Before the tenant is known. Owned by a role that may read these tables and nothing else.
CREATE FUNCTION identity.find_login(login text)
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
CREATE FUNCTION identity.find_session(session_id uuid)
RETURNS TABLE (user_id uuid, org_id uuid, role text, is_active boolean, state text, is_superuser boolean, authz_epoch bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.user_id, s.org_id, m.role, s.is_active AND s.absolute_expires_at > now(),
           CASE WHEN u.deleted_at IS NULL THEN u.state ELSE 'disabled' END, u.is_superuser, u.authz_epoch
      FROM identity.sessions s
      JOIN identity.users u ON u.id = s.user_id
      JOIN identity.memberships m ON m.user_id = s.user_id AND m.org_id = s.org_id
     WHERE s.id = find_session.session_id
$$;
CREATE FUNCTION identity.find_api_key(public_id text)
RETURNS TABLE (api_key_id uuid, user_id uuid, org_id uuid, role text, secret_hash bytea, scopes text[],
               is_active boolean, expires_at timestamptz, state text, is_superuser boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.id, k.user_id, k.org_id, m.role, k.secret_hash, k.scopes, k.is_active, k.expires_at,
           CASE WHEN u.deleted_at IS NULL THEN u.state ELSE 'disabled' END, u.is_superuser
      FROM identity.api_keys k
      JOIN identity.users u ON u.id = k.user_id
      JOIN identity.memberships m ON m.user_id = k.user_id AND m.org_id = k.org_id
     WHERE k.public_id = find_api_key.public_id
$$;
CREATE FUNCTION identity.find_refresh_token(token_hash bytea)
RETURNS TABLE (session_id uuid, user_id uuid, org_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.session_id, t.user_id, t.org_id FROM identity.refresh_tokens t
     WHERE t.token_hash = find_refresh_token.token_hash
$$;
GRANT CREATE ON SCHEMA identity TO chimera_lookup;
ALTER FUNCTION identity.find_login(text) OWNER TO chimera_lookup;
ALTER FUNCTION identity.find_session(uuid) OWNER TO chimera_lookup;
ALTER FUNCTION identity.find_api_key(text) OWNER TO chimera_lookup;
ALTER FUNCTION identity.find_refresh_token(bytea) OWNER TO chimera_lookup;
REVOKE CREATE ON SCHEMA identity FROM chimera_lookup;
SET ROLE chimera_lookup;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA identity FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA identity TO chimera_app;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP SCHEMA identity CASCADE;
RESET ROLE;
