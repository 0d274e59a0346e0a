"""What a person is told when a command cannot do its work: one line, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

FAILED, WRONG_USE, NO_SERVER = 1, 2, 3


class Failure(Exception):
    """Ends the command with this line and exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def reported() -> Iterator[None]:
    """Turns every expected error of the product into its line on stderr and SystemExit."""
    try:
        yield
    except Failure as failure:
        _leave(str(failure), failure.exit_code)
    except KeyboardInterrupt:
        _leave("interrupted", 130)
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        _leave(*told)


def _told(error: Exception) -> tuple[str, int] | None:
    """Line and exit code of an error, or None when it is a bug and needs its traceback.

    The families are asked for only if their module was imported: otherwise nobody raised them.
    """
    client = sys.modules.get("chimera.client")
    if client is not None and isinstance(error, client.ApiError):
        return api_line(error), NO_SERVER if isinstance(error, client.Unreachable) else FAILED
    for module, name in (
        ("chimera.embedded.supervisor", "StackError"),
        ("chimera.migrate", "MigrationError"),
        ("chimera.faults", "Fault"),
        ("psycopg", "OperationalError"),
    ):
        family = getattr(sys.modules.get(module), name, None)
        if family is not None and isinstance(error, family):
            return str(error).strip(), FAILED
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(error, pydantic.ValidationError):
        first = error.errors(include_input=False)[0]
        place = "_".join(str(part) for part in first["loc"])
        return f"CHIMERA_{place.upper()}: {first['msg']}", WRONG_USE
    return None


def api_line(error: Exception) -> str:
    """What the server said, with the fields it complained about."""
    violations = getattr(error, "violations", ())
    shown = "; ".join(
        f"{field}: {what}" for field, what in violations[:5] if what not in str(error)
    )
    return f"{error}{': ' + shown if shown else ''}"


def _leave(message: str, exit_code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(exit_code)
