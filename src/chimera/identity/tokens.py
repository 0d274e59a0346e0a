"""Tokens: access tokens that any process of the installation can check, and refresh tokens.

Access tokens are JWTs of type at+jwt (RFC 9068) under EdDSA (RFC 8037) and nothing else, with keys
from our own set. Refresh tokens are 256 random bits of which only the SHA-256 is stored.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import orjson
import psycopg
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwt
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry

from chimera.core import Core
from chimera.faults import Fault, Unauthenticated
from chimera.identity.endings import CHANGES
from chimera.identity.signing_keys import PresentKeys, SigningKeys, kid_text, public_part
from chimera.ids import new_id
from chimera.keyring import VaultError
from chimera.pools import Database

log = structlog.get_logger("chimera.identity")

ALGORITHM = "EdDSA"
TYPE = "at+jwt"
AUDIENCE = "chimera"
# Hosts of one installation may disagree on the time by this much.
SKEW_S = 5
# A rotation of the signing keys is noticed within so long.
FRESH_S = 2.0
TOKEN_CHARACTERS_MAX = 2000
REFRESH_PREFIX = "chr_"
_NONCE_BYTES = 12


class _OneAlgorithm(JWSRegistry):
    """Knows EdDSA only: a token that names another algorithm is refused before any key is used."""

    def get_alg(self, name: str) -> Any:
        if name != ALGORITHM:
            raise UnsupportedAlgorithmError(f"only {ALGORITHM}")
        return self.algorithms[ALGORITHM]


_REGISTRY = _OneAlgorithm()


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified access token says. `expires_at` is in Unix seconds."""

    user_id: str
    org_id: str
    session_id: str
    authz_epoch: int
    expires_at: int
    kid: str


class Tokens:
    """Issues access tokens with the signing key and verifies those of any published key.

    `keys` are public and by id. Keys from the database are read anew every
    FRESH_S, so that a rotation is followed without a restart.
    """

    def __init__(self, raw_keys: list[bytes], *, issuer: str, lifetime_s: int) -> None:
        self.keys = {kid_text(public): public_key(public) for public in map(public_part, raw_keys)}
        self._signer = _Signer(raw_keys[-1])
        self.issuer, self.lifetime_s = issuer, lifetime_s
        self._signing_keys: SigningKeys | None = None
        self._read_at, self._changes_before = 0.0, CHANGES.count
        self._reading = asyncio.Lock()

    @classmethod
    async def opened(cls, core: Core) -> Tokens:
        """Those of this process, with the keys of the installation; made when there are none."""
        known = _OF_PROCESS.get(core.db)
        if known is not None:
            return known
        signing_keys = await SigningKeys.opened(core)
        present = await signing_keys.read()
        settings = core.settings
        tokens = cls([present.raw], issuer=settings.issuer, lifetime_s=settings.access_token_s)
        tokens._signing_keys = signing_keys
        tokens._take(present)
        return _OF_PROCESS.setdefault(core.db, tokens)

    def _take(self, present: PresentKeys) -> None:
        self.keys = {kid_text(public): public_key(public) for public in present.public}
        self._signer = _Signer(present.raw)

    @property
    def _is_fresh(self) -> bool:
        return self._read_at + FRESH_S > time.monotonic() and self._changes_before == CHANGES.count

    async def keep_fresh(self) -> None:
        """Reads the keys anew when that is due, or this process has rotated them; goes on with
        those it has when it cannot."""
        if self._signing_keys is None or self._is_fresh:
            return
        async with self._reading:
            if self._is_fresh:
                return
            began, changes = time.monotonic(), CHANGES.count
            try:
                self._take(await self._signing_keys.read())
            except (Fault, VaultError, psycopg.Error) as error:
                log.warning("signing_keys.not_read", error=type(error).__name__)
            self._read_at, self._changes_before = began, changes

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The JWKS document (RFC 7517): public parts only."""
        return {
            "keys": [
                {
                    "kty": "OKP",
                    "crv": "Ed25519",
                    "x": str(key.dict_value["x"]),
                    "kid": kid,
                    "use": "sig",
                    "alg": ALGORITHM,
                }
                for kid, key in self.keys.items()
            ]
        }

    def issue(self, *, user_id: str, org_id: str, session_id: str, authz_epoch: int) -> Issued:
        """An access token for a session, from now on."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": user_id,
            "sid": session_id,
            "jti": new_id(),
            "org": org_id,
            "authz_epoch": authz_epoch,
            "iat": now,
            "exp": now + self.lifetime_s,
        }
        return Issued(self._signer.sign(claims), now + self.lifetime_s)

    def verify(self, token: str) -> Claims:
        """Raises Unauthenticated(TOKEN_EXPIRED), or CREDENTIALS_INVALID for all else."""
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise _invalid()
        try:
            read = jwt.decode(token, self._key_of, registry=_REGISTRY)
            claims = read.claims
            if (
                read.header.get("typ") != TYPE
                or claims["iss"] != self.issuer
                or claims["aud"] != AUDIENCE
                or claims["iat"] > time.time() + SKEW_S
            ):
                raise _invalid()
            verified = Claims(
                str(UUID(claims["sub"])),
                str(UUID(claims["org"])),
                str(UUID(claims["sid"])),
                int(claims["authz_epoch"]),
                int(claims["exp"]),
                str(read.header["kid"]),
            )
        except (JoseError, ValueError, TypeError, KeyError, AttributeError):
            raise _invalid() from None
        check_not_expired(verified)
        return verified

    def _key_of(self, token: Any) -> OKPKey:
        return self.keys[token.headers()["kid"]]


