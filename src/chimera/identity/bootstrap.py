"""Bootstrap: the first organisation and its administrator, from the command line.

Everything else is made over the API by somebody who is signed in; here nobody is yet. Needs the
database login that may take the roles chimera_owner (which may insert organisations) and
chimera_app; the audit event is written in the same transaction.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from psycopg.errors import UniqueViolation
from pydantic import SecretStr

from chimera.audit import recording
from chimera.audit.leaf import Kind, Severity
from chimera.call import Call, Caller
from chimera.db import Nothing, Tx, sql, violated
from chimera.faults import AlreadyExists, Invalid, Violation
from chimera.identity.api_keys import DAYS_DEFAULT, insert_api_key, key_environment
from chimera.identity.passwords import Hasher, check_password
from chimera.identity.users import INSERT_MEMBERSHIP, normal_login, taken
from chimera.ids import new_id
from chimera.keyring import open_master_keys
from chimera.pools import Database
from chimera.settings import Settings
from chimera.v1.identity_pb2 import CreateUserRequest, Role
from chimera.validation import validator

NAME_CHARACTERS_MAX = 200

# The connection begins as chimera_app; its login may take other roles for one transaction.
TAKE_ROLE = sql(str, "SELECT set_config('role', %(role)s, true)")

INSERT_ORGANISATION = sql(
    Nothing, "INSERT INTO identity.organisations (id, name) VALUES (%(id)s, %(name)s)"
)

# Whoever may run the command vouches for the address.
INSERT_FIRST_USER = sql(
    Nothing,
    """
    INSERT INTO identity.users
           (id, email, username, password_hash, password_changed_at, state, is_superuser,
            email_verified_at)
    VALUES (%(id)s, %(email)s, %(username)s, %(password_hash)s, now(), 'active', %(is_superuser)s, now())
    """,
)


class Bootstrapped(NamedTuple):
    """Ids of what was made; `api_key` is its text, shown once, or empty."""

    org_id: str
    user_id: str
    api_key: str = ""

    def __repr__(self) -> str:
        return f"Bootstrapped(org_id={self.org_id!r}, user_id={self.user_id!r})"


async def bootstrap(
    settings: Settings,
    *,
    organisation: str,
    email: str,
    username: str,
    password: str,
    is_superuser: bool = True,
    with_api_key: bool = False,
) -> Bootstrapped:
    """A new organisation with one administrator; is_superuser makes it an operator of the
    installation.

    Changes nothing when it is refused: AlreadyExists when the organisation (by name), the e-mail
    address or the user name exist, Invalid for what CreateUser would refuse. ValueError when
    CHIMERA_DATABASE_URL is not set.
    """
    request = CreateUserRequest(
        email=normal_login(email),
        username=normal_login(username),
        role=Role.ROLE_ADMIN,
        password=password,
    )
    name = organisation.strip()
    _check(request, name)
    await asyncio.to_thread(open_master_keys, settings, create=True)
    password_hash = await Hasher(settings).hash(password)
    made = Bootstrapped(new_id(), new_id())
    # A role's own URL would be a login that cannot take the owner's role.
    db = Database(
        settings.model_copy(update={"app_database_url": SecretStr("")}).role_url("app"),
        size_max=1,
        flush_audit=recording.flush,
    )
    caller = Caller("system", org_id=made.org_id)
    call = Call(caller, "organisation.bootstrap", time.monotonic() + 30)
    await db.open()
    try:
        async with db.begin(call) as tx:
            await _insert(tx, made, name, request, password_hash, is_superuser)
            if with_api_key:
                made = await _with_api_key(tx, made, settings)
        return made
    except UniqueViolation as error:
        if violated(error) == "organisations_name":
            raise AlreadyExists(
                "FIELD_INVALID", f"There is an organisation {name} already."
            ) from None
        raise taken(error) from None
    finally:
        await db.close()


def _check(request: CreateUserRequest, name: str) -> None:
    check_password(request.password, names=(request.email, request.username))
    found = [
        Violation(_field_name(v.proto.field), v.proto.message, v.proto.rule_id)
        for v in validator().collect_violations(request)
    ]
    if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
        found.append(Violation("organisation", f"must have 1 to {NAME_CHARACTERS_MAX} characters"))
    if found:
        raise Invalid("FIELD_INVALID", f"{found[0].field}: {found[0].message}", violations=found)


def _field_name(path: Any) -> str:
    return path.elements[0].field_name if path is not None and path.elements else ""


async def _insert(
    tx: Tx,
    made: Bootstrapped,
    name: str,
    request: CreateUserRequest,
    password_hash: str,
    is_superuser: bool,
) -> None:
    await tx.one(TAKE_ROLE, role="chimera_owner")
    await tx.run(INSERT_ORGANISATION, id=made.org_id, name=name)
    await tx.run(
        INSERT_FIRST_USER,
        id=made.user_id,
        email=request.email,
        username=request.username,
        password_hash=password_hash,
        is_superuser=is_superuser,
    )
    await tx.run(INSERT_MEMBERSHIP, org_id=made.org_id, user_id=made.user_id, role="admin")
    await tx.one(TAKE_ROLE, role="chimera_app")
    recording.record(
        tx,
        "organisation.bootstrap",
        "organisation",
        made.org_id,
        new={"name": name, "user_id": made.user_id, "is_superuser": is_superuser},
        severity=Severity.NOTICE,
        kind=Kind.SECURITY,
    )


async def _with_api_key(tx: Tx, made: Bootstrapped, settings: Settings) -> Bootstrapped:
    key, text = await insert_api_key(
        tx,
        user_id=made.user_id,
        name="bootstrap",
        scopes=[],
        expires_at=datetime.now(UTC) + timedelta(days=DAYS_DEFAULT),
        environment=key_environment(settings),
    )
    recording.record(
        tx, "api_key.create", "api_key", key.id, new={"name": key.name, "prefix": key.prefix}
    )
    return made._replace(api_key=text)
