"""AccountService: one's own account. Requests in, answers out."""

from __future__ import annotations

from psycopg.errors import UniqueViolation

from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.call import Call
from chimera.core import Core
from chimera.identity.desk import desk_of
from chimera.identity.one_time import spend_others
from chimera.identity.profile import (
    change_email,
    change_password,
    reset_password,
    step_up,
    update_me,
    verify_email,
)
from chimera.identity.registrations import (
    accept_invitation,
    confirm_registration,
    register,
    request_password_reset,
    resend_verification,
)
from chimera.identity.sessions import end_session, end_sessions, forget_devices, list_sessions
from chimera.identity.users import taken
from chimera.v1 import accounts_pb2_grpc
from chimera.v1.accounts_pb2 import (
    AcceptInvitationRequest,
    AcceptInvitationResponse,
    ChangeEmailRequest,
    ChangeEmailResponse,
    ChangePasswordRequest,
    ChangePasswordResponse,
    ConfirmRegistrationRequest,
    ConfirmRegistrationResponse,
    ConfirmTotpRequest,
    ConfirmTotpResponse,
    DisableTotpRequest,
    DisableTotpResponse,
    EndOtherSessionsRequest,
    EndOtherSessionsResponse,
    EndSessionRequest,
    EndSessionResponse,
    EnrollTotpRequest,
    EnrollTotpResponse,
    ListSessionsRequest,
    ListSessionsResponse,
    RegenerateRecoveryCodesRequest,
    RegenerateRecoveryCodesResponse,
    RegisterRequest,
    RegisterResponse,
    RequestPasswordResetRequest,
    RequestPasswordResetResponse,
    ResendVerificationRequest,
    ResendVerificationResponse,
    ResetPasswordRequest,
    ResetPasswordResponse,
    StepUpRequest,
    StepUpResponse,
    UpdateMeRequest,
    UpdateMeResponse,
    VerifyEmailRequest,
    VerifyEmailResponse,
)


class AccountService(accounts_pb2_grpc.AccountServiceServicer):
    """The servicer; see proto/chimera/v1/accounts.proto for what each call promises."""

    def __init__(self, core: Core) -> None:
        self.core, self.db, self.pages = core, core.db, core.pages
        self.desk = desk_of(core)

    async def Register(self, request: RegisterRequest, call: Call) -> RegisterResponse:
        await register(self.core, request, call)
        return RegisterResponse()

    async def ConfirmRegistration(
        self, request: ConfirmRegistrationRequest, call: Call
    ) -> ConfirmRegistrationResponse:
        user = await confirm_registration(self.core, self.desk.hasher, request, call)
        return ConfirmRegistrationResponse(user=user)

    async def AcceptInvitation(
        self, request: AcceptInvitationRequest, call: Call
    ) -> AcceptInvitationResponse:
        user = await accept_invitation(self.core, self.desk.hasher, request, call)
        return AcceptInvitationResponse(user=user)

    async def ResendVerification(
        self, request: ResendVerificationRequest, call: Call
    ) -> ResendVerificationResponse:
        await resend_verification(self.core, request.email, call)
        return ResendVerificationResponse()

    async def VerifyEmail(self, request: VerifyEmailRequest, call: Call) -> VerifyEmailResponse:
        return VerifyEmailResponse(email=await verify_email(self.core, request.token, call))

    async def RequestPasswordReset(
        self, request: RequestPasswordResetRequest, call: Call
    ) -> RequestPasswordResetResponse:
        await request_password_reset(self.core, request.email, call)
        return RequestPasswordResetResponse()

    async def ResetPassword(
        self, request: ResetPasswordRequest, call: Call
    ) -> ResetPasswordResponse:
        await reset_password(self.core, self.desk.hasher, self.desk.throttle, request, call)
        return ResetPasswordResponse()

    async def UpdateMe(self, request: UpdateMeRequest, call: Call) -> UpdateMeResponse:
        try:
            async with self.db.begin(call) as tx:
                return UpdateMeResponse(user=await update_me(tx, request))
        except UniqueViolation as error:
            raise taken(error) from None

    async def ChangeEmail(self, request: ChangeEmailRequest, call: Call) -> ChangeEmailResponse:
        async with self.db.begin(call) as tx:
            await change_email(tx, request.new_email)
            return ChangeEmailResponse()

    async def ChangePassword(
        self, request: ChangePasswordRequest, call: Call
    ) -> ChangePasswordResponse:
        ended = await change_password(
            self.core, self.desk.hasher, self.desk.throttle, request, call
        )
        return ChangePasswordResponse(sessions_ended=ended)

    async def StepUp(self, request: StepUpRequest, call: Call) -> StepUpResponse:
        desk = self.desk
        auth_time = await step_up(self.core, desk.hasher, desk.throttle, desk.factor, request, call)
        return StepUpResponse(auth_time=auth_time)

    async def EnrollTotp(self, request: EnrollTotpRequest, call: Call) -> EnrollTotpResponse:
        secret, uri = await self.desk.enrolment.enroll(call)
        return EnrollTotpResponse(secret=secret, otpauth_uri=uri)

    async def ConfirmTotp(self, request: ConfirmTotpRequest, call: Call) -> ConfirmTotpResponse:
        codes = await self.desk.enrolment.confirm(request.code, call)
        return ConfirmTotpResponse(recovery_codes=codes)

    async def DisableTotp(self, request: DisableTotpRequest, call: Call) -> DisableTotpResponse:
        await self.desk.enrolment.disable(request.code, call)
        return DisableTotpResponse()

    async def RegenerateRecoveryCodes(
        self, request: RegenerateRecoveryCodesRequest, call: Call
    ) -> RegenerateRecoveryCodesResponse:
        codes = await self.desk.enrolment.regenerate(request.code, call)
        return RegenerateRecoveryCodesResponse(recovery_codes=codes)

    async def ListSessions(self, request: ListSessionsRequest, call: Call) -> ListSessionsResponse:
        async with self.db.begin(call) as tx:
            return await list_sessions(tx, self.pages, request)

    async def EndSession(self, request: EndSessionRequest, call: Call) -> EndSessionResponse:
        async with self.db.begin(call) as tx:
            await end_session(tx, request.session_id)
            record(tx, "session.end", "session", request.session_id, kind=Kind.SECURITY)
            return EndSessionResponse()

    async def EndOtherSessions(
        self, request: EndOtherSessionsRequest, call: Call
    ) -> EndOtherSessionsResponse:
        caller = call.caller
        async with self.db.begin(call) as tx:
            ended = await end_sessions(tx, caller.user_id, "ended_by_owner", but=caller.session_id)
            await forget_devices(tx, but_of_session=caller.session_id)
            await spend_others(tx, caller.user_id, "login", "email_change")
            record(
                tx,
                "session.end_others",
                "user",
                caller.user_id,
                new={"ended": ended},
                kind=Kind.SECURITY,
            )
            return EndOtherSessionsResponse(ended=ended)
