"""ID tokens: what a provider says about who signed in (OpenID Connect Core 1.0, section 3.1.3.7)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from chimera.federation.fetching import failed

# Asymmetric ones only: with a shared secret, whoever knows our client secret could sign.
# Algorithm -> (key type, hash of at_hash).
ALGORITHMS = {
    "RS256": ("RSA", "sha256"),
    "RS384": ("RSA", "sha384"),
    "RS512": ("RSA", "sha512"),
    "PS256": ("RSA", "sha256"),
    "ES256": ("EC", "sha256"),
    "ES384": ("EC", "sha384"),
    "EdDSA": ("OKP", "sha512"),
    "Ed25519": ("OKP", "sha512"),
}
KEY_TYPES: dict[str, Any] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
SKEW_S = 60
# The token came a moment ago, straight from the provider.
AGE_MAX_S = 600
TOKEN_CHARACTERS_MAX = 20_000
_REGISTRY = JWSRegistry(algorithms=list(ALGORITHMS))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signed in. `email` is empty unless the provider says it is verified. How they did: `methods`
    and `context` are the claims amr and acr; `authenticated_at` is when, in Unix seconds, 0 when the
    provider does not tell."""

    issuer: str
    subject: str
    email: str = ""
    display_name: str = ""
    username: str = ""
    picture_url: str = ""
    methods: tuple[str, ...] = ()
    context: str = ""
    authenticated_at: float = 0.0


def header_of(token: str) -> dict[str, Any]:
    """The header, unverified. Raises Unauthenticated(SIGN_IN_FAILED)."""
    try:
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise ValueError
        head = token.partition(".")[0]
        header = orjson.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
        if not isinstance(header, dict):
            raise ValueError
    except ValueError:
        raise failed("the ID token cannot be read") from None
    return header


def read_id_token(
    token: str,
    keys: list[dict[str, Any]],
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    access_token: str,
    algorithms: Collection[str],
) -> Identity:
    """The identity in a token that is sound in every respect. algorithms: those the provider says
    it uses. Raises Unauthenticated(SIGN_IN_FAILED)."""
    header = header_of(token)
    algorithm = str(header.get("alg"))
    if algorithm not in ALGORITHMS or algorithm not in algorithms:
        raise failed("the ID token is signed by an algorithm that is not accepted")
    if str(header.get("typ", "JWT")).upper() != "JWT":
        raise failed("the token is no ID token")
    key = _key_for(keys, header.get("kid"), ALGORITHMS[algorithm][0])
    try:
        claims = jwt.decode(token, key, registry=_REGISTRY).claims
    except (JoseError, ValueError, TypeError, KeyError):
        raise failed("the ID token's signature is not the provider's") from None
    _check_claims(claims, issuer=issuer, client_id=client_id, nonce=nonce)
    at_hash = claims.get("at_hash")
    if at_hash is not None and at_hash != _at_hash(access_token, algorithm):
        raise failed("the ID token belongs to another access token")
    return identity_of(claims, issuer)


def _key_for(keys: list[dict[str, Any]], kid: object, kind: str) -> Any:
    usable = [key for key in keys if key.get("kty") == kind and key.get("use", "sig") == "sig"]
    matching = [key for key in usable if key.get("kid") == kid] if kid is not None else usable
    if len(matching) != 1:
        raise failed("the ID token's key is not among the provider's")
    try:
        return KEY_TYPES[kind].import_key(matching[0])
    except (JoseError, ValueError, TypeError, KeyError):
        raise failed("the provider's key cannot be read") from None


def _check_claims(claims: Mapping[str, Any], *, issuer: str, client_id: str, nonce: str) -> None:
    now = time.time()
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    expires, issued = _seconds(claims, "exp"), _seconds(claims, "iat")
    if claims.get("iss") != issuer:
        raise failed("the ID token is of another issuer")
    if client_id not in audiences:
        raise failed("the ID token is for somebody else")
    if claims.get("azp", client_id) != client_id or (len(audiences) > 1 and "azp" not in claims):
        raise failed("the ID token was given to somebody else")
    if expires + SKEW_S <= now:
        raise failed("the ID token has expired")
    if not now - AGE_MAX_S <= issued <= now + SKEW_S:
        raise failed("the ID token was not issued just now")
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(), nonce.encode()):
        raise failed("the ID token answers another sign-in")


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    """A time in Unix seconds; long ago when it is missing or none."""
    value = claims.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and value is not None else float("-inf")


def _at_hash(access_token: str, algorithm: str) -> str:
    digest = hashlib.new(ALGORITHMS[algorithm][1], access_token.encode()).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()


def identity_of(claims: Mapping[str, Any], issuer: str) -> Identity:
    """From the claims of an ID token. Raises Unauthenticated(SIGN_IN_FAILED) without a subject."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise failed("the provider does not say who it is")
    is_verified = claims.get("email_verified") is True
    methods, authenticated_at = claims.get("amr"), _seconds(claims, "auth_time")
    return Identity(
        issuer=issuer,
        subject=subject,
        email=_text(claims, "email", 320) if is_verified else "",
        display_name=_text(claims, "name", 200),
        username=_text(claims, "preferred_username", 64),
        picture_url=_text(claims, "picture", 2000),
        methods=tuple(m for m in methods if isinstance(m, str))
        if isinstance(methods, list)
        else (),
        context=_text(claims, "acr", 200),
        authenticated_at=authenticated_at if 0 < authenticated_at <= time.time() + SKEW_S else 0.0,
    )


def _text(claims: Mapping[str, Any], name: str, characters_max: int) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) and len(value) <= characters_max else ""
