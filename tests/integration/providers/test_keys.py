"""Provider keys over a real channel: stored sealed, opened by workers only, seen by nobody."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import structlog
from psycopg import sql

from chimera.call import Call, Caller
from chimera.core import open_database
from chimera.db import Tx
from chimera.faults import NotFound, NotReady
from chimera.keyring import open_master_keys
from chimera.providers.keys import unsealed
from chimera.providers.owned_keys import find_default_key, get_key
from chimera.providers.vault import MasterKeys
from tests.support.keys import taken
from tests.support.world import Organisation, Person, Refused, World

SECRET = "sk-canary-7d0f3b51c2e94a86b1d2"


async def told(call: Awaitable[Any]) -> tuple[str, str]:
    """Code and reason of a call that is refused."""
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.code, refused.value.reason


async def new_provider(org: Organisation, name: str = "openai") -> str:
    answer = await org.admin.providers.CreateProvider(
        name=name, provider_type="PROVIDER_TYPE_OPENAI", base_url="https://api.example.com/v1"
    )
    provider_id: str = answer.provider.id
    return provider_id


async def new_key(person: Person, provider_id: str, name: str = "main", **fields: Any) -> Any:
    request = {"provider_id": provider_id, "name": name, "secret": SECRET, **fields}
    return (await person.providers.CreateProviderKey(**request)).provider_key


async def keys_of(person: Person) -> dict[str, bool]:
    """Name -> is it the default, newest first."""
    answer = await person.providers.ListProviderKeys()
    return {key.name: key.is_default for key in answer.provider_keys}


@asynccontextmanager
async def transaction(world: World, org_id: str, role: str, user_id: str = "") -> AsyncIterator[Tx]:
    db = open_database(world.settings, role)
    await db.open()
    try:
        caller = Caller("user" if user_id else "worker", org_id=org_id, user_id=user_id)
        async with db.begin(Call(caller, "test", Call.by_worker("test").deadline)) as tx:
            yield tx
    finally:
        await db.close()


def superuser(world: World) -> psycopg.Connection[Any]:
    return psycopg.connect(world.settings.database_url.get_secret_value(), autocommit=True)


def tables_holding(world: World, text: str) -> list[str]:
    """Every table of the product with a row that holds the text, in any column, bytes included."""
    found = []
    with superuser(world) as connection:
        tables = connection.execute(
            """SELECT schemaname, tablename FROM pg_tables
                WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"""
        ).fetchall()
        for schema, table in tables:
            query = sql.SQL(
                "SELECT EXISTS (SELECT FROM {} t WHERE strpos(t::text, %s) > 0"
                " OR strpos(t::text, %s) > 0)"
            ).format(sql.Identifier(schema, table))
            row = connection.execute(query, [text, text.encode().hex()]).fetchone()
            if row and row[0]:
                found.append(f"{schema}.{table}")
    return found


@pytest.fixture
async def master(world: World) -> MasterKeys:
    return open_master_keys(world.settings)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the gate logs about each call, at every level and without any redaction."""
    lines = io.StringIO()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(lines),
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
    )
    monkeypatch.setattr("chimera.gate.log", logger)
    return lines


async def open_key(tx: Any, master: Any, key_id: str, *, purpose: str) -> str:
    """As a worker does."""
    return await unsealed(master, await taken(tx, key_id, purpose))


async def test_a_key_is_stored_and_only_its_ends_are_shown(world: World) -> None:
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    provider_id = await new_provider(acme)
    key = await new_key(olivia, provider_id)
    assert (key.prefix, key.last_four) == ("sk-canar", "b1d2")
    assert key.is_active and key.is_default and key.usage_count == 0
    listed = await olivia.providers.ListProviderKeys()
    assert list(listed.provider_keys) == [key]
    assert SECRET not in str(key) + str(listed)


async def test_first_keys_at_once_make_one_default(world: World) -> None:
    """Six first keys are stored at the same moment, half of them as the default, and then each is to
    be the default at the same moment: nobody is refused, and there is always exactly one."""
    acme = await world.organisation("acme")
    provider_id = await new_provider(acme)
    asked = [{}, {"is_default": True}] * 3
    stored = await asyncio.gather(
        *(
            new_key(acme.admin, provider_id, f"key {number}", **fields)
            for number, fields in enumerate(asked)
        )
    )
    assert list((await keys_of(acme.admin)).values()).count(True) == 1
    changed = await asyncio.gather(
        *(
            acme.admin.providers.UpdateProviderKey(
                provider_key={"id": key.id, "is_default": True},
                update_mask={"paths": ["is_default"]},
            )
            for key in stored
        )
    )
    assert all(answer.provider_key.is_default for answer in changed)
    assert list((await keys_of(acme.admin)).values()).count(True) == 1


