"""The embedded ClickHouse as clickhouse-driver sees it: a server like any other."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException
from clickhouse_migrations.clickhouse_cluster import ClickhouseCluster

RICH_TABLE = """
CREATE TABLE rich (
    id UUID,
    at DateTime64(3, 'UTC'),
    kind LowCardinality(String),
    level Enum8('low' = 1, 'high' = 2),
    cost Decimal64(6),
    big Decimal128(10),
    note Nullable(String),
    tags Array(String),
    labels Map(String, String),
    metrics Nested(name String, value Float64),
    total SimpleAggregateFunction(sum, UInt64),
    doubled UInt64 MATERIALIZED total * 2,
    added DateTime DEFAULT now()
) ENGINE = MergeTree ORDER BY id
"""
INSERT_RICH = """
INSERT INTO rich
    (id, at, kind, level, cost, big, note, tags, labels, metrics.name, metrics.value, total) VALUES
"""
# In the order above, without the computed and the defaulted column.
SELECT_RICH = "SELECT * EXCEPT (added) FROM rich ORDER BY id"


def rich_rows(count: int) -> list[tuple[object, ...]]:
    return [
        (
            UUID(int=n),
            datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
            f"kind {n % 3}",
            "high" if n % 2 else "low",
            Decimal("1.250000") + n,
            Decimal("-7.0000000001"),
            None if n % 2 else "päper 'quoted' \\ back",
            [f"a{n}", ""],
            {"k": f"v{n}", "ü": "x"},
            ["latency", "tokens"],
            [1.5, float(n)],
            n,
        )
        for n in range(count)
    ]


def test_rows_of_every_used_type_come_back_as_they_went_in(client: Client) -> None:
    """Given a table with all the column types the product uses, rows survive the round trip."""
    client.execute(RICH_TABLE)
    rows = rich_rows(50)
    assert client.execute(INSERT_RICH, rows) == 50
    assert client.execute(SELECT_RICH) == rows
    assert client.execute("SELECT sum(doubled) FROM rich") == [(2 * sum(range(50)),)]


def test_columnar_inserts_are_the_same_rows(client: Client) -> None:
    """The driver's columnar mode, which telemetry uses, stores what row mode stores."""
    client.execute(RICH_TABLE)
    rows = rich_rows(20)
    columns = list(zip(*rows, strict=True))
    client.execute(INSERT_RICH, columns, columnar=True)
    assert client.execute(SELECT_RICH) == rows


def test_an_insert_without_column_list_leaves_out_computed_columns(client: Client) -> None:
    """As on a server, `INSERT INTO t VALUES` means all columns that are not computed."""
    client.execute("CREATE TABLE t (a UInt8, b UInt8 MATERIALIZED a + 1, c String) ENGINE = Memory")
    client.execute("INSERT INTO story.t VALUES", [(1, "x")])
    client.execute("INSERT INTO `story`.`t` (* EXCEPT(a)) VALUES", [("y",)])
    assert client.execute("SELECT a, b, c FROM t ORDER BY c") == [(1, 2, "x"), (0, 1, "y")]


def test_columns_keep_their_names_and_types_even_without_rows(client: Client) -> None:
    """Every result starts with a header, so an empty answer still says what it is about."""
    client.execute("CREATE TABLE t (a UInt8, b LowCardinality(String)) ENGINE = Memory")
    rows, columns = client.execute("SELECT a, b FROM t", with_column_types=True)
    assert rows == []
    assert columns == [("a", "UInt8"), ("b", "LowCardinality(String)")]
    rows, columns = client.execute("SHOW TABLES", with_column_types=True)
    assert (rows, columns) == ([("t",)], [("name", "String")])


