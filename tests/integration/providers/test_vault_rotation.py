"""The master key changes while everything runs: keys go on opening, and old versions can be retired."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pyotp
import pytest

from chimera.call import Call
from chimera.core import Core, open_core
from chimera.faults import NotReady
from chimera.keyring import load_keys
from chimera.providers import rotation
from chimera.providers.keys import unsealed
from chimera.providers.local_keys import LocalKeyFile
from chimera.providers.rotation import rewrap_all
from chimera.settings import Settings
from chimera.v1.vault_pb2 import KeyVersionState, RotationState
from tests.integration.federation.conftest import linked, mock_issuer, signed_in, way_in
from tests.support.campaigns import worker
from tests.support.keys import taken
from tests.support.openid import consent
from tests.support.processes import environment_of, eventually
from tests.support.world import Organisation, Person, Refused, World

__all__ = ["mock_issuer"]  # a fixture

ROOT = Path(__file__).resolve().parents[3]
SECRET = "sk-canary-{:04d}-7d0f3b51c2e94a86b1d2"


async def told(call: Awaitable[Any]) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value.code, refused.value.reason


async def browser(url: str) -> dict[str, str]:
    return await consent(url, "olivia@idp.example")


def superuser(world: World) -> psycopg.Connection[Any]:
    return psycopg.connect(world.settings.database_url.get_secret_value(), autocommit=True)


async def new_provider(org: Organisation) -> str:
    answer = await org.admin.providers.CreateProvider(
        name="p", provider_type="PROVIDER_TYPE_OPENAI", base_url="https://api.example.com/v1"
    )
    return str(answer.provider.id)


async def new_key(person: Person, provider_id: str, number: int) -> str:
    answer = await person.providers.CreateProviderKey(
        provider_id=provider_id, name=f"key {number}", secret=SECRET.format(number)
    )
    return str(answer.provider_key.id)


async def opened(core: Core, org_id: str, key_id: str) -> str:
    """As a worker does it at the beginning of a lease."""
    async with core.db.begin(Call.by_worker("test", org_id)) as tx:
        stored = await taken(tx, key_id)
    return await unsealed(core.master, stored)


async def until_rotated(operator: Person) -> Any:
    async def completed() -> bool:
        rotation = (await operator.vault.GetVaultStatus()).rotation
        return rotation.state == RotationState.ROTATION_STATE_COMPLETED

    await eventually(completed)
    return await operator.vault.GetVaultStatus()


def versions(status: Any) -> dict[int, tuple[str, int]]:
    """Number -> (state, values)."""
    return {
        v.version: (
            KeyVersionState.Name(v.state).removeprefix("KEY_VERSION_STATE_").lower(),
            v.values_count,
        )
        for v in status.versions
    }


@pytest.fixture
async def root(world: World) -> Person:
    return (await world.organisation("root", operator=True)).admin


@pytest.fixture
async def core(world: World) -> AsyncIterator[Core]:
    """What a worker has."""
    async with open_core(world.settings, "worker") as opened_core:
        yield opened_core


async def test_a_rotation_wraps_everything_anew(world: World, root: Person, core: Core) -> None:
    """Keys of two organisations and the installation's own; ciphertexts stay byte for byte, every
    secret opens before, during and after; then the old version can be retired, and not before."""
    orgs = [await world.organisation(name) for name in ("acme", "globex")]
    keys: dict[str, tuple[str, str]] = {}
    for org in orgs:
        provider_id = await new_provider(org)
        for number in range(3):
            key_id = await new_key(org.admin, provider_id, number)
            keys[key_id] = (org.id, SECRET.format(number))
    ciphertexts = "SELECT id::text, sealed->>'ciphertext' FROM providers.provider_keys ORDER BY id"
    with superuser(world) as connection:
        before = connection.execute(ciphertexts).fetchall()
    page_keys = await load_keys(core.db, core.master, "page-token")

    status = await root.vault.GetVaultStatus()
    assert versions(status) == {1: ("enabled", status.versions[0].values_count)}
    total = status.versions[0].values_count
    assert total >= 7
    begun = (await root.vault.RotateMasterKey()).rotation
    assert (begun.to_version, begun.values_total, begun.values_done) == (2, total, 0)
    again = root.vault.RotateMasterKey()
    assert await told(again) == ("FAILED_PRECONDITION", "VAULT_ROTATION_RUNNING")
    in_use = root.vault.RetireMasterKeyVersion(version=1)
    assert await told(in_use) == ("FAILED_PRECONDITION", "KEY_VERSION_IN_USE")
    for key_id, (org_id, secret) in keys.items():
        assert await opened(core, org_id, key_id) == secret

    async with worker(world.settings):
        status = await until_rotated(root)
    assert versions(status) == {1: ("decrypt_only", 0), 2: ("enabled", total)}
    assert (status.rotation.values_done, status.rotation.values_unreadable) == (total, 0)
    with superuser(world) as connection:
        assert connection.execute(ciphertexts).fetchall() == before

    retired = (await root.vault.RetireMasterKeyVersion(version=1)).version
    assert KeyVersionState.Name(retired.state) == "KEY_VERSION_STATE_DISABLED"
    for key_id, (org_id, secret) in keys.items():
        assert await opened(core, org_id, key_id) == secret
    assert await load_keys(core.db, core.master, "page-token") == page_keys
    newest = root.vault.RetireMasterKeyVersion(version=2)
    assert await told(newest) == ("FAILED_PRECONDITION", "KEY_VERSION_IN_USE")
    missing = root.vault.RetireMasterKeyVersion(version=9)
    assert (await told(missing))[0] == "NOT_FOUND"
    await root.vault.RetireMasterKeyVersion(version=1, destroy=True)
    assert versions(await root.vault.GetVaultStatus())[1] == ("destroyed", 0)


async def test_what_people_sign_in_with_is_wrapped_anew(
    world: World, root: Person, core: Core, mock_issuer: str
) -> None:
    """An authenticator's secret and a sign-in provider's client secret: they go on working through a
    rotation and after the old version is destroyed."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    provider = await way_in(acme, mock_issuer)
    await linked(olivia, provider.id, browser)
    totp = pyotp.TOTP((await olivia.account.EnrollTotp()).secret)
    await olivia.account.ConfirmTotp(code=totp.now())
    sealed = """SELECT (SELECT totp_sealed FROM identity.users WHERE totp_sealed IS NOT NULL),
                       (SELECT sealed FROM identity.sign_in_providers)"""
    with superuser(world) as connection:
        before = connection.execute(sealed).fetchone()

    status = await root.vault.GetVaultStatus()
    begun = (await root.vault.RotateMasterKey()).rotation
    assert begun.values_total == status.versions[0].values_count
    await rewrap_all(core, begun.id)
    status = await root.vault.GetVaultStatus()
    assert (status.rotation.values_done, status.rotation.values_unreadable) == (
        begun.values_total,
        0,
    )
    assert versions(status)[1] == ("decrypt_only", 0)
    await root.vault.RetireMasterKeyVersion(version=1, destroy=True)
    with superuser(world) as connection:
        after = connection.execute(sealed).fetchone()
        connection.execute("UPDATE identity.users SET totp_step = 0")
    assert before is not None and after is not None
    for old, new in zip(before, after, strict=True):
        assert (old["kek_version"], new["kek_version"]) == (1, 2)
        assert old["ciphertext"] == new["ciphertext"]
    finished = await signed_in(world.nobody(), provider.id, browser)
    done = await world.nobody().identity.CompleteLogin(
        challenge_token=finished.challenge.token, code=totp.now()
    )
    assert done.user.id == olivia.user_id


