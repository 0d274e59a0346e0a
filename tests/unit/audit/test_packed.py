"""Compressed bundles: verified as they are, and said nothing about when they are damaged."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chimera.audit.bundle import encode_line
from chimera.cli.audit import app

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


@pytest.mark.parametrize(
    "wrong",
    [
        ["--quorum", "many"],
        ["--nonsense"],
        ["--bundle", "/"],
        ["what"],
    ],
)
def test_wrong_usage_is_no_verdict_about_the_log(wrong: list[str]) -> None:
    """2 is what a shell expects of wrong usage, and would say here that leaves are missing."""
    run = CliRunner().invoke(app, ["verify", *wrong])
    assert run.exit_code == 3, run.output