def test_a_question_asked_again_is_answered_with_the_types_of_its_time(
    client: Client, clickhouse_url: str
) -> None:
    """Types are kept between questions: not over a change of the table (by whomever), of the current
    database, nor of a setting they hang on."""

    def types(**settings: int) -> list[str]:
        question = "SELECT a, number FROM t LEFT JOIN numbers(1) AS n ON n.number = t.a + 5"
        rows, columns = client.execute(question, with_column_types=True, settings=settings)
        assert rows in ([(1, 0)], [(1, None)])
        return [kind for _, kind in columns]

    client.execute("CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
    client.execute("INSERT INTO t VALUES", [(1,)])
    assert types() == types() == ["UInt8", "UInt64"]
    assert types(join_use_nulls=1) == ["UInt8", "Nullable(UInt64)"]
    client.execute("SET join_use_nulls = 1")
    assert types() == ["UInt8", "Nullable(UInt64)"]
    client.execute("SET join_use_nulls = 0")
    client.execute("DROP DATABASE IF EXISTS other")
    client.execute("CREATE DATABASE other")
    client.execute("CREATE TABLE other.t (a UInt16) ENGINE = Memory AS SELECT 1")
    client.execute("USE other")
    assert types() == ["UInt16", "UInt64"]
    with Client.from_url(clickhouse_url) as somebody:
        somebody.execute("DROP TABLE other.t")
        somebody.execute("CREATE TABLE other.t (a UInt32) ENGINE = Memory AS SELECT 1")
    assert types() == ["UInt32", "UInt64"]
    client.execute("CREATE TEMPORARY TABLE t (a UInt64)")
    client.execute("INSERT INTO t VALUES", [(1,)])
    assert types() == ["UInt64", "UInt64"]
    # The session begins anew, without its tables.
    client.execute("SELECT 1", settings={"readonly": 1})
    assert types() == ["UInt32", "UInt64"]


def test_types_are_those_of_the_rows_while_a_table_changes(
    client: Client, clickhouse_url: str
) -> None:
    """A column has its new type before the statement that changes it has ended. Only the one question
    that is asked at that very moment may be described before it and answered after."""
    client.execute("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY tuple()")
    client.execute("INSERT INTO t SELECT number FROM numbers(2000000)")
    url = clickhouse_url.replace("/chimera?", "/story?")
    seen = []
    with Client.from_url(url) as other, ThreadPoolExecutor(1) as threads:
        change = threads.submit(other.execute, "ALTER TABLE t MODIFY COLUMN a String")
        is_over = False
        while not is_over:
            is_over = change.done()
            [(value,)], [(_, kind)] = client.execute(
                "SELECT a FROM t LIMIT 1", with_column_types=True
            )
            seen.append((type(value), kind))
        change.result()
    wrong = [one for one in seen if one not in ((str, "String"), (int, "UInt32"))]
    assert len(seen) > 5 and len(wrong) <= 1, seen
    assert seen[-1] == (str, "String")


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("SELECT 1 FORMAT TabSeparated", [(1,)]),
        ("SELECT 1; -- the end", [(1,)]),
        ("/* first */ WITH 2 AS x SELECT x", [(2,)]),
        ("(SELECT 1) UNION ALL (SELECT 1)", [(1,), (1,)]),
        ("EXISTS TABLE missing", [(0,)]),
        ("SELECT 'FORMAT x;', currentDatabase()", [("FORMAT x;", "story")]),
        ("SELECT number FROM numbers(3) SETTINGS max_block_size = 1", [(0,), (1,), (2,)]),
    ],
)
def test_selects_in_all_spellings(client: Client, query: str, answer: list[object]) -> None:
    assert client.execute(query) == answer


