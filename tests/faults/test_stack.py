"""The embedded stack when processes die: nothing is lost, nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from clickhouse_driver import Client
from redis import Redis

from chimera.embedded import launch
from chimera.embedded.launch import process_identity
from chimera.embedded.stack import Stack
from chimera.embedded.supervisor import Child, StackError

SOURCE = str(Path(launch.__file__).resolve().parents[2])

# Ends only by force, and says when it is ready by writing a file.
STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").close()
time.sleep(600)
"""
# Writes its name into a file when it is told to end.
TIDY = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
open(sys.argv[2], "w").close()
signal.sigwait({signal.SIGTERM})
open(sys.argv[1], "a").write(sys.argv[3] + "\\n")
"""
SUPERVISOR = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from chimera.embedded.stack import Stack
stack = Stack(Path(sys.argv[1]), assistant=False, durable=False)
stack.start()
pids = {name: stack.pid(name) for name in ("postgres", "redis", "clickhouse")}
print(json.dumps({"pids": pids, "clickhouse": stack.urls.clickhouse_url}), flush=True)
sys.exit(stack.run_until_signalled())
"""


def tidy(name: str, folder: Path) -> Child:
    ready = folder / f"{name}.ready"
    argv = [sys.executable, "-c", TIDY, str(folder / "ended"), str(ready), name]
    return Child(name=name, argv=argv, ready=ready.exists)


def bare_stack(home: Path) -> Stack:
    return Stack(home, postgres=False, redis=False, clickhouse=False, assistant=False)


