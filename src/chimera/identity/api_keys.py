"""API keys: chm_<env>_<id>_<secret>_<checksum>.

The id finds the row, the secret (256 random bits, stored as SHA-256) proves the holder, and the
checksum lets scanners and typing mistakes be told without asking the database. A key may do at most
what its owner may do when it is used; its scopes narrow that further, its networks say from where.
What it makes is inside its own scopes and networks, and ends no later than it does.
Rotating gives the key another id and secret; the ones before go on for the overlap and then end by
themselves.
"""

from __future__ import annotations

import re
import secrets
import string
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import orjson
from psycopg.errors import UniqueViolation

from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, Denied, Invalid, NotFound, NotReady, Violation
from chimera.identity.decisions import are_within, network_of
from chimera.identity.endings import CHANGES
from chimera.identity.sessions import lock_person
from chimera.identity.tokens import hash_of
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.rows import enum_text, struct_dict
from chimera.settings import Settings
from chimera.v1.identity_pb2 import (
    ApiKey,
    CreateApiKeyRequest,
    ListApiKeysRequest,
    ListApiKeysResponse,
    RotateApiKeyRequest,
)
from chimera.v1.options_pb2 import Permission

DAYS_DEFAULT, DAYS_MAX = 90, 365
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID_CHARACTERS, SECRET_CHARACTERS, CHECKSUM_CHARACTERS = 12, 43, 6
_KEY = re.compile(
    r"(?P<prefix>chm_(?P<environment>live|test)_(?P<public_id>[0-9A-Za-z]{12}))"
    r"_(?P<secret>[0-9A-Za-z]{43})_(?P<checksum>[0-9A-Za-z]{6})"
)

SELECT_API_KEY = """
    SELECT id, user_id, name, prefix, scopes, source_networks,
           is_active AND expires_at > now() AS is_active, expires_at, last_used_at,
           host(last_used_ip) AS last_used_ip, usage_count, metadata, created_at, rotated_at,
           CASE WHEN previous_public_id IS NOT NULL
                THEN regexp_replace(prefix, '[^_]+$', previous_public_id) END AS previous_prefix,
           previous_expires_at
      FROM identity.api_keys
     WHERE org_id = %(org_id)s::uuid
"""

INSERT_API_KEY = sql(
    Nothing,
    """
    INSERT INTO identity.api_keys
           (id, org_id, user_id, name, public_id, prefix, secret_hash, scopes, source_networks,
            expires_at, metadata)
    VALUES (%(id)s, %(org_id)s, %(user_id)s, %(name)s, %(public_id)s, %(prefix)s, %(secret_hash)s,
            %(scopes)s, %(source_networks)s, %(expires_at)s, %(metadata)s::jsonb)
    """,
)

# An expired key is still there to be looked at, but its name is free.
FREE_NAME = sql(
    Nothing,
    """
    UPDATE identity.api_keys SET is_active = false
     WHERE org_id = %(org_id)s AND user_id = %(user_id)s AND lower(name) = lower(%(name)s)
       AND is_active AND expires_at <= now()
    """,
)

GET_API_KEY = sql(
    ApiKey,
    SELECT_API_KEY
    + """
       AND id = %(api_key_id)s AND (user_id = %(user_id)s OR %(anyones)s)
    """,
)

LOCK_API_KEY = sql(
    ApiKey,
    SELECT_API_KEY
    + """
       AND id = %(api_key_id)s AND user_id = %(user_id)s
       FOR UPDATE
    """,
)

LIST_API_KEYS = sql(
    ApiKey,
    SELECT_API_KEY
    + """
       AND user_id = %(user_id)s::uuid
       AND (%(after)s::uuid IS NULL OR id < %(after)s::uuid)
     ORDER BY id DESC
     LIMIT %(limit)s
    """,
    prepare=False,
)

ROTATE_API_KEY = sql(
    Nothing,
    """
    UPDATE identity.api_keys
       SET previous_public_id = public_id, previous_secret_hash = secret_hash,
           previous_expires_at =
               LEAST(expires_at, clock_timestamp() + make_interval(secs => %(overlap_s)s)),
           public_id = %(public_id)s, prefix = %(prefix)s, secret_hash = %(secret_hash)s,
           expires_at = %(expires_at)s, rotated_at = clock_timestamp()
     WHERE org_id = %(org_id)s AND user_id = %(user_id)s AND id = %(api_key_id)s
    """,
)

REVOKE_API_KEY = sql(
    Nothing,
    """
    UPDATE identity.api_keys SET is_active = false
     WHERE org_id = %(org_id)s AND id = %(api_key_id)s AND (user_id = %(user_id)s OR %(anyones)s)
    """,
)


@dataclass(frozen=True, slots=True, repr=False)
class ParsedKey:
    """A well-formed key; `prefix` may be shown."""

    prefix: str
    environment: str
    public_id: str
    secret: str


