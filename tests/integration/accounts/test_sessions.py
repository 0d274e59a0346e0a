"""Sessions as their owner sees and ends them, and what a login makes of somebody else's."""

from __future__ import annotations

from tests.integration.accounts.conftest import at, reason, registered
from tests.support.post import Post
from tests.support.world import PASSWORD, World


async def test_sessions_are_seen_and_ended(world: World, post: Post) -> None:
    """With device, address and client; one, the others, by an administrator; never another's."""
    olivia = await registered(world, post, "olivia")
    phone = at(world, "198.51.100.7")
    answer = await phone.identity.Login(
        login="olivia.x", password=PASSWORD, device_name="phone", device_platform="Android"
    )
    phone = phone.holding(answer.tokens.access_token)
    sessions = (await olivia.account.ListSessions()).sessions
    assert [s.is_current for s in sessions] == [False, True]
    other = sessions[0]
    assert (other.ip_address, dict(other.device_info)["name"]) == ("198.51.100.7", "phone")
    assert "grpc" in other.user_agent and other.HasField("last_used_at")
    mallory = await registered(world, post, "mallory")
    assert await reason(mallory.account.EndSession(session_id=other.id)) == "SESSION_NOT_FOUND"
    assert await reason(olivia.account.EndSession(session_id=other.id)) == "OK"
    assert await reason(phone.identity.GetMe()) == "SESSION_ENDED"
    refresh = phone.identity.RefreshSession(refresh_token=answer.tokens.refresh_token)
    assert await reason(refresh) == "REFRESH_TOKEN_INVALID"
    ended = (await olivia.account.ListSessions(show_ended=True)).sessions
    assert ended[0].ended_reason == "ended_by_owner"

    second, third = await world.log_in("olivia.x"), await world.log_in("olivia.x")
    assert (await olivia.account.EndOtherSessions()).ended == 2
    for person in (second, third):
        assert await reason(person.identity.GetMe()) == "SESSION_ENDED"
    listed = await olivia.identity.ListUserSessions(user_id=olivia.user_id)
    assert len(listed.sessions) == 1
    assert (await olivia.identity.EndUserSessions(user_id=olivia.user_id)).ended == 1
    assert await reason(olivia.identity.GetMe()) == "SESSION_ENDED"


async def test_a_login_never_takes_over_what_was_presented(world: World, post: Post) -> None:
    """Fixation: signing in with somebody's tokens at hand makes new ones, and theirs stay theirs."""
    olivia = await registered(world, post, "olivia")
    mallory = await registered(world, post, "mallory")
    login = await mallory.identity.Login(login="olivia.x", password=PASSWORD)
    assert login.tokens.access_token != mallory.credential
    assert (await mallory.identity.GetMe()).user.id == mallory.user_id
    again = olivia.holding(login.tokens.access_token)
    ids = {s.id for s in (await again.account.ListSessions()).sessions}
    assert len(ids) == 2
