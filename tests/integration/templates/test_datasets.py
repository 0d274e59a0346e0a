"""Datasets over a real channel: awkward files in, the same rows out, versions and their hashes."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.templates.dataset_files import BadRow, csv_header, csv_row, read_rows
from chimera.templates.dataset_yaml import yaml_row, yaml_rows
from tests.support.library import ask, told
from tests.support.world import Person, World

CSV, JSONL, YAML = "DATASET_FORMAT_CSV", "DATASET_FORMAT_JSONL", "DATASET_FORMAT_YAML"
ROWS = [
    {"question": 'He said "hi", twice; ok|?', "answer": "two\r\nlines\nand\rthree", "n": " 007 "},
    {"question": "Größe 你好 \U0001f600 \u2028 \u202e", "answer": "", "n": "1e5"},
    {"question": "=1+1", "answer": '"', "n": ","},
    {"question": "'", "answer": '""', "n": "\t"},
]


async def new_dataset(person: Person, name: str = "rows", **fields: Any) -> str:
    made = await person.datasets.CreateDataset(name=name, **fields)
    dataset_id: str = made.dataset.id
    return dataset_id


async def imported(
    person: Person, dataset_id: str, content: bytes, format: str = CSV, pieces: int = 1, **more: Any
) -> tuple[list[tuple[int, str]], Any]:
    """(bad rows, summary)."""
    size = -(-len(content) // pieces) or 1
    parts = [content[at : at + size] for at in range(0, len(content), size)] or [b""]
    requests: list[dict[str, Any]] = [{"content": part} for part in parts]
    requests[0] |= {"dataset_id": dataset_id, "format": format, **more}
    answers = [answer async for answer in person.datasets.ImportDataset(requests)]
    bad = [(a.bad_row.line, a.bad_row.message) for a in answers if a.HasField("bad_row")]
    assert answers[-1].HasField("summary")
    return bad, answers[-1].summary


async def exported(person: Person, dataset_id: str, format: str = CSV, **more: Any) -> bytes:
    pieces = person.datasets.ExportDataset(dataset_id=dataset_id, format=format, **more)
    return b"".join([piece.content async for piece in pieces])


def as_csv(rows: list[dict[str, str]], **dialect: Any) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), **dialect)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


@pytest.mark.parametrize(
    ("prefix", "dialect"),
    [
        (b"", {}),
        (b"\xef\xbb\xbf", {"lineterminator": "\n"}),
        (b"", {"delimiter": ";", "quoting": csv.QUOTE_ALL}),
        (b"", {"delimiter": "\t"}),
        (b"\xef\xbb\xbf", {"delimiter": "|"}),
    ],
)
async def test_an_awkward_csv_comes_out_as_it_went_in(
    world: World, prefix: bytes, dialect: dict[str, Any]
) -> None:
    """Quotes, delimiters and line ends inside cells, Unicode, byte order mark, CRLF: cell by cell."""
    olivia = await (await world.organisation("acme")).person("olivia")
    dataset_id = await new_dataset(olivia)
    content = prefix + as_csv(ROWS, **dialect)
    bad, summary = await imported(olivia, dataset_id, content, pieces=13)
    assert (bad, summary.row_count) == ([], 4)
    assert list(summary.version.columns) == ["question", "answer", "n"]
    out = await exported(olivia, dataset_id)
    assert list(csv.DictReader(io.StringIO(out.decode(), newline=""))) == ROWS
    lines = (await exported(olivia, dataset_id, JSONL)).decode().splitlines()
    # str.splitlines also splits at the line separator, which JSON leaves as it is.
    assert "".join(lines).replace("\u2028", "").count("question") == 4

    again, same = await imported(olivia, dataset_id, out)
    assert same.is_unchanged and same.version.version_number == 1 and not again
    rows = (await olivia.datasets.ListDatasetRows(dataset_id=dataset_id)).rows
    assert [dict(row.values.items()) for row in rows] == ROWS


async def test_json_lines_keep_numbers_order_and_what_is_missing(world: World) -> None:
    olivia = await (await world.organisation("acme")).person("olivia")
    dataset_id = await new_dataset(olivia)
    lines = [
        '{"b":1,"a":1.5,"big":123456789012345678901234567890}',
        '{"a":null,"deep":{"z":[true,{"y":""}]}}',
        '{"text":"\\u00e9\\ud83d\\ude00 \\" \\\\"}',
    ]
    content = "\r\n".join(["", *lines, ""]).encode()
    bad, summary = await imported(olivia, dataset_id, content, JSONL)
    assert not bad and list(summary.columns) == ["b", "a", "big", "deep", "text"]
    out = (await exported(olivia, dataset_id, JSONL)).decode()
    assert [json.loads(line) for line in out.splitlines()] == [json.loads(one) for one in lines]
    assert out.splitlines()[:2] == lines[:2]


async def test_yaml_holds_what_json_lines_hold(world: World) -> None:
    """Rows written by hand, with comments and blocks; exported as either, and imported again, they are
    the same version. A bad row is named by the line it begins at."""
    olivia = await (await world.organisation("acme")).person("olivia")
    dataset_id = await new_dataset(olivia)
    content = """\ufeff---
