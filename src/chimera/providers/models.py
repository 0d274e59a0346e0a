"""Models and their price versions.

What must stay true: a price version never changes, so a cost that was booked can be computed again;
a model belongs to whom its provider belongs to. US dollars per million tokens throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.errors import UniqueViolation

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, NotFound
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.providers.operations import lock_provider, not_yours
from chimera.providers.pricing import Prices, prices_of
from chimera.rows import decimal_text
from chimera.v1.providers_pb2 import (
    CreateModelRequest,
    CreatePriceVersionRequest,
    ListModelsRequest,
    Model,
    PriceVersion,
)

# With the price of now: the newest one that has begun.
SELECT_MODEL = """
    SELECT m.id, m.provider_id, m.name, m.display_name, m.version, m.context_tokens_max,
           m.output_tokens_max, m.is_available, m.created_at,
           t.model_id IS NOT NULL AS is_allowed_target,
           jsonb_build_object(
               'id', v.id,
               'model_id', v.model_id,
               'version_number', v.version_number,
               'created_by', v.created_by,
               'valid_from',
               to_char(v.valid_from AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
               'price', jsonb_build_object(
                   'input_per_million_usd', trim_scale(v.input_per_million)::text,
                   'output_per_million_usd', trim_scale(v.output_per_million)::text,
                   'cached_input_per_million_usd', trim_scale(v.cached_input_per_million)::text,
                   'reasoning_per_million_usd', trim_scale(v.reasoning_per_million)::text,
                   'per_request_usd', trim_scale(v.per_request)::text)
           ) AS price_version
      FROM providers.models m
      JOIN LATERAL (SELECT * FROM providers.price_versions p
                     WHERE p.model_id = m.id AND p.valid_from <= now()
                     ORDER BY p.version_number DESC LIMIT 1) v ON true
      LEFT JOIN providers.allowed_targets t ON t.org_id = %(org_id)s::uuid AND t.model_id = m.id
     WHERE (m.org_id IS NULL OR m.org_id = %(org_id)s::uuid) AND m.deleted_at IS NULL
"""

GET_MODEL = sql(Model, SELECT_MODEL + "AND m.id = %(model_id)s::uuid")


async def get_model(tx: Tx, model_id: str) -> Model:
    """A model with its price of now. Raises NotFound(MODEL_NOT_FOUND)."""
    model = await tx.one(GET_MODEL, org_id=tx.call.caller.org_id, model_id=model_id)
    if model is None:
        raise no_model()
    return model


def no_model() -> NotFound:
    return NotFound("MODEL_NOT_FOUND", "There is no such model.")


LIST_MODELS = sql(
    Model,
    SELECT_MODEL
    + """
       AND (%(provider_id)s::uuid IS NULL OR m.provider_id = %(provider_id)s)
       AND (NOT %(allowed_targets_only)s OR t.model_id IS NOT NULL)
       AND (%(after_id)s::uuid IS NULL OR (m.provider_id, m.name, m.id)
            > (%(after_provider_id)s::uuid, %(after_name)s::text, %(after_id)s))
     ORDER BY m.provider_id, m.name, m.id
     LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_models(tx: Tx, pages: Pages, request: ListModelsRequest) -> tuple[list[Model], str]:
    """A page by provider and name, and the token of the next."""
    size, after = pages.page(request)
    after_provider_id, after_name, after_id = after or (None, None, None)
    rows = await tx.all(
        LIST_MODELS,
        org_id=tx.call.caller.org_id,
        provider_id=request.provider_id or None,
        allowed_targets_only=request.allowed_targets_only,
        after_provider_id=after_provider_id,
        after_name=after_name,
        after_id=after_id,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "provider_id", "name", "id")


INSERT_MODEL = sql(
    Nothing,
    """
    INSERT INTO providers.models (id, org_id, provider_id, name, display_name, version,
        context_tokens_max, output_tokens_max)
    VALUES (%(id)s, %(org_id)s, %(provider_id)s, %(name)s, %(display_name)s, %(version)s,
        %(context_tokens_max)s, %(output_tokens_max)s)
    """,
)


async def create_model(tx: Tx, request: CreateModelRequest) -> Model:
    """A model with its first price. Raises NotFound(PROVIDER_NOT_FOUND), Invalid(PRICE_INVALID),
    AlreadyExists(MODEL_NAME_TAKEN), Denied for a provider of the installation."""
    prices = prices_of(request.price)
    provider = await lock_provider(tx, request.provider_id)
    org_id = None if provider.is_platform_provided else tx.call.caller.org_id
    model_id = new_id()
    try:
        await tx.run(
            INSERT_MODEL,
            id=model_id,
            org_id=org_id,
            provider_id=provider.id,
            name=request.name,
            display_name=request.display_name,
            version=request.version,
            context_tokens_max=request.context_tokens_max,
            output_tokens_max=request.output_tokens_max,
        )
    except UniqueViolation as error:
        if violated(error) != "models_name":
            raise
        raise AlreadyExists(
            "MODEL_NAME_TAKEN", "The provider has a model of this name and version already."
        ) from None
    await _insert_price(tx, org_id, model_id, prices)
    new = {
        "provider_id": provider.id,
        "name": request.name,
        "display_name": request.display_name,
        "version": request.version,
        "context_tokens_max": request.context_tokens_max,
        "output_tokens_max": request.output_tokens_max,
        **_price_facts(prices),
    }
    record(tx, "model.create", "model", model_id, new=new)
    return await get_model(tx, model_id)


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


async def create_price_version(tx: Tx, request: CreatePriceVersionRequest) -> PriceVersion:
    """Raises NotFound(MODEL_NOT_FOUND), Invalid(PRICE_INVALID), Denied for a model of the
    installation."""
    prices = prices_of(request.price)
    # Numbers are given under the model's lock.
    model = await tx.one(LOCK_MODEL, org_id=tx.call.caller.org_id, model_id=request.model_id)
    if model is None:
        await get_model(tx, request.model_id)
        raise not_yours()
    price_version_id = await _insert_price(tx, model.org_id, model.id, prices)
    version = (await get_model(tx, model.id)).price_version
    new = {
        "model_id": model.id,
        "version_number": version.version_number,
        **_price_facts(prices),
    }
    record(tx, "price_version.create", "price_version", price_version_id, new=new)
    return version


INSERT_PRICE = sql(
    Nothing,
    """
    INSERT INTO providers.price_versions (id, org_id, model_id, version_number, input_per_million,
        output_per_million, cached_input_per_million, reasoning_per_million, per_request,
        created_by)
    SELECT %(id)s::uuid, %(org_id)s::uuid, %(model_id)s::uuid, COALESCE(max(version_number), 0) + 1,
           %(input_per_million)s::numeric, %(output_per_million)s::numeric,
           %(cached_input_per_million)s::numeric, %(reasoning_per_million)s::numeric,
           %(per_request)s::numeric, %(created_by)s::uuid
      FROM providers.price_versions WHERE model_id = %(model_id)s::uuid
    """,
)


async def _insert_price(tx: Tx, org_id: str | None, model_id: str, prices: Prices) -> str:
    price_version_id = new_id()
    await tx.run(
        INSERT_PRICE,
        id=price_version_id,
        org_id=org_id,
        model_id=model_id,
        input_per_million=prices.input_per_million,
        output_per_million=prices.output_per_million,
        cached_input_per_million=prices.cached_input_per_million,
        reasoning_per_million=prices.reasoning_per_million,
        per_request=prices.per_request,
        created_by=tx.call.caller.user_id,
    )
    return price_version_id


def _price_facts(prices: Prices) -> dict[str, str]:
    return {
        "input_per_million_usd": decimal_text(prices.input_per_million),
        "output_per_million_usd": decimal_text(prices.output_per_million),
        "cached_input_per_million_usd": decimal_text(prices.cached_input_per_million),
        "reasoning_per_million_usd": decimal_text(prices.reasoning_per_million),
        "per_request_usd": decimal_text(prices.per_request),
    }
