"""Grants about certain things, for every kind of thing that requests name."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg

from chimera.embedded.stack import StackUrls
from chimera.identity.roles import ROLES
from chimera.identity.things import NOUNS
from chimera.v1.options_pb2 import Permission
from tests.guards.test_access import acme_things
from tests.support.world import Refused, World

# Noun -> a permission about it that viewers lack, and a call that names one.
CALLS: dict[str, tuple[str, str, str]] = {
    "campaign": ("CAMPAIGN_RUN", "campaigns", "PauseCampaign"),
    "run": ("CAMPAIGN_RUN", "evaluation", "RescoreRun"),
    "template": ("TEMPLATE_RATE", "templates", "DeleteTemplateRating"),
    "dataset": ("DATASET_WRITE", "datasets", "DeleteDataset"),
    "provider": ("PROVIDER_MANAGE", "providers", "DeleteProvider"),
    "model": ("PROVIDER_MANAGE", "providers", "DeleteModel"),
    "budget": ("BUDGET_WRITE", "budgets", "DeleteBudget"),
    "alert": ("BUDGET_WRITE", "alerts", "AcknowledgeAlert"),
    "webhook": ("WEBHOOK_MANAGE", "webhooks", "ListDeliveries"),
    "team": ("TEAM_WRITE", "teams", "UpdateTeam"),
    "user": ("USER_MANAGE", "identity", "UnlockUser"),
    "api_key": ("API_KEY_MANAGE", "identity", "GetApiKey"),
    "invitation": ("INVITATION_MANAGE", "organisations", "RevokeInvitation"),
    "grant": ("ROLE_MANAGE", "access", "RevokeGrant"),
    "role": ("ROLE_MANAGE", "access", "DeleteRole"),
    "sign_in_provider": ("SIGN_IN_MANAGE", "sign_in", "DeleteSignInProvider"),
}


async def is_let_in(call: Any) -> bool:
    """Whether the gate lets it in; what it says then, as to somebody who would be unlocked by one
    who may do less, is the call's own matter."""
    try:
        await call
    except Refused as refused:
        said = ("This call needs the permission", "The permission ")
        return not refused.message.startswith(said)
    return True


async def test_a_grant_about_one_thing_of_each_kind(world: World, stack: StackUrls) -> None:
    """Vera may do what is about the one thing and not what is about another; the explanation says
    so beforehand, for each kind."""
    acme, things = await acme_things(world, stack)
    vera = await acme.person("vera", role="viewer")
    permissions = {Permission.Value(f"PERMISSION_{name}") for name, *_ in CALLS.values()}
    assert not permissions & ROLES["viewer"], "she would have it anyway"
    role = await acme.admin.access.CreateRole(name="about", permissions=sorted(permissions))
    await acme.admin.access.CreateGrant(
        role_id=role.role.id,
        user_id=vera.user_id,
        conditions={"resource_ids": sorted(things[f"{noun}_id"] for noun in CALLS)},
    )
    for noun, (permission, service, rpc) in CALLS.items():
        for person in (vera, acme.admin):  # some of the calls change what somebody may do
            await person.refresh()
        for thing_id, expected in ((str(uuid4()), False), (things[f"{noun}_id"], True)):
            explained = await acme.admin.access.ExplainAccess(
                user_id=vera.user_id,
                permission=Permission.Value(f"PERMISSION_{permission}"),
                resource_id=thing_id,
            )
            assert explained.allowed is expected, f"{noun} is explained as {explained}"
            call = getattr(getattr(vera, service), rpc)
            assert await is_let_in(call(**{f"{noun}_id": thing_id})) is expected, f"{rpc}: {noun}"


def test_the_database_knows_every_kind(database_url: str) -> None:
    """A kind it does not know is an error there, not a thing that nobody owns."""
    with psycopg.connect(database_url) as connection:
        for noun in sorted({noun for nouns in NOUNS.values() for noun in nouns}):
            find = "SELECT * FROM identity.find_thing(%s, gen_random_uuid())"
            assert connection.execute(find, [noun]).fetchall() == []
