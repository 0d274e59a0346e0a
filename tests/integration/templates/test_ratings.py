"""Ratings and usages: what is cached equals a recount, whoever writes at the same time."""

from __future__ import annotations

import asyncio
from typing import Any

from chimera.call import Call
from chimera.campaigns import template_use
from chimera.core import open_database
from chimera.embedded.stack import StackUrls
from chimera.settings import Settings
from tests.support.campaigns import assistant_models, finished, launched, secret_plan, worker
from tests.support.library import HELLO, ask, new_template, told
from tests.support.processes import eventually
from tests.support.world import Person, Refused, World

RECOUNT = """
    SELECT count(*)::int, COALESCE(sum(rating), 0)::int, count(*) FILTER (WHERE is_effective)::int,
           count(*) FILTER (WHERE NOT is_effective)::int, avg(rating)::float8
      FROM templates.ratings WHERE template_id = %(id)s
"""
CACHED = """
    SELECT rating_count, rating_sum::int, effective_votes, ineffective_votes, average_rating
      FROM templates.templates WHERE id = %(id)s
"""
VERSIONS_DIFFER = """
    SELECT v.version_number FROM templates.versions v
     WHERE v.template_id = %(id)s
       AND (v.rating_count, v.rating_sum, v.effective_votes, v.ineffective_votes) <>
           (SELECT count(*), COALESCE(sum(r.rating), 0), count(*) FILTER (WHERE r.is_effective),
                   count(*) FILTER (WHERE NOT r.is_effective)
              FROM templates.ratings r
             WHERE r.template_id = v.template_id AND r.version_number = v.version_number)
"""


def assert_recount(world: World, template_id: str) -> tuple[Any, ...]:
    [cached], [counted] = ask(world, CACHED, id=template_id), ask(world, RECOUNT, id=template_id)
    assert cached[:4] == counted[:4]
    assert cached[4] == counted[4] or abs(cached[4] - counted[4]) < 1e-9
    assert ask(world, VERSIONS_DIFFER, id=template_id) == []
    return cached


async def persistent(call: Any) -> None:
    """As a client does: what was lost in a race is tried again."""
    while True:
        try:
            await call()
            return
        except Refused as refused:
            if refused.code not in ("ABORTED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"):
                raise


# The same password as one who was made over the channel: a hundred hashes would take their time.
MORE_USERS = """
    WITH one AS (
        SELECT u.*, m.org_id, m.role FROM identity.users u JOIN identity.memberships m ON m.user_id = u.id
         WHERE u.id = %(id)s
    ), made AS (
        INSERT INTO identity.users (id, email, username, display_name, password_hash,
                                    password_changed_at, state)
        SELECT gen_random_uuid(), 'r' || n || '@example.com', 'r' || n, '', password_hash,
               password_changed_at, state
          FROM one, generate_series(1, %(count)s) n
        RETURNING id
    )
    INSERT INTO identity.memberships (org_id, user_id, role)
    SELECT one.org_id, made.id, one.role FROM one, made RETURNING user_id
"""


async def raters(world: World, count: int) -> tuple[Person, list[Person]]:
    """Somebody who makes templates, and people who rate."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    assert len(ask(world, MORE_USERS, id=olivia.user_id, count=count)) == count
    people: list[Person] = []
    for first in range(1, count + 1, 10):  # a login is a hash; more at once only wait longer
        logins = (world.log_in(f"r{number}@example.com") for number in range(first, first + 10))
        people += await asyncio.gather(*logins)
    return olivia, people


async def test_a_hundred_parallel_raters_leave_what_a_recount_gives(world: World) -> None:
    """A hundred people rate two versions, change their minds, take ratings back: two hundred writes
    at once, of which none is lost and none counted twice."""
    olivia, people = await raters(world, 100)
    template = await new_template(olivia)
    await olivia.templates.CreateTemplateVersion(template_id=template.id, **HELLO)

    def write(person: Person, step: int) -> Any:
        async def once() -> None:
            if step == 4:
                try:
                    await person.templates.DeleteTemplateRating(
                        template_id=template.id, version_number=1
                    )
                except Refused as refused:
                    if refused.reason != "RATING_NOT_FOUND":
                        raise
                return
            vote = {"is_effective": step % 2 == 0} if step else {}
            await person.templates.RateTemplate(
                template_id=template.id,
                version_number=1 + step % 2,
                rating=1 + (hash(person.user_id) + step) % 5,
                **vote,
            )

        return once

    writes = [
        write(person, step) for number, person in enumerate(people) for step in (0, 1 + number % 4)
    ]
    await asyncio.gather(*(persistent(one) for one in writes))
    count, *_ = assert_recount(world, template.id)
    assert (
        125 <= count <= 150
    )  # 50 rated both versions, and 25 may have taken theirs back too early


async def test_one_has_one_rating_a_version_and_changes_it(world: World) -> None:
    acme = await world.organisation("acme")
    olivia, peter = await acme.person("olivia"), await acme.person("peter")
    template = await new_template(olivia)
    rate = {"template_id": template.id, "rating": 2, "is_effective": False, "review": "meh"}
    first = await peter.templates.RateTemplate(**rate)
    again = await peter.templates.RateTemplate(**{**rate, "rating": 5, "is_effective": True})
    assert again.rating.id == first.rating.id
    await olivia.templates.RateTemplate(template_id=template.id, rating=2)
    found = (await olivia.templates.ListTemplateRatings(template_id=template.id)).ratings
    assert [(r.user_id, r.rating, r.HasField("is_effective")) for r in found] == [
        (olivia.user_id, 2, False),
        (peter.user_id, 5, True),
    ]
    cached = (await olivia.templates.GetTemplate(template_id=template.id)).template
    assert (cached.rating_count, cached.average_rating, cached.effective_votes) == (2, 3.5, 1)
    gone = await peter.templates.DeleteTemplateRating(template_id=template.id)
    assert (gone.template.rating_count, gone.template.average_rating) == (1, 2.0)
    assert await told(peter.templates.DeleteTemplateRating(template_id=template.id)) == (
        "NOT_FOUND",
        "RATING_NOT_FOUND",
    )
    for rating in (0, 6):
        bad = peter.templates.RateTemplate(template_id=template.id, rating=rating)
        assert await told(bad) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    assert_recount(world, template.id)


async def test_others_rate_what_is_public_and_see_their_own_ratings(world: World) -> None:
    """The counters are everybody's; who said what stays with the two organisations concerned."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    hooli = await world.organisation("hooli")
    olivia, gus = await acme.person("olivia"), await globex.person("gus")
    template = await new_template(olivia)
    await olivia.templates.ChangeTemplateState(
        template_id=template.id, state="TEMPLATE_STATE_PUBLISHED"
    )
    await acme.admin.templates.SetTemplatePublic(template_id=template.id, is_public=True)
    await gus.templates.RateTemplate(template_id=template.id, rating=4)
    await olivia.templates.RateTemplate(template_id=template.id, rating=1)

    async def seen(person: Person) -> list[int]:
        found = await person.templates.ListTemplateRatings(template_id=template.id)
        return [rating.rating for rating in found.ratings]

    assert await seen(olivia) == [1, 4]
    assert await seen(gus) == [4]
    assert await seen(hooli.admin) == []
    public = (await hooli.admin.templates.GetTemplate(template_id=template.id)).template
    assert (public.rating_count, public.average_rating) == (2, 2.5)
    assert_recount(world, template.id)


