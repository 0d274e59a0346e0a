"""A person's keys for providers: named, defaulted, replaced, due, revoked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from chimera.call import Call
from chimera.core import Core, open_core
from chimera.faults import NotReady
from chimera.providers.keys import unsealed
from tests.support.keys import taken
from tests.support.world import Organisation, Person, Refused, World
from workers.tasks.mail import WRITERS
from workers.tasks.providers import remind_of_keys

OLD, NEW = "sk-canary-old-7d0f3b51c2e94a86", "sk-canary-new-1a2b3c4d5e6f7a8b"


async def told(call: Awaitable[Any]) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.code, refused.value.reason


@pytest.fixture
async def acme(world: World) -> Organisation:
    return await world.organisation("acme")


@pytest.fixture
async def provider_id(acme: Organisation) -> str:
    answer = await acme.admin.providers.CreateProvider(
        name="p", provider_type="PROVIDER_TYPE_OPENAI", base_url="https://api.example.com/v1"
    )
    return str(answer.provider.id)


@pytest.fixture
async def core(world: World) -> AsyncIterator[Core]:
    async with open_core(world.settings, "worker") as opened_core:
        yield opened_core


async def new_key(person: Person, provider_id: str, name: str = "main", **fields: Any) -> Any:
    given = {"provider_id": provider_id, "name": name, "secret": OLD, **fields}
    return (await person.providers.CreateProviderKey(**given)).provider_key


async def update(person: Person, key_id: str, **fields: Any) -> Any:
    answer = await person.providers.UpdateProviderKey(
        provider_key={"id": key_id, **fields}, update_mask={"paths": list(fields)}
    )
    return answer.provider_key


async def opened(core: Core, org_id: str, key_id: str) -> str:
    async with core.db.begin(Call.by_worker("test", org_id)) as tx:
        stored = await taken(tx, key_id)
    return await unsealed(core.master, stored)


async def test_a_secret_is_replaced_in_place(
    acme: Organisation, provider_id: str, core: Core
) -> None:
    """The key stays itself; what is shown of it changes; the old secret opens nothing, also when
    somebody puts the old row's value back."""
    olivia = await acme.person("olivia")
    key = await new_key(olivia, provider_id)
    url = acme.world.settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT sealed FROM providers.provider_keys").fetchone()
    assert row is not None
    due = datetime.now(UTC) + timedelta(days=90)
    answer = await olivia.providers.ReplaceProviderKeySecret(
        provider_key_id=key.id, secret=NEW, rotate_at=due
    )
    changed = answer.provider_key
    assert (changed.id, changed.last_four, changed.is_default) == (key.id, NEW[-4:], True)
    assert changed.rotate_at.ToDatetime(UTC) == due
    assert changed.secret_changed_at.ToDatetime() > key.secret_changed_at.ToDatetime()
    assert NEW not in str(answer) and changed.etag != key.etag
    assert await opened(core, acme.id, key.id) == NEW
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "UPDATE providers.provider_keys SET sealed = %s",
            [psycopg.types.json.Jsonb(row[0])],
        )
    with pytest.raises(NotReady):
        await opened(core, acme.id, key.id)


async def test_of_parallel_replacements_the_shown_one_opens(
    acme: Organisation, provider_id: str, core: Core
) -> None:
    key = await new_key(acme.admin, provider_id)
    secrets = [f"sk-parallel-canary-{n}-{n * 1111:04d}" for n in range(6)]

    async def replace(secret: str) -> str:
        try:
            await acme.admin.providers.ReplaceProviderKeySecret(
                provider_key_id=key.id, secret=secret
            )
        except Refused as refused:
            return refused.reason
        return "replaced"

    outcomes = await asyncio.gather(*(replace(secret) for secret in secrets))
    assert "replaced" in outcomes and set(outcomes) <= {"replaced", "CONFLICT_TRY_AGAIN"}
    now = (await acme.admin.providers.GetProviderKey(provider_key_id=key.id)).provider_key
    secret = await opened(core, acme.id, key.id)
    assert secret in secrets and secret[-4:] == now.last_four


async def test_names_and_defaults_change(acme: Organisation, provider_id: str) -> None:
    first = await new_key(acme.admin, provider_id, "first")
    second = await new_key(acme.admin, provider_id, "second")
    changed = await update(acme.admin, second.id, is_default=True, name="main")
    assert changed.is_default and changed.name == "main"
    keys = (await acme.admin.providers.ListProviderKeys(provider_id=provider_id)).provider_keys
    assert {key.name: key.is_default for key in keys} == {"main": True, "first": False}
    taken = update(acme.admin, first.id, name="main")
    assert await told(taken) == ("ALREADY_EXISTS", "PROVIDER_KEY_NAME_TAKEN")
    unnamed = update(acme.admin, first.id, name="")
    assert await told(unnamed) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    stale = acme.admin.providers.UpdateProviderKey(
        provider_key={"id": second.id, "name": "x"},
        update_mask={"paths": ["name"]},
        etag=second.etag,
    )
    assert await told(stale) == ("ABORTED", "ETAG_MISMATCH")
    secret = acme.admin.providers.UpdateProviderKey(
        provider_key={"id": second.id}, update_mask={"paths": ["last_four"]}
    )
    assert await told(secret) == ("INVALID_ARGUMENT", "UPDATE_MASK_INVALID")


