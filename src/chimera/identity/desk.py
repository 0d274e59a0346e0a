"""The desk: what all services of this context share in one server process.

One hasher, or each service would hash on as many threads as the host has; one throttle, whose queues
are in the process.
"""

from __future__ import annotations

import asyncio

from chimera.core import Core
from chimera.identity.enrolment import Enrolment
from chimera.identity.logins import Logins
from chimera.identity.passwords import Hasher
from chimera.identity.second_factor import SecondFactor
from chimera.identity.sessions import NewSession, session_tokens
from chimera.identity.throttle import Throttle
from chimera.identity.tokens import Tokens
from chimera.v1.identity_pb2 import SessionTokens


class Desk:
    """See `desk_of`."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.hasher = Hasher(core.settings)
        self.throttle = Throttle(core.redis)
        self.factor = SecondFactor(core)
        self.logins = Logins(core, self.hasher, self.throttle)
        self.enrolment = Enrolment(core, self.factor, self.throttle)
        self._tokens: Tokens | None = None
        self._opening = asyncio.Lock()

    async def open_tokens(self) -> Tokens:
        """The installation's signing keys, read once."""
        async with self._opening:
            if self._tokens is None:
                self._tokens = await Tokens.opened(self.core)
        await self._tokens.keep_fresh()
        return self._tokens

    async def tokens_of(self, session: NewSession | None) -> SessionTokens | None:
        """What the client gets for a new session."""
        if session is None:
            return None
        access = (await self.open_tokens()).issue(
            user_id=session.user.id,
            org_id=session.org_id,
            session_id=session.session_id,
            authz_epoch=session.authz_epoch,
        )
        return session_tokens(access, session.refresh_token, session.refresh_expires_at)


def desk_of(core: Core) -> Desk:
    """The one desk of the process that `core` is of."""
    desk: Desk = core.shared.get(Desk) or core.shared.setdefault(Desk, Desk(core))
    return desk