async def test_a_short_secret_shows_no_beginning(world: World) -> None:
    """A third of it would be given away."""
    acme = await world.organisation("acme")
    key = await new_key(acme.admin, await new_provider(acme), secret="x" * 19 + "tail")
    assert (key.prefix, key.last_four) == ("", "tail")


@pytest.mark.parametrize(
    "secret", [SECRET + "\n", "two words of it", "schlüssel-123", SECRET + "\x00", "short"]
)
async def test_what_cannot_be_a_key_is_refused_without_repeating_it(
    world: World, secret: str
) -> None:
    acme = await world.organisation("acme")
    provider_id = await new_provider(acme)
    with pytest.raises(Refused) as refused:
        await new_key(acme.admin, provider_id, secret=secret)
    assert (refused.value.code, refused.value.reason) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    assert secret not in str(refused.value) + str(refused.value.details)


async def test_refusals_of_a_new_key(world: World) -> None:
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    olivia, victor = await acme.person("olivia"), await acme.person("victor", role="viewer")
    provider_id = await new_provider(acme)
    await new_key(olivia, provider_id)
    taken = ("ALREADY_EXISTS", "PROVIDER_KEY_NAME_TAKEN")
    assert await told(new_key(olivia, provider_id)) == taken
    missing = ("NOT_FOUND", "PROVIDER_NOT_FOUND")
    assert await told(new_key(olivia, str(uuid4()))) == missing
    assert await told(new_key(globex.admin, provider_id)) == missing
    assert await told(new_key(victor, provider_id)) == ("PERMISSION_DENIED", "PERMISSION_MISSING")
    # A name is taken by one person for one provider.
    await new_key(acme.admin, provider_id)
    await new_key(olivia, await new_provider(acme, "second"))


async def test_the_first_key_is_the_default_until_another_is_named(world: World) -> None:
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    provider_id = await new_provider(acme)
    first = await new_key(olivia, provider_id, "first")
    await new_key(olivia, provider_id, "second")
    assert await keys_of(olivia) == {"second": False, "first": True}
    third = await new_key(olivia, provider_id, "third", is_default=True)
    assert await keys_of(olivia) == {"third": True, "second": False, "first": False}

    async with transaction(world, acme.id, "app", olivia.user_id) as tx:
        default = await find_default_key(tx, provider_id)
        assert default is not None and default.id == third.id
        assert (await get_key(tx, first.id)).name == "first"

    # No other key is promoted: which one pays is for its owner to say.
    await olivia.providers.DeleteProviderKey(provider_key_id=third.id)
    assert await keys_of(olivia) == {"second": False, "first": False}
    async with transaction(world, acme.id, "app", olivia.user_id) as tx:
        assert await find_default_key(tx, provider_id) is None
    await new_key(olivia, provider_id, "fourth")
    assert (await keys_of(olivia))["fourth"]


async def test_parallel_defaults_leave_exactly_one(world: World) -> None:
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    provider_id = await new_provider(acme)

    async def store(name: str) -> str:
        try:
            await new_key(olivia, provider_id, name, is_default=True)
        except Refused as refused:
            return refused.reason
        return "stored"

    outcomes = await asyncio.gather(*(store(f"key {n}") for n in range(8)))
    assert set(outcomes) <= {"stored", "CONFLICT_TRY_AGAIN"}
    keys = await keys_of(olivia)
    assert len(keys) == outcomes.count("stored") >= 1
    assert list(keys.values()).count(True) == 1


