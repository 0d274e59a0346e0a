"""The folder <home>/audit: the log's signing key and the signer's memory, outside the database.

What must stay true: both come to exist together, once, for a log nobody has signed yet. A lost
folder is not made anew, or deleting it would switch the guard off; it has to come back from its
backup. `log.key` is secret; both belong to every backup, apart from the database's.
"""

from __future__ import annotations

import asyncio
import fcntl
import shutil
from pathlib import Path

from chimera.audit.durable import put_in_place
from chimera.audit.note import SigningKey
from chimera.audit.operations import find_signed
from chimera.audit.signer import GuardedSigner, Refusal, SigningRefused
from chimera.call import Call
from chimera.core import Core
from chimera.settings import Settings

_KEY = "log.key"
_STATE = "signer.json"


def signing_folder(settings: Settings) -> Path:
    return settings.home / "audit"


async def open_signer(core: Core) -> GuardedSigner:
    """The signer of the database's log; made on first use.

    Raises SigningRefused when the log was signed by a key that is not here, NoteError and OSError
    when the files cannot be read.
    """
    async with core.db.begin(Call.by_worker("audit.signer")) as tx:
        newest = await find_signed(tx)
    folder, settings = signing_folder(core.settings), core.settings
    if newest is None:
        await asyncio.to_thread(_create, folder, f"{settings.issuer}/audit")
    signer = await asyncio.to_thread(load_signer, settings)
    if newest is not None and newest.verifier_key != signer.verifier_key:
        raise SigningRefused(
            Refusal.STATE_BROKEN,
            f"the log was signed by {newest.verifier_key}, and the key in {folder} is another one",
        )
    return signer


def load_signer(settings: Settings) -> GuardedSigner:
    """The signer that is there. Raises SigningRefused when there is none, NoteError, OSError."""
    folder = signing_folder(settings)
    try:
        key = SigningKey.load(folder / _KEY)
    except FileNotFoundError:
        raise SigningRefused(
            Refusal.STATE_MISSING,
            f"{folder / _KEY} is missing: bring the folder back from its backup",
        ) from None
    return GuardedSigner(key, key.verifier.name, folder / _STATE)


def _create(folder: Path, origin: str) -> None:
    """Key and first state appear in one rename; whoever comes second finds them."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder.with_name(folder.name + ".new")
    with folder.with_name(folder.name + ".lock").open("ab") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        if folder.exists():
            return
        shutil.rmtree(draft, ignore_errors=True)  # left by a crash
        draft.mkdir(mode=0o700)
        key = SigningKey.generate(origin)
        key.save(draft / _KEY)
        GuardedSigner(key, origin, draft / _STATE).create_state()
        put_in_place(draft, folder)
