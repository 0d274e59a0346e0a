"""Export: templates as documents, each read in a transaction of its own, so that a long export holds
nothing open and no more than one of them in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from chimera.audit.leaf import Kind
from chimera.audit.recording import record
from chimera.call import Call
from chimera.db import Tx, sql
from chimera.faults import NotFound
from chimera.pools import Database
from chimera.templates.documents import written
from chimera.templates.operations import SELECT_TEMPLATE
from chimera.templates.plain_yaml import yaml_text
from chimera.templates.versions import SELECT_VERSION
from chimera.v1.options_pb2 import Access
from chimera.v1.templates_pb2 import (
    ExportTemplatesRequest,
    ImportFormat,
    Template,
    TemplateVersion,
)

PAGE = 50
CHUNK_BYTES = 512 * 1024

PAGE_OF_TEMPLATES = sql(
    Template,
    SELECT_TEMPLATE
    + """
     WHERE deleted_at IS NULL AND (%(after)s::uuid IS NULL OR id > %(after)s)
       AND (%(ids)s::uuid[] IS NULL AND org_id = %(org_id)s::uuid OR id = ANY (%(ids)s::uuid[]))
     ORDER BY id LIMIT %(limit)s
    """,
    prepare=False,
)

VERSIONS_OF = sql(
    TemplateVersion,
    SELECT_VERSION + "WHERE v.template_id = %(template_id)s::uuid ORDER BY v.version_number",
)

LABELS_OF = sql(
    dict,
    "SELECT name, version_number FROM templates.labels WHERE template_id = %(template_id)s::uuid",
)


async def export_templates(
    db: Database, call: Call, request: ExportTemplatesRequest
) -> AsyncIterator[bytes]:
    """The file in pieces; templates are in the order they were made. The export is recorded.

    Raises NotFound(TEMPLATE_NOT_FOUND) when a template was named that is not there.
    """
    wanted = list(dict.fromkeys(request.template_ids)) or None
    async with db.begin(call) as tx:
        new = {"templates": len(wanted) if wanted else "all"}
        record(tx, "template.export", "organisation", call.caller.org_id, new=new, kind=Kind.ACCESS)
        if wanted and len(await _page(tx, wanted, None, len(wanted))) != len(wanted):
            raise NotFound("TEMPLATE_NOT_FOUND", "One of these templates is not there.")
    # The pages are reading that was recorded above.
    reading = replace(call, access=Access())
    waiting: list[bytes] = []
    size = 0
    after: str | None = None
    while True:
        async with db.begin(reading) as tx:
            templates = await _page(tx, wanted, after, PAGE)
        for template in templates:
            async with db.begin(reading) as tx:
                document = await _document(tx, template)
            if not document["versions"]:
                continue  # it was taken out of the caller's sight meanwhile
            piece = await asyncio.to_thread(serialized, document, request.format)
            if waiting and size + len(piece) > CHUNK_BYTES:
                yield b"".join(waiting)
                waiting, size = [], 0
            waiting.append(piece)
            size += len(piece)
        if len(templates) < PAGE:
            break
        after = templates[-1].id
    if waiting:
        for piece in _split(b"".join(waiting)):
            yield piece


def _split(content: bytes) -> Sequence[bytes]:
    """A document may be larger than a message."""
    return [content[at : at + 2 * CHUNK_BYTES] for at in range(0, len(content), 2 * CHUNK_BYTES)]


async def _page(tx: Tx, ids: list[str] | None, after: str | None, limit: int) -> list[Template]:
    return await tx.all(
        PAGE_OF_TEMPLATES, ids=ids, after=after, limit=limit, org_id=tx.call.caller.org_id
    )


async def _document(tx: Tx, template: Template) -> dict[str, Any]:
    versions = await tx.all(VERSIONS_OF, template_id=template.id)
    rows = await tx.all(LABELS_OF, template_id=template.id)
    return written(template, versions, {row["name"]: row["version_number"] for row in rows})


def serialized(document: Mapping[str, Any], format: int) -> bytes:
    if format == ImportFormat.IMPORT_FORMAT_JSONL:
        return orjson.dumps(document) + b"\n"
    return b"---\n" + yaml_text(dict(document)).encode()
