"""Tasks by context. `task` is what surrounds each of them, as the gate surrounds an RPC."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from chimera import metrics, outbox
from chimera.faults import Fault, NotReady, Unavailable

log = structlog.get_logger("chimera.task")

Body = Callable[[dict[str, Any], str | None, dict[str, Any]], Awaitable[None]]
Task = Callable[[dict[str, Any], str, str | None, dict[str, Any]], Awaitable[None]]


def task(body: Body) -> Task:
    """A task asked for through the outbox: `body(ctx, org_id, args)`.

    Its row leaves when the body succeeds, or when NotReady says there is nothing left to do. After
    any other error the row falls due again, later each time; the outbox counts the rings.
    """
    name = body.__name__

    async def run(
        ctx: dict[str, Any], outbox_id: str, org_id: str | None, args: dict[str, Any]
    ) -> None:
        db = ctx["core"].db
        try:
            await body(ctx, org_id, args)
        except NotReady as fault:
            log.info("task.nothing_to_do", task=name, reason=fault.reason)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            metrics.TASKS.labels(name, "failed").inc()
            known = isinstance(error, Fault)
            if isinstance(error, Unavailable):
                log.info("task.waits", task=name, outbox_id=outbox_id, reason=error.reason)
            else:
                log.error(
                    "task.failed", task=name, outbox_id=outbox_id, exc_info=None if known else error
                )
            delay_s = 5.0 if isinstance(error, Unavailable) else 20.0
            reason = error.reason if isinstance(error, Fault) else type(error).__name__
            await outbox.postpone(db, outbox_id, delay_s=delay_s, error=reason)
            return
        metrics.TASKS.labels(name, "done").inc()
        await outbox.finish(db, outbox_id)

    run.__name__ = run.__qualname__ = name
    return run
