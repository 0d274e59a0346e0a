"""Secret values of rows as they are stored, in a draft and in the frozen plan of a run: encrypted.

A sealed value stands in its row in the place of the value, as {"$sealed": text}. Its key is the
installation's (ops.secrets, under the vault's master key), so a copy of the database, and the plan in a
bundle of evidence, tell nothing. It opens only as this variable of this template in this organisation;
nobody can hand in one that was read elsewhere (campaigns/secrecy.py).

AES-256-GCM with random nonces (NIST SP 800-38D), a key of its own for each organisation.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chimera.keyring import VaultError

MARK = "$sealed"
NONCE_BYTES = 12


def is_sealed(value: Any) -> bool:
    return isinstance(value, Mapping) and MARK in value


class Seals:
    """Seals and opens values of one organisation. keys: by their names; new values get `newest`."""

    def __init__(self, keys: Mapping[str, AESGCM], newest: str) -> None:
        self._keys, self._newest = keys, newest

    def seal(self, template_id: str, variable: str, value: Any) -> dict[str, str]:
        """value: plain JSON."""
        nonce = os.urandom(NONCE_BYTES)
        place = _place(template_id, variable)
        body = nonce + self._keys[self._newest].encrypt(nonce, orjson.dumps(value), place)
        return {MARK: f"{self._newest}:{base64.b64encode(body).decode()}"}

    def open(self, template_id: str, variable: str, sealed: Mapping[str, str]) -> Any:
        """Raises VaultError for what was sealed elsewhere, or altered."""
        name, _colon, text = sealed[MARK].partition(":")
        try:
            body = base64.b64decode(text, validate=True)
            nonce, rest = body[:NONCE_BYTES], body[NONCE_BYTES:]
            place = _place(template_id, variable)
            return orjson.loads(self._keys[name].decrypt(nonce, rest, place))
        except (KeyError, ValueError, InvalidTag):
            raise VaultError("the sealed value does not open in this place") from None

    def opened(self, template_id: str, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The rows with their values in the clear; the same ones when none is sealed."""
        if not any(is_sealed(value) for row in rows for value in row.values()):
            return rows
        return [
            {
                name: self.open(template_id, name, value) if is_sealed(value) else value
                for name, value in row.items()
            }
            for row in rows
        ]


class RowSeals:
    """The seals of an installation."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """keys: oldest first."""
        self._keys = {hashlib.sha256(b"row-secrets" + key).hexdigest()[:8]: key for key in keys}
        self._of: dict[str, Seals] = {}

    def of(self, org_id: str) -> Seals:
        found = self._of.get(org_id)
        if found is None:
            keys = {
                name: AESGCM(hmac.digest(key, b"row-secrets/" + org_id.encode(), "sha256"))
                for name, key in self._keys.items()
            }
            found = self._of[org_id] = Seals(keys, next(reversed(keys)))
        return found


def _place(template_id: str, variable: str) -> bytes:
    return f"{template_id}/{variable}".encode()
