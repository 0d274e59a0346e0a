"""The gate around every kind of RPC: who, what, how long, and what a caller is told."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2

from chimera.db import Tx
from chimera.ids import new_id
from tests.integration.server.conftest import Probed, Serve
from tests.integration.server.probe import Ask, rpc, said
from tests.support.processes import eventually
from tests.support.world import Refused


def detail(refused: Refused, kind: type[Any]) -> Any:
    [found] = [item for item in refused.details if isinstance(item, kind)]
    return found


async def asks(*texts: str) -> Any:
    for text in texts:
        yield Ask(text=text)


async def nothing_sleeps(probed: Probed) -> bool:
    """No backend works on for a caller who has gone."""
    url = probed.world.settings.database_url.get_secret_value()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state <> 'idle' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
        )
        return await cursor.fetchone() == (0,)


# --- the four kinds -------------------------------------------------------------------------------


async def test_every_kind_of_handler_passes(probed: Probed) -> None:
    """Unary and streams, in and out, with the caller known to the handler."""
    olivia = probed.olivia
    assert await said(olivia, "Say", "hello") == "user said hello"
    assert await said(olivia, "Tell", asks("one", "two", "three")) == "one two three"
    probed.probe.go_on.set()
    assert [item.text async for item in rpc(olivia, "Count")("3")] == ["0", "1", "2"]
    assert [item.text async for item in rpc(olivia, "Chat")(asks("a", "b"))] == ["A", "B"]


@pytest.mark.parametrize("name", ["Say", "Tell", "Count", "Chat"])
async def test_every_kind_of_handler_is_closed_to_strangers(probed: Probed, name: str) -> None:
    """Streams are no back door."""
    given = asks("hello") if name in ("Tell", "Chat") else "hello"
    call = rpc(probed.world.nobody(), name)(given)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if name in ("Count", "Chat") else call)
    refused = Refused(caught.value)
    assert (refused.code, refused.reason) == ("UNAUTHENTICATED", "CREDENTIALS_MISSING")


async def test_each_message_of_a_stream_is_validated(probed: Probed) -> None:
    """The third of three is refused by its field, in both directions of streaming."""
    with pytest.raises(Refused) as caught:
        await said(probed.olivia, "Tell", asks("one", "two", ""))
    assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    chat = rpc(probed.olivia, "Chat")(asks("one", ""))
    assert (await chat.read()).text == "ONE"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await chat.read()
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


# --- what a caller is told ------------------------------------------------------------------------


async def test_violations_name_every_field(probed: Probed) -> None:
    """BadRequest lists all of them, with paths as the client wrote them."""
    with pytest.raises(Refused) as caught:
        await probed.olivia.templates.CreateTemplate(title="", tags=["x" * 500])
    fields = {v.field for v in detail(caught.value, error_details_pb2.BadRequest).field_violations}
    assert "title" in fields and any(field.startswith("tags[0]") for field in fields)
    assert caught.value.reason == "FIELD_INVALID"


async def test_a_fault_carries_its_details(probed: Probed) -> None:
    """One ErrorInfo of our domain, the precondition, and when to try again."""
    with pytest.raises(Refused) as caught:
        await said(
            probed.olivia, "Say", "refuse", metadata=(("x-correlation-id", "night-shift-7"),)
        )
    info = detail(caught.value, error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason) == ("chimera", "CAMPAIGN_NOT_DRAFT")
    assert info.metadata["correlation_id"] == "night-shift-7"
    assert detail(caught.value, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 1500
    [violation] = detail(caught.value, error_details_pb2.PreconditionFailure).violations
    assert violation.type == "CAMPAIGN_NOT_DRAFT"


async def test_a_crash_tells_nothing(probed: Probed) -> None:
    """The caller gets a correlation id for the log and no word of what happened."""
    with pytest.raises(Refused) as caught:
        await said(probed.olivia, "Say", "crash hunter2")
    assert (caught.value.code, caught.value.reason) == ("INTERNAL", "INTERNAL")
    assert "hunter2" not in f"{caught.value} {caught.value.details}"
    assert len(caught.value.facts["correlation_id"]) == 36


async def test_a_failed_statement_is_never_committed_in_silence(probed: Probed) -> None:
    """Swallowing a database error does not turn COMMIT's silent ROLLBACK into an answer."""
    with pytest.raises(Refused) as caught:
        await said(probed.olivia, "Say", "swallow")
    assert caught.value.code == "INTERNAL"


