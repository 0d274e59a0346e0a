"""How the sealer has its checkpoints cosigned: by the witnesses its policy file names.

What must stay true: a witness that is away, slow or refuses holds up nothing; it is asked again
later, with the newest checkpoint. A cosignature is stored only if it holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog

from chimera.audit import merkle
from chimera.audit.note import Note, NoteError, VerifierKey, verify_note
from chimera.audit.operations import find_signed, read_nodes
from chimera.audit.policy import Policy, WitnessEntry
from chimera.audit.witness import Reason, Witness, WitnessRefused
from chimera.audit.witness_rpc import RemoteWitness, WitnessAway
from chimera.call import Call
from chimera.core import Core
from chimera.db import Nothing, sql

log = structlog.get_logger("chimera.audit")

LEAVES_A_LOOK = 20_000
_WAIT_MAX_S = 60.0

FIND_COSIGNED = sql(str, "SELECT verifier_key FROM audit.cosignatures WHERE size = %(size)s")

INSERT_COSIGNATURE = sql(
    Nothing,
    """
    INSERT INTO audit.cosignatures (size, verifier_key, line)
    VALUES (%(size)s, %(verifier_key)s, %(line)s) ON CONFLICT DO NOTHING
    """,
)

READ_LEAF_HASHES = sql(
    bytes,
    """
    SELECT leaf_hash FROM audit.leaves WHERE log_index >= %(low)s AND log_index < %(high)s
     ORDER BY log_index
    """,
)


@dataclass(slots=True)
class _Asked:
    """One witness and how it went with it."""

    entry: WitnessEntry
    remote: RemoteWitness | None = None
    known_size: int = 0
    failures: int = 0
    wait_until: float = field(default=0.0)
    told: str = ""


class Witnesses:
    """All witnesses of a policy that have a URL."""

    def __init__(self, policy: Policy) -> None:
        self._asked = [_Asked(entry) for entry in policy.witnesses.values() if entry.url]

    @classmethod
    def load(cls, path: Path | None) -> Witnesses:
        """Of the policy file; none without one. Raises PolicyError, OSError."""
        return cls(Policy() if path is None else Policy.parse(path.read_text("utf-8")))

    async def cosign(self, core: Core) -> int:
        """Has the newest checkpoint cosigned by whoever has not; returns how many did.

        core: of the role sealer.
        """
        if not self._asked:
            return 0
        async with core.db.begin(Call.by_worker("audit.cosign")) as tx:
            newest = await find_signed(tx)
            done = await tx.all(FIND_COSIGNED, size=newest.size) if newest else []
        if newest is None or newest.size == 0:
            return 0
        now = time.monotonic()
        missing = [
            asked
            for asked in self._asked
            if str(asked.entry.key) not in done and asked.wait_until <= now
        ]
        results = [self._ask(core, asked, newest.checkpoint, newest.size) for asked in missing]
        return sum(await asyncio.gather(*results))

    async def close(self) -> None:
        for asked in self._asked:
            if asked.remote is not None:
                await asked.remote.close()

    async def _ask(self, core: Core, asked: _Asked, note: str, size: int) -> bool:
        try:
            line = await self._cosignature(core, asked, note, size)
            _check(note, line, asked.entry.key)
        except (WitnessRefused, WitnessAway, NoteError, OSError) as error:
            asked.failures += 1
            asked.wait_until = time.monotonic() + min(2.0**asked.failures, _WAIT_MAX_S)
            kind = error.reason.value if isinstance(error, WitnessRefused) else type(error).__name__
            if kind != asked.told:
                tell = log.error if isinstance(error, WitnessRefused) else log.warning
                tell("audit.not_cosigned", witness=asked.entry.key.name, reason=kind,
                     detail=str(error), size=size)  # fmt: skip
            asked.told = kind
            return False
        asked.failures, asked.told, asked.known_size = 0, "", size
        async with core.db.begin(Call.by_worker("audit.cosign")) as tx:
            await tx.run(
                INSERT_COSIGNATURE, size=size, verifier_key=str(asked.entry.key), line=line
            )
        return True

    async def _cosignature(self, core: Core, asked: _Asked, note: str, size: int) -> str:
        parts = urlsplit(asked.entry.url)
        if parts.scheme == "file":
            return await _by_file(core, Path(unquote(parts.path)), note, size)
        if asked.remote is None:
            asked.remote = RemoteWitness(asked.entry.url)
        try:
            return await asked.remote.add_checkpoint(
                asked.known_size, await _proof(core, asked.known_size, size), note
            )
        except WitnessRefused as refused:
            if refused.reason is not Reason.OTHER_SIZE or refused.size is None:
                raise
            if refused.size > size or refused.size == asked.known_size:
                raise
            asked.known_size = refused.size
        return await asked.remote.add_checkpoint(
            asked.known_size, await _proof(core, asked.known_size, size), note
        )


def _check(note: str, line: str, key: VerifierKey) -> None:
    """That the line is this witness's cosignature of the note; raises NoteError."""
    signed = Note.parse(note)
    verify_note(Note.parse(signed.text + "\n" + line), [key])


async def _proof(core: Core, old_size: int, size: int) -> list[bytes]:
    if old_size in (0, size):
        return []
    async with core.db.begin(Call.by_worker("audit.cosign")) as tx:
        node_at = await read_nodes(tx, merkle.consistency_nodes(old_size, size))
    return merkle.consistency_proof(old_size, size, node_at)


async def _by_file(core: Core, folder: Path, note: str, size: int) -> str:
    """A witness in a folder is shown the leaves themselves, page by page as its thread asks."""
    witness = await asyncio.to_thread(Witness, folder)
    loop = asyncio.get_running_loop()

    def leaves_from(index: int) -> Iterator[bytes]:
        for low in range(index, size, LEAVES_A_LOOK):
            reading = _read_leaves(core, low, min(low + LEAVES_A_LOOK, size))
            yield from asyncio.run_coroutine_threadsafe(reading, loop).result()

    return await asyncio.to_thread(witness.add_leaves, note, leaves_from)


async def _read_leaves(core: Core, low: int, high: int) -> list[bytes]:
    async with core.db.begin(Call.by_worker("audit.cosign")) as tx:
        hashes: list[Any] = await tx.all(READ_LEAF_HASHES, low=low, high=high)
    return [bytes(value) for value in hashes]
