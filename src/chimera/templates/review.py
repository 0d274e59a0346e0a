"""The way of a template through draft, review, published, archived, and who may take which step.

    draft      to review, published, archived
    review     to draft, published, archived
    published  to draft, archived
    archived   to draft

Who may change a template takes every step but those to published. These need the permission
TEMPLATE_REVIEW; straight from draft only where the organisation requires no review; and where it
requires another reviewer, somebody who neither made the template, nor wrote its newest version, nor
submitted it.
"""

from __future__ import annotations

from chimera.audit.recording import record
from chimera.db import Nothing, Tx, sql
from chimera.faults import Denied, NotReady
from chimera.rows import enum_text
from chimera.v1.options_pb2 import Permission
from chimera.v1.templates_pb2 import Template, TemplateReviewRules, TemplateState

STEPS = {
    "draft": ("review", "published", "archived"),
    "review": ("draft", "published", "archived"),
    "published": ("draft", "archived"),
    "archived": ("draft",),
}

FIND_RULES = sql(
    TemplateReviewRules,
    "SELECT review_required, other_reviewer_required FROM templates.review_rules",
)


async def get_rules(tx: Tx) -> TemplateReviewRules:
    """What the caller's organisation asks; nothing where it never said."""
    return await tx.one(FIND_RULES) or TemplateReviewRules()


SET_RULES = sql(
    Nothing,
    """
    INSERT INTO templates.review_rules (org_id, review_required, other_reviewer_required, updated_by)
    VALUES (%(org_id)s, %(review_required)s, %(other_reviewer_required)s, %(updated_by)s)
    ON CONFLICT (org_id) DO UPDATE
       SET review_required = EXCLUDED.review_required,
           other_reviewer_required = EXCLUDED.other_reviewer_required,
           updated_by = EXCLUDED.updated_by
    """,
)


async def set_rules(tx: Tx, rules: TemplateReviewRules) -> TemplateReviewRules:
    old = await get_rules(tx)
    caller = tx.call.caller
    await tx.run(
        SET_RULES,
        org_id=caller.org_id,
        review_required=rules.review_required,
        other_reviewer_required=rules.other_reviewer_required,
        updated_by=caller.user_id,
    )
    record(
        tx,
        "template_rules.set",
        "template_rules",
        caller.org_id,
        old=_facts(old),
        new=_facts(rules),
    )
    return rules


def _facts(rules: TemplateReviewRules) -> dict[str, bool]:
    return {
        "review_required": rules.review_required,
        "other_reviewer_required": rules.other_reviewer_required,
    }


AUTHORS = sql(
    str,
    """
    SELECT v.created_by FROM templates.versions v
     WHERE v.template_id = %(template_id)s::uuid AND v.version_number = %(version_number)s
    """,
)

SET_SUBMITTER = sql(
    Nothing,
    "UPDATE templates.templates SET submitted_by = %(user_id)s WHERE id = %(template_id)s::uuid",
)


async def check_transition(tx: Tx, template: Template, state: TemplateState) -> None:
    """Whether the caller may bring a template it may change into this state; notes who submits it.

    Raises NotReady(STATE_TRANSITION_REFUSED), Denied(PERMISSION_MISSING).
    """
    old = enum_text(template, "state", template.state) or ""
    new = enum_text(template, "state", state) or ""
    if old == new:
        return
    if new not in STEPS[old]:
        raise _refused(f"From {old} a template goes to {' or '.join(STEPS[old])}.")
    if new == "review":
        await tx.run(SET_SUBMITTER, template_id=template.id, user_id=tx.call.caller.user_id)
    if new == "published":
        await _check_publisher(tx, template, old)


async def _check_publisher(tx: Tx, template: Template, old: str) -> None:
    caller = tx.call.caller
    if not caller.may(Permission.PERMISSION_TEMPLATE_REVIEW):
        raise Denied("PERMISSION_MISSING", "Publishing needs the permission TEMPLATE_REVIEW.")
    rules = await get_rules(tx)
    if old == "draft" and rules.review_required:
        raise _refused("Your organisation publishes after a review; bring it into review first.")
    if rules.other_reviewer_required:
        author = await tx.one(
            AUTHORS, template_id=template.id, version_number=template.version_number
        )
        if caller.user_id in (template.created_by, template.submitted_by, author):
            raise _refused("Your organisation wants somebody else to review what you wrote.")


def _refused(message: str) -> NotReady:
    return NotReady("STATE_TRANSITION_REFUSED", message)
