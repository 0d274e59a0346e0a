"""Guard: who may import whom.

service -> operations and their kin -> db. A context uses another one through its functions, never
through its service or its SQL. Workers call operations. Nothing leans on the command line.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from chimera.db import Statement

ROOT = Path(__file__).resolve().parents[2]

# Context -> the contexts whose functions it may call. Everything may use the ground below.
ARROWS: dict[str, set[str]] = {
    "audit": set(),
    "identity": {"audit", "providers"},
    "access": {"audit", "identity"},
    "accounting": {"audit", "providers"},
    "federation": {"audit", "identity", "providers"},
    "templates": {"audit"},
    "providers": {"audit"},
    "telemetry": {"audit"},
    "operations": {"audit"},
    "privacy": {"audit", "campaigns", "federation", "identity", "providers", "templates"},
    "campaigns": {"accounting", "audit", "operations", "providers", "telemetry", "templates"},
}
# The ground stands on nothing above it, but for these modules.
GROUND_ARROWS: dict[str, set[str]] = {
    "chimera.keyring": {
        "chimera.providers.homes",
        "chimera.providers.kms_keys",
        "chimera.providers.local_keys",
        "chimera.providers.vault",
    },
    "chimera.core": {"chimera.audit.recording", "chimera.providers.vault"},
    "chimera.server": {
        *(f"chimera.{context}.service" for context in ARROWS),
        "chimera.providers.vault_service",
        "chimera.templates.dataset_service",
        "chimera.providers.health_service",
        "chimera.providers.route_service",
        "chimera.audit.recording",
        "chimera.identity.account_service",
        "chimera.campaigns.analytics.service",
        "chimera.campaigns.collaboration.service",
        "chimera.campaigns.evaluation.service",
        "chimera.campaigns.schedules.service",
        "chimera.campaigns.suites.service",
        "chimera.identity.authentication",
        "chimera.identity.organisation_service",
    },
}
# Only these speak gRPC on the server's side; everybody else raises faults and yields messages.
GRPC = {
    "chimera.gate", "chimera.status", "chimera.server", "chimera.certificates",
    "chimera.audit.witness_rpc",  # a program of its own, and how the sealer asks it
}  # fmt: skip
THE_GATE = {"chimera.gate", "chimera.status", "chimera.server"}
# Only these open connections or read rows; operations may catch errors.
PSYCOPG = {"chimera.db", "chimera.pools", "chimera.roundtrip", "chimera.rows"}
# Programs of their own beside server and workers: they use the public API or start things.
PROGRAMS = (
    "chimera.cli",
    "chimera.client",
    "chimera.report",
    "chimera.migrate",
    "chimera.embedded",
)
OPENS_CONNECTIONS = ("connect", "Connection", "AsyncConnection")


def modules() -> Iterator[tuple[str, ast.Module]]:
    """(dotted name, syntax tree) of every module that is not generated."""
    for folder, base in (("src/chimera", ROOT / "src"), ("workers", ROOT)):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "/chimera/v1/" in path.as_posix():
                continue
            parts = list(path.relative_to(base).with_suffix("").parts)
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, ast.parse(path.read_text())


KNOWN = {name for name, _ in modules()}


def imports(tree: ast.Module) -> Iterator[tuple[str, str, int]]:
    """(module, name or "", line) of each import; `from chimera import outbox` is chimera.outbox."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "", node.lineno
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = node.module or ""
                inner = f"{module}.{alias.name}"
                yield (
                    (inner, "", node.lineno)
                    if inner in KNOWN
                    else (
                        module,
                        alias.name,
                        node.lineno,
                    )
                )


def context_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "chimera" and parts[1] in ARROWS else ""


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def is_ground(module: str) -> bool:
    return not context_of(module) and not within(module, *PROGRAMS, "chimera.v1", "workers")


def refusal(module: str, target: str, name: str) -> str:
    """Why `module` may not import `target` (or `name` from it); "" when it may."""
    mine, theirs = context_of(module), context_of(target)
    if within(target, "chimera.cli") and not within(module, "chimera.cli"):
        return "the command line is nobody's library: move the function into the context"
    if within(module, *PROGRAMS):
        return ""
    if target.endswith((".service", "_service")) and module != "chimera.server":
        return "a service is called over gRPC only: import the operations"
    if within(target, "workers") and not within(module, "workers"):
        return "workers call operations, not the other way round"
    if within(target, *THE_GATE) and module not in THE_GATE:
        return "nothing below the gate knows of it: raise a fault"
    if within(target, "grpc", "grpc_status") and module not in GRPC:
        return "only the gate speaks gRPC: raise a fault, yield a message"
    opens = within(target, "psycopg_pool") or (target == "psycopg" and name in OPENS_CONNECTIONS)
    if opens and module not in PSYCOPG:
        return "go through Database.begin; only errors of psycopg may be caught elsewhere"
    if mine and theirs and mine != theirs and theirs not in ARROWS[mine]:
        return f"{mine} -> {theirs} is not in ARROWS: is it really needed, and no circle?"
    if is_ground(module) and theirs and target not in GROUND_ARROWS.get(module, set()):
        return "the ground knows no context: hand the function in from above"
    return ""


def test_imports_follow_the_arrows() -> None:
    """What may be imported is a table above; an arrow more is a decision, not a habit."""
    wrong = [
        f"{module}:{line} imports {target}: {reason}"
        for module, tree in modules()
        for target, name, line in imports(tree)
        if (reason := refusal(module, target, name))
    ]
    assert not wrong, "\n" + "\n".join(sorted(set(wrong)))


def test_no_context_uses_the_sql_of_another() -> None:
    """Statements are private to their context: whoever needs the fact calls the function."""
    wrong = []
    for module, tree in modules():
        for target, name, line in imports(tree):
            mine, theirs = context_of(module), context_of(target)
            if not (name.isupper() and theirs and mine != theirs):
                continue
            if isinstance(getattr(importlib.import_module(target), name, None), Statement):
                wrong.append(f"{module}:{line} imports {target}.{name}")
    assert not wrong, f"call a function of that context instead: {wrong}"


def test_the_arrows_make_no_circle() -> None:
    """A circle of contexts is one big context."""
    left = {context: set(arrows) for context, arrows in ARROWS.items()}
    while left:
        free = [context for context, arrows in left.items() if not arrows & left.keys()]
        assert free, f"these contexts need each other: {sorted(left)}"
        for context in free:
            del left[context]


def test_the_verifier_stands_alone() -> None:
    """Whoever checks an exported log runs no code of the server it came from."""
    code = (
        "import sys; before = set(sys.modules); import chimera.audit.verify;"
        "print('\\n'.join(sorted(set(sys.modules) - before)))"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = run.stdout.split()
    assert "chimera.audit.verification" in loaded
    site = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    foreign = {name for name in site if not name.startswith("_")} - {"chimera", "cryptography"}
    server = {
        name
        for name in loaded
        if name.startswith("chimera.") and not name.startswith("chimera.audit")
    }
    assert not foreign | server, f"the offline verifier loads {sorted(foreign | server)}"
