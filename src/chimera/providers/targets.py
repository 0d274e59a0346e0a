"""Targets: the models an organisation may send to, and what a launch needs to know of one.

What must stay true: nothing is sent to a model that is not on the organisation's list.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotReady
from chimera.providers.models import get_model
from chimera.providers.prices import no_model, prices_of_row
from chimera.providers.pricing import Prices
from chimera.v1.providers_pb2 import Model

ALLOW_TARGET = sql(
    Nothing,
    """
    INSERT INTO providers.allowed_targets (org_id, model_id, allowed_by)
    VALUES (%(org_id)s, %(model_id)s, %(allowed_by)s)
    ON CONFLICT DO NOTHING
    """,
)


async def allow_target(tx: Tx, model_id: str) -> Model:
    """Puts a model on the list; one that is on it stays. Raises NotFound(MODEL_NOT_FOUND)."""
    model = await get_model(tx, model_id)
    caller = tx.call.caller
    await tx.run(ALLOW_TARGET, org_id=caller.org_id, model_id=model.id, allowed_by=caller.user_id)
    return await _changed_target(tx, "target.allow", model)


DISALLOW_TARGET = sql(
    Nothing,
    """
    DELETE FROM providers.allowed_targets
     WHERE org_id = %(org_id)s::uuid AND model_id = %(model_id)s::uuid
    """,
)


async def disallow_target(tx: Tx, model_id: str) -> Model:
    """Takes a model off the list, if it is on it. Raises NotFound(MODEL_NOT_FOUND)."""
    model = await get_model(tx, model_id)
    await tx.run(DISALLOW_TARGET, org_id=tx.call.caller.org_id, model_id=model.id)
    return await _changed_target(tx, "target.disallow", model)


async def _changed_target(tx: Tx, action: str, old: Model) -> Model:
    model = await get_model(tx, old.id)
    record(
        tx,
        action,
        "model",
        model.id,
        old={"is_allowed_target": old.is_allowed_target},
        new={"is_allowed_target": model.is_allowed_target},
    )
    return model


@dataclass(frozen=True, slots=True)
class Target:
    """All that a launch freezes about a model: how to reach it and what it costs now.

    Limits are per minute and credential, 0 for none; token limits 0 for unknown.
    """

    model_id: str
    model: str
    model_version: str
    provider_id: str
    provider: str
    provider_type: str
    base_url: str
    timeout_s: int
    requests_per_minute: int
    tokens_per_minute: int
    context_tokens_max: int
    output_tokens_max: int
    is_allowed: bool
    is_available: bool
    price_version_id: str
    input_per_million: Decimal
    output_per_million: Decimal
    cached_input_per_million: Decimal
    reasoning_per_million: Decimal
    per_request: Decimal
    cache_write_per_million: Decimal | None
    long_from_tokens: int
    long_prices: dict[str, Any] | None
    default_config: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"

    @property
    def prices(self) -> Prices:
        return prices_of_row(self)


FIND_TARGET = sql(
    Target,
    """
    SELECT m.id AS model_id, m.name AS model, m.version AS model_version, p.id AS provider_id,
           p.name AS provider, p.provider_type, p.base_url, p.timeout_s, p.requests_per_minute,
           p.tokens_per_minute, m.context_tokens_max, m.output_tokens_max,
           t.model_id IS NOT NULL AS is_allowed,
           m.is_available AND p.is_active AND COALESCE(m.available_from <= now(), true)
               AND COALESCE(m.available_until > now(), true) AS is_available,
           p.default_config,
           v.id AS price_version_id, v.input_per_million, v.output_per_million,
           v.cached_input_per_million, v.reasoning_per_million, v.per_request,
           v.cache_write_per_million, v.long_from_tokens, v.long_prices
      FROM providers.models m
      JOIN providers.providers p ON p.id = m.provider_id AND p.deleted_at IS NULL
      JOIN LATERAL (SELECT * FROM providers.price_versions pv
                     WHERE pv.model_id = m.id AND pv.valid_from <= statement_timestamp()
                       AND COALESCE(pv.valid_until > statement_timestamp(), true)
                     LIMIT 1) v ON true
      LEFT JOIN providers.allowed_targets t ON t.org_id = %(org_id)s::uuid AND t.model_id = m.id
     WHERE m.id = %(model_id)s::uuid AND m.deleted_at IS NULL
       AND (m.org_id IS NULL OR m.org_id = %(org_id)s::uuid)
    """,
)


async def get_target(tx: Tx, model_id: str) -> Target:
    """A model that may be sent to, now.

    Raises NotFound(MODEL_NOT_FOUND), NotReady(TARGET_NOT_ALLOWED) when it is not on the
    organisation's list, NotReady(MODEL_UNAVAILABLE) when it or its provider is switched off.
    """
    target = await tx.one(FIND_TARGET, org_id=tx.call.caller.org_id, model_id=model_id)
    if target is None:
        raise no_model()
    if not target.is_allowed:
        raise NotReady(
            "TARGET_NOT_ALLOWED",
            f"{target.name} is not on the organisation's list of targets; an administrator can"
            " allow it.",
            facts={"model_id": target.model_id},
        )
    if not target.is_available:
        raise NotReady(
            "MODEL_UNAVAILABLE",
            f"{target.name} is switched off, or not available at this time.",
            facts={"model_id": target.model_id},
        )
    return target
