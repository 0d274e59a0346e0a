"""Fixtures of the campaign tests."""

from tests.support.collaboration import *  # noqa: F403  # fixtures
from tests.support.workers import *  # noqa: F403  # fixtures
