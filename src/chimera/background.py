"""Tasks that run beside the others until they are cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

ASK_AGAIN_S = 0.5


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Returns when the task has ended, which one cancellation does not promise.

    redis-py sends inside asyncio.wait_for whenever it has a socket timeout, and before Python 3.12
    that loses a cancellation which meets the end of what it waited for (CPython issue 86296). The
    task then lives on, and whoever awaits it waits for ever.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=ASK_AGAIN_S)
