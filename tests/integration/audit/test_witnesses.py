"""Witnesses: a folder and a process of its own remember the log, and vouch for it in its bundles."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chimera.audit.bundle import Header, SignedCheckpoint, decode_line
from chimera.audit.note import VerifierKey
from chimera.audit.policy import Policy
from chimera.audit.report import Verdict
from chimera.audit.signing_home import load_signer
from chimera.audit.verify import verify_bundle
from chimera.audit.witness import Reason, Witness, WitnessRefused
from chimera.audit.witness_rpc import RemoteWitness
from chimera.settings import Settings
from tests.support.audit import Log, open_log
from tests.support.processes import eventually
from tests.support.world import World


class WitnessProcess:
    """`chimera audit witness serve`, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.child: subprocess.Popen[str] | None = None

    async def start(self) -> None:
        command = [sys.executable, "-m", "chimera.cli", "audit", "witness", "serve",
                   str(self.folder), "--listen", f"127.0.0.1:{self.port}"]  # fmt: skip
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={
            **os.environ, "PYTHONUNBUFFERED": "1"})  # fmt: skip
        assert self.child.stdout
        line = await asyncio.to_thread(self.child.stdout.readline)
        self.port = int(line.split()[-1])

    def kill(self) -> None:
        assert self.child
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()


@pytest.fixture
async def remote(settings: Settings, tmp_path: Path) -> AsyncIterator[WitnessProcess]:
    """A witness of this installation's log, listening; the log has one event."""
    async with open_log(settings) as log:
        await log.record(1)
        await log.seal()
    Witness.create(tmp_path / "remote", "witness.example/2", [load_signer(settings).verifier_key])
    process = WitnessProcess(tmp_path / "remote")
    await process.start()
    yield process
    process.kill()


@pytest.fixture
def policy(settings: Settings, remote: WitnessProcess, tmp_path: Path) -> Path:
    """One witness in a folder, one in a process; both are needed."""
    key = load_signer(settings).verifier_key
    one = Witness.create(tmp_path / "folder", "witness.example/1", [key])
    two = Witness(remote.folder)
    path = tmp_path / "policy"
    path.write_text(
        f"log {key}\n"
        f"witness one {one.verifier_key} file://{tmp_path / 'folder'}\n"
        f"witness two {two.verifier_key} grpc://127.0.0.1:{remote.port}\n"
        "group both all one two\nquorum both\n"
    )
    return path


@pytest.fixture
async def log(settings: Settings, policy: Path) -> AsyncIterator[Log]:
    async with open_log(settings.model_copy(update={"audit_witness_policy": policy})) as log:
        yield log
        await log.sealer.witnesses.close()


async def test_bundles_carry_cosignatures_and_the_verifier_counts_them(
    world: World, log: Log, policy: Path
) -> None:
    """Both cosign; an exported bundle proves it to whoever asks for two of two, and the checkpoint
    shows it over the API."""
    acme = await world.organisation("acme")
    await log.record(3, org_id=acme.id)
    await log.seal()
    newest = await acme.admin.audit.GetCheckpoint()
    assert len(newest.witness_keys) == 2
    [listed] = (await acme.admin.audit.ListCheckpoints(page_size=1)).checkpoints
    assert (listed.note, list(listed.witness_keys)) == (
        newest.checkpoint, list(newest.witness_keys),
    )  # fmt: skip

    lines = b"".join([p.lines async for p in acme.admin.audit.ExportAuditLog()])
    wanted = Policy.parse(policy.read_text())
    report = verify_bundle(lines.splitlines(keepends=True), [], policy=wanted)
    assert report.verdict is Verdict.VERIFIED
    assert {name for name, _ in report.witnessed_by} == {"witness.example/1", "witness.example/2"}

    bare = [
        line if not isinstance(decode_line(line), SignedCheckpoint) else _without(line, "example/2")
        for line in lines.splitlines(keepends=True)
    ]
    report = verify_bundle(bare, [], policy=wanted)
    assert report.verdict is Verdict.INCOMPLETE
    assert "2 of (witness.example/1, witness.example/2)" in report.findings[0].reason
    one_of_two = Policy.n_of([VerifierKey.parse(key) for key in newest.witness_keys], 1)
    keys = [newest.verifier_key, *newest.witness_keys]
    assert verify_bundle(bare, keys, policy=one_of_two).verdict is Verdict.VERIFIED
    assert (await log.verify()).verdict is Verdict.VERIFIED


def _without(line: bytes, name: str) -> bytes:
    note = decode_line(line)
    assert isinstance(note, SignedCheckpoint) and not isinstance(note, Header)
    kept = [part for part in note.note.splitlines(keepends=True) if name not in part]
    from chimera.audit.bundle import encode_line

    return encode_line(SignedCheckpoint("".join(kept)))


