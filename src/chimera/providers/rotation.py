"""Changing the master key while everything runs.

A new version wraps what is stored from then on; a task of the workers wraps everything older anew, a
batch at a time; an older version is retired when nothing is wrapped by it.

What must stay true:

* At every moment every stored value opens: a value is replaced by its re-wrapped self in one
  statement, and only if nobody changed it meanwhile. Killing whoever works on it loses nothing; the
  task is rung again and goes on with what is left.
* A retired version wraps nothing, and nothing can be stored with it any more: whoever stores holds
  the version until COMMIT (ops.hold_key_version), and retiring waits for those before it counts.
* Progress moves in the transaction that replaces.
* From a key file to a key service, and back, is a rotation like any other (homes.py).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from chimera import outbox
from chimera.audit.leaf import Kind, Severity
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, Tx, sql
from chimera.faults import NotFound, NotReady, Unavailable
from chimera.ids import new_id
from chimera.keyring import FOLLOW_S, follow_versions, sealed_from_json, sealed_json
from chimera.providers.homes import FILE, SERVICE, Homes
from chimera.providers.keys import vault_away
from chimera.providers.local_keys import LocalKeyFile
from chimera.providers.sealed_places import PLACES, Place
from chimera.providers.vault import (
    CannotOpenError,
    KeyVersionUnusableError,
    MasterKeyRefusedError,
    MasterKeys,
    UnknownFormatError,
    UnknownKeyVersionError,
    VaultError,
    rewrap,
)
from chimera.v1.vault_pb2 import GetVaultStatusResponse, KeyHome, KeyRotation, KeyVersion

log = structlog.get_logger("chimera.vault")

BATCH = 100

LOCK_ROTATIONS = sql(Nothing, "SELECT pg_advisory_xact_lock(hashtext('ops.key_rotations'))")
SELECT_ROTATION = """
    SELECT id, to_version, state, values_total, values_done, values_unreadable, last_error,
           started_at, updated_at, completed_at
      FROM ops.key_rotations
"""
FIND_RUNNING = sql(KeyRotation, SELECT_ROTATION + "WHERE state = 'running'")
FIND_LAST = sql(
    KeyRotation, SELECT_ROTATION + "ORDER BY (state = 'running') DESC, started_at DESC LIMIT 1"
)
SAVE_VERSION = sql(
    Nothing,
    """
    INSERT INTO ops.master_keys (version, kind, key_ref, state)
    VALUES (%(version)s, %(kind)s, %(key_ref)s, %(state)s)
    ON CONFLICT (version) DO UPDATE SET state = EXCLUDED.state
    """,
)
LIST_VERSIONS = sql(
    KeyVersion,
    """
    SELECT version, kind, key_ref, state, created_at, retired_at FROM ops.master_keys
     ORDER BY version
    """,
)
INSERT_ROTATION = sql(
    Nothing,
    """
    INSERT INTO ops.key_rotations (id, to_version, state, values_total, requested_by)
    VALUES (%(id)s, %(to_version)s, 'running', %(values_total)s, %(requested_by)s)
    """,
)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a new version of the master key is to lie, and its name at the service."""

    kind: str
    key_ref: str = ""


async def probed(master: MasterKeys, home: KeyHome, key_ref: str) -> Destination:
    """Where to go over to, after trying the service's key; before the transaction.

    Raises Unavailable, NotReady(VAULT_HOME_MISSING) without a key service, or where a key file is
    refused, NotReady(DEPENDENCY_UNAVAILABLE) for a key that cannot be used.
    """
    if not isinstance(master, Homes):
        if home == KeyHome.KEY_HOME_SERVICE:
            raise NotReady(
                "VAULT_HOME_MISSING",
                "No key service is set up: start all servers and workers with CHIMERA_MASTER_KEY,"
                " and the key file where it is; then rotate.",
            )
        return Destination(FILE)
    stays = home == KeyHome.KEY_HOME_UNSPECIFIED and master.describe().kind == FILE
    if stays or home == KeyHome.KEY_HOME_FILE:
        return Destination(FILE)
    try:
        ref = await asyncio.to_thread(master.service_keys.probe, key_ref or master.newest_ref())
    except KeyVersionUnusableError as error:
        raise NotReady("DEPENDENCY_UNAVAILABLE", f"This key cannot be used: {error}.") from error
    except VaultError as error:
        raise vault_away() from error
    return Destination(SERVICE, ref)


