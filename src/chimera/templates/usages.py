"""Usages: what campaigns made of a template, one row a run and version.

What must stay true: a usage is written with the launch; its figures are set, not added, so setting
them twice changes nothing; the counters of template and version follow by trigger and equal the sum
over the usages. No secret value is in a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from chimera.db import Nothing, Tx, sql
from chimera.ids import new_id
from chimera.paging import Pages, rows_that_fit
from chimera.templates.operations import get_template
from chimera.v1.templates_pb2 import (
    ListTemplateUsagesRequest,
    MessageRole,
    TemplateUsage,
    TemplateVersion,
)

VALUE_CHARS_MAX = 500
MASK = "[secret]"


@dataclass(frozen=True, slots=True)
class Use:
    """A version as a run uses it, the first of its rows of values, and how many there are."""

    version: TemplateVersion
    rows: Sequence[Mapping[str, Any]]
    row_count: int


INSERT_USAGE = sql(
    Nothing,
    """
    INSERT INTO templates.usages (run_id, template_id, version_number, id, org_id, campaign_id,
                                  used_by, original_prompt, customizations)
    VALUES (%(run_id)s, %(template_id)s, %(version_number)s, %(id)s, %(org_id)s, %(campaign_id)s,
            %(used_by)s, %(original_prompt)s, %(customizations)s::jsonb)
    ON CONFLICT (run_id, template_id, version_number) DO NOTHING
    """,
)


async def record_usages(
    tx: Tx,
    run_id: str,
    campaign_id: str,
    uses: Sequence[Use],
    *,
    techniques: Sequence[str],
) -> None:
    """Notes at launch what a run uses; a version that a plan names twice counts once."""
    # In the order of their keys: two launches that use the same templates wait, and never for each
    # other.
    ordered = sorted(uses, key=lambda use: (use.version.template_id, use.version.version_number))
    for use in ordered:
        await tx.run(
            INSERT_USAGE,
            run_id=run_id,
            template_id=use.version.template_id,
            version_number=use.version.version_number,
            id=new_id(),
            org_id=tx.call.caller.org_id,
            campaign_id=campaign_id,
            used_by=tx.call.caller.user_id,
            original_prompt=_prompt(use.version),
            customizations=orjson.dumps(
                {
                    "rows": use.row_count or 1,
                    "techniques": list(techniques),
                    "values": shown_values(use.version, use.rows[0] if use.rows else {}),
                }
            ).decode(),
        )


def _prompt(version: TemplateVersion) -> str:
    asked = [m.text for m in version.messages if m.role == MessageRole.MESSAGE_ROLE_USER]
    return asked[-1] if asked else version.messages[-1].text


def shown_values(version: TemplateVersion, values: Mapping[str, Any]) -> dict[str, Any]:
    """A row of values as people may see it: secret ones masked, long ones cut."""
    secret = {variable.name for variable in version.variables if variable.secret}
    shown: dict[str, Any] = {}
    for name, value in values.items():
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        if name in secret:
            shown[name] = MASK
        else:
            shown[name] = value if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + "..."
    return shown


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one version in a run; score is the mean over the scored, None without any."""

    template_id: str
    version_number: int
    scored: int
    successes: int
    score: float | None


SET_OUTCOME = sql(
    Nothing,
    """
    UPDATE templates.usages
       SET scored_count = %(scored)s, success_count = %(successes)s, success_score = %(score)s,
           settled_at = clock_timestamp()
     WHERE run_id = %(run_id)s AND template_id = %(template_id)s::uuid
       AND version_number = %(version_number)s
    """,
)


async def settle_usages(tx: Tx, run_id: str, outcomes: Sequence[Outcome]) -> None:
    """Sets the figures of a run's usages, as often as somebody asks."""
    for outcome in sorted(outcomes, key=lambda o: (o.template_id, o.version_number)):
        await tx.run(
            SET_OUTCOME,
            run_id=run_id,
            template_id=outcome.template_id,
            version_number=outcome.version_number,
            scored=outcome.scored,
            successes=outcome.successes,
            score=outcome.score,
        )


IS_USED_BY = sql(
    bool,
    """
    SELECT EXISTS (SELECT FROM templates.usages
                    WHERE template_id = %(template_id)s::uuid AND version_number = %(version_number)s
                      AND campaign_id = %(campaign_id)s::uuid) AS used
    """,
)


async def is_used_by(tx: Tx, version: TemplateVersion, campaign_id: str) -> bool:
    """Whether a campaign that the caller may know of used this version."""
    used = await tx.one(
        IS_USED_BY,
        template_id=version.template_id,
        version_number=version.version_number,
        campaign_id=campaign_id,
    )
    return bool(used)


LIST_USAGES = sql(
    TemplateUsage,
    """
    SELECT id, template_id, version_number, campaign_id, run_id, used_by, original_prompt,
           customizations, CASE WHEN settled_at IS NOT NULL THEN success_count > 0 END AS was_successful,
           success_score, scored_count, success_count, used_at, settled_at
      FROM templates.usages
     WHERE template_id = %(template_id)s::uuid AND (%(after)s::uuid IS NULL OR id < %(after)s)
     ORDER BY id DESC
     LIMIT %(limit)s
    """,
    prepare=False,
)


async def list_usages(
    tx: Tx, pages: Pages, request: ListTemplateUsagesRequest
) -> tuple[list[TemplateUsage], str]:
    """A page, newest first, of those campaigns of one's organisation that one sees. Raises NotFound(TEMPLATE_NOT_FOUND)."""
    size, after = pages.page(request)
    await get_template(tx, request.template_id)
    rows, has_more = await rows_that_fit(
        lambda usage_id, limit: tx.all(
            LIST_USAGES, template_id=request.template_id, after=usage_id, limit=limit
        ),
        after[0] if after else None,
        size,
        lambda row: row.id,
    )
    return rows, pages.next_token_at(request, [rows[-1].id]) if has_more else ""
