-- migrate:up
-- Batches from outside, dead letters, reconciling, the live tail, and what each user did in all.
SET lock_timeout = '5s';
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'chimera_summary') THEN
        BEGIN
            CREATE ROLE chimera_summary NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- another database of the cluster was migrated at the same moment
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'chimera_summary', 'SET') THEN
        EXECUTE format('GRANT chimera_summary TO %I', current_user);
    END IF;
END $$;
GRANT chimera_summary TO chimera_owner;
SET ROLE chimera_owner;

-- What was answered to a producer's batch: the same batch again gets the same answer.
CREATE TABLE telemetry.receipts (
    org_id uuid NOT NULL,
    producer text NOT NULL,
    batch_id uuid NOT NULL,
    body_hash bytea NOT NULL,
    -- chimera.v1.BatchReceipt.
    answer bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (org_id, producer, batch_id)
);
CREATE INDEX receipts_age ON telemetry.receipts USING brin (created_at);

-- What could not be stored: an event as it was sent, or a frozen batch that the store refused.
CREATE TABLE telemetry.dead_letters (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('event', 'batch')),
    producer text NOT NULL,
    batch_id uuid NOT NULL,
    -- Of an event, its place in its batch.
    event_index int,
    events int NOT NULL CHECK (events > 0),
    -- chimera.v1.TelemetryEvent, or a body (telemetry/frozen.py).
    body bytea NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE telemetry.dead_letters ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX dead_letters_newest ON telemetry.dead_letters (org_id, id DESC);

-- Of the letters counted as dead, those that somebody threw away.
ALTER TABLE telemetry.totals ADD COLUMN discarded bigint NOT NULL DEFAULT 0;
-- The live tail.
CREATE INDEX batches_tail ON telemetry.batches (org_id, xid, batch_id);

