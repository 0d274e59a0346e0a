"""How a delivery proves where it comes from: the scheme of Standard Webhooks, so that receivers can
use its libraries. Signed is `id.timestamp.body` with HMAC-SHA256; while a secret is being rotated
there are two signatures, and one that fits is enough.
"""

from __future__ import annotations

import base64
import hmac
import secrets as randomness
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32


def new_secret() -> bytes:
    return randomness.token_bytes(SECRET_BYTES)


def secret_text(secret: bytes) -> str:
    """As receivers are given it."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def signature(secret: bytes, event_id: str, at_s: int, body: bytes) -> str:
    """at_s: seconds since 1970, as in the webhook-timestamp header; receivers refuse old ones."""
    signed = f"{event_id}.{at_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()


def signed_headers(
    secrets: Sequence[bytes], event_id: str, at_s: int, body: bytes
) -> dict[str, str]:
    """The three headers; `secrets`: every one that is valid now, newest first."""
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(
            signature(secret, event_id, at_s, body) for secret in secrets
        ),
    }
