"""Datasets with rows in them, for tests that use them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tests.support.world import Person

PART_BYTES = 1_000_000


async def filled_dataset(
    person: Person, rows: Iterable[Mapping[str, Any]], name: str = "rows", **fields: Any
) -> str:
    """A new dataset with these rows as version 1."""
    made = await person.datasets.CreateDataset(name=name, **fields)
    dataset_id: str = made.dataset.id
    await fill(person, dataset_id, rows)
    return dataset_id


async def fill(person: Person, dataset_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """The next version."""
    content = "\n".join(json.dumps(row) for row in rows).encode()
    await fill_file(person, dataset_id, content, "DATASET_FORMAT_JSONL")


async def fill_file(person: Person, dataset_id: str, content: bytes, format: str) -> None:
    parts = [content[at : at + PART_BYTES] for at in range(0, len(content), PART_BYTES)] or [b""]
    requests: list[dict[str, Any]] = [{"content": part} for part in parts]
    requests[0] |= {"dataset_id": dataset_id, "format": format}
    async for answer in person.datasets.ImportDataset(requests, timeout_s=600):
        assert not answer.HasField("bad_row"), answer
