"""Guard: every column with sealed values is re-wrapped when the master key changes.

One that is forgotten keeps its old version: retiring that version would make it unreadable, and
nothing would have counted it.
"""

from __future__ import annotations

import psycopg

from chimera.providers.sealed_places import PLACES


def test_every_sealed_column_is_a_place(database_url: str) -> None:
    """By its name, which ends in `sealed`, and its type, jsonb."""
    with psycopg.connect(database_url) as connection:
        columns = connection.execute(
            """SELECT n.nspname || '.' || c.relname || '.' || a.attname, a.attname,
                      (SELECT string_agg(pg_get_triggerdef(t.oid), ' ') FROM pg_trigger t
                         JOIN pg_proc p ON p.oid = t.tgfoid
                        WHERE t.tgrelid = c.oid AND p.proname = 'hold_key_version'),
                      has_column_privilege('chimera_worker', c.oid, a.attnum, 'UPDATE')
                 FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                 JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE a.attname LIKE '%sealed' AND a.atttypid = 'jsonb'::regtype
                  AND c.relkind IN ('r', 'p') AND NOT a.attisdropped"""
        ).fetchall()
    found = {name for name, *_ in columns}
    assert found == {place.name for place in PLACES}, (
        "list the column in chimera/providers/sealed_places.py, which says how"
    )
    assert len(PLACES) == len(found), "a place is listed once, or its values count twice"
    for name, column, triggers, may_update in columns:
        assert f"'{column}'" in (triggers or ""), (
            f"{name}: add a trigger BEFORE INSERT OR UPDATE OF {column} that calls"
            f" ops.hold_key_version('{column}')"
        )
        assert may_update, f"{name}: GRANT UPDATE ({column}) to chimera_worker, who wraps it anew"