async def test_the_vault_is_the_operators(world: World) -> None:
    acme = await world.organisation("acme")
    for attempt in (
        acme.admin.vault.RotateMasterKey(),
        acme.admin.vault.GetVaultStatus(),
        acme.admin.vault.RetireMasterKeyVersion(version=1),
    ):
        assert await told(attempt) == ("PERMISSION_DENIED", "PERMISSION_MISSING")


async def test_a_repeated_rotation_request_rotates_once(world: World, root: Person) -> None:
    request_id = str(uuid4())
    first = await root.vault.RotateMasterKey(request_id=request_id)
    assert await root.vault.RotateMasterKey(request_id=request_id) == first
    assert max(versions(await root.vault.GetVaultStatus())) == 2


async def test_nothing_fails_while_the_key_changes(world: World, root: Person, core: Core) -> None:
    """People store, replace, revoke and workers open keys all the time, through three rotations with
    retirement; at the end everything is wrapped by the newest version."""
    acme = await world.organisation("acme")
    provider_id = await new_provider(acme)
    # Each within what one caller may do in a minute; with a default key, so that no other becomes it.
    people = [acme.admin, await acme.person("ursula"), await acme.person("victor")]
    for number, person in enumerate(people):
        await new_key(person, provider_id, 9990 + number)
    rotating = asyncio.Event()
    stopped = asyncio.Event()
    rounds = 0

    async def busy(lane: int, person: Person) -> None:
        nonlocal rounds
        number = lane
        while not stopped.is_set():
            key_id = await new_key(person, provider_id, number)
            assert await opened(core, acme.id, key_id) == SECRET.format(number)
            changed = SECRET.format(number + 5000)
            await person.providers.ReplaceProviderKeySecret(provider_key_id=key_id, secret=changed)
            assert await opened(core, acme.id, key_id) == changed
            if number % 3 == 0:
                await person.providers.RevokeProviderKey(provider_key_id=key_id)
            number += 10
            rounds += 1
            rotating.set()

    async def rotate() -> None:
        await rotating.wait()
        for version in (2, 3, 4):
            await root.vault.RotateMasterKey()
            await until_rotated(root)
            await retired(version - 1)
        stopped.set()

    async def retired(version: int) -> None:
        """Whoever sealed with the old version just before may have stored it after the last walk."""
        while True:
            try:
                await root.vault.RetireMasterKeyVersion(version=version)
            except Refused as refused:
                assert refused.reason in ("KEY_VERSION_IN_USE", "CONFLICT_TRY_AGAIN")
                if refused.reason == "KEY_VERSION_IN_USE":
                    await rewrap_all(core, str(uuid4()))
            else:
                return

    async with worker(world.settings):
        await asyncio.gather(rotate(), *(busy(lane, person) for lane, person in enumerate(people)))
    assert rounds > 3
    found = versions(await root.vault.GetVaultStatus())
    assert [found[v][0] for v in sorted(found)] == ["disabled"] * 3 + ["enabled"]
    assert all(found[version][1] == 0 for version in (1, 2, 3))


