"""How long a login takes, whatever comes of it."""

from __future__ import annotations

from unittest.mock import AsyncMock, Mock

import pytest

from chimera.identity import logins


@pytest.mark.parametrize(("took", "waits"), [(0.010, 0.035), (0.060, 0.030)])
async def test_it_takes_whole_steps(
    monkeypatch: pytest.MonkeyPatch, took: float, waits: float
) -> None:
    """For who got in and for who did not."""
    sleep = AsyncMock()
    monkeypatch.setattr(logins, "asyncio", Mock(sleep=sleep))
    monkeypatch.setattr(logins, "time", Mock(monotonic=Mock(side_effect=[5.0, 5.0 + took] * 2)))
    async with logins.in_steps():
        pass
    with pytest.raises(ValueError, match="wrong"):
        async with logins.in_steps():
            raise ValueError("wrong")
    assert [call.args[0] for call in sleep.await_args_list] == [pytest.approx(waits)] * 2
