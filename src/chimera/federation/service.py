"""SignInService; see proto/chimera/v1/federation.proto."""

from __future__ import annotations

from chimera.call import Call
from chimera.core import Core
from chimera.federation import identities, organisations
from chimera.federation.flow import Flow
from chimera.federation.provider import installed
from chimera.identity.desk import desk_of
from chimera.v1 import federation_pb2_grpc
from chimera.v1.federation_pb2 import (
    CreateSignInProviderRequest,
    CreateSignInProviderResponse,
    DeleteSignInProviderRequest,
    DeleteSignInProviderResponse,
    FinishLinkRequest,
    FinishLinkResponse,
    FinishSignInRequest,
    FinishSignInResponse,
    ListLinkedIdentitiesRequest,
    ListLinkedIdentitiesResponse,
    ListSignInOptionsRequest,
    ListSignInOptionsResponse,
    ListSignInProvidersRequest,
    ListSignInProvidersResponse,
    SignInOption,
    StartLinkRequest,
    StartLinkResponse,
    StartSignInRequest,
    StartSignInResponse,
    UnlinkIdentityRequest,
    UnlinkIdentityResponse,
    UpdateSignInProviderRequest,
    UpdateSignInProviderResponse,
)


class SignInService(federation_pb2_grpc.SignInServiceServicer):
    def __init__(self, core: Core) -> None:
        self.core, self.db = core, core.db
        self.flow = Flow(core)

    async def ListSignInOptions(
        self, request: ListSignInOptionsRequest, call: Call
    ) -> ListSignInOptionsResponse:
        options = [
            SignInOption(
                provider_id=provider.id,
                name=provider.name,
                kind=f"SIGN_IN_PROVIDER_KIND_{provider.kind.upper()}",
            )
            for provider in installed(self.core.settings)
        ]
        if request.organisation_id:
            async with self.db.look(call) as tx:
                options += await organisations.list_options(tx, request.organisation_id)
        return ListSignInOptionsResponse(options=options)

    async def StartSignIn(self, request: StartSignInRequest, call: Call) -> StartSignInResponse:
        started = await self.flow.start(call, request.provider_id, request.redirect_uri, link=False)
        return StartSignInResponse(
            authorization_url=started.authorization_url,
            handle=started.handle,
            expires_at=started.expires_at,
        )

    async def FinishSignIn(self, request: FinishSignInRequest, call: Call) -> FinishSignInResponse:
        proven = await self.flow.finish(call, request.answer, link=False)
        signed_in = await identities.sign_in(self.core, call, proven)
        return FinishSignInResponse(
            tokens=await desk_of(self.core).tokens_of(signed_in.session),
            user=signed_in.user if signed_in.session else None,
            is_new_user=signed_in.is_new_user,
            challenge=signed_in.challenge,
            restriction=f"SESSION_RESTRICTION_{signed_in.restriction.upper() or 'UNSPECIFIED'}",
        )

    async def StartLink(self, request: StartLinkRequest, call: Call) -> StartLinkResponse:
        started = await self.flow.start(call, request.provider_id, request.redirect_uri, link=True)
        return StartLinkResponse(
            authorization_url=started.authorization_url,
            handle=started.handle,
            expires_at=started.expires_at,
        )

    async def FinishLink(self, request: FinishLinkRequest, call: Call) -> FinishLinkResponse:
        proven = await self.flow.finish(call, request.answer, link=True)
        async with self.db.begin(call) as tx:
            linked = await identities.insert_identity(tx, proven)
            return tx.answer(FinishLinkResponse(linked_identity=linked))

    async def ListLinkedIdentities(
        self, request: ListLinkedIdentitiesRequest, call: Call
    ) -> ListLinkedIdentitiesResponse:
        async with self.db.look(call) as tx:
            found = await identities.list_identities(tx)
            return ListLinkedIdentitiesResponse(linked_identities=found)

    async def UnlinkIdentity(
        self, request: UnlinkIdentityRequest, call: Call
    ) -> UnlinkIdentityResponse:
        async with self.db.begin(call) as tx:
            await identities.unlink_identity(tx, self.core.settings, request.linked_identity_id)
            return tx.answer(UnlinkIdentityResponse())

    async def CreateSignInProvider(
        self, request: CreateSignInProviderRequest, call: Call
    ) -> CreateSignInProviderResponse:
        new = await organisations.seal_secret(self.core, call, request.client_secret)
        async with self.db.begin(call) as tx:
            made = await organisations.create_provider(tx, self.core, request, new)
            return tx.answer(CreateSignInProviderResponse(sign_in_provider=made))

    async def ListSignInProviders(
        self, request: ListSignInProvidersRequest, call: Call
    ) -> ListSignInProvidersResponse:
        async with self.db.look(call) as tx:
            found = await organisations.list_providers(tx)
            return ListSignInProvidersResponse(sign_in_providers=found)

    async def UpdateSignInProvider(
        self, request: UpdateSignInProviderRequest, call: Call
    ) -> UpdateSignInProviderResponse:
        new = await organisations.seal_secret(
            self.core, call, request.client_secret, request.sign_in_provider_id
        )
        async with self.db.begin(call) as tx:
            changed = await organisations.update_provider(tx, request, new)
            return tx.answer(UpdateSignInProviderResponse(sign_in_provider=changed))

    async def DeleteSignInProvider(
        self, request: DeleteSignInProviderRequest, call: Call
    ) -> DeleteSignInProviderResponse:
        async with self.db.begin(call) as tx:
            await organisations.delete_provider(tx, request.sign_in_provider_id)
            return tx.answer(DeleteSignInProviderResponse())
