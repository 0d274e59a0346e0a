"""Versions of a template: numbered 1, 2, 3 ... without gaps, and never changed.

What must stay true: the number is taken by the UPDATE of the template's row, so parallel creators
queue up on it and get numbers of their own; a version of a deleted template stays readable for the
results that pin it, and is not launched again.
"""

from __future__ import annotations

from chimera.audit.recording import record
from chimera.db import Tx, sql
from chimera.faults import Invalid, NotFound, Violation
from chimera.ids import new_id
from chimera.paging import Pages, rows_that_fit
from chimera.rows import struct_dict
from chimera.templates.content import Content, compiled, refusal, stored_content
from chimera.templates.operations import get_template, no_template, not_writable
from chimera.templates.values import RenderError
from chimera.v1.templates_pb2 import (
    DryRenderTemplateRequest,
    ListTemplateVersionsRequest,
    PromptMessage,
    RenderTemplateRequest,
    RenderTemplateResponse,
    RestoreTemplateVersionRequest,
    Template,
    TemplateVersion,
)

SELECT_VERSION = """
    SELECT v.id, v.template_id, v.version_number, v.parent_version_number, v.messages, v.variables,
           v.partials, v.content_hash, v.change_note, v.created_by, v.created_at, v.rating_count,
           v.average_rating, v.effective_votes, v.ineffective_votes, v.scored_count,
           v.success_count, v.success_rate
      FROM templates.versions v
"""

FIND_VERSION = sql(
    TemplateVersion,
    SELECT_VERSION
    + """
      JOIN templates.templates t ON t.id = v.template_id
     WHERE v.template_id = %(template_id)s::uuid
       AND v.version_number = COALESCE(NULLIF(%(version_number)s::int, 0), t.version_number)
       AND (%(even_deleted)s OR t.deleted_at IS NULL)
    """,
    prepare=False,
)


FIND_LABEL = sql(
    int,
    """
    SELECT version_number FROM templates.labels
     WHERE template_id = %(template_id)s::uuid AND name = %(name)s
    """,
)


async def get_version(
    tx: Tx, template_id: str, version_number: int, *, label: str = "", even_deleted: bool = False
) -> TemplateVersion:
    """A version by number (0: the newest) or by label. One of a deleted template is found with
    `even_deleted`.

    Raises NotFound(TEMPLATE_NOT_FOUND, TEMPLATE_VERSION_NOT_FOUND, LABEL_NOT_FOUND), Invalid.
    """
    if label:
        if version_number:
            violation = Violation("label", "give a number or a label, not both", "FIELD_INVALID")
            raise Invalid("FIELD_INVALID", f"label: {violation.message}", violations=[violation])
        await get_template(tx, template_id)
        found = await tx.one(FIND_LABEL, template_id=template_id, name=label)
        if found is None:
            raise NotFound("LABEL_NOT_FOUND", f"The template has no label {label!r}.")
        version_number = found
    version = await tx.one(
        FIND_VERSION,
        template_id=template_id,
        version_number=version_number,
        even_deleted=even_deleted,
    )
    if version is not None:
        return version
    template = await get_template(tx, template_id)
    if template.HasField("deleted_at") and not even_deleted:
        raise no_template()
    raise no_version(template.version_number)


async def drafted(tx: Tx, request: DryRenderTemplateRequest) -> TemplateVersion:
    """What a dry render is about: the draft itself, or a version. Raises what get_version does."""
    if bool(request.template_id) is request.HasField("draft"):
        violation = Violation("draft", "give a template or a draft, not both", "FIELD_INVALID")
        raise Invalid("FIELD_INVALID", f"draft: {violation.message}", violations=[violation])
    if not request.template_id:
        draft = request.draft
        return TemplateVersion(
            messages=draft.messages, variables=draft.variables, partials=draft.partials
        )
    return await get_version(
        tx, request.template_id, request.version_number, label=request.label, even_deleted=True
    )


def no_version(newest: int) -> NotFound:
    return NotFound(
        "TEMPLATE_VERSION_NOT_FOUND", f"The template has no such version; the newest is {newest}."
    )


