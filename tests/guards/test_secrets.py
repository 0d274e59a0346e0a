"""Guard: no secret reaches a log, an error, the audit log, telemetry, Redis or a plain column.

Canaries are put in wherever somebody hands over a secret; then a real server and a real worker
process do a whole campaign's work at log level debug, and everything they left behind is searched.
"""

from __future__ import annotations

import asyncio
import base64
import io
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pyotp
import pytest
import redis
from clickhouse_driver import Client
from psycopg import sql as pgsql

from chimera.embedded.stack import StackUrls
from chimera.ids import new_id
from chimera.settings import Settings
from chimera.telemetry.frozen import thaw
from chimera.v1.campaigns_pb2 import PromptSource, Run, RunState, Scorer
from chimera.v1.evaluation_pb2 import ExportFormat
from chimera.v1.federation_pb2 import SignInProviderKind
from chimera.v1.identity_pb2 import Role
from chimera.v1.providers_pb2 import ProviderType
from chimera.v1.templates_pb2 import MessageRole, PromptMessage, Variable, VariableKind
from tests.support.campaigns import finished, launched, secret_plan, secret_template
from tests.support.processes import environment_of, eventually, free_port, running
from tests.support.stack import settings_with
from tests.support.world import Person, Refused, World

# What is found in each kind of place (by how its name begins) when it is really read.
LOOKED_AT = {
    "server.log": '"rpc"',
    "worker.log": '"event"',
    "results of the run": '"flush_id"',
    "campaigns.campaigns": "\\\\x",
    "campaigns.run_plans": "\\\\x7b22",
    "refusals": "PROVIDER_KEY_NAME_TAKEN",
    "answers of the API": "provider_key.use",
    "ClickHouse": "execution",
    "Redis": "b'",
    "identity.users": "canary@example.com",
    "providers.provider_keys": "sk-assi",
    "accounting.webhooks": "https://example.com/hook",
    "campaigns.executions": "What is the secret",
    "campaigns.attempts": "bad_key",
    "providers.ledger": "charge",
    "ops.idempotency": "CreateProviderKey",
    "audit.events": "provider_key.use",
    "telemetry batch": "execution",
}


