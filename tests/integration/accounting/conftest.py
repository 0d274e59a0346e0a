"""Worker processes and the books, for stories about money."""

from tests.support.workers import *  # noqa: F403  # fixtures
