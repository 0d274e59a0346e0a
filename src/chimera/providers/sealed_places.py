"""Every place that holds sealed values, so that none is forgotten when the master key changes.

To add one: the column's name ends in `sealed` (jsonb, see keyring.sealed_json); a trigger calls
ops.hold_key_version('<column>') before it is written; `count` and `find` go past row-level security by
a SECURITY DEFINER function that tells ids only; the worker may UPDATE the column. Then it is listed in
PLACES, and the rotation and the check before retiring a version cover it. A guard
(tests/guards/test_sealed_places.py) finds the column that was forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from chimera.db import Nothing, Statement, sql
from chimera.keyring import field_context, secret_context
from chimera.providers.keys import seal_context
from chimera.providers.vault import SealContext


@dataclass(frozen=True, slots=True)
class Wrapped:
    """How many values a version of the master key wraps."""

    kek_version: int
    count: int


@dataclass(frozen=True, slots=True)
class Place:
    """A column with sealed values; `name` is schema.table.column.

    count: rows as Wrapped, of all organisations. find(newest, after, size): what another version
    wraps, as {key, org_id}, by key; keys are text. get(key): the row as it is, within its
    organisation. context: what its value is bound to. replace(key, sealed, old): only while the
    value is still `old`, so a value somebody changed meanwhile is left to them.
    """

    name: str
    first: str
    count: Statement[Wrapped]
    find: Statement[dict[str, Any]]
    get: Statement[dict[str, Any]]
    replace: Statement[Nothing]
    context: Callable[[dict[str, Any]], SealContext] = field(repr=False)


def webhook_context(org_id: str, webhook_id: str, row_version: int) -> SealContext:
    """What the secret of a webhook is bound to; also when it is the one before."""
    return SealContext(UUID(org_id), "accounting.webhooks", UUID(webhook_id), "sealed", row_version)


PLACES: tuple[Place, ...] = (
    Place(
        name="providers.provider_keys.sealed",
        first="00000000-0000-0000-0000-000000000000",
        count=sql(Wrapped, "SELECT kek_version, count FROM providers.count_sealed_keys()"),
        find=sql(
            dict,
            """
            SELECT id::text AS key, org_id
              FROM providers.find_sealed_keys(%(newest)s::int, %(after)s::uuid, %(size)s::int)
            """,
        ),
        get=sql(
            dict,
            """
            SELECT id, org_id, provider_id, row_version, sealed FROM providers.provider_keys
             WHERE id = %(key)s::uuid AND sealed ? 'kek_version'
            """,
        ),
        replace=sql(
            Nothing,
            """
            UPDATE providers.provider_keys SET sealed = %(sealed)s::jsonb
             WHERE id = %(key)s::uuid AND sealed = %(old)s::jsonb
            """,
        ),
        context=lambda row: seal_context(
            row["org_id"], row["id"], row["provider_id"], row["row_version"]
        ),
    ),
    Place(
        name="identity.sign_in_providers.sealed",
        first="00000000-0000-0000-0000-000000000000",
        count=sql(Wrapped, "SELECT kek_version, count FROM identity.count_sealed_sign_in()"),
        find=sql(
            dict,
            """
            SELECT id::text AS key, org_id
              FROM identity.find_sealed_sign_in(%(newest)s::int, %(after)s::uuid, %(size)s::int)
            """,
        ),
        get=sql(
            dict,
            """
            SELECT id, org_id, row_version, sealed FROM identity.sign_in_providers
             WHERE id = %(key)s::uuid AND sealed ? 'kek_version'
            """,
        ),
        replace=sql(
            Nothing,
            """
            UPDATE identity.sign_in_providers SET sealed = %(sealed)s::jsonb
             WHERE id = %(key)s::uuid AND sealed = %(old)s::jsonb
            """,
        ),
        context=lambda row: SealContext(
            UUID(row["org_id"]),
            "identity.sign_in_providers",
            UUID(row["id"]),
            "sealed",
            row["row_version"],
        ),
    ),
    Place(
        name="identity.users.totp_sealed",
        first="00000000-0000-0000-0000-000000000000",
        count=sql(Wrapped, "SELECT kek_version, count FROM identity.count_sealed_totp()"),
        find=sql(
            dict,
            """
            SELECT id::text AS key, '' AS org_id FROM identity.users
             WHERE totp_sealed IS NOT NULL AND id > %(after)s::uuid
               AND (totp_sealed->>'kek_version')::int <> %(newest)s::int
             ORDER BY id LIMIT %(size)s::int
            """,
        ),
        get=sql(
            dict,
            """
            SELECT id, totp_version, totp_sealed AS sealed FROM identity.users
             WHERE id = %(key)s::uuid AND totp_sealed IS NOT NULL
            """,
        ),
        replace=sql(
            Nothing,
            """
            UPDATE identity.users SET totp_sealed = %(sealed)s::jsonb
             WHERE id = %(key)s::uuid AND totp_sealed = %(old)s::jsonb
            """,
        ),
        context=lambda row: field_context("identity.users", row["id"], "totp", row["totp_version"]),
    ),
    Place(
        name="accounting.webhooks.sealed",
        first="00000000-0000-0000-0000-000000000000",
        count=sql(Wrapped, "SELECT kek_version, count FROM accounting.count_sealed_secrets(false)"),
        find=sql(
            dict,
            """
            SELECT id::text AS key, org_id
              FROM accounting.find_sealed_secrets(
                       %(newest)s::int, false, %(after)s::uuid, %(size)s::int)
            """,
        ),
        get=sql(
            dict,
            """
            SELECT id, org_id, row_version, sealed
              FROM accounting.webhooks WHERE id = %(key)s::uuid AND sealed ? 'kek_version'
            """,
        ),
        replace=sql(
            Nothing,
            """
            UPDATE accounting.webhooks SET sealed = %(sealed)s::jsonb
             WHERE id = %(key)s::uuid AND sealed = %(old)s::jsonb
            """,
        ),
        context=lambda row: webhook_context(row["org_id"], row["id"], row["row_version"]),
    ),
    Place(
        name="accounting.webhooks.previous_sealed",
        first="00000000-0000-0000-0000-000000000000",
        count=sql(Wrapped, "SELECT kek_version, count FROM accounting.count_sealed_secrets(true)"),
        find=sql(
            dict,
            """
            SELECT id::text AS key, org_id
              FROM accounting.find_sealed_secrets(
                       %(newest)s::int, true, %(after)s::uuid, %(size)s::int)
            """,
        ),
        get=sql(
            dict,
            """
            SELECT id, org_id, previous_row_version AS row_version, previous_sealed AS sealed
              FROM accounting.webhooks WHERE id = %(key)s::uuid AND previous_sealed ? 'kek_version'
            """,
        ),
        replace=sql(
            Nothing,
            """
            UPDATE accounting.webhooks SET previous_sealed = %(sealed)s::jsonb
             WHERE id = %(key)s::uuid AND previous_sealed = %(old)s::jsonb
            """,
        ),
        context=lambda row: webhook_context(row["org_id"], row["id"], row["row_version"]),
    ),
    Place(
        name="ops.secrets.sealed",
        first="",
        count=sql(
            Wrapped,
            """
            SELECT (sealed->>'kek_version')::int AS kek_version, count(*) AS count
              FROM ops.secrets GROUP BY 1
            """,
        ),
        find=sql(
            dict,
            """
            SELECT s.name || '/' || s.version AS key, '' AS org_id FROM ops.secrets s
             WHERE (s.sealed->>'kek_version')::int <> %(newest)s::int
               AND s.name || '/' || s.version > %(after)s
             ORDER BY 1 LIMIT %(size)s
            """,
        ),
        get=sql(
            dict,
            "SELECT name, version, sealed FROM ops.secrets WHERE name || '/' || version = %(key)s",
        ),
        replace=sql(
            Nothing,
            """
            UPDATE ops.secrets SET sealed = %(sealed)s::jsonb
             WHERE name || '/' || version = %(key)s AND sealed = %(old)s::jsonb
            """,
        ),
        context=lambda row: secret_context(row["name"], row["version"]),
    ),
)
