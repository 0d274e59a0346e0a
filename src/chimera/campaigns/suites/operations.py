"""Suites of an organisation: named, and their versions of chains, which never change.

What must stay true: the number of a version is taken under the suite's row lock; the same chains again
are the version that is there.
"""

from __future__ import annotations

from typing import Any

from psycopg.errors import UniqueViolation

from chimera.audit.recording import record
from chimera.campaigns.checking import check_chains
from chimera.campaigns.suites.built_in import BUILT_IN_SUITES
from chimera.campaigns.suites.content import chains_hash
from chimera.db import Nothing, Tx, sql
from chimera.faults import AlreadyExists, NotFound
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.updates import check_etag, checked_paths, must_be_given
from chimera.v1.suites_pb2 import (
    BuiltInSuite,
    CreateSuiteRequest,
    ListSuitesRequest,
    ListSuiteVersionsRequest,
    Suite,
    SuiteVersion,
    UpdateSuiteRequest,
)

UPDATABLE = ("name", "description", "chains")

SELECT_SUITE = """
    SELECT s.id, s.name, s.description, v.version_number, v.content_hash, s.created_by, s.created_at,
           s.updated_at, s.deleted_at,
           to_char(s.updated_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') AS etag
      FROM campaigns.technique_suites s
      JOIN campaigns.technique_suite_versions v ON v.suite_id = s.id
"""

FIND_SUITE = sql(
    Suite,
    SELECT_SUITE
    + """
     WHERE s.id = %(suite_id)s::uuid
       AND v.version_number = COALESCE(NULLIF(%(version_number)s::int, 0), s.version_number)
    """,
    prepare=False,
)
FIND_CHAINS = sql(
    bytes,
    """
    SELECT chains FROM campaigns.technique_suite_versions
     WHERE suite_id = %(suite_id)s::uuid AND version_number = %(version_number)s
    """,
)


async def get_suite(tx: Tx, suite_id: str, version_number: int = 0) -> Suite:
    """With the chains of a version (0: the newest), deleted or not. Raises NotFound."""
    suite = await tx.one(FIND_SUITE, suite_id=suite_id, version_number=version_number)
    if suite is None:
        raise no_suite()
    chains = await tx.one(FIND_CHAINS, suite_id=suite.id, version_number=suite.version_number)
    assert chains is not None  # made with the version
    suite.chains.extend(BuiltInSuite.FromString(bytes(chains)).chains)
    return suite


def no_suite() -> NotFound:
    return NotFound("SUITE_NOT_FOUND", "There is no such suite of techniques, or no such version.")


LOCK_SUITE = sql(
    Suite,
    """
    SELECT id, name, description, version_number, deleted_at,
           to_char(updated_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') AS etag
      FROM campaigns.technique_suites WHERE id = %(suite_id)s::uuid FOR UPDATE
    """,
)


async def _lock(tx: Tx, suite_id: str, *, deleted: bool = False) -> Suite:
    suite = await tx.one(LOCK_SUITE, suite_id=suite_id)
    if suite is None or suite.HasField("deleted_at") is not deleted:
        raise no_suite()
    return suite


