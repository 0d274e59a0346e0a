"""IdentityService: requests in, answers out; the rules are in the modules of the nouns."""

from __future__ import annotations

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
from chimera.identity.desk import desk_of
from chimera.identity.endings import CHANGES
from chimera.identity.logins import in_steps
from chimera.identity.password_rules import check_joining
from chimera.identity.refresh import Refreshing
from chimera.identity.sessions import list_user_sessions, log_out, session_tokens
from chimera.identity.throttle import code_names
from chimera.identity.users import (
    GET_ORGANISATION,
    create_user,
    delete_user,
    disable_user,
    enable_user,
    end_user_sessions,
    get_user,
    list_users,
    reset_second_factor,
    send_password_reset,
    set_superuser,
    taken,
    undelete_user,
    unlock_user,
    update_user,
)
from chimera.rows import enum_text
from chimera.v1 import identity_pb2_grpc
from chimera.v1.identity_pb2 import (
    ApiKey,
    CompleteLoginRequest,
    CompleteLoginResponse,
    CreateApiKeyRequest,
    CreateApiKeyResponse,
    CreateUserRequest,
    CreateUserResponse,
    DeleteUserRequest,
    DeleteUserResponse,
    DisableUserRequest,
    DisableUserResponse,
    EnableUserRequest,
    EnableUserResponse,
    EndUserSessionsRequest,
    EndUserSessionsResponse,
    GetApiKeyRequest,
    GetApiKeyResponse,
    GetMeRequest,
    GetMeResponse,
    GetUserRequest,
    GetUserResponse,
    ListApiKeysRequest,
    ListApiKeysResponse,
    ListUserSessionsRequest,
    ListUserSessionsResponse,
    ListUsersRequest,
    ListUsersResponse,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    RefreshSessionRequest,
    RefreshSessionResponse,
    ResetSecondFactorRequest,
    ResetSecondFactorResponse,
    RevokeApiKeyRequest,
    RevokeApiKeyResponse,
    RotateApiKeyRequest,
    RotateApiKeyResponse,
    SendPasswordResetRequest,
    SendPasswordResetResponse,
    SetSuperuserRequest,
    SetSuperuserResponse,
    UndeleteUserRequest,
    UndeleteUserResponse,
    UnlockUserRequest,
    UnlockUserResponse,
    UpdateUserRequest,
    UpdateUserResponse,
)
from chimera.v1.options_pb2 import Permission