LIST_VERSIONS = sql(
    TemplateVersion,
    SELECT_VERSION
    + """
     WHERE v.template_id = %(template_id)s::uuid
       AND (%(after)s::int IS NULL OR v.version_number < %(after)s)
     ORDER BY v.version_number DESC
     LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_versions(
    tx: Tx, pages: Pages, request: ListTemplateVersionsRequest
) -> tuple[list[TemplateVersion], str]:
    """A page, newest first, and the token of the next. Raises NotFound(TEMPLATE_NOT_FOUND)."""
    size, after = pages.page(request)
    await get_template(tx, request.template_id)
    rows, has_more = await rows_that_fit(
        lambda number, limit: tx.all(
            LIST_VERSIONS, template_id=request.template_id, after=number, limit=limit
        ),
        after[0] if after else None,
        size,
        lambda row: row.version_number,
    )
    return rows, pages.next_token_at(request, [rows[-1].version_number]) if has_more else ""


INSERT_VERSION = sql(
    TemplateVersion,
    """
    INSERT INTO templates.versions AS v (id, org_id, template_id, version_number,
        parent_version_number, messages, variables, partials, content_hash, change_note, created_by)
    VALUES (%(id)s, %(org_id)s, %(template_id)s, %(version_number)s,
        NULLIF(%(parent_version_number)s, 0), %(messages)s::jsonb, %(variables)s::jsonb,
        %(partials)s::jsonb, %(content_hash)s, %(change_note)s, %(created_by)s)
    RETURNING v.id, v.template_id, v.version_number, v.parent_version_number, v.messages,
              v.variables, v.partials, v.content_hash, v.change_note, v.created_by, v.created_at
    """,
)


async def create_first_version(
    tx: Tx, template: Template, content: Content, change_note: str = ""
) -> TemplateVersion:
    """Version 1, which a new template counts already."""
    return await insert_version(tx, template.id, 1, 0, content, change_note)


TAKE_NUMBER = sql(
    Template,
    """
    UPDATE templates.templates t
       SET version_number = t.version_number + 1, body = %(body)s,
           -- What nobody has reviewed is not published where reviews are required.
           state = CASE WHEN t.state = 'published' AND EXISTS (
                        SELECT FROM templates.review_rules r
                         WHERE r.org_id = t.org_id AND r.review_required) THEN 'draft'
                   ELSE t.state END
     WHERE t.id = %(template_id)s::uuid AND t.deleted_at IS NULL
    RETURNING t.id, t.version_number
    """,
)


async def create_version(
    tx: Tx, template_id: str, parent_version_number: int, content: Content, change_note: str
) -> TemplateVersion:
    """The next version, the child of the given one (0: of the newest).

    Raises NotFound(TEMPLATE_NOT_FOUND, TEMPLATE_VERSION_NOT_FOUND), Denied(TEMPLATE_READ_ONLY).
    """
    template = await tx.one(TAKE_NUMBER, template_id=template_id, body=content.body)
    if template is None:
        raise await not_writable(tx, template_id)
    newest = template.version_number - 1
    parent = parent_version_number or newest
    if parent > newest:
        raise no_version(newest)
    return await insert_version(
        tx, template.id, template.version_number, parent, content, change_note
    )


async def restore_version(tx: Tx, request: RestoreTemplateVersionRequest) -> TemplateVersion:
    """A new version that says what an old one said, as its child. Raises what create_version does."""
    old = await get_version(tx, request.template_id, request.version_number)
    content = stored_content(old)
    note = request.change_note or f"Restores version {old.version_number}"
    version = await create_version(tx, old.template_id, old.version_number, content, note)
    new = {"template_id": old.template_id, "version_number": version.version_number}
    old_facts = {"version_number": old.version_number}
    record(tx, "template_version.restore", "template_version", version.id, old=old_facts, new=new)
    return version


async def insert_version(
    tx: Tx, template_id: str, number: int, parent: int, content: Content, change_note: str
) -> TemplateVersion:
    version = await tx.one(
        INSERT_VERSION,
        id=new_id(),
        org_id=tx.call.caller.org_id,
        template_id=template_id,
        version_number=number,
        parent_version_number=parent,
        messages=content.messages,
        variables=content.variables,
        partials=content.partials,
        content_hash=content.content_hash,
        change_note=change_note,
        created_by=tx.call.caller.user_id,
    )
    assert version is not None  # an INSERT returns its row
    new = {
        "template_id": template_id,
        "version_number": number,
        "parent_version_number": parent,
        # The text itself stays here: the log pins it by its digest.
        "content_sha256": content.content_hash,
        "change_note": change_note,
    }
    record(tx, "template_version.create", "template_version", version.id, new=new)
    return version


def render_version(
    version: TemplateVersion, request: RenderTemplateRequest
) -> RenderTemplateResponse:
    """The version, its partials expanded, filled with the request's values. Raises
    Invalid(VARIABLE_MISSING, VARIABLE_UNKNOWN, VARIABLE_ILL_TYPED, VARIABLE_OUT_OF_RANGE,
    OUTPUT_TOO_LARGE, RENDER_TOO_LONG)."""
    try:
        rendered = compiled(version).render(struct_dict(request.values))
    except RenderError as error:
        # `from None`: nothing that was near a value belongs in a log.
        raise refusal(error, "values") from None
    # Rendering passes messages through one by one, with their roles.
    messages = [
        PromptMessage(role=message.role, text=text)
        for message, (_role, text) in zip(version.messages, rendered, strict=True)
    ]
    return RenderTemplateResponse(messages=messages)