LIST_SUITES = sql(
    Suite,
    SELECT_SUITE
    + """
       AND v.version_number = s.version_number
     WHERE (%(show_deleted)s OR s.deleted_at IS NULL)
       AND (%(after)s::uuid IS NULL OR s.id < %(after)s)
     ORDER BY s.id DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_suites(tx: Tx, pages: Pages, request: ListSuitesRequest) -> tuple[list[Suite], str]:
    """A page, newest first, and the token of the next."""
    size, after = pages.page(request)
    rows = await tx.all(
        LIST_SUITES,
        show_deleted=request.show_deleted,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id")


INSERT_SUITE = sql(
    Nothing,
    """
    INSERT INTO campaigns.technique_suites (id, org_id, name, description, created_by)
    VALUES (%(id)s, %(org_id)s, %(name)s, %(description)s, %(created_by)s)
    """,
)


async def create_suite(tx: Tx, request: CreateSuiteRequest) -> Suite:
    """Raises AlreadyExists(SUITE_NAME_TAKEN), Invalid(TECHNIQUE_*)."""
    check_chains(request.chains, "chains")
    suite = Suite(id=new_id(), chains=request.chains)
    _check_name(request.name)
    try:
        await tx.run(
            INSERT_SUITE,
            id=suite.id,
            org_id=tx.call.caller.org_id,
            name=request.name,
            description=request.description,
            created_by=tx.call.caller.user_id,
        )
    except UniqueViolation:
        raise _taken() from None
    await _store_version(tx, suite, 1, "")
    made = await get_suite(tx, suite.id)
    record(tx, "suite.create", "suite", made.id, new=_facts(made))
    return made


def _check_name(name: str) -> None:
    if name.lower() in BUILT_IN_SUITES:
        raise _taken()


def _taken() -> AlreadyExists:
    return AlreadyExists("SUITE_NAME_TAKEN", "Another suite has this name; choose another.")


def _facts(suite: Suite) -> dict[str, Any]:
    return {
        "name": suite.name,
        "description": suite.description,
        "version_number": suite.version_number,
        "content_sha256": suite.content_hash,
    }


INSERT_VERSION = sql(
    Nothing,
    """
    WITH numbered AS (
        UPDATE campaigns.technique_suites SET version_number = %(version_number)s
         WHERE id = %(suite_id)s
    )
    INSERT INTO campaigns.technique_suite_versions
        (org_id, suite_id, version_number, chains, chain_count, content_hash, change_note, created_by)
    VALUES (%(org_id)s, %(suite_id)s, %(version_number)s, %(chains)s, %(chain_count)s,
            %(content_hash)s, %(change_note)s, %(created_by)s)
    """,
)


async def _store_version(tx: Tx, suite: Suite, number: int, change_note: str) -> None:
    await tx.run(
        INSERT_VERSION,
        org_id=tx.call.caller.org_id,
        suite_id=suite.id,
        version_number=number,
        chains=BuiltInSuite(chains=suite.chains).SerializeToString(deterministic=True),
        chain_count=len(suite.chains),
        content_hash=chains_hash(suite.chains),
        change_note=change_note,
        created_by=tx.call.caller.user_id,
    )


UPDATE_SUITE = sql(
    Nothing,
    """
    UPDATE campaigns.technique_suites SET
        name = CASE WHEN 'name' = ANY (%(paths)s) THEN %(name)s ELSE name END,
        description =
            CASE WHEN 'description' = ANY (%(paths)s) THEN %(description)s ELSE description END
     WHERE id = %(suite_id)s::uuid
    """,
)


async def update_suite(tx: Tx, request: UpdateSuiteRequest) -> Suite:
    """Raises NotFound(SUITE_NOT_FOUND), Conflict(ETAG_MISMATCH), AlreadyExists(SUITE_NAME_TAKEN),
    Invalid."""
    wanted = request.suite
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    for name in ("name", "chains"):
        if name in paths and not getattr(wanted, name):
            raise must_be_given(f"suite.{name}")
    if "chains" in paths:
        check_chains(wanted.chains, "suite.chains")
    locked = await _lock(tx, wanted.id)
    check_etag(request.etag, locked.etag)
    old = await get_suite(tx, wanted.id)
    if "name" in paths:
        _check_name(wanted.name)
    try:
        await tx.run(
            UPDATE_SUITE,
            suite_id=old.id,
            paths=paths,
            name=wanted.name,
            description=wanted.description,
        )
    except UniqueViolation:
        raise _taken() from None
    if "chains" in paths and chains_hash(wanted.chains) != old.content_hash:
        changed = Suite(id=old.id, chains=wanted.chains)
        await _store_version(tx, changed, old.version_number + 1, request.change_note)
    suite = await get_suite(tx, old.id)
    record(tx, "suite.update", "suite", old.id, old=_facts(old), new=_facts(suite))
    return suite


SET_DELETED = sql(
    Nothing,
    """
    UPDATE campaigns.technique_suites SET deleted_at = CASE WHEN %(deleted)s THEN now() END
     WHERE id = %(suite_id)s::uuid
    """,
)


async def delete_suite(tx: Tx, suite_id: str, etag: str) -> Suite:
    """Raises NotFound(SUITE_NOT_FOUND), Conflict(ETAG_MISMATCH)."""
    old = await _lock(tx, suite_id)
    check_etag(etag, old.etag)
    await tx.run(SET_DELETED, suite_id=old.id, deleted=True)
    record(tx, "suite.delete", "suite", old.id, old={"name": old.name})
    return await get_suite(tx, old.id)


async def undelete_suite(tx: Tx, suite_id: str) -> Suite:
    """Raises NotFound(SUITE_NOT_FOUND), AlreadyExists(SUITE_NAME_TAKEN)."""
    old = await _lock(tx, suite_id, deleted=True)
    try:
        await tx.run(SET_DELETED, suite_id=old.id, deleted=False)
    except UniqueViolation:
        raise _taken() from None
    record(tx, "suite.undelete", "suite", old.id, new={"name": old.name})
    return await get_suite(tx, old.id)


LIST_VERSIONS = sql(
    SuiteVersion,
    """
    SELECT suite_id, version_number, content_hash, chain_count, change_note, created_by, created_at
      FROM campaigns.technique_suite_versions
     WHERE suite_id = %(suite_id)s::uuid
       AND (%(after)s::int IS NULL OR version_number < %(after)s)
     ORDER BY version_number DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_suite_versions(
    tx: Tx, pages: Pages, request: ListSuiteVersionsRequest
) -> tuple[list[SuiteVersion], str]:
    """A page, newest first. Raises NotFound(SUITE_NOT_FOUND)."""
    size, after = pages.page(request)
    await get_suite(tx, request.suite_id)
    rows = await tx.all(
        LIST_VERSIONS,
        suite_id=request.suite_id,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "version_number")
