"""Import: a stream of documents, each checked and stored by itself.

What must stay true: memory is bounded by one document, whatever the file; one bad document hides no
good one; the same document again changes nothing, also when two imports race (a unique index on
organisation, importer and content hash); a dry run stores nothing and says the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
from psycopg.errors import UniqueViolation

from chimera.audit.recording import record
from chimera.call import Call
from chimera.db import Tx, sql
from chimera.faults import Fault, Invalid, Violation
from chimera.pools import Database
from chimera.templates import partials
from chimera.templates.content import Content, checked_content
from chimera.templates.documents import Document, DocumentError, read
from chimera.templates.labels import move_label
from chimera.templates.operations import create_template
from chimera.templates.plain_yaml import plain_yaml
from chimera.templates.versions import create_first_version, create_version
from chimera.v1.options_pb2 import Access
from chimera.v1.templates_pb2 import (
    CreateTemplateRequest,
    ImportFormat,
    ImportOutcome,
    ImportTemplatesRequest,
    ImportTemplatesResponse,
    MoveTemplateLabelRequest,
    SharingLevel,
    TemplateVersion,
)
from chimera.validation import validator

DOCUMENT_BYTES_MAX = 16_000_000
_LABEL = re.compile(r"(?!latest\Z)[a-z][a-z0-9_-]{0,63}\Z")


async def import_templates(
    db: Database, call: Call, requests: AsyncIterator[ImportTemplatesRequest]
) -> AsyncIterator[ImportTemplatesResponse]:
    """An answer for each document, in order. Raises Invalid(IMPORT_UNREADABLE) when the file cannot
    even be cut into documents, and FIELD_INVALID without a format."""
    first = await anext(requests, None)
    if first is None or not first.format:
        violation = Violation("format", "must be given in the first message", "FIELD_INVALID")
        raise Invalid("FIELD_INVALID", f"format: {violation.message}", violations=[violation])
    level = first.sharing_level or SharingLevel.SHARING_LEVEL_PRIVATE
    counts = {"created": 0, "unchanged": 0, "refused": 0, "would_create": 0}
    number = 0
    # Each document is a transaction of its own; the import as a whole is recorded at the end.
    own = replace(call, access=Access())
    try:
        async for line, content in _documents(_content(first, requests), first.format):
            number += 1
            answer = await _import(db, own, content, first.format, level, first.dry_run)
            answer.item_number, answer.line = number, line
            counts[_word(answer.outcome)] += 1
            yield answer
    finally:
        if number:
            async with db.begin(call) as tx:
                new = {**counts, "dry_run": first.dry_run}
                record(tx, "template.import", "organisation", call.caller.org_id, new=new)


def _word(outcome: int) -> str:
    name = ImportOutcome.Name(outcome)
    return name.removeprefix("IMPORT_OUTCOME_").lower()


async def _content(
    first: ImportTemplatesRequest, requests: AsyncIterator[ImportTemplatesRequest]
) -> AsyncIterator[bytes]:
    yield first.content
    async for request in requests:
        yield request.content


async def _documents(pieces: AsyncIterator[bytes], format: int) -> AsyncIterator[tuple[int, bytes]]:
    """(line it begins at, document) of a file that comes in pieces."""
    lines: list[bytes] = []
    size = begins = 0
    number = 0
    async for line in _lines(pieces):
        number += 1
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        is_mark = format == ImportFormat.IMPORT_FORMAT_YAML and line.rstrip() in (b"---", b"...")
        if is_mark or format == ImportFormat.IMPORT_FORMAT_JSONL:
            if any(part.strip() for part in lines):
                yield begins, b"".join(lines)
            lines, size = [], 0
        if is_mark:
            continue
        if not lines:
            begins = number
        lines.append(line)
        size += len(line)
        if size > DOCUMENT_BYTES_MAX:
            raise _unreadable(begins)
    if any(part.strip() for part in lines):
        yield begins, b"".join(lines)


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest: list[bytes] = []
    size = 0
    async for piece in pieces:
        *ends, begins = piece.split(b"\n")
        for end in ends:
            yield b"".join(rest) + end + b"\n"
            rest, size = [], 0
        rest.append(begins)
        size += len(begins)
        if size > DOCUMENT_BYTES_MAX:
            raise _unreadable(0)
    if size:
        yield b"".join(rest)


def _unreadable(line: int) -> Invalid:
    said = f"a document of more than {DOCUMENT_BYTES_MAX} bytes"
    return Invalid("IMPORT_UNREADABLE", f"line {line}: {said}" if line else said)


# --- one document --------------------------------------------------------------------------------


async def _import(
    db: Database, call: Call, content: bytes, format: int, level: int, dry_run: bool
) -> ImportTemplatesResponse:
    answer = ImportTemplatesResponse()
    try:
        # In a thread: a large document must not hold up other callers.
        document = await asyncio.to_thread(lambda: read(parsed(content, format)))
        answer.title, answer.content_hash = document.head.title, document.content_hash
        await _check_form(document)
        try:
            async with db.begin(call) as tx:
                await _store(tx, document, level, dry_run, answer)
                if dry_run:
                    raise _Undo
        except _Undo:
            pass
        except UniqueViolation:  # the same import was faster
            async with db.begin(call) as tx:
                answer.template_id = await tx.one(FIND_IMPORTED, **_key(tx, document)) or ""
            answer.outcome = ImportOutcome.IMPORT_OUTCOME_UNCHANGED
    except DocumentError as error:
        _refuse(answer, "IMPORT_UNREADABLE", str(error))
    except Fault as fault:
        _refuse(answer, fault.reason, fault.message)
    return answer


class _Undo(Exception):
    """Ends the transaction of a dry run."""


def _refuse(answer: ImportTemplatesResponse, reason: str, message: str) -> None:
    answer.outcome = ImportOutcome.IMPORT_OUTCOME_REFUSED
    answer.template_id = ""
    answer.reason, answer.message = reason, message


def parsed(content: bytes, format: int) -> Any:
    """Plain data of one document. Raises DocumentError."""
    try:
        if format == ImportFormat.IMPORT_FORMAT_JSONL:
            return orjson.loads(content)
        return plain_yaml(content.decode())
    except (orjson.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise DocumentError("it is neither UTF-8 nor JSON, or nests too deep") from None


async def _check_form(document: Document) -> None:
    """The rules of the .proto, as if each version came by its own request."""
    for version in document.versions:
        await asyncio.sleep(0)  # others have their turn
        request = CreateTemplateRequest()
        request.CopyFrom(document.head)
        request.messages.extend(version.messages)
        request.variables.extend(version.variables)
        request.partials.extend(version.partials)
        for violation in validator().collect_violations(request):
            field: Any = violation.proto.field  # a violation found here always names one
            path = ".".join(element.field_name for element in field.elements)
            raise DocumentError(
                f"version {version.version_number}, {path}: {violation.proto.message}"
            )
    for name in document.labels:
        if not _LABEL.match(name):
            raise DocumentError("a label is lower case letters, digits, - and _, and not latest")


FIND_IMPORTED = sql(
    str,
    """
    SELECT id FROM templates.templates
     WHERE org_id = %(org_id)s::uuid AND created_by = %(created_by)s::uuid
       AND import_hash = %(import_hash)s AND deleted_at IS NULL
    """,
)


def _key(tx: Tx, document: Document) -> dict[str, str]:
    caller = tx.call.caller
    return {
        "org_id": caller.org_id,
        "created_by": caller.user_id,
        "import_hash": document.content_hash,
    }


async def _store(
    tx: Tx, document: Document, level: int, dry_run: bool, answer: ImportTemplatesResponse
) -> None:
    existing = await tx.one(FIND_IMPORTED, **_key(tx, document))
    if existing is not None:
        answer.template_id = existing
        answer.outcome = ImportOutcome.IMPORT_OUTCOME_UNCHANGED
        return
    head = CreateTemplateRequest()
    head.CopyFrom(document.head)
    head.sharing_level = level  # type: ignore[assignment]  # an int of the enum
    first = await _content_of(tx, document.versions[0])
    template = await create_template(tx, head, first.body, import_hash=document.content_hash)
    await create_first_version(tx, template, first, document.versions[0].change_note)
    for version in document.versions[1:]:
        content = await _content_of(tx, version)
        await create_version(
            tx, template.id, version.parent_version_number, content, version.change_note
        )
    for name, number in document.labels.items():
        move = MoveTemplateLabelRequest(template_id=template.id, name=name, version_number=number)
        await move_label(tx, move)
    answer.outcome = ImportOutcome.IMPORT_OUTCOME_CREATED
    answer.template_id = template.id
    if dry_run:
        answer.outcome = ImportOutcome.IMPORT_OUTCOME_WOULD_CREATE
        answer.template_id = ""


async def _content_of(tx: Tx, version: TemplateVersion) -> Content:
    found = await partials.resolve(tx, version.partials)
    inherited = {name: one.variables for name, one in found.items()}
    content = await asyncio.to_thread(
        checked_content, version.messages, version.variables, version.partials, inherited
    )
    if found:
        await asyncio.to_thread(partials.check_expanded, version, found)
    if version.content_hash and version.content_hash != content.content_hash:
        raise Invalid(
            "IMPORT_UNREADABLE",
            f"Version {version.version_number} does not say what its content_hash says.",
        )
    return content
