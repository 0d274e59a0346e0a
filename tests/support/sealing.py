"""A sealing process to kill: `main(fence)`, settings from CHIMERA_*.

Seals and signs without a pause; writes a line each time something was sealed.
"""

import asyncio

from chimera.audit.sealer import Sealer
from chimera.core import open_core
from chimera.faults import Fault
from chimera.settings import load_settings


async def seal(fence: int) -> None:
    async with open_core(load_settings(), "sealer") as core:
        sealer = Sealer(core)
        while True:
            try:
                count = await sealer.run_once(fence)
            except Fault:  # a lock that is held longer than the lock timeout
                continue
            if count:
                print("sealed", count, flush=True)
            await asyncio.sleep(0.001)


def main(fence: str) -> None:
    asyncio.run(seal(int(fence)))
