"""Guard: every registered SQL statement is understood by the migrated database, and the role that
runs it may run it.

PREPARE finds unknown tables, columns and types; EXPLAIN (GENERIC_PLAN) also checks permissions,
which PREPARE does not. Nothing is executed.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import Any

import psycopg

import chimera
import workers
from chimera.db import STATEMENTS, Statement

# Where statements run as somebody else than the server (chimera_app). A module that serves both
# names both roles; a statement must be allowed to one of them.
ROLES = {
    "workers": ("chimera_worker",),
    "chimera.accounting.deliveries": ("chimera_app", "chimera_worker"),
    "chimera.accounting.letters": ("chimera_worker",),
    "chimera.accounting.retention": ("chimera_worker",),
    "chimera.accounting.usage": ("chimera_worker",),
    "chimera.accounting.windows": ("chimera_worker",),
    "chimera.audit.sealer": ("chimera_sealer",),
    "chimera.audit.inspection": ("chimera_auditor",),
    "chimera.audit.operations": ("chimera_app", "chimera_sealer"),
    "chimera.audit.restore": ("chimera_sealer", "chimera_app"),
    "chimera.audit.witnessing": ("chimera_sealer",),
    "chimera.audit.monitor": ("chimera_worker",),
    "chimera.audit.configuration": ("chimera_app", "chimera_worker"),
    "chimera.audit.erasure": ("chimera_app", "chimera_worker"),
    "chimera.audit.drops": ("chimera_worker", "chimera_upkeep"),
    "chimera.campaigns.analytics.collecting": ("chimera_worker",),
    "chimera.campaigns.engine": ("chimera_worker",),
    "chimera.campaigns.personal": ("chimera_app", "chimera_worker"),
    "chimera.federation.flow": ("chimera_app", "chimera_worker"),
    "chimera.campaigns.evaluation.judging": ("chimera_worker",),
    "chimera.identity.bootstrap": ("chimera_owner",),
    "chimera.identity.signing_keys": ("chimera_app", "chimera_worker"),
    "chimera.identity.usage": ("chimera_worker",),
    "chimera.identity.letters": ("chimera_worker",),
    "chimera.identity.mailboxes": ("chimera_worker",),
    "chimera.identity.erasure": ("chimera_app", "chimera_worker"),
    "chimera.identity.purging": ("chimera_worker",),
    "chimera.outbox": ("chimera_app", "chimera_worker"),
    "chimera.providers.circuits": ("chimera_app", "chimera_worker"),
    "chimera.providers.health": ("chimera_app", "chimera_worker"),
    "chimera.campaigns.template_use": ("chimera_worker",),
    "chimera.templates.usages": ("chimera_app", "chimera_worker"),
    "chimera.providers.key_usage": ("chimera_app", "chimera_worker"),
    "chimera.providers.keys": ("chimera_app", "chimera_worker"),
    "chimera.providers.personal": ("chimera_app", "chimera_worker"),
    "chimera.providers.rotation": ("chimera_app", "chimera_worker"),
    "chimera.providers.sealed_places": ("chimera_worker",),
    "chimera.providers.probes": ("chimera_app", "chimera_worker"),
    "chimera.telemetry.drain": ("chimera_worker",),
    "chimera.telemetry.ledger": ("chimera_worker", "chimera_app"),
    "chimera.telemetry.rollups": ("chimera_worker",),
    "chimera.telemetry.summaries": ("chimera_worker",),
    "chimera.telemetry.operations": ("chimera_app", "chimera_worker"),
}
# Run by more than one role, so every one of them must be allowed.
SHARED = {
    "chimera.accounting.reconciling": ("chimera_app", "chimera_worker"),
    "chimera.audit.recording": ("chimera_app", "chimera_worker"),
    "chimera.keyring": ("chimera_app", "chimera_worker", "chimera_sealer"),
}
DEFAULT = ("chimera_app",)


def all_statements() -> list[Statement[Any]]:
    """Of every module of the product, whether a service imports it or not."""
    for package in (chimera, workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            # The command line talks to the public API and has no SQL.
            if not module.name.startswith("chimera.cli") and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return [s for s in STATEMENTS if s.where.partition(".")[0] in ("chimera", "workers")]


def roles_of(where: str) -> tuple[str, ...]:
    """By the longest prefix of the module's name."""
    parts = where.split(".")
    for length in range(len(parts), 0, -1):
        roles = ROLES.get(".".join(parts[:length]))
        if roles:
            return roles
    return DEFAULT


