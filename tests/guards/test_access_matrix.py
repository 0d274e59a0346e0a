"""Guard: custom roles, conditions, keys and endings, each against every RPC there is.

access.txt shows the built-in roles; here the answer follows from what each RPC declares, so that a new
one is examined without editing anything.
"""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
import pytest

from chimera.core import open_core
from chimera.embedded.stack import StackUrls
from chimera.gate import Method
from chimera.identity.roles import ROLES
from chimera.identity.tokens import Tokens
from chimera.settings import Settings
from chimera.v1.identity_pb2 import Role
from chimera.v1.options_pb2 import Permission
from tests.guards.test_access import METHODS, answer_of
from tests.support.processes import eventually
from tests.support.stack import settings_with
from tests.support.world import Organisation, Person, World

CUSTOM = frozenset(
    {
        Permission.PERMISSION_AUDIT_READ,
        Permission.PERMISSION_TEMPLATE_WRITE,
        Permission.PERMISSION_PROVIDER_MANAGE,
        Permission.PERMISSION_ROLE_READ,
    }
)


@pytest.fixture
def settings(settings: Settings, clickhouse_url: str) -> Settings:
    return settings_with(settings, clickhouse_url=clickhouse_url)


def holding(permissions: frozenset[int]) -> Callable[[Method], str]:
    """What the gate must answer somebody with these permissions."""

    def expected(method: Method) -> str:
        if method.access.WhichOneof("who") != "permission":
            return "in"
        return "in" if method.access.permission in permissions else "PERMISSION_DENIED"

    return expected


def by_key(permissions: frozenset[int]) -> Callable[[Method], str]:
    """The same for an API key, which is never a person who is there."""
    held = holding(permissions)
    return lambda method: "PERMISSION_DENIED" if method.access.session_only else held(method)


def refusing(code: str) -> Callable[[Method], str]:
    """For a credential that is worth nothing: only what is public goes on."""
    return lambda method: "in" if method.access.public else code


async def custom_roles(acme: Organisation) -> dict[str, tuple[str, Callable[[Method], str]]]:
    """Credentials by what they are, with what every RPC must answer them."""
    admin, access = acme.admin, acme.admin.access
    made = await access.CreateRole(name="custom", permissions=sorted(CUSTOM))
    carla, lars, tara = [await acme.person(n, role="viewer") for n in ("carla", "lars", "tara")]
    await access.CreateGrant(role_id=made.role.id, user_id=carla.user_id)
    await access.CreateGrant(
        built_in_role=Role.ROLE_ADMIN,
        user_id=lars.user_id,
        conditions={"valid_until": datetime(2020, 1, 1, tzinfo=UTC)},
    )
    team = (await admin.teams.CreateTeam(name="team")).team
    await admin.teams.SetTeamMember(team_id=team.id, user_id=tara.user_id)
    await access.CreateGrant(role_id=made.role.id, team_id=team.id)
    for person in (admin, carla, lars, tara):
        await person.refresh()
    far = await admin.identity.CreateApiKey(name="far", source_networks=["192.0.2.0/24"])
    narrow = await admin.identity.CreateApiKey(
        name="narrow", scopes=[Permission.PERMISSION_AUDIT_READ]
    )
    wide = frozenset(ROLES["viewer"] | CUSTOM)
    return {
        "a viewer with a custom role": (carla.credential, holding(wide)),
        "an administrator whose time is over": (lars.credential, holding(ROLES["viewer"])),
        "a viewer in a team with a role": (tara.credential, holding(wide)),
        "a key used from elsewhere": (far.secret, refusing("PERMISSION_DENIED")),
        "a key with one scope": (
            narrow.secret,
            by_key(frozenset({Permission.PERMISSION_AUDIT_READ})),
        ),
    }


async def expired(world: World, acme: Organisation, database_url: str) -> dict[str, str]:
    """Credentials whose time is over: a token's five minutes, a session's and a key's days."""
    enid, sven = await acme.person("enid"), await acme.person("sven")
    key = await enid.identity.CreateApiKey(name="old")
    claims = json.loads(urlsafe_b64decode(enid.credential.split(".")[1] + "=="))
    async with open_core(world.settings, "app") as core:
        tokens = await Tokens.opened(core)
        tokens.lifetime_s = -60
        old = tokens.issue(
            user_id=enid.user_id,
            org_id=acme.id,
            session_id=claims["sid"],
            authz_epoch=claims["authz_epoch"],
        )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE identity.api_keys SET expires_at = now() WHERE id = %s", [key.api_key.id]
        )
        connection.execute(
            "UPDATE identity.sessions SET absolute_expires_at = now() WHERE user_id = %s",
            [sven.user_id],
        )
    return {
        "a token of an hour ago": old.token,
        "a session of a year ago": sven.credential,
        "a key of a year ago": key.secret,
    }


async def worthless(acme: Organisation, database_url: str) -> dict[str, str]:
    """Credentials that were good a moment ago, and some that never were."""
    role = await acme.admin.access.CreateRole(name="short", permissions=sorted(CUSTOM))
    rolf, dora = await acme.person("rolf"), await acme.person("dora")
    dora_key = (await dora.identity.CreateApiKey(name="hers")).secret
    grant = await acme.admin.access.CreateGrant(role_id=role.role.id, user_id=rolf.user_id)
    await rolf.refresh()
    await rolf.audit.ListAuditEvents()
    await acme.admin.access.RevokeGrant(grant_id=grant.grant.id)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE identity.users SET state = 'disabled' WHERE id = %s", [dora.user_id]
        )

    async def is_out() -> bool:
        code, _, _ = await answer_of(
            dora.channel, METHODS[0], METHODS[0].request_type(), bearer(dora.credential)
        )
        return code == "UNAUTHENTICATED"

    await eventually(is_out)
    head, body, signature = acme.admin.credential.split(".")
    header = json.loads(urlsafe_b64decode(head + "=="))
    none = urlsafe_b64encode(json.dumps({**header, "alg": "none"}).encode()).decode().rstrip("=")
    return {
        "a token from before a role was taken away": rolf.credential,
        "a disabled user": dora.credential,
        "a disabled user's key": dora_key,
        "alg none": f"{none}.{body}.",
        "another person's signature": f"{head}.{rolf.credential.split('.')[1]}.{signature}",
        "a refresh token": rolf.tokens.refresh_token,
        "nonsense": "nonsense",
    }


def bearer(credential: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {credential}")]


async def test_every_rpc_answers_everybody_as_declared(
    world: World, stack: StackUrls, database_url: str
) -> None:
    """No cell is unexamined: each credential on each RPC is let in or refused just as the access
    option and what the credential holds say."""
    acme = await world.organisation("acme")
    audience = await custom_roles(acme)
    gone = await worthless(acme, database_url) | await expired(world, acme, database_url)
    audience |= {name: (text, refusing("UNAUTHENTICATED")) for name, text in gone.items()}
    nobody: Person = world.nobody()

    async def mistake(method: Method, name: str) -> str | None:
        credential, expected = audience[name]
        code, message, _ = await answer_of(
            nobody.channel, method, method.request_type(), bearer(credential)
        )
        refused = code if code in ("UNAUTHENTICATED", "PERMISSION_DENIED") else "in"
        if refused == expected(method):
            return None
        return f"{method.path}: {name} is answered {code} ({message})"

    wrong: list[str] = []
    for method in METHODS:
        answers = await asyncio.gather(*(mistake(method, name) for name in audience))
        wrong += filter(None, answers)
    assert not wrong, "\n" + "\n".join(wrong)
