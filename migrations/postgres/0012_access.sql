-- migrate:up
-- API keys with networks and rotation; custom roles and grants; signing keys of access tokens;
-- signing in elsewhere.
SET ROLE chimera_owner;

ALTER TABLE identity.api_keys
    -- Networks in CIDR notation; empty for everywhere.
    ADD COLUMN source_networks text[] NOT NULL DEFAULT '{}',
    ADD COLUMN last_used_ip inet,
    -- Rotation: the secret before the present one, until it ends by itself.
    ADD COLUMN previous_public_id text UNIQUE,
    ADD COLUMN previous_secret_hash bytea,
    ADD COLUMN previous_expires_at timestamptz,
    ADD COLUMN rotated_at timestamptz,
    ADD CONSTRAINT api_keys_previous CHECK (
        num_nonnulls(previous_public_id, previous_secret_hash, previous_expires_at) IN (0, 3));
-- FORCE would hide the rows from their owner; it is back before anybody else sees the table.
ALTER TABLE identity.api_keys NO FORCE ROW LEVEL SECURITY;
UPDATE identity.api_keys k SET name = name || ' (' || public_id || ')'
 WHERE is_active AND EXISTS (SELECT FROM identity.api_keys o
                              WHERE o.org_id = k.org_id AND o.user_id = k.user_id AND o.is_active
                                AND lower(o.name) = lower(k.name) AND o.id < k.id);
ALTER TABLE identity.api_keys FORCE ROW LEVEL SECURITY;
CREATE UNIQUE INDEX api_keys_name ON identity.api_keys (org_id, user_id, lower(name)) WHERE is_active;

CREATE TABLE identity.roles (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    description text NOT NULL DEFAULT '',
    permissions text[] NOT NULL CHECK (cardinality(permissions) > 0),
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    UNIQUE (org_id, id),
    CONSTRAINT roles_not_built_in CHECK (lower(name) NOT IN ('admin', 'user', 'viewer', 'operator'))
);
CREATE UNIQUE INDEX roles_name ON identity.roles (org_id, lower(name)) WHERE deleted_at IS NULL;
CREATE TRIGGER touch BEFORE UPDATE ON identity.roles FOR EACH ROW EXECUTE FUNCTION ops.touch();

-- A role for a user or a team, as long as its conditions hold.
CREATE TABLE identity.grants (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    role_id uuid,
    built_in_role text CHECK (built_in_role IN ('admin', 'user', 'viewer')),
    user_id uuid,
    team_id uuid,
    -- chimera.v1.GrantConditions.
    conditions jsonb NOT NULL DEFAULT '{}',
    granted_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    granted_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    CONSTRAINT grants_one_role CHECK (num_nonnulls(role_id, built_in_role) = 1),
    CONSTRAINT grants_one_grantee CHECK (num_nonnulls(user_id, team_id) = 1),
    FOREIGN KEY (org_id, role_id) REFERENCES identity.roles (org_id, id) ON DELETE RESTRICT,
    FOREIGN KEY (org_id, team_id) REFERENCES identity.teams (org_id, id) ON DELETE RESTRICT,
    FOREIGN KEY (org_id, user_id) REFERENCES identity.memberships (org_id, user_id) ON DELETE CASCADE
);
CREATE INDEX grants_user ON identity.grants (org_id, user_id) WHERE revoked_at IS NULL AND user_id IS NOT NULL;
CREATE INDEX grants_team ON identity.grants (org_id, team_id) WHERE revoked_at IS NULL AND team_id IS NOT NULL;
CREATE INDEX grants_role ON identity.grants (org_id, role_id) WHERE revoked_at IS NULL;

-- When each version of ops.secrets 'access-token' signs and verifies. A key is published here before
-- it signs, and verifies until the last token it signed has expired.
CREATE TABLE identity.signing_keys (
    version int PRIMARY KEY,
    kid text NOT NULL UNIQUE,
    -- Ed25519, raw.
    public_key bytea NOT NULL CHECK (length(public_key) = 32),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    signs_from timestamptz NOT NULL,
    -- Set when a successor was made.
    verifies_until timestamptz
);

