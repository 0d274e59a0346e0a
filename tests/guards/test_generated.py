"""Guard: what is generated equals its source, the protos keep their promises, the wheel is whole."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sysconfig.get_path("scripts")


def run(*argv: str, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}", **more}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module", autouse=True)
def generated() -> subprocess.CompletedProcess[str]:
    """Also prints .protodeps, which buf needs and git does not keep."""
    return run(sys.executable, "proto/generate.py", "--check")


def test_generated_code_is_what_the_protos_give(
    generated: subprocess.CompletedProcess[str],
) -> None:
    assert generated.returncode == 0, f"run `make generate`: {generated.stdout}{generated.stderr}"


def test_protos_follow_the_lint_rules() -> None:
    lint = run("buf", "lint")
    assert lint.returncode == 0, f"mend the .proto:\n{lint.stdout}{lint.stderr}"
    form = run("buf", "format", "-d", "--exit-code", "proto")
    assert form.returncode == 0, f"run `make generate`, which formats:\n{form.stdout[:3000]}"


def test_protos_break_no_client(tmp_path: Path) -> None:
    """Against the last commit: fields keep number, type and name; nothing is removed."""
    if run("git", "rev-parse", "HEAD").returncode != 0:
        return  # an unpacked archive has no history to break with
    archive = tmp_path / "protos.tar"
    assert run("git", "archive", "-o", str(archive), "HEAD", "proto", "buf.yaml").returncode == 0
    before = tmp_path / "before"
    before.mkdir()
    assert run("tar", "-xf", str(archive), "-C", str(before)).returncode == 0
    (before / ".protodeps").symlink_to(ROOT / ".protodeps")
    images = []
    for name, folder in (("before", before), ("now", ROOT)):
        images.append(tmp_path / f"{name}.binpb")
        built = run("buf", "build", "-o", str(images[-1]), cwd=folder)
        assert built.returncode == 0, built.stderr
    breaking = run("buf", "breaking", str(images[1]), "--against", str(images[0]))
    assert breaking.returncode == 0, (
        "clients of v1 would break; see proto/README.md for what may change:\n" + breaking.stdout
    )


def test_the_wheel_runs_without_the_checkout(tmp_path: Path) -> None:
    """Server, workers, generated code and migrations are inside, and an installed wheel finds
    its own migrations."""
    build = run(
        sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation",
        "--quiet", "--disable-pip-version-check", "-w", str(tmp_path),
    )  # fmt: skip
    if "hatchling" in build.stderr:  # not part of the environment: pip fetches the build backend
        build = run(
            sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps",
            "--quiet", "--disable-pip-version-check", "-w", str(tmp_path),
        )  # fmt: skip
    assert build.returncode == 0, build.stderr
    [wheel] = tmp_path.glob("chimera-*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        content.extractall(tmp_path / "site")
    migrations = {path.name for path in (ROOT / "migrations" / "postgres").glob("*.sql")}
    for wanted in (
        "workers/main.py",
        "chimera/server.py",
        "chimera/v1/campaigns_pb2.py",
        "chimera/v1/options_pb2_grpc.py",
        *(f"chimera/_migrations/postgres/{name}" for name in migrations),
    ):
        assert wanted in names, f"{wanted} is not in the wheel: see [tool.hatch] in pyproject.toml"
    assert not [name for name in names if name.startswith(("tests/", "proto/", ".chimera"))]

    site = str(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {site!r})\n"
        "import chimera.migrate, workers.main\n"
        "print(chimera.migrate.migrations_folder()); print(workers.main.__file__)\n"
        "from chimera.cli import main; sys.argv = ['chimera', 'migrate', 'status', '--help']; main()"
    )
    installed = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=site)
    assert installed.returncode == 0, installed.stderr
    lines = installed.stdout.splitlines()
    assert lines[0] == f"{site}/chimera/_migrations" and lines[1].startswith(site)
    assert "edited after it was applied" in installed.stdout
