"""Fixtures of the campaign tests."""

from tests.support.workers import *  # noqa: F403  # fixtures