async def begin_rotation(tx: Tx, master: MasterKeys, destination: Destination) -> KeyRotation:
    """Makes the new version, and asks the workers to wrap everything under it.

    Raises NotReady(VAULT_ROTATION_RUNNING, VAULT_HOME_MISSING).
    """
    await tx.run(LOCK_ROTATIONS)
    running = await tx.one(FIND_RUNNING)
    if running is not None:
        raise NotReady(
            "VAULT_ROTATION_RUNNING",
            f"The rotation to version {running.to_version} is not finished"
            f" ({running.values_done} of {running.values_total}); wait for it.",
            facts={"to_version": str(running.to_version)},
        )
    states = dict(master.describe().states)
    known = [version.version for version in await tx.all(LIST_VERSIONS)]
    version = await _add_version(master, destination, max([*states, *known]) + 1)
    states = {v: "decrypt_only" if s == "enabled" else s for v, s in states.items()}
    states[version] = "enabled"
    for number, state in sorted(states.items()):
        # The kind and name of a version that is known already stay as they are.
        ref = destination.key_ref if number == version else ""
        kind = destination.kind
        await tx.run(SAVE_VERSION, version=number, kind=kind, key_ref=ref, state=state)
    wrapped = await count_wrapped(tx)
    rotation_id = new_id()
    await tx.run(
        INSERT_ROTATION,
        id=rotation_id,
        to_version=version,
        values_total=sum(count for v, count in wrapped.items() if v != version),
        requested_by=tx.call.caller.user_id or None,
    )
    await outbox.enqueue(tx, "rewrap_secrets", rotation_id=rotation_id)
    record(
        tx,
        "vault.rotate",
        "master_key",
        str(version),
        new={"to_version": version, "kind": destination.kind, "key_ref": destination.key_ref},
        kind=Kind.SECURITY,
        severity=Severity.WARNING,
    )
    rotation = await tx.one(FIND_RUNNING)
    assert rotation is not None  # inserted above
    return rotation


async def _add_version(master: MasterKeys, destination: Destination, number: int) -> int:
    """The number of the new version. If the transaction fails, a file has a version more, which does
    no harm."""
    try:
        if isinstance(master, LocalKeyFile):
            return await asyncio.to_thread(master.add_version, at_least=number)
        if isinstance(master, Homes) and destination.kind == FILE:
            return await asyncio.to_thread(master.add_file_version, number)
    except MasterKeyRefusedError as error:
        raise NotReady("VAULT_HOME_MISSING", f"No key file can be used: {error}.") from error
    return number


async def count_wrapped(tx: Tx) -> dict[int, int]:
    """Version -> how many stored values it wraps, in all places and organisations."""
    counts: dict[int, int] = defaultdict(int)
    for place in PLACES:
        for row in await tx.all(place.count):
            counts[row.kek_version] += row.count
    return counts


async def get_status(tx: Tx, master: MasterKeys) -> GetVaultStatusResponse:
    """Versions of the key with what they wrap, and the last rotation."""
    described = master.describe()
    counts = await count_wrapped(tx)
    known = {version.version: version for version in await tx.all(LIST_VERSIONS)}
    last = await tx.one(FIND_LAST)
    answer = GetVaultStatusResponse(rotation=last)
    for number in sorted(known.keys() | described.states.keys() | counts.keys()):
        version = known.get(number) or KeyVersion(version=number, kind=described.kind)
        state = described.states.get(number)
        if state is not None:
            version.state = f"KEY_VERSION_STATE_{state.upper()}"  # type: ignore[assignment]  # by name
        version.values_count = counts.get(number, 0)
        answer.versions.append(version)
    return answer


HOLD_VERSION = sql(
    Nothing, "SELECT pg_advisory_xact_lock(hashtext('ops.master_keys'), %(version)s::int)"
)
RETIRE_VERSION = sql(
    Nothing,
    """
    INSERT INTO ops.master_keys (version, kind, state, retired_at)
    VALUES (%(version)s, %(kind)s, %(state)s, now())
    ON CONFLICT (version) DO UPDATE SET state = EXCLUDED.state,
        retired_at = COALESCE(master_keys.retired_at, EXCLUDED.retired_at)
    """,
)


async def retire_version(tx: Tx, master: MasterKeys, version: int, *, destroy: bool) -> KeyVersion:
    """Ends a version that wraps nothing; again is as good as once.

    Raises NotFound(FIELD_INVALID), NotReady(KEY_VERSION_IN_USE).
    """
    described = master.describe()
    if version not in described.states:
        raise NotFound("FIELD_INVALID", f"The master key has no version {version}.")
    if version == described.write_version:
        raise NotReady(
            "KEY_VERSION_IN_USE",
            f"Version {version} is the one that wraps now; rotate first.",
            facts={"version": str(version)},
        )
    await tx.run(HOLD_VERSION, version=version)
    values = (await count_wrapped(tx)).get(version, 0)
    if values:
        raise NotReady(
            "KEY_VERSION_IN_USE",
            f"Version {version} still wraps {values} stored values; rotate, and wait until that is"
            " completed.",
            facts={"version": str(version), "values": str(values)},
        )
    state = "destroyed" if destroy else "disabled"
    await tx.run(RETIRE_VERSION, version=version, kind=described.kind, state=state)
    if isinstance(master, LocalKeyFile):
        await asyncio.to_thread(_retire_in_file, master, version, destroy)
    elif isinstance(master, Homes) and master.lies_in_file(version):
        await asyncio.to_thread(_retire_in_file, master.file, version, destroy)
    record(
        tx,
        "vault.retire",
        "master_key",
        str(version),
        old={"state": described.states[version]},
        new={"state": state},
        kind=Kind.SECURITY,
        severity=Severity.WARNING,
    )
    found = [row for row in await tx.all(LIST_VERSIONS) if row.version == version]
    return found[0]


