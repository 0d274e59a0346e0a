"""What an installation on one machine tells its server and worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from chimera.cli.installation import Installation


def test_mails_are_files_unless_a_server_for_them_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a new person would wait for a link that nobody sends."""
    monkeypatch.delenv("CHIMERA_MAIL_URL", raising=False)
    installation = Installation(tmp_path)
    assert installation.environment["CHIMERA_MAIL_URL"] == (tmp_path / "mail").as_uri()
    monkeypatch.setenv("CHIMERA_MAIL_URL", "smtp://mail.example.com")
    assert installation.environment["CHIMERA_MAIL_URL"] == "smtp://mail.example.com"
