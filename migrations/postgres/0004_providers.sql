-- migrate:up
-- Model providers, prices, the vault, allowed targets and the usage ledger.
SET ROLE chimera_owner;
CREATE SCHEMA providers;
GRANT USAGE ON SCHEMA providers TO chimera_app, chimera_worker;

-- No organisation: offered by the installation, readable by all, writable by operators.
CREATE TABLE providers.providers (
    id uuid PRIMARY KEY,
    org_id uuid REFERENCES identity.organisations ON DELETE RESTRICT,
    name text NOT NULL,
    display_name text NOT NULL DEFAULT '',
    provider_type text NOT NULL CHECK (provider_type IN ('openai', 'anthropic', 'huggingface', 'local', 'custom')),
    base_url text NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    timeout_s int NOT NULL DEFAULT 60 CHECK (timeout_s BETWEEN 1 AND 600),
    requests_per_minute int NOT NULL DEFAULT 0 CHECK (requests_per_minute >= 0),
    tokens_per_minute int NOT NULL DEFAULT 0 CHECK (tokens_per_minute >= 0),
    default_config jsonb NOT NULL DEFAULT '{}',
    created_by uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX providers_name ON providers.providers (org_id, name) NULLS NOT DISTINCT WHERE deleted_at IS NULL;
CREATE TRIGGER touch BEFORE UPDATE ON providers.providers FOR EACH ROW EXECUTE FUNCTION ops.touch();

CREATE TABLE providers.models (
    id uuid PRIMARY KEY,
    org_id uuid,
    provider_id uuid NOT NULL REFERENCES providers.providers ON DELETE RESTRICT,
    name text NOT NULL,
    display_name text NOT NULL DEFAULT '',
    version text NOT NULL DEFAULT '',
    context_tokens_max int NOT NULL DEFAULT 0,
    output_tokens_max int NOT NULL DEFAULT 0,
    is_available boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX models_name ON providers.models (provider_id, name, version) WHERE deleted_at IS NULL;
CREATE TRIGGER touch BEFORE UPDATE ON providers.models FOR EACH ROW EXECUTE FUNCTION ops.touch();

-- Immutable; the newest with valid_from in the past is the price of now. US dollars a million tokens.
CREATE TABLE providers.price_versions (
    id uuid PRIMARY KEY,
    org_id uuid,
    model_id uuid NOT NULL REFERENCES providers.models ON DELETE RESTRICT,
    version_number int NOT NULL,
    input_per_million numeric(20, 12) NOT NULL CHECK (input_per_million >= 0),
    output_per_million numeric(20, 12) NOT NULL CHECK (output_per_million >= 0),
    cached_input_per_million numeric(20, 12) NOT NULL CHECK (cached_input_per_million >= 0),
    reasoning_per_million numeric(20, 12) NOT NULL CHECK (reasoning_per_million >= 0),
    per_request numeric(20, 12) NOT NULL CHECK (per_request >= 0),
    valid_from timestamptz NOT NULL DEFAULT now(),
    created_by uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (model_id, version_number)
);

CREATE TABLE providers.provider_keys (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    user_id uuid NOT NULL REFERENCES identity.users ON DELETE RESTRICT,
    provider_id uuid NOT NULL REFERENCES providers.providers ON DELETE RESTRICT,
    name text NOT NULL,
    prefix text NOT NULL,
    last_four text NOT NULL,
    -- providers/vault.py: ciphertext, nonce, wrapped data key, master key version.
    sealed jsonb NOT NULL,
    row_version int NOT NULL DEFAULT 1,
    is_active boolean NOT NULL DEFAULT true,
    is_default boolean NOT NULL DEFAULT false,
    usage_count bigint NOT NULL DEFAULT 0,
    last_used_at timestamptz,
    rotate_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX provider_keys_name ON providers.provider_keys (user_id, provider_id, name) WHERE is_active;
CREATE UNIQUE INDEX provider_keys_default ON providers.provider_keys (user_id, provider_id) WHERE is_default AND is_active;
CREATE TRIGGER touch BEFORE UPDATE ON providers.provider_keys FOR EACH ROW EXECUTE FUNCTION ops.touch();

-- Campaigns of an organisation may send to these models and no other.
CREATE TABLE providers.allowed_targets (
    org_id uuid NOT NULL REFERENCES identity.organisations ON DELETE RESTRICT,
    model_id uuid NOT NULL REFERENCES providers.models ON DELETE RESTRICT,
    allowed_by uuid NOT NULL,
    allowed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, model_id)
);

-- Passive circuit state of a model as campaigns see it; written on transitions only.
CREATE TABLE providers.circuits (
    org_id uuid NOT NULL,
    model_id uuid NOT NULL REFERENCES providers.models ON DELETE RESTRICT,
    state text NOT NULL CHECK (state IN ('closed', 'open')),
    cause text NOT NULL DEFAULT '',
    open_until timestamptz,
    opened_count int NOT NULL DEFAULT 0,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, model_id)
);

-- One row for each attempt that may have cost money, plus corrections. Nothing is ever changed.
CREATE TABLE providers.ledger (
    run_id uuid NOT NULL,
    cell_no bigint NOT NULL,
    attempt_no int NOT NULL,
    entry_no int NOT NULL DEFAULT 0,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    org_id uuid NOT NULL,
    user_id uuid NOT NULL,
    model_id uuid NOT NULL,
    price_version_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('charge', 'worst', 'correction')),
    -- The attempt's result was not recorded (a duplicate, or an error that may have cost).
    discarded boolean NOT NULL,
    input_tokens int NOT NULL,
    output_tokens int NOT NULL,
    cost numeric(20, 12) NOT NULL,
    booked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, cell_no, attempt_no, entry_no)
) PARTITION BY RANGE (run_id);
CREATE TABLE providers.ledger_default PARTITION OF providers.ledger DEFAULT;
INSERT INTO ops.partitioned VALUES ('providers.ledger', '1 month', NULL);