def key_environment(settings: Settings) -> str:
    """What stands in the keys of this installation: live or test."""
    return "live" if settings.is_production else "test"


def new_key(environment: str) -> str:
    """A key as it is shown to its owner, once."""
    public_id, secret = _random(ID_CHARACTERS), _random(SECRET_CHARACTERS)
    body = f"chm_{environment}_{public_id}_{secret}"
    return f"{body}_{_checksum(body)}"


def parse_key(text: str) -> ParsedKey | None:
    """None for what no installation has made."""
    found = _KEY.fullmatch(text)
    if found is None or _checksum(text[: -CHECKSUM_CHARACTERS - 1]) != found["checksum"]:
        return None
    return ParsedKey(found["prefix"], found["environment"], found["public_id"], found["secret"])


def _random(characters: int) -> str:
    return "".join(secrets.choice(BASE62) for _ in range(characters))


def _checksum(body: str) -> str:
    rest, text = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_CHARACTERS):
        rest, digit = divmod(rest, 62)
        text = BASE62[digit] + text
    return text


def check_scopes(tx: Tx, scopes: list[int]) -> None:
    """Raises Denied(SCOPE_NOT_HELD) for a scope the caller does not hold now, and when a key makes
    a key without scopes: that would hold all its owner may do."""
    caller = tx.call.caller
    if not scopes and caller.kind == "api_key":
        raise Denied("SCOPE_NOT_HELD", "A key that is made with an API key must name its scopes.")
    for scope in scopes:
        if scope not in caller.permissions:
            name = Permission.Name(scope).removeprefix("PERMISSION_")
            raise Denied(
                "SCOPE_NOT_HELD", f"You do not hold {name} yourself.", facts={"permission": name}
            )


def check_networks(tx: Tx, networks: list[str]) -> list[str]:
    """The networks in canonical form. Raises Invalid(FIELD_INVALID) for what is none, and
    Denied(SCOPE_NOT_HELD) when a key that is bound to networks makes one that is bound less."""
    canonical = []
    for place, text in enumerate(networks):
        try:
            canonical.append(str(network_of(text)))
        except ValueError:
            message = "is not a network such as 192.0.2.0/24 or 2001:db8::/32"
            field = f"source_networks[{place}]"
            violations = [Violation(field, message, "FIELD_INVALID")]
            raise Invalid("FIELD_INVALID", f"{field}: {message}", violations=violations) from None
    held = tx.call.caller.held
    bound = held.networks if held is not None else ()
    if bound and not (canonical and are_within(canonical, bound)):
        raise Denied("SCOPE_NOT_HELD", "A key bound to networks makes keys inside them only.")
    return sorted(set(canonical))


def expiry_of(tx: Tx, request: CreateApiKeyRequest | RotateApiKeyRequest) -> datetime:
    """When the new secret ends. Raises Invalid(FIELD_INVALID) beyond a year from now, and
    Denied(SCOPE_NOT_HELD) when a key makes one that outlasts it."""
    now, held = datetime.now(UTC), tx.call.caller.held
    own_end = held.expires_at if held is not None else None
    if not request.HasField("expires_at"):
        end = now + timedelta(days=DAYS_DEFAULT)
        return min(end, own_end) if own_end else end
    asked = request.expires_at.ToDatetime(UTC)
    if asked > now + timedelta(days=DAYS_MAX):
        message = f"An API key lasts at most {DAYS_MAX} days."
        raise Invalid("FIELD_INVALID", message, violations=[Violation("expires_at", message)])
    if own_end and asked > own_end:
        raise Denied("SCOPE_NOT_HELD", "A key makes no key that outlasts it; ask its owner.")
    return asked


async def create_api_key(
    tx: Tx, request: CreateApiKeyRequest, *, environment: str
) -> tuple[ApiKey, str]:
    """A key of the caller, and its text. Raises Denied(SCOPE_NOT_HELD), Invalid,
    AlreadyExists(API_KEY_NAME_TAKEN)."""
    check_scopes(tx, list(request.scopes))
    await lock_person(tx, tx.call.caller.user_id)
    scopes = [str(enum_text(request, "scopes", scope)) for scope in request.scopes]
    return await insert_api_key(
        tx,
        user_id=tx.call.caller.user_id,
        name=request.name,
        scopes=sorted(scopes),
        source_networks=check_networks(tx, list(request.source_networks)),
        expires_at=expiry_of(tx, request),
        metadata=struct_dict(request.metadata),
        environment=environment,
    )


