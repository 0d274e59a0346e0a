"""Trying a provider out: does it answer, does it take the key, what does it offer.

What must stay true: it costs nothing (models are listed, nothing is generated); nothing that is told
holds a key, a header or the provider's own words; addresses are checked as for every call.
"""

from __future__ import annotations

from dataclasses import replace

from chimera.audit.recording import record
from chimera.call import Call
from chimera.db import Tx
from chimera.faults import NotReady, Unavailable
from chimera.pools import Database
from chimera.providers.adapters import KEYLESS_TYPES, ProviderError, open_adapter
from chimera.providers.keys import find_own_key, unsealed
from chimera.providers.models import registered_names
from chimera.providers.operations import get_provider
from chimera.providers.vault import MasterKeys
from chimera.rows import enum_text, struct_dict
from chimera.settings import Settings
from chimera.v1.options_pb2 import Access
from chimera.v1.providers_pb2 import (
    ConnectionOutcome,
    DiscoveredModel,
    DiscoverModelsRequest,
    DiscoverModelsResponse,
    Provider,
    TestConnectionRequest,
    TestConnectionResponse,
)

WAIT_MAX_S = 20.0
# Nobody lists more models than this.
RESPONSE_BYTES_MAX = 4_000_000

_OF_OBSTACLE = {
    "dns": ConnectionOutcome.CONNECTION_OUTCOME_DNS_FAILED,
    "refused": ConnectionOutcome.CONNECTION_OUTCOME_REFUSED,
    "tls": ConnectionOutcome.CONNECTION_OUTCOME_TLS_FAILED,
}
_OF_KIND = {
    "bad_key": ConnectionOutcome.CONNECTION_OUTCOME_UNAUTHORIZED,
    "rate_limited": ConnectionOutcome.CONNECTION_OUTCOME_RATE_LIMITED,
    "timeout": ConnectionOutcome.CONNECTION_OUTCOME_TIMED_OUT,
    "unreachable": ConnectionOutcome.CONNECTION_OUTCOME_REFUSED,
    "refused_address": ConnectionOutcome.CONNECTION_OUTCOME_ADDRESS_REFUSED,
    "bad_response": ConnectionOutcome.CONNECTION_OUTCOME_NOT_UNDERSTOOD,
    "response_too_large": ConnectionOutcome.CONNECTION_OUTCOME_NOT_UNDERSTOOD,
    "bad_request": ConnectionOutcome.CONNECTION_OUTCOME_NOT_UNDERSTOOD,
    "unsupported": ConnectionOutcome.CONNECTION_OUTCOME_NOT_UNDERSTOOD,
}


class NoKey(Exception):
    """The caller has no key for a provider that needs one."""


async def ask_models(
    db: Database,
    master: MasterKeys,
    settings: Settings,
    call: Call,
    request: TestConnectionRequest | DiscoverModelsRequest,
) -> tuple[Provider, list[str], int]:
    """The provider, the names it lists to the caller's key, and how many milliseconds it took.

    The key's use is recorded before it is used. Raises ProviderError, NoKey, the faults of finding
    provider and key.
    """
    # Its own transaction, which must stand whatever the provider says; the answer is kept by the
    # one that follows.
    asking = replace(call, request_id="", access=Access())
    async with db.begin(asking) as tx:
        provider = await get_provider(tx, request.provider_id)
        stored = await find_own_key(
            tx,
            provider.id,
            request.provider_key_id,
            purpose=call.access.audit,
            base_url=provider.base_url,
        )
    kind = enum_text(provider, "provider_type", provider.provider_type) or ""
    if stored is None and kind not in KEYLESS_TYPES:
        raise NoKey
    secret = "" if stored is None else await unsealed(master, stored)
    return provider, *await _listed(settings, provider, kind, secret, call)


