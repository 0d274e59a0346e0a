-- migrate:up
-- Campaigns are shared: with a team, the organisation, everybody, or by name; comments and labels.
-- Whoever may not see a campaign sees nothing that belongs to it.
SET lock_timeout = '5s';
SET ROLE chimera_owner;
GRANT USAGE ON SCHEMA campaigns TO chimera_lookup;

ALTER TABLE campaigns.campaigns
    DROP CONSTRAINT campaigns_visibility_check,
    ADD CONSTRAINT campaigns_visibility_check CHECK (visibility IN ('private', 'team', 'organisation', 'public')),
    ADD COLUMN team_id uuid,
    ADD CONSTRAINT campaigns_team_given CHECK ((visibility = 'team') = (team_id IS NOT NULL)),
    ADD FOREIGN KEY (org_id, team_id) REFERENCES identity.teams (org_id, id) ON DELETE RESTRICT,
    ADD COLUMN labels text[] NOT NULL DEFAULT '{}';
CREATE INDEX campaigns_public ON campaigns.campaigns (id DESC) WHERE visibility = 'public';

CREATE TABLE campaigns.shares (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    user_id uuid,
    team_id uuid,
    permission text NOT NULL CHECK (permission IN ('view', 'comment', 'edit', 'execute', 'admin')),
    shared_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    shared_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    CHECK ((user_id IS NULL) <> (team_id IS NULL)),
    UNIQUE NULLS NOT DISTINCT (campaign_id, user_id, team_id),
    FOREIGN KEY (org_id, campaign_id) REFERENCES campaigns.campaigns (org_id, id) ON DELETE RESTRICT,
    FOREIGN KEY (org_id, user_id) REFERENCES identity.memberships (org_id, user_id) ON DELETE CASCADE,
    FOREIGN KEY (org_id, team_id) REFERENCES identity.teams (org_id, id) ON DELETE RESTRICT
);
CREATE INDEX shares_user ON campaigns.shares (org_id, user_id) WHERE user_id IS NOT NULL;
CREATE INDEX shares_team ON campaigns.shares (org_id, team_id) WHERE team_id IS NOT NULL;

CREATE TABLE campaigns.comments (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    run_id uuid REFERENCES campaigns.runs ON DELETE RESTRICT,
    cell_no bigint,
    -- The first of its thread; replies have none of their own.
    reply_to uuid,
    text text NOT NULL,
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    edited_at timestamptz,
    deleted_at timestamptz,
    CHECK (cell_no IS NULL OR run_id IS NOT NULL),
    UNIQUE (campaign_id, id),
    FOREIGN KEY (org_id, campaign_id) REFERENCES campaigns.campaigns (org_id, id) ON DELETE RESTRICT,
    FOREIGN KEY (campaign_id, reply_to) REFERENCES campaigns.comments (campaign_id, id) ON DELETE RESTRICT
);
CREATE INDEX comments_threads ON campaigns.comments (campaign_id, id DESC) WHERE reply_to IS NULL;
CREATE INDEX comments_run ON campaigns.comments (run_id, id DESC) WHERE reply_to IS NULL AND run_id IS NOT NULL;
CREATE INDEX comments_replies ON campaigns.comments (reply_to, id) WHERE reply_to IS NOT NULL;
CREATE INDEX comments_author ON campaigns.comments (org_id, created_by);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['shares', 'comments'] LOOP
        EXECUTE format('ALTER TABLE campaigns.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE campaigns.%I FORCE ROW LEVEL SECURITY', t);
    END LOOP;
END $$;
CREATE POLICY lookup ON campaigns.shares FOR SELECT TO chimera_lookup USING (true);
GRANT SELECT ON campaigns.shares TO chimera_lookup;
GRANT CREATE ON SCHEMA identity, campaigns TO chimera_lookup;