async def insert_api_key(
    tx: Tx,
    *,
    user_id: str,
    name: str,
    scopes: list[str],
    expires_at: datetime,
    environment: str,
    source_networks: Sequence[str] = (),
    metadata: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[ApiKey, str]:
    """A key of `user_id` in the caller's organisation, and its text. Raises
    AlreadyExists(API_KEY_NAME_TAKEN)."""
    text = new_key(environment)
    parsed = parse_key(text)
    assert parsed is not None
    key_id, org_id = new_id(), tx.call.caller.org_id
    await tx.run(FREE_NAME, org_id=org_id, user_id=user_id, name=name)
    try:
        await tx.run(
            INSERT_API_KEY,
            id=key_id,
            org_id=org_id,
            user_id=user_id,
            name=name,
            public_id=parsed.public_id,
            prefix=parsed.prefix,
            secret_hash=hash_of(parsed.secret),
            scopes=scopes,
            source_networks=list(source_networks),
            expires_at=expires_at,
            metadata=orjson.dumps(dict(metadata)).decode(),
        )
    except UniqueViolation as error:
        if violated(error) != "api_keys_name":
            raise
        raise AlreadyExists(
            "API_KEY_NAME_TAKEN", "You have a live API key of this name; rotate it or revoke it."
        ) from None
    key = await tx.one(
        GET_API_KEY, org_id=org_id, user_id=user_id, api_key_id=key_id, anyones=False
    )
    assert key is not None
    return key, text


def may_see_anyones(tx: Tx) -> bool:
    """Those who manage users see and end their keys, and never their secrets."""
    return tx.call.caller.may(Permission.PERMISSION_USER_MANAGE)


async def get_api_key(tx: Tx, api_key_id: str) -> ApiKey:
    """A key the caller may see. Raises NotFound(API_KEY_NOT_FOUND)."""
    caller = tx.call.caller
    key = await tx.one(
        GET_API_KEY,
        org_id=caller.org_id,
        user_id=caller.user_id,
        api_key_id=api_key_id,
        anyones=may_see_anyones(tx),
    )
    if key is None:
        raise _no_key(api_key_id)
    return key


def _no_key(api_key_id: str) -> NotFound:
    return NotFound("API_KEY_NOT_FOUND", f"There is no API key {api_key_id} for you.")


async def list_api_keys(tx: Tx, pages: Pages, request: ListApiKeysRequest) -> ListApiKeysResponse:
    """One page of somebody's keys, newest first. Raises Denied(PERMISSION_MISSING)."""
    caller = tx.call.caller
    user_id = request.user_id or caller.user_id
    if user_id != caller.user_id and not may_see_anyones(tx):
        raise Denied("PERMISSION_MISSING", "Keys of others are seen by those who manage users.")
    scope = f"{caller.org_id}/{caller.user_id}"
    size, after = pages.page(request, scope)
    rows = await tx.all(
        LIST_API_KEYS,
        org_id=caller.org_id,
        user_id=user_id,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return ListApiKeysResponse(
        api_keys=rows[:size],
        next_page_token=pages.next_token(request, rows, size, "id", scope=scope),
    )


async def rotate_api_key(
    tx: Tx, request: RotateApiKeyRequest, *, environment: str
) -> tuple[ApiKey, str]:
    """The caller's key with a new secret, and its text.

    Raises NotFound(API_KEY_NOT_FOUND), NotReady(API_KEY_NOT_ACTIVE), Denied(SCOPE_NOT_HELD) when the
    key may do more than the caller, who would hold its secret afterwards.
    """
    caller = tx.call.caller
    mine = {"org_id": caller.org_id, "user_id": caller.user_id, "api_key_id": request.api_key_id}
    await lock_person(tx, caller.user_id)
    old = await tx.one(LOCK_API_KEY, **mine)
    if old is None:
        raise _no_key(request.api_key_id)
    if not old.is_active:
        raise NotReady("API_KEY_NOT_ACTIVE", "The key has ended; make a new one.")
    if caller.api_key_id != old.id:
        check_scopes(tx, list(old.scopes))
        check_networks(tx, list(old.source_networks))
    text = new_key(environment)
    parsed = parse_key(text)
    assert parsed is not None
    await tx.run(
        ROTATE_API_KEY,
        **mine,
        overlap_s=request.overlap_s,
        public_id=parsed.public_id,
        prefix=parsed.prefix,
        secret_hash=hash_of(parsed.secret),
        expires_at=expiry_of(tx, request),
    )
    tx.after_commit.append(CHANGES.note)
    return await get_api_key(tx, old.id), text


async def revoke_api_key(tx: Tx, api_key_id: str) -> ApiKey:
    """Ends a key; one that had ended stays so. Raises NotFound(API_KEY_NOT_FOUND)."""
    caller = tx.call.caller
    await tx.run(
        REVOKE_API_KEY,
        org_id=caller.org_id,
        user_id=caller.user_id,
        api_key_id=api_key_id,
        anyones=may_see_anyones(tx),
    )
    return await get_api_key(tx, api_key_id)
