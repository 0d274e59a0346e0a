-- migrate:up
-- The registry complete (capabilities, availability, aliases, prices with intervals), user keys that
-- can be replaced and are due for rotation, and the versions of the master key with their rotations.
SET ROLE chimera_owner;

-- Closed by the application: how to speak to a custom provider, defaults of requests, plain headers.
ALTER TABLE providers.providers
    ADD COLUMN source text NOT NULL DEFAULT '',
    ADD CONSTRAINT providers_default_config CHECK (jsonb_typeof(default_config) = 'object');

ALTER TABLE providers.models
    ADD COLUMN capabilities text[] NOT NULL DEFAULT '{}'
        CHECK (capabilities <@ ARRAY['chat', 'streaming', 'embeddings', 'vision', 'audio', 'reasoning',
                                     'json_mode', 'structured_output', 'tools', 'prompt_caching']),
    ADD COLUMN available_from timestamptz,
    ADD COLUMN available_until timestamptz,
    ADD COLUMN deprecated_at timestamptz,
    ADD COLUMN replaced_by uuid REFERENCES providers.models ON DELETE RESTRICT,
    ADD COLUMN source text NOT NULL DEFAULT '',
    ADD CONSTRAINT models_window CHECK (available_from < available_until);
CREATE INDEX models_replaced_by ON providers.models (replaced_by) WHERE replaced_by IS NOT NULL;

-- Other names of a model, each given once in a provider.
CREATE TABLE providers.model_aliases (
    provider_id uuid NOT NULL REFERENCES providers.providers ON DELETE RESTRICT,
    alias text NOT NULL CHECK (length(alias) BETWEEN 1 AND 200),
    org_id uuid,
    model_id uuid NOT NULL REFERENCES providers.models ON DELETE RESTRICT,
    PRIMARY KEY (provider_id, alias)
);
CREATE INDEX model_aliases_model ON providers.model_aliases (model_id);

-- A range of uuids is never asked for; it gives equality of ids to GiST without an extension.
CREATE TYPE providers.uuid_range AS RANGE (subtype = uuid);

ALTER TABLE providers.price_versions
    ADD COLUMN cache_write_per_million numeric(20, 12) CHECK (cache_write_per_million >= 0),
    ADD COLUMN long_from_tokens int NOT NULL DEFAULT 0 CHECK (long_from_tokens >= 0),
    ADD COLUMN long_prices jsonb,
    ADD COLUMN valid_until timestamptz,
    ADD COLUMN source text NOT NULL DEFAULT '',
    -- Not now(): of two transactions, the one that waited has begun earlier and comes later.
    ALTER COLUMN valid_from SET DEFAULT clock_timestamp(),
    ADD CONSTRAINT price_versions_long CHECK ((long_from_tokens > 0) = (long_prices IS NOT NULL));
-- The owner sees rows only where no policy is forced on it.
ALTER TABLE providers.price_versions NO FORCE ROW LEVEL SECURITY;
UPDATE providers.price_versions p SET valid_until = n.next_from
  FROM (SELECT id, lead(valid_from) OVER (PARTITION BY model_id ORDER BY valid_from, version_number) AS next_from
          FROM providers.price_versions) n
 WHERE n.id = p.id AND n.next_from IS NOT NULL;
ALTER TABLE providers.price_versions FORCE ROW LEVEL SECURITY;
ALTER TABLE providers.price_versions
    ADD CONSTRAINT price_versions_interval CHECK (valid_from <= valid_until),
    ADD CONSTRAINT price_versions_one_at_a_time EXCLUDE USING gist (
        providers.uuid_range(model_id, model_id, '[]') WITH &&, tstzrange(valid_from, valid_until) WITH &&);
CREATE INDEX price_versions_valid ON providers.price_versions (model_id, valid_from DESC);

-- A new version takes the time from its beginning to the next one that is already there; the version
-- that was valid then ends where it begins. So there is one price at any time, and no gap.
CREATE FUNCTION providers.fit_price() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.valid_until := (SELECT min(p.valid_from) FROM providers.price_versions p
                         WHERE p.model_id = NEW.model_id AND p.valid_from > NEW.valid_from
                           AND NOT isempty(tstzrange(p.valid_from, p.valid_until)));
    UPDATE providers.price_versions p SET valid_until = NEW.valid_from
     WHERE p.model_id = NEW.model_id AND tstzrange(p.valid_from, p.valid_until) @> NEW.valid_from;
    RETURN NEW;
END $$;
CREATE TRIGGER fit BEFORE INSERT ON providers.price_versions
    FOR EACH ROW EXECUTE FUNCTION providers.fit_price();

-- What was valid stays so: an end can only be moved while it lies ahead, and not into the past.
CREATE FUNCTION providers.keep_price() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.valid_until <= transaction_timestamp() OR NEW.valid_until IS NULL
       OR NEW.valid_until < transaction_timestamp() THEN
        RAISE EXCEPTION 'the price of a past time cannot be changed' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'price_versions_past';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER keep BEFORE UPDATE ON providers.price_versions
    FOR EACH ROW EXECUTE FUNCTION providers.keep_price();