class IdentityService(identity_pb2_grpc.IdentityServiceServicer):
    """The servicer; see proto/chimera/v1/identity.proto for what each call promises."""

    def __init__(self, core: Core) -> None:
        self.core, self.db, self.pages = core, core.db, core.pages
        self.desk = desk_of(core)
        self.refreshing = Refreshing(core)
        self.environment = key_environment(core.settings)

    async def Login(self, request: LoginRequest, call: Call) -> LoginResponse:
        async with in_steps():
            opened = await self.desk.logins.open(request, call)
            tokens = await self.desk.tokens_of(opened.session)
        return LoginResponse(
            tokens=tokens,
            user=opened.user if opened.session else None,
            challenge=opened.challenge,
            device_token=opened.device_token,
            restriction=_restriction(opened.restriction),
        )

    async def CompleteLogin(
        self, request: CompleteLoginRequest, call: Call
    ) -> CompleteLoginResponse:
        opened = await self.desk.logins.complete(request, call)
        return CompleteLoginResponse(
            tokens=await self.desk.tokens_of(opened.session),
            user=opened.user,
            device_token=opened.device_token,
            recovery_codes_left=opened.recovery_codes_left,
            restriction=_restriction(opened.restriction),
        )

    async def RefreshSession(
        self, request: RefreshSessionRequest, call: Call
    ) -> RefreshSessionResponse:
        tokens = await self.desk.open_tokens()
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
        password_hash = None
        if request.password:
            names = (request.email, request.username)
            await check_joining(self.db, call, call.caller.org_id, request.password, *names)
            password_hash = await self.desk.hasher.hash(request.password)
        try:
            async with self.db.begin(call) as tx:
                user = await create_user(tx, request, password_hash)
                return tx.answer(CreateUserResponse(user=user))
        except UniqueViolation as error:
            raise taken(error) from None

    async def GetUser(self, request: GetUserRequest, call: Call) -> GetUserResponse:
        async with self.db.begin(call) as tx:
            return GetUserResponse(user=await get_user(tx, request.user_id))

    async def ListUsers(self, request: ListUsersRequest, call: Call) -> ListUsersResponse:
        async with self.db.begin(call) as tx:
            return await list_users(tx, self.pages, request)

    async def UpdateUser(self, request: UpdateUserRequest, call: Call) -> UpdateUserResponse:
        try:
            async with self.db.begin(call) as tx:
                return tx.answer(UpdateUserResponse(user=await update_user(tx, request)))
        except UniqueViolation as error:
            raise taken(error) from None

    async def DisableUser(self, request: DisableUserRequest, call: Call) -> DisableUserResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(DisableUserResponse(user=await disable_user(tx, request.user_id)))

    async def EnableUser(self, request: EnableUserRequest, call: Call) -> EnableUserResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(EnableUserResponse(user=await enable_user(tx, request.user_id)))

    async def UnlockUser(self, request: UnlockUserRequest, call: Call) -> UnlockUserResponse:
        async with self.db.begin(call) as tx:
            user = await unlock_user(tx, request.user_id)
            answer = tx.answer(UnlockUserResponse(user=user))
        await self.desk.throttle.forgive([user.email, user.username, *code_names(user.id)])
        return answer

    async def DeleteUser(self, request: DeleteUserRequest, call: Call) -> DeleteUserResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(DeleteUserResponse(user=await delete_user(tx, request.user_id)))

    async def UndeleteUser(self, request: UndeleteUserRequest, call: Call) -> UndeleteUserResponse:
        try:
            async with self.db.begin(call) as tx:
                user = await undelete_user(tx, request.user_id)
                return tx.answer(UndeleteUserResponse(user=user))
        except UniqueViolation as error:
            raise taken(error) from None

    async def SendPasswordReset(
        self, request: SendPasswordResetRequest, call: Call
    ) -> SendPasswordResetResponse:
        async with self.db.begin(call) as tx:
            await send_password_reset(tx, request.user_id)
            return tx.answer(SendPasswordResetResponse())

    async def ResetSecondFactor(
        self, request: ResetSecondFactorRequest, call: Call
    ) -> ResetSecondFactorResponse:
        async with self.db.begin(call) as tx:
            user = await reset_second_factor(tx, request.user_id)
            return tx.answer(ResetSecondFactorResponse(user=user))

    async def ListUserSessions(
        self, request: ListUserSessionsRequest, call: Call
    ) -> ListUserSessionsResponse:
        async with self.db.begin(call) as tx:
            await get_user(tx, request.user_id)
            return await list_user_sessions(tx, self.pages, request)

    async def EndUserSessions(
        self, request: EndUserSessionsRequest, call: Call
    ) -> EndUserSessionsResponse:
        async with self.db.begin(call) as tx:
            ended = await end_user_sessions(tx, request.user_id)
            return tx.answer(EndUserSessionsResponse(ended=ended))

    async def SetSuperuser(self, request: SetSuperuserRequest, call: Call) -> SetSuperuserResponse:
        async with self.db.begin(call) as tx:
            await set_superuser(tx, request.user_id, request.is_superuser)
            return tx.answer(SetSuperuserResponse())

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
            tx.after_commit.append(lambda: CHANGES.note_end(key.id))
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


def _restriction(name: str) -> str:
    return f"SESSION_RESTRICTION_{name.upper() or 'UNSPECIFIED'}"
