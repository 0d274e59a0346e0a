"""The flow: from a URL for the browser to a proven identity (authorization code, PKCE S256)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import asdict, dataclass, field
from datetime import datetime
from urllib.parse import quote_plus, urlencode

import orjson

from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, sql
from chimera.faults import Invalid, Unauthenticated, Violation
from chimera.federation.fetching import Endpoints, Fetcher, failed
from chimera.federation.id_tokens import Identity, header_of, read_id_token
from chimera.federation.provider import Provider, get_provider, no_provider
from chimera.identity.tokens import hash_of, open_successor, seal_successor
from chimera.v1.federation_pb2 import SignInAnswer

HANDLE_PREFIX = "chs_"
LASTS_S = 600
PURPOSE = "sign-in"
SCOPES = {
    "google": "openid email profile",
    "oidc": "openid email profile",
    "github": "read:user user:email",
}


@dataclass(frozen=True, slots=True)
class Pending:
    """A sign-in under way. link_user_id and link_org_id name who wants to link, or are empty."""

    provider_id: str
    issuer: str
    client_id: str
    redirect_uri: str
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    link_user_id: str = ""
    link_org_id: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """What the client gets; the handle stays with it."""

    authorization_url: str
    expires_at: datetime
    handle: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proven:
    """Who came back from the provider."""

    provider: Provider
    identity: Identity

    @property
    def second_factor(self) -> str:
        """By which claim the provider says that it has asked for a second factor; "" when it does not,
        or the organisation does not believe it."""
        provider, identity = self.provider, self.identity
        for method in identity.methods:
            if method in provider.second_factor_amr:
                return f"amr {method}"
        is_believed = identity.context in provider.second_factor_acr
        return f"acr {identity.context}" if is_believed else ""


INSERT_SIGN_IN = sql(
    datetime,
    """
    INSERT INTO identity.sign_ins (handle_hash, sealed, expires_at)
    VALUES (%(handle_hash)s, %(sealed)s, clock_timestamp() + make_interval(secs => %(lasts_s)s))
    RETURNING expires_at
    """,
)
TAKE_SIGN_IN = sql(
    bytes,
    """
    DELETE FROM identity.sign_ins
     WHERE handle_hash = %(handle_hash)s AND expires_at > clock_timestamp()
    RETURNING sealed
    """,
)
PURGE_SIGN_INS = sql(Nothing, "DELETE FROM identity.sign_ins WHERE expires_at < clock_timestamp()")


async def purge_sign_ins(core: Core) -> int:
    """A worker's task: those that nobody finished."""
    async with core.db.begin(Call.by_worker("federation.purge_sign_ins")) as tx:
        return await tx.run(PURGE_SIGN_INS)