-- What the reconciler found, by day of acceptance and producer; kept beyond the life of the batches.
CREATE TABLE telemetry.reconciliations (
    org_id uuid NOT NULL,
    day date NOT NULL,
    producer text NOT NULL,
    accepted bigint NOT NULL,
    stored bigint NOT NULL,
    dead bigint NOT NULL,
    -- Events of those batches that the column store has.
    found bigint NOT NULL,
    -- Batches of which it has too few or too many, at the last look.
    missing_batches int NOT NULL DEFAULT 0,
    surplus_batches int NOT NULL DEFAULT 0,
    resent_batches int NOT NULL DEFAULT 0,
    checked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (org_id, day, producer)
);
-- Everything accepted before verified_to was found in the store, exactly once. (xid, batch_id) is the
-- last batch that was compared.
CREATE TABLE telemetry.verified (
    org_id uuid PRIMARY KEY,
    xid xid8 NOT NULL DEFAULT '0',
    batch_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    verified_to timestamptz NOT NULL DEFAULT '-infinity',
    -- Somebody wants everything compared again, the roll-ups too.
    is_asked boolean NOT NULL DEFAULT false,
    checked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- The store did not have it although it said so; a batch is sent anew once.
ALTER TABLE telemetry.batches ADD COLUMN resent_at timestamptz;

DO $$
DECLARE
    t text;
    mine text := '(SELECT NULLIF(current_setting(''app.org_id'', true), '''')::uuid)';
BEGIN
    FOREACH t IN ARRAY ARRAY['receipts', 'dead_letters', 'reconciliations', 'verified'] LOOP
        EXECUTE format('ALTER TABLE telemetry.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE telemetry.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON telemetry.%I TO chimera_app
            USING (org_id = %s) WITH CHECK (org_id = %s)', t, mine, mine);
        EXECUTE format('CREATE POLICY machinery ON telemetry.%I TO chimera_worker USING (true) WITH CHECK (true)', t);
    END LOOP;
END $$;
GRANT SELECT, INSERT ON telemetry.receipts TO chimera_app;
GRANT SELECT, DELETE ON telemetry.receipts TO chimera_worker;
GRANT SELECT, INSERT, DELETE ON telemetry.dead_letters TO chimera_app, chimera_worker;
GRANT SELECT ON telemetry.reconciliations TO chimera_app;
GRANT SELECT, INSERT, UPDATE ON telemetry.verified TO chimera_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON telemetry.reconciliations, telemetry.verified TO chimera_worker;

-- How much waits, over all organisations and of the caller's, in bytes, and since when. Sums only:
-- who the others are is not told.
CREATE FUNCTION telemetry.backlog(OUT total_bytes bigint, OUT own_bytes bigint, OUT oldest_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(sum(octet_length(body)), 0),
           coalesce(sum(octet_length(body)) FILTER (
               WHERE org_id = NULLIF(current_setting('app.org_id', true), '')::uuid), 0),
           min(created_at)
      FROM telemetry.batches WHERE state = 'waiting'
    $$;
REVOKE ALL ON FUNCTION telemetry.backlog() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION telemetry.backlog() TO chimera_app, chimera_worker;

-- Those of the named campaigns that the caller sees, by the campaigns' own row policies.
CREATE FUNCTION telemetry.visible_campaigns(asked uuid[]) RETURNS uuid[]
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce(array_agg(id), '{}') FROM campaigns.campaigns WHERE id = ANY(asked) $$;

-- When each materialized view was last made anew.
CREATE TABLE telemetry.refreshes (
    name text PRIMARY KEY,
    refreshed_at timestamptz NOT NULL
);
GRANT SELECT ON telemetry.refreshes TO chimera_app;
GRANT SELECT, INSERT, UPDATE ON telemetry.refreshes TO chimera_summary;

-- The role that counts over all organisations sees exactly the tables it counts.
GRANT USAGE ON SCHEMA identity, campaigns, templates TO chimera_summary;
GRANT USAGE, CREATE ON SCHEMA telemetry TO chimera_summary;
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['identity.memberships', 'identity.sessions', 'identity.api_keys', 'campaigns.campaigns',
                             'campaigns.runs', 'campaigns.tallies', 'templates.templates', 'templates.ratings'] LOOP
        CONTINUE WHEN to_regclass(t) IS NULL;
        EXECUTE format('CREATE POLICY summary ON %s FOR SELECT TO chimera_summary USING (true)', t);
        EXECUTE format('GRANT SELECT ON %s TO chimera_summary', t);
    END LOOP;
END $$;

-- Rows of all organisations: read through telemetry.list_user_summaries only.
DO $do$
BEGIN
    EXECUTE format($view$
CREATE MATERIALIZED VIEW telemetry.user_summaries AS
SELECT m.org_id, m.user_id,
       coalesce(c.campaigns, 0)::bigint AS campaigns,
       coalesce(e.executions, 0)::bigint AS executions,
       coalesce(t.templates, 0)::bigint AS templates,
       coalesce(g.ratings, 0)::bigint AS ratings,
       greatest(c.last_at, e.last_at, t.last_at, s.last_at, k.last_at) AS last_activity_at
  FROM identity.memberships m
  LEFT JOIN (SELECT org_id, created_by, count(*) AS campaigns, max(created_at) AS last_at
               FROM campaigns.campaigns WHERE deleted_at IS NULL GROUP BY org_id, created_by) c
    ON c.org_id = m.org_id AND c.created_by = m.user_id
  LEFT JOIN (SELECT r.org_id, r.launched_by, sum(n.executions) AS executions, max(r.created_at) AS last_at
               FROM campaigns.runs r
               LEFT JOIN (SELECT run_id, sum(scored + failed + parked + skipped) AS executions
                            FROM campaigns.tallies GROUP BY run_id) n ON n.run_id = r.id
              GROUP BY r.org_id, r.launched_by) e
    ON e.org_id = m.org_id AND e.launched_by = m.user_id
  LEFT JOIN (SELECT org_id, created_by, count(*) AS templates, max(created_at) AS last_at
               FROM templates.templates WHERE deleted_at IS NULL GROUP BY org_id, created_by) t
    ON t.org_id = m.org_id AND t.created_by = m.user_id
  LEFT JOIN (%s) g ON g.org_id = m.org_id AND g.user_id = m.user_id
  LEFT JOIN (SELECT org_id, user_id, max(last_used_at) AS last_at
               FROM identity.sessions GROUP BY org_id, user_id) s
    ON s.org_id = m.org_id AND s.user_id = m.user_id
  LEFT JOIN (SELECT org_id, user_id, max(last_used_at) AS last_at
               FROM identity.api_keys GROUP BY org_id, user_id) k
    ON k.org_id = m.org_id AND k.user_id = m.user_id
WITH NO DATA
$view$, CASE WHEN to_regclass('templates.ratings') IS NULL
             THEN 'SELECT NULL::uuid AS org_id, NULL::uuid AS user_id, 0 AS ratings WHERE false'
             ELSE 'SELECT org_id, user_id, count(*) AS ratings FROM templates.ratings GROUP BY org_id, user_id' END);
END $do$;
CREATE UNIQUE INDEX user_summaries_key ON telemetry.user_summaries (org_id, user_id);
ALTER MATERIALIZED VIEW telemetry.user_summaries OWNER TO chimera_summary;

CREATE FUNCTION telemetry.list_user_summaries(asked_user uuid, after_user uuid, size int)
    RETURNS SETOF telemetry.user_summaries
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT * FROM telemetry.user_summaries
     WHERE org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
       AND (asked_user IS NULL OR user_id = asked_user)
       AND (after_user IS NULL OR user_id > after_user)
     ORDER BY user_id LIMIT size
    $$;
CREATE FUNCTION telemetry.refresh_user_summaries() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        IF (SELECT relispopulated FROM pg_class WHERE oid = 'telemetry.user_summaries'::regclass) THEN
            REFRESH MATERIALIZED VIEW CONCURRENTLY telemetry.user_summaries;
        ELSE
            REFRESH MATERIALIZED VIEW telemetry.user_summaries;
        END IF;
        INSERT INTO telemetry.refreshes VALUES ('user_summaries', now())
            ON CONFLICT (name) DO UPDATE SET refreshed_at = EXCLUDED.refreshed_at;
    END $$;
ALTER FUNCTION telemetry.list_user_summaries(uuid, uuid, int) OWNER TO chimera_summary;
ALTER FUNCTION telemetry.refresh_user_summaries() OWNER TO chimera_summary;
REVOKE CREATE ON SCHEMA telemetry FROM chimera_summary;
SET ROLE chimera_summary;
REVOKE ALL ON FUNCTION telemetry.list_user_summaries(uuid, uuid, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION telemetry.refresh_user_summaries() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION telemetry.list_user_summaries(uuid, uuid, int) TO chimera_app;
GRANT EXECUTE ON FUNCTION telemetry.refresh_user_summaries() TO chimera_worker;
REFRESH MATERIALIZED VIEW telemetry.user_summaries;
RESET ROLE;

-- migrate:down
SET lock_timeout = '5s';
SET ROLE chimera_owner;
DROP FUNCTION telemetry.refresh_user_summaries();
DROP FUNCTION telemetry.list_user_summaries(uuid, uuid, int);
DROP MATERIALIZED VIEW telemetry.user_summaries;
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['identity.memberships', 'identity.sessions', 'identity.api_keys', 'campaigns.campaigns',
                             'campaigns.runs', 'campaigns.tallies', 'templates.templates', 'templates.ratings'] LOOP
        CONTINUE WHEN to_regclass(t) IS NULL;
        EXECUTE format('DROP POLICY summary ON %s', t);
        EXECUTE format('REVOKE SELECT ON %s FROM chimera_summary', t);
    END LOOP;
END $$;
REVOKE USAGE ON SCHEMA identity, campaigns, templates, telemetry FROM chimera_summary;
DROP TABLE telemetry.refreshes;
DROP FUNCTION telemetry.visible_campaigns(uuid[]);
DROP FUNCTION telemetry.backlog();
DROP INDEX telemetry.batches_tail;
ALTER TABLE telemetry.batches DROP COLUMN resent_at;
ALTER TABLE telemetry.totals DROP COLUMN discarded;
DROP TABLE telemetry.verified;
DROP TABLE telemetry.reconciliations;
DROP TABLE telemetry.dead_letters;
DROP TABLE telemetry.receipts;
RESET ROLE;