def eventually(met: Callable[[], bool], *, within_s: float = 30.0) -> bool:
    deadline = time.monotonic() + within_s
    while not met():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def supervisor(home: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, int], str]]:
    """A supervisor in a process of its own: the process, its children's ids, ClickHouse's URL."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(home), SOURCE], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        shown = json.loads(process.stdout.readline())
        # The first log line is shown by the foreground loop, which then also hears signals.
        assert process.stdout.readline().startswith("[")
        yield process, shown["pids"], shown["clickhouse"]
    finally:
        process.kill()
        process.wait()


def test_each_engine_killed_and_restarted_keeps_what_was_confirmed(tmp_path: Path) -> None:
    """SIGKILL to every engine under open connections; the same address serves the same data."""
    with Stack(tmp_path, assistant=False, durable=False) as stack:
        urls = stack.urls
        held = psycopg.connect(urls.database_url, autocommit=True)
        held.execute("CREATE TABLE kept (a int)")
        held.execute("INSERT INTO kept VALUES (42)")
        redis = Redis.from_url(urls.redis_url)
        redis.set("kept", "42")
        clickhouse = Client.from_url(urls.clickhouse_url)
        clickhouse.execute("CREATE TABLE kept (a UInt8) ENGINE = MergeTree ORDER BY a")
        clickhouse.execute("INSERT INTO kept VALUES", [(42,)])

        for name in ("postgres", "redis", "clickhouse"):
            before = stack.pid(name)
            stack.kill(name)
            assert process_identity(before) is None
            stack.restart(name)
            assert stack.pid(name) != before

        with pytest.raises(psycopg.OperationalError):
            held.execute("SELECT 1")
        with psycopg.connect(urls.database_url) as again:
            assert again.execute("SELECT a FROM kept").fetchone() == (42,)
        assert redis.get("kept") == b"42"
        assert clickhouse.execute("SELECT a FROM kept") == [(42,)]
        assert stack.urls == urls


def test_a_killed_postgres_restarts_although_a_session_of_it_is_still_busy(tmp_path: Path) -> None:
    """A session deep in a query does not notice the death of its server, and holds the folder."""
    endless = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b"
    with Stack(tmp_path, redis=False, clickhouse=False, assistant=False, durable=False) as stack:
        busy = psycopg.connect(stack.urls.database_url, autocommit=True)
        busy.execute("SET max_parallel_workers_per_gather = 0")
        backend = busy.info.backend_pid
        busy.pgconn.send_query(endless.encode())
        cpu = Path(f"/proc/{backend}/stat")
        began = int(cpu.read_text().split()[13])
        assert eventually(lambda: int(cpu.read_text().split()[13]) > began + 5)
        stack.kill("postgres")
        assert process_identity(backend) is not None
        stack.restart("postgres")
        assert process_identity(backend) is None
        with psycopg.connect(stack.urls.database_url) as again:
            assert again.execute("SELECT 1").fetchone() == (1,)


def test_a_killed_supervisor_leaves_no_orphan_and_no_loss(tmp_path: Path) -> None:
    """After `kill -9` of the supervisor the next start finds the home free, ends what still
    runs, and serves the data."""
    with supervisor(tmp_path) as (process, pids, url):
        with Client.from_url(url) as client:
            client.execute("CREATE TABLE kept (a UInt8) ENGINE = MergeTree ORDER BY a")
            client.execute("INSERT INTO kept VALUES", [(42,)])
        identities = {pid: process_identity(pid) for pid in pids.values()}
        process.kill()
        process.wait()
    with Stack(tmp_path, assistant=False, durable=False) as stack:
        assert all(process_identity(pid) != was for pid, was in identities.items())
        with Client.from_url(stack.urls.clickhouse_url) as client:
            assert client.execute("SELECT a FROM kept") == [(42,)]


def test_an_orphan_that_will_not_end_is_ended_by_the_next_start(tmp_path: Path) -> None:
    """What ignores the polite signal, also that of its supervisor's death, is killed."""
    ready = tmp_path / "ready"
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {SOURCE!r})
        from chimera.embedded.stack import Stack
        from chimera.embedded.supervisor import Child
        stack = Stack(Path({str(tmp_path)!r}), postgres=False, redis=False, clickhouse=False,
                      assistant=False)
        stack.start()
        argv = [sys.executable, "-c", {STUBBORN!r}, {str(ready)!r}]
        stack.add(Child("stubborn", argv, ready=Path({str(ready)!r}).exists, stop_timeout_s=0.2))
        print(stack.pid("stubborn"), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    orphan = int(shown.stdout)
    assert process_identity(orphan) is not None, shown.stderr
    with bare_stack(tmp_path):
        assert process_identity(orphan) is None


def test_a_reused_process_id_is_never_signalled(tmp_path: Path) -> None:
    """A pid file that names a living process of another identity is stale, not an order."""
    innocent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        run = tmp_path / "run"
        run.mkdir()
        note = {"pid": innocent.pid, "identity": "boot:1", "order": 0}
        note |= {"stop_signal": int(signal.SIGTERM), "stop_timeout_s": 0.1}
        (run / "redis.pid").write_text(json.dumps(note))
        with bare_stack(tmp_path):
            assert not (run / "redis.pid").exists()
        assert innocent.poll() is None
    finally:
        innocent.communicate(b"\n")
    assert innocent.returncode == 0


def test_a_home_serves_one_stack_at_a_time(tmp_path: Path) -> None:
    """The second start is refused by name of the first, and does not disturb it."""
    with Stack(tmp_path, postgres=False, clickhouse=False, assistant=False) as first:
        with pytest.raises(StackError, match=f"in use by another stack, process {os.getpid()}"):
            bare_stack(tmp_path).start()
        assert Redis.from_url(first.urls.redis_url).ping()
    with bare_stack(tmp_path):
        pass


def test_children_stop_in_reverse_order(tmp_path: Path) -> None:
    with bare_stack(tmp_path) as stack:
        for name in ("first", "second", "third"):
            stack.add(tidy(name, tmp_path))
    assert (tmp_path / "ended").read_text().split() == ["third", "second", "first"]


def test_the_death_of_one_child_ends_the_stack(tmp_path: Path) -> None:
    """Nobody told it to end: the others are stopped in order and the foreground answers 1."""
    stack = bare_stack(tmp_path)
    stack.start()
    for name in ("first", "second", "third"):
        stack.add(tidy(name, tmp_path))
    os.kill(stack.pid("second"), signal.SIGKILL)
    assert stack.run_until_signalled() == 1
    assert (tmp_path / "ended").read_text().split() == ["third", "first"]


def test_a_child_that_was_killed_on_purpose_does_not_end_the_stack(tmp_path: Path) -> None:
    with bare_stack(tmp_path) as stack:
        stack.add(tidy("first", tmp_path))
        stack.add(tidy("second", tmp_path))
        stack.kill("second")
        (tmp_path / "second.ready").unlink()
        stack.restart("second")
        assert process_identity(stack.pid("first")) is not None
    assert (tmp_path / "ended").read_text().split() == ["second", "first"]


def test_a_child_that_cannot_start_says_why_and_leaves_the_rest_running(tmp_path: Path) -> None:
    broken = "import sys; sys.exit('no such model')"
    with bare_stack(tmp_path) as stack:
        stack.add(tidy("first", tmp_path))
        with pytest.raises(StackError, match=r"(?s)ended with code 1 .*no such model"):
            stack.add(Child("broken", [sys.executable, "-c", broken], ready=lambda: False))
        assert process_identity(stack.pid("first")) is not None
        stack.add(tidy("broken", tmp_path))
    assert (tmp_path / "ended").read_text().split() == ["broken", "first"]


def test_a_child_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    ready = tmp_path / "up"
    argv = [sys.executable, "-c", STUBBORN, str(ready)]
    with bare_stack(tmp_path) as stack, pytest.raises(StackError, match="is not ready after 1 s"):
        stack.add(Child("mute", argv, ready=lambda: False, ready_timeout_s=1.0))
    assert ready.exists()
    assert not list((tmp_path / "run").glob("*.pid"))


def test_a_start_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    """Redis cannot read its data: the start fails, with its own words, and the home is free."""
    data = tmp_path / "data" / "redis"
    data.mkdir(parents=True)
    (data / "appendonly.aof").write_bytes(b"this is not an append-only file\n" * 10)
    stack = Stack(tmp_path, postgres=False, clickhouse=False, assistant=False)
    with pytest.raises(StackError, match=r"(?s)redis ended with code 1 .*Bad file format"):
        stack.start()
    assert not list((tmp_path / "run").glob("*.pid"))
    with bare_stack(tmp_path):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_everything_and_is_no_failure(tmp_path: Path, number: signal.Signals) -> None:
    """A foreground stack ends on a signal with code 0, no child left, logs shown with names."""
    with supervisor(tmp_path) as (process, pids, _):
        process.send_signal(number)
        shown, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert all(process_identity(pid) is None for pid in pids.values())
    assert "[postgres] " in shown and "database system is shut down" in shown
    assert "[clickhouse] " in shown and "[redis] " in shown


def test_a_stack_started_in_a_thread_that_ended_lives_on(tmp_path: Path) -> None:
    """Children die with the supervisor's process, not with the thread that called start."""
    stack = Stack(tmp_path, postgres=False, clickhouse=False, assistant=False)
    starter = threading.Thread(target=stack.start)
    starter.start()
    starter.join()
    try:
        redis = Redis.from_url(stack.urls.redis_url)
        assert all(redis.ping() for _ in range(50))
        assert process_identity(stack.pid("redis")) is not None
    finally:
        stack.stop()
    assert eventually(lambda: not (tmp_path / "run" / "redis.pid").exists())