async def test_keys_are_their_owners_alone(world: World) -> None:
    """Not a colleague's, not the administrator's, not another organisation's."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    olivia, peter = await acme.person("olivia"), await acme.person("peter")
    key = await new_key(olivia, await new_provider(acme))
    for stranger in (peter, acme.admin, globex.admin):
        assert await keys_of(stranger) == {}
        deletion = stranger.providers.DeleteProviderKey(provider_key_id=key.id)
        assert await told(deletion) == ("NOT_FOUND", "PROVIDER_KEY_NOT_FOUND")
    async with transaction(world, acme.id, "app", peter.user_id) as tx:
        with pytest.raises(NotFound) as missing:
            await get_key(tx, key.id)
        assert missing.value.reason == "PROVIDER_KEY_NOT_FOUND"
        assert await find_default_key(tx, key.provider_id) is None
    assert await keys_of(olivia) == {"main": True}


async def test_keys_are_listed_page_by_page(world: World) -> None:
    acme = await world.organisation("acme")
    provider_id = await new_provider(acme)
    for number in range(5):
        await new_key(acme.admin, provider_id, f"key {number}")
    names: list[str] = []
    token = ""
    while True:
        page = await acme.admin.providers.ListProviderKeys(page_size=2, page_token=token)
        names += [key.name for key in page.provider_keys]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"key {number}" for number in (4, 3, 2, 1, 0)]


async def test_a_worker_opens_a_key_and_leaves_a_trace(world: World, master: MasterKeys) -> None:
    """The secret comes back whole; the audit log says who used which key and what for."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    key = await new_key(olivia, await new_provider(acme))
    async with transaction(world, acme.id, "worker") as tx:
        assert await open_key(tx, master, key.id, purpose="run 7") == SECRET
    listed = (await olivia.providers.ListProviderKeys()).provider_keys[0]
    assert listed.usage_count == 0 and listed.HasField("last_used_at")  # opened, no call yet
    with superuser(world) as connection:
        rows = connection.execute(
            """SELECT facts, fields::text FROM audit.pending
                WHERE facts->>'action' = 'provider_key.use'"""
        ).fetchall()
    [(facts, fields)] = rows
    assert (facts["entity_id"], facts["kind"], facts["actor_kind"]) == (
        key.id,
        "security",
        "worker",
    )
    assert "run 7" in fields


async def test_a_worker_cannot_open_a_key_of_another_organisation(
    world: World, master: MasterKeys
) -> None:
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    key = await new_key(acme.admin, await new_provider(acme))
    with pytest.raises(NotReady) as refused:
        async with transaction(world, globex.id, "worker") as tx:
            await open_key(tx, master, key.id, purpose="theft")
    assert refused.value.reason == "PROVIDER_KEY_MISSING"


async def test_a_deleted_key_is_destroyed(world: World, master: MasterKeys) -> None:
    """A run that still holds its id finds it missing."""
    acme = await world.organisation("acme")
    key = await new_key(acme.admin, await new_provider(acme))
    await acme.admin.providers.DeleteProviderKey(provider_key_id=key.id)
    again = acme.admin.providers.DeleteProviderKey(provider_key_id=key.id)
    assert await told(again) == ("NOT_FOUND", "PROVIDER_KEY_NOT_FOUND")
    with pytest.raises(NotReady) as refused:
        async with transaction(world, acme.id, "worker") as tx:
            await open_key(tx, master, key.id, purpose="run")
    assert refused.value.reason == "PROVIDER_KEY_MISSING"
    with superuser(world) as connection:
        row = connection.execute("SELECT count(*) FROM providers.provider_keys").fetchone()
    assert row == (0,)


async def test_a_sealed_secret_does_not_open_in_another_row(
    world: World, master: MasterKeys
) -> None:
    """Somebody with write access to the database moves a colleague's secret into their own row."""
    acme = await world.organisation("acme")
    provider_id = await new_provider(acme)
    theirs = await new_key(acme.admin, provider_id, "theirs")
    mine = await new_key(acme.admin, provider_id, "mine", secret="mine-" + "m" * 20)
    with superuser(world) as connection:
        connection.execute(
            """UPDATE providers.provider_keys SET sealed =
                   (SELECT sealed FROM providers.provider_keys WHERE id = %s) WHERE id = %s""",
            [theirs.id, mine.id],
        )
    with pytest.raises(NotReady) as refused:
        async with transaction(world, acme.id, "worker") as tx:
            await open_key(tx, master, mine.id, purpose="run")
    assert refused.value.reason == "PROVIDER_KEY_MISSING"
    assert SECRET not in str(refused.value)


async def test_a_secret_is_nowhere_in_the_clear(
    world: World,
    master: MasterKeys,
    said: io.StringIO,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Stored (with a request_id, so the answer is kept), refused once, used, audited; then every
    column of every table and every line of the logs is searched."""
    caplog.set_level(logging.DEBUG)
    acme = await world.organisation("acme")
    provider_id = await new_provider(acme)
    request_id = str(uuid4())
    key = await new_key(acme.admin, provider_id, request_id=request_id)
    again = await new_key(acme.admin, provider_id, request_id=request_id)
    assert again == key
    assert (await told(new_key(acme.admin, provider_id)))[1] == "PROVIDER_KEY_NAME_TAKEN"
    async with transaction(world, acme.id, "worker") as tx:
        await open_key(tx, master, key.id, purpose="run")

    # What may be shown is found where it should be, so the search does search.
    assert tables_holding(world, key.prefix) == ["ops.idempotency", "providers.provider_keys"]
    assert tables_holding(world, SECRET) == []
    assert tables_holding(world, SECRET[8:]) == []
    assert "CreateProviderKey" in said.getvalue()
    assert SECRET[8:] not in said.getvalue() + caplog.text
