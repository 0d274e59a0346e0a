"""`chimera vault` and `chimera prices`, as an operator types them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from chimera.cli import app
from tests.support.campaigns import worker
from tests.support.world import World


@pytest.fixture
async def typed(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a command against the server; its exit code and what it printed, or failed with."""
    root = (await world.organisation("root", operator=True)).admin
    monkeypatch.setenv("CHIMERA_SERVER", world.address)
    monkeypatch.setenv("CHIMERA_API_KEY", root.credential)

    async def run(*words: str) -> tuple[int, str]:
        result = await asyncio.to_thread(CliRunner().invoke, app, list(words))
        return result.exit_code, result.output + str(result.exception or "")

    return run


async def test_the_master_key_is_changed_by_command(world: World, typed: Any) -> None:
    code, said = await typed("vault", "status")
    assert code == 0 and "version 1: enabled, wraps" in said
    async with worker(world.settings):
        code, said = await typed("vault", "rotate")
    assert code == 0, said
    assert said.strip().splitlines()[-1].startswith("rotation to version 2: completed")
    assert await typed("vault", "retire", "1") == (0, "version 1 is disabled\n")
    code, said = await typed("vault", "status")
    assert "version 1: disabled, wraps 0 values (local_file)" in said
    code, _ = await typed("vault", "retire", "2")
    assert code != 0
    code, said = await typed("vault", "rotate", "--to", "service")
    assert code != 0 and "CHIMERA_MASTER_KEY" in said
    code, said = await typed("vault", "rotate", "--to", "the moon")
    assert code != 0 and "file or service" in said


async def test_prices_are_taken_over_by_command(typed: Any) -> None:
    code, said = await typed("prices", "seed", "--provider", "anthropic", "--dry-run")
    assert code == 0 and "(nothing was stored)" in said
    code, said = await typed("prices", "seed", "--provider", "anthropic")
    assert code == 0 and " 0 unchanged" in said
    code, said = await typed("prices", "seed", "--provider", "anthropic")
    assert code == 0 and " 0 models added, 0 prices changed" in said
