"""The prompt library over a real channel: making, finding, changing, hiding, sharing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from chimera.v1.templates_pb2 import SharingLevel, TemplateState
from tests.support.world import Person, Refused, World

NOBODYS = str(uuid4())
HELLO = {
    "messages": [{"role": "MESSAGE_ROLE_USER", "text": "Hello {{ name }}"}],
    "variables": [{"name": "name", "kind": "VARIABLE_KIND_STRING"}],
}


async def told(call: Awaitable[Any]) -> tuple[str, str]:
    """Code and reason of a call that is refused."""
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.code, refused.value.reason


async def new_template(person: Person, **fields: Any) -> Any:
    made = await person.templates.CreateTemplate(**{"title": "greeting", **HELLO, **fields})
    return made.template


async def titles(person: Person, **fields: Any) -> list[str]:
    answer = await person.templates.ListTemplates(**fields)
    return [template.title for template in answer.templates]


async def test_a_template_is_made_with_its_first_version_and_found_again(world: World) -> None:
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    made = await olivia.templates.CreateTemplate(
        title="Grandmother",
        description="A role play.",
        technique_type="framing",
        vulnerability_type="jailbreak",
        tags=["role-play", "old"],
        **HELLO,
    )
    template = made.template
    assert template.state == TemplateState.TEMPLATE_STATE_DRAFT
    assert template.sharing_level == SharingLevel.SHARING_LEVEL_ORGANISATION
    assert (template.version_number, made.version.version_number) == (1, 1)
    assert template.created_by == olivia.user_id

    found = await olivia.templates.GetTemplate(template_id=template.id)
    assert found.template == template
    version = await olivia.templates.GetTemplateVersion(template_id=template.id)
    assert version.version == made.version
    assert version.version.messages[0].text == "Hello {{ name }}"


async def test_a_repeated_request_returns_the_same_template(world: World) -> None:
    """The answer was lost on the way; the client asks again with the same request_id."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    request: dict[str, Any] = {"title": "once", **HELLO, "request_id": str(uuid4())}
    first = await olivia.templates.CreateTemplate(**request)
    again = await olivia.templates.CreateTemplate(**request)
    assert again == first
    assert await titles(olivia) == ["once"]
    other = {**request, "title": "twice"}
    assert await told(olivia.templates.CreateTemplate(**other)) == (
        "ALREADY_EXISTS",
        "REQUEST_ID_REUSED",
    )


async def test_a_list_is_filtered_and_paged(world: World) -> None:
    """Newest first; a page token carries on where the page ended, whatever was added meanwhile."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    made = [await new_template(olivia, title=f"t{n}", tags=[f"n{n % 2}"]) for n in range(5)]
    await olivia.templates.UpdateTemplate(
        template={"id": made[3].id, "state": "TEMPLATE_STATE_PUBLISHED"},
        update_mask={"paths": ["state"]},
    )
    assert await titles(olivia) == ["t4", "t3", "t2", "t1", "t0"]
    assert await titles(olivia, tag="n1") == ["t3", "t1"]
    assert await titles(olivia, state="TEMPLATE_STATE_PUBLISHED") == ["t3"]
    assert await titles(olivia, tag="n0", state="TEMPLATE_STATE_PUBLISHED") == []

    page = await olivia.templates.ListTemplates(page_size=2)
    await new_template(olivia, title="t5")
    seen = [template.title for template in page.templates]
    while page.next_page_token:
        page = await olivia.templates.ListTemplates(page_size=2, page_token=page.next_page_token)
        seen += [template.title for template in page.templates]
    assert seen == ["t4", "t3", "t2", "t1", "t0"]

    first = await olivia.templates.ListTemplates(page_size=2)
    stolen = olivia.templates.ListTemplates(tag="n1", page_token=first.next_page_token)
    assert await told(stolen) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


async def test_an_update_changes_what_its_mask_names_and_nothing_else(world: World) -> None:
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    template = await new_template(olivia, description="kept", tags=["a"])
    answer = await olivia.templates.UpdateTemplate(
        template={
            "id": template.id,
            "title": "better",
            "description": "not named, not taken",
            "tags": ["b", "c"],
            "state": "TEMPLATE_STATE_REVIEW",
        },
        update_mask={"paths": ["title", "tags", "state"]},
        etag=template.etag,
    )
    changed = answer.template
    assert (changed.title, changed.description) == ("better", "kept")
    assert list(changed.tags) == ["b", "c"]
    assert changed.state == TemplateState.TEMPLATE_STATE_REVIEW
    assert changed.etag != template.etag

    stale = olivia.templates.UpdateTemplate(
        template={"id": template.id, "title": "mine"},
        update_mask={"paths": ["title"]},
        etag=template.etag,
    )
    assert await told(stale) == ("ABORTED", "ETAG_MISMATCH")
    assert await titles(olivia) == ["better"]


async def test_of_two_editors_with_the_same_etag_one_wins(world: World) -> None:
    """Both are made to wait for the row, so both have begun before either has written."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    template = await new_template(olivia)

    async def rename(title: str) -> str:
        try:
            await olivia.templates.UpdateTemplate(
                template={"id": template.id, "title": title},
                update_mask={"paths": ["title"]},
                etag=template.etag,
            )
        except Refused as refused:
            return refused.reason
        return "won"

    url = world.settings.database_url.get_secret_value()
    async with await psycopg.AsyncConnection.connect(url) as holder:
        await holder.execute("SELECT FROM templates.templates FOR UPDATE")
        editors = [asyncio.create_task(rename(title)) for title in ("mine", "yours")]
        async with asyncio.timeout(20):
            while not all(editor.done() for editor in editors):
                waiting = await holder.execute(
                    """SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'"""
                )
                if await waiting.fetchone() == (2,):
                    break
                # The view is a snapshot of the transaction otherwise.
                await holder.execute("SELECT pg_stat_clear_snapshot()")
        await holder.rollback()
        outcomes = await asyncio.gather(*editors)
    assert sorted(outcomes) == ["ETAG_MISMATCH", "won"]


