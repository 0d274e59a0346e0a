-- migrate:up
SET ROLE chimera_owner;
-- A tsvector ends at 1 MB: an event that says more could not be indexed, so not be sealed, and would
-- hold up every event after it. Of such an event the first 100,000 characters are searched.
CREATE OR REPLACE FUNCTION audit.words(fields jsonb) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN octet_length(fields::text) <= 250000
        THEN jsonb_to_tsvector('simple'::regconfig, jsonb_path_query_array(fields, '$[*].value'), '["string"]')
        ELSE to_tsvector('simple'::regconfig,
                         (SELECT COALESCE(left(string_agg(left(v #>> '{}', 100000), ' '), 100000), '')
                            FROM jsonb_path_query(fields, '$[*].value') AS v))
    END
$$;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
CREATE OR REPLACE FUNCTION audit.words(fields jsonb) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_to_tsvector('simple'::regconfig, jsonb_path_query_array(fields, '$[*].value'), '["string"]')
$$;
RESET ROLE;
