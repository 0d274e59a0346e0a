"""Versions over a real channel: numbering, hashes, what is refused, rendering, launch."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
import structlog
from google.protobuf.json_format import MessageToDict

from chimera.call import Call, Caller
from chimera.core import open_database
from chimera.db import Tx
from chimera.faults import NotFound
from chimera.templates.content import compiled, content_hash, refusal
from chimera.templates.values import RenderError
from chimera.templates.versions import get_version
from chimera.v1.templates_pb2 import MessageRole
from tests.support.world import Organisation, Person, Refused, World

CANARY = "canary-4f1d8a77"
SAY = {"messages": [{"role": "MESSAGE_ROLE_USER", "text": "Say hello."}]}


async def told(call: Awaitable[Any]) -> Refused:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value


def fields_of(refused: Refused) -> list[tuple[str, str]]:
    """(field, reason) of every violation that was named."""
    return [
        (violation.field, violation.reason)
        for detail in refused.details
        for violation in getattr(detail, "field_violations", ())
    ]


def user_says(*texts: str) -> list[dict[str, str]]:
    return [{"role": "MESSAGE_ROLE_USER", "text": text} for text in texts]


async def new_template(person: Person, **content: Any) -> str:
    made = await person.templates.CreateTemplate(title="t", **(content or SAY))
    template_id: str = made.template.id
    return template_id


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the gate logs about each call, at every level and without any redaction."""
    lines = io.StringIO()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(lines),
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
    )
    monkeypatch.setattr("chimera.gate.log", logger)
    return lines


@asynccontextmanager
async def transaction(world: World, org: Organisation, person: Person) -> AsyncIterator[Tx]:
    """A transaction as the server would open it for this person."""
    db = open_database(world.settings, "app")
    await db.open()
    try:
        caller = Caller("user", org_id=org.id, user_id=person.user_id)
        async with db.begin(Call(caller, "launch", Call.by_worker("launch").deadline)) as tx:
            yield tx
    finally:
        await db.close()


async def test_versions_form_a_tree_and_are_listed_newest_first(world: World) -> None:
    olivia = await (await world.organisation("acme")).person("olivia")
    template_id = await new_template(olivia)
    second = await olivia.templates.CreateTemplateVersion(
        template_id=template_id, messages=user_says("two"), change_note="shorter"
    )
    branch = await olivia.templates.CreateTemplateVersion(
        template_id=template_id, messages=user_says("three"), parent_version_number=1
    )
    assert (second.version.version_number, second.version.parent_version_number) == (2, 1)
    assert (branch.version.version_number, branch.version.parent_version_number) == (3, 1)
    assert second.version.change_note == "shorter"

    newest = await olivia.templates.GetTemplateVersion(template_id=template_id)
    assert newest.version == branch.version
    named = await olivia.templates.GetTemplateVersion(template_id=template_id, version_number=2)
    assert named.version == second.version
    template = await olivia.templates.GetTemplate(template_id=template_id)
    assert template.template.version_number == 3

    page = await olivia.templates.ListTemplateVersions(template_id=template_id, page_size=2)
    assert [version.version_number for version in page.versions] == [3, 2]
    rest = await olivia.templates.ListTemplateVersions(
        template_id=template_id, page_size=2, page_token=page.next_page_token
    )
    assert [version.version_number for version in rest.versions] == [1]
    assert not rest.next_page_token


async def test_twenty_parallel_creators_get_twenty_numbers(world: World) -> None:
    olivia = await (await world.organisation("acme")).person("olivia")
    template_id = await new_template(olivia)
    answers = await asyncio.gather(
        *(
            olivia.templates.CreateTemplateVersion(
                template_id=template_id, messages=user_says(f"text {n}")
            )
            for n in range(20)
        )
    )
    assert sorted(answer.version.version_number for answer in answers) == list(range(2, 22))
    assert {answer.version.messages[0].text for answer in answers} == {
        f"text {n}" for n in range(20)
    }


