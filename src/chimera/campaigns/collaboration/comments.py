"""Comments on campaigns, runs and recorded cells, in threads of one level.

What must stay true: a reply is about what the first of its thread is about; a comment is changed by who
wrote it, and taken out by them or by an admin of the campaign; the text of one that was taken out is
told to nobody, and its row stays for those who answered.
"""

from __future__ import annotations

from chimera.audit.recording import record
from chimera.campaigns.collaboration.levels import bad_field, check_level, find_level
from chimera.campaigns.operations import get_campaign
from chimera.campaigns.results import check_recorded
from chimera.campaigns.runs import get_run
from chimera.db import Nothing, Tx, sql
from chimera.faults import Denied, NotFound
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.v1.collaboration_pb2 import (
    Comment,
    CreateCommentRequest,
    DeleteCommentRequest,
    EditCommentRequest,
    ListCommentsRequest,
)

SELECT_COMMENT = """
    SELECT c.id, c.campaign_id, c.run_id, c.cell_no, c.reply_to,
           CASE WHEN c.deleted_at IS NULL THEN c.text ELSE '' END AS text,
           c.created_by, c.created_at, c.edited_at, c.deleted_at,
           (SELECT count(*) FROM campaigns.comments r
             WHERE r.reply_to = c.id AND r.deleted_at IS NULL) AS reply_count
      FROM campaigns.comments c
"""
GET_COMMENT = sql(
    Comment,
    SELECT_COMMENT + "WHERE c.campaign_id = %(campaign_id)s AND c.id = %(comment_id)s",
)


async def get_comment(tx: Tx, campaign_id: str, comment_id: str) -> Comment:
    """Deleted or not. Raises NotFound(COMMENT_NOT_FOUND)."""
    comment = await tx.one(GET_COMMENT, campaign_id=campaign_id, comment_id=comment_id)
    if comment is None:
        raise _no_comment()
    return comment


def _no_comment() -> NotFound:
    return NotFound("COMMENT_NOT_FOUND", "The campaign has no such comment.")


INSERT_COMMENT = sql(
    Nothing,
    """
    INSERT INTO campaigns.comments (id, org_id, campaign_id, run_id, cell_no, reply_to, text, created_by)
    VALUES (%(id)s, %(org_id)s, %(campaign_id)s, NULLIF(%(run_id)s, '')::uuid, %(cell_no)s,
            NULLIF(%(reply_to)s, '')::uuid, %(text)s, %(created_by)s)
    """,
)


async def create_comment(tx: Tx, request: CreateCommentRequest) -> Comment:
    """Raises NotFound (CAMPAIGN_NOT_FOUND, RUN_NOT_FOUND, EXECUTION_NOT_FOUND, COMMENT_NOT_FOUND),
    Denied(CAMPAIGN_LEVEL_TOO_LOW), Invalid(FIELD_INVALID)."""
    await _check_may_comment(tx, request.campaign_id)
    run_id, cell_no = await _place(tx, request)
    comment_id = new_id()
    await tx.run(
        INSERT_COMMENT,
        id=comment_id,
        org_id=tx.call.caller.org_id,
        campaign_id=request.campaign_id,
        run_id=run_id,
        cell_no=cell_no,
        reply_to=request.reply_to,
        text=request.text,
        created_by=tx.call.caller.user_id,
    )
    comment = await get_comment(tx, request.campaign_id, comment_id)
    _record(tx, "comment.create", comment)
    return comment


async def _check_may_comment(tx: Tx, campaign_id: str) -> None:
    campaign = await get_campaign(tx, campaign_id)
    if campaign.HasField("deleted_at"):
        raise NotFound("CAMPAIGN_NOT_FOUND", "There is no such campaign.")
    await check_level(tx, campaign_id, "comment")


async def _place(tx: Tx, request: CreateCommentRequest) -> tuple[str, int | None]:
    """Run and cell that a new comment is about."""
    if request.reply_to:
        if request.run_id or request.HasField("cell_no"):
            raise bad_field("run_id", "a reply is about what the comment is about; leave it out")
        first = await get_comment(tx, request.campaign_id, request.reply_to)
        if first.HasField("deleted_at"):
            raise _no_comment()
        if first.reply_to:
            raise bad_field("reply_to", "threads have one level: reply to the first of the thread")
        return first.run_id, first.cell_no if first.HasField("cell_no") else None
    if not request.run_id:
        if request.HasField("cell_no"):
            raise bad_field("cell_no", "goes with run_id")
        return "", None
    run = await get_run(tx, request.run_id)
    if run.campaign_id != request.campaign_id:
        raise NotFound("RUN_NOT_FOUND", "The campaign has no such run.")
    if not request.HasField("cell_no"):
        return run.id, None
    await check_recorded(tx, run.id, request.cell_no)
    return run.id, request.cell_no


