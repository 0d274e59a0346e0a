"""The master key in a key management service: a real one over its real protocol, on loopback."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from chimera.call import Call
from chimera.cli import app
from chimera.core import Core, open_core
from chimera.faults import Unavailable
from chimera.keyring import follow_versions, sealed_json
from chimera.providers import kms_keys
from chimera.providers.homes import Homes
from chimera.providers.keys import StoredKey, seal_context, unsealed
from chimera.providers.kms_keys import KeyService, KmsKeys, KmsVersion, key_service_of
from chimera.providers.rotation import rewrap_all
from chimera.providers.vault import (
    CannotOpenError,
    KeyVersionUnusableError,
    MasterKeyAwayError,
    MasterKeyRefusedError,
    SealContext,
    rewrap,
    seal,
    unseal,
)
from chimera.server import Server
from chimera.settings import Settings
from chimera.v1.vault_pb2 import KeyHome, KeyVersionState, RotationState
from tests.support.keys import taken
from tests.support.kms import Kms, running_kms
from tests.support.processes import environment_of
from tests.support.stack import settings_with
from tests.support.world import Person, Refused, World

ROOT = Path(__file__).resolve().parents[3]
SECRET = "sk-canary-7d0f3b51c2e94a86b1d2"


@pytest.fixture(scope="module")
def kms() -> Iterator[Kms]:
    with running_kms() as running:
        yield running


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the AWS libraries look for them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def keys_at(service: KeyService, *refs: str, clock: Clock | None = None) -> KmsKeys:
    """A master key of which the last version is the enabled one."""
    master = KmsKeys(service, clock=clock or Clock())
    states = ["decrypt_only"] * (len(refs) - 1) + ["enabled"]
    master.use([KmsVersion(n + 1, r, s) for n, (r, s) in enumerate(zip(refs, states, strict=True))])  # type: ignore[arg-type]  # the states above
    return master


def unplug(master: KmsKeys) -> None:
    """From now on nobody answers it."""
    plug(master, replace(master.service, endpoint="http://127.0.0.1:9"))


def plug(master: KmsKeys, service: KeyService) -> None:
    master.service = service
    master._client = None


def context(**more: Any) -> SealContext:
    given = {"org_id": uuid4(), "table": "t", "row_id": uuid4(), "field": "f", "row_version": 1}
    return SealContext(**{**given, **more})


def test_secrets_go_in_and_out_and_nowhere_else(kms: Kms) -> None:
    """The service itself refuses a data key in another place; without the cache, and with it."""
    key = kms.new_key()
    service = key_service_of(kms.url(key))
    master, place = keys_at(service, key), context(purpose="calls")
    sealed = seal(master, b"secret", place)
    for reader in (master, keys_at(service, key)):
        assert unseal(reader, sealed, place) == b"secret"
        for elsewhere in (
            context(),
            SealContext(place.org_id, "t", place.row_id, "f", 1, purpose="mail"),
            SealContext(place.org_id, "t", place.row_id, "f", 2, purpose="calls"),
        ):
            with pytest.raises(CannotOpenError):
                unseal(reader, sealed, elsewhere)
    assert b"secret" not in sealed.ciphertext + sealed.wrapped_dek
    assert key not in repr(sealed) and "secret" not in repr(master)


def test_another_key_takes_over(kms: Kms) -> None:
    """Re-wrapped inside the service; the ciphertext stays. A key that is not there is no version."""
    old, new = kms.new_key(), kms.new_key()
    service, place = key_service_of(kms.url(old)), context()
    sealed = seal(keys_at(service, old), b"secret", place)
    both = keys_at(service, old, new)
    moved = rewrap(both, sealed, place)
    assert (moved.kek_version, moved.ciphertext) == (2, sealed.ciphertext)
    assert rewrap(both, moved, place) is moved
    assert unseal(keys_at(service, new, new), moved, place) == b"secret"
    with pytest.raises(KeyVersionUnusableError):
        seal(keys_at(service, str(uuid4())), b"secret", place)
    damaged = replace(moved, wrapped_dek=moved.wrapped_dek[:-1] + b"x")
    with pytest.raises(CannotOpenError):
        unseal(keys_at(service, old, new), damaged, place)


def test_versions_that_may_not(kms: Kms) -> None:
    key = kms.new_key()
    service, place = key_service_of(kms.url(key)), context()
    master = keys_at(service, key)
    sealed = seal(master, b"secret", place)
    master.use([KmsVersion(1, key, "disabled"), KmsVersion(2, key, "enabled")])
    with pytest.raises(KeyVersionUnusableError):  # however fresh the cache is
        unseal(master, sealed, place)
    with pytest.raises(KeyVersionUnusableError):
        master.wrap(b"x" * 32, version=1, aad=b"")
    master.use([KmsVersion(7, key, "enabled")])  # this process has not heard of version 1
    assert unseal(master, sealed, place) == b"secret"
    master.use([])
    with pytest.raises(MasterKeyRefusedError):
        master.describe()


def test_what_was_used_lately_goes_on_while_the_service_is_away(
    kms: Kms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For an hour, and no longer; what was not used is typed as away, and nothing new is sealed."""
    monkeypatch.setattr(kms_keys, "TRIES", 1)
    clock, place, key = Clock(), context(), kms.new_key()
    service = key_service_of(kms.url(key))
    writer = keys_at(service, key, clock=clock)
    used, unused = seal(writer, b"used", place), seal(writer, b"unused", place)
    master = keys_at(service, key, clock=clock)
    assert unseal(master, used, place) == b"used"
    unplug(master)
    assert unseal(master, used, place) == b"used"
    clock.now += kms_keys.FRESH_S + 1
    assert unseal(master, used, place) == b"used"
    with pytest.raises(MasterKeyAwayError):
        unseal(master, unused, place)
    with pytest.raises(MasterKeyAwayError):
        seal(master, b"new", place)
    clock.now += kms_keys.KEPT_S
    with pytest.raises(MasterKeyAwayError):
        unseal(master, used, place)


