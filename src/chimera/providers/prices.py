"""Price versions: what a model costs, and when.

What must stay true: a version never changes, so a cost that was booked can be computed again; at any
time since a model was made exactly one version is valid (the database keeps the intervals apart and
without gaps, see migration 0013). US dollars per million tokens throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import Invalid, NotFound, Violation
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.providers.operations import not_yours
from chimera.providers.pricing import (
    Prices,
    prices_from_json,
    prices_json,
    prices_of,
    prices_of_entry,
)
from chimera.v1.providers_pb2 import (
    CreateModelRequest,
    CreatePriceVersionRequest,
    GetPriceVersionRequest,
    ListPriceVersionsRequest,
    PriceVersion,
)

AHEAD_MAX_DAYS = 3660

# The columns of providers.price_versions (as v) in the shape of `Price`.
PRICE = """
    jsonb_strip_nulls(jsonb_build_object(
        'input_per_million_usd', trim_scale(v.input_per_million)::text,
        'output_per_million_usd', trim_scale(v.output_per_million)::text,
        'cached_input_per_million_usd', trim_scale(v.cached_input_per_million)::text,
        'reasoning_per_million_usd', trim_scale(v.reasoning_per_million)::text,
        'per_request_usd', trim_scale(v.per_request)::text,
        'cache_write_per_million_usd', trim_scale(v.cache_write_per_million)::text,
        'long_from_tokens', NULLIF(v.long_from_tokens, 0),
        'long_prompt', CASE WHEN v.long_prices IS NOT NULL THEN jsonb_strip_nulls(jsonb_build_object(
            'input_per_million_usd', v.long_prices->>'input_per_million',
            'output_per_million_usd', v.long_prices->>'output_per_million',
            'cached_input_per_million_usd', v.long_prices->>'cached_input_per_million',
            'reasoning_per_million_usd', v.long_prices->>'reasoning_per_million',
            'per_request_usd', v.long_prices->>'per_request',
            'cache_write_per_million_usd', v.long_prices->>'cache_write_per_million')) END))
"""
SELECT_PRICE = (
    "SELECT v.id, v.model_id, v.version_number, v.created_by, v.valid_from, v.valid_until, v.source,"  # noqa: S608 - constants of this product
    + PRICE
    + """ AS price
      FROM providers.price_versions v JOIN providers.models m ON m.id = v.model_id
     WHERE (m.org_id IS NULL OR m.org_id = %(org_id)s::uuid) AND m.deleted_at IS NULL
"""
)

GET_PRICE = sql(PriceVersion, SELECT_PRICE + "AND v.id = %(price_version_id)s::uuid")
GET_PRICE_AT = sql(
    PriceVersion,
    SELECT_PRICE
    + """
      AND v.model_id = %(model_id)s::uuid
      AND v.valid_from <= COALESCE(%(at)s::timestamptz, statement_timestamp())
      AND COALESCE(v.valid_until > COALESCE(%(at)s::timestamptz, statement_timestamp()), true)
    """,
)


async def get_price_version(tx: Tx, request: GetPriceVersionRequest) -> PriceVersion:
    """By id, or the one that was valid for a model at a time. Raises NotFound(PRICE_NOT_FOUND)."""
    org_id = tx.call.caller.org_id
    if request.price_version_id:
        version = await tx.one(GET_PRICE, org_id=org_id, price_version_id=request.price_version_id)
    elif request.model_id:
        at = request.at.ToDatetime(UTC) if request.HasField("at") else None
        version = await tx.one(GET_PRICE_AT, org_id=org_id, model_id=request.model_id, at=at)
    else:
        said = "give it, or model_id with a time"
        violation = Violation("price_version_id", said, "FIELD_INVALID")
        raise Invalid("FIELD_INVALID", f"price_version_id: {said}", violations=[violation])
    if version is None:
        raise NotFound("PRICE_NOT_FOUND", "There is no such price, or none was valid at that time.")
    return version


LIST_PRICES = sql(
    PriceVersion,
    SELECT_PRICE
    + """
       AND v.model_id = %(model_id)s::uuid
       AND (%(after)s::int IS NULL OR v.version_number < %(after)s)
     ORDER BY v.version_number DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_price_versions(
    tx: Tx, pages: Pages, request: ListPriceVersionsRequest
) -> tuple[list[PriceVersion], str]:
    """A page, newest first, and the token of the next."""
    size, after = pages.page(request)
    rows = await tx.all(
        LIST_PRICES,
        org_id=tx.call.caller.org_id,
        model_id=request.model_id,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "version_number")


def given_prices(request: CreateModelRequest | CreatePriceVersionRequest) -> Prices:
    """The price in a request, in whichever form. Raises Invalid(PRICE_INVALID)."""
    if request.HasField("price") == request.HasField("price_entry"):
        said = "give either price or price_entry"
        violation = Violation("price", said, "PRICE_INVALID")
        raise Invalid("PRICE_INVALID", f"price: {said}", violations=[violation])
    if request.HasField("price_entry"):
        return prices_of_entry(request.price_entry)
    return prices_of(request.price)


@dataclass(frozen=True, slots=True)
class Held:
    """A locked model and whose it is (None: the installation's)."""

    id: str
    org_id: str | None