async def test_a_change_without_its_audit_event_is_refused(probed: Probed) -> None:
    """Whoever forgets `record` finds out at the first call, and nothing is committed."""
    with pytest.raises(Refused) as caught:
        await said(probed.olivia, "Write", "forget")
    assert caught.value.code == "INTERNAL"


async def test_a_message_that_is_too_large_is_refused(serve: Serve) -> None:
    """Before it is parsed, and the connection goes on."""
    async with serve(message_bytes_max=100_000) as probed:
        with pytest.raises(Refused) as caught:
            await said(probed.olivia, "Say", "x" * 200_000)
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        assert await said(probed.olivia, "Say", "small") == "user said small"


async def test_an_unknown_method_is_unimplemented(probed: Probed) -> None:
    call = probed.olivia.channel.unary_unary("/chimera.v1.IdentityService/Nonesuch")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


# --- addresses ------------------------------------------------------------------------------------


async def test_a_forged_forwarding_header_is_ignored(serve: Serve) -> None:
    """Unless the peer is a listed proxy; then the hop it saw counts, not what the client wrote."""
    forged = (("x-forwarded-for", "203.0.113.9"),)
    through = (("x-forwarded-for", "203.0.113.9, 198.51.100.7"),)
    async with serve() as probed:
        assert await said(probed.olivia, "Say", "address", metadata=forged) == "127.0.0.1"
    async with serve(trusted_proxies=("127.0.0.0/8",)) as probed:
        assert await said(probed.olivia, "Say", "address", metadata=through) == "198.51.100.7"


# --- time -----------------------------------------------------------------------------------------


async def test_the_callers_deadline_reaches_the_database(probed: Probed) -> None:
    """Nobody waits for the answer any more, so PostgreSQL stops working on it."""
    with pytest.raises(Refused) as caught:
        await said(probed.olivia, "Say", "sleep 60", timeout_s=0.3)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    await eventually(lambda: nothing_sleeps(probed))