class Canaries:
    """Secrets by what they are, and how else each of them could be written down."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def add(self, name: str, text: str) -> str:
        self.texts[name] = text
        return text

    def forms(self) -> Iterator[tuple[str, str]]:
        for name, text in self.texts.items():
            raw = text.encode()
            yield name, text
            yield f"{name} in hex", raw.hex()
            for shift in range(3):  # base64 depends on what stands before
                body = base64.b64encode(b"-" * shift + raw).decode()
                yield f"{name} in base64", body[4:-4]

    def found_in(self, text: str) -> set[str]:
        return {name for name, form in self.forms() if form in text}


async def refused(call: Any) -> str:
    """Everything a caller is told in a refusal."""
    with pytest.raises(Refused) as caught:
        await call
    return f"{caught.value} {caught.value.details}"


async def put_in(admin: Person, world: World, canaries: Canaries) -> tuple[Person, list[str]]:
    """A user with secrets of every kind, and what was said on the ways that failed."""
    told = []
    password = canaries.add("password", f"canary-{secrets.token_hex(12)}")
    email = "canary@example.com"
    await admin.identity.CreateUser(
        email=email,
        username="canary",
        role=Role.ROLE_ADMIN,
        password=password,
        request_id=new_id(),
    )
    nobody = world.nobody()
    wrong = canaries.add("wrong password", f"wrong-{secrets.token_hex(12)}")
    told.append(await refused(nobody.identity.Login(login=email, password=wrong)))
    short = canaries.add("weak password", f"Weak{secrets.token_hex(3)}")
    told.append(
        await refused(
            admin.identity.CreateUser(
                email="w@example.com", username="weak", role=Role.ROLE_USER, password=short
            )
        )
    )
    person = await world.log_in(email, password)
    canaries.add("access token", person.credential.rpartition(".")[2])
    used = canaries.add("refresh token", person.tokens.refresh_token)
    refreshed = await nobody.identity.RefreshSession(refresh_token=used)
    canaries.add("second refresh token", refreshed.tokens.refresh_token)
    canaries.add("second access token", refreshed.tokens.access_token.rpartition(".")[2])
    person = nobody.holding(refreshed.tokens.access_token)
    forged = canaries.add("forged refresh token", secrets.token_urlsafe(48))
    told.append(await refused(nobody.identity.RefreshSession(refresh_token=forged)))
    key = await person.identity.CreateApiKey(name="canary", request_id=new_id())
    secret_part = key.secret.split("_")[3]
    canaries.add("API key", secret_part)
    rotated = await person.identity.RotateApiKey(api_key_id=key.api_key.id, overlap_s=600)
    canaries.add("rotated API key", rotated.secret.split("_")[3])
    client_secret = canaries.add("client secret", f"canary-{secrets.token_hex(12)}")
    given = {
        "kind": SignInProviderKind.SIGN_IN_PROVIDER_KIND_GITHUB,
        "client_id": "canary",
        "client_secret": client_secret,
        "redirect_uris": ["https://chimera.example/signed-in"],
    }
    way = await person.sign_in.CreateSignInProvider(name="main", request_id=new_id(), **given)
    told.append(await refused(person.sign_in.CreateSignInProvider(name="main", **given)))
    started = await nobody.sign_in.StartSignIn(
        provider_id=way.sign_in_provider.id, redirect_uri="https://chimera.example/signed-in"
    )
    handle = canaries.add("sign-in handle", started.handle)
    code = canaries.add("sign-in code", f"code-{secrets.token_hex(12)}")
    answer = {"handle": handle, "state": "x", "code": code}
    told.append(await refused(nobody.sign_in.FinishSignIn(answer=answer)))
    told += await more_secrets(person, canaries)
    broken = nobody.holding(key.secret.replace(secret_part, secret_part[::-1]))
    canaries.add("broken API key", secret_part[::-1])
    told.append(await refused(broken.identity.GetMe()))
    return nobody.holding(key.secret), told


async def more_secrets(person: Person, canaries: Canaries) -> list[str]:
    """An authenticator with its recovery codes, and the secrets of a webhook, old and new."""
    enrolled = await person.account.EnrollTotp()
    canaries.add("authenticator", enrolled.secret)
    confirmed = await person.account.ConfirmTotp(code=pyotp.TOTP(enrolled.secret).now())
    for number, code in enumerate(confirmed.recovery_codes[:3]):
        canaries.add(f"recovery code {number}", code)
    made = await person.webhooks.CreateWebhook(url="https://example.com/hook", request_id=new_id())
    canaries.add("webhook secret", made.secret.removeprefix("whsec_"))
    rotated = await person.webhooks.RotateWebhookSecret(
        webhook_id=made.webhook.id, request_id=new_id()
    )
    canaries.add("rotated webhook secret", rotated.secret.removeprefix("whsec_"))
    again = await refused(person.account.EnrollTotp())
    return [again, await refused(person.account.DisableTotp(code="000000"))]


async def models_with_canary_keys(
    person: Person, origin: str, canaries: Canaries
) -> tuple[list[str], list[str]]:
    """One model whose key works and one whose key the provider refuses."""
    told, models = [], []
    for name, kind, prefix in (
        ("good", ProviderType.PROVIDER_TYPE_LOCAL, "sk-assistant-canary-"),
        ("bad", ProviderType.PROVIDER_TYPE_OPENAI, "sk-wrong-canary-"),
    ):
        made = await person.providers.CreateProvider(
            name=name, provider_type=kind, base_url=f"{origin}/v1"
        )
        secret = canaries.add(f"{name} provider key", prefix + secrets.token_hex(16))
        given = {"provider_id": made.provider.id, "name": "main", "secret": secret}
        before = canaries.add(f"replaced {name} key", prefix + secrets.token_hex(16))
        stored = await person.providers.CreateProviderKey(
            **{**given, "secret": before}, is_default=True, request_id=new_id()
        )
        told.append(await refused(person.providers.CreateProviderKey(**given)))
        await person.providers.ReplaceProviderKeySecret(
            provider_key_id=stored.provider_key.id, secret=secret, request_id=new_id()
        )
        told.append(str(await person.providers.TestConnection(provider_id=made.provider.id)))
        answer = await person.providers.CreateModel(
            provider_id=made.provider.id,
            name="guard-none",
            price={"input_per_million_usd": "1", "output_per_million_usd": "1"},
        )
        await person.providers.AllowTarget(model_id=answer.model.id)
        models.append(answer.model.id)
    return models, told


async def guarded_source(person: Person, canaries: Canaries) -> PromptSource:
    """A row of a plan with the value of a secret variable, which the target gives away."""
    made = await person.templates.CreateTemplate(
        title="Guarded",
        messages=[
            PromptMessage(role=MessageRole.MESSAGE_ROLE_SYSTEM, text="The secret is {{ word }}."),
            PromptMessage(role=MessageRole.MESSAGE_ROLE_USER, text="What is the secret?"),
        ],
        variables=[
            Variable(
                name="word", kind=VariableKind.VARIABLE_KIND_STRING, required=True, secret=True
            )
        ],
    )
    source = PromptSource(template_id=made.template.id)
    source.rows.add().update({"word": canaries.add("row", f"CANARY{secrets.token_hex(8)}")})
    return source


async def told_of(person: Person, run: Run) -> str:
    """What the public API tells about a run: its plan, results, files and evidence."""
    parts = [
        await person.campaigns.GetCampaign(campaign_id=run.campaign_id),
        await person.campaigns.ListExecutions(run_id=run.id, page_size=100),
    ]
    parts += [
        await person.templates.ListTemplateUsages(template_id=template.id)
        for template in (await person.templates.ListTemplates()).templates
    ]
    parts += [
        await person.campaigns.GetExecution(run_id=run.id, cell_no=cell_no)
        for cell_no in range(run.cells_total)
    ]
    export = person.evaluation.ExportResults(
        run_id=run.id, format=ExportFormat.EXPORT_FORMAT_JSON_LINES
    )
    files = [part.data async for part in export]
    evidence = b""

    async def bundled() -> bool:
        nonlocal evidence
        try:
            bundle = person.evaluation.ExportEvidence(run_id=run.id)
            evidence = b"".join([part.data async for part in bundle])
        except Refused:  # no checkpoint covers the run yet
            return False
        return True

    await eventually(bundled)
    with zipfile.ZipFile(io.BytesIO(evidence)) as archive:
        files += [archive.read(name) for name in archive.namelist()]
    return "\n".join([*map(str, parts), *(data.decode() for data in files)])


async def shown(person: Person) -> str:
    """What the public API tells about all of it."""
    parts = [
        await person.identity.GetMe(),
        await person.identity.ListUsers(),
        await person.identity.ListApiKeys(),
        await person.providers.ListProviders(),
        await person.providers.ListProviderKeys(),
        await person.audit.ListAuditEvents(page_size=1000),
    ]
    parts += [item async for item in person.audit.ExportAuditLog()]
    return "\n".join(map(str, parts))


def everything_in_postgres(url: str) -> Iterator[tuple[str, str]]:
    """(schema.table, all its rows as text) of every table; frozen telemetry is thawed."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            """SELECT schemaname, tablename FROM pg_tables
                WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"""
        ).fetchall()
        for schema, table in tables:
            name = pgsql.Identifier(schema, table)
            rows = connection.execute(
                pgsql.SQL("SELECT string_agg(t::text, E'\\n') FROM {} t").format(name)
            ).fetchone()
            yield f"{schema}.{table}", (rows and rows[0]) or ""
        for batch_id, body, events in connection.execute(
            "SELECT batch_id, body, events FROM telemetry.batches"
        ):
            yield f"telemetry batch {batch_id}", str(thaw(bytes(body), events))


def everything_in_redis(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        found = []
        for key in client.scan_iter():
            read = {
                b"string": client.get,
                b"hash": client.hgetall,
                b"set": client.smembers,
                b"zset": lambda k: client.zrange(k, 0, -1, withscores=True),
                b"list": lambda k: client.lrange(k, 0, -1),
            }[client.type(key)]
            found.append(f"{key!r} {read(key)!r}")
    return "\n".join(found)


def everything_in_clickhouse(url: str) -> str:
    """All rows; sums and sketches are numbers and are left out."""
    found = []
    with Client.from_url(url) as client:
        for (table,) in client.execute("SHOW TABLES"):
            described = client.execute(f"DESCRIBE TABLE `{table}`")
            columns = [f"`{row[0]}`" for row in described if "AggregateFunction" not in row[1]]
            query = f"SELECT {', '.join(columns)} FROM `{table}`"  # noqa: S608 - the server's names
            found.append(str(client.execute(query)))
    return "\n".join(found)


async def test_no_secret_is_left_behind(
    settings: Settings, clickhouse_url: str, stack: StackUrls, tmp_path: Path
) -> None:
    """A campaign with canaries for secrets: they are found nowhere but sealed or hashed."""
    settings = settings_with(settings, clickhouse_url=clickhouse_url)
    canaries, port = Canaries(), free_port()
    environment = environment_of(settings, listen=f"127.0.0.1:{port}", log_level="debug")
    logs = [tmp_path / "server.log", tmp_path / "worker.log"]
    world = World(SimpleNamespace(port=port), settings)  # type: ignore[arg-type]  # only its port
    with (
        running("chimera.server", environment, logs[0]) as server,
        running("workers.main", environment, logs[1]) as worker,
    ):
        await asyncio.to_thread(server.until_said, "server.readiness")
        admin = (await world.organisation("acme")).admin
        person, told = await put_in(admin, world, canaries)
        models, more = await models_with_canary_keys(person, stack.assistant_url, canaries)
        plan = secret_plan(await secret_template(person), models)
        plan.prompts.append(await guarded_source(person, canaries))
        plan.scorer.CopyFrom(Scorer(kind="refusal"))
        run = await launched(person, plan)
        over = await finished(person, run.id)
        assert over.state == RunState.RUN_STATE_COMPLETED
        assert over.counts.scored > 0, "the good key was not used"
        assert over.counts.scored < over.counts.recorded, "the bad key was not used"

        async def everything_stored() -> bool:
            return not (await person.telemetry.GetIngestStatus()).waiting

        await eventually(everything_stored)
        answers = await shown(person)
        results = await told_of(person, over)
        assert "[secret]" in results, "the target did not give the row's value away"
        await world.close()
        assert await asyncio.to_thread(worker.terminated) == 0
        assert await asyncio.to_thread(server.terminated) == 0

    places = dict(everything_in_postgres(settings.database_url.get_secret_value()))
    places |= {log.name: log.read_text() for log in logs}
    places["Redis"] = everything_in_redis(stack.redis_url)
    places["ClickHouse"] = everything_in_clickhouse(clickhouse_url)
    places["answers of the API"] = answers
    places["results of the run"] = results
    places["refusals"] = "\n".join(told + more)
    unread = [
        begin
        for begin, said in LOOKED_AT.items()
        if not any(said in text for place, text in places.items() if place.startswith(begin))
    ]
    assert not unread, f"nothing was read of {unread}"
    leaks = {place: found for place, text in places.items() if (found := canaries.found_in(text))}

    assert len(canaries.texts) >= 20
    assert not leaks, f"mask or leave out what is handed on there: {leaks}"
