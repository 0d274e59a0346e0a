"""Template search at 10^4, 10^5 and 10^6 templates.

    python -m bench search [--sizes 10000 100000 1000000] [--calls 200] [--plans]

Templates of four organisations are loaded with COPY (the trigger makes their search vectors; the GIN
index is built afterwards) and asked for through the product's own search, as the application role
with row policies on: the SQL function and the reading of its page. Queries are of 10 to 2,000
matches (selective), of a third of everything (broad), and by filter. `--plans` writes the plans
inside the function to bench/plans/. Times are of one caller, so two cores are enough.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import statistics
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
from google.protobuf.json_format import MessageToJson

from bench.processes import usage
from chimera import migrate
from chimera.call import Call, Caller
from chimera.core import open_database
from chimera.embedded.stack import Stack
from chimera.ids import new_id
from chimera.paging import Pages
from chimera.settings import Settings
from chimera.templates.searching import filter_keys, search_templates, split_query
from chimera.v1.templates_pb2 import SearchTemplatesRequest

PLANS = Path(__file__).with_name("plans")
SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "qui",
    "ro",
    "su",
    "ta",
    "ve",
    "wi",
    "xo",
    "zu",
]
STATES = ("draft", "draft", "review", "published", "published", "archived")
# How many templates hold the word, whatever the size.
MATCHES = (10, 100, 500, 1000, 2000)
TERMS_EACH = 20


def main(options: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench search")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--plans", action="store_true")
    chosen = parser.parse_args(options)
    with TemporaryDirectory(prefix="chimera-bench-") as folder:
        stack = Stack(Path(folder) / "stack", durable=False)
        urls = stack.start()
        try:
            migrate.up(urls.database_url, only="postgres")
            for size in chosen.sizes:
                asyncio.run(_run(stack, urls.database_url, size, chosen))
        finally:
            stack.stop()


def words(number: int) -> str:
    """The word of a rank: unlike its neighbours, and no stem of another."""
    text = ""
    number += 401
    while number:
        number, digit = divmod(number, len(SYLLABLES))
        text += SYLLABLES[digit]
    return text


VOCABULARY = [words(number) for number in range(20_000)]
# Common words are common, as in any language.
WEIGHTS = list(accumulate(1 / (rank + 10) for rank in range(len(VOCABULARY))))


def term(matches: int, number: int) -> str:
    return f"needle{matches}x{number}"


class Corpus:
    """Templates of four organisations, the first with seven in ten of them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.orgs = [new_id() for _ in range(4)]
        self.users = [new_id() for _ in self.orgs]
        self.random = random.Random(7)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        draw = self.random
        for _ in range(self.size):
            owner = 0 if draw.random() < 0.7 else draw.randrange(1, 4)
            text = draw.choices(VOCABULARY, cum_weights=WEIGHTS, k=50)
            for matches in MATCHES:
                # Spread evenly: each of the terms is in about so many templates.
                if draw.random() < min(1.0, matches * TERMS_EACH / self.size):
                    text.append(term(matches, draw.randrange(TERMS_EACH)))
            if draw.random() < 0.33:
                text.append("haystack")
            draw.shuffle(text)
            yield (
                new_id(),
                self.orgs[owner],
                " ".join(text[:5]),
                " ".join(text[5:15]),
                f"AML.T{draw.randrange(50, 60):04}",
                f"LLM{draw.randrange(1, 11):02}:2025",
                [f"tag{int(draw.paretovariate(0.6)) % 5000}" for _ in range(3)],
                draw.choice(STATES),
                draw.choices(("private", "organisation", "public"), (5, 94, 1))[0],
                self.users[owner],
                " ".join(text[15:]),
            )


def load(url: str, corpus: Corpus) -> float:
    """Fills the empty tables; how many seconds it took."""
    started = time.monotonic()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE templates.templates CASCADE")
        for org, user in zip(corpus.orgs, corpus.users, strict=True):
            connection.execute(
                "INSERT INTO identity.organisations (id, name) VALUES (%s, %s)", [org, org]
            )
            connection.execute(
                """INSERT INTO identity.users (id, email, username, password_hash)
                   VALUES (%s, %s, %s, '')""",
                [user, f"{user}@example.com", user],
            )
        connection.execute("DROP INDEX templates.templates_search")
        copy = """
            COPY templates.templates (id, org_id, title, description, technique_type,
                vulnerability_type, tags, state, sharing_level, created_by, body) FROM STDIN
        """
        with connection.cursor() as cursor, cursor.copy(copy) as stream:
            for row in corpus.rows():
                stream.write_row(row)
        connection.execute("SET maintenance_work_mem = '512MB'")
        connection.execute(
            "CREATE INDEX templates_search ON templates.templates USING gin (search)"
            " WITH (fastupdate = off)"
        )
        connection.execute("VACUUM ANALYZE templates.templates")
    return time.monotonic() - started


def questions(draw: random.Random) -> dict[str, list[SearchTemplatesRequest]]:
    """By kind; more than are asked, in the order they are asked in."""
    kinds: dict[str, list[SearchTemplatesRequest]] = {}
    for matches in MATCHES:
        kinds[f"{matches} matches"] = [
            SearchTemplatesRequest(query=term(matches, number)) for number in range(TERMS_EACH)
        ]
    kinds["2 words"] = [
        SearchTemplatesRequest(query=f"{term(2000, n)} {draw.choice(VOCABULARY[:200])}")
        for n in range(TERMS_EACH)
    ]
    kinds["beginning*"] = [
        SearchTemplatesRequest(query=f"{term(100, n)[:-1]}*") for n in range(10, TERMS_EACH)
    ]
    kinds["word and filters"] = [
        SearchTemplatesRequest(
            # From the sixth on a tag is rare enough for 2,000 matches in a million templates.
            query="haystack",
            vulnerability_type="LLM01:2025",
            tags=[f"tag{n + 6}"],
        )
        for n in range(TERMS_EACH)
    ]
    kinds["broad word"] = [SearchTemplatesRequest(query="haystack")]
    kinds["everything"] = [SearchTemplatesRequest()]
    return kinds


