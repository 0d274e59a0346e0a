-- migrate:up
-- Plans: rows of datasets for runs, suites of techniques, runs that send cells of others again.
SET LOCAL lock_timeout = '5s';
SET ROLE chimera_owner;

-- What a run asks is seen by whoever may see the run, which the operations look up first; so the rows a
-- plan has pinned are read past the sharing of their dataset, and never past the organisation.
CREATE POLICY library_read ON templates.dataset_rows FOR SELECT TO chimera_library USING (true);
GRANT SELECT ON templates.dataset_rows TO chimera_library;
RESET ROLE;
CREATE FUNCTION templates.pinned_rows(dataset_id uuid, version_number int, row_nos int[])
    RETURNS TABLE (row_no int, fields json)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.row_no, r.fields FROM templates.dataset_rows r
     WHERE r.org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
       AND r.dataset_id = pinned_rows.dataset_id AND r.version_number = pinned_rows.version_number
       AND r.row_no = ANY (pinned_rows.row_nos)
    $$;
GRANT CREATE ON SCHEMA templates TO chimera_library;
ALTER FUNCTION templates.pinned_rows(uuid, int, int[]) OWNER TO chimera_library;
REVOKE CREATE ON SCHEMA templates FROM chimera_library;
REVOKE ALL ON FUNCTION templates.pinned_rows(uuid, int, int[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION templates.pinned_rows(uuid, int, int[]) TO chimera_app, chimera_worker;
SET ROLE chimera_owner;

CREATE TABLE campaigns.technique_suites (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    description text NOT NULL DEFAULT '',
    version_number int NOT NULL DEFAULT 0,
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    UNIQUE (org_id, id)
);
CREATE UNIQUE INDEX technique_suites_name ON campaigns.technique_suites (org_id, lower(name)) WHERE deleted_at IS NULL;
CREATE INDEX technique_suites_newest ON campaigns.technique_suites (org_id, id DESC);
CREATE TRIGGER touch BEFORE UPDATE ON campaigns.technique_suites FOR EACH ROW EXECUTE FUNCTION ops.touch();

-- Never changed.
CREATE TABLE campaigns.technique_suite_versions (
    org_id uuid NOT NULL,
    suite_id uuid NOT NULL,
    version_number int NOT NULL CHECK (version_number > 0),
    -- chimera.v1.BuiltInSuite with its chains alone.
    chains bytea NOT NULL,
    chain_count int NOT NULL CHECK (chain_count > 0),
    -- SHA-256 (hex) over names, steps and parameters as canonical JSON.
    content_hash text NOT NULL,
    change_note text NOT NULL DEFAULT '',
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (suite_id, version_number),
    FOREIGN KEY (org_id, suite_id) REFERENCES campaigns.technique_suites (org_id, id) ON DELETE RESTRICT
);

-- The runs that a run goes back to, newest first: it has their plan and their cell numbers, and sends the
-- cells that none of them scored.
ALTER TABLE campaigns.runs ADD COLUMN origins uuid[] NOT NULL DEFAULT '{}';
-- Of the cells a shard reaches over, those that are wanted; NULL: all of them.
ALTER TABLE campaigns.shards ADD COLUMN wanted bigint[];

DO $$
DECLARE
    t text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
BEGIN
    FOREACH t IN ARRAY ARRAY['technique_suites', 'technique_suite_versions'] LOOP
        EXECUTE format('ALTER TABLE campaigns.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE campaigns.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON campaigns.%I TO chimera_app USING (org_id = %s) WITH CHECK (org_id = %s)',
                       t, mine, mine);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE ON campaigns.technique_suites TO chimera_app;
GRANT SELECT, INSERT ON campaigns.technique_suite_versions TO chimera_app;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
ALTER TABLE campaigns.shards DROP COLUMN wanted;
ALTER TABLE campaigns.runs DROP COLUMN origins;
DROP TABLE campaigns.technique_suite_versions, campaigns.technique_suites;
RESET ROLE;
DROP FUNCTION templates.pinned_rows(uuid, int, int[]);
SET ROLE chimera_owner;
REVOKE SELECT ON templates.dataset_rows FROM chimera_library;
DROP POLICY library_read ON templates.dataset_rows;
RESET ROLE;
