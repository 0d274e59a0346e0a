"""OrganisationService: tenants, members, invitations. Requests in, answers out."""

from __future__ import annotations

from chimera.call import Call
from chimera.core import Core
from chimera.identity.desk import desk_of
from chimera.identity.invitations import (
    create_invitation,
    list_invitations,
    redeem_invitation,
    revoke_invitation,
)
from chimera.identity.organisations import (
    change_member_role,
    create_organisation,
    get_rules,
    leave_organisation,
    list_own,
    remove_member,
    switch_organisation,
    update_organisation,
)
from chimera.v1 import organisations_pb2_grpc
from chimera.v1.organisations_pb2 import (
    ChangeMemberRoleRequest,
    ChangeMemberRoleResponse,
    CreateInvitationRequest,
    CreateInvitationResponse,
    CreateOrganisationRequest,
    CreateOrganisationResponse,
    GetOrganisationRulesRequest,
    GetOrganisationRulesResponse,
    LeaveOrganisationRequest,
    LeaveOrganisationResponse,
    ListInvitationsRequest,
    ListInvitationsResponse,
    ListMyOrganisationsRequest,
    ListMyOrganisationsResponse,
    RedeemInvitationRequest,
    RedeemInvitationResponse,
    RemoveMemberRequest,
    RemoveMemberResponse,
    RevokeInvitationRequest,
    RevokeInvitationResponse,
    SwitchOrganisationRequest,
    SwitchOrganisationResponse,
    UpdateOrganisationRequest,
    UpdateOrganisationResponse,
)


class OrganisationService(organisations_pb2_grpc.OrganisationServiceServicer):
    """The servicer; see proto/chimera/v1/organisations.proto for what each call promises."""

    def __init__(self, core: Core) -> None:
        self.core, self.db, self.pages = core, core.db, core.pages
        self.desk = desk_of(core)

    async def CreateOrganisation(
        self, request: CreateOrganisationRequest, call: Call
    ) -> CreateOrganisationResponse:
        organisation = await create_organisation(self.core, call, request.name)
        return CreateOrganisationResponse(organisation=organisation)

    async def ListMyOrganisations(
        self, request: ListMyOrganisationsRequest, call: Call
    ) -> ListMyOrganisationsResponse:
        async with self.db.look(call) as tx:
            return ListMyOrganisationsResponse(organisations=await list_own(tx))

    async def SwitchOrganisation(
        self, request: SwitchOrganisationRequest, call: Call
    ) -> SwitchOrganisationResponse:
        session = await switch_organisation(self.core, self.db, call, request.organisation_id)
        return SwitchOrganisationResponse(tokens=await self.desk.tokens_of(session))

    async def GetOrganisationRules(
        self, request: GetOrganisationRulesRequest, call: Call
    ) -> GetOrganisationRulesResponse:
        async with self.db.look(call) as tx:
            return GetOrganisationRulesResponse(rules=await get_rules(tx))

    async def UpdateOrganisation(
        self, request: UpdateOrganisationRequest, call: Call
    ) -> UpdateOrganisationResponse:
        async with self.db.begin(call) as tx:
            organisation, rules = await update_organisation(tx, request)
            return tx.answer(UpdateOrganisationResponse(organisation=organisation, rules=rules))

    async def ChangeMemberRole(
        self, request: ChangeMemberRoleRequest, call: Call
    ) -> ChangeMemberRoleResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(ChangeMemberRoleResponse(user=await change_member_role(tx, request)))

    async def RemoveMember(self, request: RemoveMemberRequest, call: Call) -> RemoveMemberResponse:
        async with self.db.begin(call) as tx:
            await remove_member(tx, request.user_id)
            return tx.answer(RemoveMemberResponse())

    async def LeaveOrganisation(
        self, request: LeaveOrganisationRequest, call: Call
    ) -> LeaveOrganisationResponse:
        async with self.db.begin(call) as tx:
            await leave_organisation(tx, request.organisation_id)
            return LeaveOrganisationResponse()

    async def CreateInvitation(
        self, request: CreateInvitationRequest, call: Call
    ) -> CreateInvitationResponse:
        async with self.db.begin(call) as tx:
            invitation, code = await create_invitation(tx, request)
            return tx.answer(
                CreateInvitationResponse(invitation=invitation, code=code),
                keep=CreateInvitationResponse(invitation=invitation),
            )

    async def ListInvitations(
        self, request: ListInvitationsRequest, call: Call
    ) -> ListInvitationsResponse:
        async with self.db.begin(call) as tx:
            return await list_invitations(tx, self.pages, request)

    async def RevokeInvitation(
        self, request: RevokeInvitationRequest, call: Call
    ) -> RevokeInvitationResponse:
        async with self.db.begin(call) as tx:
            invitation = await revoke_invitation(tx, request.invitation_id)
            return tx.answer(RevokeInvitationResponse(invitation=invitation))

    async def RedeemInvitation(
        self, request: RedeemInvitationRequest, call: Call
    ) -> RedeemInvitationResponse:
        membership = await redeem_invitation(self.db, call, request.invitation_code)
        return RedeemInvitationResponse(membership=membership)