ALTER TABLE providers.provider_keys
    ADD COLUMN secret_changed_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN revoked_at timestamptz,
    ADD COLUMN reminded_at timestamptz;
CREATE INDEX provider_keys_due ON providers.provider_keys (rotate_at)
    WHERE is_active AND rotate_at IS NOT NULL AND reminded_at IS NULL;
CREATE INDEX provider_keys_sealed ON providers.provider_keys (((sealed->>'kek_version')::int), id)
    WHERE sealed ? 'kek_version';

-- Versions of the master key. The key itself is never here: it lies in the key file, or in the key
-- service that key_ref names.
CREATE TABLE ops.master_keys (
    version int PRIMARY KEY CHECK (version > 0),
    kind text NOT NULL CHECK (kind IN ('local_file', 'aws_kms')),
    key_ref text NOT NULL DEFAULT '',
    state text NOT NULL CHECK (state IN ('enabled', 'decrypt_only', 'disabled', 'destroyed')),
    created_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz
);
GRANT SELECT, INSERT ON ops.master_keys TO chimera_app, chimera_worker, chimera_sealer;
GRANT UPDATE (state, retired_at) ON ops.master_keys TO chimera_app;

-- Re-wrapping everything under the newest version; at most one at a time.
CREATE TABLE ops.key_rotations (
    id uuid PRIMARY KEY,
    to_version int NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'completed')),
    values_total bigint NOT NULL,
    values_done bigint NOT NULL DEFAULT 0,
    -- Values that no version opens: damaged, or moved from elsewhere. They keep their version.
    values_unreadable bigint NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT '',
    requested_by uuid,
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz
);
CREATE UNIQUE INDEX key_rotations_running ON ops.key_rotations ((true)) WHERE state = 'running';
CREATE TRIGGER touch BEFORE UPDATE ON ops.key_rotations FOR EACH ROW EXECUTE FUNCTION ops.touch();
GRANT SELECT, INSERT ON ops.key_rotations TO chimera_app;
GRANT SELECT, UPDATE ON ops.key_rotations TO chimera_worker;

GRANT UPDATE (sealed) ON ops.secrets TO chimera_worker;
GRANT UPDATE (sealed) ON providers.provider_keys TO chimera_worker;

-- Whoever stores a sealed value holds its key version until COMMIT; retiring a version waits for
-- those, and then nobody can store with it any more. So a count of zero stays zero. The arguments of
-- the trigger are the columns that hold sealed values.
CREATE FUNCTION ops.hold_key_version() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted int;
    stored jsonb := to_jsonb(NEW);
BEGIN
    FOR i IN 0 .. TG_NARGS - 1 LOOP
        wanted := (stored->TG_ARGV[i]->>'kek_version')::int;
        CONTINUE WHEN wanted IS NULL;
        PERFORM pg_advisory_xact_lock_shared(hashtext('ops.master_keys'), wanted);
        IF EXISTS (SELECT FROM ops.master_keys WHERE version = wanted AND state IN ('disabled', 'destroyed')) THEN
            RAISE EXCEPTION 'master key version % is retired', wanted USING ERRCODE = 'check_violation',
                CONSTRAINT = 'master_key_retired';
        END IF;
    END LOOP;
    RETURN NEW;
END $$;
CREATE TRIGGER hold_key_version BEFORE INSERT OR UPDATE OF sealed ON ops.secrets
    FOR EACH ROW EXECUTE FUNCTION ops.hold_key_version('sealed');
CREATE TRIGGER hold_key_version BEFORE INSERT OR UPDATE OF sealed ON providers.provider_keys
    FOR EACH ROW EXECUTE FUNCTION ops.hold_key_version('sealed');

CREATE POLICY lookup ON providers.provider_keys FOR SELECT TO chimera_lookup USING (true);
GRANT USAGE ON SCHEMA providers TO chimera_lookup;
GRANT SELECT ON providers.provider_keys TO chimera_lookup;

DO $$
DECLARE
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
    operator text := '(SELECT current_setting(''app.role'', true)) = ''operator''';
