"""Probes: the worker asks each provider for its list of models now and then, which costs nothing.

Without a key any answer will do: 401 says that somebody is there. With one the key has to be
accepted. One process of the cluster is the prober, and a provider's turn is claimed in the
database, so that two of them would not ask twice.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import aiohttp
import structlog

from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import Fault, NotFound, NotReady
from chimera.providers.adapters import ProviderError, open_adapter
from chimera.providers.key_usage import count_call
from chimera.providers.keys import take_key, unsealed
from chimera.providers.operations import get_provider, not_yours
from chimera.providers.owned_keys import get_key
from chimera.v1.health_pb2 import ConfigureProbeRequest, Probe

log = structlog.get_logger("chimera.probe")

INTERVAL_DEFAULT_S = 60
TIMEOUT_MAX_S = 10.0
KEY_KEPT_S = 600.0  # how long an opened key is used before it is opened, and audited, again

SET_PROBE = sql(
    Nothing,
    """
    INSERT INTO providers.probes AS b (provider_id, org_id, is_enabled, interval_s, provider_key_id)
    VALUES (%(provider_id)s, %(org_id)s, %(is_enabled)s, %(interval_s)s, %(provider_key_id)s)
    ON CONFLICT (provider_id) DO UPDATE
       SET is_enabled = EXCLUDED.is_enabled, interval_s = EXCLUDED.interval_s,
           provider_key_id = EXCLUDED.provider_key_id, due_at = '-infinity',
           xid = pg_current_xact_id()
    """,
)

GET_PROBE = sql(
    Probe,
    """
    SELECT provider_id, is_enabled, interval_s, provider_key_id, is_ok, consecutive_failures,
           response_time_ms, last_error_kind, last_ok_at, last_checked_at
      FROM providers.probes
     WHERE provider_id = %(provider_id)s::uuid
       AND org_id IS NOT DISTINCT FROM NULLIF(%(org_id)s::text, '')::uuid
    """,
)


async def configure_probe(tx: Tx, request: ConfigureProbeRequest) -> Probe:
    """Raises NotFound(PROVIDER_NOT_FOUND, PROVIDER_KEY_NOT_FOUND), Denied for a provider of the
    installation unless an operator asks; such a one is probed without a key."""
    provider = await get_provider(tx, request.provider_id)
    shared = provider.is_platform_provided
    if shared and not tx.call.caller.is_operator:
        raise not_yours()
    if request.provider_key_id:
        key = await get_key(tx, request.provider_key_id)
        if key.provider_id != provider.id or shared:
            raise NotFound("PROVIDER_KEY_NOT_FOUND", "There is no such key for this provider.")
    org_id = "" if shared else tx.call.caller.org_id
    old = await tx.one(GET_PROBE, provider_id=provider.id, org_id=org_id)
    await tx.run(
        SET_PROBE,
        provider_id=provider.id,
        org_id=org_id or None,
        is_enabled=request.is_enabled,
        interval_s=request.interval_s or INTERVAL_DEFAULT_S,
        provider_key_id=request.provider_key_id or None,
    )
    probe = await tx.one(GET_PROBE, provider_id=provider.id, org_id=org_id)
    assert probe is not None  # just written
    record(
        tx,
        "probe.configure",
        "provider",
        provider.id,
        old=_facts(old) if old is not None else {},
        new=_facts(probe),
    )
    return probe


def _facts(probe: Probe) -> dict[str, object]:
    return {
        "is_enabled": probe.is_enabled,
        "interval_s": probe.interval_s,
        "provider_key_id": probe.provider_key_id,
    }


@dataclass(frozen=True, slots=True)
class Due:
    """A provider whose turn it is. org_id None: of the installation."""

    provider_id: str
    org_id: str | None
    provider_type: str
    base_url: str
    timeout_s: int
    provider_key_id: str | None


# Turns are spread by a tenth of their interval, or all would come at once after a start.
CLAIM_DUE = sql(
    Due,
    """
    WITH due AS MATERIALIZED (
        SELECT p.id, p.org_id, p.provider_type, p.base_url, p.timeout_s,
               COALESCE(b.interval_s, %(interval_s)s) AS interval_s
          FROM providers.providers p
          LEFT JOIN providers.probes b ON b.provider_id = p.id
         WHERE p.is_active AND p.deleted_at IS NULL AND COALESCE(b.is_enabled, true)
           AND COALESCE(b.due_at, '-infinity') <= clock_timestamp()
         ORDER BY COALESCE(b.due_at, '-infinity'), p.id LIMIT %(limit)s
    ), claimed AS (
        INSERT INTO providers.probes AS b (provider_id, org_id, interval_s, due_at)
        SELECT id, org_id, interval_s,
               clock_timestamp() + make_interval(secs => interval_s * (0.9 + 0.2 * random()))
          FROM due ORDER BY id
            ON CONFLICT (provider_id) DO UPDATE SET due_at = EXCLUDED.due_at
         WHERE b.due_at <= clock_timestamp()
        RETURNING b.provider_id, b.provider_key_id
    )
    SELECT d.id AS provider_id, d.org_id, d.provider_type, d.base_url, d.timeout_s, c.provider_key_id
      FROM claimed c JOIN due d ON d.id = c.provider_id
    """,
)

NOTE_PROBE = sql(
    Nothing,
    """
    WITH told AS (
        INSERT INTO providers.probe_results (provider_id, org_id, is_ok, response_time_ms, error_kind)
        SELECT provider_id, org_id, %(is_ok)s, %(response_time_ms)s, %(error_kind)s
          FROM providers.probes WHERE provider_id = %(provider_id)s
    )
    UPDATE providers.probes
       SET is_ok = %(is_ok)s, response_time_ms = %(response_time_ms)s,
           consecutive_failures = CASE WHEN %(is_ok)s THEN 0 ELSE consecutive_failures + 1 END,
           last_error_kind = CASE WHEN %(is_ok)s THEN last_error_kind ELSE %(error_kind)s END,
           last_ok_at = CASE WHEN %(is_ok)s THEN clock_timestamp() ELSE last_ok_at END,
           last_checked_at = clock_timestamp(), xid = pg_current_xact_id()
     WHERE provider_id = %(provider_id)s
    """,
)


class Prober:
    """Goes round the providers. Keys it has opened are kept for a while."""

    def __init__(self, core: Core, session: aiohttp.ClientSession) -> None:
        self.core, self.session = core, session
        self._keys: dict[tuple[str, str], tuple[float, str]] = {}  # by key and address

    async def probe_due(self, limit: int = 8) -> bool:
        """Probes those whose turn it is, at the same time; whether there may be more."""
        async with self.core.db.begin(Call.by_worker("claim_probes", seconds=10)) as tx:
            due = await tx.all(CLAIM_DUE, interval_s=self.core.settings.probe_every_s, limit=limit)
        await asyncio.gather(*map(self._try, due))
        return len(due) == limit

    async def _try(self, provider: Due) -> None:
        try:
            await self._probe(provider)
        except Fault as fault:  # its next turn comes
            log.warning("probe.failed", provider_id=provider.provider_id, reason=fault.reason)

    async def _probe(self, provider: Due) -> None:
        kind = key = ""
        started = time.perf_counter()
        try:
            key = await self._key(provider)
            adapter = open_adapter(
                provider.provider_type,
                session=self.session,
                base_url=provider.base_url,
                api_key=key,
            )
            started = time.perf_counter()
            await adapter.list_models(timeout_s=min(TIMEOUT_MAX_S, provider.timeout_s))
        except NotReady:
            kind = "bad_key"
        except ProviderError as error:
            status = error.http_status
            is_there = not provider.provider_key_id and status is not None and status < 500
            kind = "" if is_there or error.kind == "rate_limited" else error.kind
        except ValueError:
            kind = "bad_request"
        latency_ms = (time.perf_counter() - started) * 1000
        call = Call.by_worker("note_probe", provider.org_id or "", seconds=10)
        async with self.core.db.begin(call) as tx:
            await tx.run(
                NOTE_PROBE,
                provider_id=provider.provider_id,
                is_ok=not kind,
                response_time_ms=latency_ms,
                error_kind=kind,
            )
            if key:
                await count_call(tx, provider.provider_key_id or "")

    async def _key(self, provider: Due) -> str:
        """The key to probe with, or none. Raises NotReady when it is gone, or was not
        stored for this host."""
        if not provider.provider_key_id or not provider.org_id:
            return ""
        place = provider.provider_key_id, provider.base_url
        opened_at, key = self._keys.get(place, (0.0, ""))
        if not key or time.monotonic() - opened_at > KEY_KEPT_S:
            call = Call.by_worker("open_key", provider.org_id, seconds=30)
            async with self.core.db.begin(call) as tx:
                purpose = f"probe {provider.provider_id}"
                stored = await take_key(
                    tx, provider.provider_key_id, purpose=purpose, base_url=provider.base_url
                )
            key = await unsealed(self.core.master, stored)  # maybe a network away
            self._keys[place] = (time.monotonic(), key)
        return key