def test_several_blocks_arrive_in_order_and_complete(client: Client) -> None:
    """A result far larger than one block streams; CHECK TABLE answers in several blocks too."""
    total, last = 0, -1
    for (number,) in client.execute_iter("SELECT number FROM numbers(500000)"):
        total, last = total + 1, number
    assert (total, last) == (500_000, 499_999)
    client.execute("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
    for start in range(3):
        client.execute("INSERT INTO t VALUES", [(start,)])
    parts = client.execute("CHECK TABLE t", settings={"check_query_single_value_result": 0})
    assert [passed for _, passed, _ in parts] == [1, 1, 1]


def test_parameters_are_substituted_by_the_driver(client: Client) -> None:
    text = "it's \\ \n ünï"
    assert client.execute("SELECT %(t)s, %(n)s", {"t": text, "n": 7}) == [(text, 7)]


def test_inline_values_and_insert_select_need_no_data(client: Client) -> None:
    client.execute("CREATE TABLE t (a UInt8, s String) ENGINE = Memory")
    client.execute("INSERT INTO t VALUES (1, 'values'), (2, '(x)')")
    client.execute("INSERT INTO t (a, s) SELECT a + 2, s FROM t")
    client.execute("INSERT INTO t (a, s) (SELECT 9, 'nine')")
    assert client.execute("SELECT count(), sum(a) FROM t") == [(5, 19)]


def test_an_empty_insert_is_no_error(client: Client) -> None:
    client.execute("CREATE TABLE t (a UInt8) ENGINE = Memory")
    assert client.execute("INSERT INTO t VALUES", []) == 0
    assert client.execute("SELECT count() FROM t") == [(0,)]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("SELECT nope", 47),
        ("SELEC 1", 62),
        ("SELECT * FROM missing", 60),
        ("SELECT throwIf(number = 100000) FROM numbers(200000)", 395),
        ("DROP TABLE missing", 60),
        ("INSERT INTO missing VALUES", 60),
    ],
)
def test_errors_carry_the_codes_of_clickhouse(client: Client, query: str, code: int) -> None:
    """Whatever goes wrong is an ordinary exception, and the next query works."""
    with pytest.raises(ServerException) as raised:
        client.execute(query, [(1,)] if query.startswith("INSERT") else None)
    assert raised.value.code == code
    assert client.execute("SELECT 1") == [(1,)]


def test_a_write_that_fails_is_an_error_and_spares_the_connection(client: Client) -> None:
    """A constraint and a view refuse one row of several blocks. The client hears of it, and the
    same socket answers the next query."""
    client.execute("CREATE TABLE t (a UInt64, CONSTRAINT c CHECK a != 5) ENGINE = Memory")
    client.execute("CREATE TABLE src (a UInt64) ENGINE = Memory")
    client.execute("CREATE TABLE seen (a UInt64) ENGINE = Memory")
    client.execute(
        "CREATE MATERIALIZED VIEW v TO seen AS SELECT a + throwIf(a = 7777) AS a FROM src"
    )
    for table, code in (("t", 469), ("src", 395)):
        assert insert_by_hand(client, table, range(10_000), block_rows=1000) == code
        before = client.connection.socket
        stored = client.execute("SELECT (SELECT count() FROM t), (SELECT count() FROM seen)")
        assert stored == [(0, 0)]
        assert client.connection.socket is before


def insert_by_hand(client: Client, table: str, values: range, *, block_rows: int) -> int:
    """An insert without the driver's habit of hanging up on errors; the error code, 0 for none."""
    client.establish_connection({"insert_block_size": block_rows})
    client.connection.send_query(f"INSERT INTO {table} VALUES")
    client.connection.send_external_tables(None)
    try:
        client.send_data(client.receive_sample_block(), [(value,) for value in values])
        client.receive_end_of_insert_query()
    except ServerException as error:
        client.connection.is_query_executing = False
        return int(error.code)
    return 0


def test_a_client_that_vanishes_in_an_insert_leaves_no_rows(
    client: Client, clickhouse_url: str
) -> None:
    """Rows that were never confirmed by the end block are dropped with the connection."""
    client.execute("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")

    def cut_short() -> Iterator[tuple[int]]:
        yield (1,)
        raise ConnectionAbortedError

    with Client.from_url(clickhouse_url) as other, pytest.raises(ConnectionAbortedError):
        other.execute("INSERT INTO story.t VALUES", cut_short(), settings={"insert_block_size": 1})
    assert client.execute("SELECT count() FROM t") == [(0,)]