async def test_a_killed_rotation_is_gone_on_with(
    world: World, root: Person, core: Core, tmp_path: Path
) -> None:
    """kill -9 after each of several batches: no value is lost or wrapped twice, progress is what was
    done, and the next one goes on from there."""
    acme = await world.organisation("acme")
    provider_id = await new_provider(acme)
    keys = {await new_key(acme.admin, provider_id, n): SECRET.format(n) for n in range(12)}
    begun = (await root.vault.RotateMasterKey()).rotation
    environment = environment_of(world.settings)

    def killed_after(batches: int) -> None:
        with subprocess.Popen(
            [sys.executable, "-m", "tests.support.rotating", begun.id],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            for _ in range(batches):
                assert process.stdout.readline(), "it ended by itself"
            process.kill()

    for batches in (1, 2):
        await asyncio.to_thread(killed_after, batches)
        status = await root.vault.GetVaultStatus()
        found = versions(status)
        assert status.rotation.state == RotationState.ROTATION_STATE_RUNNING
        assert found[1][1] > 0 and found[2][1] >= 2 * batches
        assert status.rotation.values_done == found[2][1]
        for key_id, secret in keys.items():
            assert await opened(core, acme.id, key_id) == secret
    await rewrap_all(core, begun.id)
    status = await root.vault.GetVaultStatus()
    assert status.rotation.state == RotationState.ROTATION_STATE_COMPLETED
    assert status.rotation.values_done == status.rotation.values_total
    assert versions(status)[1][1] == 0
    for key_id, secret in keys.items():
        assert await opened(core, acme.id, key_id) == secret


async def test_a_secret_that_is_replaced_meanwhile_is_left_alone(
    world: World, root: Person, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is being wrapped anew when its owner stores another: the new one stays."""
    acme = await world.organisation("acme")
    key_id = await new_key(acme.admin, await new_provider(acme), 1)
    replacing = acme.admin.providers.ReplaceProviderKeySecret
    loop, rewrapped = asyncio.get_running_loop(), rotation._rewrapped

    def overtaken(master: Any, place: Any, row: Any) -> str:
        moved = rewrapped(master, place, row)
        if place.name.startswith("providers."):
            call = replacing(provider_key_id=key_id, secret=SECRET.format(2))
            asyncio.run_coroutine_threadsafe(call, loop).result(30)
        return moved

    monkeypatch.setattr(rotation, "_rewrapped", overtaken)
    begun = (await root.vault.RotateMasterKey()).rotation
    await rewrap_all(core, begun.id)
    assert await opened(core, acme.id, key_id) == SECRET.format(2)
    assert versions(await root.vault.GetVaultStatus())[1][1] == 0


async def test_a_damaged_value_is_reported_and_stops_nothing(
    world: World, root: Person, core: Core
) -> None:
    """It keeps its version, which therefore cannot be retired; the others are wrapped anew."""
    acme = await world.organisation("acme")
    provider_id = await new_provider(acme)
    key_ids = [await new_key(acme.admin, provider_id, n) for n in range(4)]
    with superuser(world) as connection:  # a colleague's wrapped key, moved here
        connection.execute(
            """UPDATE providers.provider_keys SET sealed =
                   (SELECT sealed FROM providers.provider_keys WHERE id = %s) WHERE id = %s""",
            [key_ids[0], key_ids[1]],
        )
    begun = (await root.vault.RotateMasterKey()).rotation
    await rewrap_all(core, begun.id)
    status = await root.vault.GetVaultStatus()
    assert status.rotation.state == RotationState.ROTATION_STATE_COMPLETED
    assert status.rotation.values_unreadable == 1 and versions(status)[1][1] == 1
    assert (await told(root.vault.RetireMasterKeyVersion(version=1)))[1] == "KEY_VERSION_IN_USE"
    with pytest.raises(NotReady):
        await opened(core, acme.id, key_ids[1])
    await acme.admin.providers.RevokeProviderKey(provider_key_id=key_ids[1])
    await root.vault.RetireMasterKeyVersion(version=1)


async def test_nothing_is_stored_under_a_retired_version(
    world: World, root: Person, core: Core, settings: Settings
) -> None:
    """Somebody sealed a key with the old version and comes late to store it: they are told to try
    again, and the count of zero stays zero."""
    from chimera.call import Caller
    from chimera.core import open_database
    from chimera.faults import Conflict
    from chimera.providers.keys import seal_key
    from chimera.providers.owned_keys import create_key
    from chimera.v1.providers_pb2 import CreateProviderKeyRequest

    acme = await world.organisation("acme")
    provider_id = await new_provider(acme)
    caller = Caller("user", org_id=acme.id, user_id=acme.admin.user_id)
    call = Call(caller, "test", Call.by_worker("test").deadline)
    late = await seal_key(core.master, call, SECRET.format(1), provider_id=provider_id)
    assert late.sealed.kek_version == 1
    begun = (await root.vault.RotateMasterKey()).rotation
    await rewrap_all(core, begun.id)
    await root.vault.RetireMasterKeyVersion(version=1)
    app = open_database(settings, "app")
    await app.open()
    try:
        request = CreateProviderKeyRequest(provider_id=provider_id, name="late")
        with pytest.raises(Conflict) as refused:
            async with app.begin(call) as tx:
                await create_key(tx, request, late)
        assert refused.value.reason == "CONFLICT_TRY_AGAIN"
    finally:
        await app.close()
    assert versions(await root.vault.GetVaultStatus())[1] == ("disabled", 0)
    await new_key(acme.admin, provider_id, 1)


@pytest.mark.parametrize("column", ["org_id", "provider_id", "row_version", "user_id"])
async def test_a_secret_opens_only_where_it_belongs(world: World, core: Core, column: str) -> None:
    """As this key of this organisation for this provider at this version; whose it is may change."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    key_id = await new_key(acme.admin, await new_provider(acme), 1)
    other = {
        "org_id": globex.id,
        "provider_id": await new_provider(globex),
        "row_version": 2,
        "user_id": globex.admin.user_id,
    }
    with superuser(world) as connection:
        connection.execute(
            f"UPDATE providers.provider_keys SET {column} = %s WHERE id = %s".encode(),  # noqa: S608 - from the list above
            [other[column], key_id],
        )
    org_id = globex.id if column == "org_id" else acme.id
    if column == "user_id":
        assert await opened(core, org_id, key_id) == SECRET.format(1)
        return
    with pytest.raises(NotReady) as refused:
        await opened(core, org_id, key_id)
    assert refused.value.reason == "PROVIDER_KEY_MISSING"


async def test_a_second_process_sees_the_new_version_at_once(world: World, root: Person) -> None:
    """The key file is read again when it changes."""
    other = LocalKeyFile(world.settings.key_file)
    assert other.describe().write_version == 1
    await root.vault.RotateMasterKey()
    assert other.describe().write_version == 2
