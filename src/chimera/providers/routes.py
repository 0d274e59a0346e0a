"""Routes: several models as one target, in an order or by weight.

What must stay true: a version never changes, so a run that was launched with it can be explained.
Whether its models may be sent to, and with which keys, is asked when a campaign is launched.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from google.protobuf.json_format import MessageToDict
from psycopg.errors import UniqueViolation

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, Invalid, NotFound, Violation
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.providers.models import get_model
from chimera.rows import enum_text
from chimera.updates import check_etag
from chimera.v1.routes_pb2 import (
    CreateRouteRequest,
    FallbackCause,
    ListRoutesRequest,
    Route,
    RouteStep,
    RouteStrategy,
    UpdateRouteRequest,
)

SELECT_ROUTE = """
    SELECT r.id, r.name, r.description, v.strategy, v.steps, v.version_number, r.created_by,
           r.created_at, r.updated_at,
           to_char(r.updated_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') AS etag
      FROM providers.routes r
      JOIN providers.route_versions v ON v.route_id = r.id
     WHERE r.org_id = %(org_id)s::uuid AND r.deleted_at IS NULL
"""

GET_ROUTE = sql(
    Route,
    SELECT_ROUTE
    + """
       AND r.id = %(route_id)s::uuid
       AND v.version_number = COALESCE(NULLIF(%(version_number)s::int, 0), r.version_number)
    """,
)


def fallback_causes(step: RouteStep) -> list[str]:
    """Why the next step is tried, as plans store it: none given means all."""
    numbers: list[int] = list(step.fallback_on) or [
        number for number in FallbackCause.values() if number
    ]
    return sorted(
        FallbackCause.Name(FallbackCause.ValueType(number)).removeprefix("FALLBACK_CAUSE_").lower()
        for number in numbers
    )


async def get_route(tx: Tx, route_id: str, version_number: int = 0) -> Route:
    """A version of a route, the newest for 0. Raises NotFound(ROUTE_NOT_FOUND)."""
    route = await tx.one(
        GET_ROUTE,
        org_id=tx.call.caller.org_id,
        route_id=route_id,
        version_number=version_number,
    )
    if route is None:
        raise NotFound("ROUTE_NOT_FOUND", "There is no such route, or no such version of it.")
    return route


LIST_ROUTES = sql(
    Route,
    SELECT_ROUTE
    + """
       AND v.version_number = r.version_number
       AND (%(after_id)s::uuid IS NULL OR r.id < %(after_id)s)
     ORDER BY r.id DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_routes(tx: Tx, pages: Pages, request: ListRoutesRequest) -> tuple[list[Route], str]:
    """A page, newest first, and the token of the next."""
    size, after = pages.page(request)
    rows = await tx.all(
        LIST_ROUTES,
        org_id=tx.call.caller.org_id,
        after_id=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id")


INSERT_ROUTE = sql(
    Nothing,
    """
    INSERT INTO providers.routes (id, org_id, name, description, created_by)
    VALUES (%(id)s, %(org_id)s, %(name)s, %(description)s, %(created_by)s)
    """,
)

INSERT_VERSION = sql(
    Nothing,
    """
    INSERT INTO providers.route_versions
        (route_id, version_number, org_id, strategy, steps, created_by)
    VALUES (%(route_id)s, %(version_number)s, %(org_id)s, %(strategy)s, %(steps)s::jsonb,
            %(created_by)s)
    """,
)


async def create_route(tx: Tx, request: CreateRouteRequest) -> Route:
    """Raises AlreadyExists(ROUTE_NAME_TAKEN), Invalid(ROUTE_INVALID), NotFound(MODEL_NOT_FOUND)."""
    await _check_steps(tx, request.strategy, request.steps)
    route_id = new_id()
    caller = tx.call.caller
    try:
        await tx.run(
            INSERT_ROUTE,
            id=route_id,
            org_id=caller.org_id,
            name=request.name,
            description=request.description,
            created_by=caller.user_id,
        )
    except UniqueViolation as error:
        if violated(error) != "routes_name":
            raise
        raise AlreadyExists(
            "ROUTE_NAME_TAKEN", f"The organisation has a route {request.name} already."
        ) from None
    await _insert_version(tx, route_id, 1, request.strategy, request.steps)
    route = await get_route(tx, route_id)
    record(tx, "route.create", "route", route_id, new=_facts(route))
    return route


async def _insert_version(
    tx: Tx, route_id: str, number: int, strategy: RouteStrategy, steps: Sequence[RouteStep]
) -> None:
    await tx.run(
        INSERT_VERSION,
        route_id=route_id,
        version_number=number,
        org_id=tx.call.caller.org_id,
        strategy=enum_text(Route, "strategy", strategy),
        steps=orjson.dumps([MessageToDict(step) for step in steps]).decode(),
        created_by=tx.call.caller.user_id,
    )


async def _check_steps(tx: Tx, strategy: RouteStrategy, steps: Sequence[RouteStep]) -> None:
    """Weights where they belong, no model twice, and only models the caller can see."""
    is_weighted = strategy == RouteStrategy.ROUTE_STRATEGY_WEIGHTED
    wrong = [
        Violation(
            f"steps[{number}].weight",
            "must be 1 to 1000" if is_weighted else "is for weighted routes",
            "ROUTE_INVALID",
        )
        for number, step in enumerate(steps)
        if bool(step.weight) != is_weighted
    ]
    seen: set[tuple[str, str]] = set()
    for number, step in enumerate(steps):
        if (step.model_id, step.provider_key_id) in seen:
            wrong.append(
                Violation(f"steps[{number}].model_id", "is in the route already", "ROUTE_INVALID")
            )
        seen.add((step.model_id, step.provider_key_id))
    if wrong:
        raise Invalid("ROUTE_INVALID", f"{wrong[0].field}: {wrong[0].message}", violations=wrong)
    for step in steps:
        await get_model(tx, step.model_id)


def _facts(route: Route) -> dict[str, object]:
    return {
        "name": route.name,
        "description": route.description,
        "strategy": enum_text(route, "strategy", route.strategy),
        "version_number": route.version_number,
        "steps": [MessageToDict(step) for step in route.steps],
    }


# The join would make the version's row part of the lock, which is immutable.
LOCK_ROUTE = sql(
    Nothing,
    """
    SELECT FROM providers.routes
     WHERE id = %(route_id)s::uuid AND org_id = %(org_id)s::uuid AND deleted_at IS NULL
       FOR NO KEY UPDATE
    """,
)

SET_VERSION = sql(
    Nothing,
    """
    UPDATE providers.routes
       SET description = %(description)s, version_number = %(version_number)s
     WHERE id = %(route_id)s::uuid
    """,
)


async def update_route(tx: Tx, request: UpdateRouteRequest) -> Route:
    """Raises NotFound(ROUTE_NOT_FOUND, MODEL_NOT_FOUND), Invalid(ROUTE_INVALID),
    Conflict(ETAG_MISMATCH)."""
    old = await _locked(tx, request.route_id, request.etag)
    await _check_steps(tx, request.strategy, request.steps)
    number = old.version_number + 1
    await _insert_version(tx, old.id, number, request.strategy, request.steps)
    await tx.run(
        SET_VERSION, route_id=old.id, description=request.description, version_number=number
    )
    route = await get_route(tx, old.id)
    record(tx, "route.update", "route", route.id, old=_facts(old), new=_facts(route))
    return route


async def _locked(tx: Tx, route_id: str, etag: str) -> Route:
    await tx.run(LOCK_ROUTE, org_id=tx.call.caller.org_id, route_id=route_id)
    route = await get_route(tx, route_id)
    check_etag(etag, route.etag)
    return route


DELETE_ROUTE = sql(
    Nothing, "UPDATE providers.routes SET deleted_at = now() WHERE id = %(route_id)s::uuid"
)


async def delete_route(tx: Tx, route_id: str, etag: str) -> Route:
    """Raises NotFound(ROUTE_NOT_FOUND), Conflict(ETAG_MISMATCH)."""
    route = await _locked(tx, route_id, etag)
    await tx.run(DELETE_ROUTE, route_id=route.id)
    record(tx, "route.delete", "route", route.id, old=_facts(route))
    return route
