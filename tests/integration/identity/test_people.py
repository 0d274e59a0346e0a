"""People of an organisation, and what other organisations see of them: nothing."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from chimera.faults import AlreadyExists, Invalid
from chimera.identity.bootstrap import bootstrap
from chimera.settings import Settings
from chimera.v1.identity_pb2 import ROLE_USER, ROLE_VIEWER, USER_STATE_ACTIVE
from tests.support.world import PASSWORD, Person, Refused, World


def person_fields(name: str, **changed: object) -> dict[str, object]:
    return {
        "email": f"{name}@example.com",
        "username": name,
        "role": ROLE_USER,
        "password": PASSWORD,
    } | changed


async def test_an_admin_adds_somebody_who_then_signs_in(world: World) -> None:
    """The address is kept in small letters; the answer says what was made."""
    admin = (await world.organisation("acme")).admin
    made = await admin.identity.CreateUser(
        **person_fields("olivia", email="Olivia@Example.com", role=ROLE_VIEWER)
    )
    assert (made.user.email, made.user.role) == ("olivia@example.com", ROLE_VIEWER)
    assert made.user.state == USER_STATE_ACTIVE
    olivia = await world.log_in("olivia")
    assert olivia.user_id == made.user.id
    assert (await admin.identity.GetUser(user_id=made.user.id)).user.HasField("last_login_at")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"username": "else", "email": "OLIVIA@example.com"}, "EMAIL_TAKEN"),
        ({"username": "Olivia", "email": "else@example.com"}, "USERNAME_TAKEN"),
        ({"username": "else", "email": "e@e.com", "password": "x" * 15}, "PASSWORD_TOO_WEAK"),
        ({"username": "else", "email": "e@e.com", "password": "x" * 14}, "FIELD_INVALID"),
    ],
)
async def test_what_cannot_be_added(world: World, changed: dict[str, object], reason: str) -> None:
    """Whatever is taken, in any spelling, and passwords that are guessed first."""
    admin = (await world.organisation("acme")).admin
    await admin.identity.CreateUser(**person_fields("olivia"))
    with pytest.raises(Refused) as refused:
        await admin.identity.CreateUser(**person_fields("olivia", **changed))
    assert refused.value.reason == reason
    assert len((await admin.identity.ListUsers()).users) == 2


async def test_a_repeated_creation_makes_one_person(world: World) -> None:
    """The same request_id gets the first answer."""
    admin = (await world.organisation("acme")).admin
    fields = person_fields("olivia", request_id=str(uuid4()))
    assert await admin.identity.CreateUser(**fields) == await admin.identity.CreateUser(**fields)


async def test_only_admins_add_people(world: World) -> None:
    """Users see their colleagues and add none."""
    acme = await world.organisation("acme")
    for role in ("user", "viewer"):
        person = await acme.person(role, role=role)
        await person.identity.ListUsers()
        with pytest.raises(Refused) as refused:
            await person.identity.CreateUser(**person_fields("mallory"))
        assert refused.value.reason == "PERMISSION_MISSING"


async def test_other_organisations_are_invisible(world: World) -> None:
    """Two tenants: each lists its own, and the other's people do not exist."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    olivia = await acme.person("olivia")

    async def names(person: Person) -> set[str]:
        return {user.username for user in (await person.identity.ListUsers()).users}

    assert len(await names(acme.admin)) == 2
    assert await names(globex.admin) == {"admin-globex"}
    with pytest.raises(Refused) as refused:
        await globex.admin.identity.GetUser(user_id=olivia.user_id)
    assert (refused.value.code, refused.value.reason) == ("NOT_FOUND", "USER_NOT_FOUND")
    key = await acme.admin.identity.CreateApiKey(name="ci")
    with pytest.raises(Refused) as refused:
        await globex.admin.identity.RevokeApiKey(api_key_id=key.api_key.id)
    assert refused.value.reason == "API_KEY_NOT_FOUND"


async def test_a_page_token_of_another_organisation_is_refused(world: World) -> None:
    """It would otherwise tell where somebody else's list stands."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    await acme.person("olivia")
    page = await acme.admin.identity.ListUsers(page_size=1)
    assert page.next_page_token
    with pytest.raises(Refused) as refused:
        await globex.admin.identity.ListUsers(page_size=1, page_token=page.next_page_token)
    assert refused.value.reason == "PAGE_TOKEN_INVALID"


async def test_what_people_do_is_on_record_without_secrets(world: World, database_url: str) -> None:
    """Sign-ins, new people, keys and failures leave events; passwords and tokens do not appear."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    made = await olivia.identity.CreateApiKey(name="ci")
    await olivia.identity.RevokeApiKey(api_key_id=made.api_key.id)
    with pytest.raises(Refused):
        await world.nobody().identity.Login(login="nobody", password="a wrong password")
    await olivia.identity.RefreshSession(refresh_token=olivia.tokens.refresh_token)
    await olivia.identity.Logout()
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT facts->>'action' || ' ' || (facts->>'outcome'),"
            " facts::text || fields::text || encode(leaf, 'escape') FROM audit.pending"
        ).fetchall()
    seen = {row[0] for row in rows}
    assert seen == {
        "organisation.bootstrap success",
        "session.login success",
        "session.login denied",
        "session.refresh success",
        "session.logout success",
        "user.create success",
        "api_key.create success",
        "api_key.revoke success",
    }
    told = " ".join(row[1] for row in rows)
    secrets = (PASSWORD, "a wrong password", made.secret, olivia.credential)
    assert not [secret for secret in secrets if secret in told]


async def test_bootstrap_is_refused_when_something_exists(
    settings: Settings, database_url: str
) -> None:
    """A second run, or a name that is taken, changes nothing; a weak password is told."""
    fields = {
        "organisation": "acme",
        "email": "admin@acme.example.com",
        "username": "admin",
        "password": PASSWORD,
    }
    made = await bootstrap(settings, with_api_key=True, **fields)
    assert made.api_key.startswith("chm_test_")
    assert made.api_key not in repr(made)
    others = [
        fields,
        fields | {"organisation": "globex"},
        fields | {"organisation": "globex", "email": "other@acme.example.com"},
    ]
    for other in others:
        with pytest.raises(AlreadyExists):
            await bootstrap(settings, **other)
    for bad in ({"password": "short"}, {"email": "no address"}, {"organisation": " "}):
        with pytest.raises(Invalid):
            await bootstrap(settings, **(fields | bad))
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM identity.organisations),"
            " (SELECT count(*) FROM identity.users), (SELECT count(*) FROM audit.pending)"
        ).fetchone()
    assert row == (1, 1, 2)


async def test_the_server_cannot_make_organisations_or_operators(
    settings: Settings, database_url: str
) -> None:
    """Whoever takes over the server's role does not get further: the database refuses."""
    made = await bootstrap(
        settings, organisation="acme", email="a@example.com", username="admin", password=PASSWORD
    )
    attempts = [
        "INSERT INTO identity.organisations (id, name) VALUES (gen_random_uuid(), 'mine')",
        "INSERT INTO identity.users (id, email, username, is_superuser)"
        " VALUES (gen_random_uuid(), 'm@example.com', 'mallory', true)",
        "UPDATE identity.users SET is_superuser = true",
    ]
    with psycopg.connect(settings.role_url("app"), autocommit=True) as connection:
        connection.execute("SELECT set_config('app.org_id', %s, false)", [made.org_id])
        for attempt in attempts:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(attempt)
