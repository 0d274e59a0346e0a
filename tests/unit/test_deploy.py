"""The image and the compose file, as far as they can be checked without a container engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    return loaded


def test_the_dockerfile_passes_its_linter() -> None:
    """hadolint has nothing to say about it."""
    hadolint = shutil.which("hadolint") or str(Path(sys.executable).parent / "hadolint")
    found = subprocess.run(
        [hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_the_image_runs_as_nobody_special() -> None:
    """A numeric user, and a health check that the orchestrator can run."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert "USER 10001:10001" in lines
    assert any(line.startswith("HEALTHCHECK") for line in lines)


def test_every_command_the_deployment_names_is_installed() -> None:
    """Commands in the image and the compose file are scripts of the wheel, or the images' own."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    services = compose()["services"]
    ours = [
        service["command"][0]
        for name, service in services.items()
        if "command" in service and name not in ("redis",)
    ]
    assert ours and set(ours) <= set(scripts)
    assert 'CMD ["chimera-server"]' in (ROOT / "Dockerfile").read_text()
    assert "chimera-server" in scripts


def test_services_wait_for_what_they_need() -> None:
    """Server and worker start after the migrations, which start after the databases are healthy."""
    services = compose()["services"]
    for name in ("server", "worker"):
        assert services[name]["depends_on"]["migrate"] == {
            "condition": "service_completed_successfully"
        }
    for needed in services["migrate"]["depends_on"]:
        assert "healthcheck" in services[needed]


def test_no_password_is_written_down() -> None:
    """Every password comes from the environment and has no default."""
    text = (ROOT / "deploy" / "compose.yaml").read_text()
    for line in text.splitlines():
        if "PASSWORD" in line and not line.lstrip().startswith("#"):
            assert ":?set it}" in line, line


def test_settings_in_the_deployment_exist() -> None:
    """Each CHIMERA_ variable the containers get is a setting."""
    from chimera.settings import Settings

    known = {f"CHIMERA_{name.upper()}" for name in Settings.model_fields}
    given = set(compose()["x-chimera"]["environment"])
    assert given <= known