-- Sign-ins under way at a provider. All they know is sealed under the handle that only the client
-- holds, and a row is taken out when it is used.
CREATE TABLE identity.sign_ins (
    handle_hash bytea PRIMARY KEY,
    sealed bytea NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX sign_ins_expiry ON identity.sign_ins (expires_at);

CREATE TABLE identity.sign_in_providers (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    kind text NOT NULL CHECK (kind IN ('google', 'github', 'oidc')),
    issuer text NOT NULL,
    client_id text NOT NULL,
    -- The client secret, for (org_id, row, row_version).
    sealed jsonb NOT NULL,
    row_version int NOT NULL DEFAULT 1,
    redirect_uris text[] NOT NULL CHECK (cardinality(redirect_uris) > 0),
    -- Whom nobody knows yet becomes a user with this role; NULL: is refused.
    new_user_role text CHECK (new_user_role IN ('user', 'viewer')),
    email_domains text[] NOT NULL DEFAULT '{}',
    is_enabled boolean NOT NULL DEFAULT true,
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX sign_in_providers_name ON identity.sign_in_providers (org_id, lower(name)) WHERE deleted_at IS NULL;
CREATE TRIGGER touch BEFORE UPDATE ON identity.sign_in_providers FOR EACH ROW EXECUTE FUNCTION ops.touch();

-- Who somebody is at a provider. A provider of an organisation vouches inside it only, so its
-- identities are apart from those of the installation's providers (provider_org_id NULL).
CREATE TABLE identity.linked_identities (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    user_id uuid NOT NULL,
    provider_org_id uuid,
    provider_name text NOT NULL,
    issuer text NOT NULL,
    subject text NOT NULL,
    -- As the provider tells it; nothing is ever looked up by it.
    email text NOT NULL DEFAULT '',
    display_name text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    CONSTRAINT linked_identities_own_provider CHECK (provider_org_id IS NULL OR provider_org_id = org_id),
    CONSTRAINT linked_identities_subject UNIQUE NULLS NOT DISTINCT (provider_org_id, issuer, subject),
    FOREIGN KEY (org_id, user_id) REFERENCES identity.memberships (org_id, user_id) ON DELETE CASCADE
);
CREATE INDEX linked_identities_user ON identity.linked_identities (org_id, user_id);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['roles', 'grants', 'sign_in_providers', 'linked_identities'] LOOP
        EXECUTE format('ALTER TABLE identity.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE identity.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY lookup ON identity.%I FOR SELECT TO chimera_lookup USING (true)', t);
        EXECUTE format('GRANT SELECT ON identity.%I TO chimera_lookup', t);
        EXECUTE format('CREATE POLICY tenant ON identity.%I TO chimera_app
            USING (org_id = (SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid))
            WITH CHECK (org_id = (SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid))', t);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE ON identity.roles, identity.grants, identity.sign_in_providers TO chimera_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON identity.linked_identities TO chimera_app;
GRANT SELECT, INSERT, DELETE ON identity.sign_ins TO chimera_app;
GRANT SELECT, DELETE ON identity.sign_ins TO chimera_worker;
GRANT SELECT, INSERT, UPDATE ON identity.signing_keys TO chimera_app, chimera_worker;
-- A private key that signs no more is destroyed.
GRANT DELETE ON ops.secrets TO chimera_worker;

-- What owns a thing, for grants that are limited to own or named things: the thing's id, the id of
-- what it is a part of, and who made it. Under the row policies of who asks.
CREATE FUNCTION identity.find_thing(kind text, thing_id uuid) RETURNS TABLE (ids uuid[], owner_id uuid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY[c.id], c.created_by FROM campaigns.campaigns c WHERE kind = 'campaign' AND c.id = thing_id
    UNION ALL
    SELECT ARRAY[r.id, c.id], c.created_by FROM campaigns.runs r JOIN campaigns.campaigns c ON c.id = r.campaign_id
     WHERE kind = 'run' AND r.id = thing_id
    UNION ALL
    SELECT ARRAY[t.id], t.created_by FROM templates.templates t WHERE kind = 'template' AND t.id = thing_id
    UNION ALL
    SELECT ARRAY[p.id], p.created_by FROM providers.providers p WHERE kind = 'provider' AND p.id = thing_id
    UNION ALL
    SELECT ARRAY[m.id, p.id], p.created_by FROM providers.models m JOIN providers.providers p ON p.id = m.provider_id
     WHERE kind = 'model' AND m.id = thing_id
    UNION ALL
    SELECT ARRAY[k.id, k.provider_id], k.user_id FROM providers.provider_keys k
     WHERE kind = 'provider_key' AND k.id = thing_id
    UNION ALL
    SELECT ARRAY[t.id], t.created_by FROM identity.teams t WHERE kind = 'team' AND t.id = thing_id
$$;
REVOKE ALL ON FUNCTION identity.find_thing(text, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.find_thing(text, uuid) TO chimera_app;

-- The release before reads find_api_key, which stays as it is.
CREATE FUNCTION identity.find_key(public_id text)
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
-- What was granted to somebody beside the role of the membership, oldest first.
CREATE FUNCTION identity.find_grants(org_id uuid, user_id uuid) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object(
               'grant_id', g.id, 'role_id', coalesce(g.role_id::text, ''), 'built_in_role', coalesce(g.built_in_role, ''),
               'role_name', coalesce(r.name, g.built_in_role), 'permissions', coalesce(r.permissions, '{}'),
               'team_id', coalesce(t.id::text, ''), 'team_name', coalesce(t.name, ''), 'conditions', g.conditions) ORDER BY g.id), '[]')
      FROM (SELECT d.* FROM identity.grants d
             WHERE d.org_id = find_grants.org_id AND d.user_id = find_grants.user_id AND d.revoked_at IS NULL
            UNION ALL
            SELECT d.* FROM identity.team_members m
              JOIN identity.grants d ON d.org_id = m.org_id AND d.team_id = m.team_id AND d.revoked_at IS NULL
             WHERE m.org_id = find_grants.org_id AND m.user_id = find_grants.user_id) g
      LEFT JOIN identity.roles r ON r.id = g.role_id AND r.deleted_at IS NULL
      LEFT JOIN identity.teams t ON t.id = g.team_id AND t.deleted_at IS NULL
     WHERE (g.role_id IS NULL OR r.id IS NOT NULL) AND (g.team_id IS NULL OR t.id IS NOT NULL)
$$;
CREATE FUNCTION identity.find_sign_in_provider(provider_id uuid)
RETURNS TABLE (id uuid, org_id uuid, name text, kind text, issuer text, client_id text, sealed jsonb,
               row_version int, redirect_uris text[], new_user_role text, email_domains text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.id, p.org_id, p.name, p.kind, p.issuer, p.client_id, p.sealed, p.row_version, p.redirect_uris,
           p.new_user_role, p.email_domains
      FROM identity.sign_in_providers p
      JOIN identity.organisations o ON o.id = p.org_id AND o.deleted_at IS NULL
     WHERE p.id = find_sign_in_provider.provider_id AND p.is_enabled AND p.deleted_at IS NULL
$$;
CREATE FUNCTION identity.list_sign_in_providers(org_id uuid)
RETURNS TABLE (id uuid, name text, kind text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.id, p.name, p.kind
      FROM identity.sign_in_providers p
      JOIN identity.organisations o ON o.id = p.org_id AND o.deleted_at IS NULL
     WHERE p.org_id = list_sign_in_providers.org_id AND p.is_enabled AND p.deleted_at IS NULL
     ORDER BY p.name
$$;
CREATE FUNCTION identity.find_linked_identity(provider_org_id uuid, issuer text, subject text)
RETURNS TABLE (linked_identity_id uuid, user_id uuid, org_id uuid, role text, state text, authz_epoch bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.id, l.user_id, l.org_id, m.role,
           CASE WHEN u.deleted_at IS NULL THEN u.state ELSE 'disabled' END, u.authz_epoch
      FROM identity.linked_identities l
      JOIN identity.users u ON u.id = l.user_id
      JOIN identity.memberships m ON m.user_id = l.user_id AND m.org_id = l.org_id
      JOIN identity.organisations o ON o.id = l.org_id AND o.deleted_at IS NULL
     WHERE l.provider_org_id IS NOT DISTINCT FROM find_linked_identity.provider_org_id
       AND l.issuer = find_linked_identity.issuer AND l.subject = find_linked_identity.subject
$$;
GRANT CREATE ON SCHEMA identity TO chimera_lookup;
ALTER FUNCTION identity.find_key(text) OWNER TO chimera_lookup;
ALTER FUNCTION identity.find_grants(uuid, uuid) OWNER TO chimera_lookup;
ALTER FUNCTION identity.find_sign_in_provider(uuid) OWNER TO chimera_lookup;
ALTER FUNCTION identity.list_sign_in_providers(uuid) OWNER TO chimera_lookup;
ALTER FUNCTION identity.find_linked_identity(uuid, text, text) OWNER TO chimera_lookup;
REVOKE CREATE ON SCHEMA identity FROM chimera_lookup;
SET ROLE chimera_lookup;
REVOKE ALL ON FUNCTION identity.find_key(text), identity.find_grants(uuid, uuid),
    identity.find_sign_in_provider(uuid), identity.list_sign_in_providers(uuid),
    identity.find_linked_identity(uuid, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.find_key(text), identity.find_grants(uuid, uuid),
    identity.find_sign_in_provider(uuid), identity.list_sign_in_providers(uuid),
    identity.find_linked_identity(uuid, text, text) TO chimera_app;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP FUNCTION identity.find_linked_identity(uuid, text, text);
DROP FUNCTION identity.list_sign_in_providers(uuid);
DROP FUNCTION identity.find_sign_in_provider(uuid);
DROP FUNCTION identity.find_grants(uuid, uuid);
DROP FUNCTION identity.find_key(text);
DROP FUNCTION identity.find_thing(text, uuid);
REVOKE DELETE ON ops.secrets FROM chimera_worker;
DROP TABLE identity.linked_identities;
DROP TABLE identity.sign_in_providers;
DROP TABLE identity.sign_ins;
DROP TABLE identity.signing_keys;
DROP TABLE identity.grants;
DROP TABLE identity.roles;
DROP INDEX identity.api_keys_name;
ALTER TABLE identity.api_keys
    DROP CONSTRAINT api_keys_previous,
    DROP COLUMN rotated_at,
    DROP COLUMN previous_expires_at,
    DROP COLUMN previous_secret_hash,
    DROP COLUMN previous_public_id,
    DROP COLUMN last_used_ip,
    DROP COLUMN source_networks;
RESET ROLE;
