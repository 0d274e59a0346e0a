"""TemplateService: one method an RPC, each one transaction."""

from __future__ import annotations

from chimera.call import Call
from chimera.core import Core
from chimera.templates import operations, versions
from chimera.templates.content import checked_content
from chimera.v1 import templates_pb2_grpc
from chimera.v1.templates_pb2 import (
    CreateTemplateRequest,
    CreateTemplateResponse,
    CreateTemplateVersionRequest,
    CreateTemplateVersionResponse,
    DeleteTemplateRequest,
    DeleteTemplateResponse,
    GetTemplateRequest,
    GetTemplateResponse,
    GetTemplateVersionRequest,
    GetTemplateVersionResponse,
    ListTemplatesRequest,
    ListTemplatesResponse,
    ListTemplateVersionsRequest,
    ListTemplateVersionsResponse,
    RenderTemplateRequest,
    RenderTemplateResponse,
    UndeleteTemplateRequest,
    UndeleteTemplateResponse,
    UpdateTemplateRequest,
    UpdateTemplateResponse,
)


class TemplateService(templates_pb2_grpc.TemplateServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.pages = core.db, core.pages

    async def CreateTemplate(
        self, request: CreateTemplateRequest, call: Call
    ) -> CreateTemplateResponse:
        content = checked_content(request.messages, request.variables)
        async with self.db.begin(call) as tx:
            template = await operations.create_template(tx, request)
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

    async def CreateTemplateVersion(
        self, request: CreateTemplateVersionRequest, call: Call
    ) -> CreateTemplateVersionResponse:
        content = checked_content(request.messages, request.variables)
        async with self.db.begin(call) as tx:
            version = await versions.create_version(tx, request, content)
            return tx.answer(CreateTemplateVersionResponse(version=version))

    async def GetTemplateVersion(
        self, request: GetTemplateVersionRequest, call: Call
    ) -> GetTemplateVersionResponse:
        async with self.db.begin(call) as tx:
            version = await versions.get_version(
                tx, request.template_id, request.version_number, even_deleted=True
            )
            return GetTemplateVersionResponse(version=version)

    async def ListTemplateVersions(
        self, request: ListTemplateVersionsRequest, call: Call
    ) -> ListTemplateVersionsResponse:
        async with self.db.begin(call) as tx:
            found, token = await versions.list_versions(tx, self.pages, request)
            return ListTemplateVersionsResponse(versions=found, next_page_token=token)

    async def RenderTemplate(
        self, request: RenderTemplateRequest, call: Call
    ) -> RenderTemplateResponse:
        async with self.db.begin(call) as tx:
            version = await versions.get_version(
                tx, request.template_id, request.version_number, even_deleted=True
            )
        # The transaction is over: rendering is work of the processor alone.
        return versions.render_version(version, request)