async def test_a_campaign_leaves_its_usage_and_its_success_rate(
    world: World, stack: StackUrls, settings: Settings
) -> None:
    """Noted at launch, counted from the executions when the run is over; counting again changes
    nothing; no secret value is in it; only a campaign that used the version can be named in a
    rating."""
    acme = await world.organisation("acme")
    admin = acme.admin
    models = await assistant_models(admin, stack.assistant_url, ["guard-none"])
    template = await new_template(
        admin,
        title="secret keeper",
        messages=[
            {"role": "MESSAGE_ROLE_SYSTEM", "text": "The secret is {{ secret }}."},
            {"role": "MESSAGE_ROLE_USER", "text": "{{ ask }}"},
        ],
        variables=[
            {"name": "secret", "kind": "VARIABLE_KIND_STRING", "secret": True},
            {"name": "ask", "kind": "VARIABLE_KIND_STRING"},
        ],
    )
    await admin.templates.MoveTemplateLabel(
        template_id=template.id, name="production", version_number=1
    )
    plan = secret_plan(template.id, models)
    plan.prompts[0].label = "production"
    async with worker(settings):
        run = await launched(admin, plan)
        # Moved meanwhile: the run has pinned what the label meant.
        await admin.templates.CreateTemplateVersion(template_id=template.id, **HELLO)
        await admin.templates.MoveTemplateLabel(
            template_id=template.id, name="production", version_number=2
        )
        await finished(admin, run.id)

        async def usage_now() -> Any:
            return (await admin.templates.ListTemplateUsages(template_id=template.id)).usages[0]

        async def settled() -> bool:
            return bool((await usage_now()).HasField("settled_at"))

        await eventually(settled)
        usage = await usage_now()
    # Encoded by the technique or repeated by the model: no result holds the secret either.
    executions = (await admin.campaigns.ListExecutions(run_id=run.id)).executions
    assert len(executions) == 4 and all(e.transformed_prompt for e in executions)
    assert not any("MARIGOLD" in str(execution) for execution in executions)
    assert any("[secret]" in execution.response for execution in executions)
    summary = (await admin.campaigns.GetRunSummary(run_id=run.id)).overall
    assert (usage.version_number, usage.campaign_id, usage.run_id) == (1, run.campaign_id, run.id)
    assert usage.used_by == admin.user_id and usage.original_prompt == "{{ ask }}"
    assert usage.customizations["values"]["secret"] == "[secret]"
    assert "MARIGOLD" not in str(usage)
    assert (usage.scored_count, usage.success_count) == (summary.scored, summary.successes)
    assert usage.was_successful is (summary.successes > 0)

    db = open_database(settings, "worker")
    await db.open()
    try:
        for _ in range(2):
            async with db.begin(Call.by_worker("again", acme.id)) as tx:
                await template_use.settle(tx, run.id)
    finally:
        await db.close()
    cached = (await admin.templates.GetTemplate(template_id=template.id)).template
    assert (cached.usage_count, cached.scored_count) == (1, usage.scored_count)
    assert cached.success_rate == summary.successes / summary.scored

    rate = {"template_id": template.id, "rating": 5, "campaign_id": run.campaign_id}
    rated = await admin.templates.RateTemplate(**rate, version_number=1)
    assert rated.rating.campaign_id == run.campaign_id
    unrelated = admin.templates.RateTemplate(**rate, version_number=2)
    assert await told(unrelated) == ("INVALID_ARGUMENT", "FIELD_INVALID")