async def _listed(
    settings: Settings, provider: Provider, kind: str, secret: str, call: Call
) -> tuple[list[str], int]:
    from time import perf_counter

    from chimera.providers.adapters.outbound import open_session

    timeout_s = min(WAIT_MAX_S, float(provider.timeout_s), call.seconds_left - 1.0)
    async with open_session(
        allow_loopback=settings.loopback_allowed,
        connections_max=1,
        private_networks=settings.private_target_networks,
    ) as session:
        adapter = open_adapter(
            kind,
            session=session,
            base_url=provider.base_url,
            api_key=secret,
            response_bytes_max=RESPONSE_BYTES_MAX,
            config=struct_dict(provider.default_config),
        )
        started = perf_counter()
        names = await adapter.list_models(timeout_s=timeout_s)
        return names, round((perf_counter() - started) * 1000)


def outcome_of(error: ProviderError) -> TestConnectionResponse:
    """What a failed try means to the person who set the provider up."""
    if error.kind == "unreachable" and error.obstacle:
        outcome = _OF_OBSTACLE[error.obstacle]
    elif error.http_status in (404, 405, 410) or (300 <= (error.http_status or 0) < 400):
        outcome = ConnectionOutcome.CONNECTION_OUTCOME_NOT_FOUND
    else:
        outcome = _OF_KIND.get(error.kind, ConnectionOutcome.CONNECTION_OUTCOME_PROVIDER_FAILED)
    return TestConnectionResponse(
        outcome=outcome, explanation=str(error), http_status=error.http_status or 0
    )


async def test_connection(
    db: Database,
    master: MasterKeys,
    settings: Settings,
    call: Call,
    request: TestConnectionRequest,
) -> TestConnectionResponse:
    """Tries and says how it went; raises only what keeps it from trying."""
    try:
        _provider, names, latency_ms = await ask_models(db, master, settings, call, request)
    except ProviderError as error:
        return outcome_of(error)
    except NoKey:
        return TestConnectionResponse(
            outcome=ConnectionOutcome.CONNECTION_OUTCOME_NO_KEY,
            explanation="you have no key for this provider; store one with CreateProviderKey",
        )
    return TestConnectionResponse(
        outcome=ConnectionOutcome.CONNECTION_OUTCOME_OK,
        explanation=f"the provider lists {len(names)} models",
        latency_ms=latency_ms,
        http_status=200,
        models_count=len(names),
    )


def record_test(tx: Tx, request: TestConnectionRequest, answer: TestConnectionResponse) -> None:
    new = {
        "outcome": enum_text(answer, "outcome", answer.outcome),
        "http_status": answer.http_status,
        "latency_ms": answer.latency_ms,
    }
    record(tx, "provider.test", "provider", request.provider_id, new=new)


async def discover_models(
    db: Database,
    master: MasterKeys,
    settings: Settings,
    call: Call,
    request: DiscoverModelsRequest,
) -> list[str]:
    """The names the provider lists. Raises NotReady(PROVIDER_KEY_MISSING),
    Unavailable(CONNECTION_FAILED) with the outcome as a fact."""
    try:
        _provider, names, _latency_ms = await ask_models(db, master, settings, call, request)
    except NoKey:
        raise NotReady(
            "PROVIDER_KEY_MISSING",
            "You have no key for this provider; add one with CreateProviderKey.",
            facts={"provider_id": request.provider_id},
        ) from None
    except ProviderError as error:
        outcome = outcome_of(error)
        raise Unavailable(
            "CONNECTION_FAILED",
            f"The provider's models cannot be listed: {error}.",
            facts={"outcome": enum_text(outcome, "outcome", outcome.outcome) or ""},
        ) from None
    return names


async def record_discovery(
    tx: Tx, request: DiscoverModelsRequest, names: list[str]
) -> DiscoverModelsResponse:
    """The answer, with what is registered already."""
    registered = await registered_names(tx, request.provider_id)
    record(
        tx, "provider.discover", "provider", request.provider_id, new={"models_count": len(names)}
    )
    return DiscoverModelsResponse(
        models=[DiscoveredModel(name=n, model_id=registered.get(n, "")) for n in sorted(set(names))]
    )