def state_of(handle: str) -> str:
    """What the browser carries: says nothing about the handle, and nobody finishes with it alone."""
    return _base64(hashlib.sha256(b"chimera sign-in state\0" + handle.encode()).digest())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Flow:
    """Of one server process."""

    def __init__(self, core: Core) -> None:
        self.core, self.db = core, core.db
        self.fetcher = Fetcher(core)

    async def start(
        self, call: Call, provider_id: str, redirect_uri: str, *, link: bool
    ) -> Started:
        """Raises NotFound(SIGN_IN_PROVIDER_NOT_FOUND), Invalid(FIELD_INVALID) for a redirect_uri
        that is not registered letter by letter, and what the provider's discovery raises."""
        provider = await get_provider(self.core, provider_id)
        caller = call.caller
        if link and provider.org_id not in ("", caller.org_id):
            raise no_provider()
        if redirect_uri not in provider.redirect_uris:
            violations = [Violation("redirect_uri", "is not registered", "FIELD_INVALID")]
            raise Invalid("FIELD_INVALID", "redirect_uri: is not registered", violations=violations)
        endpoints = await self.fetcher.endpoints_of(provider)
        pending = Pending(
            provider_id=provider.id,
            issuer=provider.issuer,
            client_id=provider.client_id,
            redirect_uri=redirect_uri,
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(48),
            link_user_id=caller.user_id if link else "",
            link_org_id=caller.org_id if link else "",
        )
        handle = HANDLE_PREFIX + secrets.token_urlsafe(32)
        sealed = seal_successor(handle, orjson.dumps(asdict(pending)).decode(), PURPOSE)
        async with self.db.begin(_unbound(call)) as tx:
            expires_at = await tx.one(
                INSERT_SIGN_IN, handle_hash=hash_of(handle), sealed=sealed, lasts_s=LASTS_S
            )
        assert expires_at is not None
        return Started(_authorization_url(provider, endpoints, pending, handle), expires_at, handle)

    async def finish(self, call: Call, answer: SignInAnswer, *, link: bool) -> Proven:
        """Raises Unauthenticated(SIGN_IN_STATE_INVALID, SIGN_IN_FAILED), NotFound, Unavailable."""
        if not hmac.compare_digest(answer.state.encode(), state_of(answer.handle).encode()):
            raise _no_sign_in()
        async with self.db.begin(_unbound(call)) as tx:
            # Gone whatever comes of it: a second try begins at the start.
            sealed = await tx.one(TAKE_SIGN_IN, handle_hash=hash_of(answer.handle))
        if sealed is None:
            raise _no_sign_in()
        pending = Pending(**orjson.loads(open_successor(answer.handle, sealed, PURPOSE)))
        caller = call.caller
        wanted = (caller.user_id, caller.org_id) if link else ("", "")
        if (pending.link_user_id, pending.link_org_id) != wanted:
            raise _no_sign_in()
        provider = await get_provider(self.core, pending.provider_id)
        if (provider.issuer, provider.client_id) != (pending.issuer, pending.client_id):
            raise _no_sign_in()
        endpoints = await self.fetcher.endpoints_of(provider)
        if answer.iss != provider.issuer and (answer.iss or endpoints.sends_iss):
            raise failed("the answer is of another issuer")
        if answer.error or not answer.code:
            raise failed("the provider sent no code")
        tokens = await self._exchanged(provider, endpoints, pending, answer.code)
        if provider.kind == "github":
            identity = await self._github_identity(provider, endpoints, tokens["access_token"])
        else:
            identity = await self._oidc_identity(provider, endpoints, pending, tokens)
        return Proven(provider, identity)

    async def _exchanged(
        self, provider: Provider, endpoints: Endpoints, pending: Pending, code: str
    ) -> dict[str, str]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": pending.redirect_uri,
            "code_verifier": pending.verifier,
        }
        headers = {}
        if endpoints.basic_auth:
            # RFC 6749, section 2.3.1: both parts are form-encoded first.
            pair = f"{quote_plus(provider.client_id)}:{quote_plus(provider.client_secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": provider.client_id, "client_secret": provider.client_secret}
        answer = await self.fetcher.ask("POST", endpoints.token, form=form, headers=headers)
        tokens = {name: value for name, value in answer.items() if isinstance(value, str)}
        if "access_token" not in tokens or tokens.get("token_type", "").lower() != "bearer":
            raise failed("the provider gave no token for the code")
        return tokens

    async def _oidc_identity(
        self, provider: Provider, endpoints: Endpoints, pending: Pending, tokens: dict[str, str]
    ) -> Identity:
        token = tokens.get("id_token", "")
        kid = header_of(token).get("kid") if token else None
        return read_id_token(
            token,
            await self.fetcher.keys_of(endpoints, kid if isinstance(kid, str) else None),
            issuer=provider.issuer,
            client_id=provider.client_id,
            nonce=pending.nonce,
            access_token=tokens["access_token"],
            algorithms=endpoints.algorithms,
        )

    async def _github_identity(
        self, provider: Provider, endpoints: Endpoints, access_token: str
    ) -> Identity:
        """By the number of the account: login names change hands."""
        headers = {
            "Authorization": f"Bearer {access_token}",
            "Accept": "application/vnd.github+json",
        }
        user = await self.fetcher.ask("GET", endpoints.user_uri, headers=headers)
        number = user.get("id")
        if not isinstance(number, int) or isinstance(number, bool):
            raise failed("the provider does not say who it is")
        found = await self.fetcher.ask("GET", f"{endpoints.user_uri}/emails", headers=headers)
        email = next(
            (
                str(one.get("email"))
                for one in found.get("items", [])
                if isinstance(one, dict) and one.get("primary") and one.get("verified") is True
            ),
            "",
        )
        return Identity(
            issuer=provider.issuer,
            subject=str(number),
            email=email[:320],
            display_name=str(user.get("name") or "")[:200],
            username=str(user.get("login") or "")[:64],
            picture_url=str(user.get("avatar_url") or "")[:2000],
        )


def _unbound(call: Call) -> Call:
    """A transaction about nobody's data, which declares and keeps nothing."""
    return Call.by_worker(call.method, seconds=max(0.1, call.seconds_left))


def _no_sign_in() -> Unauthenticated:
    return Unauthenticated(
        "SIGN_IN_STATE_INVALID", "This sign-in is unknown, used or too old; start again."
    )


def _authorization_url(
    provider: Provider, endpoints: Endpoints, pending: Pending, handle: str
) -> str:
    challenge = _base64(hashlib.sha256(pending.verifier.encode()).digest())
    query = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": pending.redirect_uri,
        "scope": SCOPES[provider.kind],
        "state": state_of(handle),
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    if provider.kind != "github":
        query["nonce"] = pending.nonce
    if provider.second_factor_acr:
        query["acr_values"] = " ".join(provider.second_factor_acr)
    # A query of the endpoint's own is kept (RFC 6749, section 3.1).
    joint = "&" if "?" in endpoints.authorization else "?"
    return f"{endpoints.authorization}{joint}{urlencode(query)}"