async def test_a_version_that_is_refused_takes_no_number(world: World) -> None:
    olivia = await (await world.organisation("acme")).person("olivia")
    template_id = await new_template(olivia)
    orphan = olivia.templates.CreateTemplateVersion(
        template_id=template_id, messages=user_says("x"), parent_version_number=7
    )
    refused = await told(orphan)
    assert (refused.code, refused.reason) == ("NOT_FOUND", "TEMPLATE_VERSION_NOT_FOUND")
    made = await olivia.templates.CreateTemplateVersion(
        template_id=template_id, messages=user_says("x")
    )
    assert made.version.version_number == 2


async def test_a_version_or_template_that_does_not_exist(world: World) -> None:
    olivia = await (await world.organisation("acme")).person("olivia")
    template_id = await new_template(olivia)
    missing = olivia.templates.GetTemplateVersion(template_id=template_id, version_number=2)
    assert (await told(missing)).reason == "TEMPLATE_VERSION_NOT_FOUND"
    missing = olivia.templates.RenderTemplate(template_id=template_id, version_number=2)
    assert (await told(missing)).reason == "TEMPLATE_VERSION_NOT_FOUND"
    for nowhere in (
        olivia.templates.GetTemplateVersion(template_id=str(uuid4())),
        olivia.templates.ListTemplateVersions(template_id=str(uuid4())),
        olivia.templates.RenderTemplate(template_id=str(uuid4())),
        olivia.templates.CreateTemplateVersion(template_id=str(uuid4()), messages=user_says("x")),
    ):
        assert (await told(nowhere)).reason == "TEMPLATE_NOT_FOUND"


async def test_equal_content_has_equal_hashes_and_anybody_can_compute_them(world: World) -> None:
    """From the answer alone, without the product's code: sorted keys, no spaces, SHA-256."""
    olivia = await (await world.organisation("acme")).person("olivia")
    content: dict[str, Any] = {
        "messages": user_says("{{ n }} of {{ size }}", "Zürich ✓"),
        "variables": [
            {
                "name": "n",
                "kind": "VARIABLE_KIND_INTEGER",
                "default": {"number_value": -0.0},
                "maximum": 1e300,
            },
            {
                "name": "size",
                "kind": "VARIABLE_KIND_NUMBER",
                "default": {"number_value": 0.1},
                "minimum": 0.0,
            },
        ],
    }
    first = (await olivia.templates.CreateTemplate(title="a", **content)).version
    second = (await olivia.templates.CreateTemplate(title="b", **content)).version
    assert first.content_hash == second.content_hash

    read = (await olivia.templates.GetTemplateVersion(template_id=first.template_id)).version
    assert content_hash(read) == first.content_hash
    plain = {
        name: [
            MessageToDict(item, preserving_proto_field_name=True) for item in getattr(read, name)
        ]
        for name in ("messages", "variables")
    }
    plain["variables"][0]["default"] = 0  # a whole number has no fraction
    plain["variables"][1]["minimum"] = 0
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == first.content_hash

    content["messages"][0]["text"] += "!"
    third = (await olivia.templates.CreateTemplate(title="c", **content)).version
    assert third.content_hash != first.content_hash


async def test_text_that_could_never_be_rendered_is_refused_at_its_place(world: World) -> None:
    """All that is wrong is named at once, in a new template and in a new version alike."""
    olivia = await (await world.organisation("acme")).person("olivia")
    template_id = await new_template(olivia)
    content = {"messages": user_says("{{ a }} {{ b }}", "{{ a b }}", "{{ c }}")}
    content["variables"] = [{"name": "a", "kind": "VARIABLE_KIND_STRING"}]
    for attempt in (
        olivia.templates.CreateTemplate(title="t", **content),
        olivia.templates.CreateTemplateVersion(template_id=template_id, **content),
    ):
        refused = await told(attempt)
        assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "VARIABLE_UNDECLARED")
        assert fields_of(refused) == [
            ("messages[0].text", "VARIABLE_UNDECLARED"),
            ("messages[1].text", "TEMPLATE_SYNTAX"),
            ("messages[2].text", "VARIABLE_UNDECLARED"),
        ]
    only_syntax = olivia.templates.CreateTemplate(title="t", messages=user_says("{{"))
    assert (await told(only_syntax)).reason == "TEMPLATE_SYNTAX"


