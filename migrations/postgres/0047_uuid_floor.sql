-- migrate:up
-- The smallest id of a moment: rounded down, or an event of the same millisecond would lie before it,
-- and never below the first moment an id can name (some clients say year 1 for "ever").
SET ROLE chimera_owner;
CREATE OR REPLACE FUNCTION ops.uuid_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex(GREATEST(floor(extract(epoch FROM at) * 1000), 0)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
CREATE OR REPLACE FUNCTION ops.uuid_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
RESET ROLE;
