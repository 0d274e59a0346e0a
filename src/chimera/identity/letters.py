"""Letters: what is written to people, at the moment it is sent, by a worker.

A link is made here and nowhere else, so it lies in no table and no queue: only its hash is stored. A
letter that is written again (the worker died after sending) holds a new link, and the earlier one of
the same request is worth nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, sql
from chimera.identity.invitations import new_code
from chimera.identity.mailboxes import has_room
from chimera.identity.one_time import EMAIL_CHANGE_S, RENEW_TOKEN, insert_token, new_token
from chimera.identity.tokens import hash_of
from chimera.mail import Mail

HOUR_S = 3600
RESET_S, WELCOME_S = HOUR_S, 7 * 24 * HOUR_S
# From all organisations together; each may write a few (see invitations).
INVITATIONS_PER_HOUR_MAX = 20

Writer = Callable[[Core, str | None, dict[str, Any]], Awaitable[Mail | None]]


@dataclass(frozen=True, slots=True)
class Person:
    """Who has an address."""

    user_id: str
    org_id: str
    has_password: bool
    is_verified: bool
    is_disabled: bool


@dataclass(frozen=True, slots=True)
class Account:
    email: str
    org_id: str
    is_open: bool


@dataclass(frozen=True, slots=True)
class Wish:
    """A registration that is still open."""

    id: str
    org_id: str
    email: str
    username: str


@dataclass(frozen=True, slots=True)
class Invited:
    email: str
    organisation: str
    role: str
    expires_at: datetime


FIND_PERSON = sql(Person, "SELECT * FROM identity.find_person(%(email)s)")

FIND_ADDRESS = sql(
    Account,
    """
    SELECT email, home_org_id AS org_id, deleted_at IS NULL AND state <> 'disabled' AS is_open
      FROM identity.users WHERE id = %(user_id)s
    """,
)

FIND_WISH = sql(
    Wish,
    """
    SELECT id, org_id, email, username FROM identity.registrations
     WHERE id = %(registration_id)s AND confirmed_at IS NULL AND expires_at > now()
    """,
)

FIND_WISH_BY_EMAIL = sql(
    str,
    """
    SELECT id FROM identity.registrations
     WHERE lower(email) = lower(%(email)s) AND confirmed_at IS NULL AND expires_at > now()
     ORDER BY created_at DESC LIMIT 1
    """,
)

SET_WISH_TOKEN = sql(
    Nothing,
    "UPDATE identity.registrations SET token_hash = %(token_hash)s WHERE id = %(registration_id)s",
)

FIND_INVITED = sql(
    Invited,
    """
    SELECT i.email, o.name AS organisation, i.role, i.expires_at
      FROM identity.invitations i JOIN identity.organisations o ON o.id = i.org_id
     WHERE i.id = %(invitation_id)s AND i.revoked_at IS NULL AND i.expires_at > now()
       AND i.uses < i.uses_max
    """,
)

SET_CODE = sql(
    Nothing,
    "UPDATE identity.invitations SET code_hash = %(code_hash)s WHERE id = %(invitation_id)s",
)

# Of the same request; links of other requests stay good until one of them is used.
DROP_EARLIER = sql(
    Nothing,
    """
    DELETE FROM identity.one_time_tokens
     WHERE user_id = %(user_id)s AND purpose = %(purpose)s AND mail_id = %(mail_id)s
    """,
)

NOTICES = {
    "password_changed": "Your password was changed, and your other sessions were ended.",
    "email_change_asked": "Somebody signed in as you asked to change your e-mail address.",
    "email_changed": "The e-mail address of your account was changed; this one is no longer its.",
    "second_factor_on": "A second factor was set up; your other sessions were ended.",
    "second_factor_off": "The second factor was removed; your other sessions were ended.",
    "second_factor_reset": "An administrator removed your second factor.",
    "refresh_token_reuse": "A session of yours was ended: its token was used twice, as happens when"
    " it was copied.",
    "erasure_asked": "Your account will be erased. Until then you can sign in and take that back.",
}
# Who proves a mailbox for the first time takes the account over (taking_over.py).
FIRST = (
    "This proves your address for the first time. Whatever was set up for the account before ends:"
    " sessions, API keys, a second factor, and sign-ins linked to it, which you can link again.\n"
)
NOT_YOU = "If this was not you, choose a new password now and tell your administrator."


async def write_registration(core: Core, org_id: str | None, args: dict[str, Any]) -> Mail | None:
    """To who wants an account: the link, or that there is one already."""
    token = new_token()
    async with core.db.begin(Call.by_worker("mail.registration", org_id or "")) as tx:
        wish = await tx.one(FIND_WISH, registration_id=args["registration_id"])
        if wish is None:
            return None
        if not await has_room(tx, core, "registration", args["mail_id"], wish.email):
            return None
        if await tx.one(FIND_PERSON, email=wish.email) is not None:
            return Mail(
                wish.email,
                "You have an account already",
                "Somebody, perhaps you, asked for an account with this address. There is one"
                " already: sign in, or ask for a new password.\n",
            )
        await tx.run(SET_WISH_TOKEN, registration_id=wish.id, token_hash=hash_of(token))
    return Mail(
        wish.email,
        "Confirm your registration",
        f"Somebody, perhaps you, asked for the account {wish.username} with this address. To"
        f" make it, open this link within a day and choose a password:\n\n"
        f"{_link(core, 'register', token)}\n"
        "If it was not you, do nothing: no account will be made.\n",
    )


async def write_verification(core: Core, _org: str | None, args: dict[str, Any]) -> Mail | None:
    """Once more, to whoever has the address: a registration's link, or an account's."""
    async with core.db.begin(Call.by_worker("mail.verification")) as tx:
        person = await tx.one(FIND_PERSON, email=args["email"])
        wish = await tx.one(FIND_WISH_BY_EMAIL, email=args["email"])
    if person is None:
        more = {**args, "registration_id": wish}
        return await write_registration(core, None, more) if wish else None
    if person.is_verified or person.is_disabled:
        return None
    # A password that is there was chosen by somebody who need not own the mailbox.
    return await write_welcome(core, person.org_id, {**args, "user_id": person.user_id})


async def write_password_reset(core: Core, org_id: str | None, args: dict[str, Any]) -> Mail | None:
    """The link to a new password; nothing when nobody who may sign in has the address."""
    found = await _recipient(core, org_id, args)
    if found is None:
        return None
    person, email = found
    token = await _issue(core, person, "password_reset", args, RESET_S, email)
    if token is None:
        return None
    return Mail(
        email,
        "Choose a new password",
        "Somebody, perhaps you, asked for a new password for your account. To choose one, open this"
        f" link within an hour:\n\n{_link(core, 'reset-password', token)}\n"
        f"{'' if person.is_verified else FIRST}"
        "If it was not you, do nothing: your password stays as it is.\n",
    )


async def write_welcome(core: Core, org_id: str | None, args: dict[str, Any]) -> Mail | None:
    """To somebody for whom an administrator made an account: choose a password."""
    found = await _recipient(core, org_id, args)
    if found is None:
        return None
    person, email = found
    token = await _issue(core, person, "password_reset", args, WELCOME_S, email)
    if token is None:
        return None
    return Mail(
        email,
        "Your account",
        "An account was made for you. To choose its password, open this link within a week:\n\n"
        f"{_link(core, 'reset-password', token)}\n{'' if person.is_verified else FIRST}",
    )


async def write_email_change(core: Core, org_id: str | None, args: dict[str, Any]) -> Mail | None:
    """To the new address."""
    found = await _recipient(core, org_id, args)
    if found is None:
        return None
    person, _ = found
    # The release before notes nothing when it is asked.
    write = _renew if args.get("is_noted") else _issue
    token = await write(core, person, "email_change", args, EMAIL_CHANGE_S, args["email"])
    if token is None:
        return None
    return Mail(
        args["email"],
        "Confirm your new address",
        "To make this the address of your account, open this link within a day:\n\n"
        f"{_link(core, 'verify-email', token)}\n"
        "If you do not know of this, do nothing.\n",
    )


async def write_invitation(core: Core, org_id: str | None, args: dict[str, Any]) -> Mail | None:
    """The code, which nobody else sees."""
    code = new_code()
    async with core.db.begin(Call.by_worker("mail.invitation", org_id or "")) as tx:
        invited = await tx.one(FIND_INVITED, invitation_id=args["invitation_id"])
        if invited is None:
            return None
        most = INVITATIONS_PER_HOUR_MAX
        if not await has_room(
            tx, core, "invitation", args["mail_id"], invited.email, per_hour_max=most
        ):
            return None
        await tx.run(SET_CODE, invitation_id=args["invitation_id"], code_hash=hash_of(code))
    until = invited.expires_at.strftime("%d %B %Y")
    return Mail(
        invited.email,
        f"Invitation to {_one_line(invited.organisation)}",
        f"You are invited to the organisation {_one_line(invited.organisation)} as {invited.role},"
        f" until {until}:\n\n{_link(core, 'invitation', code)}",
    )


async def write_security_notice(
    core: Core, org_id: str | None, args: dict[str, Any]
) -> Mail | None:
    """What happened to the account; to its address, or to the one it had."""
    async with core.db.begin(Call.by_worker("mail.security_notice", org_id or "")) as tx:
        account = await tx.one(FIND_ADDRESS, user_id=args["user_id"])
    if account is None:
        return None
    text = f"{NOTICES[args['what']]}\n\n{NOT_YOU}\n"
    return Mail(args.get("email") or account.email, "About your account", text)


async def _recipient(
    core: Core, org_id: str | None, args: dict[str, Any]
) -> tuple[Person, str] | None:
    """By user_id, else by e-mail address; None for nobody, and for who may not sign in."""
    async with core.db.begin(Call.by_worker("mail.recipient", org_id or "")) as tx:
        email = args.get("email", "")
        if "user_id" in args:
            account = await tx.one(FIND_ADDRESS, user_id=args["user_id"])
            if account is None or not account.is_open:
                return None
            email = account.email
        person = await tx.one(FIND_PERSON, email=email)
    return (person, email) if person is not None and not person.is_disabled else None


async def _issue(
    core: Core, person: Person, purpose: str, args: dict[str, Any], lifetime_s: float, email: str
) -> str | None:
    """A token for a letter, or None when too many were sent within the hour."""
    token = new_token()
    mail_id = args["mail_id"]
    async with core.db.begin(Call.by_worker("mail.token", person.org_id)) as tx:
        if not await has_room(tx, core, purpose, mail_id, email, person.user_id):
            return None
        await tx.run(DROP_EARLIER, user_id=person.user_id, purpose=purpose, mail_id=mail_id)
        await insert_token(
            tx,
            token=token,
            purpose=purpose,
            org_id=person.org_id,
            user_id=person.user_id,
            lifetime_s=lifetime_s,
            email=email,
            mail_id=mail_id,
        )
    return token


async def _renew(
    core: Core, person: Person, purpose: str, args: dict[str, Any], lifetime_s: float, email: str
) -> str | None:
    """The same where the wish was noted when it was uttered; None when it was taken back since."""
    token = new_token()
    mail_id = args["mail_id"]
    mine = {"user_id": person.user_id, "purpose": purpose, "mail_id": mail_id}
    async with core.db.begin(Call.by_worker("mail.token", person.org_id)) as tx:
        is_wanted = await tx.run(
            RENEW_TOKEN,
            **mine,
            token_hash=hash_of(token),
            org_id=person.org_id,
            lifetime_s=lifetime_s,
        )
        if not is_wanted:
            return None
        if not await has_room(tx, core, purpose, mail_id, email, person.user_id):
            return None
    return token


def _link(core: Core, page: str, token: str) -> str:
    """In the fragment, which browsers send to no server; and bare, for clients without pages."""
    return f"{core.settings.public_url.rstrip('/')}/{page}#{token}\n\nThe token alone: {token}\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


WRITERS: Mapping[str, Writer] = {
    "registration": write_registration,
    "verification": write_verification,
    "password_reset": write_password_reset,
    "welcome": write_welcome,
    "email_change": write_email_change,
    "invitation": write_invitation,
    "security_notice": write_security_notice,
}
