-- migrate:up
-- Erasing somebody destroys the secrets of their provider keys, as revoking them does.
SET LOCAL lock_timeout = '5s';
SET ROLE chimera_owner;
GRANT UPDATE (name, prefix, last_four, is_default, revoked_at, rotate_at) ON providers.provider_keys TO chimera_worker;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
REVOKE UPDATE (name, prefix, last_four, is_default, revoked_at, rotate_at) ON providers.provider_keys FROM chimera_worker;
RESET ROLE;
