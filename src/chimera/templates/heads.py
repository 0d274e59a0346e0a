"""What templates are called and what they are against, for those who tell of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from chimera.db import Tx, sql


@dataclass(frozen=True, slots=True)
class Head:
    id: str
    title: str
    vulnerability_type: str


LIST_HEADS = sql(
    Head,
    """
    SELECT id, title, COALESCE(vulnerability_type, '') AS vulnerability_type
      FROM templates.templates WHERE id = ANY(%(template_ids)s::uuid[])
    """,
)


async def list_heads(tx: Tx, template_ids: Collection[str]) -> dict[str, Head]:
    """By template; those that the caller does not see are left out."""
    heads = await tx.all(LIST_HEADS, template_ids=sorted(template_ids))
    return {head.id: head for head in heads}