EDIT_COMMENT = sql(
    Nothing,
    """
    UPDATE campaigns.comments SET text = %(text)s, edited_at = clock_timestamp()
     WHERE id = %(comment_id)s AND deleted_at IS NULL
    """,
)


async def edit_comment(tx: Tx, request: EditCommentRequest) -> Comment:
    """Raises NotFound (CAMPAIGN_NOT_FOUND, COMMENT_NOT_FOUND), Denied (COMMENT_NOT_YOURS,
    CAMPAIGN_LEVEL_TOO_LOW)."""
    await _check_may_comment(tx, request.campaign_id)
    comment = await get_comment(tx, request.campaign_id, request.comment_id)
    if comment.HasField("deleted_at"):
        raise _no_comment()
    if comment.created_by != tx.call.caller.user_id:
        raise Denied("COMMENT_NOT_YOURS", "A comment is changed by who wrote it; write a reply.")
    if not await tx.run(EDIT_COMMENT, comment_id=comment.id, text=request.text):
        raise _no_comment()  # deleted meanwhile
    comment = await get_comment(tx, request.campaign_id, comment.id)
    _record(tx, "comment.edit", comment)
    return comment


DELETE_COMMENT = sql(
    Nothing,
    """
    UPDATE campaigns.comments SET deleted_at = clock_timestamp()
     WHERE id = %(comment_id)s AND deleted_at IS NULL
    """,
)


async def delete_comment(tx: Tx, request: DeleteCommentRequest) -> None:
    """Raises NotFound (CAMPAIGN_NOT_FOUND, COMMENT_NOT_FOUND), Denied(COMMENT_NOT_YOURS)."""
    await get_campaign(tx, request.campaign_id)
    comment = await get_comment(tx, request.campaign_id, request.comment_id)
    if comment.HasField("deleted_at"):
        raise _no_comment()
    own = comment.created_by == tx.call.caller.user_id
    if not own and await find_level(tx, request.campaign_id) != "admin":
        raise Denied(
            "COMMENT_NOT_YOURS", "Other people's comments are taken out by admins of the campaign."
        )
    if not await tx.run(DELETE_COMMENT, comment_id=comment.id):
        raise _no_comment()  # deleted meanwhile
    _record(tx, "comment.delete", comment)


def _record(tx: Tx, action: str, comment: Comment) -> None:
    """Without the text: what people say is theirs to take back, and the log keeps for ever."""
    facts = {
        "campaign_id": comment.campaign_id,
        "run_id": comment.run_id,
        "cell_no": comment.cell_no if comment.HasField("cell_no") else None,
        "reply_to": comment.reply_to,
        "created_by": comment.created_by,
    }
    record(tx, action, "comment", comment.id, new=facts)


LIST_THREADS = sql(
    Comment,
    SELECT_COMMENT
    + """
     WHERE c.campaign_id = %(campaign_id)s AND c.reply_to IS NULL
       AND (%(run_id)s::uuid IS NULL OR c.run_id = %(run_id)s)
       AND (%(cell_no)s::bigint IS NULL OR c.cell_no = %(cell_no)s)
       AND (c.deleted_at IS NULL OR EXISTS (SELECT FROM campaigns.comments r
                                             WHERE r.reply_to = c.id AND r.deleted_at IS NULL))
       AND (%(after)s::uuid IS NULL OR c.id < %(after)s)
     ORDER BY c.id DESC LIMIT %(limit)s
    """,
    prepare=False,
)
LIST_REPLIES = sql(
    Comment,
    SELECT_COMMENT
    + """
     WHERE c.reply_to = %(reply_to)s AND c.deleted_at IS NULL
       AND (%(after)s::uuid IS NULL OR c.id > %(after)s)
     ORDER BY c.id LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_comments(
    tx: Tx, pages: Pages, request: ListCommentsRequest
) -> tuple[list[Comment], str]:
    """A page. Raises NotFound (CAMPAIGN_NOT_FOUND, COMMENT_NOT_FOUND), Invalid(FIELD_INVALID)."""
    size, position = pages.page(request)
    after = position[0] if position else None
    await get_campaign(tx, request.campaign_id)
    cell_no = request.cell_no if request.HasField("cell_no") else None
    if cell_no is not None and not request.run_id:
        raise bad_field("cell_no", "goes with run_id")
    if request.reply_to:
        first = await get_comment(tx, request.campaign_id, request.reply_to)
        rows = await tx.all(LIST_REPLIES, reply_to=first.id, after=after, limit=size + 1)
    else:
        rows = await tx.all(
            LIST_THREADS,
            campaign_id=request.campaign_id,
            run_id=request.run_id or None,
            cell_no=cell_no,
            after=after,
            limit=size + 1,
        )
    return rows[:size], pages.next_token(request, rows, size, "id")