class _Signer:
    """Makes tokens with one key: compact JWS (RFC 7515), whose header is always the same."""

    def __init__(self, raw: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(raw)
        header = {"alg": ALGORITHM, "typ": TYPE, "kid": kid_text(public_part(raw))}
        self._header = _base64(orjson.dumps(header))

    def sign(self, claims: dict[str, Any]) -> str:
        unsigned = f"{self._header}.{_base64(orjson.dumps(claims))}"
        return f"{unsigned}.{_base64(self._key.sign(unsigned.encode()))}"


# By the database of the process: its parts know a rotation at the same moment.
_OF_PROCESS: WeakKeyDictionary[Database, Tokens] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True, repr=False)
class Issued:
    """An access token and when it ends, in Unix seconds."""

    token: str
    expires_at: int


def check_not_expired(claims: Claims) -> None:
    """Raises Unauthenticated(TOKEN_EXPIRED)."""
    if claims.expires_at + SKEW_S <= time.time():
        raise Unauthenticated("TOKEN_EXPIRED", "The access token has expired; refresh the session.")


def _invalid() -> Unauthenticated:
    return Unauthenticated("CREDENTIALS_INVALID", "These credentials are not valid.")


def public_key(public: bytes) -> OKPKey:
    """The public part of an Ed25519 key, 32 raw bytes; its id is derived from it."""
    fields: dict[str, str | list[str]] = {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": _base64(public),
        "kid": kid_text(public),
    }
    return OKPKey.import_key(fields)


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def new_refresh_token() -> str:
    """256 random bits; the prefix lets secret scanners find one that leaked."""
    return REFRESH_PREFIX + secrets.token_urlsafe(32)


def hash_of(token: str) -> bytes:
    """What is stored of a token or secret with 256 random bits."""
    return hashlib.sha256(token.encode()).digest()


def seal_successor(presented: str, successor: str, session_id: str) -> bytes:
    """The successor so that only who holds the presented token can read it: nonce, AES-256-GCM."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _successor_cipher(presented).encrypt(
        nonce, successor.encode(), session_id.encode()
    )


def open_successor(presented: str, sealed: bytes, session_id: str) -> str:
    """The inverse. Raises ValueError when it was sealed for another token or session."""
    nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        return _successor_cipher(presented).decrypt(nonce, body, session_id.encode()).decode()
    except InvalidTag:
        raise ValueError("sealed for another token") from None


def _successor_cipher(presented: str) -> AESGCM:
    derive = HKDF(SHA256(), 32, salt=None, info=b"chimera refresh token successor v1")
    return AESGCM(derive.derive(presented.encode()))