async def test_the_methods_own_deadline_holds_without_the_callers(probed: Probed) -> None:
    """A call that may take 200 ms takes no more, whatever the client would bear."""
    with pytest.raises(Refused) as caught:
        await said(probed.olivia, "Hurry", "sleep 60", timeout_s=None)
    assert (caught.value.code, caught.value.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_TOO_SHORT")
    await eventually(lambda: nothing_sleeps(probed))


async def test_a_storm_of_cancelled_calls_leaks_nothing(probed: Probed) -> None:
    """500 callers give up at any moment, waiting for a connection, getting one, or in a statement:
    the pool is whole, and nothing runs on behind them."""
    moments = random.Random(7)

    async def many() -> bool:
        return probed.probe.calls > 100

    begun = asyncio.create_task(eventually(many))

    async def gives_up(number: int) -> None:
        call = rpc(probed.olivia, "Say")("sleep 30")
        if number % 2:  # the others may be gone before they have begun, however slow the machine
            await begun
        await asyncio.sleep(moments.uniform(0.0, 1.1))
        call.cancel()

    await asyncio.gather(*(gives_up(number) for number in range(500)))
    pool = probed.probe.core.db.pool

    async def calm() -> bool:
        stats = pool.get_stats()
        return (
            not probed.server.gate.open_calls
            and not stats["requests_waiting"]
            and stats["pool_available"] == stats["pool_size"]
            and await nothing_sleeps(probed)
        )

    await eventually(calm)
    assert probed.probe.core.db.in_use == 0
    together = [said(probed.olivia, "Say", "sleep 0.05") for _ in range(20)]
    assert set(await asyncio.gather(*together)) == {"user said sleep 0.05"}


# --- how much -------------------------------------------------------------------------------------


async def test_watches_are_counted_apart_from_calls(serve: Serve) -> None:
    """Two idle watchers fill their places; a third is refused, calls are not; a place that is left
    is free."""
    async with serve(watchers_per_caller_max=2) as probed:
        olivia, probe = probed.olivia, probed.probe
        watches = [rpc(olivia, "Count")("1") for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).text == "0"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc(olivia, "Count")("1").read()
        refused = Refused(caught.value)
        assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_WATCHERS")
        assert await said(olivia, "Say", "still here") == "user said still here"
        other = await probed.acme.person("oscar")
        assert (await rpc(other, "Count")("1").read()).text == "0"

        watches[0].cancel()
        await eventually(lambda: probe.closed)
        assert (await rpc(olivia, "Count")("1").read()).text == "0"


async def test_callers_and_addresses_are_limited(serve: Serve) -> None:
    """By person within the class of the method, and by address before anyone is known; with the
    time after which it is worth trying again."""
    async with serve(reads_per_minute=6) as probed:
        await said(probed.olivia, "Say", "one")
        with pytest.raises(Refused) as caught:
            await said(probed.olivia, "Say", "two")
        refused = caught.value
        assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
        assert detail(refused, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 1000
        assert detail(refused, error_details_pb2.QuotaFailure).violations[0].subject == "caller"
        other = await probed.acme.person("oscar")
        assert await said(other, "Say", "one") == "user said one"
    async with serve(calls_per_peer_second=10) as probed:
        calls = [said(probed.world.nobody(), "Say", "x") for _ in range(60)]
        reasons = [error.reason for error in await asyncio.gather(*calls, return_exceptions=True)]
        assert set(reasons) == {"CREDENTIALS_MISSING", "RATE_LIMITED"}


# --- once -----------------------------------------------------------------------------------------


async def test_a_repeated_request_has_one_effect_and_one_answer(probed: Probed) -> None:
    """Same id, same body: the first answer. Same id, another body: refused. Another caller's ids
    are its own."""
    request_id = new_id()
    olivia = probed.olivia
    first = await said(olivia, "Write", Ask(text="a", request_id=request_id))
    again = await said(olivia, "Write", Ask(text="a", request_id=request_id))
    assert first == again == "a 1"
    with pytest.raises(Refused) as caught:
        await said(olivia, "Write", Ask(text="b", request_id=request_id))
    assert (caught.value.code, caught.value.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    oscar = await probed.acme.person("oscar")
    assert await said(oscar, "Write", Ask(text="a", request_id=request_id)) == "a 2"
    assert probed.probe.effects == {"a": 2}


async def test_ten_at_once_with_one_id_have_one_effect(probed: Probed) -> None:
    """A client that retries too eagerly does no harm."""
    request = Ask(text="eager", request_id=new_id())
    answers = await asyncio.gather(
        *(said(probed.olivia, "Write", request) for _ in range(10)), return_exceptions=True
    )
    given = {answer for answer in answers if isinstance(answer, str)}
    others = {answer.reason for answer in answers if isinstance(answer, Refused)}
    assert given == {"eager 1"} and others <= {"CONFLICT_TRY_AGAIN"}
    assert probed.probe.effects["eager"] == 1


async def test_a_crash_in_the_middle_leaves_no_claim(probed: Probed) -> None:
    """The database connection dies between the claim and COMMIT: the retry does the work."""
    url = probed.world.settings.database_url.get_secret_value()

    async def killed(tx: Tx) -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
            pid = tx.connection.info.backend_pid
            await admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    request = Ask(text="unlucky", request_id=new_id())
    probed.probe.before_commit = killed
    with pytest.raises(Refused) as caught:
        await said(probed.olivia, "Write", request)
    assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
    assert not probed.probe.effects
    probed.probe.before_commit = probed.probe.nothing
    assert await said(probed.olivia, "Write", request) == "unlucky 1"


async def test_a_caller_who_leaves_during_commit_changes_nothing(serve: Serve) -> None:
    """COMMIT is carried through with all that follows from it, and the connection that did it goes
    on to write the audit log without a gap or a clash."""
    async with serve(pool_size_max=1) as probed:
        request = Ask(text="impatient", request_id=new_id())
        call = rpc(probed.olivia, "Write")(request)

        async def leaves(tx: Tx) -> None:
            commit, me = tx.commit, asyncio.current_task()
            assert me is not None

            async def slow_commit() -> None:
                call.cancel()
                await eventually(me.cancelling)
                await commit()

            tx.commit = slow_commit  # type: ignore[method-assign]  # of this transaction

        probed.probe.before_commit = leaves
        with pytest.raises(asyncio.CancelledError):
            await call
        await eventually(lambda: probed.probe.effects)
        probed.probe.before_commit = probed.probe.nothing

        assert await said(probed.olivia, "Write", request) == "impatient 1"
        for number in (1, 2):
            assert await said(probed.olivia, "Write", "next") == f"next {number}"
