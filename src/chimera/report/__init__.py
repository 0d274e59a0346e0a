"""The report of a run: one HTML page that needs nothing else, made from what the API says.

`facts` reads a run over the API, `page` lays it out with the table of `heat` and the drawings of
`charts`, and `markup` is the only place where text becomes HTML.

What must stay true:
* Prompts and responses are hostile. Everything that is not a node of `markup` is escaped; the page
  has no script, no link out, and a content security policy that forbids both.
* It can be read without colour, without light, on paper, and by a screen reader.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chimera.client import Client


def write_report(client: Client, run_id: str, path: Path) -> int:
    """Writes the report of a run to `path`; its size in bytes. Raises ApiError, OSError."""
    from chimera.report.facts import collect
    from chimera.report.page import render

    body = render(collect(client, run_id)).encode()
    path.write_bytes(body)
    return len(body)