async def _run(stack: Stack, url: str, size: int, chosen: argparse.Namespace) -> None:
    corpus = Corpus(size)
    seconds = load(url, corpus)
    with psycopg.connect(url, autocommit=True) as connection:
        sizes = connection.execute(
            """SELECT pg_size_pretty(pg_total_relation_size('templates.templates')),
                      pg_size_pretty(pg_relation_size('templates.templates_search'))"""
        ).fetchone()
    assert sizes is not None
    print(
        f"\n{size:,} templates: loaded in {seconds:.0f} s, {sizes[0]}, of that the index {sizes[1]}"
    )
    print(f"  {'':18}{'matches':>9}{'p50 ms':>9}{'p95 ms':>9}{'max ms':>9}{'CPU ms':>9}")
    db = open_database(Settings.model_validate({"database_url": url}), "app")
    await db.open()
    caller = Caller("user", org_id=corpus.orgs[0], user_id=corpus.users[0], role="user")
    pages = Pages(b"bench")
    postgres = stack.pid("postgres")
    try:
        for kind, requests in questions(random.Random(3)).items():
            times, totals = [], []
            for request in requests:  # once to warm up, as the pages of a running server are
                await _ask(db, caller, pages, request)
            cpu = usage(postgres).cpu_s
            for number in range(chosen.calls):
                began = time.perf_counter()
                answer = await _ask(db, caller, pages, requests[number % len(requests)])
                times.append((time.perf_counter() - began) * 1000)
                totals.append(answer.total)
            cpu = (usage(postgres).cpu_s - cpu) * 1000 / chosen.calls
            times.sort()
            print(
                f"  {kind:18}{statistics.median(totals):>9.0f}{times[len(times) // 2]:>9.1f}"
                f"{times[int(len(times) * 0.95)]:>9.1f}{times[-1]:>9.1f}{cpu:>9.1f}"
            )
    finally:
        await db.close()
    if chosen.plans:
        _write_plans(url, corpus)


async def _ask(db: Any, caller: Caller, pages: Pages, request: SearchTemplatesRequest) -> Any:
    call = Call(caller, "bench.search", time.monotonic() + 60)
    async with db.begin(call) as tx:
        return await search_templates(tx, pages, request)


# How the function makes its variables of what it is asked.
VARIABLES = """
    WITH asked AS (
        SELECT websearch_to_tsquery('english', %(words)s)
               && COALESCE((SELECT to_tsquery('simple', string_agg(p || ':*', ' & '))
                              FROM unnest(%(prefixes)s::text[]) AS p), ''::tsquery) AS said
    )
    SELECT said,
           said && COALESCE((SELECT string_agg(quote_literal(k), ' & ')::tsquery
                               FROM unnest(%(keys)s::text[]) AS k), ''::tsquery) AS asked,
           quote_literal(templates.key('o', %(org)s))::tsquery || quote_literal(templates.key('p', ''))::tsquery
           || quote_literal(templates.key('u', %(me)s))::tsquery AS audience
      FROM asked
"""


def _write_plans(url: str, corpus: Corpus) -> None:
    """The plan of the statement inside the function, its variables put in as the constants that they
    are to a custom plan, run as the function's owner with the function's settings."""
    PLANS.mkdir(exist_ok=True)
    shown: list[str] = []
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT prosrc FROM pg_proc WHERE oid = 'templates.search'::regproc"
        ).fetchone()
        assert found is not None
        statement = found[0].partition("RETURN QUERY")[2].rpartition(";\nEND")[0]
        for kind, requests in questions(random.Random(3)).items():
            asked = requests[0]
            words_of, prefixes = split_query(asked.query)
            made = connection.execute(
                VARIABLES,
                {
                    "words": words_of,
                    "prefixes": prefixes,
                    "keys": filter_keys(asked),
                    "org": corpus.orgs[0],
                    "me": corpus.users[0],
                },
            ).fetchone()
            assert made is not None
            values = {
                **{
                    name: f"{quote(text)}::tsquery"
                    for name, text in zip(("said", "asked", "audience"), made, strict=True)
                },
                "org": f"'{corpus.orgs[0]}'::uuid",
                "me": f"'{corpus.users[0]}'::uuid",
                "teams": "'{}'::uuid[]",
                "shared": "'{}'::uuid[]",
                "marks": "''",
                "bound": "10000",
                "page": "21",
                "after_id": "NULL::uuid",
                "after_rank": "NULL::float8",
                "with_facets": "true",
            }
            text = statement
            for name, value in values.items():
                text = re.sub(rf"(?<![\w.']){name}\b(?!')", lambda _, v=value: v, text)
            with connection.transaction():
                connection.execute("SET LOCAL ROLE chimera_library")
                connection.execute("SET LOCAL work_mem = '32MB'")
                connection.execute("SET LOCAL jit = off")
                rows = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS) {text}".encode()).fetchall()
            plan = "\n".join(row[0] for row in rows).replace("\x01", "^A")
            shown.append(f"### {kind}: {MessageToJson(asked, indent=None)}\n{plan}")
    (PLANS / f"search-{corpus.size}.txt").write_text("\n\n".join(shown) + "\n")


def quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