@pytest.mark.parametrize(
    ("variables", "field", "reason"),
    [
        ([{"name": "a", "kind": "VARIABLE_KIND_ENUM"}], "variables[0]", "VARIABLE_ILL_TYPED"),
        (
            [{"name": "a", "kind": "VARIABLE_KIND_INTEGER", "default": {"string_value": "seven"}}],
            "variables[0]",
            "VARIABLE_ILL_TYPED",
        ),
        (
            [
                {"name": "a", "kind": "VARIABLE_KIND_STRING"},
                {"name": "b", "kind": "VARIABLE_KIND_NUMBER", "minimum": 2, "maximum": 1},
            ],
            "variables[1]",
            "VARIABLE_ILL_TYPED",
        ),
        (
            [{"name": "a", "kind": "VARIABLE_KIND_NUMBER", "maximum": float("inf")}],
            "variables[0]",
            "FIELD_INVALID",
        ),
        (
            [
                {
                    "name": "a",
                    "kind": "VARIABLE_KIND_NUMBER",
                    "default": {"number_value": float("nan")},
                }
            ],
            "variables[0].default",
            "FIELD_INVALID",
        ),
        (
            [
                {
                    "name": "a",
                    "kind": "VARIABLE_KIND_STRING",
                    "secret": True,
                    "default": {"string_value": CANARY},
                }
            ],
            "variables[0].default",
            "FIELD_INVALID",
        ),
    ],
)
async def test_a_declaration_that_cannot_hold_is_refused(
    world: World, variables: list[dict[str, Any]], field: str, reason: str
) -> None:
    olivia = await (await world.organisation("acme")).person("olivia")
    refused = await told(
        olivia.templates.CreateTemplate(title="t", messages=user_says("x"), variables=variables)
    )
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", reason)
    assert fields_of(refused) == [(field, reason)]
    assert CANARY not in refused.message


async def test_messages_too_large_together_are_refused(world: World) -> None:
    olivia = await (await world.organisation("acme")).person("olivia")
    attempt = olivia.templates.CreateTemplate(
        title="t", messages=user_says("x" * 150_000, "y" * 60_000)
    )
    assert (await told(attempt)).reason == "OUTPUT_TOO_LARGE"


async def test_a_page_of_large_versions_fits_into_an_answer(world: World) -> None:
    """As many as every client receives; the token goes on with the next."""
    olivia = await (await world.organisation("acme")).person("olivia")
    template_id = await new_template(olivia, messages=user_says("x" * 190_000), variables=[])
    for _ in range(14):
        await olivia.templates.CreateTemplateVersion(
            template_id=template_id, messages=user_says("y" * 190_000)
        )
    numbers: list[int] = []
    token = "first"
    while token:
        page = await olivia.templates.ListTemplateVersions(
            template_id=template_id, page_token="" if token == "first" else token
        )
        assert page.versions and page.ByteSize() < 4_000_000
        numbers += [version.version_number for version in page.versions]
        token = page.next_page_token
    assert numbers == list(range(15, 0, -1))
    large = [{"name": "x", "kind": "VARIABLE_KIND_ENUM", "choices": ["c" * 1_100_000]}]
    refused = olivia.templates.CreateTemplate(
        title="t", messages=user_says("{{ x }}"), variables=large
    )
    assert (await told(refused)).reason == "OUTPUT_TOO_LARGE"


async def test_what_a_database_cannot_store_is_refused_and_not_a_crash(world: World) -> None:
    olivia = await (await world.organisation("acme")).person("olivia")
    refused = await told(olivia.templates.CreateTemplate(title="t", messages=user_says("a\x00b")))
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "FIELD_INVALID")


async def test_a_version_is_rendered_with_values(world: World) -> None:
    """Roles stay, numbers are written plainly, values are not read again."""
    olivia = await (await world.organisation("acme")).person("olivia")
    template_id = await new_template(
        olivia,
        messages=[
            {"role": "MESSAGE_ROLE_SYSTEM", "text": "You are {{ who }}."},
            {"role": "MESSAGE_ROLE_USER", "text": "Count to {{ n }}: {{ how }}"},
        ],
        variables=[
            {"name": "who", "kind": "VARIABLE_KIND_STRING", "default": {"string_value": "a clerk"}},
            {"name": "n", "kind": "VARIABLE_KIND_INTEGER", "required": True, "maximum": 10},
            {"name": "how", "kind": "VARIABLE_KIND_STRING"},
        ],
    )
    answer = await olivia.templates.RenderTemplate(
        template_id=template_id, values={"n": 3, "how": "{{ who }}"}
    )
    assert [(message.role, message.text) for message in answer.messages] == [
        (MessageRole.MESSAGE_ROLE_SYSTEM, "You are a clerk."),
        (MessageRole.MESSAGE_ROLE_USER, "Count to 3: {{ who }}"),
    ]
    assert answer.version.version_number == 1


