"""`chimera budget` and `chimera usage` against a running server, and against spoilt books."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

from tests.support.workers import *  # noqa: F403  # fixtures
from tests.support.workers import Stage


async def test_an_operator_sets_looks_and_proves(stage: Stage) -> None:
    """Set a budget, spend some of it, see what is left, report by model; the proof ends with 0, and
    with 1 when one digit of the books was changed."""

    async def chimera(*words: str) -> subprocess.CompletedProcess[str]:
        environment: dict[str, Any] = {
            **os.environ,
            "CHIMERA_SERVER": stage.world.address,
            "CHIMERA_API_KEY": stage.olivia.credential,
            "COLUMNS": "250",
        }
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "chimera.cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    done = await chimera("budget", "set", "organisation", "daily", "--requests", "100")
    assert done.returncode == 0, done.stderr
    run = await stage.launched(await stage.plan(rows=2))
    stage.worker()
    await stage.over(run.id)
    left = await chimera("budget", "remaining")
    assert "96" in left.stdout, left.stdout + left.stderr
    assert "organisation" in (await chimera("budget", "list")).stdout
    by_model = await chimera("usage", "report", "--by", "model", "--by", "technique")
    assert "guard-none" in by_model.stdout, by_model.stdout + by_model.stderr
    assert (await chimera("budget", "set", "planet", "daily", "--cost", "1")).returncode == 2

    held = await chimera("usage", "reconcile")
    assert (held.returncode, "the books hold" in held.stdout) == (0, True), held.stderr
    await stage.books.value(
        "WITH u AS (UPDATE accounting.windows SET cost_settled = cost_settled + 0.000000000001"
        " RETURNING 1) SELECT count(*) FROM u"
    )
    spoilt = await chimera("usage", "reconcile")
    assert (spoilt.returncode, "window" in spoilt.stdout) == (1, True), spoilt.stdout
