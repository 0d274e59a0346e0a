"""Rows that a frozen plan names and does not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any


class BorrowedRows(Sequence[dict[str, Any]]):
    """The rows of a dataset, which the plan names and does not hold. Only those that were brought in
    can be read; see dataset_rows.py."""

    def __init__(self, facts: Mapping[str, Any], kinds: dict[str, str]) -> None:
        self.dataset_id: str = facts["dataset_id"]
        self.version_number: int = facts["version_number"]
        self.row_count: int = facts["row_count"]
        self.kinds = kinds  # of the template's variables, by name
        self.kept: dict[int, dict[str, Any]] = {}  # by row number, from 0

    def __len__(self) -> int:
        return self.row_count

    def __getitem__(self, row_no: Any) -> Any:
        return self.kept[row_no]

    def keep(self, row_nos: Set[int]) -> None:
        self.kept = {row_no: self.kept[row_no] for row_no in row_nos & self.kept.keys()}
