"""The offline verifier: takes an exported bundle and public keys, and says what is proven.

    python -m chimera.audit.verify BUNDLE --key VKEY [--key VKEY ...] [--since CHECKPOINT]
                                   [--quorum N | --policy FILE]

What must stay true:
- It needs the standard library and `cryptography`; no server code, no database driver. Whoever
  runs it need not trust the machine the log came from.
- Exit codes are `report.Verdict`: 0 verified, 1 tampered, 2 incomplete, 3 bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

from chimera.audit.bundle import LINE_BYTES_MAX, BundleError, Line, decode_line, open_bundle
from chimera.audit.continuity import TooManyFaults
from chimera.audit.note import VerifierKey
from chimera.audit.policy import Policy
from chimera.audit.report import Finding, Report, Verdict
from chimera.audit.verification import Progress, Stop, Verification


def verify_bundle(
    lines: Iterable[bytes],
    vkeys: Sequence[str],
    old_checkpoint: str | None = None,
    progress: Progress | None = None,
    policy: Policy | None = None,
) -> Report:
    """Verify a bundle; never raises for what is in it, that is what the report is for.

    lines: of the bundle, each with its newline. vkeys: `name+hash+base64` keys of the log and of
    witnesses. old_checkpoint: a signed note seen earlier, which the bundle must be a continuation
    of. progress: called now and then with (leaves done, leaves in all or None). policy: whose
    cosignatures the last checkpoint needs; its keys are trusted too.
    """
    return verify_lines(_decoded(lines), vkeys, old_checkpoint, progress, policy)


def verify_lines(
    lines: Iterable[Line],
    vkeys: Sequence[str],
    old_checkpoint: str | None = None,
    progress: Progress | None = None,
    policy: Policy | None = None,
) -> Report:
    """As `verify_bundle`, for lines that are decoded already."""
    verification = Verification(progress)
    try:
        verification.trust(vkeys, old_checkpoint, policy)
        for line in lines:
            verification.take(line)
        verification.finish()
    except Stop as stop:
        verification.findings.append(stop.finding)
    except TooManyFaults:
        reason = "more is missing than is worth listing; reading stopped"
        verification.findings.append(Finding(Verdict.INCOMPLETE, verification.index, reason))
    return verification.report()


def _decoded(lines: Iterable[bytes]) -> Iterator[Line]:
    for number, line in enumerate(lines, 1):
        try:
            yield decode_line(line)
        except BundleError as error:
            if not line.endswith(b"\n") and len(line) <= LINE_BYTES_MAX:
                reason = f"the bundle ends inside line {number}"
                raise Stop(Verdict.INCOMPLETE, None, reason) from error
            raise Stop(Verdict.BAD_INPUT, None, f"line {number}: {error}") from error


def policy_of(vkeys: Sequence[str], quorum: int, file: Path | None) -> Policy | None:
    """What a command was told about witnesses. Raises ValueError, OSError."""
    if file is not None:
        return Policy.parse(file.read_text("utf-8"))
    return Policy.n_of([VerifierKey.parse(vkey) for vkey in vkeys], quorum) if quorum else None


# --- the command ----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would leave with 2, which here means incomplete.
        self.print_usage(sys.stderr)
        self.exit(Verdict.BAD_INPUT, f"{self.prog}: {message}\n")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines no longer than what is allowed and a byte, whatever the file holds."""
    while line := file.readline(LINE_BYTES_MAX + 1):
        yield line


class ProgressLine:
    """One line on stderr: rewritten in place on a terminal, else one per tenth."""

    def __init__(self, done: str) -> None:
        self._what = done
        self._in_place = sys.stderr.isatty()
        self._shown = 0

    def __call__(self, done: int, total: int | None) -> None:
        of = "" if total is None else f" of {total}"
        text = f"{self._what} {done}{of} leaves"
        if self._in_place:
            print(f"\r{text}", end="", file=sys.stderr, flush=True)
            self._shown = done
        elif total and done * 10 // total > self._shown:
            self._shown = done * 10 // total
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._in_place and self._shown:
            print(file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = _Parser(prog="chimera.audit.verify", description="Verify an exported audit bundle.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the exported file")
    parser.add_argument("--key", action="append", default=[], metavar="VKEY",
                        help="public key of the log or of a witness; may be repeated")  # fmt: skip
    parser.add_argument("--since", type=Path, metavar="CHECKPOINT",
                        help="file with a checkpoint seen earlier")  # fmt: skip
    parser.add_argument("--quorum", type=int, default=0, metavar="N",
                        help="how many of the witnesses given by --key must have cosigned")  # fmt: skip
    parser.add_argument("--policy", type=Path, metavar="FILE",
                        help="trusted logs and witnesses, and how many it takes (tlog-policy)")  # fmt: skip
    options = parser.parse_args(arguments)
    if not options.key and not options.policy:
        parser.error("give --key or --policy")
    progress = ProgressLine("verified")
    try:
        old = options.since.read_text("utf-8") if options.since else None
        policy = policy_of(options.key, options.quorum, options.policy)
        with open_bundle(options.bundle) as file:
            report = verify_bundle(_lines(file), options.key, old, progress, policy)
        progress.close()
        print(report)
    except Exception as error:  # Python would leave with 1, which here means tampered
        progress.close()
        print(f"cannot verify: {type(error).__name__}: {error}", file=sys.stderr)
        return Verdict.BAD_INPUT
    return report.verdict


if __name__ == "__main__":
    sys.exit(main())
