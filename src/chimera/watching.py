"""Streams that are open: each goes on while its caller may, and ends within two seconds of a change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from chimera.background import cancelled
from chimera.call import Call, Caller
from chimera.faults import Conflict, Exhausted, TimedOut, Unavailable

# How often it is asked whether a stream may go on. With the age of what is known then
# (identity.authentication.STREAM_STATE_AGE_S) less than the two seconds that changes may take.
LOOK_AGAIN_S = 1.5
# So often in a row this may fail for other reasons (no connection is free) before the stream ends.
LOOKS_FAILED_MAX = 5

# (call): who it is by now.
AuthenticateAgain = Callable[[Call], Awaitable[Caller]]
# (call, permission or 0, request or None): raises Denied.
Authorize = Callable[[Call, int, Any], Awaitable[None]]


class StreamWatch:
    """One open stream; `revoked` is why it had to end.

    entered: the caller as the stream was opened, with what is held whatever the request is about.
    about: the request, or None where requests are themselves a stream.
    """

    def __init__(
        self,
        call: Call,
        entered: Caller,
        about: Any,
        authenticate_again: AuthenticateAgain,
        authorize: Authorize,
    ) -> None:
        self.call, self.entered, self.about = call, entered, about
        self.authenticate_again, self.authorize = authenticate_again, authorize
        self.revoked: Exception | None = None

    @asynccontextmanager
    async def until_revoked(self, ending: asyncio.Timeout) -> AsyncIterator[None]:
        """Looks again and again; what is inside is ended by `ending`."""
        looking = asyncio.create_task(self._look_again(ending))
        try:
            yield
        finally:
            await cancelled(looking)

    async def _look_again(self, ending: asyncio.Timeout) -> None:
        failed = 0
        while self.revoked is None:
            await asyncio.sleep(LOOK_AGAIN_S)
            try:
                await self._may_go_on()
                failed = 0
            except (Exhausted, Unavailable, TimedOut) as fault:
                failed += 1
                self.revoked = fault if failed > LOOKS_FAILED_MAX else None
            except Exception as error:
                self.revoked = error
        if not ending.expired():
            ending.reschedule(asyncio.get_running_loop().time())

    async def _may_go_on(self) -> None:
        entered = self.entered
        caller = await self.authenticate_again(self.call)
        now = replace(self.call, caller=caller)
        await self.authorize(now, self.call.access.permission, self.about)
        # Handlers ask once, when they begin, what the caller may see: with less, begin again.
        is_other = (caller.role, caller.is_operator) != (entered.role, entered.is_operator)
        if is_other or not caller.permissions >= entered.permissions:
            raise Conflict(
                "ACCESS_CHANGED",
                "What the caller may do has changed since this stream was opened; open it again.",
                retry_after_s=0.1,
            )