@pytest.mark.parametrize(
    ("values", "reason", "field"),
    [
        ({}, "VARIABLE_MISSING", "values.n"),
        ({"n": 1, "m": 2}, "VARIABLE_UNKNOWN", "values.m"),
        ({"n": CANARY}, "VARIABLE_ILL_TYPED", "values.n"),
        ({"n": 99}, "VARIABLE_OUT_OF_RANGE", "values.n"),
        ({"n": 1, "long": "x" * 200_001}, "OUTPUT_TOO_LARGE", "values"),
    ],
)
async def test_values_that_do_not_fit_are_refused(
    world: World, values: dict[str, Any], reason: str, field: str
) -> None:
    olivia = await (await world.organisation("acme")).person("olivia")
    template_id = await new_template(
        olivia,
        messages=user_says("{{ n }}{{ long }}"),
        variables=[
            {"name": "n", "kind": "VARIABLE_KIND_INTEGER", "required": True, "maximum": 10},
            {"name": "long", "kind": "VARIABLE_KIND_STRING"},
        ],
    )
    refused = await told(olivia.templates.RenderTemplate(template_id=template_id, values=values))
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", reason)
    assert fields_of(refused) == [(field, reason)]
    assert CANARY not in refused.message


async def test_a_secret_value_is_rendered_and_logged_nowhere(
    world: World, said: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither when it fits nor when it is refused."""
    caplog.set_level(logging.DEBUG)
    olivia = await (await world.organisation("acme")).person("olivia")
    template_id = await new_template(
        olivia,
        messages=user_says("{{ key }}"),
        variables=[{"name": "key", "kind": "VARIABLE_KIND_STRING", "secret": True, "maximum": 20}],
    )
    answer = await olivia.templates.RenderTemplate(template_id=template_id, values={"key": CANARY})
    assert answer.messages[0].text == CANARY
    refused = await told(
        olivia.templates.RenderTemplate(template_id=template_id, values={"key": CANARY * 2})
    )
    assert refused.reason == "VARIABLE_OUT_OF_RANGE"
    assert "RenderTemplate" in said.getvalue()
    assert CANARY not in said.getvalue() + caplog.text + str(refused)


async def test_a_launch_pins_a_version_in_its_own_transaction(world: World) -> None:
    """It gets the newest when it names none, compiled; a deleted template is not launched."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    template_id = await new_template(
        olivia,
        messages=user_says("Say {{ x }}"),
        variables=[{"name": "x", "kind": "VARIABLE_KIND_STRING"}],
    )
    async with transaction(world, acme, olivia) as tx:
        version = await get_version(tx, template_id, 0)
        assert version.version_number == 1
        assert compiled(version).render({"x": "it"}) == [("user", "Say it")]
        with pytest.raises(NotFound) as missing:
            await get_version(tx, template_id, 2)
        assert missing.value.reason == "TEMPLATE_VERSION_NOT_FOUND"

    await olivia.templates.DeleteTemplate(template_id=template_id)
    async with transaction(world, acme, olivia) as tx:
        with pytest.raises(NotFound) as gone:
            await get_version(tx, template_id, 1)
        assert gone.value.reason == "TEMPLATE_NOT_FOUND"
        kept = await get_version(tx, template_id, 1, even_deleted=True)
        assert kept == version


def test_a_bad_row_is_named_by_its_number_and_variable() -> None:
    """What the campaign engine says about the fourth row of values."""
    fault = refusal(RenderError("variable_missing", "name", "is required"), "rows[3]")
    assert fault.reason == "VARIABLE_MISSING"
    assert fault.violations[0].field == "rows[3].name"
