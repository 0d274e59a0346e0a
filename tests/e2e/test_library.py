"""`chimera template` and `chimera dataset` as processes against a running server."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from tests.e2e.commands import chimera, refused
from tests.support.library import new_template
from tests.support.world import World

PROMPTFOO = Path(__file__).parents[1] / "integration" / "templates" / "promptfooconfig.yaml"


async def test_a_library_is_carried_from_one_organisation_to_another(
    world: World, tmp_path: Path
) -> None:
    """Search, export, import, import again; a promptfoo file; a dataset out and in."""
    acme, globex = await world.organisation("acme"), await world.organisation("globex")
    await new_template(acme.admin, title="A zebra in the lift")
    keys = {
        org.id: (await org.admin.identity.CreateApiKey(name="cli")).secret for org in (acme, globex)
    }

    async def run(org_id: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            chimera,
            tmp_path,
            *arguments,
            CHIMERA_SERVER=f"http://{world.address}",
            CHIMERA_API_KEY=keys[org_id],
        )

    found = await run(acme.id, "template", "search", "zebra*")
    assert found.returncode == 0, found.stderr
    assert "1 found" in found.stdout and "zebra" in found.stdout
    library = tmp_path / "library.yaml"
    assert (await run(acme.id, "template", "export", str(library))).returncode == 0
    made = await run(globex.id, "template", "import", str(library))
    assert made.returncode == 0 and "line 2: created 'A zebra in the lift'" in made.stdout
    again = await run(globex.id, "template", "import", str(library))
    assert "unchanged 'A zebra in the lift'" in again.stdout

    library.write_text("title: x\nmessages: [{role: user, text: '{{ nobody }}'}]\n")
    bad = await run(globex.id, "template", "import", str(library))
    assert bad.returncode == 1 and "VARIABLE_UNDECLARED" in bad.stdout
    refused(
        await run(globex.id, "template", "import", str(tmp_path / "no.yaml")), 2, "No such file"
    )

    switched = await run(globex.id, "template", "import", "--promptfoo", str(PROMPTFOO))
    assert switched.returncode == 0, switched.stderr
    assert "left out tests[2].assert[0] (javascript)" in switched.stdout

    rows = tmp_path / "rows.csv"
    rows.write_bytes(b'q,a\r\n"x ""y""\r\nz",\xc3\xbc\r\n')
    stored = await run(globex.id, "dataset", "import", "questions", str(rows))
    assert "version 1: 1 rows, 2 columns" in stored.stdout, stored.stderr
    out = tmp_path / "out.csv"
    assert (await run(globex.id, "dataset", "export", "questions", str(out))).returncode == 0
    assert out.read_bytes() == b'"q","a"\r\n"x ""y""\r\nz",\xc3\xbc\r\n'
    assert "questions" in (await run(globex.id, "dataset", "list")).stdout
