"""A rotation to kill: `python -m tests.support.rotating ROTATION_ID`, settings from CHIMERA_*.

Wraps two values at a time and writes a line after each batch that is committed.
"""

import asyncio
import sys
from typing import Any

from chimera.core import open_core
from chimera.providers import rotation
from chimera.settings import load_settings

BATCH = 2


async def main(rotation_id: str) -> None:
    rotation.BATCH = BATCH
    rewrap = rotation._rewrap_some

    async def told(*given: Any) -> None:
        await rewrap(*given)
        print("batch", flush=True)

    rotation._rewrap_some = told
    async with open_core(load_settings(), "worker") as core:
        await rotation.rewrap_all(core, rotation_id)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
