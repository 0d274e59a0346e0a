-- migrate:up
-- Whoever proves the mailbox of an account first takes it over from whoever prepared it, and a new
-- password ends what was sent to a person, whichever organisation's session it was asked in.
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

SET ROLE chimera_owner;
DO $$
DECLARE
    me constant text := '(SELECT NULLIF(current_setting(''app.user_id'', true), '''')::uuid)';
BEGIN
    EXECUTE format('CREATE POLICY own ON identity.one_time_tokens TO chimera_app USING (user_id = %s) WITH CHECK (user_id = %s)', me, me);
    EXECUTE format('CREATE POLICY own_read ON identity.linked_identities FOR SELECT TO chimera_app USING (user_id = %s)', me);
    EXECUTE format('CREATE POLICY own_end ON identity.linked_identities FOR DELETE TO chimera_app USING (user_id = %s)', me);
    EXECUTE format('CREATE POLICY own_read ON identity.api_keys FOR SELECT TO chimera_app USING (user_id = %s)', me);
    EXECUTE format('CREATE POLICY own_end ON identity.api_keys FOR UPDATE TO chimera_app USING (user_id = %s) WITH CHECK (user_id = %s AND NOT is_active)', me, me);
END $$;

-- What was written to an address of late, by a keyed digest of it: nobody fills another's mailbox.
CREATE TABLE identity.letters (
    address_hash bytea NOT NULL,
    kind text NOT NULL,
    mail_id text NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (address_hash, kind, mail_id)
);
CREATE INDEX letters_written ON identity.letters (written_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON identity.letters TO chimera_worker;
RESET ROLE;

-- migrate:down
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

SET ROLE chimera_owner;
DROP TABLE identity.letters;
DROP POLICY own_end ON identity.api_keys;
DROP POLICY own_read ON identity.api_keys;
DROP POLICY own_end ON identity.linked_identities;
DROP POLICY own_read ON identity.linked_identities;
DROP POLICY own ON identity.one_time_tokens;
RESET ROLE;