BEGIN
    ALTER TABLE providers.model_aliases ENABLE ROW LEVEL SECURITY;
    ALTER TABLE providers.model_aliases FORCE ROW LEVEL SECURITY;
    EXECUTE format('CREATE POLICY readable ON providers.model_aliases FOR SELECT TO chimera_app, chimera_worker
        USING (org_id IS NULL OR org_id = %s)', mine);
    EXECUTE format('CREATE POLICY tenant ON providers.model_aliases TO chimera_app
        USING (org_id = %s) WITH CHECK (org_id = %s)', mine, mine);
    EXECUTE format('CREATE POLICY operator ON providers.model_aliases TO chimera_app
        USING (%s) WITH CHECK (%s)', operator, operator);
END $$;
GRANT SELECT, INSERT, DELETE ON providers.model_aliases TO chimera_app;
GRANT SELECT ON providers.model_aliases TO chimera_worker;
GRANT UPDATE (valid_until) ON providers.price_versions TO chimera_app;
RESET ROLE;

-- Sealed user keys that another than the newest version wraps, of all organisations: which, not what.
CREATE FUNCTION providers.find_sealed_keys(newest int, after_id uuid, size int)
    RETURNS TABLE (id uuid, org_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT k.id, k.org_id FROM providers.provider_keys k
     WHERE k.sealed ? 'kek_version' AND (k.sealed->>'kek_version')::int <> newest AND k.id > after_id
     ORDER BY k.id LIMIT size
    $$;
-- How many user keys each version of the master key wraps.
CREATE FUNCTION providers.count_sealed_keys()
    RETURNS TABLE (kek_version int, count bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT (k.sealed->>'kek_version')::int, count(*) FROM providers.provider_keys k
     WHERE k.sealed ? 'kek_version' GROUP BY 1
    $$;
-- Keys whose rotation is due and whose owner was not told yet.
CREATE FUNCTION providers.find_keys_due(size int)
    RETURNS TABLE (id uuid, org_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT k.id, k.org_id FROM providers.provider_keys k
     WHERE k.is_active AND k.rotate_at <= now() AND k.reminded_at IS NULL
     ORDER BY k.rotate_at LIMIT size
    $$;
-- Whom to write to about a key.
CREATE FUNCTION providers.owner_of_key(key_id uuid)
    RETURNS TABLE (email text, display_name text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT u.email, u.display_name FROM providers.provider_keys k JOIN identity.users u ON u.id = k.user_id
     WHERE k.id = key_id AND u.deleted_at IS NULL
       AND k.org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    $$;
ALTER FUNCTION providers.owner_of_key(uuid) OWNER TO chimera_lookup;
ALTER FUNCTION providers.find_sealed_keys(int, uuid, int) OWNER TO chimera_lookup;
ALTER FUNCTION providers.count_sealed_keys() OWNER TO chimera_lookup;
ALTER FUNCTION providers.find_keys_due(int) OWNER TO chimera_lookup;
REVOKE ALL ON FUNCTION providers.find_sealed_keys(int, uuid, int), providers.count_sealed_keys(),
    providers.find_keys_due(int), providers.owner_of_key(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION providers.find_sealed_keys(int, uuid, int), providers.find_keys_due(int),
    providers.owner_of_key(uuid) TO chimera_worker;
GRANT EXECUTE ON FUNCTION providers.count_sealed_keys() TO chimera_app, chimera_worker;
SET ROLE chimera_owner;
GRANT UPDATE (reminded_at) ON providers.provider_keys TO chimera_worker;
RESET ROLE;

-- migrate:down
DROP FUNCTION providers.owner_of_key(uuid);
DROP FUNCTION providers.find_keys_due(int);
DROP FUNCTION providers.count_sealed_keys();
DROP FUNCTION providers.find_sealed_keys(int, uuid, int);
SET ROLE chimera_owner;
REVOKE SELECT ON providers.provider_keys FROM chimera_lookup;
REVOKE USAGE ON SCHEMA providers FROM chimera_lookup;
DROP POLICY lookup ON providers.provider_keys;
DROP TRIGGER hold_key_version ON providers.provider_keys;
DROP TRIGGER hold_key_version ON ops.secrets;
DROP FUNCTION ops.hold_key_version();
REVOKE UPDATE (sealed, reminded_at) ON providers.provider_keys FROM chimera_worker;
REVOKE UPDATE (sealed) ON ops.secrets FROM chimera_worker;
DROP TABLE ops.key_rotations;
DROP TABLE ops.master_keys;
DROP INDEX providers.provider_keys_sealed;
DROP INDEX providers.provider_keys_due;
ALTER TABLE providers.provider_keys
    DROP COLUMN secret_changed_at, DROP COLUMN revoked_at, DROP COLUMN reminded_at;
DROP TRIGGER keep ON providers.price_versions;
DROP TRIGGER fit ON providers.price_versions;
DROP FUNCTION providers.keep_price();
DROP FUNCTION providers.fit_price();
REVOKE UPDATE (valid_until) ON providers.price_versions FROM chimera_app;
ALTER TABLE providers.price_versions
    DROP CONSTRAINT price_versions_one_at_a_time,
    DROP CONSTRAINT price_versions_interval,
    DROP CONSTRAINT price_versions_long,
    ALTER COLUMN valid_from SET DEFAULT now(),
    DROP COLUMN cache_write_per_million, DROP COLUMN long_from_tokens, DROP COLUMN long_prices,
    DROP COLUMN valid_until, DROP COLUMN source;
DROP TYPE providers.uuid_range;
DROP INDEX IF EXISTS providers.price_versions_valid;
DROP TABLE providers.model_aliases;
ALTER TABLE providers.models
    DROP CONSTRAINT models_window,
    DROP COLUMN capabilities, DROP COLUMN available_from, DROP COLUMN available_until,
    DROP COLUMN deprecated_at, DROP COLUMN replaced_by, DROP COLUMN source;
ALTER TABLE providers.providers DROP CONSTRAINT providers_default_config, DROP COLUMN source;
RESET ROLE;
