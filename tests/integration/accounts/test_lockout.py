"""Guessing passwords: what it costs the guesser, and that it costs the owner nothing."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest
from redis.asyncio import Redis

from chimera.identity import logins, throttle
from chimera.identity.passwords import Hasher
from chimera.settings import Settings
from tests.integration.accounts.conftest import (
    OTHER_PASSWORD,
    Table,
    at,
    reason,
    registered,
    with_factor,
)
from tests.support.post import Post
from tests.support.world import PASSWORD, World


@pytest.fixture
def hashing() -> dict[str, int]:
    """As shipped: much of this is about what Argon2 costs."""
    return {}


async def guess(world: World, address: str, login: str = "olivia.x") -> str:
    return await reason(at(world, address).identity.Login(login=login, password="a guess"))


async def guesses(world: World, number: int, address: str, login: str = "olivia.x") -> None:
    """By somebody patient: every wait is over before the next."""
    redis: Redis = Redis.from_url(world.settings.redis_url.get_secret_value())
    for _ in range(number):
        async for key in redis.scan_iter("chimera:login:*"):
            if await redis.type(key) == b"hash":
                await redis.hdel(key, "until")  # type: ignore[misc]  # redis-py's types
        assert await guess(world, address, login) == "CREDENTIALS_INVALID"
    await redis.aclose()


async def test_a_burst_is_worth_no_more_than_the_same_guesses_one_by_one(
    world: World, post: Post, table: Table
) -> None:
    """Forty guesses at once from one address: five are looked at, the rest has to wait."""
    await registered(world, post, "olivia")
    burst = [guess(world, "203.0.113.7") for _ in range(40)]
    reasons = await asyncio.gather(*burst)
    assert reasons.count("CREDENTIALS_INVALID") == 5
    assert reasons.count("RATE_LIMITED") == 35
    assert table.value("SELECT failed_login_attempts FROM identity.users") == 5


async def test_a_lock_meets_strangers_and_not_the_owner(
    world: World, post: Post, table: Table
) -> None:
    """After ten failures from one source nobody unknown gets in from anywhere, not even with the
    right password; her device does; her authenticator does from a new one."""
    olivia = await registered(world, post, "olivia")
    device = (
        await at(world, "198.51.100.1").identity.Login(login="olivia.x", password=PASSWORD)
    ).device_token
    totp, _ = await with_factor(olivia)
    table.a_while_later(olivia.user_id)
    await guesses(world, 10, "203.0.113.7")
    failed, locked = table.rows(
        "SELECT failed_login_attempts, locked_until > now() + interval '14 minutes' FROM identity.users"
    )[0]
    assert (failed, locked) == (10, True)

    stranger = at(world, "198.51.100.2").identity
    assert await reason(stranger.Login(login="olivia.x", password=PASSWORD)) == "RATE_LIMITED"
    by_mail = {"login": "olivia@example.com", "password": PASSWORD}
    assert await reason(stranger.Login(**by_mail)) == "CREDENTIALS_INVALID"
    assert await reason(stranger.Login(**by_mail, device_token="cht_" + "x" * 43)) == (
        "CREDENTIALS_INVALID"
    )
    hers = await stranger.Login(login="olivia.x", password=PASSWORD, device_token=device)
    assert hers.challenge.token
    direct = await stranger.Login(login="olivia.x", password=PASSWORD, code=totp.now())
    assert direct.tokens.access_token


async def test_an_offered_code_opens_no_way_around_the_lock(world: World, post: Post) -> None:
    """Who has no second factor is not let in for sending some digits, nor for a made-up device."""
    await registered(world, post, "olivia")
    await guesses(world, 10, "203.0.113.7")
    around = at(world, "198.51.100.2").identity
    for more in ({"code": "123456"}, {"device_token": "cht_" + "y" * 43}):
        call = around.Login(login="olivia.x", password=PASSWORD, **more)
        assert await reason(call) == "RATE_LIMITED"


async def test_names_that_do_not_exist_are_locked_just_the_same(world: World) -> None:
    """A wait tells nothing about accounts."""
    await guesses(world, 10, "203.0.113.7", "ghost")
    assert await guess(world, "198.51.100.2", "ghost") == "RATE_LIMITED"


async def test_an_administrator_unlocks(world: World, table: Table) -> None:
    """Row and throttle alike."""
    acme = await world.organisation("acme")
    ben = await acme.person("ben")
    login = f"ben-{acme.id[-8:]}"
    await guesses(world, 10, "203.0.113.7", login)
    seen = (await acme.admin.identity.GetUser(user_id=ben.user_id)).user
    assert seen.failed_login_attempts == 10 and seen.HasField("locked_until")
    await acme.admin.identity.UnlockUser(user_id=ben.user_id)
    await at(world, "203.0.113.7").identity.Login(login=login, password=PASSWORD)


async def test_a_new_password_by_mail_lets_the_owner_in(world: World, post: Post) -> None:
    """Row and throttle alike."""
    await registered(world, post, "olivia")
    await guesses(world, 10, "203.0.113.7")
    nobody = at(world, "198.51.100.9")
    await nobody.account.RequestPasswordReset(email="olivia@example.com")
    token = await post.token("olivia@example.com")
    await nobody.account.ResetPassword(token=token, password=OTHER_PASSWORD)
    login = nobody.identity.Login(login="olivia.x", password=OTHER_PASSWORD)
    assert await reason(login) == "OK"


async def test_failures_are_in_the_log_without_what_was_typed(
    world: World, post: Post, table: Table
) -> None:
    """By user id when there is one, else under a digest by which attempts can be told apart."""
    olivia = await registered(world, post, "olivia")
    secret = "my-password-typed-as-name"
    for login in ("olivia.x", secret, secret, "another"):
        await guess(world, "203.0.113.7", login)
    failed = table.rows(
        "SELECT facts->>'entity', facts->>'entity_id' FROM audit.pending"
        " WHERE facts->>'action' = 'session.login' AND facts->>'outcome' = 'denied' ORDER BY id"
    )
    assert failed[0] == ("user", olivia.user_id)
    assert failed[1] == failed[2] != failed[3] and failed[1][0] == "login"
    assert len(failed) == 4
    assert secret not in str(table.rows("SELECT facts, fields, leaf FROM audit.pending"))


async def test_time_tells_nothing(
    world: World,
    post: Post,
    settings: Settings,
    table: Table,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CPU time of the serving process, in turns and without padding: the medians of a name that
    does not exist, a wrong password, a locked and a disabled account lie within a seventh of one
    Argon2, so none of them skips or adds anything that padding would have to hide."""
    monkeypatch.setattr(logins, "STEP_S", 0.001)
    monkeypatch.setattr(throttle, "LOCK_AFTER_ANYWHERE", 10_000)
    kinds = ["ghost", "olivia.x", "ben.x", "cleo.x"]
    for name in ("olivia", "ben", "cleo"):
        await registered(world, post, name)
    table.rows("UPDATE identity.users SET state = 'disabled' WHERE username = 'ben.x'")
    table.rows(
        "UPDATE identity.users SET locked_until = now() + interval '1 day' WHERE username = 'cleo.x'"
    )
    spent: dict[str, list[float]] = {kind: [] for kind in kinds}
    people = [at(world, f"10.0.{n}.1") for n in range(12)]
    for number in range(20):
        turn = number % 4
        for kind in kinds[turn:] + kinds[:turn]:
            person = people[number % 12]
            started = time.process_time()
            assert await reason(person.identity.Login(login=kind, password="a guess")) == (
                "CREDENTIALS_INVALID"
            )
            spent[kind].append(time.process_time() - started)
    hasher = Hasher(settings)
    stored = await hasher.hash(PASSWORD)
    hashes = []
    for _ in range(9):
        started = time.process_time()
        await hasher.verify(stored, PASSWORD)
        hashes.append(time.process_time() - started)
    medians = {kind: statistics.median(values) for kind, values in spent.items()}
    gap = max(medians.values()) - min(medians.values())
    assert gap < statistics.median(hashes) / 7, medians
    assert min(medians.values()) > statistics.median(hashes)
