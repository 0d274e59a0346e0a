"""Inspection: the verifier over the database itself, all organisations, with what only it can tell.

Beyond what a bundle proves: that the columns people search and see say what the leaves say, that no
row is shown which is in no leaf, that the stored nodes which proofs are made of are the tree's, and
that every number a writer gave out is sealed or waiting.

What must stay true: it writes nothing; it reads one snapshot; its memory does not grow with the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
import psycopg
from psycopg import IsolationLevel
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from chimera.audit import merkle
from chimera.audit.bundle import Header, Line, SignedCheckpoint, Tombstone
from chimera.audit.columns import READ_COLUMNS, differing
from chimera.audit.export import line_of
from chimera.audit.leaf import LeafError, decode_leaf
from chimera.audit.merkle import TreeNode
from chimera.audit.note import Checkpoint, Note, NoteError
from chimera.audit.policy import Policy
from chimera.audit.report import Finding, Report, Verdict
from chimera.audit.scanning import said_by
from chimera.audit.signing_home import load_signer
from chimera.audit.verification import CHECKPOINTS_MAX, Progress, Stop
from chimera.audit.verify import verify_lines
from chimera.audit.witness import Witness
from chimera.settings import Settings

PAGE_LEAVES = 2000
_FINDINGS_MAX = 100

READ_CHECKPOINTS = """
    SELECT c.note || COALESCE((SELECT string_agg(s.line, '' ORDER BY s.verifier_key)
                                 FROM audit.cosignatures s WHERE s.size = c.size), '') AS note
      FROM audit.checkpoints c ORDER BY c.size DESC LIMIT %s
"""
# `said` is compared with what scanning.said_by makes of the leaf. Nothing in a leaf has a space, so equal
# texts are of equal columns.
READ_LEAVES = """
    SELECT l.log_index, l.leaf_hash, e.log_index AS event_index, e.leaf_hash AS event_hash, e.leaf,
           e.fields, e.previous_hash,
           concat(encode(uuid_send(e.id), 'hex'), ' ', e.org_id, ' ',
                  CASE WHEN isfinite(e.occurred_at)
                       THEN (extract(epoch FROM e.occurred_at) * 1000000)::bigint END, ' ',
                  e.actor_kind, ' ', e.actor_id, ' ', e.action, ' ', e.entity, ' ', e.entity_id, ' ',
                  e.outcome, ' ', e.severity, ' ', e.facts->>'session_id', ' ',
                  e.facts->>'api_key_id', ' ', e.facts->>'kind', ' ',
                  e.facts->>'correlation_id') AS said
      FROM audit.leaves l
      LEFT JOIN audit.events e ON e.id = l.event_id
     WHERE l.log_index >= %(low)s AND l.log_index < %(high)s
     ORDER BY l.log_index
"""
# The hashes of a run of nodes in one piece; which of them is wrong, is asked for when they are.
READ_RUNS = """
    SELECT level, (SELECT string_agg(n.hash, ''::bytea ORDER BY n.node_index) FROM audit.nodes n
                    WHERE n.level = run.level AND n.node_index >= low AND n.node_index < high) AS hashes
      FROM unnest(%(levels)s::smallint[], %(lows)s::bigint[], %(highs)s::bigint[])
           AS run (level, low, high)
"""
READ_NODES = """
    SELECT level, node_index, n.hash
      FROM unnest(%(levels)s::smallint[], %(indexes)s::bigint[]) AS wanted (level, node_index)
      JOIN audit.nodes n USING (level, node_index)
"""
READ_END = "SELECT COALESCE(max(log_index) + 1, 0) AS leaf_end FROM audit.leaves"
READ_HEAD = "SELECT size, last_hash FROM audit.log_head"
COUNT_STRAYS = """
    SELECT count(*), min(log_index) AS first FROM audit.events e
     WHERE NOT EXISTS (SELECT FROM audit.leaves l WHERE l.event_id = e.id)
