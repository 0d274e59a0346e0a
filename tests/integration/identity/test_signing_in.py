"""Signing in, staying signed in, and what an outsider is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, LiteralString

import psycopg
import pytest

from chimera.audit.leaf import decode_leaf
from chimera.db import Tx
from chimera.identity import passwords
from chimera.identity.bootstrap import bootstrap
from chimera.roundtrip import Asked
from chimera.server import Server
from chimera.settings import Settings
from tests.support.world import PASSWORD, Person, Refused, World

ADMIN = "admin@acme.example.com"


@pytest.fixture
def hashing() -> dict[str, int]:
    """As shipped: much of this is about what Argon2 costs."""
    return {}


async def test_somebody_signs_in_works_and_signs_out(world: World) -> None:
    """Olivia gets tokens, is known by them, and nothing is left of them after logging out."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia", role="user")

    me = await olivia.identity.GetMe()
    assert me.user.username.startswith("olivia-")
    assert me.organisation.name == "acme"
    assert len(me.permissions) > 5

    await olivia.identity.Logout()
    with pytest.raises(Refused) as refused:
        await olivia.identity.GetMe()
    assert (refused.value.code, refused.value.reason) == ("UNAUTHENTICATED", "SESSION_ENDED")
    with pytest.raises(Refused) as refused:
        await olivia.identity.RefreshSession(refresh_token=olivia.tokens.refresh_token)
    assert refused.value.reason == "REFRESH_TOKEN_INVALID"


async def test_a_user_name_and_capitals_do_as_well_as_the_address(world: World) -> None:
    """People type their address as they like, or their user name."""
    await world.organisation("acme")
    by_name = await world.log_in("  Admin-ACME ")
    by_address = await world.log_in("ADMIN@acme.Example.com")
    assert by_name.user_id == by_address.user_id


async def test_everything_wrong_with_a_login_looks_the_same(
    world: World, database_url: str
) -> None:
    """Unknown, wrong, disabled and without a password: one answer, word for word."""
    acme = await world.organisation("acme")
    logins = []
    for name, change in [
        ("anna", ""),
        ("ben", "UPDATE identity.users SET state = 'disabled' WHERE id = %s"),
        ("cleo", "UPDATE identity.users SET password_hash = NULL WHERE id = %s"),
    ]:
        person = await acme.person(name)
        logins.append((await person.identity.GetMe()).user.email)
        if change:
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute(change, [person.user_id])
    attempts = [
        (logins[0], "not the password of anna"),
        (logins[1], PASSWORD),
        (logins[2], PASSWORD),
        ("nobody@example.com", PASSWORD),
    ]
    answers = set()
    for login, password in attempts:
        with pytest.raises(Refused) as refused:
            await world.nobody().identity.Login(login=login, password=password)
        answers.add((refused.value.code, refused.value.reason, refused.value.message))
    assert len(answers) == 1
    assert answers.pop()[:2] == ("UNAUTHENTICATED", "CREDENTIALS_INVALID")


