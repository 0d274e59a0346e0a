-- migrate:up
-- The prompt library: sharing, labels, review, ratings, usage, search, datasets of variables.
-- chimera_library owns what looks over the rows of everybody: the counters kept by triggers, and the
-- search, which applies organisation and sharing itself.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'chimera_library') THEN
        BEGIN
            CREATE ROLE chimera_library NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- another database of the cluster was migrated at the same moment
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'chimera_library', 'SET') THEN
        EXECUTE format('GRANT chimera_library TO %I', current_user);
    END IF;
END $$;
SET ROLE chimera_owner;
GRANT USAGE ON SCHEMA templates, identity TO chimera_library;

ALTER TABLE templates.templates
    DROP CONSTRAINT templates_sharing_level_check,
    ADD CONSTRAINT templates_sharing_level_check
        CHECK (sharing_level IN ('private', 'team', 'organisation', 'public')),
    ADD COLUMN team_id uuid,
    ADD CONSTRAINT templates_team_given CHECK ((sharing_level = 'team') = (team_id IS NOT NULL)),
    ADD FOREIGN KEY (org_id, team_id) REFERENCES identity.teams (org_id, id) ON DELETE RESTRICT,
    -- May lie in another organisation, which published it.
    ADD COLUMN forked_from_id uuid,
    ADD COLUMN forked_from_version_number int,
    -- Who asked for the review under way.
    ADD COLUMN submitted_by uuid REFERENCES identity.users ON DELETE RESTRICT,
    -- SHA-256 (hex) of the line it was imported from.
    ADD COLUMN import_hash text,
    -- Kept by triggers on ratings and usages; always equal to a recount.
    ADD COLUMN rating_count int NOT NULL DEFAULT 0,
    ADD COLUMN rating_sum bigint NOT NULL DEFAULT 0,
    ADD COLUMN effective_votes int NOT NULL DEFAULT 0,
    ADD COLUMN ineffective_votes int NOT NULL DEFAULT 0,
    ADD COLUMN average_rating double precision GENERATED ALWAYS AS (rating_sum::float8 / NULLIF(rating_count, 0)) STORED,
    ADD COLUMN usage_count int NOT NULL DEFAULT 0,
    ADD COLUMN scored_count bigint NOT NULL DEFAULT 0,
    ADD COLUMN success_count bigint NOT NULL DEFAULT 0,
    ADD COLUMN success_rate double precision GENERATED ALWAYS AS (success_count::float8 / NULLIF(scored_count, 0)) STORED,
    -- The texts of the newest version, for the search.
    ADD COLUMN body text NOT NULL DEFAULT '',
    ADD COLUMN search tsvector NOT NULL DEFAULT '';
CREATE UNIQUE INDEX templates_import ON templates.templates (org_id, created_by, import_hash) WHERE deleted_at IS NULL;
CREATE INDEX templates_newest ON templates.templates (org_id, id DESC);
CREATE INDEX templates_public ON templates.templates (id DESC) WHERE sharing_level = 'public';
CREATE INDEX templates_search ON templates.templates USING gin (search) WITH (fastupdate = off);

-- Who only counts ratings leaves the etag alone.
DROP TRIGGER touch ON templates.templates;
CREATE TRIGGER touch BEFORE UPDATE OF title, description, technique_type, vulnerability_type, tags, state,
        sharing_level, team_id, submitted_by, version_number, deleted_at, metadata
    ON templates.templates FOR EACH ROW EXECUTE FUNCTION ops.touch();

