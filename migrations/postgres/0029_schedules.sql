-- migrate:up
-- Campaigns that are launched by themselves: once at a moment, or again and again.
SET ROLE chimera_owner;

CREATE TABLE campaigns.schedules (
    campaign_id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'done', 'stopped')),
    state_reason text NOT NULL DEFAULT '',
    start_at timestamptz,
    cron text,
    time_zone text,
    next_at timestamptz,
    scheduled_by uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    -- With whose scopes it was scheduled; NULL: from a session.
    api_key_id uuid,
    launch_count int NOT NULL DEFAULT 0,
    last_run_id uuid,
    last_launched_at timestamptz,
    -- The run whose end is still to be noticed.
    watched_run_id uuid,
    refused_at timestamptz,
    refusal_reason text NOT NULL DEFAULT '',
    refusal_message text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (org_id, campaign_id) REFERENCES campaigns.campaigns (org_id, id) ON DELETE RESTRICT,
    CHECK ((start_at IS NULL) = (cron IS NOT NULL)),
    CHECK ((cron IS NULL) = (time_zone IS NULL)),
    CHECK ((state = 'active') = (next_at IS NOT NULL))
);
CREATE INDEX schedules_due ON campaigns.schedules (next_at) WHERE state = 'active';
CREATE INDEX schedules_watched ON campaigns.schedules (watched_run_id) WHERE watched_run_id IS NOT NULL;
CREATE INDEX schedules_newest ON campaigns.schedules (org_id, campaign_id DESC);
CREATE TRIGGER touch BEFORE UPDATE ON campaigns.schedules FOR EACH ROW EXECUTE FUNCTION ops.touch();

ALTER TABLE campaigns.schedules ENABLE ROW LEVEL SECURITY;
ALTER TABLE campaigns.schedules FORCE ROW LEVEL SECURITY;
-- Whoever sees the campaign sees its schedule.
CREATE POLICY tenant ON campaigns.schedules TO chimera_app
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid)
           AND EXISTS (SELECT FROM campaigns.campaigns c WHERE c.id = schedules.campaign_id))
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
-- What is due is looked for over all organisations.
CREATE POLICY machinery ON campaigns.schedules TO chimera_worker USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON campaigns.schedules TO chimera_app;
GRANT SELECT, UPDATE ON campaigns.schedules TO chimera_worker;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP TABLE campaigns.schedules;
RESET ROLE;
