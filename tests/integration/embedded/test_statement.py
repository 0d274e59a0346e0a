"""Which statements wait for data, which answer rows, and where their FORMAT stands."""

from __future__ import annotations

import pytest

from chimera.embedded.statement import parse_insert, returns_rows, without_format


@pytest.mark.parametrize(
    ("statement", "source", "columns", "settings"),
    [
        ("INSERT INTO t VALUES", "t", "*", ""),
        ("insert into d.t (a, b) values ;", "d.t", "a, b", ""),
        ('INSERT INTO TABLE `d b`."t" FORMAT Native', '`d b`."t"', "*", ""),
        ("INSERT INTO t(* EXCEPT(a)) VALUES", "t", "* EXCEPT(a)", ""),
        ("INSERT INTO t (n.a, `b)`) FORMAT JSONEachRow", "t", "n.a, `b)`", ""),
        (
            "INSERT INTO t SETTINGS x = 'values', y = 1 VALUES",
            "t",
            "*",
            "SETTINGS x = 'values', y = 1",
        ),
        ("/* VALUES */ INSERT -- (\n INTO t VALUES -- end", "t", "*", ""),
        ("INSERT INTO FUNCTION null('a (Int8)') (a) VALUES", "null('a (Int8)')", "a", ""),
        ("INSERT INTO t", "t", "*", ""),
    ],
)
def test_inserts_that_wait_for_data(
    statement: str, source: str, columns: str, settings: str
) -> None:
    insert = parse_insert(statement)
    assert insert is not None
    assert (insert.source, insert.columns, insert.settings.strip()) == (source, columns, settings)
    words = insert.from_file("f").split("FROM INFILE 'f'")
    assert words[0].rstrip() == insert.head and words[1].split()[-2:] == ["FORMAT", "Native"]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t VALUES (1)",
        "INSERT INTO t SELECT 1",
        "INSERT INTO t (a) SELECT 'VALUES'",
        "INSERT INTO t (SELECT 1)",
        "INSERT INTO t (a) (SELECT 1)",
        "INSERT INTO t WITH 1 AS x SELECT x",
        'INSERT INTO t FORMAT JSONEachRow {"a": 1}',
        "INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        "SELECT 'INSERT INTO t VALUES'",
        "CREATE TABLE insert (a Int8) ENGINE = Memory",
        "",
    ],
)
def test_statements_that_are_complete_as_they_are(statement: str) -> None:
    assert parse_insert(statement) is None


def test_only_selects_answer_a_stream_of_rows() -> None:
    assert all(
        map(returns_rows, ["SELECT 1", "\n-- x\nwith 1 as a select a", "(SELECT 1)", "FROM t"])
    )
    assert not any(
        map(returns_rows, ["SHOW TABLES", "CREATE VIEW v AS SELECT 1", "DROP TABLE t", ""])
    )


@pytest.mark.parametrize(
    ("statement", "bare"),
    [
        ("SELECT 1 FORMAT CSV", "SELECT 1 "),
        ("SELECT 1 FORMAT CSV ; ", "SELECT 1 "),
        ("SELECT 1; -- end", "SELECT 1"),
        ("SELECT 'a FORMAT b'", "SELECT 'a FORMAT b'"),
        ("SELECT format('{}', 1)", "SELECT format('{}', 1)"),
        ("SELECT a AS format", "SELECT a AS format"),
        ("SELECT (SELECT 1 FORMAT CSV)", "SELECT (SELECT 1 FORMAT CSV)"),
    ],
)
def test_the_format_clause_goes_and_nothing_else(statement: str, bare: str) -> None:
    assert without_format(statement) == bare