@pytest.mark.parametrize(
    "url", ["aws-kms://", "aws-kms://eu-central-1", "aws-kms:///key", "vault://x/y", "key"]
)
def test_settings_that_name_no_key(url: str) -> None:
    with pytest.raises(MasterKeyRefusedError):
        key_service_of(url)


def test_settings_that_name_one() -> None:
    plain = key_service_of("aws-kms://eu-central-1/alias/chimera")
    assert plain == KeyService("eu-central-1", "alias/chimera")
    arn = "arn:aws:kms:eu-central-1:1:key/2"
    assert key_service_of(f"aws-kms://eu-central-1/{arn}").key_ref == arn


async def opened(core: Core, org_id: str, key_id: str) -> str:
    async with core.db.begin(Call.by_worker("test", org_id)) as tx:
        stored = await taken(tx, key_id)
    return await unsealed(core.master, stored)


@asynccontextmanager
async def installation(settings: Settings) -> AsyncIterator[World]:
    """A server with these settings; its database outlives it."""
    server = Server(settings)
    await server.start()
    world = World(server, settings)
    try:
        yield world
    finally:
        await world.close()
        await server.stop(at_once=True)


async def new_key(person: Person, provider_id: str, name: str) -> str:
    answer = await person.providers.CreateProviderKey(
        provider_id=provider_id, name=name, secret=f"{SECRET}-{name}"
    )
    key_id: str = answer.provider_key.id
    return key_id


async def new_provider(person: Person) -> str:
    answer = await person.providers.CreateProvider(
        name="p", provider_type="PROVIDER_TYPE_OPENAI", base_url="https://api.example.com"
    )
    provider_id: str = answer.provider.id
    return provider_id


