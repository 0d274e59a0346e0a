"""`chimera sql`: every statement the product runs, for whoever reviews or tunes the database."""

from __future__ import annotations

import textwrap
from dataclasses import fields, is_dataclass
from typing import Annotated, Any

import typer

APART = ("chimera.v1", "chimera.embedded", "chimera.migrate", "chimera.cli", "chimera.report")


def sql(
    module: Annotated[
        str, typer.Argument(help="Only modules whose name contains this.", show_default=False)
    ] = "",
) -> None:
    """Print every registered SQL statement, by module."""
    import sys

    from chimera.db import STATEMENTS

    import_everything()
    by_module: dict[str, list[str]] = {}
    for statement in STATEMENTS:
        name = _name_of(statement, vars(sys.modules[statement.where]))
        text = textwrap.dedent(statement.text).strip()
        by_module.setdefault(statement.where, []).append(f"-- {name}\n{text};")
    for where in sorted(by_module):
        if module in where:
            typer.echo(f"-- === {where} ===\n")
            typer.echo("\n\n".join(by_module[where]) + "\n")


def _name_of(statement: Any, names: dict[str, Any]) -> str:
    """Its name in its module, or `TABLE[number].field` in a tuple of dataclasses."""
    for name, value in names.items():
        if value is statement:
            return name
        if isinstance(value, tuple):
            for number, row in enumerate(value):
                for field in fields(row) if is_dataclass(row) else ():
                    if getattr(row, field.name) is statement:
                        return f"{name}[{number}].{field.name}"
    return "?"


def import_everything() -> None:
    """Imports all modules of the product that may hold statements."""
    import importlib
    import pkgutil

    for package in ("chimera", "workers"):
        root = importlib.import_module(package)
        for found in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not found.name.startswith(APART) and not found.name.endswith("__main__"):
                importlib.import_module(found.name)
