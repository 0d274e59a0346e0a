"""Guard: every table of a tenant is behind forced row-level security, and its machinery is sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql as pgsql

from chimera.embedded.stack import StackUrls
from chimera.settings import Settings
from tests.support.campaigns import (
    assistant_models,
    finished,
    launched,
    secret_plan,
    secret_template,
    worker,
)
from tests.support.world import World

SCHEMAS = (
    "ops", "identity", "templates", "providers", "campaigns", "telemetry", "audit", "accounting",
)  # fmt: skip
LOGINS = ("chimera_app", "chimera_worker", "chimera_sealer", "chimera_auditor", "chimera_upkeep")
# What compares with the caller's organisation; evaluated once a query, and NULL when nobody is set.
MINE = "NULLIF(current_setting('app.org_id'::text, true), ''::text)"
OPERATOR = "current_setting('app.role'::text, true)"
# Policies for the application that lean on something else, with the reason.
EXCEPTIONS = {
    ("identity.users", "member_read"): "sees through memberships, which are under the expression",
    ("identity.users", "member_change"): "sees through memberships, which are under the expression",
    ("identity.devices", "own"): "a person's own, whatever the organisation",
    ("identity.recovery_codes", "own"): "a person's own, whatever the organisation",
    ("identity.password_history", "own"): "a person's own, whatever the organisation",
    ("identity.sessions", "own"): "a person's own, whatever the organisation",
    ("identity.refresh_tokens", "own"): "a person's own, whatever the organisation",
    ("identity.one_time_tokens", "own"): "a person's own, whatever the organisation",
    ("identity.linked_identities", "own_read"): "a person's own, whatever the organisation",
    ("identity.linked_identities", "own_end"): "a person's own, whatever the organisation",
    ("identity.api_keys", "own_read"): "a person's own, whatever the organisation",
    ("identity.api_keys", "own_end"): "a person's own, and only to end them",
    ("templates.versions", "seen"): "sees through templates, which are under the expression",
    ("templates.labels", "seen"): "sees through templates, which are under the expression",
    ("templates.label_moves", "seen"): "sees through templates, which are under the expression",
    ("providers.circuit_holds", "readable"): "what operators decide for all is told to all",
    ("audit.pending", "capture"): "adding an event is everybody's; reading is under the expression",
}
# Tables an organisation owns without a column org_id, by the name of what says so.
OWNED_OTHERWISE = ("identity.organisations", "identity.users")
# Run as their owner, with that owner's rights: who that is meant to be.
DEFINERS = {
    "accounting.find_sealed_secrets": "chimera_lookup",
    "campaigns.own_shares": "chimera_lookup",
    "accounting.count_sealed_secrets": "chimera_lookup",
    "identity.find_login": "chimera_lookup",
    "identity.find_session": "chimera_lookup",
    "identity.find_api_key": "chimera_lookup",
    "identity.find_refresh_token": "chimera_lookup",
    "identity.find_key": "chimera_lookup",
    "identity.find_grants": "chimera_lookup",
    "identity.find_sign_in_provider": "chimera_lookup",
    "identity.list_sign_in_providers": "chimera_lookup",
    "identity.find_linked_identity": "chimera_lookup",
    "identity.find_sealed_sign_in": "chimera_lookup",
    "identity.count_sealed_sign_in": "chimera_lookup",
    "identity.count_sealed_totp": "chimera_lookup",
    "identity.own_teams": "chimera_lookup",
    "identity.set_superuser": "chimera_owner",
    "identity.is_last_operator": "chimera_owner",
    "identity.find_account": "chimera_lookup",
    "identity.session_state": "chimera_lookup",
    "identity.signed_in_at": "chimera_lookup",
    "identity.sign_in_provider": "chimera_lookup",
    "identity.find_one_time_token": "chimera_lookup",
    "identity.find_registration": "chimera_lookup",
    "identity.find_invitation": "chimera_lookup",
    "identity.find_person": "chimera_lookup",
    "identity.own_organisations": "chimera_lookup",
    "identity.password_rules": "chimera_lookup",
    "identity.organisation_rules": "chimera_lookup",
    "identity.sole_admin_of": "chimera_lookup",
    "identity.organisations_of": "chimera_lookup",
    "identity.find_unattached": "chimera_lookup",
    "templates.count_rating": "chimera_library",
    "templates.count_usage": "chimera_library",
    "templates.own_shares": "chimera_library",
    "templates.pinned_rows": "chimera_library",
    "templates.search": "chimera_library",
    "ops.make_partitions": "chimera_owner",
    "providers.count_sealed_keys": "chimera_lookup",
    "providers.find_keys_due": "chimera_lookup",
    "providers.find_sealed_keys": "chimera_lookup",
    "providers.owner_of_key": "chimera_lookup",
    "telemetry.drop_partitions": "chimera_owner",
    "audit.keep_until": "chimera_owner",
    "audit.drop_partition": "chimera_owner",
    "audit.erase_events": "chimera_owner",
    "audit.find_events": "chimera_lookup",
    "audit.check_leaves": "chimera_lookup",
    "telemetry.backlog": "chimera_owner",
    "telemetry.list_user_summaries": "chimera_summary",
    "telemetry.refresh_user_summaries": "chimera_summary",
}


def ask(url: str, query: LiteralString, *values: Any, role: str = "") -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        if role:
            connection.execute(pgsql.SQL("SET ROLE {}").format(pgsql.Identifier(role)))
        return connection.execute(query, values or None).fetchall()


def ask_in(
    url: str, query: pgsql.Composed, *, role: str = "", settings: Mapping[str, str] | None = None
) -> list[tuple[Any, ...]]:
    """In one transaction, as a role, with settings as a server would make them."""
    with psycopg.connect(url) as connection:
        for name, value in (settings or {}).items():
            connection.execute("SELECT set_config(%s, %s, true)", [name, value])
        if role:
            connection.execute(pgsql.SQL("SET LOCAL ROLE {}").format(pgsql.Identifier(role)))
        return connection.execute(query).fetchall()


def tenant_tables(url: str) -> list[tuple[str, bool, bool]]:
    """(schema.table, RLS enabled, RLS forced) of tables with an organisation, partitions too."""
    return [
        (name, enabled, forced)
        for name, enabled, forced in ask(
            url,
            """
            SELECT n.nspname || '.' || c.relname, c.relrowsecurity, c.relforcerowsecurity
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY(%s)
               AND (EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid
                             AND a.attname = 'org_id' AND NOT a.attisdropped)
                    OR n.nspname || '.' || c.relname = ANY(%s))
             ORDER BY 1
            """,
            list(SCHEMAS),
            list(OWNED_OTHERWISE),
        )
    ]


def test_every_tenant_table_is_forced_behind_its_policies(database_url: str) -> None:
    """Enabled alone spares the owner; partitions do not inherit either."""
    tables = tenant_tables(database_url)
    assert len(tables) > 30
    bare = [name for name, enabled, forced in tables if not (enabled and forced)]
    assert not bare, f"ALTER TABLE ... ENABLE and FORCE ROW LEVEL SECURITY, in a migration: {bare}"


def test_partitions_that_upkeep_makes_are_behind_it_too(database_url: str) -> None:
    """They are made at night, by a function, when no migration is read."""
    before = {name for name, _, _ in tenant_tables(database_url)}
    newest = max(name for name in before if name.startswith("telemetry.batches_2"))
    with psycopg.connect(database_url, autocommit=True) as connection:
        table = pgsql.Identifier(*newest.split("."))
        connection.execute(pgsql.SQL("DROP TABLE {}").format(table))
    made = ask(database_url, "SELECT made FROM ops.make_partitions()", role="chimera_worker")
    assert made == [(1,)]
    assert (newest, True, True) in tenant_tables(database_url)


def test_no_role_of_the_product_owns_or_bypasses_anything(database_url: str) -> None:
    """Row-level security binds everybody but owners, superusers and BYPASSRLS."""
    loose = ask(
        database_url,
        """
        SELECT rolname FROM pg_roles WHERE rolname LIKE 'chimera\\_%%' AND rolname <> %s
           AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolcanlogin)
        """,
        "chimera_admin",
    )
    assert not loose, f"roles with more than they need: {loose}"
    owned = ask(
        database_url,
        """
        SELECT r.rolname, c.oid::regclass::text FROM pg_class c
          JOIN pg_roles r ON r.oid = c.relowner WHERE r.rolname = ANY(%s)
        """,
        list(LOGINS),
    )
    assert not owned, f"make chimera_owner the owner (SET ROLE in the migration): {owned}"
    members = ask(
        database_url,
        """
        SELECT m.rolname, g.rolname FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member
          JOIN pg_roles g ON g.oid = a.roleid WHERE m.rolname = ANY(%s)
        """,
        list(LOGINS),
    )
    assert not members, f"a role that may become another is that other: {members}"


def test_policies_compare_with_the_callers_organisation(database_url: str) -> None:
    """One expression everywhere, so that an unset caller is nobody and not an error or everybody."""
    policies: Sequence[tuple[Any, ...]] = ask(
        database_url,
        """
        SELECT schemaname || '.' || tablename, policyname, qual, with_check, cmd FROM pg_policies
         WHERE 'chimera_app' = ANY(roles) OR 'chimera_auditor' = ANY(roles)
            OR 'public' = ANY(roles)
        """,
    )
    assert len(policies) > 30
    wrong = []
    for table, policy, using, check, command in policies:
        if (table, policy) in EXCEPTIONS:
            continue
        needed = [using] if command in ("SELECT", "DELETE") else [using, check]
        if command == "INSERT":
            needed = [check]
        if command == "UPDATE" or (command == "ALL" and check is None):
            needed = [using]  # WITH CHECK is the same where none is given
        wrong += [
            f"{table} {policy}"
            for expression in needed
            if expression is None or not (MINE in expression or OPERATOR in expression)
        ]
    assert not wrong, f"compare org_id with (SELECT {MINE}::uuid) in these policies: {wrong}"


def test_functions_that_lift_the_policies_are_few_and_fenced(database_url: str) -> None:
    """A fixed search_path, an owner chosen for it, and nobody may call them unasked."""
    rows = ask(
        database_url,
        """
        SELECT n.nspname || '.' || p.proname, pg_get_userbyid(p.proowner),
               COALESCE(array_to_string(p.proconfig, ' '), ''),
               has_function_privilege('chimera_auditor', p.oid, 'EXECUTE')
          FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE p.prosecdef AND n.nspname = ANY(%s)
        """,
        list(SCHEMAS),
    )
    assert {name: owner for name, owner, _, _ in rows} == DEFINERS, (
        "a SECURITY DEFINER function came, went or changed hands: say so in DEFINERS"
    )
    for name, _, config, for_everyone in rows:
        assert "search_path=pg_catalog, pg_temp" in config, f"{name}: SET search_path on it"
        assert not for_everyone, f"{name}: REVOKE ALL ON FUNCTION ... FROM PUBLIC"
    views = ask(
        database_url,
        """
        SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'v' AND n.nspname = ANY(%s)
           AND NOT COALESCE(c.reloptions, '{}') @> '{security_invoker=true}'
        """,
        list(SCHEMAS),
    )
    assert not views, f"a view runs as its owner: make it security_invoker: {views}"


@pytest.fixture
async def filled(world: World, stack: StackUrls, settings: Settings) -> str:
    """URL of a database in which an organisation has run a campaign."""
    acme = await world.organisation("acme")
    models = await assistant_models(acme.admin, stack.assistant_url, ["guard-none"])
    await acme.admin.operations.SetKillSwitch(sending_stopped=False, reason="all is well")
    async with worker(settings):
        plan = secret_plan(await secret_template(acme.admin), models)
        run = await launched(acme.admin, plan)
        await finished(acme.admin, run.id)
    return settings.database_url.get_secret_value()


async def test_nobody_in_particular_sees_nothing(filled: str) -> None:
    """On a database full of rows, the application without a caller reads not one of them."""
    full = 0
    for table, _, _ in tenant_tables(filled):
        count = pgsql.SQL("SELECT count(*) FROM {}").format(pgsql.Identifier(*table.split(".")))
        [(there,)] = ask_in(filled, count)
        full += there > 0
        for settings in ({}, {"app.org_id": "", "app.user_id": "", "app.role": ""}):
            try:
                [(found,)] = ask_in(filled, count, role="chimera_app", settings=settings)
            except psycopg.errors.InsufficientPrivilege:
                continue
            assert found == 0, f"{table}: {found} rows are seen without a caller"
    assert full > 15
