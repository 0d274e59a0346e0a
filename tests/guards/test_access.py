"""Guard: tests/access.txt equals what a running server answers, role x RPC.

Each role calls each RPC over a real channel. Everyone but the other organisation's administrator
sends an empty body, so that only the gate decides; the latter names things that exist in acme, and
must not learn that they do.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from chimera.audit.sealer import Sealer
from chimera.core import open_core
from chimera.embedded.stack import StackUrls
from chimera.gate import Method, method_of
from chimera.server import service_descriptors
from chimera.settings import Settings
from chimera.v1.budgets_pb2 import BudgetLimits, BudgetPeriod, BudgetScope, BudgetScopeKind
from chimera.v1.campaigns_pb2 import Scorer, TechniqueChain, TechniqueStep
from chimera.v1.federation_pb2 import SignInProviderKind
from chimera.v1.identity_pb2 import Role
from chimera.v1.options_pb2 import Permission
from chimera.v1.providers_pb2 import Price
from chimera.v1.schedules_pb2 import Cron
from chimera.v1.templates_pb2 import MessageRole, PromptMessage
from tests.support.campaigns import assistant_models, launched, secret_plan, secret_template
from tests.support.stack import settings_with
from tests.support.world import World

FILE = Path(__file__).parents[1] / "access.txt"
METHODS = sorted(
    (method_of(m) for service in service_descriptors() for m in service.methods),
    key=lambda method: (method.path.endswith("/Logout"), method.path),  # ends the caller's session
)
ROLES = ("anonymous", "viewer", "user", "admin", "operator", "scoped key", "other admin", "ended")
HEAD = f"""\
# Who may call what, as a running server answers. `make access` rewrites it; read the diff.
#
# yes     the gate lets the call in (what follows depends on the request)
# -       UNAUTHENTICATED for those we do not know, PERMISSION_DENIED for those we do
# hidden  let in, and things of another organisation are as if they did not exist
#
# operator: administrator of another organisation and operator of the installation. scoped key: an
# API key of an administrator with the scope CAMPAIGN_READ. other admin: names things of acme.
# ended: logged out, or with a revoked API key.
#
{"rpc":42}{"".join(f"{role:13}" for role in ROLES).rstrip()}
"""
CHAIN = TechniqueChain(steps=[TechniqueStep(technique="plain")])
# Values for fields without which a request about somebody else's thing is not even valid.
SAMPLES: dict[str, Any] = {
    "version_number": 1,
    "name": "probe",
    "title": "probe",
    "display_name": "probe",
    "role": Role.ROLE_VIEWER,
    "secret": "sk-probe-0123456789",
    "concurrency": 1,
    "price": Price(input_per_million_usd="1", output_per_million_usd="1"),
    "messages": [PromptMessage(role=MessageRole.MESSAGE_ROLE_USER, text="Hello")],
    "size": 1,
    "redirect_uri": "https://acme.example/signed-in",
    "permissions": [Permission.PERMISSION_TEAM_READ],
    "ChangeTemplateStateRequest.state": 2,
    "CreateTemplateRequest.sharing_level": 2,
    "ShareTemplateRequest.team_id": "",  # it is with a person or a team
    "ShareCampaignRequest.team_id": "",
    "CreateCampaignRequest.team_id": "",  # goes with a visibility
    "text": "probe",
    "rating": 3,
    "format": 1,
    "permission": 1,
    "from_version_number": 1,
    "grain": 1,
    "group_by": [1],
    "reason": "probe",
    "scorer": Scorer(kind="refusal"),
    "chains": [CHAIN],
    "cron": Cron(expression="0 3 * * *", time_zone="UTC"),
}


async def acme_things(world: World, stack: StackUrls) -> tuple[Any, dict[str, str]]:
    """An organisation with one of everything; ids by the names that requests give them."""
    acme = await world.organisation("acme")
    admin = acme.admin
    models = await assistant_models(admin, stack.assistant_url, ["guard-none"])
    template_id = await secret_template(admin)
    run = await launched(admin, secret_plan(template_id, models))
    provider = (await admin.providers.ListProviders()).providers[0]
    key = (await admin.providers.ListProviderKeys()).provider_keys[0]
    share = await admin.templates.ShareTemplate(
        template_id=template_id, user_id=admin.user_id, permission=1
    )
    comment = await admin.collaboration.CreateComment(campaign_id=run.campaign_id, text="theirs")
    dataset = await admin.datasets.CreateDataset(name="theirs")
    suite = await admin.suites.CreateSuite(name="theirs", chains=[CHAIN])
    api_key = await admin.identity.CreateApiKey(name="theirs")
    budget = await admin.budgets.SetBudget(
        scope=BudgetScope(kind=BudgetScopeKind.BUDGET_SCOPE_KIND_USER),
        period=BudgetPeriod.BUDGET_PERIOD_DAILY,
        limits=BudgetLimits(requests_max=0),
    )
    alert = (await admin.alerts.ListAlerts()).alerts[0]
    webhook = await admin.webhooks.CreateWebhook(url="https://example.com/hook")
    invited = await admin.organisations.CreateInvitation(role=Role.ROLE_VIEWER)
    role = await admin.access.CreateRole(
        name="theirs", permissions=[Permission.PERMISSION_TEAM_READ]
    )
    team = await admin.teams.CreateTeam(name="theirs")
    sign_in = await admin.sign_in.CreateSignInProvider(
        name="theirs",
        kind=SignInProviderKind.SIGN_IN_PROVIDER_KIND_GOOGLE,
        client_id="theirs",
        client_secret="theirs",
        redirect_uris=["https://acme.example/signed-in"],
    )
    grant = await admin.access.CreateGrant(role_id=role.role.id, team_id=team.team.id)
    admin = acme.admin = await world.log_in("admin-acme")  # the grant made the first token old
    async with open_core(world.settings, "sealer") as core:
        await Sealer(core).run_once(1)
    event = (await admin.audit.ListAuditEvents()).events[0]
    return acme, {
        "template_id": template_id,
        "share_id": share.share.id,
        "dataset_id": dataset.dataset.id,
        "suite_id": suite.suite.id,
        "model_id": models[0],
        "provider_id": provider.id,
        "provider_key_id": key.id,
        "campaign_id": run.campaign_id,
        "comment_id": comment.comment.id,
        "run_id": run.id,
        "user_id": admin.user_id,
        "api_key_id": api_key.api_key.id,
        "invitation_id": invited.invitation.id,
        "role_id": role.role.id,
        "team_id": team.team.id,
        "grant_id": grant.grant.id,
        "sign_in_provider_id": sign_in.sign_in_provider.id,
        # Linked by their signing in at a provider; an id that nobody has does as well.
        "linked_identity_id": sign_in.sign_in_provider.id,
        "event_id": event.id,
        "budget_id": budget.budget.id,
        "alert_id": alert.id,
        "webhook_id": webhook.webhook.id,
    }


def about(method: Method, things: dict[str, str]) -> tuple[Any, bool]:
    """A request that names `things` where it can; whether it names any."""
    request, names_one = method.request_type(), False
    for field in request.DESCRIPTOR.fields:
        name = f"{request.DESCRIPTOR.name}.{field.name}"
        if field.name in things and name not in SAMPLES:
            setattr(request, field.name, things[field.name])
            names_one = True
        elif f"{field.name}_id" in things and field.message_type is not None:  # UpdateTemplate
            getattr(request, field.name).id = things[f"{field.name}_id"]
            known = field.message_type.fields_by_name
            text = next(
                name for name in ("description", "display_name", "rotate_at") if name in known
            )
            request.update_mask.paths.append(text)
            names_one = True
        elif name in SAMPLES or field.name in SAMPLES:
            value = SAMPLES.get(name, SAMPLES.get(field.name))
            if isinstance(value, list):
                getattr(request, field.name).extend(value)
            elif hasattr(value, "DESCRIPTOR"):
                getattr(request, field.name).CopyFrom(value)
            else:
                setattr(request, field.name, value)
    if "update_mask" in request.DESCRIPTOR.fields_by_name and not request.update_mask.paths:
        known = request.DESCRIPTOR.fields_by_name  # UpdateTeam
        request.update_mask.paths.append("description" if "description" in known else "name")
    return request, names_one


async def answer_of(
    channel: grpc.aio.Channel, method: Method, request: Any, metadata: Any
) -> tuple[str, str, Any]:
    """(status code, message, first answer) of one call."""
    make = channel.unary_stream if method.streams else channel.unary_unary
    rpc = make(
        method.path,
        request_serializer=method.request_type.SerializeToString,
        response_deserializer=method.answer_type.FromString,
    )
    # A watch that nothing happens on says nothing; a refusal comes long before.
    call = rpc(request, metadata=metadata, timeout=5 if method.streams else 20)
    try:
        answer = await call.read() if method.streams else await call
        if answer is grpc.aio.EOF:
            return (await call.code()).name, await call.details() or "", None
        return "OK", "", answer
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or "", None
    finally:
        call.cancel()


class Audience:
    """Someone of each role, and what each RPC answers them."""

    def __init__(self, world: World, things: dict[str, str]) -> None:
        self.channel, self.things = world.channel(), things
        self.credentials: dict[str, list[tuple[str, str]]] = {}

    def add(self, role: str, *credentials: str) -> None:
        self.credentials[role] = [("authorization", f"Bearer {text}") for text in credentials]

    async def verdict(self, role: str, method: Method) -> str:
        if role == "other admin":
            return await self._verdict_about(method, self.credentials[role][0])
        verdicts = set()
        for metadata in self.credentials[role] or [None]:
            code, message, _ = await answer_of(
                self.channel, method, method.request_type(), [metadata] if metadata else None
            )
            assert code not in ("UNKNOWN", "INTERNAL", "UNIMPLEMENTED"), (
                f"{method.path} answers {role} {code} ({message}): a crash is no answer, see its log"
            )
            refusal = "UNAUTHENTICATED" if role in ("anonymous", "ended") else "PERMISSION_DENIED"
            # Credentials inside the request (Login) are the RPC's own matter.
            if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
                assert code == refusal, f"{method.path} answers {role} {code}, not {refusal}"
            verdicts.add("-" if code == refusal else "yes")
        assert len(verdicts) == 1, f"{method.path}: a revoked key and an ended session differ"
        return verdicts.pop()

    async def _verdict_about(self, method: Method, metadata: tuple[str, str]) -> str:
        request, names_one = about(method, self.things)
        code, message, answer = await answer_of(self.channel, method, request, [metadata])
        if code == "PERMISSION_DENIED":
            return "-"
        if not names_one:
            return "yes"
        assert code != "INVALID_ARGUMENT", (
            f"{method.path}: {message}; give that field a value in SAMPLES of {Path(__file__).name}"
        )
        if code == "OK":
            seen = str(answer)
            assert not any(thing in seen for thing in self.things.values()), (
                f"{method.path} shows another organisation's data: check the row policies of its"
                " tables"
            )
            return "hidden"
        assert code == "NOT_FOUND", (
            f"{method.path} answers {code} ({message}) about another organisation's thing: it must"
            " be NOT_FOUND, as for a thing that does not exist"
        )
        return "hidden"


async def audience(world: World, stack: StackUrls) -> Audience:
    acme, things = await acme_things(world, stack)
    people = Audience(world, things)
    people.add("anonymous")
    for role in ("viewer", "user"):
        people.add(role, (await acme.person(role, role=role)).credential)
    people.add("admin", acme.admin.credential)
    operator = await world.organisation("installation", operator=True)
    people.add("operator", operator.admin.credential)
    scoped = await acme.admin.identity.CreateApiKey(
        name="scoped", scopes=[Permission.PERMISSION_CAMPAIGN_READ]
    )
    people.add("scoped key", scoped.secret)
    people.add("other admin", (await world.organisation("globex")).admin.credential)
    gone = await acme.person("gone", role="admin")
    key = await gone.identity.CreateApiKey(name="old")
    await gone.identity.RevokeApiKey(api_key_id=key.api_key.id)
    await gone.identity.Logout()
    people.add("ended", gone.credential, key.secret)
    return people


@pytest.fixture
def settings(settings: Settings, clickhouse_url: str) -> Settings:
    return settings_with(settings, clickhouse_url=clickhouse_url)


async def test_access_txt_is_what_the_server_answers(
    world: World, stack: StackUrls, request: pytest.FixtureRequest
) -> None:
    """Whoever changes who may do what, changes this file, and the diff is read."""
    people = await audience(world, stack)
    lines = []
    for method in METHODS:
        cells = await asyncio.gather(*(people.verdict(role, method) for role in ROLES))
        name = method.path.rpartition(".")[2]
        lines.append(f"{name:42}{''.join(f'{cell:13}' for cell in cells)}".rstrip())
    table = HEAD + "\n".join(sorted(lines)) + "\n"

    if request.config.getoption("--update-access"):
        FILE.write_text(table)
    kept = FILE.read_text() if FILE.exists() else ""
    changed = sorted(set(table.splitlines()) ^ set(kept.splitlines()))
    assert table == kept, "run `make access` and read the diff:\n" + "\n".join(changed)
