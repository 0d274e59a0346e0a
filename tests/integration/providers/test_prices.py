"""Prices over time, models as they change, and taking both over from the price data."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from chimera.providers import seeding
from chimera.providers.adapters import Usage
from chimera.providers.price_data import KNOWN, priced_models
from chimera.providers.pricing import Prices, cost, prices_from_json, prices_json, worst_cost
from chimera.v1.providers_pb2 import ModelCapability, PriceUnit, ProviderOwner, ProviderType
from tests.support.world import Organisation, Person, Refused, World

PRICE = {"input_per_million_usd": "2.50", "output_per_million_usd": "10"}


async def told(call: Awaitable[Any]) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.code, refused.value.reason


async def new_provider(admin: Person, name: str = "openai", **fields: Any) -> Any:
    given = {
        "name": name,
        "provider_type": ProviderType.PROVIDER_TYPE_OPENAI,
        "base_url": "https://api.example.com/v1",
        **fields,
    }
    return (await admin.providers.CreateProvider(**given)).provider


async def new_model(admin: Person, provider_id: str, name: str = "m-1", **fields: Any) -> Any:
    given = {"provider_id": provider_id, "name": name, "price": PRICE, **fields}
    return (await admin.providers.CreateModel(**given)).model


async def update(admin: Person, model_id: str, **fields: Any) -> Any:
    request = {"model": {"id": model_id, **fields}, "update_mask": {"paths": list(fields)}}
    return (await admin.providers.UpdateModel(**request)).model


def superuser(world: World) -> psycopg.Connection[Any]:
    return psycopg.connect(world.settings.database_url.get_secret_value(), autocommit=True)


def intervals(world: World, model_id: str) -> list[tuple[int, datetime, datetime | None]]:
    """Number, beginning and end of a model's versions that were ever valid, in time's order."""
    with superuser(world) as connection:
        return connection.execute(
            """SELECT version_number, valid_from, valid_until FROM providers.price_versions
                WHERE model_id = %s AND NOT isempty(tstzrange(valid_from, valid_until))
                ORDER BY valid_from""",
            [model_id],
        ).fetchall()


def without_gaps(found: list[tuple[int, datetime, datetime | None]]) -> bool:
    return found[-1][2] is None and all(
        one[2] == following[1] for one, following in pairwise(found)
    )


@pytest.fixture
async def acme(world: World) -> Organisation:
    return await world.organisation("acme")


# -- prices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "given", "stored"),
    [
        (PriceUnit.PRICE_UNIT_PER_TOKEN, "0.00000015", "0.15"),
        (PriceUnit.PRICE_UNIT_PER_THOUSAND, "0.03", "30"),
        (PriceUnit.PRICE_UNIT_PER_MILLION, "0.15", "0.15"),
        (PriceUnit.PRICE_UNIT_UNSPECIFIED, "3", "3"),
        (PriceUnit.PRICE_UNIT_PER_TOKEN, "0.000000000000000001", "0.000000000001"),
    ],
)
async def test_price_lists_are_converted_exactly(
    acme: Organisation, unit: int, given: str, stored: str
) -> None:
    provider = await new_provider(acme.admin)
    entry = {"unit": unit, "input_usd": given, "output_usd": given, "per_request_usd": "0.01"}
    request = {"provider_id": provider.id, "name": "m", "price_entry": entry}
    price = (await acme.admin.providers.CreateModel(**request)).model.price_version.price
    assert price.input_per_million_usd == price.reasoning_per_million_usd == stored
    assert price.per_request_usd == "0.01"


async def test_prices_that_cannot_be(acme: Organisation) -> None:
    """None, two, one with decimals that would be lost, one that lies in the past."""
    admin = acme.admin
    provider = await new_provider(admin)
    model = await new_model(admin, provider.id)
    entry = {"input_usd": "1", "output_usd": "1"}
    fine = {**entry, "unit": "PRICE_UNIT_PER_MILLION", "input_usd": "0.0000000000001"}
    yesterday = datetime.now(UTC) - timedelta(days=1)
    long = {**PRICE, "long_from_tokens": 10}
    for fields in (
        {},
        {"price": PRICE, "price_entry": entry},
        {"price_entry": fine},
        {"price": PRICE, "valid_from": yesterday},
        {"price": long},
        {"price": {**long, "long_prompt": {**long, "long_prompt": PRICE}}},
    ):
        refused = admin.providers.CreatePriceVersion(model_id=model.id, **fields)
        assert await told(refused) == ("INVALID_ARGUMENT", "PRICE_INVALID"), fields
    assert len(intervals(acme.world, model.id)) == 1


async def test_a_price_is_planned_and_a_past_one_is_found(acme: Organisation) -> None:
    """The one of now ends where the planned one begins; a change of mind replaces the plan; any time
    has exactly one price."""
    admin = acme.admin
    model = await new_model(admin, (await new_provider(admin)).id)
    begun = datetime.now(UTC)
    soon, later = begun + timedelta(days=10), begun + timedelta(days=20)
    made = []
    for at, amount in ((later, "30"), (soon, "20"), (later, "31"), (None, "15")):
        price = {**PRICE, "input_per_million_usd": amount}
        given = {"valid_from": at} if at else {}
        answer = await admin.providers.CreatePriceVersion(model_id=model.id, price=price, **given)
        made.append(answer.price_version)
    assert [version.version_number for version in made] == [2, 3, 4, 5]
    found = intervals(acme.world, model.id)
    assert [number for number, _, _ in found] == [1, 5, 3, 4] and without_gaps(found)

    async def at(moment: datetime) -> str:
        answer = await admin.providers.GetPriceVersion(model_id=model.id, at=moment)
        return str(answer.price_version.price.input_per_million_usd)

    assert await at(datetime.now(UTC)) == "15"
    assert [await at(soon), await at(later - timedelta(seconds=1)), await at(later)] == [
        "20",
        "20",
        "31",
    ]
    before = model.created_at.ToDatetime(UTC) - timedelta(days=1)
    assert (await told(at(before)))[1] == "PRICE_NOT_FOUND"
    replaced = await admin.providers.GetPriceVersion(price_version_id=made[0].id)
    assert replaced.price_version.valid_until == replaced.price_version.valid_from
    first = await admin.providers.ListPriceVersions(model_id=model.id, page_size=3)
    rest = await admin.providers.ListPriceVersions(
        model_id=model.id, page_size=3, page_token=first.next_page_token
    )
    listed = [v.version_number for v in (*first.price_versions, *rest.price_versions)]
    assert listed == [5, 4, 3, 2, 1] and not rest.next_page_token


async def test_parallel_prices_leave_no_gap_and_no_overlap(acme: Organisation) -> None:
    """Some for now, some for the same two days ahead."""
    model = await new_model(acme.admin, (await new_provider(acme.admin)).id)
    days = [datetime.now(UTC) + timedelta(days=n) for n in (5, 6)]
    await asyncio.gather(
        *(
            acme.admin.providers.CreatePriceVersion(
                model_id=model.id, price=PRICE, **({"valid_from": days[n % 3]} if n % 3 < 2 else {})
            )
            for n in range(12)
        )
    )
    found = intervals(acme.world, model.id)
    assert without_gaps(found)
    with superuser(acme.world) as connection:
        stored = connection.execute("SELECT count(*) FROM providers.price_versions").fetchone()
    assert stored == (13,)


async def test_the_database_keeps_prices_apart_and_the_past_as_it_was(acme: Organisation) -> None:
    """Whatever the code does, and also for a superuser who does not switch the rules off."""
    model = await new_model(acme.admin, (await new_provider(acme.admin)).id)
    await acme.admin.providers.CreatePriceVersion(model_id=model.id, price=PRICE)
    with superuser(acme.world) as connection:
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(
                "UPDATE providers.price_versions SET valid_until = now() + interval '1 day'"
                " WHERE version_number = 1"
            )
        connection.execute("ALTER TABLE providers.price_versions DISABLE TRIGGER fit")
        with pytest.raises(psycopg.errors.ExclusionViolation):
            connection.execute(
                """INSERT INTO providers.price_versions (id, org_id, model_id, version_number,
                       input_per_million, output_per_million, cached_input_per_million,
                       reasoning_per_million, per_request)
                   VALUES (%s, %s, %s, 9, 1, 1, 1, 1, 0)""",
                [uuid4(), acme.id, model.id],
            )


async def test_long_prompts_and_cache_writes_have_their_price(acme: Organisation) -> None:
    """Through the API and back, and in what a call costs."""
    long = {"input_per_million_usd": "6", "output_per_million_usd": "22.5"}
    price = {
        "input_per_million_usd": "3",
        "output_per_million_usd": "15",
        "cached_input_per_million_usd": "0.3",
        "cache_write_per_million_usd": "3.75",
        "long_from_tokens": 200_000,
        "long_prompt": long,
    }
    model = await new_model(acme.admin, (await new_provider(acme.admin)).id, price=price)
    shown = model.price_version.price
    assert (shown.cache_write_per_million_usd, shown.long_from_tokens) == ("3.75", 200_000)
    assert shown.long_prompt.cached_input_per_million_usd == "6"
    again = await acme.admin.providers.GetPriceVersion(price_version_id=model.price_version.id)
    assert again.price_version.price == shown

    base = Prices(*map(Decimal, ("3", "15", "0.3", "15", "0")), Decimal("3.75"))
    dear = Prices(*map(Decimal, ("6", "22.5", "6", "22.5", "0")))
    prices = replace(base, long_from_tokens=200_000, long=dear)
    assert prices_from_json(prices_json(prices)) == prices
    short = Usage(1000, 100, cached_input_tokens=200, cache_write_tokens=300)
    assert cost(short, prices) == Decimal("0.004185")  # 500 x 3 + 200 x .3 + 300 x 3.75 + 100 x 15
    assert cost(Usage(200_000, 0), prices) == Decimal("0.6")
    assert cost(Usage(200_001, 0), prices) == Decimal("1.200006")
    assert worst_cost(200_001, 0, prices) >= cost(Usage(200_001, 0), prices)
    assert (
        cost(Usage(10, 0, cache_write_tokens=10), replace(base, cache_write_per_million=Decimal(0)))
        == 0
    )


# -- models and providers -------------------------------------------------------------------------


async def test_a_model_is_changed_and_found_by_its_names(acme: Organisation) -> None:
    admin = acme.admin
    provider = await new_provider(admin)
    old = await new_model(admin, provider.id, "m-2024", aliases=["m-latest", "m"])
    new = await new_model(admin, provider.id, "m-2026", version="1")
    newer = await new_model(admin, provider.id, "m-2026", version="2")

    async def resolved(name: str, **fields: Any) -> str:
        answer = await admin.providers.ResolveModel(provider_id=provider.id, name=name, **fields)
        return str(answer.model.id)

    assert await resolved("m-latest") == old.id and list(old.aliases) == ["m", "m-latest"]
    assert await resolved("m-2026") == newer.id
    assert await resolved("m-2026", version="1") == new.id
    taken = update(admin, new.id, aliases=["m"])
    assert await told(taken) == ("ALREADY_EXISTS", "MODEL_NAME_TAKEN")
    await update(admin, old.id, aliases=[])
    await update(admin, newer.id, aliases=["m-latest"])
    assert await resolved("m-latest") == newer.id
    assert (await told(resolved("m")))[1] == "MODEL_NOT_FOUND"

    deprecated = await update(
        admin, old.id, deprecated_at=datetime.now(UTC), replaced_by=newer.id, display_name="Old"
    )
    assert deprecated.HasField("deprecated_at") and deprecated.replaced_by == newer.id
    itself = update(admin, old.id, replaced_by=old.id)
    assert await told(itself) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    nothing = update(admin, old.id, replaced_by=str(uuid4()))
    assert await told(nothing) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    stale = admin.providers.UpdateModel(
        model={"id": old.id}, update_mask={"paths": ["is_available"]}, etag=old.etag
    )
    assert await told(stale) == ("ABORTED", "ETAG_MISMATCH")


async def test_a_model_has_its_time(acme: Organisation) -> None:
    """Outside of its window it is no target and not listed as available."""
    admin = acme.admin
    provider = await new_provider(admin)
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    await new_model(
        admin, provider.id, "now", available_from=now - hour, available_until=now + hour
    )
    await new_model(admin, provider.id, "over", available_until=now - hour)
    await new_model(admin, provider.id, "ahead", available_from=now + hour)
    off = await new_model(admin, provider.id, "off")
    await update(admin, off.id, is_available=False)
    listed = await admin.providers.ListModels(available_only=True)
    assert [model.name for model in listed.models] == ["now"]
    backwards = new_model(admin, provider.id, "x", available_from=now, available_until=now - hour)
    assert await told(backwards) == ("INVALID_ARGUMENT", "FIELD_INVALID")


async def test_lists_are_filtered(acme: Organisation) -> None:
    admin = acme.admin
    root = await acme.world.organisation("root", operator=True)
    theirs = await new_provider(root.admin, "platform", is_platform_provided=True)
    mine = await new_provider(
        admin, "mine", provider_type=ProviderType.PROVIDER_TYPE_ANTHROPIC, display_name="Our own"
    )
    await new_provider(admin, "asleep")
    asleep = (await admin.providers.ListProviders(name_contains="SLEEP")).providers[0]
    await admin.providers.UpdateProvider(
        provider={"id": asleep.id}, update_mask={"paths": ["is_active"]}
    )
    chat = ModelCapability.MODEL_CAPABILITY_CHAT
    vision = ModelCapability.MODEL_CAPABILITY_VISION
    await new_model(admin, mine.id, "both", capabilities=[chat, vision])
    await new_model(admin, mine.id, "chat", capabilities=[chat])

    async def providers(**filters: Any) -> list[str]:
        return [p.name for p in (await admin.providers.ListProviders(**filters)).providers]

    async def models(**filters: Any) -> list[str]:
        return [m.name for m in (await admin.providers.ListModels(**filters)).models]

    assert await providers(owner=ProviderOwner.PROVIDER_OWNER_INSTALLATION) == ["platform"]
    assert await providers(owner=ProviderOwner.PROVIDER_OWNER_ORGANISATION) == ["asleep", "mine"]
    assert await providers(active_only=True) == ["mine", "platform"]
    assert await providers(provider_type=ProviderType.PROVIDER_TYPE_ANTHROPIC) == ["mine"]
    assert await providers(name_contains="our OWN") == ["mine"]
    assert await models(capabilities=[vision]) == ["both"]
    assert await models(capabilities=[chat]) == ["both", "chat"]
    assert await models(name_contains="HAT") == ["chat"]
    assert theirs.is_platform_provided


async def test_what_is_deleted_is_gone_and_its_name_is_free(acme: Organisation) -> None:
    """A provider takes its models along, and the organisation's keys for it; prices stay."""
    admin = acme.admin
    provider = await new_provider(admin)
    model = await new_model(admin, provider.id, aliases=["a"])
    other = await new_model(admin, provider.id, "m-2")
    await admin.providers.CreateProviderKey(
        provider_id=provider.id, name="k", secret="sk-" + "x" * 20
    )
    stale = admin.providers.DeleteModel(model_id=model.id, etag="19990101")
    assert await told(stale) == ("ABORTED", "ETAG_MISMATCH")
    await admin.providers.DeleteModel(model_id=model.id, etag=model.etag)
    gone = admin.providers.GetModel(model_id=model.id)
    assert await told(gone) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    await new_model(admin, provider.id, aliases=["a"])
    await admin.providers.DeleteProvider(provider_id=provider.id, etag=provider.etag)
    assert await told(admin.providers.GetModel(model_id=other.id)) == gone_model()
    assert not (await admin.providers.ListProviderKeys()).provider_keys
    assert not (await admin.providers.ListProviders()).providers
    again = admin.providers.DeleteProvider(provider_id=provider.id)
    assert await told(again) == ("NOT_FOUND", "PROVIDER_NOT_FOUND")
    await new_provider(admin)
    with superuser(acme.world) as connection:
        kept = connection.execute("SELECT count(*) FROM providers.price_versions").fetchone()
    assert kept == (3,)