def _retire_in_file(file: LocalKeyFile, version: int, destroy: bool) -> None:
    """After the check that it is not the one that writes: what the file says of that is behind when
    a key service took over."""
    if file.states()[version] in ("enabled", "decrypt_only"):
        file.disable(version, references=0, is_moved=True)
    if destroy and file.states()[version] == "disabled":
        file.destroy(version)


PROGRESS = sql(
    Nothing,
    """
    UPDATE ops.key_rotations
       SET values_done = values_done + %(done)s, values_unreadable = %(unreadable)s, last_error = ''
     WHERE id = %(rotation_id)s AND state = 'running'
    """,
)
WAITS = sql(
    Nothing,
    """
    UPDATE ops.key_rotations SET last_error = %(error)s
     WHERE id = %(rotation_id)s AND state = 'running'
    """,
)
COMPLETE = sql(
    Nothing,
    """
    UPDATE ops.key_rotations
       SET state = 'completed', completed_at = now(), values_unreadable = %(unreadable)s,
           last_error = '', values_done = GREATEST(values_done, values_total - %(unreadable)s)
     WHERE id = %(rotation_id)s AND state = 'running'
    """,
)


@dataclass(slots=True)
class Pass:
    """One walk over everything that is stored."""

    replaced: int = 0
    unreadable: int = 0


async def rewrap_all(core: Core, rotation_id: str) -> None:
    """Wraps everything under the newest version, until a walk finds nothing more to do. Safe to run
    twice, also at once. Raises Unavailable when the master key is away."""
    await follow_versions(core.db, core.master)
    is_last = not isinstance(core.master, Homes)
    while True:
        walked = await _walk(core, rotation_id)
        if walked.replaced:
            continue
        if is_last:
            break
        # Other processes hear of a new version within FOLLOW_S, and may wrap with the old until then.
        await asyncio.sleep(FOLLOW_S + 1.0)
        is_last = True
    async with core.db.begin(Call.by_worker("rewrap_secrets", seconds=10)) as tx:
        if await tx.run(COMPLETE, rotation_id=rotation_id, unreadable=walked.unreadable):
            new = {"state": "completed", "values_unreadable": walked.unreadable}
            record(tx, "vault.rotated", "key_rotation", rotation_id, new=new, kind=Kind.SECURITY)


async def _walk(core: Core, rotation_id: str) -> Pass:
    walked = Pass()
    newest = core.master.describe().write_version
    for place in PLACES:
        after = place.first
        while True:
            async with core.db.begin(Call.by_worker("rewrap_secrets", seconds=30)) as tx:
                found = await tx.all(place.find, newest=newest, after=after, size=BATCH)
            if not found:
                break
            after = found[-1]["key"]
            by_org: dict[str, list[str]] = defaultdict(list)
            for row in found:
                by_org[row["org_id"]].append(row["key"])
            for org_id, keys in sorted(by_org.items()):
                await _rewrap_some(core, rotation_id, place, org_id, keys, walked)
    return walked


async def _rewrap_some(
    core: Core, rotation_id: str, place: Place, org_id: str, keys: list[str], walked: Pass
) -> None:
    """Values of one organisation: read, wrap without a transaction, replace."""
    call = Call.by_worker("rewrap_secrets", org_id, seconds=60)
    async with core.db.begin(call) as tx:
        rows: dict[str, dict[str, Any] | None] = {}
        for key in keys:
            row = await tx.one(place.get, key=key)
            rows[key] = row
    ready: list[tuple[str, str, str]] = []
    for key, row in rows.items():
        if row is None:  # deleted meanwhile
            continue
        try:
            moved = await asyncio.to_thread(_rewrapped, core.master, place, row)
        except (
            CannotOpenError,
            UnknownKeyVersionError,
            UnknownFormatError,
            KeyVersionUnusableError,
        ) as error:
            walked.unreadable += 1
            log.error("vault.unreadable", place=place.name, key=key, error=type(error).__name__)
            continue
        except VaultError as error:
            async with core.db.begin(call) as tx:
                await tx.run(WAITS, rotation_id=rotation_id, error=str(error)[:500])
            raise Unavailable(
                "DEPENDENCY_UNAVAILABLE", "The master key cannot be used.", retry_after_s=5.0
            ) from error
        ready.append((key, moved, orjson.dumps(row["sealed"]).decode()))
    async with core.db.begin(call) as tx:
        done = 0
        for key, moved, old in ready:
            done += await tx.run(place.replace, key=key, sealed=moved, old=old)
        await tx.run(PROGRESS, rotation_id=rotation_id, done=done, unreadable=walked.unreadable)
    walked.replaced += done


def _rewrapped(master: MasterKeys, place: Place, row: dict[str, Any]) -> str:
    sealed = rewrap(master, sealed_from_json(row["sealed"]), place.context(row))
    return orjson.dumps(sealed_json(sealed)).decode()