def test_settings_hold_for_one_query_and_set_for_the_session(client: Client) -> None:
    shown = "SELECT value FROM system.settings WHERE name = 'max_threads'"
    client.execute("SET max_threads = 3")
    assert client.execute(shown, settings={"max_threads": 1}) == [("1",)]
    assert client.execute(shown) == [("3",)]
    assert client.execute("SELECT 1", settings={"no_such_setting": "ignored"}) == [(1,)]
    assert client.execute("SELECT 1", settings={"readonly": 1}) == [(1,)]
    client.execute("CREATE TABLE after_readonly (a UInt8) ENGINE = Memory")
    assert client.execute(shown) == [("3",)]


def test_a_client_may_insist_on_its_settings(clickhouse_url: str) -> None:
    """An unknown setting marked as important is an error, and the known ones do not stick."""
    shown = "SELECT value FROM system.settings WHERE name = 'max_threads'"
    with Client.from_url(f"{clickhouse_url}&settings_is_important=1") as client:
        usual = client.execute(shown)
        client.establish_connection({"max_threads": 1, "no_such_setting": 1})
        client.connection.send_query("SELECT 1")
        client.connection.send_external_tables(None)
        with pytest.raises(ServerException) as raised:
            client.receive_sample_block()
        assert raised.value.code == 115
        client.connection.is_query_executing = False
        before = client.connection.socket
        assert client.execute(shown) == usual
        assert client.connection.socket is before


def test_max_execution_time_ends_a_query(client: Client) -> None:
    slow = "SELECT count() FROM numbers(1000000000000) WHERE cityHash64(number) = 1"
    with pytest.raises(ServerException) as raised:
        client.execute(slow, settings={"max_execution_time": 1})
    assert raised.value.code == 159


