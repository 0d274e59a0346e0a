"""AccessService, TeamService and SigningKeyService; see proto/chimera/v1/access.proto."""

from __future__ import annotations

import asyncio

import orjson

from chimera.access import explaining, grants, members, roles, teams
from chimera.access.epochs import advance_epochs
from chimera.call import Call
from chimera.core import Core
from chimera.identity import signing_keys
from chimera.identity.tokens import AUDIENCE, Tokens
from chimera.v1 import access_pb2_grpc
from chimera.v1.access_pb2 import (
    CreateGrantRequest,
    CreateGrantResponse,
    CreateRoleRequest,
    CreateRoleResponse,
    CreateTeamRequest,
    CreateTeamResponse,
    DeleteRoleRequest,
    DeleteRoleResponse,
    DeleteTeamRequest,
    DeleteTeamResponse,
    ExplainAccessRequest,
    ExplainAccessResponse,
    GetJwksRequest,
    GetJwksResponse,
    GetRoleRequest,
    GetRoleResponse,
    GetTeamRequest,
    GetTeamResponse,
    ListGrantsRequest,
    ListGrantsResponse,
    ListRolesRequest,
    ListRolesResponse,
    ListSigningKeysRequest,
    ListSigningKeysResponse,
    ListTeamMembersRequest,
    ListTeamMembersResponse,
    ListTeamsRequest,
    ListTeamsResponse,
    RemoveTeamMemberRequest,
    RemoveTeamMemberResponse,
    RevokeGrantRequest,
    RevokeGrantResponse,
    RotateSigningKeyRequest,
    RotateSigningKeyResponse,
    SetTeamMemberRequest,
    SetTeamMemberResponse,
    UpdateRoleRequest,
    UpdateRoleResponse,
    UpdateTeamRequest,
    UpdateTeamResponse,
)


class AccessService(access_pb2_grpc.AccessServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.pages = core.db, core.pages

    async def ListRoles(self, request: ListRolesRequest, call: Call) -> ListRolesResponse:
        async with self.db.look(call) as tx:
            return ListRolesResponse(roles=await roles.list_roles(tx))

    async def GetRole(self, request: GetRoleRequest, call: Call) -> GetRoleResponse:
        async with self.db.look(call) as tx:
            return GetRoleResponse(role=await roles.get_role(tx, request.role_id))

    async def CreateRole(self, request: CreateRoleRequest, call: Call) -> CreateRoleResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(CreateRoleResponse(role=await roles.create_role(tx, request)))

    async def UpdateRole(self, request: UpdateRoleRequest, call: Call) -> UpdateRoleResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(UpdateRoleResponse(role=await roles.update_role(tx, request)))

    async def DeleteRole(self, request: DeleteRoleRequest, call: Call) -> DeleteRoleResponse:
        async with self.db.begin(call) as tx:
            await roles.delete_role(tx, request)
            return tx.answer(DeleteRoleResponse())

    async def CreateGrant(self, request: CreateGrantRequest, call: Call) -> CreateGrantResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(CreateGrantResponse(grant=await grants.create_grant(tx, request)))

    async def ListGrants(self, request: ListGrantsRequest, call: Call) -> ListGrantsResponse:
        async with self.db.look(call) as tx:
            found, token = await grants.list_grants(tx, self.pages, request)
            return ListGrantsResponse(grants=found, next_page_token=token)

    async def RevokeGrant(self, request: RevokeGrantRequest, call: Call) -> RevokeGrantResponse:
        async with self.db.begin(call) as tx:
            await grants.revoke_grant(tx, request.grant_id)
            return tx.answer(RevokeGrantResponse())

    async def ExplainAccess(
        self, request: ExplainAccessRequest, call: Call
    ) -> ExplainAccessResponse:
        return await explaining.explain_access(self.db, call, request)


class TeamService(access_pb2_grpc.TeamServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.pages = core.db, core.pages
        self.step_up_s = core.settings.step_up_s

    async def CreateTeam(self, request: CreateTeamRequest, call: Call) -> CreateTeamResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(CreateTeamResponse(team=await teams.create_team(tx, request)))

    async def GetTeam(self, request: GetTeamRequest, call: Call) -> GetTeamResponse:
        async with self.db.look(call) as tx:
            return GetTeamResponse(team=await teams.get_team(tx, request.team_id))

    async def ListTeams(self, request: ListTeamsRequest, call: Call) -> ListTeamsResponse:
        async with self.db.look(call) as tx:
            found, token = await teams.list_teams(tx, self.pages, request)
            return ListTeamsResponse(teams=found, next_page_token=token)

    async def UpdateTeam(self, request: UpdateTeamRequest, call: Call) -> UpdateTeamResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(UpdateTeamResponse(team=await teams.update_team(tx, request)))

    async def DeleteTeam(self, request: DeleteTeamRequest, call: Call) -> DeleteTeamResponse:
        async with self.db.begin(call) as tx:
            await teams.delete_team(tx, request)
            await advance_epochs(tx, team_ids=[request.team_id])
            return tx.answer(DeleteTeamResponse())

    async def ListTeamMembers(
        self, request: ListTeamMembersRequest, call: Call
    ) -> ListTeamMembersResponse:
        async with self.db.look(call) as tx:
            found, token = await members.list_team_members(tx, self.pages, request)
            return ListTeamMembersResponse(members=found, next_page_token=token)

    async def SetTeamMember(
        self, request: SetTeamMemberRequest, call: Call
    ) -> SetTeamMemberResponse:
        async with self.db.begin(call) as tx:
            member = await members.set_team_member(tx, request, step_up_s=self.step_up_s)
            return tx.answer(SetTeamMemberResponse(member=member))

    async def RemoveTeamMember(
        self, request: RemoveTeamMemberRequest, call: Call
    ) -> RemoveTeamMemberResponse:
        async with self.db.begin(call) as tx:
            await members.remove_team_member(tx, request)
            return tx.answer(RemoveTeamMemberResponse())


class SigningKeyService(access_pb2_grpc.SigningKeyServiceServicer):
    def __init__(self, core: Core) -> None:
        self.core, self.db = core, core.db
        self._tokens: Tokens | None = None
        self._opening = asyncio.Lock()

    async def tokens(self) -> Tokens:
        """The keys as they are now, for whoever publishes them."""
        async with self._opening:
            if self._tokens is None:
                self._tokens = await Tokens.opened(self.core)
        await self._tokens.keep_fresh()
        return self._tokens

    async def GetJwks(self, request: GetJwksRequest, call: Call) -> GetJwksResponse:
        tokens = await self.tokens()
        jwks = orjson.dumps(tokens.jwks()).decode()
        return GetJwksResponse(jwks=jwks, issuer=tokens.issuer, audience=AUDIENCE)

    async def ListSigningKeys(
        self, request: ListSigningKeysRequest, call: Call
    ) -> ListSigningKeysResponse:
        async with self.db.look(call) as tx:
            found = await signing_keys.list_signing_keys(tx)
            return ListSigningKeysResponse(signing_keys=found)

    async def RotateSigningKey(
        self, request: RotateSigningKeyRequest, call: Call
    ) -> RotateSigningKeyResponse:
        new = await signing_keys.make_signing_key(self.core)
        async with self.db.begin(call) as tx:
            key = await signing_keys.rotate_signing_key(
                tx, new, self.core.settings, withdraw_others=request.withdraw_others
            )
            return tx.answer(RotateSigningKeyResponse(signing_key=key))
