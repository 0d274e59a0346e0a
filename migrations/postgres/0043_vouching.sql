-- migrate:up
-- An organisation may believe its sign-in provider that it has asked for a second factor.
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

SET ROLE chimera_owner;
ALTER TABLE identity.sign_in_providers
    -- Values of the ID token's claims amr and acr that say so; none: it is not believed.
    ADD COLUMN second_factor_amr text[] NOT NULL DEFAULT '{}',
    ADD COLUMN second_factor_acr text[] NOT NULL DEFAULT '{}';
-- Its second factor is the word of the organisation's provider: no other organisation need believe it.
ALTER TABLE identity.sessions ADD COLUMN is_vouched boolean NOT NULL DEFAULT false;

-- The release before asks find_sign_in_provider, which stays as it is.
CREATE FUNCTION identity.sign_in_provider(provider_id uuid)
RETURNS TABLE (id uuid, org_id uuid, name text, kind text, issuer text, client_id text, sealed jsonb,
               row_version int, redirect_uris text[], new_user_role text, email_domains text[],
               second_factor_amr text[], second_factor_acr text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.id, p.org_id, p.name, p.kind, p.issuer, p.client_id, p.sealed, p.row_version, p.redirect_uris,
           p.new_user_role, p.email_domains, p.second_factor_amr, p.second_factor_acr
      FROM identity.sign_in_providers p
      JOIN identity.organisations o ON o.id = p.org_id AND o.deleted_at IS NULL
     WHERE p.id = sign_in_provider.provider_id AND p.is_enabled AND p.deleted_at IS NULL
$$;
GRANT CREATE ON SCHEMA identity TO chimera_lookup;
ALTER FUNCTION identity.sign_in_provider(uuid) OWNER TO chimera_lookup;
REVOKE CREATE ON SCHEMA identity FROM chimera_lookup;
SET ROLE chimera_lookup;
REVOKE ALL ON FUNCTION identity.sign_in_provider(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.sign_in_provider(uuid) TO chimera_app;
RESET ROLE;

-- migrate:down
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

SET ROLE chimera_owner;
DROP FUNCTION identity.sign_in_provider(uuid);
ALTER TABLE identity.sessions DROP COLUMN is_vouched;
ALTER TABLE identity.sign_in_providers DROP COLUMN second_factor_amr, DROP COLUMN second_factor_acr;
RESET ROLE;
