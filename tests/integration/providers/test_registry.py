"""The registry over a real channel: providers, models, prices, and the list of targets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from chimera.call import Call, Caller
from chimera.core import open_database
from chimera.db import Tx
from chimera.faults import Fault
from chimera.providers.targets import get_target
from tests.support.statements import plain
from tests.support.world import Organisation, Person, Refused, World

PRICE = {"input_per_million_usd": "2.50", "output_per_million_usd": "10"}
OPENAI = {
    "name": "openai",
    "provider_type": "PROVIDER_TYPE_OPENAI",
    "base_url": "https://api.example.com/v1/",
}


async def told(call: Awaitable[Any]) -> tuple[str, str]:
    """Code and reason of a call that is refused."""
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.code, refused.value.reason


async def new_provider(admin: Person, **fields: Any) -> Any:
    return (await admin.providers.CreateProvider(**{**OPENAI, **fields})).provider


async def new_model(admin: Person, provider_id: str, name: str = "m-1", **fields: Any) -> Any:
    request = {"provider_id": provider_id, "name": name, "price": PRICE, **fields}
    return (await admin.providers.CreateModel(**request)).model


def superuser(world: World) -> psycopg.Connection[Any]:
    """A connection past all policies, for what only an installer or an auditor does."""
    url = world.settings.database_url.get_secret_value()
    return psycopg.connect(url, autocommit=True)


def platform_model(world: World) -> tuple[str, str]:
    """A provider of the installation with a model, as seeding makes them: their ids."""
    provider_id, model_id = str(uuid4()), str(uuid4())
    with superuser(world) as connection:
        connection.execute(
            """INSERT INTO providers.providers (id, name, provider_type, base_url)
               VALUES (%s, 'public', 'openai', 'https://public.example.com/v1')""",
            [provider_id],
        )
        connection.execute(
            "INSERT INTO providers.models (id, provider_id, name) VALUES (%s, %s, 'public-1')",
            [model_id, provider_id],
        )
        connection.execute(
            """INSERT INTO providers.price_versions (id, model_id, version_number,
                   input_per_million, output_per_million, cached_input_per_million,
                   reasoning_per_million, per_request)
               VALUES (%s, %s, 1, 1, 2, 1, 2, 0)""",
            [str(uuid4()), model_id],
        )
    return provider_id, model_id


@asynccontextmanager
async def transaction(world: World, org: Organisation, role: str = "app") -> AsyncIterator[Tx]:
    """A transaction of the organisation in the role of server (app) or worker."""
    db = open_database(world.settings, role)
    await db.open()
    try:
        caller = Caller("worker", org_id=org.id)
        async with db.begin(Call(caller, "test", Call.by_worker("test").deadline)) as tx:
            yield tx
    finally:
        await db.close()


async def refused_target(world: World, org: Organisation, model_id: str) -> str:
    with pytest.raises(Fault) as refused:
        async with transaction(world, org) as tx:
            await get_target(tx, model_id)
    return refused.value.reason


async def test_a_provider_is_registered_and_found(world: World) -> None:
    """The address is stored without its trailing slash; a timeout that was left out is 60 s."""
    acme = await world.organisation("acme")
    provider = await new_provider(acme.admin, display_name="Example", requests_per_minute=60)
    assert provider.base_url == "https://api.example.com/v1"
    assert (provider.timeout_s, provider.requests_per_minute) == (60, 60)
    assert provider.is_active and not provider.is_platform_provided

    victor = await acme.person("victor", role="viewer")
    found = await victor.providers.GetProvider(provider_id=provider.id)
    assert found.provider == provider


async def test_a_name_is_taken_once_in_an_organisation(world: World) -> None:
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    await new_provider(acme.admin)
    taken = ("ALREADY_EXISTS", "PROVIDER_NAME_TAKEN")
    assert await told(new_provider(acme.admin)) == taken
    await new_provider(globex.admin)


@pytest.mark.parametrize(
    ("base_url", "why"),
    [
        ("api.example.com", "malformed"),
        ("https://user@api.example.com", "malformed"),
        ("http://api.example.com", "insecure_scheme"),
        ("https://169.254.169.254/latest", "refused_address"),
        ("https://10.0.0.7", "refused_address"),
        ("https://database.internal", "refused_address"),
    ],
)
async def test_an_address_that_is_not_public_is_refused(
    world: World, base_url: str, why: str
) -> None:
    """When it is registered and when it is changed."""
    acme = await world.organisation("acme")
    provider = await new_provider(acme.admin, name="good")
    for attempt in (
        new_provider(acme.admin, base_url=base_url),
        acme.admin.providers.UpdateProvider(
            provider={"id": provider.id, "base_url": base_url},
            update_mask={"paths": ["base_url"]},
        ),
    ):
        with pytest.raises(Refused) as refused:
            await attempt
        assert (refused.value.code, refused.value.reason, refused.value.facts["why"]) == (
            "INVALID_ARGUMENT",
            "BASE_URL_REFUSED",
            why,
        )


async def test_this_machine_may_be_a_target_in_development(world: World) -> None:
    acme = await world.organisation("acme")
    assert world.settings.loopback_allowed
    for number, url in enumerate(("http://127.0.0.1:9000/v1", "http://localhost:9000")):
        await new_provider(acme.admin, name=f"local-{number}", base_url=url)


async def test_providers_are_listed_by_name_page_by_page(world: World) -> None:
    acme = await world.organisation("acme")
    for name in ("c", "a", "d", "b"):
        await new_provider(acme.admin, name=name)
    platform_model(world)
    names: list[str] = []
    token = ""
    while True:
        page = await acme.admin.providers.ListProviders(page_size=2, page_token=token)
        names += [provider.name for provider in page.providers]
        token = page.next_page_token
        if not token:
            break
    assert names == ["a", "b", "c", "d", "public"]


async def test_an_update_changes_what_its_mask_names(world: World) -> None:
    acme = await world.organisation("acme")
    provider = await new_provider(acme.admin, display_name="kept")
    update = {
        "provider": {"id": provider.id, "is_active": False, "timeout_s": 5, "display_name": "no"},
        "update_mask": {"paths": ["is_active", "timeout_s"]},
        "etag": provider.etag,
    }
    changed = (await acme.admin.providers.UpdateProvider(**update)).provider
    assert (changed.is_active, changed.timeout_s, changed.display_name) == (False, 5, "kept")
    assert await told(acme.admin.providers.UpdateProvider(**update)) == ("ABORTED", "ETAG_MISMATCH")
    renaming = acme.admin.providers.UpdateProvider(
        provider={"id": provider.id, "name": "x"}, update_mask={"paths": ["name"]}
    )
    assert await told(renaming) == ("INVALID_ARGUMENT", "UPDATE_MASK_INVALID")
    missing = acme.admin.providers.UpdateProvider(
        provider={"id": str(uuid4())}, update_mask={"paths": ["is_active"]}
    )
    assert await told(missing) == ("NOT_FOUND", "PROVIDER_NOT_FOUND")


async def test_a_model_has_its_first_price(world: World) -> None:
    """What the price leaves out is filled in: cached as input, reasoning as output."""
    acme = await world.organisation("acme")
    provider = await new_provider(acme.admin)
    model = await new_model(
        acme.admin, provider.id, "gpt-9", version="2026-01-01", context_tokens_max=128_000
    )
    price = model.price_version.price
    assert (price.input_per_million_usd, price.cached_input_per_million_usd) == ("2.5", "2.5")
    assert (price.output_per_million_usd, price.reasoning_per_million_usd) == ("10", "10")
    assert price.per_request_usd == "0"
    assert model.price_version.version_number == 1
    assert model.price_version.created_by == acme.admin.user_id
    assert model.is_available and not model.is_allowed_target
    assert (await acme.admin.providers.GetModel(model_id=model.id)).model == model


async def test_models_that_cannot_be_are_refused(world: World) -> None:
    acme = await world.organisation("acme")
    provider = await new_provider(acme.admin)
    await new_model(acme.admin, provider.id)
    assert await told(new_model(acme.admin, provider.id)) == ("ALREADY_EXISTS", "MODEL_NAME_TAKEN")
    await new_model(acme.admin, provider.id, version="2")  # the same name, another version
    invalid = ("INVALID_ARGUMENT", "PRICE_INVALID")
    unpriced = new_model(acme.admin, provider.id, "m-2", price={"input_per_million_usd": "1"})
    assert await told(unpriced) == invalid
    too_dear = {**PRICE, "per_request_usd": "100000000"}
    assert await told(new_model(acme.admin, provider.id, "m-2", price=too_dear)) == invalid
    nowhere = new_model(acme.admin, str(uuid4()))
    assert await told(nowhere) == ("NOT_FOUND", "PROVIDER_NOT_FOUND")
    missing = acme.admin.providers.GetModel(model_id=str(uuid4()))
    assert await told(missing) == ("NOT_FOUND", "MODEL_NOT_FOUND")


async def test_prices_are_added_and_never_changed(world: World) -> None:
    """Ten administrators at once: ten numbers, every version kept, the newest is the price now."""
    acme = await world.organisation("acme")
    provider = await new_provider(acme.admin)
    model = await new_model(acme.admin, provider.id)
    answers = await asyncio.gather(
        *(
            acme.admin.providers.CreatePriceVersion(
                model_id=model.id, price={**PRICE, "per_request_usd": f"0.{n}1"}
            )
            for n in range(10)
        )
    )
    by_number = {answer.price_version.version_number: answer.price_version for answer in answers}
    assert sorted(by_number) == list(range(2, 12))
    now = (await acme.admin.providers.GetModel(model_id=model.id)).model.price_version
    assert now == by_number[11]
    with superuser(world) as connection:
        stored = connection.execute(
            "SELECT version_number, per_request FROM providers.price_versions ORDER BY 1"
        ).fetchall()
    assert stored == [(1, 0)] + [
        (number, Decimal(version.price.per_request_usd))
        for number, version in sorted(by_number.items())
    ]
    for attempt in (
        acme.admin.providers.CreatePriceVersion(model_id=model.id, price={}),
        acme.admin.providers.CreatePriceVersion(
            model_id=model.id, price={**PRICE, "input_per_million_usd": "999999999"}
        ),
    ):
        assert await told(attempt) == ("INVALID_ARGUMENT", "PRICE_INVALID")
    missing = acme.admin.providers.CreatePriceVersion(model_id=str(uuid4()), price=PRICE)
    assert await told(missing) == ("NOT_FOUND", "MODEL_NOT_FOUND")


async def test_the_database_itself_refuses_to_change_a_price(world: World) -> None:
    acme = await world.organisation("acme")
    provider = await new_provider(acme.admin)
    await new_model(acme.admin, provider.id)
    for change in (
        "UPDATE providers.price_versions SET input_per_million = 0",
        "DELETE FROM providers.price_versions",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with transaction(world, acme) as tx:
                await tx.run(plain(change))


async def test_models_are_listed_by_provider_and_name(world: World) -> None:
    acme = await world.organisation("acme")
    first, second = await new_provider(acme.admin), await new_provider(acme.admin, name="zwei")
    for name in ("b", "c", "a"):
        await new_model(acme.admin, first.id, name)
    allowed = await new_model(acme.admin, second.id, "d")
    await acme.admin.providers.AllowTarget(model_id=allowed.id)

    names: list[str] = []
    token = ""
    while True:
        page = await acme.admin.providers.ListModels(page_size=3, page_token=token)
        names += [model.name for model in page.models]
        token = page.next_page_token
        if not token:
            break
    assert names == ["a", "b", "c", "d"]
    of_one = await acme.admin.providers.ListModels(provider_id=first.id)
    assert [model.name for model in of_one.models] == ["a", "b", "c"]
    targets = await acme.admin.providers.ListModels(allowed_targets_only=True)
    assert [(model.name, model.is_allowed_target) for model in targets.models] == [("d", True)]


async def test_only_a_model_on_the_list_is_a_target(world: World) -> None:
    """Allowing and disallowing twice is as good as once; a launch sees the list of the moment."""
    acme = await world.organisation("acme")
    provider = await new_provider(acme.admin, requests_per_minute=30)
    model = await new_model(acme.admin, provider.id, output_tokens_max=500)
    assert await refused_target(world, acme, model.id) == "TARGET_NOT_ALLOWED"
    for _ in range(2):
        answer = await acme.admin.providers.AllowTarget(model_id=model.id)
        assert answer.model.is_allowed_target
    for role in ("app", "worker"):
        async with transaction(world, acme, role) as tx:
            target = await get_target(tx, model.id)
            assert target.name == "openai/m-1"
            assert (target.base_url, target.provider_type) == (provider.base_url, "openai")
            assert (target.requests_per_minute, target.output_tokens_max) == (30, 500)
            assert target.price_version_id == model.price_version.id
            assert target.prices.input_per_million == Decimal("2.5")

    await acme.admin.providers.UpdateProvider(
        provider={"id": provider.id}, update_mask={"paths": ["is_active"]}
    )
    assert await refused_target(world, acme, model.id) == "MODEL_UNAVAILABLE"
    for _ in range(2):
        answer = await acme.admin.providers.DisallowTarget(model_id=model.id)
        assert not answer.model.is_allowed_target
    assert await refused_target(world, acme, model.id) == "TARGET_NOT_ALLOWED"
    assert await refused_target(world, acme, str(uuid4())) == "MODEL_NOT_FOUND"
    for attempt in (
        acme.admin.providers.AllowTarget(model_id=str(uuid4())),
        acme.admin.providers.DisallowTarget(model_id=str(uuid4())),
    ):
        assert await told(attempt) == ("NOT_FOUND", "MODEL_NOT_FOUND")


async def test_what_the_installation_offers_is_read_and_allowed_but_not_changed(
    world: World,
) -> None:
    """Each organisation decides for itself whether it is a target; operators keep it up."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    root = await world.organisation("root", operator=True)
    provider_id, model_id = platform_model(world)

    provider = (await acme.admin.providers.GetProvider(provider_id=provider_id)).provider
    assert provider.is_platform_provided
    await acme.admin.providers.AllowTarget(model_id=model_id)
    other = await globex.admin.providers.GetModel(model_id=model_id)
    assert not other.model.is_allowed_target

    update = {
        "provider": {"id": provider_id, "display_name": "Public"},
        "update_mask": {"paths": ["display_name"]},
    }
    for attempt in (
        acme.admin.providers.UpdateProvider(**update),
        new_model(acme.admin, provider_id, "mine"),
        acme.admin.providers.CreatePriceVersion(model_id=model_id, price=PRICE),
    ):
        assert await told(attempt) == ("PERMISSION_DENIED", "PERMISSION_MISSING")

    await root.admin.providers.UpdateProvider(**update)
    added = await new_model(root.admin, provider_id, "public-2")
    await root.admin.providers.CreatePriceVersion(model_id=model_id, price=PRICE)
    seen = (await globex.admin.providers.GetModel(model_id=added.id)).model
    assert seen.name == "public-2"
    repriced = (await globex.admin.providers.GetModel(model_id=model_id)).model
    assert repriced.price_version.version_number == 2