LOCK_MODEL = sql(
    Held,
    """
    SELECT id, org_id FROM providers.models
     WHERE id = %(model_id)s::uuid AND (org_id IS NULL OR org_id = %(org_id)s::uuid)
       AND deleted_at IS NULL
       FOR NO KEY UPDATE
    """,
)
FIND_MODEL = sql(
    Held,
    """
    SELECT id, org_id FROM providers.models
     WHERE id = %(model_id)s::uuid AND (org_id IS NULL OR org_id = %(org_id)s::uuid)
       AND deleted_at IS NULL
    """,
)


def no_model() -> NotFound:
    return NotFound("MODEL_NOT_FOUND", "There is no such model.")


async def lock_model(tx: Tx, model_id: str) -> Held:
    """A model that is about to change, held until the transaction ends.

    Raises NotFound(MODEL_NOT_FOUND), Denied for what the installation offers.
    """
    org_id = tx.call.caller.org_id
    held = await tx.one(LOCK_MODEL, org_id=org_id, model_id=model_id)
    if held is not None:
        return held
    if await tx.one(FIND_MODEL, org_id=org_id, model_id=model_id) is None:
        raise no_model()
    raise not_yours()


async def create_price_version(tx: Tx, request: CreatePriceVersionRequest) -> PriceVersion:
    """Raises NotFound(MODEL_NOT_FOUND), Invalid(PRICE_INVALID), Denied for a model of the
    installation."""
    prices = given_prices(request)
    valid_from = None
    if request.HasField("valid_from"):
        valid_from = request.valid_from.ToDatetime(UTC)
        days = (valid_from - datetime.now(UTC)).total_seconds() / 86_400
        if not 0 < days <= AHEAD_MAX_DAYS:
            said = "must lie ahead, at most ten years: costs already booked keep their price"
            violation = Violation("valid_from", said, "PRICE_INVALID")
            raise Invalid("PRICE_INVALID", f"valid_from: {said}", violations=[violation])
    # Numbers are given under the model's lock.
    model = await lock_model(tx, request.model_id)
    price_version_id = await insert_price(tx, model.org_id, model.id, prices, valid_from=valid_from)
    version = await tx.one(
        GET_PRICE, org_id=tx.call.caller.org_id, price_version_id=price_version_id
    )
    assert version is not None  # inserted above
    new = {
        "model_id": model.id,
        "version_number": version.version_number,
        "valid_from": version.valid_from.ToJsonString(),
        **price_facts(prices),
    }
    record(tx, "price_version.create", "price_version", price_version_id, new=new)
    return version


INSERT_PRICE = sql(
    Nothing,
    """
    INSERT INTO providers.price_versions (id, org_id, model_id, version_number, input_per_million,
        output_per_million, cached_input_per_million, reasoning_per_million, per_request,
        cache_write_per_million, long_from_tokens, long_prices, valid_from, source, created_by)
    SELECT %(id)s::uuid, %(org_id)s::uuid, %(model_id)s::uuid, COALESCE(max(version_number), 0) + 1,
           %(input_per_million)s::numeric, %(output_per_million)s::numeric,
           %(cached_input_per_million)s::numeric, %(reasoning_per_million)s::numeric,
           %(per_request)s::numeric, %(cache_write_per_million)s::numeric,
           %(long_from_tokens)s::int, %(long_prices)s::jsonb,
           COALESCE(%(valid_from)s::timestamptz, clock_timestamp()), %(source)s::text,
           %(created_by)s::uuid
      FROM providers.price_versions WHERE model_id = %(model_id)s::uuid
    """,
)


async def insert_price(
    tx: Tx,
    org_id: str | None,
    model_id: str,
    prices: Prices,
    *,
    valid_from: datetime | None = None,
    source: str = "",
) -> str:
    """Adds a version of a model that the caller has locked or made, from now or a time ahead; the
    one valid then ends there. Returns its id."""
    price_version_id = new_id()
    await tx.run(
        INSERT_PRICE,
        id=price_version_id,
        org_id=org_id,
        model_id=model_id,
        **price_columns(prices),
        valid_from=valid_from,
        source=source,
        created_by=tx.call.caller.user_id or None,
    )
    return price_version_id


def price_columns(prices: Prices) -> dict[str, Any]:
    """Prices as the columns of a row."""
    long = None if prices.long is None else orjson.dumps(prices_json(prices.long)).decode()
    return {
        "input_per_million": prices.input_per_million,
        "output_per_million": prices.output_per_million,
        "cached_input_per_million": prices.cached_input_per_million,
        "reasoning_per_million": prices.reasoning_per_million,
        "per_request": prices.per_request,
        "cache_write_per_million": prices.cache_write_per_million,
        "long_from_tokens": prices.long_from_tokens,
        "long_prices": long,
    }


def prices_of_row(row: Any) -> Prices:
    """The inverse of `price_columns`, from anything with these attributes."""
    long = row.long_prices
    return Prices(
        input_per_million=row.input_per_million,
        output_per_million=row.output_per_million,
        cached_input_per_million=row.cached_input_per_million,
        reasoning_per_million=row.reasoning_per_million,
        per_request=row.per_request,
        cache_write_per_million=row.cache_write_per_million,
        long_from_tokens=row.long_from_tokens,
        long=None if long is None else prices_from_json(long),
    )


def price_facts(prices: Prices) -> dict[str, Any]:
    """What the audit log shows of a price: flat, and the long-prompt price as one text."""
    facts = prices_json(prices)
    long = facts.pop("long", None)
    flat = {name if name == "long_from_tokens" else f"{name}_usd": v for name, v in facts.items()}
    return flat if long is None else {**flat, "long_prompt": orjson.dumps(long).decode()}
