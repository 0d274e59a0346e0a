-- migrate:up
-- Calls counted by provider key, other ways out of a wait for a budget, circuits held for the whole
-- installation, and what upkeep may drop of all organisations when its time is over.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';
SET ROLE chimera_owner;

-- Calls of campaigns with each provider key, added up by whoever moves accounting.usage_mark.
CREATE TABLE providers.key_usage (
    provider_key_id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    requests bigint NOT NULL,
    last_used_at timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX key_usage_org ON providers.key_usage (org_id);
-- The owner sees rows only where no policy is forced on it.
ALTER TABLE accounting.usage_daily NO FORCE ROW LEVEL SECURITY;
INSERT INTO providers.key_usage (provider_key_id, org_id, requests, last_used_at)
SELECT provider_key_id, org_id, sum(requests), max(day)::timestamp AT TIME ZONE 'UTC'
  FROM accounting.usage_daily WHERE provider_key_id <> '00000000-0000-0000-0000-000000000000'
 GROUP BY provider_key_id, org_id;
ALTER TABLE accounting.usage_daily FORCE ROW LEVEL SECURITY;
-- It counted how often workers opened the key; from here on it counts calls outside of campaigns.
ALTER TABLE providers.provider_keys NO FORCE ROW LEVEL SECURITY;
UPDATE providers.provider_keys SET usage_count = 0 WHERE usage_count > 0;
ALTER TABLE providers.provider_keys FORCE ROW LEVEL SECURITY;

-- Models with other keys that the run's routes could go to meanwhile, and their keys, in one order.
ALTER TABLE accounting.waits
    ADD COLUMN other_models uuid[] NOT NULL DEFAULT '{}',
    ADD COLUMN other_keys uuid[] NOT NULL DEFAULT '{}';

-- What operators decided about a model for all organisations; '' when it was lifted.
CREATE TABLE providers.circuit_holds (
    model_id uuid PRIMARY KEY REFERENCES providers.models ON DELETE RESTRICT,
    forced text NOT NULL CHECK (forced IN ('', 'open', 'closed')),
    forced_by uuid NOT NULL,
    forced_reason text NOT NULL DEFAULT '',
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id()
);

-- What holds of a circuit that an organisation and the operators may both hold: open wins.
CREATE FUNCTION providers.held(own text, everywhere text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN 'open' IN (own, everywhere) THEN 'open'
                WHEN 'closed' IN (own, everywhere) THEN 'closed' ELSE '' END
    $$;

DO $$
DECLARE
    t text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
    operator text := '(SELECT current_setting(''app.role'', true)) = ''operator''';
BEGIN
    FOREACH t IN ARRAY ARRAY['providers.key_usage', 'providers.circuit_holds'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('GRANT SELECT ON %s TO chimera_app, chimera_worker', t);
    END LOOP;
    EXECUTE format('CREATE POLICY tenant ON providers.key_usage FOR SELECT TO chimera_app, chimera_worker
        USING (org_id = %s)', mine);
    CREATE POLICY readable ON providers.circuit_holds FOR SELECT TO chimera_app, chimera_worker USING (true);
    EXECUTE format('CREATE POLICY operator ON providers.circuit_holds TO chimera_app
        USING (%s) WITH CHECK (%s)', operator, operator);
END $$;
CREATE POLICY machinery ON providers.key_usage TO chimera_worker USING (true) WITH CHECK (true);
GRANT INSERT, UPDATE ON providers.key_usage TO chimera_worker;
GRANT INSERT, UPDATE ON providers.circuit_holds TO chimera_app;

-- Waking looks at the circuits of whoever waits.
CREATE POLICY machinery ON providers.circuits FOR SELECT TO chimera_worker USING (true);

-- Upkeep drops what is old of all organisations, and can drop nothing else.
CREATE POLICY upkeep ON accounting.windows FOR DELETE TO chimera_worker
    USING (window_start < (now() AT TIME ZONE 'UTC')::date - 120);
CREATE POLICY upkeep_look ON accounting.deliveries FOR SELECT TO chimera_worker
    USING (finished_at < now() - interval '30 days');
CREATE POLICY upkeep ON accounting.deliveries FOR DELETE TO chimera_worker
    USING (finished_at < now() - interval '30 days');
CREATE POLICY upkeep ON providers.circuits FOR DELETE TO chimera_worker
    USING (forced = '' AND GREATEST(changed_at, last_checked_at) < now() - interval '30 days');
GRANT DELETE ON accounting.windows, accounting.deliveries, providers.circuits TO chimera_worker;
CREATE INDEX windows_start ON accounting.windows USING brin (window_start);
CREATE INDEX deliveries_finished ON accounting.deliveries (finished_at) WHERE finished_at IS NOT NULL;
-- Tries are part of their delivery.
ALTER TABLE accounting.delivery_tries
    DROP CONSTRAINT delivery_tries_delivery_id_fkey,
    ADD CONSTRAINT delivery_tries_delivery_id_fkey FOREIGN KEY (delivery_id)
        REFERENCES accounting.deliveries ON DELETE CASCADE;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
ALTER TABLE accounting.delivery_tries
    DROP CONSTRAINT delivery_tries_delivery_id_fkey,
    ADD CONSTRAINT delivery_tries_delivery_id_fkey FOREIGN KEY (delivery_id)
        REFERENCES accounting.deliveries ON DELETE RESTRICT;
DROP INDEX accounting.deliveries_finished;
DROP INDEX accounting.windows_start;
REVOKE DELETE ON accounting.windows, accounting.deliveries, providers.circuits FROM chimera_worker;
DROP POLICY upkeep ON providers.circuits;
DROP POLICY upkeep ON accounting.deliveries;
DROP POLICY upkeep_look ON accounting.deliveries;
DROP POLICY upkeep ON accounting.windows;
DROP POLICY machinery ON providers.circuits;
DROP FUNCTION providers.held(text, text);
DROP TABLE providers.circuit_holds;
ALTER TABLE accounting.waits DROP COLUMN other_models, DROP COLUMN other_keys;
DROP TABLE providers.key_usage;
RESET ROLE;