-- A key is a lexeme no text can produce (it begins with a control character). Keys make every filter
-- and the audience part of one index, so that a conjunction reads only what it needs.
CREATE FUNCTION templates.key(kind text, value text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT chr(1) || kind || md5(value) $$;

CREATE FUNCTION templates.index_text() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keys text[];
BEGIN
    IF NEW.deleted_at IS NOT NULL THEN
        NEW.search := '';
        RETURN NEW;
    END IF;
    keys := ARRAY[
        templates.key('s', NEW.state), templates.key('k', NEW.technique_type),
        templates.key('v', NEW.vulnerability_type), templates.key('l', NEW.sharing_level),
        templates.key('u', NEW.created_by::text)];
    IF NEW.sharing_level IN ('organisation', 'public') THEN
        keys := keys || templates.key('o', NEW.org_id::text);
    ELSIF NEW.sharing_level = 'team' THEN
        keys := keys || templates.key('t', NEW.team_id::text);
    END IF;
    IF NEW.sharing_level = 'public' AND NEW.state = 'published' THEN
        keys := keys || templates.key('p', '');
    END IF;
    keys := keys || ARRAY(SELECT templates.key('#', tag) FROM unnest(NEW.tags) AS tag);
    -- A tsvector ends at 1 MB and 16,383 positions; what a text says is in its first 50,000 characters.
    NEW.search := setweight(to_tsvector('english', NEW.title), 'A')
        || setweight(to_tsvector('english', array_to_string(NEW.tags, ' ')), 'B')
        || setweight(to_tsvector('english', NEW.description), 'C')
        || setweight(to_tsvector('english', left(NEW.body, 50000)), 'D')
        || array_to_tsvector(keys);
    RETURN NEW;
END $$;
CREATE TRIGGER index_text BEFORE INSERT OR UPDATE OF title, description, tags, body, state, technique_type,
        vulnerability_type, sharing_level, team_id, deleted_at
    ON templates.templates FOR EACH ROW EXECUTE FUNCTION templates.index_text();

ALTER TABLE templates.versions
    -- chimera.v1.Partial list as JSON; part of the content hash where there are any.
    ADD COLUMN partials jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN rating_count int NOT NULL DEFAULT 0,
    ADD COLUMN rating_sum bigint NOT NULL DEFAULT 0,
    ADD COLUMN effective_votes int NOT NULL DEFAULT 0,
    ADD COLUMN ineffective_votes int NOT NULL DEFAULT 0,
    ADD COLUMN average_rating double precision GENERATED ALWAYS AS (rating_sum::float8 / NULLIF(rating_count, 0)) STORED,
    ADD COLUMN scored_count bigint NOT NULL DEFAULT 0,
    ADD COLUMN success_count bigint NOT NULL DEFAULT 0,
    ADD COLUMN success_rate double precision GENERATED ALWAYS AS (success_count::float8 / NULLIF(scored_count, 0)) STORED,
    ADD UNIQUE (template_id, version_number);

CREATE TABLE templates.labels (
    org_id uuid NOT NULL,
    template_id uuid NOT NULL,
    name text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_-]{0,63}$' AND name <> 'latest'),
    version_number int NOT NULL,
    moved_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    moved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (template_id, name),
    FOREIGN KEY (org_id, template_id, version_number)
        REFERENCES templates.versions (org_id, template_id, version_number) ON DELETE RESTRICT
);

