"""Refreshing a session: one successor, retries forgiven, reuse punished."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from tests.support.world import Refused, World


async def test_a_refreshed_session_goes_on_with_new_tokens(world: World) -> None:
    """Generation after generation, each access token works."""
    person = (await world.organisation("acme")).admin
    refresh_token = person.tokens.refresh_token
    for _ in range(3):
        tokens = (await world.nobody().identity.RefreshSession(refresh_token=refresh_token)).tokens
        assert tokens.refresh_token != refresh_token
        await person.holding(tokens.access_token).identity.GetMe()
        refresh_token = tokens.refresh_token


async def test_fifty_callers_with_one_token_get_one_successor(
    world: World, database_url: str
) -> None:
    """All are answered, with the same refresh token, and the family has two members."""
    person = (await world.organisation("acme")).admin
    nobody = world.nobody()
    answers = await asyncio.gather(
        *(
            nobody.identity.RefreshSession(refresh_token=person.tokens.refresh_token)
            for _ in range(50)
        )
    )
    assert len({answer.tokens.refresh_token for answer in answers}) == 1
    assert len({answer.tokens.refresh_expires_at.ToNanoseconds() for answer in answers}) == 1
    with psycopg.connect(database_url) as connection:
        generations = connection.execute(
            "SELECT generation, used_at IS NULL FROM identity.refresh_tokens ORDER BY generation"
        ).fetchall()
    assert generations == [(1, False), (2, True)]


async def test_reuse_after_ten_seconds_ends_the_session_for_both_holders(
    world: World, database_url: str
) -> None:
    """A thief comes later with the stolen token: neither thief nor owner goes on, and it is on
    record as a security event although the call was refused."""
    person = (await world.organisation("acme")).admin
    nobody = world.nobody()
    stolen = person.tokens.refresh_token
    tokens = (await nobody.identity.RefreshSession(refresh_token=stolen)).tokens
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE identity.refresh_tokens SET used_at = used_at - interval '11 s'")

    with pytest.raises(Refused) as refused:
        await nobody.identity.RefreshSession(refresh_token=stolen)
    assert (refused.value.code, refused.value.reason) == (
        "UNAUTHENTICATED",
        "REFRESH_TOKEN_INVALID",
    )
    with pytest.raises(Refused) as refused:
        await person.holding(tokens.access_token).identity.GetMe()
    assert refused.value.reason == "SESSION_ENDED"
    with pytest.raises(Refused) as refused:
        await nobody.identity.RefreshSession(refresh_token=tokens.refresh_token)
    assert refused.value.reason == "REFRESH_TOKEN_INVALID"

    with psycopg.connect(database_url) as connection:
        ended = connection.execute(
            "SELECT is_active, ended_reason FROM identity.sessions"
        ).fetchall()
        events = connection.execute(
            "SELECT facts->>'outcome', facts->>'kind' FROM audit.pending"
            " WHERE facts->>'action' = 'session.refresh' AND facts->>'severity' = 'warning'"
            "   AND org_id IS NOT NULL"
        ).fetchall()
        sealed = connection.execute(
            "SELECT count(*) FROM identity.refresh_tokens WHERE successor_sealed IS NOT NULL"
        ).fetchone()
    assert ended == [(False, "refresh_token_reuse")]
    assert events == [("denied", "security")]
    assert sealed == (0,)


async def test_an_expired_token_is_refused_and_ends_nothing_else(
    world: World, database_url: str
) -> None:
    """Two weeks idle: sign in again. Another session of the same person is untouched."""
    acme = await world.organisation("acme")
    other = await world.log_in("admin-acme")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE identity.refresh_tokens SET expires_at = now() WHERE session_id ="
            " (SELECT id FROM identity.sessions ORDER BY id LIMIT 1)"
        )
    with pytest.raises(Refused) as refused:
        await world.nobody().identity.RefreshSession(refresh_token=acme.admin.tokens.refresh_token)
    assert refused.value.reason == "REFRESH_TOKEN_INVALID"
    await world.nobody().identity.RefreshSession(refresh_token=other.tokens.refresh_token)


async def test_the_absolute_end_is_carried_over(world: World, database_url: str) -> None:
    """A session that ends in an hour does not get a token for two weeks."""
    person = (await world.organisation("acme")).admin
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE identity.sessions SET absolute_expires_at = now() + interval '1 hour'"
        )
        row = connection.execute("SELECT absolute_expires_at FROM identity.sessions").fetchone()
    answer = await world.nobody().identity.RefreshSession(refresh_token=person.tokens.refresh_token)
    assert row is not None
    assert answer.tokens.refresh_expires_at.ToDatetime(row[0].tzinfo) == row[0]


async def test_a_made_up_token_is_refused(world: World) -> None:
    """Nobody's token."""
    with pytest.raises(Refused) as refused:
        await world.nobody().identity.RefreshSession(refresh_token="chr_" + "x" * 43)
    assert refused.value.reason == "REFRESH_TOKEN_INVALID"
