"""A log to seal, verify and damage."""

from collections.abc import AsyncIterator

import pytest

from chimera.settings import Settings
from tests.support.audit import Log, open_log


@pytest.fixture
async def log(settings: Settings) -> AsyncIterator[Log]:
    async with open_log(settings) as log:
        yield log
