"""A sealing process to kill: `python -m tests.support.sealing FENCE`, settings from CHIMERA_*.

Seals and signs without a pause; writes a line each time something was sealed.
"""

import asyncio
import sys

from chimera.audit.sealer import Sealer
from chimera.core import open_core
from chimera.faults import Fault
from chimera.settings import load_settings


async def main(fence: int) -> None:
    async with open_core(load_settings(), "sealer") as core:
        sealer = Sealer(core)
        while True:
            try:
                count = await sealer.run_once(fence)
            except Fault:  # a lock that is held longer than the lock timeout
                continue
            if count:
                print(count, flush=True)
            await asyncio.sleep(0.001)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
