"""Authenticators and recovery codes, checked with an implementation that is not ours."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest

from chimera.identity import throttle
from chimera.v1.identity_pb2 import SessionRestriction
from chimera.v1.organisations_pb2 import OrganisationRules
from tests.integration.accounts.conftest import (
    OTHER_PASSWORD,
    Table,
    at,
    reason,
    registered,
    together,
    with_factor,
)
from tests.support.post import Post
from tests.support.world import PASSWORD, Person, World


async def challenged(world: World, login: str) -> str:
    """The token of a challenge: the password was right."""
    answer = await world.nobody().identity.Login(login=login, password=PASSWORD)
    assert not answer.HasField("tokens") and not answer.HasField("user")
    return str(answer.challenge.token)


def complete(world: World, token: str, code: str) -> object:
    return world.nobody().identity.CompleteLogin(challenge_token=token, code=code)


async def test_a_login_takes_two_steps(world: World, post: Post, table: Table) -> None:
    """Secret shown once, confirmed by a code, asked for from then on; her other session ended."""
    olivia = await registered(world, post, "olivia")
    elsewhere = await world.log_in("olivia.x")
    account = olivia.account
    for early in (account.ConfirmTotp, account.DisableTotp, account.RegenerateRecoveryCodes):
        for code in ("123456", "A" * 26):
            assert await reason(early(code=code)) == "TOTP_NOT_ENROLLED"
    enrolled = await olivia.account.EnrollTotp()
    uri = parse_qs(urlsplit(enrolled.otpauth_uri).query)
    assert uri["secret"] == [enrolled.secret] and uri["issuer"] == ["Chimera"]
    totp = pyotp.TOTP(enrolled.secret)
    assert await reason(olivia.account.ConfirmTotp(code="000000")) in ("CODE_INVALID", "OK")
    await world.log_in("olivia.x")  # not a factor yet
    confirmed = await olivia.account.ConfirmTotp(code=totp.now())
    assert len(set(confirmed.recovery_codes)) == 10
    assert await reason(elsewhere.identity.GetMe()) == "SESSION_ENDED"
    assert await reason(olivia.account.EnrollTotp()) == "TOTP_ALREADY_ENROLLED"

    table.a_while_later(olivia.user_id)
    token = await challenged(world, "olivia.x")
    code = totp.now()
    answer = await world.nobody().identity.CompleteLogin(challenge_token=token, code=code)
    again = world.nobody().holding(answer.tokens.access_token)
    assert (await again.identity.GetMe()).user.has_second_factor
    assert answer.recovery_codes_left == 10
    assert await reason(complete(world, token, code)) == "ONE_TIME_TOKEN_INVALID"  # type: ignore[arg-type]  # a call
    assert enrolled.secret not in str(table.rows("SELECT u::text FROM identity.users u"))
    assert enrolled.secret not in str(table.rows("SELECT * FROM audit.pending"))


async def test_a_code_is_good_once_also_at_the_same_moment(
    world: World, post: Post, table: Table
) -> None:
    """Six challenges, one code, all at once: one gets in."""
    olivia = await registered(world, post, "olivia")
    totp, _ = await with_factor(olivia)
    table.a_while_later(olivia.user_id)
    tokens = [await challenged(world, "olivia.x") for _ in range(6)]
    code = totp.now()
    reasons = await together(
        *(
            at(world, f"192.0.2.{n}").identity.CompleteLogin(challenge_token=token, code=code)
            for n, token in enumerate(tokens)
        )
    )
    assert reasons == ["CODE_INVALID"] * 5 + ["OK"]
    later = world.nobody().identity.Login(login="olivia.x", password=PASSWORD, code=code)
    assert await reason(later) == "CREDENTIALS_INVALID"


async def test_a_challenge_is_good_once_and_for_five_tries(
    world: World, post: Post, table: Table
) -> None:
    """Two right codes for one challenge: one session. Five wrong ones: none."""
    olivia = await registered(world, post, "olivia")
    totp, codes = await with_factor(olivia)
    table.a_while_later(olivia.user_id)
    token = await challenged(world, "olivia.x")
    people = [at(world, "192.0.2.1"), at(world, "192.0.2.2")]
    reasons = await together(
        people[0].identity.CompleteLogin(challenge_token=token, code=totp.now()),
        people[1].identity.CompleteLogin(challenge_token=token, code=codes[0]),
    )
    assert reasons.count("OK") == 1
    table.a_while_later(olivia.user_id)
    token = await challenged(world, "olivia.x")
    for n in range(5):
        guess = at(world, f"198.51.100.{n}").identity
        assert await reason(guess.CompleteLogin(challenge_token=token, code="WRONG0")) == (
            "CODE_INVALID"
        )
    late = at(world, "198.51.100.9").identity.CompleteLogin(challenge_token=token, code=totp.now())
    assert await reason(late) == "ONE_TIME_TOKEN_INVALID"


async def test_a_right_password_is_no_free_try(world: World, post: Post, table: Table) -> None:
    """A code that was used, or only looks like a recovery code, is a failure as any: counted, in the
    organisation's log, and with the wait that a wrong password earns, or a lock would tell which
    password is right."""
    olivia = await registered(world, post, "olivia")
    totp, _ = await with_factor(olivia)
    used, made_up = totp.now(), "A" * 26
    mail = "olivia@example.com"
    for number, (address, password, code) in enumerate(
        [
            ("203.0.113.1", PASSWORD, used),
            ("203.0.113.2", PASSWORD, made_up),
            ("203.0.113.3", "wrong", made_up),
        ]
    ):
        guesser = at(world, address).identity
        tries = [
            await reason(guesser.Login(login=mail, password=password, code=code)) for _ in range(5)
        ]
        assert tries == ["CREDENTIALS_INVALID"] * 5
        failed, logged = table.rows(
            "SELECT failed_login_attempts, (SELECT count(*) FROM audit.pending"
            "  WHERE facts->>'action' = 'session.login' AND facts->>'outcome' = 'denied'"
            "    AND facts->>'entity_id' = u.id::text AND org_id = u.home_org_id)"
            " FROM identity.users u"
        )[0]
        assert (failed, logged) == (5 + 5 * number, 5 + 5 * number)
        more = [
            await reason(guesser.Login(login=mail, password=password, code=code)) for _ in range(3)
        ]
        assert "RATE_LIMITED" in more
        table.rows("UPDATE identity.users SET failed_login_attempts = %s", 5 + 5 * number)
    for call in (olivia.account.StepUp, olivia.account.DisableTotp):
        reasons = [await reason(call(code="B" * 26)) for _ in range(8)]
        assert reasons[:5] == ["CODE_INVALID"] * 5 and "RATE_LIMITED" in reasons


async def test_who_knows_the_password_does_not_lock_out_its_owner(
    world: World, post: Post, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong codes from many addresses lock strangers out of the second step; her device goes on. Who
    has stolen a session guesses in it; she proves herself in hers."""
    monkeypatch.setattr(throttle, "LOCK_AFTER_ANYWHERE", 5)
    olivia = await registered(world, post, "olivia")
    stolen = await world.log_in("olivia.x")
    for _ in range(5):
        wrong = stolen.account.ChangePassword(
            current_password="wrong wrong", new_password=OTHER_PASSWORD
        )
        assert await reason(wrong) == "PASSWORD_WRONG"
        assert await reason(stolen.account.StepUp(password="wrong wrong")) == "PASSWORD_WRONG"
    assert await reason(olivia.account.StepUp(password=PASSWORD)) == "OK"
    changes = olivia.account.ChangePassword(current_password=PASSWORD, new_password=OTHER_PASSWORD)
    assert await reason(changes) == "OK"

    login = {"login": "olivia.x", "password": OTHER_PASSWORD}
    device = (await world.nobody().identity.Login(**login)).device_token
    totp, _ = await with_factor(olivia)
    table.a_while_later(olivia.user_id)

    async def finishes(address: str, code: str, **more: str) -> str:
        person = at(world, address).identity
        challenge = (await person.Login(**login, **more)).challenge
        return await reason(person.CompleteLogin(challenge_token=challenge.token, code=code))

    for number in range(5):
        assert await finishes(f"203.0.113.{number}", "000000") == "CODE_INVALID"
    assert await finishes("198.51.100.1", totp.now()) == "RATE_LIMITED"
    assert await reason(olivia.account.RegenerateRecoveryCodes(code="000000")) == "CODE_INVALID"
    assert await finishes("198.51.100.1", totp.now(), device_token=device) == "OK"


