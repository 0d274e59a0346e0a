"""One embedded stack a test process; a fresh clone of the migrated database a test."""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import hypothesis
import pytest  # after the environment above

from chimera.logs import set_up_logs  # after the environment above
from tests.support.stack import *  # noqa: F403  # fixtures
from tests.support.world import *  # noqa: F403  # fixtures

set_up_logs("warning")
# A busy machine is no failure: the time an example takes is asserted nowhere.
hypothesis.settings.register_profile(
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-access", action="store_true", help="rewrite tests/access.txt")
    parser.addoption("--update-schema", action="store_true", help="rewrite migrations/schema.sql")
