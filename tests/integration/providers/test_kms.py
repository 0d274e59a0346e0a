"""The master key in a key management service: a real one over its real protocol, on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from chimera.call import Call
from chimera.core import Core, open_core
from chimera.faults import Unavailable
from chimera.keyring import follow_versions, sealed_json
from chimera.providers import kms_keys
from chimera.providers.keys import StoredKey, seal_context, take_key, unsealed
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
from chimera.v1.vault_pb2 import RotationState
from tests.support.kms import Kms, running_kms
from tests.support.world import Refused, World

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
    master.service = replace(master.service, endpoint="http://127.0.0.1:9")
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
        stored = await take_key(tx, key_id, purpose="test")
    return await unsealed(core.master, stored)


async def test_an_installation_lives_on_a_key_service(
    kms: Kms, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In production, without a key file: start, store, open, go over to another key while running,
    and retire the first."""
    monkeypatch.setattr("chimera.providers.rotation.FOLLOW_S", 0.0)
    first, second = kms.new_key(), kms.new_key()
    settings = Settings.model_validate(
        {**settings.model_dump(), "master_key": kms.url(first), "environment": "production"}
    )
    server = Server(settings)
    await server.start()
    world = World(server, settings)
    try:
        acme = await world.organisation("acme")
        root = (await world.organisation("root", operator=True)).admin
        provider = await acme.admin.providers.CreateProvider(
            name="p", provider_type="PROVIDER_TYPE_OPENAI", base_url="https://api.example.com"
        )
        made = await acme.admin.providers.CreateProviderKey(
            provider_id=provider.provider.id, name="k", secret=SECRET
        )
        key_id = made.provider_key.id
        assert not settings.key_file.exists()
        async with open_core(settings, "worker") as core:
            assert await opened(core, acme.id, key_id) == SECRET
            with pytest.raises(Refused) as refused:
                await root.vault.RotateMasterKey(key_ref=str(uuid4()))
            assert refused.value.code in ("FAILED_PRECONDITION", "UNAVAILABLE")
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
            assert await opened(core, acme.id, key_id) == SECRET
        async with open_core(settings, "worker") as core:  # nothing remembered
            assert await opened(core, acme.id, key_id) == SECRET
    finally:
        await world.close()
        await server.stop(at_once=True)


async def test_a_worker_waits_while_the_service_is_away(
    kms: Kms, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed as unavailable, so that a run waits and its key is not given up."""
    monkeypatch.setattr(kms_keys, "TRIES", 1)
    key = kms.new_key()
    settings = Settings.model_validate({**settings.model_dump(), "master_key": kms.url(key)})
    async with open_core(settings, "worker") as core:
        org_id, key_id, provider_id = (str(uuid4()) for _ in range(3))
        place = seal_context(org_id, key_id, provider_id, 1)
        sealed = await asyncio.to_thread(seal, core.master, b"s3cret", place)
        stored = StoredKey(key_id, org_id, provider_id, 1, sealed_json(sealed))
        assert await unsealed(core.master, stored) == "s3cret"
        assert isinstance(core.master, KmsKeys)
        core.master._opened.clear()
        unplug(core.master)
        with pytest.raises(Unavailable) as away:
            await unsealed(core.master, stored)
        assert away.value.reason == "DEPENDENCY_UNAVAILABLE"
        assert "s3cret" not in str(away.value) and key not in str(away.value)
