-- migrate:up
-- The audit log: captured in the transaction, sealed by one fenced sealer into one RFC 6962 tree.
SET ROLE chimera_owner;
CREATE SCHEMA audit;
GRANT USAGE ON SCHEMA audit TO chimera_app, chimera_worker, chimera_sealer, chimera_auditor;

-- One row a writing connection: its counter moves in the transaction of the event, so that rows
-- removed before they are sealed leave a gap.
CREATE TABLE audit.writers (
    writer_id uuid PRIMARY KEY,
    seq bigint NOT NULL
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE ON audit.writers TO chimera_app, chimera_worker;
GRANT SELECT ON audit.writers TO chimera_sealer, chimera_auditor;

CREATE TABLE audit.pending (
    id uuid PRIMARY KEY,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    org_id uuid,
    occurred_at timestamptz NOT NULL,
    -- Plain facts for search; what counts is the leaf.
    facts jsonb NOT NULL,
    -- Values and salts behind the commitments in the leaf: [{name, old, new, salt}].
    fields jsonb NOT NULL,
    leaf bytea NOT NULL
);
-- The sealer takes whole transactions, oldest first.
CREATE INDEX pending_order ON audit.pending (xid);

CREATE TABLE audit.events (
    id uuid NOT NULL,
    log_index bigint NOT NULL,
    org_id uuid,
    occurred_at timestamptz NOT NULL,
    actor_kind text NOT NULL,
    actor_id uuid,
    action text NOT NULL,
    entity text NOT NULL,
    entity_id text NOT NULL,
    outcome text NOT NULL,
    severity text NOT NULL,
    facts jsonb NOT NULL,
    fields jsonb NOT NULL,
    leaf bytea NOT NULL,
    leaf_hash bytea NOT NULL,
    previous_hash bytea NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX events_org ON audit.events (org_id, id DESC);
CREATE INDEX events_index ON audit.events (log_index);
CREATE INDEX events_entity ON audit.events (org_id, entity, entity_id, id DESC);
CREATE TABLE audit.events_default PARTITION OF audit.events DEFAULT;
INSERT INTO ops.partitioned VALUES ('audit.events', '1 month', NULL);

-- Leaf hashes outlive the payloads above.
CREATE TABLE audit.leaves (
    log_index bigint PRIMARY KEY,
    event_id uuid NOT NULL UNIQUE,
    leaf_hash bytea NOT NULL CHECK (length(leaf_hash) = 32)
);
-- Complete interior nodes: level 1 is two leaves.
CREATE TABLE audit.nodes (
    level smallint NOT NULL CHECK (level > 0),
    node_index bigint NOT NULL,
    hash bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, node_index)
);
CREATE TABLE audit.checkpoints (
    size bigint PRIMARY KEY,
    root bytea NOT NULL CHECK (length(root) = 32),
    note text NOT NULL,
    verifier_key text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE audit.log_head (
    the_one boolean PRIMARY KEY DEFAULT true CHECK (the_one),
    size bigint NOT NULL,
    fence bigint NOT NULL,
    last_hash bytea NOT NULL
);
INSERT INTO audit.log_head VALUES (true, 0, 0, '\x0000000000000000000000000000000000000000000000000000000000000000');

ALTER TABLE audit.pending ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit.pending FORCE ROW LEVEL SECURITY;
ALTER TABLE audit.events ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit.events FORCE ROW LEVEL SECURITY;
ALTER TABLE audit.events_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit.events_default FORCE ROW LEVEL SECURITY;
-- Anyone who may change something may add that it happened; events before login have no organisation.
CREATE POLICY capture ON audit.pending FOR INSERT TO chimera_app, chimera_worker WITH CHECK (true);
CREATE POLICY tenant_read ON audit.pending FOR SELECT TO chimera_app
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
CREATE POLICY sealer ON audit.pending TO chimera_sealer USING (true);
CREATE POLICY tenant_read ON audit.events FOR SELECT TO chimera_app, chimera_auditor
    USING (org_id = (SELECT NULLIF(current_setting('app.org_id', true), '')::uuid));
CREATE POLICY sealer ON audit.events TO chimera_sealer USING (true) WITH CHECK (true);
GRANT INSERT ON audit.pending TO chimera_app, chimera_worker;
GRANT SELECT ON audit.pending TO chimera_app;
GRANT SELECT, DELETE ON audit.pending TO chimera_sealer;
GRANT SELECT ON audit.events TO chimera_app, chimera_auditor;
GRANT SELECT, INSERT ON audit.events, audit.leaves, audit.nodes, audit.checkpoints TO chimera_sealer;
GRANT SELECT, UPDATE ON audit.log_head TO chimera_sealer;
GRANT SELECT ON audit.leaves, audit.nodes, audit.checkpoints, audit.log_head TO chimera_app, chimera_auditor, chimera_worker;

-- A second line behind the missing grants: what is sealed is not changed by anyone's slip.
CREATE FUNCTION audit.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on audit.% is refused: the log is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['events', 'leaves', 'nodes', 'checkpoints'] LOOP
        EXECUTE format('CREATE TRIGGER no_change BEFORE UPDATE OR DELETE ON audit.%I FOR EACH ROW EXECUTE FUNCTION audit.refuse()', t);
        EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.%I FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse()', t);
        EXECUTE format('ALTER TABLE audit.%I ENABLE ALWAYS TRIGGER no_change', t);
        EXECUTE format('ALTER TABLE audit.%I ENABLE ALWAYS TRIGGER no_truncate', t);
    END LOOP;
END $$;
-- Statement triggers are not handed down; ops.make_partitions gives new partitions theirs.
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit.events_default
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();
ALTER TABLE audit.events_default ENABLE ALWAYS TRIGGER no_truncate;
SELECT ops.make_partitions();
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP SCHEMA audit CASCADE;
DELETE FROM ops.partitioned WHERE table_name LIKE 'audit.%';
RESET ROLE;
