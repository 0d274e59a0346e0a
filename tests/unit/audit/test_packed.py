"""Compressed bundles: verified as they are, and said nothing about when they are damaged."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chimera.audit.bundle import encode_line

COMMANDS = [
    ("chimera.audit.verify", ()),
    ("chimera.cli", ("audit", "verify", "--bundle")),
]


@pytest.mark.parametrize(("module", "arguments"), COMMANDS)
def test_a_packed_bundle_has_the_same_exit_codes(
    log: Any, tmp_path: Path, module: str, arguments: tuple[str, ...]
) -> None:
    """Whole: verified. Cut short or damaged inside: nothing can be said, which is not "tampered"."""
    packed = gzip.compress(b"".join(map(encode_line, log.bundle())))
    for data, code in ((packed, 0), (packed[:-20], 3), (packed[:60] + b"\0\0\0" + packed[63:], 3)):
        path = tmp_path / "bundle.jsonl.gz"
        path.write_bytes(data)
        run = subprocess.run(
            [sys.executable, "-m", module, *arguments, str(path), "--key", log.vkey],
            capture_output=True,
            text=True,
        )
        assert run.returncode == code, run.stdout + run.stderr
