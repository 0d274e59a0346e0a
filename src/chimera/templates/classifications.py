"""Known technique and vulnerability types. The data, with source and version of each scheme, is in
classifications.json beside this file.

Types are free words; what looks like an id of a scheme is written as the scheme writes it. OWASP's
lists are closed, and a number without a year means 2025, because the numbers moved with the next one.
ATLAS grows every month, so every id of its form is taken; listed are the techniques that are tried
against language models and agents. Its names move too (`LLM Plugin Compromise` became `AI Agent Tool
Invocation`): the release notes at https://atlas.mitre.org/resources/updates say how.
"""

from __future__ import annotations

import re
from pathlib import Path

import orjson

from chimera.faults import Invalid, Violation
from chimera.v1.templates_pb2 import Classification

_OWASP = re.compile(r"LLM(\d{2})(:\d{4})?", re.IGNORECASE)
_ATLAS = re.compile(r"AML\.T\d{4}(\.\d{3})?", re.IGNORECASE)


def _load() -> dict[str, Classification]:
    schemes = orjson.loads(Path(__file__).with_name("classifications.json").read_bytes())
    return {
        entry["id"]: Classification(
            id=entry["id"],
            name=entry["name"],
            url=entry["url"],
            kind=scheme["kind"],
            scheme=scheme["scheme"],
            scheme_version=scheme["scheme_version"],
        )
        for scheme in schemes
        for entry in scheme["entries"]
    }


CLASSIFICATIONS = _load()


def known_type(field: str, given: str) -> str:
    """The type as it is stored (`llm01` becomes `LLM01:2025`). Raises Invalid(FIELD_INVALID)."""
    given = given.strip()
    if match := _OWASP.fullmatch(given):
        known = f"LLM{match[1]}{match[2] or ':2025'}"
        if known not in CLASSIFICATIONS:
            said = "must be one of LLM01 to LLM10, of 2025 or 2026"
            raise Invalid(
                "FIELD_INVALID",
                f"{field}: {said}",
                violations=[Violation(field, said, "FIELD_INVALID")],
            )
        return known
    return given.upper() if _ATLAS.fullmatch(given) else given
