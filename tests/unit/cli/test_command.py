"""The command itself: fast to start, and one line when something fails."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from chimera.cli.failure import FAILED, NO_SERVER, Failure, reported
from chimera.client import InvalidRequest, Unreachable

HEAVY = ("grpc", "psycopg", "pydantic", "google.protobuf", "redis", "clickhouse_driver", "asyncio")


def test_help_loads_nothing_heavy() -> None:
    """Importing the whole command line leaves drivers, gRPC and pydantic alone."""
    code = (
        "import sys, json, chimera.cli\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("error", "line", "exit_code"),
    [
        (Failure("no such thing", 2), "no such thing", 2),
        (Unreachable("UNAVAILABLE", "gone"), "gone (UNAVAILABLE)", NO_SERVER),
        (
            InvalidRequest(
                "INVALID_ARGUMENT", "bad", reason="FIELD_INVALID", violations=[("name", "too long")]
            ),
            "bad (FIELD_INVALID): name: too long",
            FAILED,
        ),
    ],
)
def test_errors_become_a_line(
    capsys: pytest.CaptureFixture[str], error: Exception, line: str, exit_code: int
) -> None:
    with pytest.raises(SystemExit) as left, reported():
        raise error

    assert left.value.code == exit_code
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), reported():
        raise ZeroDivisionError
