"""Rows of datasets on their way into a compiled plan.

A frozen plan names a dataset's version and hash and does not hold its rows: a million of them would
make every launch slow and every worker large. Whoever prepares cells brings the rows of their prompts
in first, and lets go of them when the cells are decided.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from chimera.campaigns.plan import BorrowedRows, RunPlan
from chimera.db import Tx
from chimera.templates.dataset_pins import read_pinned_rows

READ_AT_ONCE = 1000


async def bring_rows(tx: Tx, plan: RunPlan, cells: Iterable[int]) -> None:
    """Makes what these cells are made of readable in the plan; what is there is not read again."""
    if plan.borrows:
        await bring_prompts(tx, plan, {plan.cell(cell_no).prompt_no for cell_no in cells})


async def bring_prompts(tx: Tx, plan: RunPlan, prompts: Iterable[int]) -> None:
    wanted: dict[int, set[int]] = {}
    for prompt_no in prompts:
        source, row_no = plan.place(prompt_no)
        rows = plan.rows[source]
        if isinstance(rows, BorrowedRows) and row_no not in rows.kept:
            wanted.setdefault(source, set()).add(row_no)
    for source, numbers in wanted.items():
        rows, ordered = plan.rows[source], sorted(numbers)
        assert isinstance(rows, BorrowedRows)
        for start in range(0, len(ordered), READ_AT_ONCE):
            part = ordered[start : start + READ_AT_ONCE]
            found = await read_pinned_rows(
                tx, rows.dataset_id, rows.version_number, [row_no + 1 for row_no in part]
            )
            for row_no in part:
                rows.kept[row_no] = _values(rows.kinds, found[row_no + 1])


def keep_rows(plan: RunPlan, ranges: Iterable[tuple[int, int]]) -> None:
    """Lets go of all rows but those of the cells in these ranges (first, end)."""
    if not plan.borrows:
        return
    kept: dict[int, set[int]] = {}
    for first, end in ranges:
        for prompt_no in range(plan.cell(first).prompt_no, plan.cell(end - 1).prompt_no + 1):
            source, row_no = plan.place(prompt_no)
            kept.setdefault(source, set()).add(row_no)
    for source, rows in enumerate(plan.rows):
        if isinstance(rows, BorrowedRows):
            rows.keep(kept.get(source, set()))


def _values(kinds: dict[str, str], row: dict[str, Any]) -> dict[str, Any]:
    """The columns that the template declares. Files of text hold numbers, lists and the like as
    text: what is not text to the template is read as JSON."""
    return {
        name: _read(value) if kinds[name] not in ("string", "enum") else value
        for name, value in row.items()
        if name in kinds
    }


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value  # refused, or written as it is, by the variable's own rules
