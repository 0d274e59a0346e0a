"""Ratings: one per user and version, changed and taken back by their giver.

What must stay true: the counters and averages of template and version equal a recount. A trigger
(templates.count_rating) applies the difference of each change in its own transaction, as the owner
of the library, because who rates a public template may not write it.
"""

from __future__ import annotations

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import Invalid, NotFound, Violation
from chimera.ids import new_id
from chimera.paging import Pages, rows_that_fit
from chimera.templates.operations import get_template
from chimera.templates.usages import is_used_by
from chimera.templates.versions import get_version
from chimera.v1.templates_pb2 import (
    DeleteTemplateRatingRequest,
    ListTemplateRatingsRequest,
    RateTemplateRequest,
    Template,
    TemplateRating,
)

# The owner comes from the row, so that a rating cannot claim another.
PUT_RATING = sql(
    Nothing,
    """
    INSERT INTO templates.ratings (id, org_id, template_id, version_number, user_id, owner_org_id,
                                   rating, is_effective, review, campaign_id)
    SELECT %(id)s::uuid, %(org_id)s::uuid, t.id, %(version_number)s::int, %(user_id)s::uuid, t.org_id,
           %(rating)s::smallint, %(is_effective)s::boolean, %(review)s, NULLIF(%(campaign_id)s, '')::uuid
      FROM templates.templates t WHERE t.id = %(template_id)s::uuid
    ON CONFLICT (template_id, version_number, user_id) DO UPDATE
       SET rating = EXCLUDED.rating, is_effective = EXCLUDED.is_effective, review = EXCLUDED.review,
           campaign_id = EXCLUDED.campaign_id
    """,
)

SELECT_RATING = """
    SELECT id, template_id, version_number, user_id, rating, is_effective, review, campaign_id,
           created_at, updated_at
      FROM templates.ratings
"""

FIND_RATING = sql(
    TemplateRating,
    SELECT_RATING
    + """
     WHERE template_id = %(template_id)s::uuid AND version_number = %(version_number)s
       AND user_id = %(user_id)s::uuid
    """,
)


async def rate_template(tx: Tx, request: RateTemplateRequest) -> tuple[TemplateRating, Template]:
    """The rating and the template with its new average. Raises NotFound(TEMPLATE_NOT_FOUND,
    TEMPLATE_VERSION_NOT_FOUND), Invalid(FIELD_INVALID)."""
    version = await get_version(tx, request.template_id, request.version_number)
    if request.campaign_id and not await is_used_by(tx, version, request.campaign_id):
        violation = Violation("campaign_id", "did not use this version", "FIELD_INVALID")
        raise Invalid(
            "FIELD_INVALID", "campaign_id: did not use this version", violations=[violation]
        )
    place = {
        "template_id": version.template_id,
        "version_number": version.version_number,
        "user_id": tx.call.caller.user_id,
    }
    old = await tx.one(FIND_RATING, **place)
    await tx.run(
        PUT_RATING,
        **place,
        id=new_id(),
        org_id=tx.call.caller.org_id,
        rating=request.rating,
        is_effective=request.is_effective if request.HasField("is_effective") else None,
        review=request.review,
        campaign_id=request.campaign_id,
    )
    rating = await tx.one(FIND_RATING, **place)
    assert rating is not None  # it was written a line above
    record(
        tx,
        "template.rate",
        "template",
        version.template_id,
        old={"rating": old.rating} if old else {},
        new={"version_number": version.version_number, "rating": rating.rating},
    )
    return rating, await get_template(tx, version.template_id)


REMOVE_RATING = sql(
    int,
    """
    DELETE FROM templates.ratings
     WHERE template_id = %(template_id)s::uuid AND version_number = %(version_number)s
       AND user_id = %(user_id)s::uuid
    RETURNING rating
    """,
)


async def delete_rating(tx: Tx, request: DeleteTemplateRatingRequest) -> Template:
    """Raises NotFound(TEMPLATE_NOT_FOUND, TEMPLATE_VERSION_NOT_FOUND, RATING_NOT_FOUND)."""
    version = await get_version(tx, request.template_id, request.version_number)
    old = await tx.one(
        REMOVE_RATING,
        template_id=version.template_id,
        version_number=version.version_number,
        user_id=tx.call.caller.user_id,
    )
    if old is None:
        raise NotFound("RATING_NOT_FOUND", "You have not rated this version.")
    was = {"version_number": version.version_number, "rating": old}
    record(tx, "template.unrate", "template", version.template_id, old=was)
    return await get_template(tx, version.template_id)


LIST_RATINGS = sql(
    TemplateRating,
    SELECT_RATING
    + """
     WHERE template_id = %(template_id)s::uuid
       AND (%(version_number)s = 0 OR version_number = %(version_number)s)
       AND (%(after)s::uuid IS NULL OR id < %(after)s)
     ORDER BY id DESC
     LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_ratings(
    tx: Tx, pages: Pages, request: ListTemplateRatingsRequest
) -> tuple[list[TemplateRating], str]:
    """A page, newest first, and the token of the next. Raises NotFound(TEMPLATE_NOT_FOUND)."""
    size, after = pages.page(request)
    await get_template(tx, request.template_id)
    rows, has_more = await rows_that_fit(
        lambda rating_id, limit: tx.all(
            LIST_RATINGS,
            template_id=request.template_id,
            version_number=request.version_number,
            after=rating_id,
            limit=limit,
        ),
        after[0] if after else None,
        size,
        lambda row: row.id,
    )
    return rows, pages.next_token_at(request, [rows[-1].id]) if has_more else ""