async def test_every_failure_does_the_same_work(
    world: World, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statement for statement, hash for hash: nothing runs for one that does not for all."""
    acme = await world.organisation("acme")
    disabled = await acme.person("ben")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE identity.users SET state = 'disabled' WHERE id = %s", [disabled.user_id]
        )
    done: list[str] = []
    send, verify = Tx._send, passwords._verify

    async def noted(tx: Tx, statements: list[Asked], *more: Any) -> Any:
        if tx.call.method.startswith("/chimera"):  # not the readiness probe
            done.extend(statement.text.decode() for statement in statements)
        return await send(tx, statements, *more)

    def hashed(stored: str, password: str) -> bool:
        done.append("argon2 " + stored[: stored.index("p=1")])
        return verify(stored, password)

    monkeypatch.setattr(Tx, "_send", noted)
    monkeypatch.setattr(passwords, "_verify", hashed)
    works = []
    for login, password in [
        ("nobody", PASSWORD),
        ("admin-acme", "not the password"),
        (f"ben-{acme.id[-8:]}", PASSWORD),
    ]:
        done.clear()
        with pytest.raises(Refused):
            await world.nobody().identity.Login(login=login, password=password)
        works.append(list(done))
    # Look up, hash, the count, and the audit event with COMMIT.
    assert len(works[0]) == 5 and works[0][-1] == "COMMIT"
    assert works[0] == works[1] == works[2]


async def test_an_account_that_changes_under_a_login_opens_nothing(
    world: World, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the hash and the session: refused as for a wrong password; no session, token or device
    is left, no event says that somebody got in, and the audit log has no hole."""
    acme = await world.organisation("acme")
    olivia = await acme.person("olivia")
    verify = passwords._verify

    def counts() -> tuple[Any, ...]:
        with psycopg.connect(database_url) as connection:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM identity.sessions), (SELECT count(*) FROM"
                " identity.refresh_tokens), (SELECT count(*) FROM identity.devices)"
            ).fetchone()
            assert row is not None
            return row

    def logins() -> Counter[str]:
        """Outcomes; every writer has counted 1, 2, 3 ..."""
        with psycopg.connect(database_url) as connection:
            leaves = connection.execute("SELECT leaf FROM audit.pending").fetchall()
            counters = dict(
                connection.execute("SELECT writer_id::text, seq FROM audit.writers").fetchall()
            )
        events = [decode_leaf(leaf) for (leaf,) in leaves]
        for writer_id, seq in counters.items():
            own = sorted(event.writer_seq for event in events if event.writer_id == writer_id)
            assert own == list(range(1, seq + 1))
        return Counter(str(e.outcome) for e in events if e.action == "session.login")

    async def signs_in() -> None:
        await world.nobody().identity.Login(login=f"olivia-{acme.id[-8:]}", password=PASSWORD)

    for change in (
        "UPDATE identity.users SET authz_epoch = authz_epoch + 1 WHERE id = %s",
        "UPDATE identity.users SET password_changed_at = clock_timestamp() WHERE id = %s",
        "UPDATE identity.users SET state = 'disabled' WHERE id = %s",
    ):

        def changed(stored: str, password: str, change: LiteralString = change) -> bool:
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute(change, [olivia.user_id])
            return verify(stored, password)

        await asyncio.gather(*(signs_in() for _ in range(3)))  # at once, each gets in
        had, before = counts(), logins()
        monkeypatch.setattr(passwords, "_verify", changed)
        with pytest.raises(Refused) as refused:
            await signs_in()
        monkeypatch.setattr(passwords, "_verify", verify)
        assert refused.value.reason == "CREDENTIALS_INVALID"
        assert counts() == had
        assert logins() == before + Counter(denied=1)