def test_an_async_insert_is_visible_when_it_was_waited_for(client: Client) -> None:
    client.execute("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
    waited = {"async_insert": 1, "wait_for_async_insert": 1}
    client.execute("INSERT INTO t VALUES", [(1,), (2,)], settings=waited)
    assert client.execute("SELECT count() FROM t") == [(2,)]


def test_a_batch_sent_again_with_its_token_changes_nothing_not_even_in_a_view(
    client: Client,
) -> None:
    """What makes telemetry exactly-once: the token covers the source and the roll-up."""
    window = "SETTINGS non_replicated_deduplication_window = 1000"
    client.execute(f"CREATE TABLE src (k UInt64, v UInt64) ENGINE = MergeTree ORDER BY k {window}")
    client.execute(
        "CREATE TABLE roll (k UInt64, v SimpleAggregateFunction(sum, UInt64)) "
        f"ENGINE = AggregatingMergeTree ORDER BY k {window}"
    )
    client.execute(
        "CREATE MATERIALIZED VIEW v TO roll AS SELECT k % 2 AS k, sum(v) AS v FROM src GROUP BY k"
    )
    batch = [(n, 1) for n in range(100)]

    def send(token: str) -> tuple[int, int]:
        settings = {
            "insert_block_size": 30,  # several blocks in one insert
            "insert_deduplication_token": token,
            "deduplicate_blocks_in_dependent_materialized_views": 1,
        }
        client.execute("INSERT INTO src VALUES", batch, settings=settings)
        return client.execute("SELECT (SELECT count() FROM src), (SELECT sum(v) FROM roll)")[0]

    assert send("batch 1") == (100, 100)
    assert send("batch 1") == (100, 100)
    assert send("batch 2") == (200, 200)


def test_each_connection_has_its_own_database(client: Client, clickhouse_url: str) -> None:
    client.execute("CREATE DATABASE IF NOT EXISTS elsewhere")
    with Client.from_url(clickhouse_url) as other:
        other.execute("USE elsewhere")
        assert other.execute("SELECT currentDatabase()") == [("elsewhere",)]
        assert client.execute("SELECT currentDatabase()") == [("story",)]


def test_an_unknown_database_is_refused_at_the_door(clickhouse_url: str) -> None:
    with (
        Client.from_url(clickhouse_url.replace("/chimera?", "/nowhere?")) as stranger,
        pytest.raises(ServerException) as raised,
    ):
        stranger.execute("SELECT 1")
    assert raised.value.code == 81


def test_a_client_without_lz4_is_told_what_to_do(clickhouse_url: str) -> None:
    plain = clickhouse_url.replace("?compression=lz4", "")
    with Client.from_url(plain) as stranger, pytest.raises(ServerException) as raised:
        stranger.execute("SELECT 1")
    assert "add compression=lz4 to the connection URL" in str(raised.value)


def test_external_tables_are_refused_clearly(client: Client) -> None:
    table = {"name": "e", "structure": [("a", "UInt8")], "data": [{"a": 1}]}
    with pytest.raises(ServerException, match="external tables are not supported"):
        client.execute("SELECT * FROM e", external_tables=[table])


def test_a_cancelled_query_ends_at_once_and_the_connection_lives(client: Client) -> None:
    """A cancel in a result that would never end is answered by the end of the stream."""
    progress = client.execute_iter("SELECT number FROM system.numbers")
    assert next(progress) == (0,)
    client.cancel()
    client.connection.is_query_executing = False
    assert client.execute("SELECT 1") == [(1,)]


def test_connections_work_at_the_same_time(client: Client, clickhouse_url: str) -> None:
    """Eight writers and readers at once; a long query does not hold up the others."""
    client.execute("CREATE TABLE t (w UInt8, n UInt64) ENGINE = MergeTree ORDER BY (w, n)")
    long_one_runs = threading.Event()

    def long_query() -> None:
        with Client.from_url(clickhouse_url) as own:
            stream = own.execute_iter("SELECT number FROM numbers(20000000)")
            next(stream)
            long_one_runs.set()
            others_done.wait(timeout=60)
            own.disconnect()

    def write(worker: int) -> int:
        with Client.from_url(clickhouse_url) as own:
            for start in range(0, 500, 100):
                own.execute("INSERT INTO story.t VALUES", [(worker, start + i) for i in range(100)])
            return int(
                own.execute("SELECT count() FROM story.t WHERE w = %(w)s", {"w": worker})[0][0]
            )

    others_done = threading.Event()
    with ThreadPoolExecutor(9) as pool:
        waiting = pool.submit(long_query)
        assert long_one_runs.wait(timeout=60)
        assert list(pool.map(write, range(8))) == [500] * 8
        others_done.set()
        waiting.result()
    assert client.execute("SELECT uniqExact(w, n) FROM t") == [(4000,)]


def test_it_answers_however_many_files_it_has_open(clickhouse_url: str) -> None:
    parts = urlsplit(clickhouse_url)
    with ExitStack() as stack:
        for _ in range(1_100):
            stack.enter_context(socket.create_connection((parts.hostname, parts.port)))
        with Client.from_url(clickhouse_url) as late:
            assert late.execute("SELECT number FROM numbers(3)") == [(0,), (1,), (2,)]


def test_migrations_are_applied_listed_and_rolled_back(clickhouse_url: str, tmp_path: Path) -> None:
    """clickhouse-migrations, the product's migration tool, works through this server."""
    (tmp_path / "001_one.sql").write_text(
        "CREATE TABLE one (a UInt8) ENGINE = MergeTree ORDER BY a;\n"
        "CREATE TABLE two (a UInt8) ENGINE = MergeTree ORDER BY a;"
    )
    (tmp_path / "001_one.down.sql").write_text("DROP TABLE one;\nDROP TABLE two;")
    cluster = ClickhouseCluster(db_url=clickhouse_url.replace("/chimera?", "/migrated?"))
    applied = cluster.migrate("migrated", tmp_path)
    assert [migration.version for migration in applied] == [1]
    assert set(cluster.show_tables("migrated")) >= {"one", "two"}
    assert cluster.migrate("migrated", tmp_path) == []
    assert cluster.rollback("migrated", tmp_path) == [1]
    assert "one" not in cluster.show_tables("migrated")
