"""Which variables of templates are secret, for those who keep rows of values."""

from __future__ import annotations

from collections.abc import Collection

from chimera.db import Tx, sql

# Of all versions, and of the partials they include: a value that was secret once stays it.
LIST_SECRETS = sql(
    dict,
    """
    WITH RECURSIVE used AS (
        SELECT t.id AS root, t.id AS template_id FROM unnest(%(template_ids)s::uuid[]) AS t (id)
        UNION
        SELECT u.root, (p.it->>'template_id')::uuid
          FROM used u JOIN templates.versions v ON v.template_id = u.template_id
         CROSS JOIN LATERAL jsonb_array_elements(v.partials) AS p (it)
    )
    SELECT u.root::text AS template_id, bool_and(v.id IS NOT NULL) AS is_seen,
           COALESCE(array_agg(DISTINCT x.it->>'name') FILTER (WHERE x.it IS NOT NULL), '{}') AS names
      FROM used u
      LEFT JOIN templates.versions v ON v.template_id = u.template_id
      LEFT JOIN LATERAL jsonb_array_elements(v.variables) AS x (it) ON (x.it->>'secret')::boolean
     GROUP BY u.root
    """,
)


async def list_secrets(tx: Tx, template_ids: Collection[str]) -> dict[str, frozenset[str]]:
    """Names of the secret variables by template. A template that the caller does not see whole is
    left out."""
    rows = await tx.all(LIST_SECRETS, template_ids=sorted(set(template_ids)))
    return {row["template_id"]: frozenset(row["names"]) for row in rows if row["is_seen"]}
