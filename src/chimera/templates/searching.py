"""Search: full text, filters, facets. The SQL function templates.search does the work, over the rows
of everybody, and applies organisation and sharing itself (rules of row-level security keep `@@` from
using an index); what it finds is read again under the row policies.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from chimera.db import Tx, sql
from chimera.paging import Pages
from chimera.rows import enum_text
from chimera.templates.operations import SELECT_TEMPLATE, normal_tags
from chimera.v1.templates_pb2 import (
    Facet,
    FacetValue,
    HighlightedText,
    SearchHit,
    SearchTemplatesRequest,
    SearchTemplatesResponse,
    Template,
)

PAGE_DEFAULT = 20
BOUND = 10_000
FACETS = ("state", "sharing_level", "technique_type", "vulnerability_type", "tag")
# A word whose beginning is looked for, outside of quotes.
_BEGINNING = re.compile(r'(?<![\w"])(-?)(\w{1,100})\*(?!\w)')
_QUOTED = re.compile(r'"[^"]*"?')
_PIECE = re.compile("\x02([^\x02\x03]*)\x03")

SEARCH = sql(
    dict,
    """
    SELECT total, ids, ranks, titles, snippets, facets
      FROM templates.search(%(words)s, %(prefixes)s::text[], %(keys)s::text[],
                            %(after_rank)s::float8, %(after_id)s::uuid, %(page)s::int,
                            %(bound)s::int, %(with_facets)s::boolean)
    """,
    prepare=False,
)

GET_TEMPLATES = sql(Template, SELECT_TEMPLATE + "WHERE id = ANY (%(ids)s::uuid[])")


async def search_templates(
    tx: Tx, pages: Pages, request: SearchTemplatesRequest
) -> SearchTemplatesResponse:
    """A page of hits, best first, with facets on the first."""
    _size, after = pages.page(request)
    size = request.page_size or PAGE_DEFAULT
    words, prefixes = split_query(request.query)
    found = await tx.one(
        SEARCH,
        words=words,
        prefixes=prefixes,
        keys=filter_keys(request),
        after_rank=after[0] if after else None,
        after_id=after[1] if after else None,
        page=size + 1,
        bound=BOUND,
        with_facets=after is None,
    )
    if found is None:
        return SearchTemplatesResponse()
    ids = found["ids"][:size]
    readable = {template.id: template for template in await tx.all(GET_TEMPLATES, ids=ids)}
    answer = SearchTemplatesResponse(
        total=min(found["total"], BOUND),
        is_bounded=found["total"] > BOUND,
        facets=[] if after else _facets(found["facets"] or {}),
    )
    for place, template_id in enumerate(ids):
        if template_id in readable:
            answer.hits.append(
                SearchHit(
                    template=readable[template_id],
                    rank=found["ranks"][place],
                    title=highlighted(found["titles"][place]),
                    snippet=highlighted(found["snippets"][place]),
                )
            )
    if len(found["ids"]) > size:
        position = found["ranks"][size - 1], ids[-1]
        answer.next_page_token = pages.next_token_at(request, position)
    return answer


def split_query(query: str) -> tuple[str, list[str]]:
    """The words for PostgreSQL's web search, and beginnings* apart, with their minus."""
    prefixes: list[str] = []

    def take(match: re.Match[str]) -> str:
        prefixes.append(match[1] + match[2].lower())
        return " "

    words, start = [], 0
    query = query.replace("\0", " ")
    for quoted in _QUOTED.finditer(query):
        words += [_BEGINNING.sub(take, query[start : quoted.start()]), quoted[0]]
        start = quoted.end()
    words.append(_BEGINNING.sub(take, query[start:]))
    return "".join(words).strip(), prefixes[:10]


def filter_keys(request: SearchTemplatesRequest) -> list[str]:
    """The lexemes of its filters, all of which must hold."""
    wanted: list[tuple[str, str | None]] = [
        ("s", enum_text(Template, "state", request.state)),
        ("l", enum_text(Template, "sharing_level", request.sharing_level)),
        ("k", request.technique_type or None),
        ("v", request.vulnerability_type or None),
        ("u", request.created_by or None),
        *(("#", tag) for tag in normal_tags(request.tags)),
    ]
    return [key(kind, value) for kind, value in wanted if value is not None]


def key(kind: str, value: str) -> str:
    """What templates.key() makes of it."""
    digest = hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()
    return f"\x01{kind}{digest}"


def _facets(found: dict[str, Any]) -> list[Facet]:
    return [
        Facet(
            name=name,
            values=[
                FacetValue(value=value, count=min(count, BOUND))
                for value, count in sorted(
                    (found.get(name) or {}).items(), key=lambda item: (-item[1], item[0])
                )
            ],
        )
        for name in FACETS
    ]


def highlighted(text: str) -> HighlightedText:
    """Text with matches between two control characters, which no stored text keeps, in pieces."""
    answer = HighlightedText()
    start = 0
    for match in _PIECE.finditer(text):
        if match.start() > start:
            answer.pieces.add(text=text[start : match.start()])
        answer.pieces.add(text=match[1], is_match=True)
        start = match.end()
    if start < len(text):
        answer.pieces.add(text=text[start:])
    return answer
