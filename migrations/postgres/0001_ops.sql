-- migrate:up
-- Roles of the cluster, the shared machinery (schema ops) and partition upkeep.
-- Roles belong to the whole PostgreSQL cluster, so a down leaves them.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['chimera_owner', 'chimera_lookup', 'chimera_app', 'chimera_worker',
                                'chimera_sealer', 'chimera_auditor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- another database of the cluster was migrated at the same moment
            END;
        END IF;
        IF NOT pg_has_role(current_user, role, 'SET') THEN
            EXECUTE format('GRANT %I TO %I', role, current_user);
        END IF;
    END LOOP;
    EXECUTE format('GRANT CREATE ON DATABASE %I TO chimera_owner', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO chimera_app, chimera_worker, chimera_sealer, chimera_auditor', current_database());
END $$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT chimera_lookup TO chimera_owner;

SET ROLE chimera_owner;
CREATE SCHEMA ops;
GRANT USAGE ON SCHEMA ops TO chimera_app, chimera_worker, chimera_sealer, chimera_auditor, chimera_lookup;

CREATE FUNCTION ops.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = now();
    RETURN NEW;
END $$;

-- Work that was asked for, written in the transaction that asks. A row leaves when its task is done.
CREATE TABLE ops.outbox (
    id uuid PRIMARY KEY,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    org_id uuid,
    task text NOT NULL,
    args jsonb NOT NULL DEFAULT '{}',
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'rung', 'dead')),
    rings int NOT NULL DEFAULT 0,
    rings_max int NOT NULL DEFAULT 10,
    due_at timestamptz NOT NULL DEFAULT now(),
    last_error text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
CREATE INDEX outbox_due ON ops.outbox (due_at) WHERE state <> 'dead';
ALTER TABLE ops.outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE ops.outbox FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON ops.outbox TO chimera_app
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid))
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
CREATE POLICY operator ON ops.outbox TO chimera_app
    USING ((SELECT current_setting('app.role', true)) = 'operator')
    WITH CHECK ((SELECT current_setting('app.role', true)) = 'operator');
CREATE POLICY machinery ON ops.outbox TO chimera_worker USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON ops.outbox TO chimera_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ops.outbox TO chimera_worker;

-- The first answer to a request_id, for a day.
CREATE TABLE ops.idempotency (
    org_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    method text NOT NULL,
    request_id uuid NOT NULL,
    body_hash bytea NOT NULL,
    answer bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, principal_id, method, request_id)
);
CREATE INDEX idempotency_age ON ops.idempotency (created_at);
ALTER TABLE ops.idempotency ENABLE ROW LEVEL SECURITY;
ALTER TABLE ops.idempotency FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON ops.idempotency TO chimera_app
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid))
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
CREATE POLICY machinery ON ops.idempotency TO chimera_worker USING (true);
GRANT SELECT, INSERT, UPDATE ON ops.idempotency TO chimera_app;
GRANT SELECT, DELETE ON ops.idempotency TO chimera_worker;

-- Who may do what only one may do at a time (sealing, draining): fenced like a shard.
CREATE TABLE ops.leases (
    name text PRIMARY KEY,
    owner text NOT NULL,
    fence bigint NOT NULL DEFAULT 1,
    lease_until timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON ops.leases TO chimera_worker, chimera_sealer;

-- Keys the installation makes for itself, sealed by the vault's master key.
CREATE TABLE ops.secrets (
    name text NOT NULL,
    version int NOT NULL,
    sealed jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);
GRANT SELECT, INSERT ON ops.secrets TO chimera_app, chimera_worker, chimera_sealer;

-- Kill switches: of one organisation, and (no organisation) of the installation.
CREATE TABLE ops.kill_switches (
    org_id uuid UNIQUE NULLS NOT DISTINCT,
    sending_stopped boolean NOT NULL,
    reason text NOT NULL,
    set_by uuid,
    set_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE ops.kill_switches ENABLE ROW LEVEL SECURITY;
ALTER TABLE ops.kill_switches FORCE ROW LEVEL SECURITY;
CREATE POLICY readable ON ops.kill_switches FOR SELECT TO chimera_app
    USING (org_id IS NULL OR org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
CREATE POLICY tenant ON ops.kill_switches TO chimera_app
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid))
    WITH CHECK (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
CREATE POLICY operator ON ops.kill_switches TO chimera_app
    USING ((SELECT current_setting('app.role', true)) = 'operator')
    WITH CHECK ((SELECT current_setting('app.role', true)) = 'operator');
CREATE POLICY machinery ON ops.kill_switches FOR SELECT TO chimera_worker USING (true);
GRANT SELECT, INSERT, UPDATE ON ops.kill_switches TO chimera_app;
GRANT SELECT ON ops.kill_switches TO chimera_worker;

-- Tables partitioned by a UUIDv7, which begins with its time in milliseconds: made ahead by upkeep.
CREATE TABLE ops.partitioned (
    table_name text PRIMARY KEY,
    step interval NOT NULL,
    keep interval
);
GRANT SELECT ON ops.partitioned TO chimera_worker;

CREATE FUNCTION ops.uuid_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Makes the partitions of the current step and the two after it. Rows that already lie in a default
-- partition keep the partition of their time from being made: those are named in `refused`, and the
-- other tables get theirs all the same.
CREATE FUNCTION ops.make_partitions(OUT made int, OUT refused text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent record;
    unit text;
    start timestamptz;
    stop timestamptz;
    child text;
BEGIN
    made := 0;
    refused := '{}';
    PERFORM pg_advisory_xact_lock(hashtext('ops.make_partitions'));
    FOR parent IN SELECT * FROM ops.partitioned ORDER BY table_name LOOP
        unit := CASE WHEN parent.step >= interval '1 month' THEN 'month' ELSE 'day' END;
        FOR i IN 0..2 LOOP
            start := date_trunc(unit, now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
            start := ((start AT TIME ZONE 'UTC') + i * parent.step) AT TIME ZONE 'UTC';
            stop := ((start AT TIME ZONE 'UTC') + parent.step) AT TIME ZONE 'UTC';
            child := parent.table_name || to_char(start AT TIME ZONE 'UTC',
                CASE unit WHEN 'month' THEN '_YYYYMM' ELSE '_YYYYMMDD' END);
            CONTINUE WHEN to_regclass(child) IS NOT NULL;
            BEGIN
                EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
                               child, parent.table_name, ops.uuid_floor(start), ops.uuid_floor(stop));
            EXCEPTION WHEN check_violation THEN
                refused := refused || child;
                CONTINUE;
            END;
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', child);
            EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', child);
            IF parent.table_name = 'audit.events' THEN
                EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON %s
                    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse()', child);
                EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER no_truncate', child);
            END IF;
            made := made + 1;
        END LOOP;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION ops.make_partitions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ops.make_partitions() TO chimera_worker;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP SCHEMA ops CASCADE;
RESET ROLE;
