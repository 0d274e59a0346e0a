"""IdentityService: requests in, answers out; the rules are in the modules of the nouns."""

from __future__ import annotations

import asyncio

from psycopg.errors import UniqueViolation

from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.identity.api_keys import (
    create_api_key,
    get_api_key,
    key_environment,
    list_api_keys,
    revoke_api_key,
    rotate_api_key,
)
from chimera.identity.endings import ENDED
from chimera.identity.passwords import Hasher, check_password
from chimera.identity.refresh import Refreshing
from chimera.identity.sessions import Logins, log_out, session_tokens
from chimera.identity.tokens import Tokens
from chimera.identity.users import (
    GET_ORGANISATION,
    create_user,
    get_user,
    list_users,
    taken,
)
from chimera.rows import enum_text
from chimera.v1 import identity_pb2_grpc
from chimera.v1.identity_pb2 import (
    ApiKey,
    CreateApiKeyRequest,
    CreateApiKeyResponse,
    CreateUserRequest,
    CreateUserResponse,
    GetApiKeyRequest,
    GetApiKeyResponse,
    GetMeRequest,
    GetMeResponse,
    GetUserRequest,
    GetUserResponse,
    ListApiKeysRequest,
    ListApiKeysResponse,
    ListUsersRequest,
    ListUsersResponse,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    RefreshSessionRequest,
    RefreshSessionResponse,
    RevokeApiKeyRequest,
    RevokeApiKeyResponse,
    RotateApiKeyRequest,
    RotateApiKeyResponse,
)
from chimera.v1.options_pb2 import Permission


class IdentityService(identity_pb2_grpc.IdentityServiceServicer):
    """The servicer; see proto/chimera/v1/identity.proto for what each call promises."""

    def __init__(self, core: Core) -> None:
        self.core, self.db, self.pages = core, core.db, core.pages
        self.hasher = Hasher(core.settings)
        self.logins = Logins(core, self.hasher)
        self.refreshing = Refreshing(core)
        self.environment = key_environment(core.settings)
        self._tokens: Tokens | None = None
        self._opening = asyncio.Lock()

    async def _open_tokens(self) -> Tokens:
        async with self._opening:
            if self._tokens is None:
                self._tokens = await Tokens.opened(self.core)
        await self._tokens.keep_fresh()
        return self._tokens

    async def Login(self, request: LoginRequest, call: Call) -> LoginResponse:
        tokens = await self._open_tokens()
        opened = await self.logins.open(request, call)
        access = tokens.issue(
            user_id=opened.account.user_id,
            org_id=opened.account.org_id,
            session_id=opened.session_id,
            authz_epoch=opened.account.authz_epoch,
        )
        return LoginResponse(
            tokens=session_tokens(access, opened.refresh_token, opened.refresh_expires_at),
            user=opened.user,
        )

    async def RefreshSession(
        self, request: RefreshSessionRequest, call: Call
    ) -> RefreshSessionResponse:
        tokens = await self._open_tokens()
        refreshed = await self.refreshing.refresh(request.refresh_token, call)
        access = tokens.issue(
            user_id=refreshed.session.user_id,
            org_id=refreshed.session.org_id,
            session_id=refreshed.session_id,
            authz_epoch=refreshed.session.authz_epoch,
        )
        return RefreshSessionResponse(
            tokens=session_tokens(access, refreshed.refresh_token, refreshed.refresh_expires_at)
        )

    async def Logout(self, request: LogoutRequest, call: Call) -> LogoutResponse:
        async with self.db.begin(call) as tx:
            await log_out(tx)
            record(tx, "session.logout", "session", call.caller.session_id)
            return LogoutResponse()

    async def GetMe(self, request: GetMeRequest, call: Call) -> GetMeResponse:
        async with self.db.begin(call) as tx:
            organisation = await tx.one(GET_ORGANISATION, org_id=call.caller.org_id)
            return GetMeResponse(
                user=await get_user(tx, call.caller.user_id),
                organisation=organisation,
                permissions=[Permission.Name(held) for held in sorted(call.caller.permissions)],
            )

    async def CreateUser(self, request: CreateUserRequest, call: Call) -> CreateUserResponse:
        check_password(request.password, names=(request.email, request.username))
        password_hash = await self.hasher.hash(request.password)
        try:
            async with self.db.begin(call) as tx:
                user = await create_user(tx, request, password_hash)
                new = {
                    "email": user.email,
                    "username": user.username,
                    "role": enum_text(user, "role", user.role),
                }
                record(tx, "user.create", "user", user.id, new=new)
                return tx.answer(CreateUserResponse(user=user))
        except UniqueViolation as error:
            raise taken(error) from None

    async def GetUser(self, request: GetUserRequest, call: Call) -> GetUserResponse:
        async with self.db.begin(call) as tx:
            return GetUserResponse(user=await get_user(tx, request.user_id))

    async def ListUsers(self, request: ListUsersRequest, call: Call) -> ListUsersResponse:
        async with self.db.begin(call) as tx:
            return await list_users(tx, self.pages, request)

    async def CreateApiKey(self, request: CreateApiKeyRequest, call: Call) -> CreateApiKeyResponse:
        async with self.db.begin(call) as tx:
            key, text = await create_api_key(tx, request, environment=self.environment)
            record(tx, "api_key.create", "api_key", key.id, new=_facts(key))
            return tx.answer(
                CreateApiKeyResponse(api_key=key, secret=text),
                keep=CreateApiKeyResponse(api_key=key),
            )

    async def GetApiKey(self, request: GetApiKeyRequest, call: Call) -> GetApiKeyResponse:
        async with self.db.begin(call) as tx:
            return GetApiKeyResponse(api_key=await get_api_key(tx, request.api_key_id))

    async def RotateApiKey(self, request: RotateApiKeyRequest, call: Call) -> RotateApiKeyResponse:
        async with self.db.begin(call) as tx:
            key, text = await rotate_api_key(tx, request, environment=self.environment)
            new = {"prefix": key.prefix, "overlap_s": request.overlap_s}
            record(tx, "api_key.rotate", "api_key", key.id, new=new, kind=Kind.SECURITY)
            return tx.answer(
                RotateApiKeyResponse(api_key=key, secret=text),
                keep=RotateApiKeyResponse(api_key=key),
            )

    async def ListApiKeys(self, request: ListApiKeysRequest, call: Call) -> ListApiKeysResponse:
        async with self.db.begin(call) as tx:
            return await list_api_keys(tx, self.pages, request)

    async def RevokeApiKey(self, request: RevokeApiKeyRequest, call: Call) -> RevokeApiKeyResponse:
        async with self.db.begin(call) as tx:
            key = await revoke_api_key(tx, request.api_key_id)
            record(tx, "api_key.revoke", "api_key", key.id, new={"is_active": False})
            tx.after_commit.append(lambda: ENDED.note(key.id))
            return tx.answer(RevokeApiKeyResponse(api_key=key))


def _facts(key: ApiKey) -> dict[str, object]:
    """What the audit log keeps of a new key."""
    return {
        "name": key.name,
        "prefix": key.prefix,
        "scopes": [enum_text(key, "scopes", scope) for scope in key.scopes],
        "source_networks": list(key.source_networks),
        "expires_at": key.expires_at.ToJsonString(),
    }
