"""Storing what promptfoo.py read: a template a prompt, a dataset of the rows."""

from __future__ import annotations

from chimera.audit.recording import record
from chimera.db import Tx
from chimera.templates.content import checked_content
from chimera.templates.dataset_files import Sheet
from chimera.templates.datasets import create_dataset, free_name, store_version
from chimera.templates.operations import create_template
from chimera.templates.promptfoo import PromptfooPlan
from chimera.templates.versions import create_first_version
from chimera.v1.datasets_pb2 import CreateDatasetRequest, DatasetSharing
from chimera.v1.templates_pb2 import (
    CreateTemplateRequest,
    ImportPromptfooResponse,
    SharingLevel,
)


async def import_promptfoo(
    tx: Tx, plan: PromptfooPlan, *, dry_run: bool
) -> ImportPromptfooResponse:
    """Templates and dataset are private to the importer. Raises Invalid for what cannot be stored."""
    answer = ImportPromptfooResponse(
        prompt_count=len(plan.prompts),
        row_count=len(plan.rows),
        unmapped=[
            ImportPromptfooResponse.Unmapped(place=place, what=what, why=why)
            for place, what, why in plan.unmapped
        ],
    )
    for row_no, scorer in sorted(plan.scorers.items()):
        answer.scored.add(row_no=row_no).scorer.update(scorer)
    contents = [
        checked_content(prompt.messages, plan.variables(prompt.names)) for prompt in plan.prompts
    ]
    if not dry_run:
        for prompt, content in zip(plan.prompts, contents, strict=True):
            request = CreateTemplateRequest(
                title=prompt.title,
                tags=["promptfoo"],
                sharing_level=SharingLevel.SHARING_LEVEL_PRIVATE,
            )
            template = await create_template(tx, request, content.body)
            await create_first_version(tx, template, content, "Imported from promptfoo")
            answer.templates.append(template)
        await _store_rows(tx, plan, answer)
    new = {"templates": len(answer.templates), "rows": len(plan.rows), "dry_run": dry_run}
    record(tx, "template.import_promptfoo", "organisation", tx.call.caller.org_id, new=new)
    return answer


async def _store_rows(tx: Tx, plan: PromptfooPlan, answer: ImportPromptfooResponse) -> None:
    if not plan.rows:
        return
    request = CreateDatasetRequest(
        name=await free_name(tx, plan.title),
        sharing_level=DatasetSharing.DATASET_SHARING_PRIVATE,
    )
    dataset = await create_dataset(tx, request)
    sheet = Sheet.of(plan.rows)
    version = await store_version(tx, dataset.id, sheet, "Imported from promptfoo")
    answer.dataset_id = dataset.id
    answer.dataset_version_number = version.version_number