SET ROLE chimera_lookup;
-- As it was, in a language that keeps its plan: policies ask it once a statement, of many statements.
CREATE OR REPLACE FUNCTION identity.own_teams() RETURNS uuid[]
    LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(SELECT m.team_id
                   FROM identity.team_members m JOIN identity.teams t ON t.id = m.team_id
                  WHERE m.org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
                    AND m.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
                    AND t.deleted_at IS NULL);
END $$;

-- The campaigns that were shared with the caller, or with a team of the caller's, and not until a moment
-- that has passed.
CREATE FUNCTION campaigns.own_shares() RETURNS uuid[]
    LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    teams uuid[] := identity.own_teams();
BEGIN
    RETURN ARRAY(SELECT s.campaign_id
                   FROM campaigns.shares s
                  WHERE s.org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
                    AND (s.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid OR s.team_id = ANY (teams))
                    AND (s.expires_at IS NULL OR s.expires_at > now()));
END $$;
REVOKE ALL ON FUNCTION campaigns.own_shares() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION campaigns.own_shares() TO chimera_app;

SET ROLE chimera_owner;
REVOKE CREATE ON SCHEMA identity, campaigns FROM chimera_lookup;
-- The functions below run as the caller, under the policies of the caller.

-- What the caller may do with a campaign, or NULL. app.reach is 'all' for those who manage every
-- campaign of their organisation, and while its books are counted (Tx.see_all_campaigns).
CREATE FUNCTION campaigns.own_level(campaign uuid) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    me uuid := NULLIF(current_setting('app.user_id', true), '')::uuid;
    mine uuid := NULLIF(current_setting('app.org_id', true), '')::uuid;
    levels text[] := ARRAY['view', 'comment', 'edit', 'execute', 'admin'];
    it record;
    given int;
BEGIN
    SELECT c.org_id, c.created_by, c.visibility, c.team_id INTO it FROM campaigns.campaigns c WHERE c.id = campaign;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF it.org_id IS DISTINCT FROM mine THEN
        RETURN 'view';
    ELSIF it.created_by = me OR current_setting('app.reach', true) = 'all' THEN
        RETURN 'admin';
    END IF;
    SELECT max(array_position(levels, s.permission)) INTO given
      FROM campaigns.shares s
     WHERE s.campaign_id = campaign AND (s.user_id = me OR s.team_id = ANY (identity.own_teams()))
       AND (s.expires_at IS NULL OR s.expires_at > now());
    -- Whoever may write or run at all may, with what the whole organisation or a team of theirs sees.
    IF it.visibility IN ('organisation', 'public')
       OR (it.visibility = 'team' AND it.team_id = ANY (identity.own_teams())) THEN
        given := greatest(given, array_position(levels, 'execute'));
    END IF;
    RETURN levels[given];
END $$;

CREATE FUNCTION campaigns.may(campaign uuid, needed text) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    levels text[] := ARRAY['view', 'comment', 'edit', 'execute', 'admin'];
BEGIN
    RETURN coalesce(array_position(levels, campaigns.own_level(campaign)) >= array_position(levels, needed), false);
END $$;

CREATE FUNCTION campaigns.sees(campaign uuid) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM campaigns.campaigns c WHERE c.id = campaign);
END $$;

-- Operators see that other organisations' runs are there, not what is in them.
CREATE FUNCTION campaigns.sees_run(run uuid) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM campaigns.runs r
                    WHERE r.id = run
                      AND (current_setting('app.role', true) IS DISTINCT FROM 'operator' OR campaigns.sees(r.campaign_id)));
END $$;

CREATE FUNCTION campaigns.may_run(run uuid, needed text) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM campaigns.runs r WHERE r.id = run AND campaigns.may(r.campaign_id, needed));
END $$;

