"""API keys: chm_<env>_<id>_<secret>_<checksum>.

The id finds the row, the secret (256 random bits, stored as SHA-256) proves the holder, and the
checksum lets scanners and typing mistakes be told without asking the database. A key may do at most
what its owner may do when it is used; its scopes narrow that further.
"""

from __future__ import annotations

import re
import secrets
import string
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from chimera.db import Nothing, Tx, sql
from chimera.faults import Denied, Invalid, NotFound, Violation
from chimera.identity.tokens import hash_of
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.rows import enum_text
from chimera.settings import Settings
from chimera.v1.identity_pb2 import (
    ApiKey,
    CreateApiKeyRequest,
    ListApiKeysRequest,
    ListApiKeysResponse,
)
from chimera.v1.options_pb2 import Permission

DAYS_DEFAULT, DAYS_MAX = 90, 365
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID_CHARACTERS, SECRET_CHARACTERS, CHECKSUM_CHARACTERS = 12, 43, 6
_KEY = re.compile(
    r"(?P<prefix>chm_(?P<environment>live|test)_(?P<public_id>[0-9A-Za-z]{12}))"
    r"_(?P<secret>[0-9A-Za-z]{43})_(?P<checksum>[0-9A-Za-z]{6})"
)

INSERT_API_KEY = sql(
    Nothing,
    """
    INSERT INTO identity.api_keys
           (id, org_id, user_id, name, public_id, prefix, secret_hash, scopes, expires_at)
    VALUES (%(id)s, %(org_id)s, %(user_id)s, %(name)s, %(public_id)s, %(prefix)s, %(secret_hash)s,
            %(scopes)s, %(expires_at)s)
    """,
)

GET_API_KEY = sql(
    ApiKey,
    """
    SELECT id, name, prefix, scopes, is_active AND expires_at > now() AS is_active, expires_at,
           last_used_at, usage_count, created_at
      FROM identity.api_keys
     WHERE org_id = %(org_id)s AND user_id = %(user_id)s AND id = %(api_key_id)s
    """,
)

LIST_API_KEYS = sql(
    ApiKey,
    """
    SELECT id, name, prefix, scopes, is_active AND expires_at > now() AS is_active, expires_at,
           last_used_at, usage_count, created_at
      FROM identity.api_keys
     WHERE org_id = %(org_id)s AND user_id = %(user_id)s
       AND (%(after)s::uuid IS NULL OR id < %(after)s::uuid)
     ORDER BY id DESC
     LIMIT %(limit)s
    """,
    prepare=False,
)

REVOKE_API_KEY = sql(
    Nothing,
    """
    UPDATE identity.api_keys SET is_active = false
     WHERE org_id = %(org_id)s AND user_id = %(user_id)s AND id = %(api_key_id)s
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


def expiry_of(request: CreateApiKeyRequest) -> datetime:
    """When the new key ends. Raises Invalid(FIELD_INVALID) beyond a year from now."""
    now = datetime.now(UTC)
    if not request.HasField("expires_at"):
        return now + timedelta(days=DAYS_DEFAULT)
    asked = request.expires_at.ToDatetime(UTC)
    if asked > now + timedelta(days=DAYS_MAX):
        message = f"An API key lasts at most {DAYS_MAX} days."
        raise Invalid("FIELD_INVALID", message, violations=[Violation("expires_at", message)])
    return asked


async def create_api_key(
    tx: Tx, request: CreateApiKeyRequest, *, environment: str
) -> tuple[ApiKey, str]:
    """A key of the caller, and its text. Raises Denied(SCOPE_NOT_HELD), Invalid."""
    check_scopes(tx, list(request.scopes))
    scopes = [str(enum_text(request, "scopes", scope)) for scope in request.scopes]
    return await insert_api_key(
        tx,
        user_id=tx.call.caller.user_id,
        name=request.name,
        scopes=sorted(scopes),
        expires_at=expiry_of(request),
        environment=environment,
    )


async def insert_api_key(
    tx: Tx, *, user_id: str, name: str, scopes: list[str], expires_at: datetime, environment: str
) -> tuple[ApiKey, str]:
    """A key of `user_id` in the caller's organisation, and its text."""
    text = new_key(environment)
    parsed = parse_key(text)
    assert parsed is not None
    key_id, org_id = new_id(), tx.call.caller.org_id
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
        expires_at=expires_at,
    )
    key = await tx.one(GET_API_KEY, org_id=org_id, user_id=user_id, api_key_id=key_id)
    assert key is not None
    return key, text


async def get_api_key(tx: Tx, api_key_id: str) -> ApiKey:
    """A key of the caller. Raises NotFound(API_KEY_NOT_FOUND)."""
    caller = tx.call.caller
    key = await tx.one(
        GET_API_KEY, org_id=caller.org_id, user_id=caller.user_id, api_key_id=api_key_id
    )
    if key is None:
        raise NotFound("API_KEY_NOT_FOUND", f"You have no API key {api_key_id}.")
    return key


async def list_api_keys(tx: Tx, pages: Pages, request: ListApiKeysRequest) -> ListApiKeysResponse:
    """One page of the caller's keys, newest first."""
    caller = tx.call.caller
    scope = f"{caller.org_id}/{caller.user_id}"
    size, after = pages.page(request, scope)
    rows = await tx.all(
        LIST_API_KEYS,
        org_id=caller.org_id,
        user_id=caller.user_id,
        after=after[0] if after else None,
        limit=size + 1,
    )
    return ListApiKeysResponse(
        api_keys=rows[:size],
        next_page_token=pages.next_token(request, rows, size, "id", scope=scope),
    )


async def revoke_api_key(tx: Tx, api_key_id: str) -> ApiKey:
    """Ends a key of the caller; one that had ended stays so. Raises NotFound."""
    caller = tx.call.caller
    await tx.run(
        REVOKE_API_KEY, org_id=caller.org_id, user_id=caller.user_id, api_key_id=api_key_id
    )
    return await get_api_key(tx, api_key_id)
