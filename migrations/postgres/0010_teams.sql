-- migrate:up
-- Teams inside organisations. Sharing with a team asks identity.own_teams() in its row policies.
SET ROLE chimera_owner;

CREATE TABLE identity.teams (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    description text NOT NULL DEFAULT '',
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    UNIQUE (org_id, id)
);
CREATE UNIQUE INDEX teams_name ON identity.teams (org_id, lower(name)) WHERE deleted_at IS NULL;
CREATE TRIGGER touch BEFORE UPDATE ON identity.teams FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TABLE identity.team_members (
    org_id uuid NOT NULL,
    team_id uuid NOT NULL,
    user_id uuid NOT NULL,
    -- A lead may change who belongs to the team.
    is_lead boolean NOT NULL DEFAULT false,
    added_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (team_id, user_id),
    FOREIGN KEY (org_id, team_id) REFERENCES identity.teams (org_id, id) ON DELETE RESTRICT,
    FOREIGN KEY (org_id, user_id) REFERENCES identity.memberships (org_id, user_id) ON DELETE CASCADE
);
CREATE INDEX team_members_user ON identity.team_members (org_id, user_id, team_id);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['teams', 'team_members'] LOOP
        EXECUTE format('ALTER TABLE identity.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE identity.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY lookup ON identity.%I FOR SELECT TO chimera_lookup USING (true)', t);
        EXECUTE format('GRANT SELECT ON identity.%I TO chimera_lookup', t);
        EXECUTE format('CREATE POLICY tenant ON identity.%I TO chimera_app
            USING (org_id = (SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid))
            WITH CHECK (org_id = (SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid))', t);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE ON identity.teams TO chimera_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON identity.team_members TO chimera_app;
RESET ROLE;

-- The caller's teams, for row policies: (SELECT identity.own_teams()) is evaluated once a statement.
CREATE FUNCTION identity.own_teams() RETURNS uuid[]
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(array_agg(m.team_id), '{}')
      FROM identity.team_members m JOIN identity.teams t ON t.id = m.team_id
     WHERE m.org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
       AND m.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
       AND t.deleted_at IS NULL
    $$;
ALTER FUNCTION identity.own_teams() OWNER TO chimera_lookup;
REVOKE ALL ON FUNCTION identity.own_teams() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.own_teams() TO chimera_app, chimera_worker;

-- migrate:down
DROP FUNCTION identity.own_teams();
DROP TABLE identity.team_members;
DROP TABLE identity.teams;