async def test_a_witness_that_is_away_holds_up_nothing(log: Log, remote: WitnessProcess) -> None:
    """Killed while the log goes on; started again from its folder it knows where it was, and
    cosigns what grew since."""
    await log.record(2)
    await log.seal()
    assert log.ask("SELECT count(*) FROM audit.cosignatures WHERE size = 3") == [(2,)]
    remote.kill()
    await log.record(2)
    assert await log.seal() == 2
    assert log.ask("SELECT count(*) FROM audit.cosignatures WHERE size = 5") == [(1,)]
    await remote.start()
    await log.record(2)

    async def cosigned() -> bool:
        for asked in log.sealer.witnesses._asked:  # it waits longer each time before it asks again
            asked.wait_until = 0.0
        await log.seal()
        return log.ask("SELECT count(*) FROM audit.cosignatures WHERE size = 7") == [(2,)]

    await eventually(cosigned)


async def test_a_fork_is_refused_over_the_wire(log: Log, remote: WitnessProcess) -> None:
    """The log's own key signs another history: the witness has seen the first and cosigns no other,
    nor anything of a log or key it does not know."""
    await log.record(3)
    await log.seal()
    signer = load_signer(log.settings)
    asked = RemoteWitness(f"grpc://127.0.0.1:{remote.port}")
    try:
        from chimera.audit.note import Checkpoint, Note

        def signed(size: int, root: bytes) -> str:
            text = Checkpoint("chimera/audit", size, root).text
            return str(Note(text, (signer._key.sign(text),)))

        for old, size, proof, reason in (
            (4, 4, [], Reason.OTHER_SIZE),  # another root for the same size
            (4, 6, [bytes(32)], Reason.INCONSISTENT),
            (0, 6, [], Reason.OTHER_SIZE),
            (7, 6, [], Reason.MALFORMED),
        ):
            with pytest.raises(WitnessRefused) as refused:
                await asked.add_checkpoint(old, proof, signed(size, bytes(31) + b"\1"))
            assert refused.value.reason is reason
        with pytest.raises(WitnessRefused) as refused:
            await asked.add_checkpoint(
                4, [], signed(4, bytes(32)).replace("— chimera", "— chimerb")
            )
        assert refused.value.reason is Reason.NOT_SIGNED
        foreign = signed(4, bytes(32)).replace("chimera/audit", "other/audit")
        with pytest.raises(WitnessRefused) as refused:
            await asked.add_checkpoint(4, [], foreign)
        assert refused.value.reason is Reason.UNKNOWN_LOG
    finally:
        await asked.close()


async def test_of_two_histories_at_once_a_witness_vouches_for_one(
    log: Log, remote: WitnessProcess
) -> None:
    """Twenty proposals at the same moment from the same size: comparing and remembering are one
    step, so that all cosignatures are of one history."""
    from chimera.audit import merkle
    from chimera.audit.note import Checkpoint, Note

    await log.record(3)
    await log.seal()
    signer = load_signer(log.settings)
    last = signer.last()
    nodes = {(0, 0): b"", (2, 0): last.root}

    def proposal(number: int) -> tuple[list[bytes], str]:
        frontier, _ = merkle.Frontier(4, (nodes[2, 0],)).extend([number.to_bytes(32, "big")])
        text = Checkpoint("chimera/audit", 5, frontier.root).text
        note = str(Note(text, (signer._key.sign(text),)))
        return [number.to_bytes(32, "big")], note

    asked = RemoteWitness(f"grpc://127.0.0.1:{remote.port}")
    try:
        answers = await asyncio.gather(
            *(asked.add_checkpoint(4, *proposal(number)) for number in range(20)),
            return_exceptions=True,
        )
    finally:
        await asked.close()
    assert sum(isinstance(answer, str) for answer in answers) == 1


async def test_a_witness_goes_back_only_by_the_logs_statement(
    log: Log, remote: WitnessProcess, tmp_path: Path
) -> None:
    """After a legitimate restore the log is smaller. The witness refuses, until its own people show
    it the signed statement."""
    await log.record(7)
    await log.seal()
    signer = load_signer(log.settings)
    witness = Witness(remote.folder)
    last = witness.last("chimera/audit")
    assert last is not None and last.size == 8
    from datetime import UTC, datetime

    statement, smaller = signer.accept_restore(
        4, bytes(31) + b"\7", reason="disk", approved_by=["Ann"], at=datetime.now(UTC)
    )
    with pytest.raises(WitnessRefused) as refused:
        witness.add_checkpoint(4, [], str(smaller))
    assert (refused.value.reason, refused.value.size) == (Reason.OTHER_SIZE, 8)
    forged = str(statement).replace("to 4 ", "to 3 ")
    with pytest.raises(WitnessRefused):
        witness.accept_restore(forged)

    path = tmp_path / "statement"
    path.write_text(str(statement))
    command = [sys.executable, "-m", "chimera.cli", "audit", "witness", "accept-restore",
               str(remote.folder), str(path)]  # fmt: skip
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert witness.add_checkpoint(4, [], str(smaller)).startswith("— witness.example/2 ")


async def test_a_lost_memory_is_no_fresh_start(remote: WitnessProcess) -> None:
    """Deleting the state does not make a witness forget."""
    witness = Witness(remote.folder)
    (remote.folder / "state.json").unlink()
    with pytest.raises(WitnessRefused) as refused:
        witness.last("chimera/audit")
    assert refused.value.reason is Reason.STATE_BROKEN