@pytest.mark.parametrize(
    ("paths", "fields", "reason"),
    [
        (["version_number"], {}, "UPDATE_MASK_INVALID"),
        (["title", "created_by"], {"title": "x"}, "UPDATE_MASK_INVALID"),
        ([], {"title": "x"}, "UPDATE_MASK_INVALID"),
        (["title"], {}, "FIELD_INVALID"),
        (["state"], {}, "FIELD_INVALID"),
        (["sharing_level"], {}, "FIELD_INVALID"),
    ],
)
async def test_an_update_that_makes_no_sense_is_refused(
    world: World, paths: list[str], fields: dict[str, str], reason: str
) -> None:
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    template = await new_template(olivia)
    update = olivia.templates.UpdateTemplate(
        template={"id": template.id, **fields}, update_mask={"paths": paths}
    )
    assert await told(update) == ("INVALID_ARGUMENT", reason)
    assert (await olivia.templates.GetTemplate(template_id=template.id)).template == template


async def test_a_deleted_template_is_hidden_and_comes_back(world: World) -> None:
    """It leaves the list and takes no changes; its versions stay readable for old results."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    template = await new_template(olivia)
    stale = olivia.templates.DeleteTemplate(template_id=template.id, etag="20200101000000000000")
    assert await told(stale) == ("ABORTED", "ETAG_MISMATCH")

    deleted = await olivia.templates.DeleteTemplate(template_id=template.id, etag=template.etag)
    assert deleted.template.HasField("deleted_at")
    assert await titles(olivia) == []
    assert await titles(olivia, show_deleted=True) == ["greeting"]
    version = await olivia.templates.GetTemplateVersion(template_id=template.id)
    assert version.version.messages[0].text == "Hello {{ name }}"

    not_found = ("NOT_FOUND", "TEMPLATE_NOT_FOUND")
    changes = [
        olivia.templates.UpdateTemplate(
            template={"id": template.id, "title": "x"}, update_mask={"paths": ["title"]}
        ),
        olivia.templates.CreateTemplateVersion(template_id=template.id, **HELLO),
        olivia.templates.DeleteTemplate(template_id=template.id),
    ]
    assert [await told(change) for change in changes] == [not_found] * 3

    restored = await olivia.templates.UndeleteTemplate(template_id=template.id)
    assert not restored.template.HasField("deleted_at")
    assert await titles(olivia) == ["greeting"]
    assert await told(olivia.templates.UndeleteTemplate(template_id=template.id)) == not_found


async def test_a_private_template_is_seen_by_its_creator_only(world: World) -> None:
    acme = await world.organisation("acme")
    olivia, peter = await acme.person("olivia"), await acme.person("peter")
    private = await new_template(olivia, title="mine", sharing_level="SHARING_LEVEL_PRIVATE")
    shared = await new_template(olivia, title="ours")

    assert await titles(olivia) == ["ours", "mine"]
    assert await titles(peter) == await titles(acme.admin) == ["ours"]
    for unseen in (
        peter.templates.GetTemplate(template_id=private.id),
        peter.templates.GetTemplateVersion(template_id=private.id),
        peter.templates.ListTemplateVersions(template_id=private.id),
    ):
        assert await told(unseen) == ("NOT_FOUND", "TEMPLATE_NOT_FOUND")

    make_private = {
        "template": {"id": shared.id, "sharing_level": "SHARING_LEVEL_PRIVATE"},
        "update_mask": {"paths": ["sharing_level"]},
    }
    assert await told(peter.templates.UpdateTemplate(**make_private)) == (
        "PERMISSION_DENIED",
        "PERMISSION_MISSING",
    )
    await olivia.templates.UpdateTemplate(**make_private)
    assert await titles(peter) == []


async def test_another_organisations_templates_do_not_exist(world: World) -> None:
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    olivia, gus = await acme.person("olivia"), await globex.person("gus")
    template = await new_template(olivia)
    assert await titles(gus, show_deleted=True) == []
    not_found = ("NOT_FOUND", "TEMPLATE_NOT_FOUND")
    attempts = [
        gus.templates.GetTemplate(template_id=template.id),
        gus.templates.UpdateTemplate(
            template={"id": template.id, "title": "x"}, update_mask={"paths": ["title"]}
        ),
        gus.templates.DeleteTemplate(template_id=template.id),
        gus.templates.UndeleteTemplate(template_id=template.id),
        gus.templates.CreateTemplateVersion(template_id=template.id, **HELLO),
        gus.templates.GetTemplateVersion(template_id=template.id),
        gus.templates.ListTemplateVersions(template_id=template.id),
        gus.templates.RenderTemplate(template_id=template.id, values={"name": "x"}),
    ]
    assert [await told(attempt) for attempt in attempts] == [not_found] * len(attempts)
    # Exactly what is said about an id that nobody ever had.
    assert await told(gus.templates.GetTemplate(template_id=NOBODYS)) == not_found
    assert (await olivia.templates.GetTemplate(template_id=template.id)).template == template


async def test_a_viewer_reads_and_does_not_write(world: World) -> None:
    acme = await world.organisation("acme")
    olivia, victor = await acme.person("olivia"), await acme.person("victor", role="viewer")
    template = await new_template(olivia)
    assert await titles(victor) == ["greeting"]
    denied = ("PERMISSION_DENIED", "PERMISSION_MISSING")
    assert await told(new_template(victor)) == denied
    assert await told(victor.templates.DeleteTemplate(template_id=template.id)) == denied


async def test_every_change_leaves_its_audit_event(world: World) -> None:
    """Titles and tags are shown as they changed; the text itself is pinned by its digest."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    template = await new_template(olivia)
    await olivia.templates.UpdateTemplate(
        template={"id": template.id, "title": "better"}, update_mask={"paths": ["title"]}
    )
    await olivia.templates.CreateTemplateVersion(template_id=template.id, **HELLO)
    await olivia.templates.DeleteTemplate(template_id=template.id)
    await olivia.templates.UndeleteTemplate(template_id=template.id)
    with psycopg.connect(world.settings.database_url.get_secret_value()) as connection:
        rows = connection.execute(
            """SELECT facts->>'action', fields::text FROM audit.pending
                WHERE facts->>'action' LIKE 'template%' ORDER BY id"""
        ).fetchall()
    assert sorted(action for action, _fields in rows) == [
        "template.create",
        "template.delete",
        "template.undelete",
        "template.update",
        "template_version.create",
        "template_version.create",
    ]
    update = next(fields for action, fields in rows if action == "template.update")
    assert "better" in update and "greeting" in update and "description" not in update
    assert not any("Hello" in fields for _action, fields in rows)
