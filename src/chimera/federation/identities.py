"""Linked identities: who may come in by whom, adding one and taking one away."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from psycopg.errors import UniqueViolation

from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.call import Call, Caller
from chimera.core import Core
from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, NotFound, NotReady, Unauthenticated
from chimera.federation.flow import Proven
from chimera.federation.provider import installed
from chimera.identity.opening import add_user_without_password, open_session, user_name_from
from chimera.identity.sessions import NewSession, lock_person, restriction_of
from chimera.ids import new_id
from chimera.settings import Settings
from chimera.v1.federation_pb2 import LinkedIdentity
from chimera.v1.identity_pb2 import LoginChallenge, User


@dataclass(frozen=True, slots=True)
class Known:
    """Whose an identity is."""

    linked_identity_id: str
    user_id: str
    org_id: str
    role: str
    state: str
    authz_epoch: int


@dataclass(frozen=True, slots=True, repr=False)
class SignedIn:
    """Somebody with a new session, or with the challenge for one; for its owner only. `restriction` as
    on Caller."""

    user: User
    is_new_user: bool
    session: NewSession | None = None
    challenge: LoginChallenge | None = None
    restriction: str = ""


SELECT_IDENTITY = """
    SELECT id, provider_name, issuer, subject, email, display_name, created_at, last_used_at
      FROM identity.linked_identities
     WHERE org_id = %(org_id)s AND user_id = %(user_id)s
"""
LIST_IDENTITIES = sql(LinkedIdentity, SELECT_IDENTITY + "ORDER BY id")
GET_IDENTITY = sql(LinkedIdentity, SELECT_IDENTITY + "AND id = %(linked_identity_id)s")

FIND_KNOWN = sql(
    Known,
    """
    SELECT * FROM identity.find_linked_identity(
        %(provider_org_id)s::uuid, %(issuer)s, %(subject)s)
    """,
)
INSERT_IDENTITY = sql(
    Nothing,
    """
    INSERT INTO identity.linked_identities
           (id, org_id, user_id, provider_org_id, provider_name, issuer, subject, email, display_name)
    VALUES (%(id)s, %(org_id)s, %(user_id)s, %(provider_org_id)s, %(provider_name)s, %(issuer)s,
            %(subject)s, %(email)s, %(display_name)s)
    """,
)
NOTE_USE = sql(
    Nothing,
    """
    UPDATE identity.linked_identities
       SET last_used_at = clock_timestamp(), email = %(email)s, display_name = %(display_name)s,
           provider_name = %(provider_name)s
     WHERE id = %(linked_identity_id)s
    """,
)


async def sign_in(core: Core, call: Call, proven: Proven) -> SignedIn:
    """A session (or, with a second factor, the challenge for one) for whom the identity belongs to,
    who is made a user first where the provider's organisation wants that. Raises
    Unauthenticated(IDENTITY_NOT_LINKED, ACCOUNT_DISABLED)."""
    provider, identity = proven.provider, proven.identity
    async with core.db.look(replace(call, caller=Caller("anonymous"))) as tx:
        known = await tx.one(
            FIND_KNOWN,
            provider_org_id=provider.org_id or None,
            issuer=identity.issuer,
            subject=identity.subject,
        )
    if known is None:
        return await _join(core, call, proven)
    if known.state != "active":
        raise Unauthenticated("ACCOUNT_DISABLED", "This account is not active.")
    caller = Caller("user", org_id=known.org_id, user_id=known.user_id, role=known.role)
    async with core.db.begin(replace(call, caller=caller)) as tx:
        # The person first, as whoever takes the account over does: then it is theirs still, or not linked.
        await lock_person(tx, known.user_id)
        is_linked = await tx.run(
            NOTE_USE,
            linked_identity_id=known.linked_identity_id,
            email=identity.email,
            display_name=identity.display_name,
            provider_name=provider.name,
        )
        if not is_linked:
            raise _not_linked()
        return await _opened(tx, core, proven, is_new_user=False)


async def _join(core: Core, call: Call, proven: Proven) -> SignedIn:
    """Whoever an organisation's provider vouches for, if that organisation takes newcomers: with a
    verified address in one of its domains. An account that has the address already is not theirs."""
    provider, identity = proven.provider, proven.identity
    domain = identity.email.rpartition("@")[2].lower()
    is_welcome = (
        provider.org_id
        and provider.new_user_role
        and domain
        and (not provider.email_domains or domain in map(str.lower, provider.email_domains))
    )
    if not is_welcome:
        raise _not_linked()
    wished = user_name_from(identity.username, identity.email.partition("@")[0])
    for username in (wished, f"{wished}-{secrets.token_hex(4)}"):
        caller = Caller(
            "user",
            org_id=provider.org_id,
            user_id=new_id(),
            role=provider.new_user_role,
        )
        try:
            async with core.db.begin(replace(call, caller=caller)) as tx:
                await add_user_without_password(
                    tx,
                    email=identity.email,
                    username=username,
                    display_name=identity.display_name,
                    picture_url=identity.picture_url,
                )
                record(
                    tx,
                    "user.join",
                    "user",
                    caller.user_id,
                    new={"role": caller.role, "provider": provider.name},
                    kind=Kind.SECURITY,
                )
                await insert_identity(tx, proven)
                return await _opened(tx, core, proven, is_new_user=True)
        except UniqueViolation as error:
            if violated(error) != "users_username":
                raise _not_linked() from None
    raise _not_linked()


def _not_linked() -> Unauthenticated:
    return Unauthenticated(
        "IDENTITY_NOT_LINKED",
        "Nobody here is known by this sign-in; sign in as before and link it.",
    )


async def _opened(tx: Tx, core: Core, proven: Proven, *, is_new_user: bool) -> SignedIn:
    provider, identity = proven.provider, proven.identity
    opened = await open_session(
        tx,
        core.settings,
        provider_org_id=provider.org_id,
        vouched_at=identity.authenticated_at if proven.second_factor else None,
    )
    new = {"provider": provider.name, "issuer": identity.issuer}
    user_id = tx.call.caller.user_id
    if isinstance(opened, LoginChallenge):
        record(
            tx,
            "session.sign_in",
            "user",
            user_id,
            new=new,
            reason="challenge",
            kind=Kind.SECURITY,
        )
        return SignedIn(User(), is_new_user, challenge=opened)
    if opened.is_vouched:
        new["second_factor"] = proven.second_factor
    record(tx, "session.sign_in", "session", opened.session_id, new=new, kind=Kind.SECURITY)
    restriction = await restriction_of(tx, opened.session_id)
    return SignedIn(opened.user, is_new_user, opened, restriction=restriction)


async def insert_identity(tx: Tx, proven: Proven) -> LinkedIdentity:
    """For the caller. Raises AlreadyExists(IDENTITY_TAKEN)."""
    caller, provider, identity = tx.call.caller, proven.provider, proven.identity
    identity_id = new_id()
    try:
        await tx.run(
            INSERT_IDENTITY,
            id=identity_id,
            org_id=caller.org_id,
            user_id=caller.user_id,
            provider_org_id=provider.org_id or None,
            provider_name=provider.name,
            issuer=identity.issuer,
            subject=identity.subject,
            email=identity.email,
            display_name=identity.display_name,
        )
    except UniqueViolation as error:
        if violated(error) != "linked_identities_subject":
            raise
        raise AlreadyExists("IDENTITY_TAKEN", "This identity is linked already.") from None
    linked = await tx.one(
        GET_IDENTITY,
        org_id=caller.org_id,
        user_id=caller.user_id,
        linked_identity_id=identity_id,
    )
    assert linked is not None
    record(
        tx,
        "linked_identity.create",
        "linked_identity",
        identity_id,
        new={"provider": provider.name, "issuer": identity.issuer, "subject": identity.subject},
        kind=Kind.SECURITY,
    )
    return linked


async def list_identities(tx: Tx) -> list[LinkedIdentity]:
    """The caller's own, oldest first."""
    caller = tx.call.caller
    return await tx.all(LIST_IDENTITIES, org_id=caller.org_id, user_id=caller.user_id)