async def test_failures_are_counted_and_slow_their_source_only(
    settings: Settings, database_url: str
) -> None:
    """Five wrong passwords make their source wait; the row counts them. The owner, elsewhere,
    signs in all the same, which sets the count back."""
    server = Server(settings.model_copy(update={"trusted_proxies": ("127.0.0.0/8",)}))
    await server.start()
    world = World(server, settings)
    try:
        await bootstrap(
            settings, organisation="acme", email=ADMIN, username="admin", password=PASSWORD
        )
        outsider, owner = _from(world, "203.0.113.7"), _from(world, "198.51.100.9")
        for _ in range(5):
            with pytest.raises(Refused) as refused:
                await outsider.identity.Login(login=ADMIN, password="wrong")
            assert refused.value.reason == "CREDENTIALS_INVALID"
        with pytest.raises(Refused) as refused:
            await outsider.identity.Login(login=ADMIN, password=PASSWORD)
        assert (refused.value.code, refused.value.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
        assert _count(database_url, ADMIN) == 5

        await owner.identity.Login(login=ADMIN, password=PASSWORD)
        assert _count(database_url, ADMIN) == 0
    finally:
        await world.close()
        await server.stop(at_once=True)


async def test_a_forged_address_changes_nothing(world: World, database_url: str) -> None:
    """A new X-Forwarded-For with every guess, and no proxy that is trusted: they are counted as one
    source all the same, and neither the log nor a session knows the address."""
    await world.organisation("acme")
    for number in range(5):
        with pytest.raises(Refused) as refused:
            guesser = _from(world, f"203.0.113.{number}")
            await guesser.identity.Login(login="admin-acme", password="wrong")
        assert refused.value.reason == "CREDENTIALS_INVALID"
    with pytest.raises(Refused) as refused:
        await _from(world, "203.0.113.99").identity.Login(login="admin-acme", password=PASSWORD)
    assert refused.value.reason == "RATE_LIMITED"
    with psycopg.connect(database_url) as connection:
        leaves = connection.execute("SELECT leaf FROM audit.pending").fetchall()
        addresses = connection.execute("SELECT host(ip_address) FROM identity.sessions").fetchall()
    assert len(leaves) >= 5 and b"203.0.113" not in b"".join(bytes(leaf) for (leaf,) in leaves)
    assert set(addresses) == {("127.0.0.1",)}


async def test_a_hundred_people_at_once_all_get_in(world: World) -> None:
    """More than can be hashed at a time: they queue, and nobody is refused."""
    await world.organisation("acme")
    nobody = world.nobody()
    answers = await asyncio.gather(
        *(nobody.identity.Login(login="admin-acme", password=PASSWORD) for _ in range(100))
    )
    assert len({answer.tokens.refresh_token for answer in answers}) == 100


async def test_a_full_queue_refuses_instead_of_growing(settings: Settings) -> None:
    """With two places beside the hashing threads, a crowd is told to come back."""
    server = Server(settings.model_copy(update={"argon2_queue": 2}))
    await server.start()
    world = World(server, settings)
    try:
        await world.organisation("acme")
        nobody = world.nobody()
        answers = await asyncio.gather(
            *(nobody.identity.Login(login="admin-acme", password=PASSWORD) for _ in range(40)),
            return_exceptions=True,
        )
        refused = [answer for answer in answers if isinstance(answer, Refused)]
        assert {(r.code, r.reason) for r in refused} == {("RESOURCE_EXHAUSTED", "SERVER_BUSY")}
        assert 0 < len(refused) < 40
        await world.log_in("admin-acme")
    finally:
        await world.close()
        await server.stop(at_once=True)


async def test_a_hash_with_old_parameters_is_renewed_after_the_login(
    settings: Settings, database_url: str
) -> None:
    """Her password was hashed when three passes were asked for; now two are."""
    await bootstrap(
        settings.model_copy(update={"argon2_passes": 3}),
        organisation="acme",
        email=ADMIN,
        username="admin",
        password=PASSWORD,
    )
    server = Server(settings)
    await server.start()
    world = World(server, settings)
    try:
        await world.log_in(ADMIN)
        async with asyncio.timeout(20):
            while "t=2" not in _stored_hash(database_url, ADMIN):
                await world.nobody().identity.Login(login=ADMIN, password=PASSWORD)
        await world.log_in(ADMIN)
    finally:
        await world.close()
        await server.stop(at_once=True)


def _from(world: World, address: str) -> Person:
    """Nobody yet, at an address that the trusted proxy reports."""
    person = world.nobody()
    person.metadata = lambda: (("x-forwarded-for", address),)  # type: ignore[method-assign]  # its way through the proxy
    return person


def _stored_hash(database_url: str, email: str) -> str:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT password_hash FROM identity.users WHERE email = %s", [email]
        ).fetchone()
    assert row is not None
    return str(row[0])


def _count(database_url: str, email: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT failed_login_attempts FROM identity.users WHERE email = %s", [email]
        ).fetchone()
    assert row is not None
    return int(row[0])
