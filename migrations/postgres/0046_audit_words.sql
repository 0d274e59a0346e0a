-- migrate:up
-- A tsvector ends at 1 MB: an event that says more could not be indexed, so not be sealed, and would
-- hold up every event after it. Of such an event the first 100,000 characters are searched.
SET ROLE chimera_owner;
CREATE FUNCTION audit.first_words(fields jsonb) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT to_tsvector('simple'::regconfig,
                       COALESCE(left(string_agg(left(v #>> '{}', 100000), ' '), 100000), ''))
      FROM jsonb_path_query(fields, '$[*].value') AS v
$$;
-- An expression and no query, so that it is evaluated in place: it runs for every event.
CREATE OR REPLACE FUNCTION audit.words(fields jsonb) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN octet_length(fields::text) > 250000 THEN audit.first_words(fields)
           ELSE jsonb_to_tsvector('simple'::regconfig, jsonb_path_query_array(fields, '$[*].value'), '["string"]') END
$$;
RESET ROLE;

-- migrate:down
SET ROLE chimera_owner;
CREATE OR REPLACE FUNCTION audit.words(fields jsonb) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_to_tsvector('simple'::regconfig, jsonb_path_query_array(fields, '$[*].value'), '["string"]')
$$;
DROP FUNCTION audit.first_words(jsonb);
RESET ROLE;