async def test_a_revoked_key_is_a_record(acme: Organisation, provider_id: str, core: Core) -> None:
    """Its secret is destroyed in the database; its name is free; it cannot come back."""
    key = await new_key(acme.admin, provider_id)
    await opened(core, acme.id, key.id)
    for _ in range(2):
        answer = await acme.admin.providers.RevokeProviderKey(provider_key_id=key.id)
    revoked = answer.provider_key
    assert not revoked.is_active and not revoked.is_default and revoked.HasField("revoked_at")
    assert revoked.usage_count == 0 and revoked.HasField("last_used_at")
    with psycopg.connect(acme.world.settings.database_url.get_secret_value()) as connection:
        assert connection.execute("SELECT sealed FROM providers.provider_keys").fetchone() == ({},)
    with pytest.raises(NotReady) as refused:
        await opened(core, acme.id, key.id)
    assert refused.value.reason == "PROVIDER_KEY_MISSING"
    over = ("FAILED_PRECONDITION", "PROVIDER_KEY_REVOKED")
    assert await told(update(acme.admin, key.id, name="x")) == over
    back = acme.admin.providers.ReplaceProviderKeySecret(provider_key_id=key.id, secret=NEW)
    assert await told(back) == over
    await new_key(acme.admin, provider_id)
    active = await acme.admin.providers.ListProviderKeys(active_only=True)
    assert len(active.provider_keys) == 1


async def test_a_key_goes_nowhere_but_where_it_was_stored_for(
    acme: Organisation, provider_id: str, core: Core
) -> None:
    """An administrator moves the provider to another host: nobody's key goes there until its owner
    stores it again, whatever becomes of its wrapping meanwhile. Another path or port is no other host."""
    olivia = await acme.person("olivia")
    key = await new_key(olivia, provider_id)
    assert key.stored_for == "https://api.example.com"

    async def move(base_url: str) -> None:
        await acme.admin.providers.UpdateProvider(
            provider={"id": provider_id, "base_url": base_url}, update_mask={"paths": ["base_url"]}
        )

    await move("https://API.example.com:8443/v2")
    assert await opened(core, acme.id, key.id) == OLD
    for elsewhere in ("https://collector.example.net/v1", "https://api.example.com.example.net/v1"):
        await move(elsewhere)
        with psycopg.connect(acme.world.settings.database_url.get_secret_value()) as connection:
            connection.execute("UPDATE providers.provider_keys SET sealed = sealed, name = 'x'")
        with pytest.raises(NotReady) as refused:
            await opened(core, acme.id, key.id)
        assert refused.value.reason == "PROVIDER_ADDRESS_CHANGED"
        for call in (olivia.providers.TestConnection, olivia.providers.DiscoverModels):
            answer = await told(call(provider_id=provider_id))
            assert answer == ("FAILED_PRECONDITION", "PROVIDER_ADDRESS_CHANGED")
    await olivia.providers.ReplaceProviderKeySecret(provider_key_id=key.id, secret=NEW)
    assert await opened(core, acme.id, key.id) == NEW
    await move("https://api.example.com/v1")
    with pytest.raises(NotReady):
        await opened(core, acme.id, key.id)


async def test_keys_of_others_cannot_be_touched(acme: Organisation, provider_id: str) -> None:
    """Not by a colleague, the administrator, or another organisation."""
    globex = await acme.world.organisation("globex")
    olivia = await acme.person("olivia")
    key = await new_key(olivia, provider_id)
    for stranger in (await acme.person("peter"), acme.admin, globex.admin):
        for attempt in (
            stranger.providers.GetProviderKey(provider_key_id=key.id),
            update(stranger, key.id, name="mine"),
            stranger.providers.ReplaceProviderKeySecret(provider_key_id=key.id, secret=NEW),
            stranger.providers.RevokeProviderKey(provider_key_id=key.id),
        ):
            assert await told(attempt) == ("NOT_FOUND", "PROVIDER_KEY_NOT_FOUND")


async def test_owners_are_told_once_when_a_key_is_due(
    acme: Organisation, provider_id: str, core: Core
) -> None:
    """Two workers remind at once: one mail is asked for, and written with what is true at sending;
    a new date, or a new secret, starts anew."""
    olivia = await acme.person("olivia")
    past = datetime.now(UTC) - timedelta(hours=1)
    key = await new_key(olivia, provider_id, rotate_at=past)
    await new_key(olivia, provider_id, "later", rotate_at=past + timedelta(days=9))
    due = (await olivia.providers.ListProviderKeys(due_only=True)).provider_keys
    assert [k.id for k in due] == [key.id]
    ctx = {"core": core}

    def asked() -> list[Any]:
        url = acme.world.settings.database_url.get_secret_value()
        with psycopg.connect(url) as connection:
            return connection.execute(
                "SELECT args FROM ops.outbox WHERE task = 'send_mail'"
                " AND args->>'kind' = 'provider_key_due' ORDER BY id"
            ).fetchall()

    await asyncio.gather(remind_of_keys(ctx), remind_of_keys(ctx))
    await remind_of_keys(ctx)
    [(args,)] = asked()
    assert args["provider_key_id"] == key.id and OLD not in str(args)
    mail = await WRITERS["provider_key_due"](core, acme.id, args)
    assert mail is not None and mail.to.startswith("olivia@")
    assert "'main' for p" in mail.text and OLD[-4:] in mail.text and OLD not in mail.text
    await update(olivia, key.id, rotate_at=past + timedelta(minutes=1))
    await remind_of_keys(ctx)
    assert len(asked()) == 2
    await olivia.providers.ReplaceProviderKeySecret(provider_key_id=key.id, secret=NEW)
    assert await WRITERS["provider_key_due"](core, acme.id, args) is None
    await remind_of_keys(ctx)
    assert len(asked()) == 2