async def test_recovery_codes_are_used_up(world: World, post: Post) -> None:
    """Each once, however it is typed; new ones replace all of them."""
    olivia = await registered(world, post, "olivia")
    _, codes = await with_factor(olivia)
    typed = codes[0].lower().replace("-", " ")
    tokens = [await challenged(world, "olivia.x") for _ in range(4)]
    reasons = await together(
        *(
            at(world, f"192.0.2.{n}").identity.CompleteLogin(challenge_token=token, code=typed)
            for n, token in enumerate(tokens)
        )
    )
    assert reasons == ["CODE_INVALID"] * 3 + ["OK"]
    fresh = await olivia.account.RegenerateRecoveryCodes(code=codes[1])
    direct = world.nobody().identity
    old = direct.Login(login="olivia.x", password=PASSWORD, code=codes[2])
    assert await reason(old) == "CREDENTIALS_INVALID"
    answer = await direct.Login(login="olivia.x", password=PASSWORD, code=fresh.recovery_codes[0])
    assert answer.tokens.access_token
    assert await reason(olivia.account.DisableTotp(code=fresh.recovery_codes[0])) == "CODE_INVALID"
    assert await reason(olivia.account.DisableTotp(code=fresh.recovery_codes[1])) == "OK"
    await world.log_in("olivia.x")