async def test_an_installation_lives_on_a_key_service(
    kms: Kms, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In production, without a key file: start, store, open, go over to another key while running,
    and retire the first."""
    monkeypatch.setattr("chimera.providers.rotation.FOLLOW_S", -1.0)  # nobody has to be waited for
    first, second = kms.new_key(), kms.new_key()
    settings = settings_with(settings, master_key=kms.url(first), environment="production")
    async with installation(settings) as world:
        acme = await world.organisation("acme")
        root = (await world.organisation("root", operator=True)).admin
        key_id = await new_key(acme.admin, await new_provider(acme.admin), "k")
        assert not settings.key_file.exists()
        async with open_core(settings, "worker") as core:
            assert await opened(core, acme.id, key_id) == f"{SECRET}-k"
            with pytest.raises(Refused) as refused:
                await root.vault.RotateMasterKey(key_ref=str(uuid4()))
            assert refused.value.code in ("FAILED_PRECONDITION", "UNAVAILABLE")
            with pytest.raises(Refused) as unwanted:  # production, and nobody allowed a file
                await root.vault.RotateMasterKey(home=KeyHome.KEY_HOME_FILE)
            assert unwanted.value.reason == "VAULT_HOME_MISSING"
            rotation = (await root.vault.RotateMasterKey(key_ref=second)).rotation
            assert rotation.to_version == 2
            await rewrap_all(core, rotation.id)
            status = await root.vault.GetVaultStatus()
            assert status.rotation.state == RotationState.ROTATION_STATE_COMPLETED
            assert [(v.version, v.kind, v.values_count > 0) for v in status.versions] == [
                (1, "aws_kms", False),
                (2, "aws_kms", True),
            ]
            assert status.versions[1].key_ref.endswith(second)
            await root.vault.RetireMasterKeyVersion(version=1)
            await follow_versions(core.db, core.master)
            assert await opened(core, acme.id, key_id) == f"{SECRET}-k"
        async with open_core(settings, "worker") as core:  # nothing remembered
            assert await opened(core, acme.id, key_id) == f"{SECRET}-k"


def killed_rotation(rotation_id: str, environment: dict[str, str]) -> None:
    """A process that wraps two values anew, and is killed."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.rotating", rotation_id],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "it ended by itself"
        process.kill()


class Keys:
    """Provider keys of an organisation, and what each of them must open to."""

    def __init__(self, org_id: str, provider_id: str) -> None:
        self.org_id, self.provider_id = org_id, provider_id
        self.secrets: dict[str, str] = {}

    async def store(self, person: Person, *names: str) -> None:
        for name in names:
            self.secrets[await new_key(person, self.provider_id, name)] = f"{SECRET}-{name}"

    async def check(self, core: Core) -> None:
        for key_id, secret in self.secrets.items():
            assert await opened(core, self.org_id, key_id) == secret

    async def rewrapped(self, core: Core, rotation_id: str, person: Person, name: str) -> None:
        """The rotation goes to its end while somebody stores and a worker opens."""

        async def busy() -> None:
            for number in range(6):
                await self.store(person, f"{name}-{number}")
                await self.check(core)

        await asyncio.gather(busy(), rewrap_all(core, rotation_id))
        await rewrap_all(core, rotation_id)  # what was sealed before and stored after the last walk


