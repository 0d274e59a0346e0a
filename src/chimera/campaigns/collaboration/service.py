"""CollaborationService: one method an RPC, each one transaction."""

from __future__ import annotations

from chimera.call import Call
from chimera.campaigns.collaboration import comments, labels, sharing
from chimera.campaigns.collaboration.levels import find_level
from chimera.campaigns.operations import get_campaign
from chimera.campaigns.secrecy import shown
from chimera.core import Core
from chimera.v1 import collaboration_pb2_grpc
from chimera.v1.collaboration_pb2 import (
    CreateCommentRequest,
    CreateCommentResponse,
    DeleteCommentRequest,
    DeleteCommentResponse,
    EditCommentRequest,
    EditCommentResponse,
    GetCampaignAccessRequest,
    GetCampaignAccessResponse,
    LabelCampaignRequest,
    LabelCampaignResponse,
    ListCampaignLabelsRequest,
    ListCampaignLabelsResponse,
    ListCampaignSharesRequest,
    ListCampaignSharesResponse,
    ListCommentsRequest,
    ListCommentsResponse,
    SetCampaignPublicRequest,
    SetCampaignPublicResponse,
    ShareCampaignRequest,
    ShareCampaignResponse,
    UnshareCampaignRequest,
    UnshareCampaignResponse,
)


class CollaborationService(collaboration_pb2_grpc.CollaborationServiceServicer):
    """Shares, labels and comments of campaigns."""

    def __init__(self, core: Core) -> None:
        self.db, self.pages = core.db, core.pages

    async def GetCampaignAccess(
        self, request: GetCampaignAccessRequest, call: Call
    ) -> GetCampaignAccessResponse:
        async with self.db.look(call) as tx:
            await get_campaign(tx, request.campaign_id)
            level = await find_level(tx, request.campaign_id) or "unspecified"
            return GetCampaignAccessResponse(level=f"CAMPAIGN_LEVEL_{level.upper()}")

    async def ShareCampaign(
        self, request: ShareCampaignRequest, call: Call
    ) -> ShareCampaignResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(ShareCampaignResponse(share=await sharing.share_campaign(tx, request)))

    async def UnshareCampaign(
        self, request: UnshareCampaignRequest, call: Call
    ) -> UnshareCampaignResponse:
        async with self.db.begin(call) as tx:
            await sharing.unshare_campaign(tx, request)
            return tx.answer(UnshareCampaignResponse())

    async def ListCampaignShares(
        self, request: ListCampaignSharesRequest, call: Call
    ) -> ListCampaignSharesResponse:
        async with self.db.look(call) as tx:
            shares, token = await sharing.list_shares(tx, self.pages, request)
            return ListCampaignSharesResponse(shares=shares, next_page_token=token)

    async def SetCampaignPublic(
        self, request: SetCampaignPublicRequest, call: Call
    ) -> SetCampaignPublicResponse:
        async with self.db.begin(call) as tx:
            campaign = await shown(tx, await sharing.set_public(tx, request))
            return tx.answer(SetCampaignPublicResponse(campaign=campaign))

    async def LabelCampaign(
        self, request: LabelCampaignRequest, call: Call
    ) -> LabelCampaignResponse:
        async with self.db.begin(call) as tx:
            campaign = await shown(tx, await labels.label_campaign(tx, request))
            return tx.answer(LabelCampaignResponse(campaign=campaign))

    async def ListCampaignLabels(
        self, request: ListCampaignLabelsRequest, call: Call
    ) -> ListCampaignLabelsResponse:
        async with self.db.look(call) as tx:
            found, token = await labels.list_labels(tx, self.pages, request)
            return ListCampaignLabelsResponse(labels=found, next_page_token=token)

    async def CreateComment(
        self, request: CreateCommentRequest, call: Call
    ) -> CreateCommentResponse:
        async with self.db.begin(call) as tx:
            comment = await comments.create_comment(tx, request)
            return tx.answer(CreateCommentResponse(comment=comment))

    async def EditComment(self, request: EditCommentRequest, call: Call) -> EditCommentResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(EditCommentResponse(comment=await comments.edit_comment(tx, request)))

    async def DeleteComment(
        self, request: DeleteCommentRequest, call: Call
    ) -> DeleteCommentResponse:
        async with self.db.begin(call) as tx:
            await comments.delete_comment(tx, request)
            return tx.answer(DeleteCommentResponse())

    async def ListComments(self, request: ListCommentsRequest, call: Call) -> ListCommentsResponse:
        async with self.db.look(call) as tx:
            found, token = await comments.list_comments(tx, self.pages, request)
            return ListCommentsResponse(comments=found, next_page_token=token)