-- Of the runs that an operation named (Tx.name_run), those that the caller sees. A statement over a
-- hundred thousand rows of a run asks this once; of other runs the policies ask row by row.
CREATE FUNCTION campaigns.runs_in_view() RETURNS uuid[] LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    named uuid[] := NULLIF(current_setting('app.run_ids', true), '')::uuid[];
BEGIN
    IF named IS NULL THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT r.id FROM campaigns.runs r
                  WHERE r.id = ANY (named)
                    AND (current_setting('app.role', true) IS DISTINCT FROM 'operator' OR campaigns.sees(r.campaign_id)));
END $$;

CREATE FUNCTION campaigns.scorings_in_view() RETURNS uuid[] LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    RETURN ARRAY(SELECT s.id FROM campaigns.scorings s WHERE s.run_id = ANY (campaigns.runs_in_view()));
END $$;

CREATE FUNCTION campaigns.sees_scoring(scoring uuid) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM campaigns.scorings s WHERE s.id = scoring);
END $$;

DO $$
DECLARE
    t text;
    f text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
    me text := '(SELECT NULLIF(current_setting(''app.user_id'', true), '''')::uuid)';
    whole text := '(SELECT current_setting(''app.reach'', true)) = ''all''';
    -- What belongs to a run is seen by whoever sees its campaign.
    of_run text := format('(org_id = %s AND %s) OR run_id = ANY ((SELECT campaigns.runs_in_view())::uuid[])
        OR campaigns.sees_run(run_id)', mine, whole);
    runs_it text := format('org_id = %s AND (%s OR campaigns.may_run(run_id, ''execute''))', mine, whole);
BEGIN
    FOREACH f IN ARRAY ARRAY['own_level(uuid)', 'may(uuid, text)', 'sees(uuid)', 'sees_run(uuid)',
                             'may_run(uuid, text)', 'runs_in_view()', 'scorings_in_view()', 'sees_scoring(uuid)'] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION campaigns.%s FROM PUBLIC', f);
        EXECUTE format('GRANT EXECUTE ON FUNCTION campaigns.%s TO chimera_app', f);
    END LOOP;

    -- The cheap and frequent comes first: what it takes to know one's teams and shares is only found
    -- out when a row hangs on it.
    DROP POLICY tenant ON campaigns.campaigns;
    EXECUTE format('CREATE POLICY seen ON campaigns.campaigns FOR SELECT TO chimera_app USING (
        (org_id = %s AND (visibility IN (''organisation'', ''public'') OR created_by = %s OR %s
                          OR (visibility = ''team'' AND team_id = ANY ((SELECT identity.own_teams())::uuid[]))
                          OR id = ANY ((SELECT campaigns.own_shares())::uuid[])))
        OR (visibility = ''public'' AND deleted_at IS NULL
            AND NULLIF(current_setting(''app.org_id'', true), '''') IS NOT NULL))', mine, me, whole);
    EXECUTE format('CREATE POLICY made ON campaigns.campaigns FOR INSERT TO chimera_app
        WITH CHECK (org_id = %s AND created_by = %s AND visibility <> ''public'')', mine, me);
    EXECUTE format('CREATE POLICY changed ON campaigns.campaigns FOR UPDATE TO chimera_app
        USING (org_id = %s AND campaigns.may(id, CASE WHEN deleted_at IS NULL THEN ''edit'' ELSE ''admin'' END))
        WITH CHECK (org_id = %s AND campaigns.may(id, CASE WHEN deleted_at IS NULL THEN ''edit'' ELSE ''admin'' END))',
        mine, mine);

    FOREACH t IN ARRAY ARRAY['runs', 'run_plans', 'run_money', 'shards', 'attempts', 'executions', 'flushes', 'tallies',
                             'model_tallies', 'overrides', 'scorings', 'verdicts', 'windows', 'turns', 'seats'] LOOP
        CONTINUE WHEN to_regclass('campaigns.' || t) IS NULL;
        EXECUTE format('ALTER POLICY tenant ON campaigns.%I TO chimera_worker', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['run_plans', 'run_money', 'shards', 'attempts', 'executions', 'flushes', 'tallies',
                             'model_tallies', 'overrides', 'scorings', 'turns', 'seats'] LOOP
        CONTINUE WHEN to_regclass('campaigns.' || t) IS NULL;
        EXECUTE format('CREATE POLICY seen ON campaigns.%I FOR SELECT TO chimera_app USING (%s)', t, of_run);
    END LOOP;
    EXECUTE format('CREATE POLICY seen ON campaigns.verdicts FOR SELECT TO chimera_app USING (
        (org_id = %s AND %s) OR scoring_id = ANY ((SELECT campaigns.scorings_in_view())::uuid[])
        OR campaigns.sees_scoring(scoring_id))', mine, whole);
    -- Of one's own organisation all campaigns may be asked about at once; of others one by one.
    FOREACH t IN ARRAY ARRAY['runs', 'windows'] LOOP
        EXECUTE format('CREATE POLICY seen ON campaigns.%I FOR SELECT TO chimera_app USING (
            CASE WHEN org_id = %s
                 THEN %s OR EXISTS (SELECT FROM campaigns.campaigns c WHERE c.id = %I.campaign_id AND c.org_id = %s)
                 ELSE campaigns.sees(campaign_id) END)', t, mine, whole, t, mine);
    END LOOP;

    -- Launching, and what is done to a run, takes the level execute; a person''s verdict takes edit.
    EXECUTE format('CREATE POLICY made ON campaigns.runs FOR INSERT TO chimera_app
        WITH CHECK (org_id = %s AND campaigns.may(campaign_id, ''execute''))', mine);
    EXECUTE format('CREATE POLICY changed ON campaigns.runs FOR UPDATE TO chimera_app
        USING (org_id = %s AND (%s OR campaigns.may(campaign_id, ''execute''))) WITH CHECK (org_id = %s)',
        mine, whole, mine);
    FOREACH t IN ARRAY ARRAY['run_plans', 'run_money', 'scorings', 'seats'] LOOP
        CONTINUE WHEN to_regclass('campaigns.' || t) IS NULL;
        EXECUTE format('CREATE POLICY made ON campaigns.%I FOR INSERT TO chimera_app WITH CHECK (%s)', t, runs_it);
    END LOOP;
    -- Made by the thousand, with their run.
    EXECUTE format('CREATE POLICY made ON campaigns.shards FOR INSERT TO chimera_app
        WITH CHECK (org_id = %s AND run_id = ANY ((SELECT campaigns.runs_in_view())::uuid[]))', mine);
    EXECUTE format('CREATE POLICY changed ON campaigns.run_money FOR UPDATE TO chimera_app
        USING (%s) WITH CHECK (org_id = %s)', runs_it, mine);
    EXECUTE format('CREATE POLICY made ON campaigns.overrides FOR INSERT TO chimera_app
        WITH CHECK (org_id = %s AND created_by = %s AND campaigns.may_run(run_id, ''edit''))', mine, me);
    EXECUTE format('CREATE POLICY changed ON campaigns.overrides FOR UPDATE TO chimera_app
        USING (org_id = %s AND campaigns.may_run(run_id, ''edit'')) WITH CHECK (org_id = %s)', mine, mine);

    DROP POLICY tenant ON campaigns.schedules;
    EXECUTE format('CREATE POLICY seen ON campaigns.schedules FOR SELECT TO chimera_app
        USING (org_id = %s AND (%s OR campaigns.sees(campaign_id)))', mine, whole);
    EXECUTE format('CREATE POLICY made ON campaigns.schedules FOR INSERT TO chimera_app
        WITH CHECK (org_id = %s AND campaigns.may(campaign_id, ''execute''))', mine);
    EXECUTE format('CREATE POLICY changed ON campaigns.schedules FOR UPDATE TO chimera_app
        USING (org_id = %s AND campaigns.may(campaign_id, ''execute'')) WITH CHECK (org_id = %s)', mine, mine);

    EXECUTE format('CREATE POLICY seen ON campaigns.shares FOR SELECT TO chimera_app
        USING (org_id = %s AND (%s OR campaigns.sees(campaign_id)))', mine, whole);
    EXECUTE format('CREATE POLICY made ON campaigns.shares FOR INSERT TO chimera_app
        WITH CHECK (org_id = %s AND shared_by = %s AND campaigns.may(campaign_id, ''admin''))', mine, me);
    EXECUTE format('CREATE POLICY changed ON campaigns.shares FOR UPDATE TO chimera_app
        USING (org_id = %s AND campaigns.may(campaign_id, ''admin''))
        WITH CHECK (org_id = %s AND shared_by = %s)', mine, mine, me);
    EXECUTE format('CREATE POLICY removed ON campaigns.shares FOR DELETE TO chimera_app
        USING (org_id = %s AND campaigns.may(campaign_id, ''admin''))', mine);
    EXECUTE format('CREATE POLICY seen ON campaigns.comments FOR SELECT TO chimera_app
        USING (org_id = %s AND (%s OR campaigns.sees(campaign_id)))', mine, whole);
    EXECUTE format('CREATE POLICY made ON campaigns.comments FOR INSERT TO chimera_app
        WITH CHECK (org_id = %s AND created_by = %s AND campaigns.may(campaign_id, ''comment''))', mine, me);
    EXECUTE format('CREATE POLICY changed ON campaigns.comments FOR UPDATE TO chimera_app
        USING (org_id = %s AND ((created_by = %s AND campaigns.sees(campaign_id)) OR campaigns.may(campaign_id, ''admin'')))
        WITH CHECK (org_id = %s)', mine, me, mine);
    -- Of whoever is erased.
    FOREACH t IN ARRAY ARRAY['shares', 'comments'] LOOP
        EXECUTE format('CREATE POLICY tenant ON campaigns.%I TO chimera_worker USING (org_id = %s)
            WITH CHECK (org_id = %s)', t, mine, mine);
    END LOOP;

    -- What a campaign made of a template is the campaign''s.
    DROP POLICY seen ON templates.usages;
    EXECUTE format('CREATE POLICY seen ON templates.usages FOR SELECT TO chimera_app
        USING (org_id = %s AND campaigns.sees(campaign_id))', mine);
    -- Whatever became of the template.
    EXECUTE format('CREATE POLICY own ON templates.ratings FOR SELECT TO chimera_app
        USING (org_id = %s AND user_id = %s)', mine, me);
END $$;
ALTER TABLE templates.usages ALTER COLUMN is_private SET DEFAULT false;
GRANT SELECT, INSERT, UPDATE, DELETE ON campaigns.shares TO chimera_app;
GRANT SELECT, INSERT ON campaigns.comments TO chimera_app;
GRANT UPDATE (text, edited_at, deleted_at) ON campaigns.comments TO chimera_app;
GRANT SELECT, DELETE ON campaigns.shares TO chimera_worker;
GRANT SELECT, UPDATE (text, deleted_at) ON campaigns.comments TO chimera_worker;

-- Those of the named campaigns of the caller's organisation that the caller sees.
CREATE OR REPLACE FUNCTION telemetry.visible_campaigns(asked uuid[]) RETURNS uuid[]
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(array_agg(id), '{}') FROM campaigns.campaigns
     WHERE id = ANY(asked) AND org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    $$;
RESET ROLE;

-- migrate:down
SET lock_timeout = '5s';
SET ROLE chimera_owner;
CREATE OR REPLACE FUNCTION telemetry.visible_campaigns(asked uuid[]) RETURNS uuid[]
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce(array_agg(id), '{}') FROM campaigns.campaigns WHERE id = ANY(asked) $$;
ALTER TABLE templates.usages ALTER COLUMN is_private DROP DEFAULT;
DROP TABLE campaigns.comments;
DO $$
DECLARE
    t text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
    me text := '(SELECT NULLIF(current_setting(''app.user_id'', true), '''')::uuid)';
BEGIN
    DROP POLICY own ON templates.ratings;
    DROP POLICY seen ON templates.usages;
    EXECUTE format('CREATE POLICY seen ON templates.usages FOR SELECT TO chimera_app
        USING (org_id = %s AND (NOT is_private OR used_by = %s))', mine, me);
    FOREACH t IN ARRAY ARRAY['runs', 'run_plans', 'run_money', 'shards', 'attempts', 'executions', 'flushes', 'tallies',
                             'model_tallies', 'overrides', 'scorings', 'verdicts', 'windows', 'turns', 'seats'] LOOP
        CONTINUE WHEN to_regclass('campaigns.' || t) IS NULL;
        EXECUTE format('DROP POLICY seen ON campaigns.%I', t);
        EXECUTE format('DROP POLICY IF EXISTS made ON campaigns.%I', t);
        EXECUTE format('DROP POLICY IF EXISTS changed ON campaigns.%I', t);
        EXECUTE format('ALTER POLICY tenant ON campaigns.%I TO chimera_app, chimera_worker', t);
    END LOOP;
    DROP POLICY seen ON campaigns.schedules;
    DROP POLICY made ON campaigns.schedules;
    DROP POLICY changed ON campaigns.schedules;
    EXECUTE format('CREATE POLICY tenant ON campaigns.schedules TO chimera_app
        USING (org_id = %s AND EXISTS (SELECT FROM campaigns.campaigns c WHERE c.id = schedules.campaign_id))
        WITH CHECK (org_id = %s)', mine, mine);
    DROP POLICY seen ON campaigns.campaigns;
    DROP POLICY made ON campaigns.campaigns;
    DROP POLICY changed ON campaigns.campaigns;
    EXECUTE format('CREATE POLICY tenant ON campaigns.campaigns TO chimera_app
        USING (org_id = %s AND (visibility <> ''private'' OR created_by = %s)) WITH CHECK (org_id = %s)', mine, me, mine);
END $$;
DROP TABLE campaigns.shares;
DROP FUNCTION campaigns.sees_scoring(uuid);
DROP FUNCTION campaigns.scorings_in_view();
DROP FUNCTION campaigns.runs_in_view();
DROP FUNCTION campaigns.may_run(uuid, text);
DROP FUNCTION campaigns.sees_run(uuid);
DROP FUNCTION campaigns.sees(uuid);
DROP FUNCTION campaigns.may(uuid, text);
DROP FUNCTION campaigns.own_level(uuid);
-- What was shared with a team or with everybody is its maker's again.
ALTER TABLE campaigns.campaigns NO FORCE ROW LEVEL SECURITY;
ALTER TABLE campaigns.campaigns DROP CONSTRAINT campaigns_team_given;
UPDATE campaigns.campaigns SET visibility = 'private' WHERE visibility IN ('team', 'public');
ALTER TABLE campaigns.campaigns FORCE ROW LEVEL SECURITY;
DROP INDEX campaigns.campaigns_public;
ALTER TABLE campaigns.campaigns
    DROP CONSTRAINT campaigns_visibility_check,
    ADD CONSTRAINT campaigns_visibility_check CHECK (visibility IN ('private', 'organisation')),
    DROP COLUMN team_id, DROP COLUMN labels;
GRANT CREATE ON SCHEMA identity TO chimera_lookup;
SET ROLE chimera_lookup;
DROP FUNCTION campaigns.own_shares();
CREATE OR REPLACE FUNCTION identity.own_teams() RETURNS uuid[]
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(array_agg(m.team_id), '{}')
      FROM identity.team_members m JOIN identity.teams t ON t.id = m.team_id
     WHERE m.org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
       AND m.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
       AND t.deleted_at IS NULL
    $$;
SET ROLE chimera_owner;
REVOKE CREATE ON SCHEMA identity FROM chimera_lookup;
REVOKE USAGE ON SCHEMA campaigns FROM chimera_lookup;
RESET ROLE;
