"""Challenges: one factor was shown (a password, a sign-in elsewhere), the second is asked for.

What the session will be opened with is kept beside the token, so that nobody can change it on the way.
"""

from __future__ import annotations

import time

from google.protobuf.timestamp_pb2 import Timestamp

from chimera.db import Tx
from chimera.identity.one_time import insert_token, new_token
from chimera.identity.sessions import Device
from chimera.v1.identity_pb2 import LoginChallenge

CHALLENGE_S, CHALLENGE_ATTEMPTS = 300, 5


async def insert_challenge(tx: Tx, authz_epoch: int, device: Device) -> LoginChallenge:
    """For tx.call.caller; `Logins.complete` takes it together with a code."""
    token, caller = new_token(), tx.call.caller
    await insert_token(
        tx,
        token=token,
        purpose="login",
        org_id=caller.org_id,
        user_id=caller.user_id,
        lifetime_s=CHALLENGE_S,
        facts={
            "authz_epoch": authz_epoch,
            # What the release before reads; the session knows better.
            "restriction": "",
            "device_id": device.known_id,
            "device_name": device.name,
            "device_platform": device.platform,
        },
    )
    expires_at = Timestamp(seconds=int(time.time()) + CHALLENGE_S)
    return LoginChallenge(token=token, expires_at=expires_at)
