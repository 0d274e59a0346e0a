-- migrate:up
-- The prompt library.
SET ROLE chimera_owner;
CREATE SCHEMA templates;
GRANT USAGE ON SCHEMA templates TO chimera_app, chimera_worker;

CREATE TABLE templates.templates (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    title text NOT NULL,
    description text NOT NULL DEFAULT '',
    technique_type text NOT NULL DEFAULT '',
    vulnerability_type text NOT NULL DEFAULT '',
    tags text[] NOT NULL DEFAULT '{}',
    state text NOT NULL DEFAULT 'draft' CHECK (state IN ('draft', 'review', 'published', 'archived')),
    sharing_level text NOT NULL DEFAULT 'organisation' CHECK (sharing_level IN ('private', 'organisation')),
    version_number int NOT NULL DEFAULT 1,
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    UNIQUE (org_id, id)
);
CREATE TRIGGER touch BEFORE UPDATE ON templates.templates FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TABLE templates.versions (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    template_id uuid NOT NULL,
    version_number int NOT NULL CHECK (version_number > 0),
    parent_version_number int,
    -- chimera.v1.PromptMessage and Variable lists as JSON, and the hash over both.
    messages jsonb NOT NULL,
    variables jsonb NOT NULL,
    content_hash text NOT NULL,
    change_note text NOT NULL DEFAULT '',
    created_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (org_id, template_id, version_number),
    FOREIGN KEY (org_id, template_id) REFERENCES templates.templates (org_id, id) ON DELETE RESTRICT,
    FOREIGN KEY (org_id, template_id, parent_version_number)
        REFERENCES templates.versions (org_id, template_id, version_number) ON DELETE RESTRICT
);

ALTER TABLE templates.templates ENABLE ROW LEVEL SECURITY;
ALTER TABLE templates.templates FORCE ROW LEVEL SECURITY;
ALTER TABLE templates.versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE templates.versions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON templates.templates TO chimera_app
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid)
           AND (sharing_level <> 'private'
                OR created_by = (SELECT NULLIF(current_setting('app.user_id', true), '')::uuid)))
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
-- A version is seen by whoever sees its template: the sub-select is under the policy above.
CREATE POLICY tenant ON templates.versions TO chimera_app
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid)
           AND EXISTS (SELECT FROM templates.templates t WHERE t.org_id = versions.org_id AND t.id = versions.template_id))
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
GRANT SELECT, INSERT, UPDATE ON templates.templates TO chimera_app;
GRANT SELECT, INSERT ON templates.versions TO chimera_app;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP SCHEMA templates CASCADE;
RESET ROLE;
