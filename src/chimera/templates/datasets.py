"""Datasets: named, and their versions of rows, which never change.

What must stay true: the number of a version is taken by the UPDATE of the dataset's row, so parallel
imports get numbers of their own; the same rows again are the version that is there.
"""

from __future__ import annotations

from itertools import islice

from psycopg.errors import UniqueViolation

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import AlreadyExists, NotFound
from chimera.ids import new_id
from chimera.paging import Pages, rows_that_fit
from chimera.rows import enum_text
from chimera.templates.dataset_files import BATCH_ROWS, Sheet
from chimera.updates import check_etag, checked_paths, must_be_given
from chimera.v1.datasets_pb2 import (
    CreateDatasetRequest,
    Dataset,
    DatasetRow,
    DatasetSharing,
    DatasetVersion,
    ListDatasetRowsRequest,
    ListDatasetsRequest,
    ListDatasetVersionsRequest,
    UpdateDatasetRequest,
)

UPDATABLE = ("name", "description", "sharing_level")

SELECT_DATASET = """
    SELECT id, name, description, sharing_level, version_number, created_by, created_at, updated_at,
           deleted_at, to_char(updated_at AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') AS etag
      FROM templates.datasets
"""

GET_DATASET = sql(Dataset, SELECT_DATASET + "WHERE id = %(dataset_id)s::uuid")
LOCK_DATASET = sql(Dataset, SELECT_DATASET + "WHERE id = %(dataset_id)s::uuid FOR UPDATE")


async def get_dataset(tx: Tx, dataset_id: str) -> Dataset:
    """A dataset, deleted or not. Raises NotFound(DATASET_NOT_FOUND)."""
    dataset = await tx.one(GET_DATASET, dataset_id=dataset_id)
    if dataset is None:
        raise no_dataset()
    return dataset


def no_dataset() -> NotFound:
    return NotFound("DATASET_NOT_FOUND", "There is no such dataset or version.")


async def _lock(tx: Tx, dataset_id: str, *, deleted: bool = False) -> Dataset:
    dataset = await tx.one(LOCK_DATASET, dataset_id=dataset_id)
    if dataset is None or dataset.HasField("deleted_at") is not deleted:
        raise no_dataset()
    return dataset


