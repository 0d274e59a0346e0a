"""Fixtures of the fault tests."""

from tests.support.workers import *  # noqa: F403  # fixtures
