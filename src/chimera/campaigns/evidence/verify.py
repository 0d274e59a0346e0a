"""The offline verifier of evidence: takes the archive and public keys, and says what is proven.

    python -m chimera.campaigns.evidence.verify ARCHIVE --key VKEY [--key VKEY ...]

What must stay true:
- It needs the standard library and `cryptography`; no server code, no database driver.
- Exit codes are `audit.report.Verdict`: 0 verified, 1 tampered, 2 incomplete, 3 bad input.
- VERIFIED means: the plan is the launched one, every batch that the log knows is there, every
  result is in exactly one batch and hashes to its root, and the counts are those of the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from chimera.audit import merkle
from chimera.audit.bundle import Entry, decode_line
from chimera.audit.leaf import decode_leaf
from chimera.audit.report import Verdict
from chimera.audit.verify import verify_bundle
from chimera.campaigns.evidence.digest import digest_bytes, transcript_hash

LINE_BYTES_MAX = 16 * 1024 * 1024
MEMBERS = ("manifest.json", "plan.json", "flushes.jsonl", "results.jsonl", "audit.jsonl")
# Format -> its members. 2: results say why their answer ended; 3: there are conversations.
FORMATS = {
    "chimera-evidence/1": MEMBERS,
    "chimera-evidence/2": MEMBERS,
    "chimera-evidence/3": (*MEMBERS, "turns.jsonl"),
}
LAUNCHES = ("campaign.launch", "run.rerun_failed", "run.judge")
OVER = ("run.complete", "run.fail")


class Refuted(Exception):
    """Why the evidence does not hold."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict, self.reason = verdict, reason


@dataclass(frozen=True)
class EvidenceReport:
    """verdict and its reason; of what was proven: results, successes, batches, and the log's size."""

    verdict: Verdict
    reason: str
    run_id: str = ""
    results: int = 0
    scored: int = 0
    successes: int = 0
    batches: int = 0
    log_size: int = 0


@dataclass
class Proven:
    """What the audit events of the archive say."""

    log_size: int = 0
    plan_hash: str = ""
    roots: dict[str, tuple[str, int]] = field(default_factory=dict)  # flush -> (root, cells)
    end: dict[str, Any] | None = None


def verify_evidence(path: Path, keys: Sequence[str]) -> EvidenceReport:
    """Verify an archive; never raises for what is in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _verify(archive, keys)
    except Refuted as refuted:
        return EvidenceReport(refuted.verdict, refuted.reason)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        return EvidenceReport(Verdict.BAD_INPUT, f"not an evidence archive: {error}")


def _verify(archive: zipfile.ZipFile, keys: Sequence[str]) -> EvidenceReport:
    manifest = json.loads(_read(archive, "manifest.json"))
    members = FORMATS.get(manifest["format"])
    if members is None:
        raise Refuted(Verdict.BAD_INPUT, "this format is not known")
    if sorted(archive.namelist()) != sorted(members):
        raise Refuted(Verdict.BAD_INPUT, f"the members are not {', '.join(members)}")
    run_id = str(manifest["run_id"])
    proven = _proven(archive, keys, run_id)
    plan_hash = hashlib.sha256(_read(archive, "plan.json")).hexdigest()
    if plan_hash != proven.plan_hash:
        raise Refuted(Verdict.TAMPERED, "the plan is not the one that was launched")
    digests, scored, successes = _results(archive, _transcripts(archive))
    results, batches = len(digests), _check_flushes(archive, proven, digests)
    if proven.end is None:
        raise Refuted(Verdict.INCOMPLETE, "the log does not say yet that the run is over")
    if (proven.end["scored"], proven.end["successes"]) != (scored, successes):
        raise Refuted(Verdict.TAMPERED, "the counts differ from those at the end of the run")
    if proven.end.get("recorded", results) != results:
        raise Refuted(Verdict.TAMPERED, "the run recorded another number of results")
    return EvidenceReport(
        Verdict.VERIFIED,
        "everything holds",
        run_id=run_id,
        results=results,
        scored=scored,
        successes=successes,
        batches=batches,
        log_size=proven.log_size,
    )


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    return archive.read(name)


def _lines(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    with archive.open(name) as member:
        while line := member.readline(LINE_BYTES_MAX + 1):
            if len(line) > LINE_BYTES_MAX:
                raise Refuted(Verdict.BAD_INPUT, f"{name} has a line that is too long")
            yield line


def _proven(archive: zipfile.ZipFile, keys: Sequence[str], run_id: str) -> Proven:
    """Signature, proofs and openings are the audit verifier's matter; here, what they say."""
    report = verify_bundle(_lines(archive, "audit.jsonl"), keys)
    if report.verdict is not Verdict.VERIFIED:
        raise Refuted(report.verdict, f"the audit events: {report.findings[0].reason}")
    proven = Proven(log_size=report.size or 0)
    for line in _lines(archive, "audit.jsonl"):
        entry = decode_line(line)
        if not isinstance(entry, Entry):
            continue
        leaf = decode_leaf(entry.leaf)
        new = {
            opening.name.removeprefix("new:"): json.loads(opening.value)
            for opening in entry.openings
            if opening.name.startswith("new:")
        }
        if leaf.action in LAUNCHES and new.get("run_id") == run_id:
            proven.plan_hash = new["plan_hash"]
        elif leaf.entity_id != run_id:
            continue
        elif leaf.action == "run.record":
            proven.roots[new["flush_id"]] = (new["merkle_root"], new["cells"])
        elif leaf.action in OVER:
            proven.end = new
    if not proven.plan_hash:
        raise Refuted(Verdict.INCOMPLETE, "the launch of the run is not among the audit events")
    return proven


