"""Page tokens over the public API: opaque, bound to their question, steady under inserts."""

from __future__ import annotations

import base64

import pytest

from chimera.v1.templates_pb2 import MessageRole, PromptMessage, TemplateState
from tests.support.world import Person, Refused, World

HELLO = [PromptMessage(role=MessageRole.MESSAGE_ROLE_USER, text="Hello")]


async def templates(person: Person, *titles: str) -> list[str]:
    return [
        (await person.templates.CreateTemplate(title=title, messages=HELLO)).template.id
        for title in titles
    ]


async def test_inserts_and_deletes_between_pages_lose_and_repeat_nothing(world: World) -> None:
    """What was there at the first page and is there at the last is seen exactly once."""
    olivia = (await world.organisation("acme")).admin
    ids = await templates(olivia, *(f"t{number}" for number in range(9)))
    seen: list[str] = []
    token = ""
    while True:
        page = await olivia.templates.ListTemplates(page_size=2, page_token=token)
        seen += [template.id for template in page.templates]
        await templates(olivia, f"new while reading {len(seen)}")
        if len(seen) == 4:
            await olivia.templates.DeleteTemplate(template_id=seen[0])
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(ids, reverse=True)


async def test_a_token_answers_its_own_question_only(world: World) -> None:
    """Another filter, another list, another page's bytes: refused as a token nobody gave out. The
    page size may change on the way."""
    acme = await world.organisation("acme")
    olivia = acme.admin
    await templates(olivia, "a", "b", "c")
    token = (await olivia.templates.ListTemplates(page_size=1)).next_page_token
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[-3] ^= 1
    forged = base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode()
    state = TemplateState.TEMPLATE_STATE_DRAFT

    for call in (
        olivia.templates.ListTemplates(page_token=forged),
        olivia.templates.ListTemplates(page_token="nonsense"),
        olivia.templates.ListTemplates(page_token=token[:-4]),
        olivia.templates.ListTemplates(page_token=token, state=state),
        olivia.templates.ListTemplates(page_token=token, show_deleted=True),
        olivia.identity.ListUsers(page_token=token),
        olivia.campaigns.ListCampaigns(page_token=token),
    ):
        with pytest.raises(Refused) as caught:
            await call
        assert (caught.value.code, caught.value.reason) == (
            "INVALID_ARGUMENT",
            "PAGE_TOKEN_INVALID",
        )
    assert len((await olivia.templates.ListTemplates(page_token=token)).templates) == 2


async def test_a_token_carried_to_another_organisation_shows_nothing_of_it(world: World) -> None:
    """It is a position and no permission: the reader sees its own rows only."""
    olivia = (await world.organisation("acme")).admin
    mallory = (await world.organisation("globex")).admin
    own = await templates(mallory, "mine")
    await templates(olivia, "a", "b", "c")
    token = (await olivia.templates.ListTemplates(page_size=1)).next_page_token
    page = await mallory.templates.ListTemplates(page_token=token)
    assert {template.id for template in page.templates} <= set(own)


async def test_pages_are_fifty_and_at_most_a_thousand(world: World) -> None:
    """A page size out of range is told, not silently changed."""
    olivia = (await world.organisation("acme")).admin
    await templates(olivia, *(f"t{number}" for number in range(51)))
    assert len((await olivia.templates.ListTemplates()).templates) == 50
    assert len((await olivia.templates.ListTemplates(page_size=1000)).templates) == 51
    with pytest.raises(Refused) as caught:
        await olivia.templates.ListTemplates(page_size=-1)
    assert caught.value.reason == "FIELD_INVALID"