-- Every move, for ever. 0 is nowhere: before the first move, and after the label was taken away.
CREATE TABLE templates.label_moves (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    template_id uuid NOT NULL REFERENCES templates.templates ON DELETE RESTRICT,
    name text NOT NULL,
    from_version_number int NOT NULL,
    to_version_number int NOT NULL,
    note text NOT NULL DEFAULT '',
    moved_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    moved_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX label_moves_template ON templates.label_moves (template_id, id DESC);

CREATE TABLE templates.shares (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    template_id uuid NOT NULL,
    user_id uuid,
    team_id uuid,
    permission text NOT NULL CHECK (permission IN ('view', 'edit', 'admin')),
    expires_at timestamptz,
    shared_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((user_id IS NULL) <> (team_id IS NULL)),
    UNIQUE NULLS NOT DISTINCT (template_id, user_id, team_id),
    FOREIGN KEY (org_id, template_id) REFERENCES templates.templates (org_id, id) ON DELETE RESTRICT,
    FOREIGN KEY (org_id, user_id) REFERENCES identity.memberships (org_id, user_id) ON DELETE CASCADE,
    FOREIGN KEY (org_id, team_id) REFERENCES identity.teams (org_id, id) ON DELETE RESTRICT
);
CREATE INDEX shares_user ON templates.shares (org_id, user_id) WHERE user_id IS NOT NULL;
CREATE INDEX shares_team ON templates.shares (org_id, team_id) WHERE team_id IS NOT NULL;

-- What an organisation asks before something is published.
CREATE TABLE templates.review_rules (
    org_id uuid PRIMARY KEY REFERENCES identity.organisations ON DELETE RESTRICT,
    review_required boolean NOT NULL,
    other_reviewer_required boolean NOT NULL,
    updated_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER touch BEFORE UPDATE ON templates.review_rules FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TABLE templates.ratings (
    -- Of the rater, which for a public template need not be the template's.
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    template_id uuid NOT NULL,
    version_number int NOT NULL,
    user_id uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    id uuid NOT NULL UNIQUE,
    owner_org_id uuid NOT NULL,
    rating smallint NOT NULL CHECK (rating BETWEEN 1 AND 5),
    is_effective boolean,
    review text NOT NULL DEFAULT '',
    campaign_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (template_id, version_number, user_id),
    FOREIGN KEY (template_id, version_number) REFERENCES templates.versions (template_id, version_number) ON DELETE RESTRICT
);
CREATE INDEX ratings_template ON templates.ratings (template_id, id DESC);
CREATE TRIGGER touch BEFORE UPDATE ON templates.ratings FOR EACH ROW EXECUTE FUNCTION ops.touch();

-- One row a run and version: what a campaign made of it.
CREATE TABLE templates.usages (
    run_id uuid NOT NULL,
    template_id uuid NOT NULL,
    version_number int NOT NULL,
    id uuid NOT NULL UNIQUE,
    org_id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    used_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    -- The campaign is private: so is what it did.
    is_private boolean NOT NULL,
    original_prompt text NOT NULL,
    -- Rows, techniques, and the first row of values with the secret ones masked.
    customizations jsonb NOT NULL DEFAULT '{}',
    scored_count bigint NOT NULL DEFAULT 0,
    success_count bigint NOT NULL DEFAULT 0,
    success_score double precision,
    used_at timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz,
    PRIMARY KEY (run_id, template_id, version_number),
    FOREIGN KEY (template_id, version_number) REFERENCES templates.versions (template_id, version_number) ON DELETE RESTRICT
);
CREATE INDEX usages_template ON templates.usages (template_id, id DESC);

-- Datasets: rows of values to fill templates with. A version is never changed.
CREATE TABLE templates.datasets (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    description text NOT NULL DEFAULT '',
    sharing_level text NOT NULL DEFAULT 'organisation' CHECK (sharing_level IN ('private', 'organisation')),
    -- 0 until rows were imported.
    version_number int NOT NULL DEFAULT 0,
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    UNIQUE (org_id, id)
);
CREATE UNIQUE INDEX datasets_name ON templates.datasets (org_id, lower(name)) WHERE deleted_at IS NULL;
CREATE INDEX datasets_newest ON templates.datasets (org_id, id DESC);
CREATE TRIGGER touch BEFORE UPDATE ON templates.datasets FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TABLE templates.dataset_versions (
    org_id uuid NOT NULL,
    dataset_id uuid NOT NULL,
    version_number int NOT NULL CHECK (version_number > 0),
    columns text[] NOT NULL,
    row_count bigint NOT NULL,
    -- SHA-256 (hex) over the columns and the rows as JSON lines.
    content_hash text NOT NULL,
    change_note text NOT NULL DEFAULT '',
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset_id, version_number),
    FOREIGN KEY (org_id, dataset_id) REFERENCES templates.datasets (org_id, id) ON DELETE RESTRICT
);

CREATE TABLE templates.dataset_rows (
    org_id uuid NOT NULL,
    dataset_id uuid NOT NULL,
    version_number int NOT NULL,
    row_no int NOT NULL CHECK (row_no > 0),
    -- json and not jsonb: numbers and the order of names stay as they were given.
    fields json NOT NULL,
    PRIMARY KEY (dataset_id, version_number, row_no),
    FOREIGN KEY (dataset_id, version_number) REFERENCES templates.dataset_versions (dataset_id, version_number)
        ON DELETE RESTRICT
);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['labels', 'label_moves', 'shares', 'review_rules', 'ratings', 'usages', 'datasets',
                             'dataset_versions', 'dataset_rows'] LOOP
        EXECUTE format('ALTER TABLE templates.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE templates.%I FORCE ROW LEVEL SECURITY', t);
    END LOOP;
END $$;
RESET ROLE;

-- The templates that were shared with the caller, or with a team of the caller's, with one of these
-- permissions and not until a moment that has passed. Row policies ask it once a statement.
CREATE FUNCTION templates.own_shares(permissions text[]) RETURNS uuid[]
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(s.template_id), '{}')
      FROM templates.shares s
     WHERE s.org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
       AND (s.user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
            OR s.team_id = ANY ((SELECT identity.own_teams())::uuid[]))
       AND s.permission = ANY (permissions)
       AND (s.expires_at IS NULL OR s.expires_at > now())
    $$;