LIST_DATASETS = sql(
    Dataset,
    SELECT_DATASET
    + """
     WHERE (%(show_deleted)s OR deleted_at IS NULL) AND (%(after)s::uuid IS NULL OR id < %(after)s)
     ORDER BY id DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_datasets(
    tx: Tx, pages: Pages, request: ListDatasetsRequest
) -> tuple[list[Dataset], str]:
    """A page, newest first, and the token of the next."""
    size, after = pages.page(request)
    rows = await tx.all(
        LIST_DATASETS,
        show_deleted=request.show_deleted,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "id")


INSERT_DATASET = sql(
    Nothing,
    """
    INSERT INTO templates.datasets (id, org_id, name, description, sharing_level, created_by)
    VALUES (%(id)s, %(org_id)s, %(name)s, %(description)s, %(sharing_level)s, %(created_by)s)
    """,
)


async def create_dataset(tx: Tx, request: CreateDatasetRequest) -> Dataset:
    """Raises AlreadyExists(DATASET_NAME_TAKEN)."""
    dataset_id = new_id()
    level = request.sharing_level or DatasetSharing.DATASET_SHARING_ORGANISATION
    try:
        await tx.run(
            INSERT_DATASET,
            id=dataset_id,
            org_id=tx.call.caller.org_id,
            name=request.name,
            description=request.description,
            sharing_level=enum_text(request, "sharing_level", level),
            created_by=tx.call.caller.user_id,
        )
    except UniqueViolation:
        raise _taken() from None
    dataset = await get_dataset(tx, dataset_id)
    record(tx, "dataset.create", "dataset", dataset_id, new=_facts(dataset))
    return dataset


def _taken() -> AlreadyExists:
    return AlreadyExists("DATASET_NAME_TAKEN", "Another dataset has this name; choose another.")


def _facts(dataset: Dataset) -> dict[str, str | None]:
    return {
        "name": dataset.name,
        "description": dataset.description,
        "sharing_level": enum_text(dataset, "sharing_level", dataset.sharing_level),
    }


TAKEN_NAMES = sql(
    str,
    """
    SELECT lower(name) FROM templates.datasets
     WHERE starts_with(lower(name), lower(%(name)s)) AND deleted_at IS NULL
    """,
)


async def free_name(tx: Tx, name: str) -> str:
    """The name, or the name with a number behind it that nobody the caller sees uses."""
    taken = set(await tx.all(TAKEN_NAMES, name=name))
    number, free = 1, name
    while free.lower() in taken:
        number += 1
        free = f"{name} ({number})"
    return free


UPDATE_DATASET = sql(
    Nothing,
    """
    UPDATE templates.datasets SET
        name = CASE WHEN 'name' = ANY (%(paths)s) THEN %(name)s ELSE name END,
        description = CASE WHEN 'description' = ANY (%(paths)s) THEN %(description)s ELSE description END,
        sharing_level = CASE WHEN 'sharing_level' = ANY (%(paths)s) AND created_by = %(user_id)s::uuid
                             THEN %(sharing_level)s ELSE sharing_level END
     WHERE id = %(dataset_id)s::uuid
    """,
)


async def update_dataset(tx: Tx, request: UpdateDatasetRequest) -> Dataset:
    """The sharing is its creator's to change. Raises NotFound(DATASET_NOT_FOUND),
    Conflict(ETAG_MISMATCH), AlreadyExists(DATASET_NAME_TAKEN), Invalid."""
    wanted = request.dataset
    paths = checked_paths(request.update_mask.paths, UPDATABLE)
    for name in ("name", "sharing_level"):
        if name in paths and not getattr(wanted, name):
            raise must_be_given(f"dataset.{name}")
    old = await _lock(tx, wanted.id)
    check_etag(request.etag, old.etag)
    try:
        await tx.run(
            UPDATE_DATASET,
            dataset_id=old.id,
            paths=paths,
            name=wanted.name,
            description=wanted.description,
            sharing_level=enum_text(wanted, "sharing_level", wanted.sharing_level),
            user_id=tx.call.caller.user_id,
        )
    except UniqueViolation:
        raise _taken() from None
    dataset = await get_dataset(tx, old.id)
    record(tx, "dataset.update", "dataset", old.id, old=_facts(old), new=_facts(dataset))
    return dataset


SET_DELETED = sql(
    Nothing,
    """
    UPDATE templates.datasets SET deleted_at = CASE WHEN %(deleted)s THEN now() END
     WHERE id = %(dataset_id)s::uuid
    """,
)


async def delete_dataset(tx: Tx, dataset_id: str) -> Dataset:
    """Raises NotFound(DATASET_NOT_FOUND)."""
    old = await _lock(tx, dataset_id)
    await tx.run(SET_DELETED, dataset_id=old.id, deleted=True)
    record(tx, "dataset.delete", "dataset", old.id, old={"name": old.name})
    return await get_dataset(tx, old.id)


async def undelete_dataset(tx: Tx, dataset_id: str) -> Dataset:
    """Raises NotFound(DATASET_NOT_FOUND), AlreadyExists(DATASET_NAME_TAKEN)."""
    old = await _lock(tx, dataset_id, deleted=True)
    try:
        await tx.run(SET_DELETED, dataset_id=old.id, deleted=False)
    except UniqueViolation:
        raise _taken() from None
    record(tx, "dataset.undelete", "dataset", old.id, new={"name": old.name})
    return await get_dataset(tx, old.id)


# --- versions and rows ---------------------------------------------------------------------------

SELECT_VERSION = """
    SELECT v.dataset_id, v.version_number, v.columns, v.row_count, v.content_hash, v.change_note,
           v.created_by, v.created_at
      FROM templates.dataset_versions v
"""

FIND_VERSION = sql(
    DatasetVersion,
    SELECT_VERSION
    + """
      JOIN templates.datasets d ON d.id = v.dataset_id
     WHERE v.dataset_id = %(dataset_id)s::uuid
       AND v.version_number = COALESCE(NULLIF(%(version_number)s::int, 0), d.version_number)
    """,
    prepare=False,
)


async def get_dataset_version(tx: Tx, dataset_id: str, version_number: int) -> DatasetVersion:
    """A version, with number 0 the newest. Raises NotFound(DATASET_NOT_FOUND)."""
    version = await tx.one(FIND_VERSION, dataset_id=dataset_id, version_number=version_number)
    if version is None:
        raise no_dataset()
    return version


LIST_VERSIONS = sql(
    DatasetVersion,
    SELECT_VERSION
    + """
     WHERE v.dataset_id = %(dataset_id)s::uuid
       AND (%(after)s::int IS NULL OR v.version_number < %(after)s)
     ORDER BY v.version_number DESC LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_dataset_versions(
    tx: Tx, pages: Pages, request: ListDatasetVersionsRequest
) -> tuple[list[DatasetVersion], str]:
    """A page, newest first. Raises NotFound(DATASET_NOT_FOUND)."""
    size, after = pages.page(request)
    await get_dataset(tx, request.dataset_id)
    rows = await tx.all(
        LIST_VERSIONS,
        dataset_id=request.dataset_id,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return rows[:size], pages.next_token(request, rows, size, "version_number")


LIST_ROWS = sql(
    DatasetRow,
    """
    SELECT row_no, fields AS values FROM templates.dataset_rows
     WHERE dataset_id = %(dataset_id)s::uuid AND version_number = %(version_number)s
       AND row_no > %(after)s
     ORDER BY row_no LIMIT %(limit)s
    """,
)


async def list_dataset_rows(
    tx: Tx, pages: Pages, request: ListDatasetRowsRequest
) -> tuple[list[DatasetRow], str]:
    """A page in order. Raises NotFound(DATASET_NOT_FOUND)."""
    size, after = pages.page(request)
    # The token keeps its version, whatever is imported meanwhile.
    number = after[1] if after else request.version_number
    version = await get_dataset_version(tx, request.dataset_id, number)
    rows, has_more = await rows_that_fit(
        lambda row_no, limit: tx.all(
            LIST_ROWS,
            dataset_id=version.dataset_id,
            version_number=version.version_number,
            after=row_no,
            limit=limit,
        ),
        after[0] if after else 0,
        size,
        lambda row: row.row_no,
    )
    if not has_more:
        return rows, ""
    return rows, pages.next_token_at(request, [rows[-1].row_no, version.version_number])


READ_LINES = sql(
    str,
    """
    SELECT fields::text FROM templates.dataset_rows
     WHERE dataset_id = %(dataset_id)s::uuid AND version_number = %(version_number)s
       AND row_no > %(after)s
     ORDER BY row_no LIMIT %(limit)s
    """,
)


async def read_lines(tx: Tx, version: DatasetVersion, after: int, limit: int) -> list[str]:
    """Rows as the JSON they were stored as."""
    return await tx.all(
        READ_LINES,
        dataset_id=version.dataset_id,
        version_number=version.version_number,
        after=after,
        limit=limit,
    )


TAKE_NUMBER = sql(
    int,
    """
    UPDATE templates.datasets SET version_number = version_number + 1
     WHERE id = %(dataset_id)s::uuid AND deleted_at IS NULL RETURNING version_number
    """,
)

INSERT_VERSION = sql(
    Nothing,
    """
    INSERT INTO templates.dataset_versions (org_id, dataset_id, version_number, columns, row_count,
                                            content_hash, change_note, created_by)
    VALUES (%(org_id)s, %(dataset_id)s, %(version_number)s, %(columns)s, %(row_count)s,
            %(content_hash)s, %(change_note)s, %(created_by)s)
    """,
)

INSERT_ROWS = sql(
    Nothing,
    """
    INSERT INTO templates.dataset_rows (org_id, dataset_id, version_number, row_no, fields)
    SELECT %(org_id)s::uuid, %(dataset_id)s::uuid, %(version_number)s::int, %(before)s::int + r.place::int,
           r.line::json
      FROM unnest(%(lines)s::text[]) WITH ORDINALITY AS r (line, place)
    """,
)


async def store_version(
    tx: Tx, dataset_id: str, sheet: Sheet, change_note: str, content_hash: str = ""
) -> DatasetVersion:
    """The next version with these rows. Raises NotFound(DATASET_NOT_FOUND)."""
    number = await tx.one(TAKE_NUMBER, dataset_id=dataset_id)
    if number is None:
        raise no_dataset()
    caller = tx.call.caller
    place = {"org_id": caller.org_id, "dataset_id": dataset_id, "version_number": number}
    content_hash = content_hash or sheet.content_hash()
    await tx.run(
        INSERT_VERSION,
        **place,
        columns=list(sheet.columns),
        row_count=sheet.row_count,
        content_hash=content_hash,
        change_note=change_note,
        created_by=caller.user_id,
    )
    lines, before = sheet.lines(), 0
    while batch := list(islice(lines, BATCH_ROWS)):
        await tx.run(INSERT_ROWS, **place, before=before, lines=batch)
        before += len(batch)
    new = {"version_number": number, "rows": sheet.row_count, "content_sha256": content_hash}
    record(tx, "dataset_version.create", "dataset", dataset_id, new=new)
    return await get_dataset_version(tx, dataset_id, number)
