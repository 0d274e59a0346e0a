"""Taking models and prices of known providers over from the price data, for all organisations.

What must stay true: a second run changes nothing; a price that a person wrote stays; what an operator
took out of use does not come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import Invalid, Violation
from chimera.ids import new_id
from chimera.providers.price_data import DEFAULT, KNOWN, PricedModel, priced_models, source_name
from chimera.providers.prices import price_columns, prices_of_row
from chimera.providers.pricing import Prices
from chimera.rows import decimal_text
from chimera.v1.providers_pb2 import Price, PriceChange, SeedPricesRequest, SeedPricesResponse

CHANGES_MAX = 1000


def wanted_models(request: SeedPricesRequest) -> dict[str, list[PricedModel]]:
    """Provider -> its models, out of the price data; takes a while, so in a thread and before the
    transaction. Raises Invalid(FIELD_INVALID) for a provider that is not known."""
    names = list(request.providers) or list(DEFAULT)
    unknown = sorted(set(names) - KNOWN.keys())
    if unknown:
        said = f"{unknown[0][:64]} is not one of {', '.join(KNOWN)}"
        violation = Violation("providers", said, "FIELD_INVALID")
        raise Invalid("FIELD_INVALID", f"providers: {said}", violations=[violation])
    return {name: priced_models(KNOWN[name]) for name in names}


@dataclass(frozen=True, slots=True)
class Stored:
    """A model of the installation with its price of now; `is_deleted`: taken out of use."""

    id: str
    name: str
    is_deleted: bool
    is_deprecated: bool
    source: str
    input_per_million: Decimal
    output_per_million: Decimal
    cached_input_per_million: Decimal
    reasoning_per_million: Decimal
    per_request: Decimal
    cache_write_per_million: Decimal | None
    long_from_tokens: int
    long_prices: dict[str, Any] | None


LOCK_SEEDING = sql(Nothing, "SELECT pg_advisory_xact_lock(hashtext('providers.seed'))")

FIND_PROVIDER = sql(
    str,
    """
    SELECT id FROM providers.providers
     WHERE org_id IS NULL AND name = %(name)s ORDER BY deleted_at NULLS FIRST LIMIT 1
    """,
)
INSERT_PROVIDER = sql(
    Nothing,
    """
    INSERT INTO providers.providers (id, name, display_name, provider_type, base_url, source, created_by)
    VALUES (%(id)s, %(name)s, %(display_name)s, %(provider_type)s, %(base_url)s, %(source)s,
        %(created_by)s)
    """,
)
FIND_STORED = sql(
    Stored,
    """
    SELECT DISTINCT ON (m.name) m.id, m.name, m.deleted_at IS NOT NULL AS is_deleted,
           m.deprecated_at IS NOT NULL AS is_deprecated, v.source, v.input_per_million,
           v.output_per_million, v.cached_input_per_million, v.reasoning_per_million, v.per_request,
           v.cache_write_per_million, v.long_from_tokens, v.long_prices
      FROM providers.models m
      JOIN LATERAL (SELECT * FROM providers.price_versions p
                     WHERE p.model_id = m.id AND p.valid_from <= statement_timestamp()
                       AND COALESCE(p.valid_until > statement_timestamp(), true)
                     LIMIT 1) v ON true
     WHERE m.provider_id = %(provider_id)s::uuid AND m.version = ''
     ORDER BY m.name, m.deleted_at NULLS FIRST
    """,
)
INSERT_MODELS = sql(
    Nothing,
    """
    INSERT INTO providers.models (id, provider_id, name, display_name, context_tokens_max,
        capabilities, deprecated_at, source)
    SELECT r.id, %(provider_id)s::uuid, r.name, r.display_name, r.context_tokens_max, r.capabilities,
           CASE WHEN r.is_deprecated THEN now() END, %(source)s
      FROM jsonb_to_recordset(%(models)s::jsonb) AS r (id uuid, name text, display_name text,
           context_tokens_max int, capabilities text[], is_deprecated boolean)
    """,
)
INSERT_ALIASES = sql(
    Nothing,
    """
    INSERT INTO providers.model_aliases (provider_id, alias, model_id)
    SELECT %(provider_id)s::uuid, a.alias, r.id
      FROM jsonb_to_recordset(%(models)s::jsonb) AS r (id uuid, aliases text[]),
           unnest(r.aliases) AS a (alias)
    ON CONFLICT DO NOTHING
    """,
)
INSERT_PRICES = sql(
    Nothing,
    """
    INSERT INTO providers.price_versions (id, model_id, version_number, input_per_million,
        output_per_million, cached_input_per_million, reasoning_per_million, per_request,
        cache_write_per_million, long_from_tokens, long_prices, source, created_by)
    SELECT r.id, r.model_id,
           1 + COALESCE((SELECT max(p.version_number) FROM providers.price_versions p
                          WHERE p.model_id = r.model_id), 0),
           r.input_per_million, r.output_per_million, r.cached_input_per_million,
           r.reasoning_per_million, r.per_request, r.cache_write_per_million, r.long_from_tokens,
           NULLIF(r.long_prices, 'null'::jsonb), %(source)s, %(created_by)s::uuid
      FROM jsonb_to_recordset(%(prices)s::jsonb) AS r (id uuid, model_id uuid,
           input_per_million numeric, output_per_million numeric, cached_input_per_million numeric,
           reasoning_per_million numeric, per_request numeric, cache_write_per_million numeric,
           long_from_tokens int, long_prices jsonb)
    """,
)
MARK_DEPRECATED = sql(
    Nothing,
    "UPDATE providers.models SET deprecated_at = now() WHERE id = ANY(%(ids)s::uuid[])",
)


async def seed_prices(
    tx: Tx, request: SeedPricesRequest, wanted: Mapping[str, Sequence[PricedModel]]
) -> SeedPricesResponse:
    """Stores what differs from `wanted` and says what that was."""
    await tx.run(LOCK_SEEDING)
    answer = SeedPricesResponse(source=source_name())
    for name, models in wanted.items():
        await _seed_provider(tx, name, models, answer, dry_run=request.dry_run)
    new = {
        field.name: getattr(answer, field.name)
        for field in answer.DESCRIPTOR.fields
        if field.name != "changes"
    }
    new |= {
        "providers": ",".join(wanted),
        "prices_changed": sum(change.HasField("before") for change in answer.changes),
        "dry_run": request.dry_run,
    }
    record(
        tx, "price.seed", "price_data", answer.source.replace(" ", "/"), new=new, kind=Kind.SYSTEM
    )
    return answer


async def _seed_provider(
    tx: Tx, name: str, models: Sequence[PricedModel], answer: SeedPricesResponse, *, dry_run: bool
) -> None:
    provider_id = await tx.one(FIND_PROVIDER, name=name)
    stored: dict[str, Stored] = {}
    if provider_id is not None:
        rows = await tx.all(FIND_STORED, provider_id=provider_id)
        stored = {row.name: row for row in rows}
    else:
        answer.providers_added += 1
    added: list[dict[str, Any]] = []
    prices: list[dict[str, Any]] = []
    deprecated: list[str] = []
    for model in models:
        old = stored.get(model.name)
        if old is None:
            model_id = new_id()
            added.append(_model_row(model_id, model))
            prices.append(_price_row(model_id, model.prices))
            answer.models_added += 1
            _note(answer, name, model, None)
            continue
        if old.is_deleted:
            continue
        if model.is_deprecated and not old.is_deprecated:
            deprecated.append(old.id)
        before = prices_of_row(old)
        if before == model.prices:
            answer.models_unchanged += 1
        elif not old.source:
            answer.prices_kept += 1
        else:
            prices.append(_price_row(old.id, model.prices))
            _note(answer, name, model, before)
    answer.models_deprecated += len(deprecated)
    if dry_run:
        return
    by = tx.call.caller.user_id or None
    if provider_id is None:
        known, provider_id = KNOWN[name], new_id()
        await tx.run(
            INSERT_PROVIDER,
            id=provider_id,
            name=known.name,
            display_name=known.display_name,
            provider_type=known.provider_type,
            base_url=known.base_url,
            source=answer.source,
            created_by=by,
        )
    if added:
        body = orjson.dumps(added).decode()
        await tx.run(INSERT_MODELS, provider_id=provider_id, models=body, source=answer.source)
        await tx.run(INSERT_ALIASES, provider_id=provider_id, models=body)
    if prices:
        body = orjson.dumps(prices).decode()
        await tx.run(INSERT_PRICES, prices=body, source=answer.source, created_by=by)
    if deprecated:
        await tx.run(MARK_DEPRECATED, ids=deprecated)


def _model_row(model_id: str, model: PricedModel) -> dict[str, Any]:
    return {
        "id": model_id,
        "name": model.name,
        "display_name": model.display_name,
        "context_tokens_max": model.context_tokens_max,
        "capabilities": model.capabilities,
        "is_deprecated": model.is_deprecated,
        "aliases": model.aliases,
    }


def _price_row(model_id: str, prices: Prices) -> dict[str, Any]:
    columns = {
        name: decimal_text(value) if isinstance(value, Decimal) else value
        for name, value in price_columns(prices).items()
    }
    long = columns["long_prices"]
    columns["long_prices"] = None if long is None else orjson.loads(long)
    return {"id": new_id(), "model_id": model_id, **columns}


def _note(
    answer: SeedPricesResponse, provider: str, model: PricedModel, before: Prices | None
) -> None:
    if len(answer.changes) < CHANGES_MAX:
        change = PriceChange(provider=provider, model=model.name, after=_shown(model.prices))
        if before is not None:
            change.before.CopyFrom(_shown(before))
        answer.changes.append(change)


def _shown(prices: Prices) -> Price:
    price = Price(
        input_per_million_usd=decimal_text(prices.input_per_million),
        output_per_million_usd=decimal_text(prices.output_per_million),
        cached_input_per_million_usd=decimal_text(prices.cached_input_per_million),
        reasoning_per_million_usd=decimal_text(prices.reasoning_per_million),
        per_request_usd=decimal_text(prices.per_request),
    )
    if prices.cache_write_per_million is not None:
        price.cache_write_per_million_usd = decimal_text(prices.cache_write_per_million)
    if prices.long is not None:
        price.long_from_tokens = prices.long_from_tokens
        price.long_prompt.CopyFrom(_shown(prices.long))
    return price