def gone_model() -> tuple[str, str]:
    return ("NOT_FOUND", "MODEL_NOT_FOUND")


async def test_configuration_is_checked_before_it_is_stored(acme: Organisation) -> None:
    admin = acme.admin
    provider = await new_provider(
        admin, default_config={"parameters": {"temperature": 0.5}, "headers": {"X-Team": "red"}}
    )
    assert provider.default_config["parameters"]["temperature"] == 0.5
    secret_header = {"headers": {"Authorization": "Bearer x"}}
    refused = admin.providers.UpdateProvider(
        provider={"id": provider.id, "default_config": secret_header},
        update_mask={"paths": ["default_config"]},
    )
    assert await told(refused) == ("INVALID_ARGUMENT", "PROVIDER_CONFIG_INVALID")
    much = {"parameters": {"text": "x" * 30_000}}
    refused = new_provider(admin, "second", default_config=much)
    assert await told(refused) == ("INVALID_ARGUMENT", "PROVIDER_CONFIG_INVALID")
    assert [p.name for p in (await admin.providers.ListProviders()).providers] == ["openai"]


async def test_only_operators_offer_something_to_everyone(acme: Organisation) -> None:
    mine = new_provider(acme.admin, "p", is_platform_provided=True)
    assert await told(mine) == ("PERMISSION_DENIED", "PERMISSION_MISSING")
    root = await acme.world.organisation("root", operator=True)
    provider = await new_provider(root.admin, "p", is_platform_provided=True)
    model = await new_model(root.admin, provider.id, aliases=["everyones"])
    found = await acme.admin.providers.ResolveModel(provider_id=provider.id, name="everyones")
    assert found.model.id == model.id
    for attempt in (
        update(acme.admin, model.id, is_available=False),
        acme.admin.providers.DeleteModel(model_id=model.id),
        acme.admin.providers.DeleteProvider(provider_id=provider.id),
    ):
        assert await told(attempt) == ("PERMISSION_DENIED", "PERMISSION_MISSING")
    await root.admin.providers.DeleteProvider(provider_id=provider.id)