def numbered(statement: Statement[Any]) -> tuple[str, int]:
    """The text as the server sees it ($1, $2 ...), and how many parameters it has."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    text = re.sub(r"%%|%\((\w+)\)[sb]", number, statement.text)
    return text.strip().rstrip(";"), len(names)


def refusal(connection: psycopg.Connection[Any], role: str, text: str) -> str:
    """Why the role cannot run the statement; "" when it can."""
    with connection.transaction(force_rollback=True):
        try:
            connection.execute(f"SET LOCAL ROLE {role}".encode())
            connection.execute(f"PREPARE probe AS {text}".encode())
            connection.execute("DEALLOCATE probe")
            if text.split(None, 1)[0].upper() in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"):
                connection.execute(f"EXPLAIN (GENERIC_PLAN) {text}".encode())
        except psycopg.Error as error:
            return f"{role}: {error.diag.message_primary}"
    return ""


def test_every_statement_is_prepared_by_the_role_that_runs_it(database_url: str) -> None:
    """No call finds out at night that a column was renamed or a grant forgotten."""
    statements = all_statements()
    wrong = []
    with psycopg.connect(database_url, autocommit=True) as connection:
        for statement in statements:
            text, _ = numbered(statement)
            shared = SHARED.get(statement.where)
            roles = shared or roles_of(statement.where)
            refusals = [reason for role in roles if (reason := refusal(connection, role, text))]
            if refusals and (shared or len(refusals) == len(roles)):
                first = " ".join(statement.text.split())[:70]
                wrong.append(f"{statement.where}: {first}\n    {'; '.join(refusals)}")
    assert len(statements) > 100
    assert not wrong, (
        "mend the SQL, add the grant in a new migration, or name the module's role in ROLES:\n"
        + "\n".join(wrong)
    )


def test_parameters_are_named() -> None:
    """%s by position is what goes wrong silently when somebody adds a column."""
    unnamed = [
        f"{statement.where}: {' '.join(statement.text.split())[:70]}"
        for statement in all_statements()
        if "%" in re.sub(r"%%|%\(\w+\)[sb]", "", statement.text)
    ]
    assert not unnamed, "name the parameters, %(name)s:\n" + "\n".join(unnamed)


def sorted_as_text(text: str) -> set[str]:
    """Columns put out as text and sorted by that name: ORDER BY takes the output, so 1000 is before 999.
    Ids sort alike as texts."""
    put_out = {
        (found[2] or found[1]).rpartition(".")[2]
        for found in re.finditer(r"\b([\w.]+)::text\b(?:\s+AS\s+(\w+))?(?=\s*(?:,|FROM\b))", text)
    }
    orders = re.findall(r"ORDER BY\s+(.*?)(?=\bLIMIT\b|\)|$)", text, re.DOTALL)
    keys = {key.split()[0] for order in orders for key in order.split(",") if key.strip()}
    return {name for name in put_out & keys if name != "id" and not name.endswith("_id")}


def test_nothing_is_sorted_as_the_text_it_is_put_out_as() -> None:
    assert sorted_as_text("SELECT xid::text AS xid, id FROM t ORDER BY xid, id LIMIT 1") == {"xid"}
    assert sorted_as_text("SELECT id, t.xid::text FROM t ORDER BY id, xid DESC") == {"xid"}
    assert not sorted_as_text("SELECT xid::text AS xid, id FROM t ORDER BY t.xid, id LIMIT 1")
    wrong = [
        f"{statement.where}: {', '.join(names)} in {' '.join(statement.text.split())[:70]}"
        for statement in all_statements()
        if (names := sorted_as_text(statement.text))
    ]
    assert not wrong, "qualify the column in ORDER BY, or name the text otherwise:\n" + "\n".join(
        wrong
    )
