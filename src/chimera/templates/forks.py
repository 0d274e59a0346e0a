"""Forks: a template of one's own that begins with a version of another one."""

from __future__ import annotations

from chimera.audit.recording import record
from chimera.db import Tx
from chimera.templates.content import stored_content
from chimera.templates.operations import create_template, get_template
from chimera.templates.versions import create_first_version, get_version
from chimera.v1.templates_pb2 import (
    CreateTemplateRequest,
    ForkTemplateRequest,
    SharingLevel,
    Template,
    TemplateVersion,
)


async def fork_template(tx: Tx, request: ForkTemplateRequest) -> tuple[Template, TemplateVersion]:
    """The fork and its first version, whose hash is that of the original.

    Raises NotFound(TEMPLATE_NOT_FOUND, TEMPLATE_VERSION_NOT_FOUND, LABEL_NOT_FOUND), Invalid.
    """
    original = await get_version(
        tx, request.template_id, request.version_number, label=request.label
    )
    source = await get_template(tx, request.template_id)
    wanted = CreateTemplateRequest(
        title=request.title or source.title,
        description=source.description,
        technique_type=source.technique_type,
        vulnerability_type=source.vulnerability_type,
        tags=source.tags,
        sharing_level=request.sharing_level or SharingLevel.SHARING_LEVEL_PRIVATE,
    )
    content = stored_content(original)
    template = await create_template(tx, wanted, content.body, forked_from=original)
    note = f"Forked from version {original.version_number} of {source.title}"
    version = await create_first_version(tx, template, content, note)
    origin = {"template_id": source.id, "version_number": original.version_number}
    record(tx, "template.fork", "template", template.id, new=origin)
    return template, version