def _transcripts(archive: zipfile.ZipFile) -> dict[int, str]:
    """The hash over the turns of each conversation, which must come in order and without holes."""
    if "turns.jsonl" not in archive.namelist():
        return {}
    turns: dict[int, list[dict[str, Any]]] = {}
    for data in _lines(archive, "turns.jsonl"):
        line = json.loads(data)
        said = turns.setdefault(line["cell_no"], [])
        if line["turn"]["turn_no"] != len(said) + 1:
            raise Refuted(Verdict.TAMPERED, f"a turn of cell {line['cell_no']} is missing")
        said.append(line["turn"])
    return {cell_no: transcript_hash(said) for cell_no, said in turns.items()}


def _results(
    archive: zipfile.ZipFile, transcripts: dict[int, str]
) -> tuple[dict[int, bytes], int, int]:
    """Leaf hash by cell; how many were scored, and for how many the condition holds. What was said
    in a conversation is what its result says it was."""
    digests: dict[int, bytes] = {}
    scored = successes = 0
    for line in _lines(archive, "results.jsonl"):
        result = json.loads(line)["result"]
        if result["cell_no"] in digests:
            raise Refuted(Verdict.TAMPERED, f"cell {result['cell_no']} has two results")
        stated = result.get("transcript")
        if stated is not None and stated != transcripts.pop(result["cell_no"], transcript_hash([])):
            raise Refuted(
                Verdict.TAMPERED, f"the turns of cell {result['cell_no']} are not what was recorded"
            )
        digests[result["cell_no"]] = merkle.leaf_hash(digest_bytes(result))
        scored += result["state"] == "succeeded"
        successes += bool(result["is_successful"])
    if transcripts:
        cell_no = next(iter(transcripts))
        raise Refuted(Verdict.TAMPERED, f"cell {cell_no} has turns that no result knows of")
    return digests, scored, successes


def _check_flushes(archive: zipfile.ZipFile, proven: Proven, digests: dict[int, bytes]) -> int:
    """Every batch the log knows is there, with results that hash to its root; uses up digests."""
    batches = 0
    for line in _lines(archive, "flushes.jsonl"):
        flush = json.loads(line)
        known = proven.roots.pop(flush["flush_id"], None)
        if known is None:
            raise Refuted(
                Verdict.INCOMPLETE, f"the log does not know batch {flush['flush_id']} yet"
            )
        missing = [cell for cell in flush["cells"] if cell not in digests]
        if missing:
            raise Refuted(Verdict.TAMPERED, f"the result of cell {missing[0]} is missing")
        root = merkle.root(digests.pop(cell) for cell in flush["cells"]).hex()
        if (root, len(flush["cells"])) != known:
            raise Refuted(
                Verdict.TAMPERED,
                f"the results of batch {flush['flush_id']} do not hash to what the log says",
            )
        batches += 1
    if proven.roots:
        raise Refuted(Verdict.TAMPERED, f"batch {next(iter(proven.roots))} of the log is missing")
    if digests:
        raise Refuted(Verdict.TAMPERED, f"cell {next(iter(digests))} is in no batch")
    return batches


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would leave with 2, which here means incomplete.
        self.print_usage(sys.stderr)
        self.exit(Verdict.BAD_INPUT, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = _Parser(
        prog="chimera.campaigns.evidence.verify", description="Verify the evidence of a run."
    )
    parser.add_argument("archive", type=Path, metavar="ARCHIVE", help="the exported file")
    parser.add_argument("--key", action="append", default=[], metavar="VKEY", required=True,
                        help="public key of the log; may be repeated")  # fmt: skip
    chosen = parser.parse_args(arguments)
    report = verify_evidence(chosen.archive, chosen.key)
    print(f"{report.verdict.name}: {report.reason}")
    if report.verdict is Verdict.VERIFIED:
        print(
            f"run {report.run_id}: {report.results} results in {report.batches} batches, "
            f"{report.successes} of {report.scored} scored succeeded; log of {report.log_size}"
        )
    return int(report.verdict)


if __name__ == "__main__":
    sys.exit(main())