async def test_a_new_password_does_not_get_around_the_factor(world: World, post: Post) -> None:
    """Who reads the mailbox can choose a password and still needs the authenticator; a challenge
    from before is worth nothing."""
    olivia = await registered(world, post, "olivia")
    _, codes = await with_factor(olivia)
    token = await challenged(world, "olivia.x")
    await world.nobody().account.RequestPasswordReset(email="olivia@example.com")
    link = await post.token("olivia@example.com")
    await world.nobody().account.ResetPassword(token=link, password="another long password")
    answer = await world.nobody().identity.Login(login="olivia.x", password="another long password")
    assert answer.challenge.token and not answer.HasField("tokens")
    stale = world.nobody().identity.CompleteLogin(challenge_token=token, code=codes[0])
    assert await reason(stale) == "ONE_TIME_TOKEN_INVALID"


async def test_an_organisation_may_ask_for_it(world: World, post: Post, table: Table) -> None:
    """Who has none can do nothing but set one up; who asks for it needs one first."""
    olivia = await registered(world, post, "olivia")
    made = await olivia.identity.CreateUser(
        email="ben@example.com", username="ben", role=2, password=PASSWORD
    )
    ask = {
        "update_mask": {"paths": ["rules"]},
        "rules": OrganisationRules(password_characters_min=8, requires_second_factor=True),
    }
    assert await reason(olivia.organisations.UpdateOrganisation(**ask)) == "TOTP_NOT_ENROLLED"
    await with_factor(olivia)
    await olivia.organisations.UpdateOrganisation(**ask)
    assert await reason(olivia.identity.ListUsers()) == "OK"

    opened = await world.nobody().identity.Login(login="ben", password=PASSWORD)
    assert opened.restriction == SessionRestriction.SESSION_RESTRICTION_SECOND_FACTOR
    ben = world.nobody().holding(opened.tokens.access_token)
    ben.user_id = made.user.id
    assert await reason(ben.templates.ListTemplates()) == "SECOND_FACTOR_REQUIRED"
    await with_factor(ben)
    assert await reason(ben.templates.ListTemplates()) == "OK"


async def test_who_lost_it_is_helped_by_an_administrator(world: World, post: Post) -> None:
    """Of the home organisation; the person is told."""
    acme = await world.organisation("acme")
    ben: Person = await acme.person("ben")
    email = (await ben.identity.GetMe()).user.email
    await with_factor(ben)
    viewer = await acme.person("vera", role="viewer")
    reset = {"user_id": ben.user_id}
    assert await reason(viewer.identity.ResetSecondFactor(**reset)) == "PERMISSION_MISSING"
    done = await acme.admin.identity.ResetSecondFactor(**reset)
    assert not done.user.has_second_factor
    assert await reason(acme.admin.identity.ResetSecondFactor(**reset)) == "TOTP_NOT_ENROLLED"
    assert await reason(ben.identity.GetMe()) == "SESSION_ENDED"
    await world.log_in(email)
    assert "removed your second factor" in (await post.letters_to(email))[-1]