async def test_another_organisations_registry_does_not_exist(world: World) -> None:
    """Not for its administrator, and not for an operator of the installation either."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    root = await world.organisation("root", operator=True)
    provider = await new_provider(acme.admin)
    model = await new_model(acme.admin, provider.id)
    for stranger in (globex.admin, root.admin):
        for call, reason in (
            (stranger.providers.GetProvider(provider_id=provider.id), "PROVIDER_NOT_FOUND"),
            (
                stranger.providers.UpdateProvider(
                    provider={"id": provider.id}, update_mask={"paths": ["is_active"]}
                ),
                "PROVIDER_NOT_FOUND",
            ),
            (new_model(stranger, provider.id, "x"), "PROVIDER_NOT_FOUND"),
            (stranger.providers.GetModel(model_id=model.id), "MODEL_NOT_FOUND"),
            (
                stranger.providers.CreatePriceVersion(model_id=model.id, price=PRICE),
                "MODEL_NOT_FOUND",
            ),
            (stranger.providers.AllowTarget(model_id=model.id), "MODEL_NOT_FOUND"),
            (stranger.providers.DisallowTarget(model_id=model.id), "MODEL_NOT_FOUND"),
        ):
            assert await told(call) == ("NOT_FOUND", reason)
        assert not (await stranger.providers.ListProviders()).providers
        assert not (await stranger.providers.ListModels()).models
    assert await refused_target(world, globex, model.id) == "MODEL_NOT_FOUND"


async def test_users_read_the_registry_and_administrators_keep_it(world: World) -> None:
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    provider = await new_provider(acme.admin)
    model = await new_model(acme.admin, provider.id)
    assert len((await olivia.providers.ListModels()).models) == 1
    for attempt in (
        new_provider(olivia, name="mine"),
        new_model(olivia, provider.id, "x"),
        olivia.providers.AllowTarget(model_id=model.id),
        olivia.providers.CreatePriceVersion(model_id=model.id, price=PRICE),
    ):
        assert await told(attempt) == ("PERMISSION_DENIED", "PERMISSION_MISSING")


async def test_a_repeated_request_makes_one_provider(world: World) -> None:
    acme = await world.organisation("acme")
    request = {**OPENAI, "request_id": str(uuid4())}
    first = await acme.admin.providers.CreateProvider(**request)
    assert await acme.admin.providers.CreateProvider(**request) == first
    assert len((await acme.admin.providers.ListProviders()).providers) == 1


async def test_every_change_leaves_its_audit_event(world: World) -> None:
    acme = await world.organisation("acme")
    provider = await new_provider(acme.admin)
    model = await new_model(acme.admin, provider.id)
    await acme.admin.providers.UpdateProvider(
        provider={"id": provider.id, "base_url": "https://elsewhere.example.com"},
        update_mask={"paths": ["base_url"]},
    )
    await acme.admin.providers.CreatePriceVersion(model_id=model.id, price=PRICE)
    await acme.admin.providers.AllowTarget(model_id=model.id)
    await acme.admin.providers.DisallowTarget(model_id=model.id)
    with superuser(world) as connection:
        rows = connection.execute(
            """SELECT facts->>'action', fields::text FROM audit.pending
                WHERE facts->>'entity' IN ('provider', 'model', 'price_version')"""
        ).fetchall()
    assert sorted(action for action, _fields in rows) == [
        "model.create",
        "price_version.create",
        "provider.create",
        "provider.update",
        "target.allow",
        "target.disallow",
    ]
    moved = next(fields for action, fields in rows if action == "provider.update")
    assert "elsewhere.example.com" in moved and "api.example.com" in moved