-- The counters of a template and its version follow its ratings, whoever rates.
CREATE FUNCTION templates.count_rating() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    it templates.ratings := COALESCE(NEW, OLD);
    number int := (TG_OP <> 'DELETE')::int - (TG_OP <> 'INSERT')::int;
    points int := COALESCE(NEW.rating, 0) - COALESCE(OLD.rating, 0);
    yes int := COALESCE(NEW.is_effective::int, 0) - COALESCE(OLD.is_effective::int, 0);
    no int := COALESCE((NOT NEW.is_effective)::int, 0) - COALESCE((NOT OLD.is_effective)::int, 0);
BEGIN
    UPDATE templates.templates t
       SET rating_count = t.rating_count + number, rating_sum = t.rating_sum + points,
           effective_votes = t.effective_votes + yes, ineffective_votes = t.ineffective_votes + no
     WHERE t.id = it.template_id;
    UPDATE templates.versions v
       SET rating_count = v.rating_count + number, rating_sum = v.rating_sum + points,
           effective_votes = v.effective_votes + yes, ineffective_votes = v.ineffective_votes + no
     WHERE v.template_id = it.template_id AND v.version_number = it.version_number;
    RETURN NULL;
END $$;

CREATE FUNCTION templates.count_usage() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    scored bigint := NEW.scored_count - COALESCE(OLD.scored_count, 0);
    successes bigint := NEW.success_count - COALESCE(OLD.success_count, 0);
BEGIN
    UPDATE templates.templates t
       SET usage_count = t.usage_count + (TG_OP = 'INSERT')::int,
           scored_count = t.scored_count + scored, success_count = t.success_count + successes
     WHERE t.id = NEW.template_id;
    UPDATE templates.versions v
       SET scored_count = v.scored_count + scored, success_count = v.success_count + successes
     WHERE v.template_id = NEW.template_id AND v.version_number = NEW.version_number;
    RETURN NULL;
END $$;

-- One search: a page of ids with ranks, how many there are, and facets over them.
--
-- words: a websearch query (phrases, OR, -not). prefixes: words that match by their beginning; those
-- that begin with - exclude. keys: templates.key() of the filters, all of which must hold. Of a broad
-- query the first `bound` matches found are ranked and counted; without words the newest. The page
-- begins after (after_rank, after_id). Organisation and sharing are applied by index, then exactly.
-- Matches stand between chr(2) and chr(3).
CREATE FUNCTION templates.search(words text, prefixes text[], keys text[], after_rank double precision, after_id uuid,
                                 page int, bound int, with_facets boolean)
    RETURNS TABLE (total int, ids uuid[], ranks double precision[], titles text[], snippets text[], facets jsonb)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_custom_plan SET work_mem = '32MB' SET jit = off AS $$
DECLARE
    org uuid := NULLIF(current_setting('app.org_id', true), '')::uuid;
    me uuid := NULLIF(current_setting('app.user_id', true), '')::uuid;
    teams uuid[] := identity.own_teams();
    shared uuid[] := templates.own_shares(ARRAY['view', 'edit', 'admin']);
    said tsquery := websearch_to_tsquery('english', words);
    asked tsquery;
    audience tsquery;
    part text;
    beginning tsquery;
    marks text := 'StartSel=' || chr(2) || ', StopSel=' || chr(3);