async def test_the_master_key_moves_to_a_service_and_back(
    kms: Kms, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the key file to a service, while people store and workers open, through a kill -9 and an
    outage of the service; the file's version ends only when nothing is wrapped by it, and then the
    file is gone for good. Then back, by command, and on without the service."""
    monkeypatch.setattr("chimera.providers.rotation.FOLLOW_S", -1.0)  # nobody has to be waited for
    monkeypatch.setattr(kms_keys, "TRIES", 1)
    file, service = KeyHome.KEY_HOME_FILE, KeyHome.KEY_HOME_SERVICE
    with_service = settings_with(settings, master_key=kms.url(kms.new_key()))
    async with installation(settings) as world:
        acme = await world.organisation("acme")
        await world.organisation("root", operator=True)
        keys = Keys(acme.id, await new_provider(acme.admin))
        await keys.store(acme.admin, *(f"key-{number}" for number in range(5)))
        root = await world.log_in("admin@root.example.com")
        with pytest.raises(Refused) as refused:
            await root.vault.RotateMasterKey(home=service)
        assert refused.value.reason == "VAULT_HOME_MISSING"

    async with installation(with_service) as world, open_core(with_service, "worker") as core:
        olivia = await world.log_in("admin@acme.example.com")
        root = await world.log_in("admin@root.example.com")
        await keys.store(olivia, "still-in-the-file")
        await keys.check(core)
        assert await versions(root) == {1: ("local_file", "enabled")}

        begun = (await root.vault.RotateMasterKey(home=service)).rotation
        assert begun.to_version == 2 and begun.values_total >= 7
        environment = {**environment_of(settings), "CHIMERA_MASTER_KEY": with_service.master_key}
        await asyncio.to_thread(killed_rotation, begun.id, environment)
        status = await root.vault.GetVaultStatus()
        assert status.rotation.state == RotationState.ROTATION_STATE_RUNNING
        assert 2 <= status.rotation.values_done < status.rotation.values_total
        await keys.check(core)
        with pytest.raises(Refused) as in_use:
            await root.vault.RetireMasterKeyVersion(version=1)
        assert in_use.value.reason == "KEY_VERSION_IN_USE"

        assert isinstance(core.master, Homes)
        there = core.master.service
        unplug(core.master.service_keys)
        with pytest.raises(Unavailable):
            await rewrap_all(core, begun.id)
        assert (await root.vault.GetVaultStatus()).rotation.last_error
        plug(core.master.service_keys, there)
        await keys.rewrapped(core, begun.id, olivia, "moving")

        await root.vault.RetireMasterKeyVersion(version=1, destroy=True)
        assert await versions(root) == {1: ("local_file", "destroyed"), 2: ("aws_kms", "enabled")}
        with pytest.raises(MasterKeyRefusedError, match="CHIMERA_MASTER_KEY"):
            async with open_core(settings, "worker"):
                pass
        settings.key_file.unlink()
        await keys.check(core)
    async with open_core(with_service, "worker") as core:  # nothing remembered
        await keys.check(core)

    async with installation(with_service) as world, open_core(with_service, "worker") as core:
        olivia = await world.log_in("admin@acme.example.com")
        root = await world.log_in("admin@root.example.com")
        monkeypatch.setenv("CHIMERA_SERVER", world.address)
        monkeypatch.setenv("CHIMERA_API_KEY", root.credential)
        words = ["vault", "rotate", "--to", "file", "--no-wait"]
        typed = await asyncio.to_thread(CliRunner().invoke, app, words)
        assert typed.exit_code == 0 and "rotation to version 3: running" in typed.output
        rotation = (await root.vault.GetVaultStatus()).rotation
        await keys.rewrapped(core, rotation.id, olivia, "moving-back")
        await root.vault.RetireMasterKeyVersion(version=2)
        found = await versions(root)
        assert (found[2], found[3]) == (("aws_kms", "disabled"), ("local_file", "enabled"))
    kms.ask("DisableKey", KeyId=key_service_of(with_service.master_key).key_ref)
    async with installation(settings) as world, open_core(settings, "worker") as core:
        await keys.check(core)
        root = await world.log_in("admin@root.example.com")
        assert (await root.vault.RotateMasterKey(home=file)).rotation.to_version == 4


async def versions(operator: Person) -> dict[int, tuple[str, str]]:
    """Number -> (kind, state)."""
    return {
        v.version: (
            v.kind,
            KeyVersionState.Name(v.state).removeprefix("KEY_VERSION_STATE_").lower(),
        )
        for v in (await operator.vault.GetVaultStatus()).versions
    }


async def test_a_worker_waits_while_the_service_is_away(
    kms: Kms, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed as unavailable, so that a run waits and its key is not given up."""
    monkeypatch.setattr(kms_keys, "TRIES", 1)
    key = kms.new_key()
    settings = settings_with(settings, master_key=kms.url(key))
    async with open_core(settings, "worker") as core:
        org_id, key_id, provider_id = (str(uuid4()) for _ in range(3))
        place = seal_context(org_id, key_id, provider_id, 1)
        sealed = await asyncio.to_thread(seal, core.master, b"s3cret", place)
        stored = StoredKey(key_id, org_id, provider_id, 1, sealed_json(sealed))
        assert await unsealed(core.master, stored) == "s3cret"
        assert isinstance(core.master, Homes)
        core.master.service_keys._opened.clear()
        unplug(core.master.service_keys)
        with pytest.raises(Unavailable) as away:
            await unsealed(core.master, stored)
        assert away.value.reason == "DEPENDENCY_UNAVAILABLE"
        assert "s3cret" not in str(away.value) and key not in str(away.value)
