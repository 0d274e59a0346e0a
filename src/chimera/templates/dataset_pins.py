"""Dataset versions as runs use them: pinned at launch, read row by row while the run goes on.

What must stay true: a dataset is pinned by somebody who sees it; from then on its rows belong to the
run, whatever becomes of the dataset or its sharing, and whoever may see the run may see what it asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chimera.db import Tx, sql
from chimera.templates.datasets import get_dataset, get_dataset_version, no_dataset
from chimera.v1.datasets_pb2 import DatasetVersion

# The function looks past the sharing of the dataset, inside the caller's organisation.
READ_PINNED_ROWS = sql(
    dict,
    """
    SELECT r.row_no, r.fields
      FROM templates.pinned_rows(%(dataset_id)s::uuid, %(version_number)s::int, %(row_nos)s::int[]) r
    """,
)


async def pin_dataset(tx: Tx, dataset_id: str, version_number: int) -> DatasetVersion:
    """The version (0: the newest) of a dataset that the caller sees and that is not deleted.

    Raises NotFound(DATASET_NOT_FOUND).
    """
    dataset = await get_dataset(tx, dataset_id)
    if dataset.HasField("deleted_at"):
        raise no_dataset()
    return await get_dataset_version(tx, dataset_id, version_number)


async def read_pinned_rows(
    tx: Tx, dataset_id: str, version_number: int, row_nos: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """Rows by number (from 1), as plain data. Raises LookupError when one is not there."""
    rows = await tx.all(
        READ_PINNED_ROWS,
        dataset_id=dataset_id,
        version_number=version_number,
        row_nos=list(row_nos),
    )
    found = {row["row_no"]: row["fields"] for row in rows}
    if missing := set(row_nos) - found.keys():
        raise LookupError(f"dataset {dataset_id} has lost row {min(missing)}")
    return found