BEGIN
    IF org IS NULL THEN
        RETURN;
    END IF;
    FOREACH part IN ARRAY prefixes LOOP
        -- Stems are looked for as well as what was typed: a stem may be shorter than its beginning.
        beginning := to_tsquery('simple', '''' || ltrim(part, '-') || ''':*')
                     || to_tsquery('english', '''' || ltrim(part, '-') || ''':*');
        said := said && CASE WHEN starts_with(part, '-') THEN !! beginning ELSE beginning END;
    END LOOP;
    asked := said;
    FOREACH part IN ARRAY keys LOOP
        asked := asked && quote_literal(part)::tsquery;
    END LOOP;
    audience := quote_literal(templates.key('o', org::text))::tsquery || quote_literal(templates.key('p', ''))::tsquery
                || quote_literal(templates.key('u', COALESCE(me::text, '')))::tsquery;
    FOREACH part IN ARRAY teams::text[] LOOP
        audience := audience || quote_literal(templates.key('t', part))::tsquery;
    END LOOP;
    RETURN QUERY
    WITH near AS MATERIALIZED (
        SELECT t.id, t.state, t.technique_type, t.vulnerability_type, t.sharing_level, t.tags,
               ts_rank('{0.1, 0.2, 0.4, 1.0}', t.search, said, 1)::float8 AS rank
          FROM templates.templates t
         WHERE numnode(said) > 0 AND t.search @@ (audience && asked)
           AND ((t.org_id = org
                 AND (t.created_by = me OR t.sharing_level IN ('organisation', 'public')
                      OR (t.sharing_level = 'team' AND t.team_id = ANY (teams))))
                OR (t.sharing_level = 'public' AND t.state = 'published'))
         LIMIT bound + 1
    ), newest AS MATERIALIZED (
        SELECT t.id, t.state, t.technique_type, t.vulnerability_type, t.sharing_level, t.tags, 0::float8 AS rank
          FROM templates.templates t
         WHERE numnode(said) = 0 AND t.search @@ (audience && asked)
           AND ((t.org_id = org
                 AND (t.created_by = me OR t.sharing_level IN ('organisation', 'public')
                      OR (t.sharing_level = 'team' AND t.team_id = ANY (teams))))
                OR (t.sharing_level = 'public' AND t.state = 'published'))
         ORDER BY t.id DESC LIMIT bound + 1
    ), handed AS MATERIALIZED (
        SELECT t.id, t.state, t.technique_type, t.vulnerability_type, t.sharing_level, t.tags,
               CASE WHEN numnode(said) > 0 THEN ts_rank('{0.1, 0.2, 0.4, 1.0}', t.search, said, 1)::float8
                    ELSE 0 END AS rank
          FROM templates.templates t
         WHERE t.id = ANY (shared) AND t.org_id = org AND t.deleted_at IS NULL
           AND (numnode(asked) = 0 OR t.search @@ asked)
         LIMIT bound + 1
    ), found AS MATERIALIZED (
        (SELECT * FROM near UNION ALL SELECT * FROM newest
         UNION ALL
         SELECT h.* FROM handed h
          WHERE NOT EXISTS (SELECT FROM near n WHERE n.id = h.id)
            AND NOT EXISTS (SELECT FROM newest n WHERE n.id = h.id))
        LIMIT bound + 1
    ), paged AS (
        SELECT f.id, f.rank FROM found f
         WHERE after_id IS NULL OR (f.rank, f.id) < (after_rank, after_id)
         ORDER BY f.rank DESC, f.id DESC
         LIMIT page
    ), shown AS (
        SELECT p.id, p.rank, translate(t.title, chr(2) || chr(3), '') AS title,
               translate(t.description || E'\n' || left(t.body, 20000), chr(2) || chr(3), '') AS content
          FROM paged p JOIN templates.templates t ON t.id = p.id
    )
    SELECT (SELECT count(*)::int FROM found),
           COALESCE(array_agg(s.id ORDER BY s.rank DESC, s.id DESC), '{}'),
           COALESCE(array_agg(s.rank ORDER BY s.rank DESC, s.id DESC), '{}'),
           COALESCE(array_agg(CASE WHEN numnode(said) > 0
                                   THEN ts_headline('english', s.title, said, marks || ', HighlightAll=true')
                                   ELSE s.title END ORDER BY s.rank DESC, s.id DESC), '{}'),
           COALESCE(array_agg(CASE WHEN numnode(said) > 0
                                   THEN ts_headline('english', s.content, said,
                                                    marks || ', MaxFragments=2, MinWords=5, MaxWords=20')
                                   ELSE left(s.content, 200) END ORDER BY s.rank DESC, s.id DESC), '{}'),
           CASE WHEN with_facets THEN (
               SELECT jsonb_build_object(
                   'state', (SELECT jsonb_object_agg(x.v, x.n) FROM
                       (SELECT f.state AS v, count(*) AS n FROM found f GROUP BY 1) x),
                   'sharing_level', (SELECT jsonb_object_agg(x.v, x.n) FROM
                       (SELECT f.sharing_level AS v, count(*) AS n FROM found f GROUP BY 1) x),
                   'technique_type', (SELECT jsonb_object_agg(x.v, x.n) FROM
                       (SELECT f.technique_type AS v, count(*) AS n FROM found f GROUP BY 1
                         ORDER BY 2 DESC, 1 LIMIT 50) x),
                   'vulnerability_type', (SELECT jsonb_object_agg(x.v, x.n) FROM
                       (SELECT f.vulnerability_type AS v, count(*) AS n FROM found f GROUP BY 1
                         ORDER BY 2 DESC, 1 LIMIT 50) x),
                   'tag', (SELECT jsonb_object_agg(x.v, x.n) FROM
                       (SELECT u.tag AS v, count(*) AS n FROM found f CROSS JOIN unnest(f.tags) AS u (tag) GROUP BY 1
                         ORDER BY 2 DESC, 1 LIMIT 50) x))
           ) END
      FROM shown s;
END $$;

GRANT CREATE ON SCHEMA templates TO chimera_library;
ALTER FUNCTION templates.own_shares(text[]) OWNER TO chimera_library;
ALTER FUNCTION templates.count_rating() OWNER TO chimera_library;
ALTER FUNCTION templates.count_usage() OWNER TO chimera_library;
ALTER FUNCTION templates.search(text, text[], text[], double precision, uuid, int, int, boolean) OWNER TO chimera_library;
REVOKE CREATE ON SCHEMA templates FROM chimera_library;
REVOKE ALL ON FUNCTION templates.own_shares(text[]), templates.count_rating(), templates.count_usage(),
    templates.search(text, text[], text[], double precision, uuid, int, int, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION templates.own_shares(text[]) TO chimera_app, chimera_worker;
GRANT EXECUTE ON FUNCTION templates.search(text, text[], text[], double precision, uuid, int, int, boolean) TO chimera_app;
GRANT EXECUTE ON FUNCTION identity.own_teams() TO chimera_library;

CREATE TRIGGER count_rating AFTER INSERT OR UPDATE OR DELETE ON templates.ratings
    FOR EACH ROW EXECUTE FUNCTION templates.count_rating();
CREATE TRIGGER count_usage AFTER INSERT OR UPDATE ON templates.usages
    FOR EACH ROW EXECUTE FUNCTION templates.count_usage();

SET ROLE chimera_owner;
-- The templates that were there before, and the texts of their newest versions.
ALTER TABLE templates.templates NO FORCE ROW LEVEL SECURITY;
ALTER TABLE templates.versions NO FORCE ROW LEVEL SECURITY;
UPDATE templates.templates t
   SET body = (SELECT COALESCE(string_agg(m.message->>'text', E'\n' ORDER BY m.place), '')
                 FROM templates.versions v
                CROSS JOIN jsonb_array_elements(v.messages) WITH ORDINALITY AS m (message, place)
                WHERE v.org_id = t.org_id AND v.template_id = t.id AND v.version_number = t.version_number);
ALTER TABLE templates.templates FORCE ROW LEVEL SECURITY;
ALTER TABLE templates.versions FORCE ROW LEVEL SECURITY;

DROP POLICY tenant ON templates.templates;
DROP POLICY tenant ON templates.versions;
DO $$
DECLARE
    t text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
    me text := '(SELECT NULLIF(current_setting(''app.user_id'', true), '''')::uuid)';
    teams text := '((SELECT identity.own_teams())::uuid[])';
    -- Whoever may write at all may change what the whole organisation or a team of theirs sees.
    common text := format('created_by = %s OR sharing_level IN (''organisation'', ''public'')
        OR (sharing_level = ''team'' AND team_id = ANY (%s))', me, teams);
    shown text := 'EXISTS (SELECT FROM templates.templates t WHERE t.id = %I.template_id)';
BEGIN
    EXECUTE format('CREATE POLICY seen ON templates.templates FOR SELECT TO chimera_app USING (
        (org_id = %s AND (%s OR id = ANY ((SELECT templates.own_shares(''{view,edit,admin}''))::uuid[])))
        OR (sharing_level = ''public'' AND state = ''published'' AND deleted_at IS NULL AND %s IS NOT NULL))',
        mine, common, mine);
    EXECUTE format('CREATE POLICY made ON templates.templates FOR INSERT TO chimera_app
        WITH CHECK (org_id = %s AND created_by = %s)', mine, me);
    EXECUTE format('CREATE POLICY changed ON templates.templates FOR UPDATE TO chimera_app
        USING (org_id = %s AND (%s OR id = ANY ((SELECT templates.own_shares(''{edit,admin}''))::uuid[])))
        WITH CHECK (org_id = %s)', mine, common, mine);

    -- What belongs to a template is seen by whoever sees it: the sub-select is under its policies.
    FOREACH t IN ARRAY ARRAY['versions', 'labels', 'label_moves'] LOOP
        EXECUTE format('CREATE POLICY seen ON templates.%I FOR SELECT TO chimera_app USING (%s)', t, format(shown, t));
        EXECUTE format('CREATE POLICY made ON templates.%I FOR INSERT TO chimera_app WITH CHECK (org_id = %s AND %s)',
                       t, mine, format(shown, t));
    END LOOP;
    EXECUTE format('CREATE POLICY changed ON templates.labels FOR UPDATE TO chimera_app USING (org_id = %s AND %s)
        WITH CHECK (org_id = %s)', mine, format(shown, 'labels'), mine);
    EXECUTE format('CREATE POLICY removed ON templates.labels FOR DELETE TO chimera_app USING (org_id = %s AND %s)',
                   mine, format(shown, 'labels'));
    EXECUTE format('CREATE POLICY tenant ON templates.shares TO chimera_app USING (org_id = %s AND %s)
        WITH CHECK (org_id = %s)', mine, format(shown, 'shares'), mine);
    EXECUTE format('CREATE POLICY tenant ON templates.review_rules TO chimera_app USING (org_id = %s)
        WITH CHECK (org_id = %s)', mine, mine);
    -- One's own organisation's ratings, and those others gave to its templates. One changes one's own.
    EXECUTE format('CREATE POLICY seen ON templates.ratings FOR SELECT TO chimera_app
        USING ((org_id = %s OR owner_org_id = %s) AND %s)', mine, mine, format(shown, 'ratings'));
    EXECUTE format('CREATE POLICY made ON templates.ratings FOR INSERT TO chimera_app
        WITH CHECK (org_id = %s AND user_id = %s AND %s)', mine, me, format(shown, 'ratings'));
    EXECUTE format('CREATE POLICY changed ON templates.ratings FOR UPDATE TO chimera_app
        USING (org_id = %s AND user_id = %s) WITH CHECK (org_id = %s AND user_id = %s)', mine, me, mine, me);
    EXECUTE format('CREATE POLICY removed ON templates.ratings FOR DELETE TO chimera_app
        USING (org_id = %s AND user_id = %s)', mine, me);
    EXECUTE format('CREATE POLICY seen ON templates.usages FOR SELECT TO chimera_app
        USING (org_id = %s AND (NOT is_private OR used_by = %s))', mine, me);
    EXECUTE format('CREATE POLICY made ON templates.usages FOR INSERT TO chimera_app
        WITH CHECK (org_id = %s AND used_by = %s)', mine, me);
    EXECUTE format('CREATE POLICY tenant ON templates.usages TO chimera_worker USING (org_id = %s)
        WITH CHECK (org_id = %s)', mine, mine);
    EXECUTE format('CREATE POLICY tenant ON templates.datasets TO chimera_app
        USING (org_id = %s AND (sharing_level = ''organisation'' OR created_by = %s)) WITH CHECK (org_id = %s)',
        mine, me, mine);
    FOREACH t IN ARRAY ARRAY['dataset_versions', 'dataset_rows'] LOOP
        EXECUTE format('CREATE POLICY tenant ON templates.%I TO chimera_app
            USING (org_id = %s AND EXISTS (SELECT FROM templates.datasets d WHERE d.id = %I.dataset_id))
            WITH CHECK (org_id = %s)', t, mine, t, mine);
    END LOOP;

    FOREACH t IN ARRAY ARRAY['templates', 'versions', 'shares'] LOOP
        EXECUTE format('CREATE POLICY library_read ON templates.%I FOR SELECT TO chimera_library USING (true)', t);
        EXECUTE format('GRANT SELECT ON templates.%I TO chimera_library', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['templates', 'versions'] LOOP
        EXECUTE format('CREATE POLICY library_count ON templates.%I FOR UPDATE TO chimera_library USING (true)', t);
        EXECUTE format('GRANT UPDATE (rating_count, rating_sum, effective_votes, ineffective_votes, scored_count,
            success_count) ON templates.%I TO chimera_library', t);
    END LOOP;
END $$;
GRANT UPDATE (usage_count) ON templates.templates TO chimera_library;
GRANT SELECT, INSERT ON templates.label_moves, templates.dataset_versions, templates.dataset_rows, templates.usages
    TO chimera_app;
GRANT SELECT, INSERT, UPDATE ON templates.review_rules, templates.datasets TO chimera_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON templates.labels, templates.shares, templates.ratings TO chimera_app;
GRANT SELECT ON templates.usages TO chimera_worker;
GRANT UPDATE (scored_count, success_count, success_score, settled_at) ON templates.usages TO chimera_worker;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP TABLE templates.dataset_rows, templates.dataset_versions, templates.datasets, templates.usages, templates.ratings,
    templates.review_rules, templates.shares, templates.label_moves, templates.labels;
DROP POLICY seen ON templates.versions;
DROP POLICY made ON templates.versions;
DROP POLICY library_read ON templates.versions;
DROP POLICY library_count ON templates.versions;
DROP POLICY seen ON templates.templates;
DROP POLICY made ON templates.templates;
DROP POLICY changed ON templates.templates;
DROP POLICY library_read ON templates.templates;
DROP POLICY library_count ON templates.templates;
DROP TRIGGER index_text ON templates.templates;
DROP FUNCTION templates.index_text();
ALTER TABLE templates.versions
    DROP COLUMN partials, DROP COLUMN average_rating, DROP COLUMN rating_count, DROP COLUMN rating_sum,
    DROP COLUMN effective_votes, DROP COLUMN ineffective_votes, DROP COLUMN success_rate,
    DROP COLUMN scored_count, DROP COLUMN success_count,
    DROP CONSTRAINT versions_template_id_version_number_key;
-- The old trigger and policies; then what was shared with a team or with everybody is its creator's again.
DROP TRIGGER touch ON templates.templates;
CREATE TRIGGER touch BEFORE UPDATE ON templates.templates FOR EACH ROW EXECUTE FUNCTION ops.touch();
ALTER TABLE templates.templates NO FORCE ROW LEVEL SECURITY;
ALTER TABLE templates.templates DROP CONSTRAINT templates_team_given;
UPDATE templates.templates SET sharing_level = 'private' WHERE sharing_level IN ('team', 'public');
ALTER TABLE templates.templates FORCE ROW LEVEL SECURITY;
ALTER TABLE templates.templates
    DROP CONSTRAINT templates_sharing_level_check,
    ADD CONSTRAINT templates_sharing_level_check CHECK (sharing_level IN ('private', 'organisation')),
    DROP COLUMN team_id, DROP COLUMN forked_from_id, DROP COLUMN forked_from_version_number,
    DROP COLUMN submitted_by, DROP COLUMN import_hash, DROP COLUMN average_rating, DROP COLUMN rating_count,
    DROP COLUMN rating_sum, DROP COLUMN effective_votes, DROP COLUMN ineffective_votes, DROP COLUMN success_rate,
    DROP COLUMN usage_count, DROP COLUMN scored_count, DROP COLUMN success_count, DROP COLUMN body, DROP COLUMN search;
DROP INDEX templates.templates_newest;
DROP INDEX IF EXISTS templates.templates_public;
CREATE POLICY tenant ON templates.templates TO chimera_app
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid)
           AND (sharing_level <> 'private'
                OR created_by = (SELECT NULLIF(current_setting('app.user_id', true), '')::uuid)))
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
CREATE POLICY tenant ON templates.versions TO chimera_app
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid)
           AND EXISTS (SELECT FROM templates.templates t WHERE t.org_id = versions.org_id AND t.id = versions.template_id))
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
RESET ROLE;
REVOKE ALL ON FUNCTION identity.own_teams() FROM chimera_library;
DROP FUNCTION templates.search(text, text[], text[], double precision, uuid, int, int, boolean);
DROP FUNCTION templates.count_usage();
DROP FUNCTION templates.count_rating();
DROP FUNCTION templates.own_shares(text[]);
DROP FUNCTION templates.key(text, text);
SET ROLE chimera_owner;
REVOKE ALL ON ALL TABLES IN SCHEMA templates FROM chimera_library;
REVOKE USAGE ON SCHEMA templates, identity FROM chimera_library;
RESET ROLE;