DO $$
DECLARE
    t text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
BEGIN
    FOREACH t IN ARRAY ARRAY['providers', 'models', 'price_versions', 'provider_keys', 'allowed_targets',
                             'circuits', 'ledger', 'ledger_default'] LOOP
        EXECUTE format('ALTER TABLE providers.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE providers.%I FORCE ROW LEVEL SECURITY', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['providers', 'models', 'price_versions'] LOOP
        EXECUTE format('CREATE POLICY readable ON providers.%I FOR SELECT TO chimera_app, chimera_worker
            USING (org_id IS NULL OR org_id = %s)', t, mine);
        EXECUTE format('CREATE POLICY tenant ON providers.%I TO chimera_app
            USING (org_id = %s) WITH CHECK (org_id = %s)', t, mine, mine);
        EXECUTE format('CREATE POLICY operator ON providers.%I TO chimera_app
            USING ((SELECT current_setting(''app.role'', true)) = ''operator'')
            WITH CHECK ((SELECT current_setting(''app.role'', true)) = ''operator'')', t);
        EXECUTE format('GRANT SELECT, INSERT ON providers.%I TO chimera_app', t);
        EXECUTE format('GRANT SELECT ON providers.%I TO chimera_worker', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['provider_keys', 'allowed_targets', 'circuits', 'ledger'] LOOP
        EXECUTE format('CREATE POLICY tenant ON providers.%I TO chimera_app, chimera_worker
            USING (org_id = %s) WITH CHECK (org_id = %s)', t, mine, mine);
    END LOOP;
END $$;
GRANT UPDATE ON providers.providers, providers.models TO chimera_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON providers.provider_keys TO chimera_app;
GRANT SELECT ON providers.provider_keys TO chimera_worker;
GRANT UPDATE (usage_count, last_used_at) ON providers.provider_keys TO chimera_worker;
GRANT SELECT, INSERT, DELETE ON providers.allowed_targets TO chimera_app;
GRANT SELECT ON providers.allowed_targets TO chimera_worker;
GRANT SELECT ON providers.circuits, providers.ledger TO chimera_app;
GRANT SELECT, INSERT, UPDATE ON providers.circuits TO chimera_worker;
GRANT SELECT, INSERT ON providers.ledger TO chimera_worker;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP SCHEMA providers CASCADE;
DELETE FROM ops.partitioned WHERE table_name LIKE 'providers.%';
RESET ROLE;
