"""TemplateService: one method an RPC, each one transaction. DatasetService stands beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from chimera.call import Call
from chimera.core import Core
from chimera.db import Tx
from chimera.rows import struct_dict
from chimera.templates import (
    forks,
    labels,
    operations,
    partials,
    ratings,
    review,
    sharing,
    usages,
    versions,
)
from chimera.templates.classifications import CLASSIFICATIONS
from chimera.templates.content import Content, checked_content
from chimera.templates.diffs import diff_versions
from chimera.templates.drafts import dry_render
from chimera.templates.exporting import export_templates
from chimera.templates.importing import import_templates
from chimera.templates.promptfoo import read_promptfoo
from chimera.templates.promptfoo_import import import_promptfoo
from chimera.templates.searching import search_templates
from chimera.v1 import templates_pb2_grpc
from chimera.v1.templates_pb2 import (
    ChangeTemplateStateRequest,
    ChangeTemplateStateResponse,
    CreateTemplateRequest,
    CreateTemplateResponse,
    CreateTemplateVersionRequest,
    CreateTemplateVersionResponse,
    DeleteTemplateLabelRequest,
    DeleteTemplateLabelResponse,
    DeleteTemplateRatingRequest,
    DeleteTemplateRatingResponse,
    DeleteTemplateRequest,
    DeleteTemplateResponse,
    DiffTemplateVersionsRequest,
    DiffTemplateVersionsResponse,
    DryRenderTemplateRequest,
    DryRenderTemplateResponse,
    ExportTemplatesRequest,
    ExportTemplatesResponse,
    ForkTemplateRequest,
    ForkTemplateResponse,
    GetTemplateRequest,
    GetTemplateResponse,
    GetTemplateReviewRulesRequest,
    GetTemplateReviewRulesResponse,
    GetTemplateVersionRequest,
    GetTemplateVersionResponse,
    ImportPromptfooRequest,
    ImportPromptfooResponse,
    ImportTemplatesRequest,
    ImportTemplatesResponse,
    ListClassificationsRequest,
    ListClassificationsResponse,
    ListTemplateLabelMovesRequest,
    ListTemplateLabelMovesResponse,
    ListTemplateLabelsRequest,
    ListTemplateLabelsResponse,
    ListTemplateRatingsRequest,
    ListTemplateRatingsResponse,
    ListTemplateSharesRequest,
    ListTemplateSharesResponse,
    ListTemplatesRequest,
    ListTemplatesResponse,
    ListTemplateUsagesRequest,
    ListTemplateUsagesResponse,
    ListTemplateVersionsRequest,
    ListTemplateVersionsResponse,
    MoveTemplateLabelRequest,
    MoveTemplateLabelResponse,
    Partial,
    PromptMessage,
    RateTemplateRequest,
    RateTemplateResponse,
    RenderTemplateRequest,
    RenderTemplateResponse,
    RestoreTemplateVersionRequest,
    RestoreTemplateVersionResponse,
    SearchTemplatesRequest,
    SearchTemplatesResponse,
    SetTemplatePublicRequest,
    SetTemplatePublicResponse,
    SetTemplateReviewRulesRequest,
    SetTemplateReviewRulesResponse,
    ShareTemplateRequest,
    ShareTemplateResponse,
    TemplateVersion,
    UndeleteTemplateRequest,
    UndeleteTemplateResponse,
    UnshareTemplateRequest,
    UnshareTemplateResponse,
    UpdateTemplateRequest,
    UpdateTemplateResponse,
    Variable,
)


class TemplateService(templates_pb2_grpc.TemplateServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.pages = core.db, core.pages

    async def CreateTemplate(
        self, request: CreateTemplateRequest, call: Call
    ) -> CreateTemplateResponse:
        async with self.db.begin(call) as tx:
            content = await _content(tx, request.messages, request.variables, request.partials)
            template = await operations.create_template(tx, request, content.body)
            version = await versions.create_first_version(tx, template, content)
            return tx.answer(CreateTemplateResponse(template=template, version=version))

    async def GetTemplate(self, request: GetTemplateRequest, call: Call) -> GetTemplateResponse:
        async with self.db.begin(call) as tx:
            template = await operations.get_template(tx, request.template_id)
            return GetTemplateResponse(template=template)

    async def ListTemplates(
        self, request: ListTemplatesRequest, call: Call
    ) -> ListTemplatesResponse:
        async with self.db.begin(call) as tx:
            templates, token = await operations.list_templates(tx, self.pages, request)
            return ListTemplatesResponse(templates=templates, next_page_token=token)

    async def SearchTemplates(
        self, request: SearchTemplatesRequest, call: Call
    ) -> SearchTemplatesResponse:
        async with self.db.begin(call) as tx:
            return await search_templates(tx, self.pages, request)

    async def ListClassifications(
        self, _request: ListClassificationsRequest, _call: Call
    ) -> ListClassificationsResponse:
        return ListClassificationsResponse(classifications=CLASSIFICATIONS.values())

    async def UpdateTemplate(
        self, request: UpdateTemplateRequest, call: Call
    ) -> UpdateTemplateResponse:
        async with self.db.begin(call) as tx:
            template = await operations.update_template(tx, request)
            return tx.answer(UpdateTemplateResponse(template=template))

    async def DeleteTemplate(
        self, request: DeleteTemplateRequest, call: Call
    ) -> DeleteTemplateResponse:
        async with self.db.begin(call) as tx:
            template = await operations.delete_template(tx, request)
            return tx.answer(DeleteTemplateResponse(template=template))

    async def UndeleteTemplate(
        self, request: UndeleteTemplateRequest, call: Call
    ) -> UndeleteTemplateResponse:
        async with self.db.begin(call) as tx:
            template = await operations.undelete_template(tx, request.template_id)
            return tx.answer(UndeleteTemplateResponse(template=template))

    async def ForkTemplate(self, request: ForkTemplateRequest, call: Call) -> ForkTemplateResponse:
        async with self.db.begin(call) as tx:
            template, version = await forks.fork_template(tx, request)
            return tx.answer(ForkTemplateResponse(template=template, version=version))

    async def ChangeTemplateState(
        self, request: ChangeTemplateStateRequest, call: Call
    ) -> ChangeTemplateStateResponse:
        async with self.db.begin(call) as tx:
            template = await operations.change_state(tx, request)
            return tx.answer(ChangeTemplateStateResponse(template=template))

    async def GetTemplateReviewRules(
        self, _request: GetTemplateReviewRulesRequest, call: Call
    ) -> GetTemplateReviewRulesResponse:
        async with self.db.begin(call) as tx:
            return GetTemplateReviewRulesResponse(rules=await review.get_rules(tx))

    async def SetTemplateReviewRules(
        self, request: SetTemplateReviewRulesRequest, call: Call
    ) -> SetTemplateReviewRulesResponse:
        async with self.db.begin(call) as tx:
            rules = await review.set_rules(tx, request.rules)
            return tx.answer(SetTemplateReviewRulesResponse(rules=rules))

    # --- versions and labels ----------------------------------------------------------------------

    async def CreateTemplateVersion(
        self, request: CreateTemplateVersionRequest, call: Call
    ) -> CreateTemplateVersionResponse:
        async with self.db.begin(call) as tx:
            content = await _content(
                tx, request.messages, request.variables, request.partials, request.template_id
            )
            version = await versions.create_version(
                tx,
                request.template_id,
                request.parent_version_number,
                content,
                request.change_note,
            )
            return tx.answer(CreateTemplateVersionResponse(version=version))

    async def RestoreTemplateVersion(
        self, request: RestoreTemplateVersionRequest, call: Call
    ) -> RestoreTemplateVersionResponse:
        async with self.db.begin(call) as tx:
            version = await versions.restore_version(tx, request)
            return tx.answer(RestoreTemplateVersionResponse(version=version))

    async def GetTemplateVersion(
        self, request: GetTemplateVersionRequest, call: Call
    ) -> GetTemplateVersionResponse:
        async with self.db.begin(call) as tx:
            version = await versions.get_version(
                tx,
                request.template_id,
                request.version_number,
                label=request.label,
                even_deleted=True,
            )
            return GetTemplateVersionResponse(version=version)

    async def ListTemplateVersions(
        self, request: ListTemplateVersionsRequest, call: Call
    ) -> ListTemplateVersionsResponse:
        async with self.db.begin(call) as tx:
            found, token = await versions.list_versions(tx, self.pages, request)
            return ListTemplateVersionsResponse(versions=found, next_page_token=token)

    async def DiffTemplateVersions(
        self, request: DiffTemplateVersionsRequest, call: Call
    ) -> DiffTemplateVersionsResponse:
        other = request.to_template_id or request.template_id
        async with self.db.begin(call) as tx:
            old = await versions.get_version(
                tx, request.template_id, request.from_version_number, even_deleted=True
            )
            new = await versions.get_version(
                tx, other, request.to_version_number, even_deleted=True
            )
        return await asyncio.to_thread(diff_versions, old, new)

    async def MoveTemplateLabel(
        self, request: MoveTemplateLabelRequest, call: Call
    ) -> MoveTemplateLabelResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(MoveTemplateLabelResponse(label=await labels.move_label(tx, request)))

    async def DeleteTemplateLabel(
        self, request: DeleteTemplateLabelRequest, call: Call
    ) -> DeleteTemplateLabelResponse:
        async with self.db.begin(call) as tx:
            await labels.delete_label(tx, request)
            return tx.answer(DeleteTemplateLabelResponse())

    async def ListTemplateLabels(
        self, request: ListTemplateLabelsRequest, call: Call
    ) -> ListTemplateLabelsResponse:
        async with self.db.begin(call) as tx:
            found = await labels.list_labels(tx, request.template_id)
            return ListTemplateLabelsResponse(labels=found)

    async def ListTemplateLabelMoves(
        self, request: ListTemplateLabelMovesRequest, call: Call
    ) -> ListTemplateLabelMovesResponse:
        async with self.db.begin(call) as tx:
            moves, token = await labels.list_label_moves(tx, self.pages, request)
            return ListTemplateLabelMovesResponse(moves=moves, next_page_token=token)

    # --- rendering --------------------------------------------------------------------------------

    async def RenderTemplate(
        self, request: RenderTemplateRequest, call: Call
    ) -> RenderTemplateResponse:
        async with self.db.begin(call) as tx:
            version = await versions.get_version(
                tx,
                request.template_id,
                request.version_number,
                label=request.label,
                even_deleted=True,
            )
            whole, _pins = await partials.expand(tx, version)
        # The transaction is over: rendering is work of the processor alone, and a large one must
        # not hold up other callers.
        answer = await asyncio.to_thread(versions.render_version, whole, request)
        answer.version.CopyFrom(version)
        return answer

    async def DryRenderTemplate(
        self, request: DryRenderTemplateRequest, call: Call
    ) -> DryRenderTemplateResponse:
        async with self.db.begin(call) as tx:
            version = await versions.drafted(tx, request)
            found = await partials.resolve(tx, version.partials, version.template_id)
        return await asyncio.to_thread(dry_render, version, found, struct_dict(request.values))

    # --- sharing, ratings, usages -----------------------------------------------------------------

    async def SetTemplatePublic(
        self, request: SetTemplatePublicRequest, call: Call
    ) -> SetTemplatePublicResponse:
        async with self.db.begin(call) as tx:
            template = await sharing.set_public(tx, request)
            return tx.answer(SetTemplatePublicResponse(template=template))

    async def ShareTemplate(
        self, request: ShareTemplateRequest, call: Call
    ) -> ShareTemplateResponse:
        async with self.db.begin(call) as tx:
            share = await sharing.share_template(tx, request)
            return tx.answer(ShareTemplateResponse(share=share))

    async def UnshareTemplate(
        self, request: UnshareTemplateRequest, call: Call
    ) -> UnshareTemplateResponse:
        async with self.db.begin(call) as tx:
            await sharing.unshare_template(tx, request)
            return tx.answer(UnshareTemplateResponse())

    async def ListTemplateShares(
        self, request: ListTemplateSharesRequest, call: Call
    ) -> ListTemplateSharesResponse:
        async with self.db.begin(call) as tx:
            shares, token = await sharing.list_shares(tx, self.pages, request)
            return ListTemplateSharesResponse(shares=shares, next_page_token=token)

    async def RateTemplate(self, request: RateTemplateRequest, call: Call) -> RateTemplateResponse:
        async with self.db.begin(call) as tx:
            rating, template = await ratings.rate_template(tx, request)
            return tx.answer(RateTemplateResponse(rating=rating, template=template))

    async def DeleteTemplateRating(
        self, request: DeleteTemplateRatingRequest, call: Call
    ) -> DeleteTemplateRatingResponse:
        async with self.db.begin(call) as tx:
            template = await ratings.delete_rating(tx, request)
            return tx.answer(DeleteTemplateRatingResponse(template=template))

    async def ListTemplateRatings(
        self, request: ListTemplateRatingsRequest, call: Call
    ) -> ListTemplateRatingsResponse:
        async with self.db.begin(call) as tx:
            found, token = await ratings.list_ratings(tx, self.pages, request)
            return ListTemplateRatingsResponse(ratings=found, next_page_token=token)

    async def ListTemplateUsages(
        self, request: ListTemplateUsagesRequest, call: Call
    ) -> ListTemplateUsagesResponse:
        async with self.db.begin(call) as tx:
            found, token = await usages.list_usages(tx, self.pages, request)
            return ListTemplateUsagesResponse(usages=found, next_page_token=token)

    # --- files ------------------------------------------------------------------------------------

    async def ExportTemplates(
        self, request: ExportTemplatesRequest, call: Call
    ) -> AsyncIterator[ExportTemplatesResponse]:
        async for content in export_templates(self.db, call, request):
            yield ExportTemplatesResponse(content=content)

    async def ImportTemplates(
        self, requests: AsyncIterator[ImportTemplatesRequest], call: Call
    ) -> AsyncIterator[ImportTemplatesResponse]:
        async for answer in import_templates(self.db, call, requests):
            yield answer

    async def ImportPromptfoo(
        self, request: ImportPromptfooRequest, call: Call
    ) -> ImportPromptfooResponse:
        plan = await asyncio.to_thread(read_promptfoo, request.content, request.title)
        async with self.db.begin(call) as tx:
            return tx.answer(await import_promptfoo(tx, plan, dry_run=request.dry_run))


async def _content(
    tx: Tx,
    messages: Sequence[PromptMessage],
    variables: Sequence[Variable],
    included: Sequence[Partial],
    template_id: str = "",
) -> Content:
    """Checks what a new version says, its partials as the caller sees them."""
    found = await partials.resolve(tx, included, template_id)
    inherited = {name: one.variables for name, one in found.items()}
    # In threads: JSON Schemas take a while to check, and must not hold up other callers.
    content = await asyncio.to_thread(checked_content, messages, variables, included, inherited)
    if found:
        version = TemplateVersion(messages=messages, variables=variables, partials=included)
        await asyncio.to_thread(partials.check_expanded, version, found)
    return content