"""
# Triggers that were switched off, or dropped: nobody but a superuser or the owner can have done it.
FIND_UNGUARDED = """
    WITH guarded AS (
        SELECT c.oid FROM pg_class c
         WHERE c.oid IN ('audit.events'::regclass, 'audit.leaves'::regclass, 'audit.nodes'::regclass,
                         'audit.checkpoints'::regclass, 'audit.cosignatures'::regclass)
            OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'audit.events'::regclass)
    )
    SELECT g.oid::regclass::text AS name, wanted.trigger
      FROM guarded g CROSS JOIN (VALUES ('no_change'), ('no_truncate')) AS wanted (trigger)
     WHERE g.oid <> 'audit.events'::regclass AND NOT EXISTS (
               SELECT FROM pg_trigger t
                WHERE t.tgrelid = g.oid AND t.tgname = wanted.trigger AND t.tgenabled = 'A')
     ORDER BY 1, 2
"""
READ_WRITERS = "SELECT writer_id::text, seq FROM audit.writers"
READ_PENDING = "SELECT leaf FROM audit.pending"


def verify_live(settings: Settings, *, progress: Progress | None = None) -> Report:
    """Verifies this installation's log against the key and the memory of its own signer, its witness
    policy, and what witnesses in folders of this host kept: also a rollback of the database is seen. Raises SigningRefused, NoteError or OSError when the signer's
    folder cannot be read, and psycopg.Error."""
    signer = load_signer(settings)
    url = settings.role_url("sealer")
    keys = [signer.verifier_key]
    policy = None
    if settings.audit_witness_policy is not None:
        policy = Policy.parse(settings.audit_witness_policy.read_text("utf-8"))
    return verify_database(
        url, keys=keys, since=signer.last_note(), policy=policy, progress=progress
    )


def verify_database(
    database_url: str,
    *,
    keys: Sequence[str],
    since: str | None = None,
    policy: Policy | None = None,
    progress: Progress | None = None,
) -> Report:
    """Verifies the log straight from PostgreSQL, up to its newest checkpoint; reads only.

    database_url: of a login that may take the role chimera_sealer. keys: `name+hash+base64` of the
    log and of witnesses, from elsewhere than the database. since: a checkpoint kept from earlier.
    Raises psycopg.Error; what is wrong with the log is in the report.
    """
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        connection.read_only = True
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        # The one role that sees every organisation's events; with less, rows would seem gone.
        connection.execute("SET ROLE chimera_sealer")
        set_json_loads(orjson.loads, connection)
        inspection = Inspection(connection, _kept_beside(policy))
        report = verify_lines(inspection.lines(), keys, since, progress, policy)
        if report.verdict is not Verdict.BAD_INPUT:
            inspection.finish()
        found = [inspection.narrowed(finding) for finding in report.findings]
        return replace(report, findings=(*found, *inspection.findings))


class Inspection:
    """Hands the log to the verifier line by line and looks at each row on its way."""

    def __init__(
        self, connection: psycopg.Connection[dict[str, Any]], witnesses: Sequence[Witness] = ()
    ) -> None:
        self.connection = connection
        self.witnesses = list(witnesses)  # until one of them contradicted
        self._origin = ""
        self._first_unlike: int | None = None  # leaf that a witness remembers otherwise
        self.findings: list[Finding] = []
        self._read = 0  # up to this index
        self._count = 0
        self._frontier = merkle.EMPTY_TREE
        self._last_numbers: dict[str, int] = {}
        self._tombstones = 0
        self._last_hash: bytes | None = None

    def lines(self) -> Iterator[Line]:
        """The log up to its newest checkpoint."""
        rows = self.connection.execute(READ_CHECKPOINTS, (CHECKPOINTS_MAX,)).fetchall()
        notes = [row["note"] for row in reversed(rows)]
        if not notes:
            return
        try:
            newest = Checkpoint.parse(Note.parse(notes[-1]).text)
        except NoteError:
            yield Header("unreadable")  # the verifier says what is wrong with the note
            yield SignedCheckpoint(notes[-1])
            return
        self._origin = newest.origin
        yield Header(newest.origin)
        for note in notes:
            yield SignedCheckpoint(note)
        before = -1
        for low in range(0, newest.size, PAGE_LEAVES):
            for row in self._page(low, min(low + PAGE_LEAVES, newest.size)):
                if row["log_index"] == before:
                    raise Stop(Verdict.TAMPERED, before, "two leaves are there for this index")
                before = row["log_index"]
                yield _line_of(row)

    def finish(self) -> None:
        """What lies beyond the newest checkpoint, and what only the end can tell."""
        end = self._value(READ_END, "leaf_end")
        while self._read < end:
            self._page(self._read, min(self._read + PAGE_LEAVES, end))
        self._check_head(end)
        strays = self.connection.execute(COUNT_STRAYS).fetchone()
        if strays and strays["count"]:
            self._tampered(
                strays["first"], f"{strays['count']} rows of audit.events are in no leaf"
            )
        self._check_writers()
        for row in self.connection.execute(FIND_UNGUARDED).fetchmany(_FINDINGS_MAX):
            self._tampered(None, f"the trigger {row['trigger']} of {row['name']} is switched off")

    def _page(self, low: int, high: int) -> list[dict[str, Any]]:
        bounds = {"low": low, "high": high}
        rows = self.connection.execute(READ_LEAVES, bounds, binary=True).fetchall()
        for row in rows:
            self._look_at(row)
        self._read = high
        self._count += len(rows)
        if len(rows) == high - low:
            self._ask_witnesses(low, [row["leaf_hash"] for row in rows])
        if self._frontier.size == low and len(rows) == high - low:
            self._check_nodes([row["leaf_hash"] for row in rows])
        return rows

    def _ask_witnesses(self, low: int, hashes: list[bytes]) -> None:
        """A witness in a folder kept each leaf hash: it names the first one that was changed, also
        where the whole chain after it was computed anew."""
        for witness in list(self.witnesses):
            index = witness.first_difference(self._origin, low, hashes)
            if index is not None:
                name = witness.verifier_key.name
                self._tampered(index, f"the leaf is not the one the witness {name} kept")
                self.witnesses.remove(witness)
                if self._first_unlike is None or index < self._first_unlike:
                    self._first_unlike = index

    def narrowed(self, finding: Finding) -> Finding:
        """A signed root that is not met says only since when: all before a leaf that a witness
        remembers otherwise is as it remembers it, so it is that one."""
        if not finding.is_bound or self._first_unlike is None or finding.index is None:
            return finding
        return replace(finding, index=max(finding.index, self._first_unlike))

    def _look_at(self, row: Mapping[str, Any]) -> None:
        index = row["log_index"]
        self._last_hash = row["leaf_hash"]
        if row["leaf"] is None:
            self._tombstones += 1
            return
        if (row["event_index"], row["event_hash"]) != (index, row["leaf_hash"]):
            self._tampered(index, "the event's row names another index or hash than its leaf's")
        said = said_by(row["leaf"])
        if said is None or said[2] != row["said"]:
            self._look_closely(index, row["leaf"])
        else:
            self._count_number(said[0], said[1])

    def _look_closely(self, index: int, data: bytes) -> None:
        try:
            leaf = decode_leaf(data)
        except LeafError:
            return  # the verifier says so
        self._count_number(leaf.writer_id, leaf.writer_seq)
        row = self.connection.execute(READ_COLUMNS, (index, data)).fetchone()
        if row is None:
            return
        if wrong := differing(leaf, row):
            self._tampered(index, f"the row does not say what its leaf says: {', '.join(wrong)}")

    def _count_number(self, writer_id: str, seq: int) -> None:
        if seq > self._last_numbers.get(writer_id, 0):
            self._last_numbers[writer_id] = seq

    def _check_nodes(self, hashes: list[bytes]) -> None:
        """Proofs are made of stored nodes: each new one must be the tree's."""
        self._frontier, nodes = self._frontier.extend(hashes)
        runs: dict[int, list[TreeNode]] = {}
        for node in nodes:
            runs.setdefault(node[0], []).append(node)
        wanted = {
            "levels": list(runs),
            "lows": [run[0][1] for run in runs.values()],
            "highs": [run[-1][1] + 1 for run in runs.values()],
        }
        for stored in self.connection.execute(READ_RUNS, wanted, binary=True):
            if stored["hashes"] != b"".join(node[2] for node in runs[stored["level"]]):
                self._name_bad_nodes(runs[stored["level"]])
                return

    def _name_bad_nodes(self, nodes: list[TreeNode]) -> None:
        wanted = {(level, index): value for level, index, value in nodes}
        levels, indexes = [node[0] for node in wanted], [node[1] for node in wanted]
        found = self.connection.execute(READ_NODES, {"levels": levels, "indexes": indexes})
        stored = {(row["level"], row["node_index"]): row["hash"] for row in found}
        bad = [node for node, value in wanted.items() if stored.get(node) != value]
        # No index: it may be the node that is wrong or a leaf, which is then named itself.
        self._tampered(
            None,
            f"{len(bad)} stored nodes are not the tree's, first (level, index) {bad[0]}"
            if bad
            else "a node is stored twice",
        )

    def _check_head(self, end: int) -> None:
        head = self.connection.execute(READ_HEAD).fetchone()
        if head is None:
            self._tampered(None, "the row of audit.log_head is gone")
        elif head["size"] > self._count:
            reason = f"of {head['size']} leaves {self._count} are left"
            index = end if self._count == end else None
            self.findings.append(Finding(Verdict.INCOMPLETE, index, reason))
        elif head["size"] < self._count:
            reason = f"the head says {head['size']} leaves, and there are {self._count}"
            self._tampered(head["size"], reason)
        elif self._last_hash is not None and head["last_hash"] != self._last_hash:
            self._tampered(end - 1, "the head does not name the last leaf's hash")

    def _check_writers(self) -> None:
        for row in self.connection.execute(READ_PENDING):
            try:
                leaf = decode_leaf(row["leaf"])
            except LeafError:
                self._tampered(None, "an event waiting to be sealed is no leaf")
                continue
            known = self._last_numbers.get(leaf.writer_id, 0)
            self._last_numbers[leaf.writer_id] = max(known, leaf.writer_seq)
        for row in self.connection.execute(READ_WRITERS):
            lost = row["seq"] - self._last_numbers.get(row["writer_id"], 0)
            # Dropped payloads may hold a writer's last numbers.
            if lost > self._tombstones and len(self.findings) < _FINDINGS_MAX:
                reason = f"writer {row['writer_id']}: its last {lost} numbers were never sealed"
                self.findings.append(Finding(Verdict.INCOMPLETE, None, reason))

    def _value(self, query: str, name: str) -> Any:
        row = self.connection.execute(query.encode()).fetchone()
        return row[name] if row else None

    def _tampered(self, index: int | None, reason: str) -> None:
        if len(self.findings) < _FINDINGS_MAX:
            self.findings.append(Finding(Verdict.TAMPERED, index, reason))


def _kept_beside(policy: Policy | None) -> list[Witness]:
    """The witnesses whose folders are on this host."""
    entries = policy.witnesses.values() if policy else ()
    folders = [Path(unquote(urlsplit(entry.url).path)) for entry in entries
               if entry.url.startswith("file:")]  # fmt: skip
    return [Witness(folder) for folder in folders if folder.exists()]


def _line_of(row: Mapping[str, Any]) -> Line:
    try:
        return line_of(row, hidden=Tombstone)
    except (AttributeError, KeyError, TypeError, ValueError):
        reason = "the event's values are not of the form in which they are stored"
        raise Stop(Verdict.TAMPERED, row["log_index"], reason) from None
