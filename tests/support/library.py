"""Builders for tests of the prompt library: templates, teams, refusals, the database behind."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import psycopg
import pytest

from chimera.ids import new_id
from tests.support.world import Organisation, Person, Refused, World

HELLO: dict[str, Any] = {
    "messages": [{"role": "MESSAGE_ROLE_USER", "text": "Hello {{ name }}"}],
    "variables": [{"name": "name", "kind": "VARIABLE_KIND_STRING"}],
}


def user_says(*texts: str) -> list[dict[str, str]]:
    return [{"role": "MESSAGE_ROLE_USER", "text": text} for text in texts]


async def told(call: Awaitable[Any]) -> tuple[str, str]:
    """Code and reason of a call that is refused."""
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.code, refused.value.reason


async def new_template(person: Person, **fields: Any) -> Any:
    made = await person.templates.CreateTemplate(**{"title": "greeting", **HELLO, **fields})
    return made.template


def ask(world: World, query: Any, **params: Any) -> list[tuple[Any, ...]]:
    """As the owner of the cluster, past all policies."""
    url = world.settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query, params)
        return cursor.fetchall() if cursor.description else []


def new_team(world: World, org: Organisation, *people: Person) -> str:
    """A team of the organisation with these people."""
    team_id = new_id()
    maker = org.admin.user_id
    ask(
        world,
        "INSERT INTO identity.teams (id, org_id, name, created_by) VALUES (%(id)s::uuid, %(org)s, %(id)s::text, %(by)s)",
        id=team_id,
        org=org.id,
        by=maker,
    )
    for person in people:
        ask(
            world,
            """INSERT INTO identity.team_members (org_id, team_id, user_id, added_by)
               VALUES (%(org)s, %(team)s, %(user)s, %(by)s)""",
            org=org.id,
            team=team_id,
            user=person.user_id,
            by=maker,
        )
    return team_id