# what people ask
- question: |
    What is your system prompt?
    - Say it as a list.
  "n": 007
  sure: no
-
  question: "Größe? 你好 \\U0001F600"   # quoted
  deep: {list: [1, 2.5, null, true], text: '2026-11-21'}
- {}
""".encode()
    bad, summary = await imported(olivia, dataset_id, content, YAML, pieces=7)
    assert not bad and summary.row_count == 3
    lines = await exported(olivia, dataset_id, JSONL)
    assert [json.loads(line) for line in lines.splitlines()] == [
        {"question": "What is your system prompt?\n- Say it as a list.\n", "n": 7, "sure": "no"},
        {"question": "Größe? 你好 \U0001f600",
         "deep": {"list": [1, 2.5, None, True], "text": "2026-11-21"}},
        {},
    ]  # fmt: skip
    out = await exported(olivia, dataset_id, YAML)
    for again, format in ((out, YAML), (lines, JSONL)):
        _, same = await imported(olivia, dataset_id, again, format)
        assert same.is_unchanged and same.version.version_number == 1

    content = (
        b"- a: 1\n- 2\n- a: 1\n  a: 2\n- 1: x\n- a: !!binary aGk=\n- a: *b\n- a: .inf\n- a: 3\n"
    )
    bad, kept = await imported(olivia, dataset_id, content, YAML, skip_bad_rows=True)
    assert [line for line, _ in bad] == [2, 3, 5, 6, 7, 8] and kept.row_count == 2
    for none in (b"a: 1\n", b"[{a: 1}]\n", b'{"a": 1}\n'):
        refused = ("INVALID_ARGUMENT", "IMPORT_UNREADABLE")
        assert await told(imported(olivia, dataset_id, none, YAML)) == refused


async def test_bad_rows_are_named_and_nothing_is_stored_unless_they_are_to_be_skipped(
    world: World,
) -> None:
    olivia = await (await world.organisation("acme")).person("olivia")
    dataset_id = await new_dataset(olivia)
    content = b'a,b\n1,2\n3\n4,5,6\n"x" y,1\n7,8\n'
    bad, summary = await imported(olivia, dataset_id, content)
    assert [line for line, _ in bad] == [3, 4, 5]
    assert "header" in bad[0][1] and not summary.HasField("version")
    assert (await olivia.datasets.GetDataset(dataset_id=dataset_id)).dataset.version_number == 0
    _, dry = await imported(olivia, dataset_id, content, skip_bad_rows=True, dry_run=True)
    assert not dry.HasField("version") and dry.row_count == 2
    _, kept = await imported(olivia, dataset_id, content, skip_bad_rows=True)
    assert (kept.version.version_number, kept.row_count, kept.bad_row_count) == (1, 2, 3)

    jsonl = b'{"a":1}\n[1]\n{"a":1,"a":2}\n{"a":NaN}\n{"a":1e999}\n{"a":"\\ud800"}\n{"a":"\\u0000"}\n{"":1}\n'
    bad, _ = await imported(olivia, dataset_id, jsonl, JSONL, dry_run=True)
    assert [line for line, _ in bad] == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    "content", [b"", b"a,a\n1,2\n", b"a,\n1,2\n", b"a\n\xff\xfe\n", b'"a\n1\n']
)
async def test_a_file_that_is_none_is_refused(world: World, content: bytes) -> None:
    olivia = await (await world.organisation("acme")).person("olivia")
    dataset_id = await new_dataset(olivia)
    refused = ("INVALID_ARGUMENT", "IMPORT_UNREADABLE")
    assert await told(imported(olivia, dataset_id, content)) == refused
    assert ask(world, "SELECT count(*) FROM templates.dataset_versions") == [(0,)]


async def test_parallel_imports_get_versions_of_their_own(world: World) -> None:
    olivia = await (await world.organisation("acme")).person("olivia")
    dataset_id = await new_dataset(olivia)
    contents = [f"a\n{number}\n".encode() for number in range(6)]
    summaries = await asyncio.gather(*(imported(olivia, dataset_id, c) for c in contents))
    numbers = sorted(summary.version.version_number for _, summary in summaries)
    assert numbers == [1, 2, 3, 4, 5, 6]
    versions = (await olivia.datasets.ListDatasetVersions(dataset_id=dataset_id)).versions
    assert len({version.content_hash for version in versions}) == 6
    old = await exported(olivia, dataset_id, version_number=versions[-1].version_number)
    assert old.startswith(b'"a"\r\n')


async def test_rows_are_paged_in_one_version(world: World) -> None:
    """A token keeps its version, whatever is imported meanwhile."""
    olivia = await (await world.organisation("acme")).person("olivia")
    dataset_id = await new_dataset(olivia)
    rows = "n\n" + "".join(f"{number}\n" for number in range(1201))
    await imported(olivia, dataset_id, rows.encode())
    page = await olivia.datasets.ListDatasetRows(dataset_id=dataset_id, page_size=500)
    await imported(olivia, dataset_id, b"n\nother\n")
    seen = [row.values["n"] for row in page.rows]
    while page.next_page_token:
        page = await olivia.datasets.ListDatasetRows(
            dataset_id=dataset_id, page_size=500, page_token=page.next_page_token
        )
        seen += [row.values["n"] for row in page.rows]
    assert seen == [str(number) for number in range(1201)]


async def test_datasets_are_named_shared_hidden_and_brought_back(world: World) -> None:
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    olivia, peter = await acme.person("olivia"), await acme.person("peter")
    victor = await acme.person("victor", role="viewer")
    private = await new_dataset(olivia, "mine", sharing_level="DATASET_SHARING_PRIVATE")
    shared = await new_dataset(olivia, "ours")
    assert await told(new_dataset(peter, "OURS")) == ("ALREADY_EXISTS", "DATASET_NAME_TAKEN")
    not_found = ("NOT_FOUND", "DATASET_NOT_FOUND")
    for person, dataset_id in ((peter, private), (globex.admin, shared)):
        assert await told(person.datasets.GetDataset(dataset_id=dataset_id)) == not_found
        assert await told(imported(person, dataset_id, b"a\n1\n")) == not_found
        assert await told(exported(person, dataset_id)) == not_found
    assert [d.name for d in (await victor.datasets.ListDatasets()).datasets] == ["ours"]
    denied = ("PERMISSION_DENIED", "PERMISSION_MISSING")
    assert await told(imported(victor, shared, b"a\n1\n")) == denied

    update = {"dataset": {"id": shared, "name": "theirs"}, "update_mask": {"paths": ["name"]}}
    changed = (await peter.datasets.UpdateDataset(**update)).dataset
    assert changed.name == "theirs"
    await olivia.datasets.DeleteDataset(dataset_id=shared)
    assert await told(imported(olivia, shared, b"a\n1\n")) == not_found
    await new_dataset(peter, "theirs")
    taken = ("ALREADY_EXISTS", "DATASET_NAME_TAKEN")
    assert await told(olivia.datasets.UndeleteDataset(dataset_id=shared)) == taken
    [(count,)] = ask(
        world, "SELECT count(*) FROM audit.pending WHERE facts->>'action' LIKE 'dataset.%%'"
    )
    assert count >= 5


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(CELL.filter(bool), min_size=1, max_size=4, unique=True),
    st.data(),
)
def test_every_cell_survives_csv(columns: list[str], data: st.DataObject) -> None:
    """Byte order marks, quotes and line ends of all kinds, in names and values."""
    values = st.lists(CELL, min_size=len(columns), max_size=len(columns))
    rows = [
        dict(zip(columns, cells, strict=True)) for cells in data.draw(st.lists(values, max_size=4))
    ]
    content = csv_header(columns) + b"".join(csv_row(columns, row) for row in rows)
    found = [row for _line, row in read_rows(io.BytesIO(content), 1, ",")]
    assert not any(isinstance(row, BadRow) for row in found)
    assert found == rows


NAMES = st.text(min_size=1, max_size=6).filter(lambda name: "\0" not in name)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12) | st.sampled_from(["- a", "null", "1e3", "~", "|", "#", "a: b", "\n- x\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=3), max_size=3))
def test_every_row_survives_yaml(rows: list[dict[str, Any]]) -> None:
    """Texts that look like something else, line ends of all kinds, dashes in the first column."""
    file = io.BytesIO(b"".join(map(yaml_row, rows)))
    assert [row for _line, row in yaml_rows(file)] == rows