# -- price data -----------------------------------------------------------------------------------


async def test_prices_are_taken_over_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run adds, two at once add once, the next changes nothing; a changed price makes a
    version; a person's price stays; what was deleted stays away; others see it, and only operators
    may do it."""
    acme = await world.organisation("acme")
    root = (await world.organisation("root", operator=True)).admin
    denied = acme.admin.providers.SeedPrices()
    assert await told(denied) == ("PERMISSION_DENIED", "PERMISSION_MISSING")
    unknown = root.providers.SeedPrices(providers=["openai", "nobody"])
    assert await told(unknown) == ("INVALID_ARGUMENT", "FIELD_INVALID")

    dry = await root.providers.SeedPrices(providers=["anthropic"], dry_run=True)
    assert dry.models_added > 10 and not (await root.providers.ListProviders()).providers
    first, second = await asyncio.gather(
        *(root.providers.SeedPrices(providers=["anthropic"]) for _ in range(2))
    )
    assert sorted((first.models_added, second.models_added)) == [0, dry.models_added]
    [provider] = (await acme.admin.providers.ListProviders()).providers
    assert (provider.name, provider.is_platform_provided) == ("anthropic", True)
    assert provider.source == first.source
    models = (await acme.admin.providers.ListModels(page_size=1000)).models
    assert len(models) == dry.models_added
    assert all(model.price_version.source == first.source for model in models)

    data = priced_models(KNOWN["anthropic"])
    mine, gone, changed = models[0], models[1], models[2]
    await root.providers.CreatePriceVersion(model_id=mine.id, price=PRICE)
    await root.providers.DeleteModel(model_id=gone.id)
    moved = [
        replace(entry, prices=replace(entry.prices, input_per_million=Decimal("123.5")))
        if entry.name == changed.name
        else entry
        for entry in data
    ]
    monkeypatch.setattr(seeding, "priced_models", lambda _known: moved)
    third = await root.providers.SeedPrices(providers=["anthropic"])
    assert (third.models_added, third.prices_kept) == (0, 1)
    assert [(c.model, c.after.input_per_million_usd) for c in third.changes] == [
        (changed.name, "123.5")
    ]
    now = (await acme.admin.providers.GetModel(model_id=changed.id)).model.price_version
    assert (now.version_number, now.price.input_per_million_usd) == (2, "123.5")
    assert without_gaps(intervals(world, changed.id))
    fourth = await root.providers.SeedPrices(providers=["anthropic"])
    assert not fourth.changes and fourth.models_unchanged == third.models_unchanged + 1


def test_the_price_data_is_read_as_it_is_meant() -> None:
    """Every known provider has models; names are unique; long prompts cost at least as much."""
    for known in KNOWN.values():
        models = priced_models(known)
        assert len({model.name for model in models}) == len(models) > 3
        for model in models:
            if model.prices.long is not None:
                assert model.prices.long.input_per_million >= model.prices.input_per_million
                assert model.prices.long_from_tokens > 0
