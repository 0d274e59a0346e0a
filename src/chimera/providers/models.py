"""Models: what can be called, under which names, when, and with which abilities.

What must stay true: a model belongs to whom its provider belongs to; a name or alias means one model
of a provider (several versions of a name are told apart by their version).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from psycopg.errors import CheckViolation, UniqueViolation

from chimera.audit.leaf import Severity
from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, Invalid, Violation
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.providers.operations import get_provider, lock_provider
from chimera.providers.prices import (
    PRICE,
    given_prices,
    insert_price,
    lock_model,
    no_model,
    price_facts,
)
from chimera.rows import enum_numbers
from chimera.updates import check_etag, checked_paths
from chimera.v1 import providers_pb2
from chimera.v1.providers_pb2 import (
    CreateModelRequest,
    ListModelsRequest,
    Model,
    ResolveModelRequest,
    UpdateModelRequest,
)

UPDATABLE = (
    "display_name",
    "context_tokens_max",
    "output_tokens_max",
    "is_available",
    "capabilities",
    "available_from",
    "available_until",
    "deprecated_at",
    "replaced_by",
    "aliases",
)
_CAPABILITIES = {
    number: name
    for name, number in enum_numbers(
        providers_pb2.DESCRIPTOR.enum_types_by_name["ModelCapability"]
    ).items()
}

# With the price of now. statement_timestamp(): a price made in this transaction counts already.
SELECT_MODEL = (
    """
    SELECT m.id, m.provider_id, m.name, m.display_name, m.version, m.context_tokens_max,
           m.output_tokens_max, m.is_available, m.created_at, m.updated_at, m.capabilities,
           m.available_from, m.available_until, m.deprecated_at, m.replaced_by, m.source,
           to_char(m.updated_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') AS etag,
           ARRAY(SELECT a.alias FROM providers.model_aliases a
                  WHERE a.model_id = m.id ORDER BY a.alias) AS aliases,
           t.model_id IS NOT NULL AS is_allowed_target,
           jsonb_strip_nulls(jsonb_build_object(
               'id', v.id,
               'model_id', v.model_id,
               'version_number', v.version_number,
               'created_by', v.created_by,
               'source', v.source,
               'valid_from',
               to_char(v.valid_from AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
               'valid_until',
               to_char(v.valid_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
               'price', """  # noqa: S608 - constants of this product
    + PRICE
    + """)) AS price_version
      FROM providers.models m
      JOIN LATERAL (SELECT * FROM providers.price_versions p
                     WHERE p.model_id = m.id AND p.valid_from <= statement_timestamp()
                       AND COALESCE(p.valid_until > statement_timestamp(), true)
                     LIMIT 1) v ON true
      LEFT JOIN providers.allowed_targets t ON t.org_id = %(org_id)s::uuid AND t.model_id = m.id
     WHERE (m.org_id IS NULL OR m.org_id = %(org_id)s::uuid) AND m.deleted_at IS NULL
"""
)

GET_MODEL = sql(Model, SELECT_MODEL + "AND m.id = %(model_id)s::uuid")


async def get_model(tx: Tx, model_id: str) -> Model:
    """A model with its price of now. Raises NotFound(MODEL_NOT_FOUND)."""
    model = await tx.one(GET_MODEL, org_id=tx.call.caller.org_id, model_id=model_id)
    if model is None:
        raise no_model()
    return model


RESOLVE_MODEL = sql(
    Model,
    SELECT_MODEL  # noqa: S608 - constants of this product
    + """
      AND m.provider_id = %(provider_id)s::uuid
      AND (%(version)s = '' OR m.version = %(version)s)
      AND (m.name = %(name)s OR m.id = (SELECT a.model_id FROM providers.model_aliases a
                                         WHERE a.provider_id = %(provider_id)s::uuid
                                           AND a.alias = %(name)s))
     ORDER BY (m.name = %(name)s) DESC, m.version DESC, m.id DESC LIMIT 1
    """,
)


async def resolve_model(tx: Tx, request: ResolveModelRequest) -> Model:
    """What a name or an alias means at a provider; of several versions the newest. Names win over
    aliases. Raises NotFound(MODEL_NOT_FOUND)."""
    model = await tx.one(
        RESOLVE_MODEL,
        org_id=tx.call.caller.org_id,
        provider_id=request.provider_id,
        name=request.name,
        version=request.version,
    )
    if model is None:
        raise no_model()
    return model


LIST_MODELS = sql(
    Model,
    SELECT_MODEL
    + """
       AND (%(provider_id)s::uuid IS NULL OR m.provider_id = %(provider_id)s)
       AND (NOT %(allowed_targets_only)s OR t.model_id IS NOT NULL)
       AND m.capabilities @> %(capabilities)s::text[]
       AND (NOT %(available_only)s OR (m.is_available
            AND COALESCE(m.available_from <= now(), true)
            AND COALESCE(m.available_until > now(), true)
            AND EXISTS (SELECT FROM providers.providers p WHERE p.id = m.provider_id AND p.is_active)))
       AND strpos(lower(m.name || ' ' || m.display_name), lower(%(name_contains)s)) > 0
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
        capabilities=[_CAPABILITIES[number] for number in request.capabilities],
        available_only=request.available_only,
        name_contains=request.name_contains,
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
        context_tokens_max, output_tokens_max, capabilities, available_from, available_until)
    VALUES (%(id)s, %(org_id)s, %(provider_id)s, %(name)s, %(display_name)s, %(version)s,
        %(context_tokens_max)s, %(output_tokens_max)s, %(capabilities)s::text[],
        %(available_from)s, %(available_until)s)
    """,
)


async def create_model(tx: Tx, request: CreateModelRequest) -> Model:
    """A model with its first price. Raises NotFound(PROVIDER_NOT_FOUND), Invalid(PRICE_INVALID),
    AlreadyExists(MODEL_NAME_TAKEN), Denied for a provider of the installation."""
    prices = given_prices(request)
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
            capabilities=[_CAPABILITIES[number] for number in request.capabilities],
            available_from=_time(request, "available_from"),
            available_until=_time(request, "available_until"),
        )
        await _set_aliases(tx, provider.id, org_id, model_id, request.aliases)
    except (UniqueViolation, CheckViolation) as error:
        raise _refusal(error) from None
    await insert_price(tx, org_id, model_id, prices)
    model = await get_model(tx, model_id)
    record(tx, "model.create", "model", model_id, new={**_facts(model), **price_facts(prices)})
    return model


def _refusal(error: UniqueViolation | CheckViolation) -> Exception:
    match violated(error):
        case "models_name":
            return AlreadyExists(
                "MODEL_NAME_TAKEN", "The provider has a model of this name and version already."
            )
        case "model_aliases_pkey":
            return AlreadyExists(
                "MODEL_NAME_TAKEN", "One of the aliases means another model of the provider."
            )
        case "models_window":
            said = "must lie before available_until"
            violation = Violation("available_from", said, "FIELD_INVALID")
            return Invalid("FIELD_INVALID", f"available_from: {said}", violations=[violation])
    return error


DELETE_ALIASES = sql(
    Nothing, "DELETE FROM providers.model_aliases WHERE model_id = %(model_id)s::uuid"
)
INSERT_ALIASES = sql(
    Nothing,
    """
    INSERT INTO providers.model_aliases (provider_id, alias, org_id, model_id)
    SELECT %(provider_id)s::uuid, a.alias, %(org_id)s::uuid, %(model_id)s::uuid
      FROM unnest(%(aliases)s::text[]) AS a (alias)
    """,
)


async def _set_aliases(
    tx: Tx, provider_id: str, org_id: str | None, model_id: str, aliases: Any
) -> None:
    await tx.run(DELETE_ALIASES, model_id=model_id)
    if aliases:
        await tx.run(
            INSERT_ALIASES,
            provider_id=provider_id,
            org_id=org_id,
            model_id=model_id,
            aliases=sorted(aliases),
        )


UPDATE_MODEL = sql(
    Nothing,
    """
    UPDATE providers.models SET
        display_name =
            CASE WHEN 'display_name' = ANY (%(paths)s) THEN %(display_name)s ELSE display_name END,
        context_tokens_max = CASE WHEN 'context_tokens_max' = ANY (%(paths)s)
            THEN %(context_tokens_max)s::int ELSE context_tokens_max END,
        output_tokens_max = CASE WHEN 'output_tokens_max' = ANY (%(paths)s)
            THEN %(output_tokens_max)s::int ELSE output_tokens_max END,
        is_available = CASE WHEN 'is_available' = ANY (%(paths)s)
            THEN %(is_available)s::boolean ELSE is_available END,
        capabilities = CASE WHEN 'capabilities' = ANY (%(paths)s)
            THEN %(capabilities)s::text[] ELSE capabilities END,
        available_from = CASE WHEN 'available_from' = ANY (%(paths)s)
            THEN %(available_from)s::timestamptz ELSE available_from END,
        available_until = CASE WHEN 'available_until' = ANY (%(paths)s)
            THEN %(available_until)s::timestamptz ELSE available_until END,
        deprecated_at = CASE WHEN 'deprecated_at' = ANY (%(paths)s)
            THEN %(deprecated_at)s::timestamptz ELSE deprecated_at END,
        replaced_by = CASE WHEN 'replaced_by' = ANY (%(paths)s)
            THEN %(replaced_by)s::uuid ELSE replaced_by END
     WHERE id = %(model_id)s::uuid
    """,
)


async def update_model(tx: Tx, request: UpdateModelRequest) -> Model:
    """Raises NotFound(MODEL_NOT_FOUND), also for an unknown `replaced_by`, Conflict(ETAG_MISMATCH),
    Invalid(UPDATE_MASK_INVALID, FIELD_INVALID), AlreadyExists(MODEL_NAME_TAKEN) for an alias."""
    wanted = request.model
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    held = await lock_model(tx, wanted.id)
    old = await get_model(tx, held.id)
    check_etag(request.etag, old.etag)
    if "replaced_by" in paths and wanted.replaced_by:
        successor = await get_model(tx, wanted.replaced_by)
        if successor.id == old.id:
            said = "must be another model"
            violation = Violation("model.replaced_by", said, "FIELD_INVALID")
            raise Invalid("FIELD_INVALID", f"model.replaced_by: {said}", violations=[violation])
    try:
        await tx.run(
            UPDATE_MODEL,
            model_id=old.id,
            paths=paths,
            display_name=wanted.display_name,
            context_tokens_max=wanted.context_tokens_max,
            output_tokens_max=wanted.output_tokens_max,
            is_available=wanted.is_available,
            capabilities=[_CAPABILITIES[number] for number in wanted.capabilities],
            available_from=_time(wanted, "available_from"),
            available_until=_time(wanted, "available_until"),
            deprecated_at=_time(wanted, "deprecated_at"),
            replaced_by=wanted.replaced_by or None,
        )
        if "aliases" in paths:
            await _set_aliases(tx, old.provider_id, held.org_id, old.id, wanted.aliases)
    except (UniqueViolation, CheckViolation) as error:
        raise _refusal(error) from None
    model = await get_model(tx, old.id)
    record(tx, "model.update", "model", old.id, old=_facts(old), new=_facts(model))
    return model


DELETE_MODEL = sql(
    Nothing,
    "UPDATE providers.models SET deleted_at = now() WHERE id = %(model_id)s::uuid",
)


async def delete_model(tx: Tx, model_id: str, etag: str) -> None:
    """Soft; its prices and what was booked stay. Raises NotFound(MODEL_NOT_FOUND),
    Conflict(ETAG_MISMATCH), Denied for what the installation offers."""
    held = await lock_model(tx, model_id)
    model = await get_model(tx, held.id)
    check_etag(etag, model.etag)
    await tx.run(DELETE_ALIASES, model_id=model.id)
    await tx.run(DELETE_MODEL, model_id=model.id)
    record(tx, "model.delete", "model", model.id, old=_facts(model), severity=Severity.NOTICE)


NAMES_OF_PROVIDER = sql(
    dict,
    """
    SELECT m.name, m.id FROM providers.models m
     WHERE m.provider_id = %(provider_id)s::uuid AND m.deleted_at IS NULL
     UNION ALL
    SELECT a.alias, a.model_id FROM providers.model_aliases a
     WHERE a.provider_id = %(provider_id)s::uuid
    """,
)


async def registered_names(tx: Tx, provider_id: str) -> dict[str, str]:
    """Name or alias -> model id, of a provider the caller may see."""
    provider = await get_provider(tx, provider_id)
    rows = await tx.all(NAMES_OF_PROVIDER, provider_id=provider.id)
    return {row["name"]: row["id"] for row in rows}


def _time(message: Any, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(UTC)


def _facts(model: Model) -> dict[str, Any]:
    """What the audit log shows of a model."""
    facts: dict[str, Any] = {
        name: getattr(model, name)
        for name in (
            "provider_id",
            "name",
            "display_name",
            "version",
            "context_tokens_max",
            "output_tokens_max",
            "is_available",
            "replaced_by",
        )
    }
    facts["capabilities"] = ",".join(_CAPABILITIES[number] for number in model.capabilities)
    facts["aliases"] = ",".join(model.aliases)
    for name in ("available_from", "available_until", "deprecated_at"):
        facts[name] = getattr(model, name).ToJsonString() if model.HasField(name) else ""
    return facts
