"""Tasks in the background end when they are told to."""

from __future__ import annotations

import asyncio

from chimera.background import cancelled


async def test_a_task_that_loses_its_first_cancellation_ends_all_the_same() -> None:
    """As one does that was just sending to Redis: see `cancelled`."""
    asked = 0

    async def loses_one() -> None:
        nonlocal asked
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                asked += 1
                if asked > 1:
                    raise

    task = asyncio.create_task(loses_one())
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await cancelled(task)
    assert task.cancelled()
    assert asked == 2


async def test_what_ended_by_itself_is_left_as_it_ended() -> None:
    async def fails() -> None:
        raise ValueError("on purpose")

    task = asyncio.create_task(fails())
    await asyncio.wait({task})
    await cancelled(task)
    assert isinstance(task.exception(), ValueError)