# Held: two that unlink the last two at once would each see the other.
LOCK_USER = sql(
    bool,
    "SELECT password_hash IS NOT NULL FROM identity.users WHERE id = %(user_id)s FOR NO KEY UPDATE",
)
# Others than this one that let somebody in today: by a provider that is there and switched on. Of the
# same name, too: another client of the same issuer may be told other subjects.
COUNT_OTHER_WAYS_IN = sql(
    int,
    """
    SELECT count(*)::int FROM identity.linked_identities l
     WHERE l.org_id = %(org_id)s AND l.user_id = %(user_id)s AND l.id <> %(linked_identity_id)s
       AND CASE WHEN l.provider_org_id IS NULL THEN l.issuer = ANY (%(issuers)s)
                ELSE EXISTS (SELECT FROM identity.sign_in_providers p
                              WHERE p.org_id = l.provider_org_id AND p.issuer = l.issuer
                                AND lower(p.name) = lower(l.provider_name) AND p.is_enabled AND p.deleted_at IS NULL) END
    """,
)
DELETE_IDENTITY = sql(
    Nothing,
    """
    DELETE FROM identity.linked_identities
     WHERE org_id = %(org_id)s AND user_id = %(user_id)s AND id = %(linked_identity_id)s
    """,
)


async def unlink_identity(tx: Tx, settings: Settings, linked_identity_id: str) -> None:
    """Raises NotFound(LINKED_IDENTITY_NOT_FOUND), NotReady(LAST_WAY_IN)."""
    caller = tx.call.caller
    mine = {"org_id": caller.org_id, "user_id": caller.user_id}
    has_password = await tx.one(LOCK_USER, user_id=caller.user_id)
    old = await tx.one(GET_IDENTITY, **mine, linked_identity_id=linked_identity_id)
    if old is None:
        raise NotFound("LINKED_IDENTITY_NOT_FOUND", "You have no such linked identity.")
    issuers = [provider.issuer for provider in installed(settings)]
    if not has_password and not await tx.one(
        COUNT_OTHER_WAYS_IN, **mine, linked_identity_id=linked_identity_id, issuers=issuers
    ):
        raise NotReady("LAST_WAY_IN", "Link another identity or set a password first.")
    await tx.run(DELETE_IDENTITY, **mine, linked_identity_id=linked_identity_id)
    record(
        tx,
        "linked_identity.delete",
        "linked_identity",
        old.id,
        old={"provider": old.provider_name, "issuer": old.issuer, "subject": old.subject},
        kind=Kind.SECURITY,
    )
