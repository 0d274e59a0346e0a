-- migrate:up
-- A provider key is for the host its secret was stored for: a provider that is moved elsewhere does not
-- take people's secrets along.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';
SET ROLE chimera_owner;
-- Scheme and host: whom a certificate speaks for. URLs of providers have no user in them.
CREATE FUNCTION providers.host_of(url text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT lower(substring(url FROM '^([^:/]+://(?:\[[^]]*\]|[^:/]*))')) $$;

ALTER TABLE providers.provider_keys ADD COLUMN stored_for text NOT NULL DEFAULT '';
-- The owner sees rows only where no policy is forced on it.
ALTER TABLE providers.provider_keys NO FORCE ROW LEVEL SECURITY;
ALTER TABLE providers.providers NO FORCE ROW LEVEL SECURITY;
UPDATE providers.provider_keys k SET stored_for = providers.host_of(p.base_url)
  FROM providers.providers p WHERE p.id = k.provider_id;
ALTER TABLE providers.providers FORCE ROW LEVEL SECURITY;
ALTER TABLE providers.provider_keys FORCE ROW LEVEL SECURITY;

-- A new secret is for where the provider is now; one that is only wrapped anew stays where it was for.
CREATE FUNCTION providers.note_host() RETURNS trigger LANGUAGE plpgsql
    AS $$
BEGIN
    SELECT providers.host_of(p.base_url) INTO NEW.stored_for
      FROM providers.providers p WHERE p.id = NEW.provider_id;
    RETURN NEW;
END
$$;
CREATE TRIGGER note_host BEFORE INSERT OR UPDATE OF row_version ON providers.provider_keys
    FOR EACH ROW EXECUTE FUNCTION providers.note_host();
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
DROP TRIGGER note_host ON providers.provider_keys;
DROP FUNCTION providers.note_host();
ALTER TABLE providers.provider_keys DROP COLUMN stored_for;
DROP FUNCTION providers.host_of(text);
RESET ROLE;
