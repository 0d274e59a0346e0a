"""Scorers: the registry, and composition of scorers into the condition a campaign counts.

A specification is plain data: `{"kind": str, "params": {...}, "operands": [specification, ...]}`.
What must stay true: a verdict depends only on the specification, its versions and the response, so
results can be scored again later without sending anything; and the cost of a verdict is bounded.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType
from typing import Any

from chimera.campaigns.parameters import Parameter, Params, checked
from chimera.campaigns.scorers.answers import ANSWER_SCORERS
from chimera.campaigns.scorers.canary import CANARY_LEAK
from chimera.campaigns.scorers.llm_judge import KIND as LLM_JUDGE_KIND
from chimera.campaigns.scorers.llm_judge import LLM_JUDGE
from chimera.campaigns.scorers.markup import MARKUP_SCORERS
from chimera.campaigns.scorers.overlap import OVERLAP_SCORERS
from chimera.campaigns.scorers.refusal import REFUSAL
from chimera.campaigns.scorers.sensitive import SENSITIVE_SCORERS
from chimera.campaigns.scorers.structure import JSON_SCHEMA
from chimera.campaigns.scorers.text import TEXT_SCORERS
from chimera.campaigns.scorers.verdict import (
    RESPONSE_CHARS_MAX,
    Filling,
    Judge,
    Response,
    Scorer,
    ScorerError,
    Span,
    Verdict,
)

__all__ = [
    "SCORERS",
    "Judge",
    "Panel",
    "Response",
    "Scorer",
    "ScorerError",
    "Span",
    "Verdict",
    "check_scorer",
    "compile_scorer",
    "fingerprint",
    "judges_of",
    "variables_of",
    "versions_of",
]

DEPTH_MAX = 6
NODES_MAX = 50
JUDGES_MAX = 5


def prepare_all(params: Params, operands: tuple[Judge, ...]) -> Judge:
    def judge(response: Response) -> Verdict:
        verdicts = tuple([operand(response) for operand in operands])
        holding = sum([verdict.success for verdict in verdicts])
        score = min([verdict.score for verdict in verdicts])
        reason = f"{holding} of {len(verdicts)} conditions hold, all are needed"
        return Verdict(holding == len(verdicts), score, reason, verdicts)

    return judge


def prepare_any(params: Params, operands: tuple[Judge, ...]) -> Judge:
    def judge(response: Response) -> Verdict:
        verdicts = tuple([operand(response) for operand in operands])
        holding = sum([verdict.success for verdict in verdicts])
        score = max([verdict.score for verdict in verdicts])
        reason = f"{holding} of {len(verdicts)} conditions hold, one is needed"
        return Verdict(holding > 0, score, reason, verdicts)

    return judge


def prepare_not(params: Params, operands: tuple[Judge, ...]) -> Judge:
    (operand,) = operands

    def judge(response: Response) -> Verdict:
        verdict = operand(response)
        return Verdict(not verdict.success, 1 - verdict.score, f"not: {verdict.reason}", (verdict,))

    return judge


def prepare_at_least(params: Params, operands: tuple[Judge, ...]) -> Judge:
    needed = params["count"]
    if needed > len(operands):
        raise ScorerError("scorer_parameter_invalid", "count", "is more than there are operands")

    def judge(response: Response) -> Verdict:
        verdicts = tuple([operand(response) for operand in operands])
        holding = sum([verdict.success for verdict in verdicts])
        # The score of the condition that decides: the needed-th best.
        score = sorted([verdict.score for verdict in verdicts], reverse=True)[needed - 1]
        reason = f"{holding} of {len(verdicts)} conditions hold, {needed} are needed"
        return Verdict(holding >= needed, score, reason, verdicts)

    return judge


def prepare_mean(params: Params, operands: tuple[Judge, ...]) -> Judge:
    threshold = params["threshold"]

    def judge(response: Response) -> Verdict:
        verdicts = tuple([operand(response) for operand in operands])
        score = sum([verdict.score for verdict in verdicts]) / len(verdicts)
        reason = f"the mean score {score:.3f} of {len(verdicts)} conditions"
        return Verdict(score >= threshold, score, reason, verdicts)

    return judge


COMBINATORS = (
    Scorer(
        kind="all",
        title="All of",
        description="Every operand holds. The score is the lowest of theirs.",
        source="Conjunction; scores as in Zadeh: Fuzzy Sets, 1965",
        prepare=prepare_all,
        operands_min=1,
        operands_max=NODES_MAX,
    ),
    Scorer(
        kind="any",
        title="Any of",
        description="At least one operand holds. The score is the highest of theirs.",
        source="Disjunction; scores as in Zadeh: Fuzzy Sets, 1965",
        prepare=prepare_any,
        operands_min=1,
        operands_max=NODES_MAX,
    ),
    Scorer(
        kind="at_least",
        title="At least so many of",
        description="So many of the operands hold: a majority, or any number between one and all.",
        source="Votes of several judges as in Verga et al.: Replacing Judges with Juries, "
        "2024, arXiv:2404.18796",
        prepare=prepare_at_least,
        parameters=(
            Parameter("count", "integer", 2, 1, NODES_MAX, description="How many must hold."),
        ),
        operands_min=1,
        operands_max=NODES_MAX,
    ),
    Scorer(
        kind="mean",
        title="Mean of",
        description="The mean of the operands' scores reaches the threshold.",
        source="Average pooling of judges as in Verga et al.: Replacing Judges with Juries, "
        "2024, arXiv:2404.18796",
        prepare=prepare_mean,
        parameters=(Parameter("threshold", "number", 0.5, 0, 1, description="Least mean score."),),
        operands_min=1,
        operands_max=NODES_MAX,
    ),
    Scorer(
        kind="not",
        title="Not",
        description="The operand does not hold. The score is 1 minus its score.",
        source="Complement; scores as in Zadeh: Fuzzy Sets, 1965",
        prepare=prepare_not,
        operands_min=1,
        operands_max=1,
    ),
)

SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {
        scorer.kind: scorer
        for scorer in (
            *TEXT_SCORERS,
            *ANSWER_SCORERS,
            *OVERLAP_SCORERS,
            *MARKUP_SCORERS,
            REFUSAL,
            CANARY_LEAK,
            *SENSITIVE_SCORERS,
            JSON_SCHEMA,
            LLM_JUDGE,
            *COMBINATORS,
        )
    }
)


@dataclass(frozen=True)
class Node:
    """A checked specification: the scorer, its complete parameters, its operands, its place."""

    scorer: Scorer
    params: Params
    operands: tuple["Node", ...]
    path: str

    def walk(self) -> Iterator["Node"]:
        yield self
        for operand in self.operands:
            yield from operand.walk()

    def fillings(self) -> Iterator[Filling]:
        for name in self.scorer.fillable:
            yield Filling(name, self.params[name])

    def build(self, *, is_given: bool = False) -> Judge:
        """is_given: single scorers do not judge, their verdicts stand in `Response.given`."""
        operands = tuple([operand.build(is_given=is_given) for operand in self.operands])
        if is_given and not operands:
            return self._given
        try:
            return self.scorer.prepare(self.params, operands)
        except ScorerError as error:
            field = f"{self.path}params.{error.field}"
            raise ScorerError(error.reason, field, error.message) from None

    def _given(self, response: Response) -> Verdict:
        return response.given[self.path]

    def facts(self) -> dict[str, Any]:
        return {
            "kind": self.scorer.kind,
            "version": self.scorer.version,
            "params": dict(self.params),
            "operands": [operand.facts() for operand in self.operands],
        }


def read(spec: object, path: str, depth: int, room: list[int]) -> Node:
    """A specification as a tree of nodes; `room` holds how many more nodes there may be."""
    if depth == 0:
        raise ScorerError("scorer_parameter_invalid", path, f"nested over {DEPTH_MAX} deep")
    room[0] -= 1
    if room[0] < 0:
        raise ScorerError("scorer_parameter_invalid", path, f"more than {NODES_MAX} scorers")
    if not isinstance(spec, Mapping):
        raise ScorerError("scorer_parameter_invalid", path, "must be an object")
    unknown = set(spec) - {"kind", "params", "operands"}
    if unknown:
        names = "kind, params and operands"
        raise ScorerError("scorer_parameter_invalid", path, f"may contain only {names}")
    kind = spec.get("kind")
    scorer = SCORERS.get(kind) if isinstance(kind, str) else None
    if scorer is None:
        raise ScorerError("scorer_unknown", f"{path}kind", "there is no such scorer")
    given = spec.get("params")
    params = checked(
        scorer.parameters,
        {} if given is None else given,
        f"{path}params",
        "scorer_parameter_invalid",
        ScorerError,
    )
    return Node(scorer, params, read_operands(spec, scorer, path, depth, room), path)


def read_operands(
    spec: Mapping[str, Any], scorer: Scorer, path: str, depth: int, room: list[int]
) -> tuple[Node, ...]:
    operands = spec.get("operands") or ()
    if isinstance(operands, str) or not isinstance(operands, Sequence):
        raise ScorerError("scorer_parameter_invalid", f"{path}operands", "must be a list")
    if not scorer.operands_min <= len(operands) <= scorer.operands_max:
        message = f"{scorer.kind} takes {scorer.operands_min} to {scorer.operands_max} operands"
        raise ScorerError("scorer_parameter_invalid", f"{path}operands", message)
    return tuple(
        read(operand, f"{path}operands[{number}].", depth - 1, room)
        for number, operand in enumerate(operands)
    )


class Panel:
    """A scorer in which models judge too: the others judge at once and what they said is kept, so
    that nothing has to be judged again when a model's reply is in.

    asked: the places of the judges, in order; params: theirs.
    """

    def __init__(self, spec: object) -> None:
        root = tree(spec)
        single = [node for node in root.walk() if not node.operands]
        judges = [node for node in single if node.scorer.kind == LLM_JUDGE_KIND]
        self.asked = tuple([node.path for node in judges])
        self.params = {node.path: node.params for node in judges}
        self._others = [(node.path, node.build()) for node in single if node not in judges]
        self._combined = root.build(is_given=True)

    def marks(self, response: Response) -> dict[str, Verdict]:
        """What the scorers say that need nobody. Raises ScorerError."""
        return {path: judge(response) for path, judge in self._others}

    def verdict(self, given: Mapping[str, Verdict]) -> Verdict:
        """Of all that was said; `given` has a verdict for every place."""
        return self._combined(Response("", given=given))

    def open(self, given: Mapping[str, Verdict]) -> tuple[str, ...]:
        """The judges that are still to be asked; none when nothing they could say would matter:
        success and score of a combination are least or greatest where its operands' are."""
        missing = [path for path in self.asked if path not in given]
        if not missing:
            return ()
        ends = (Verdict(False, 0.0, ""), Verdict(True, 1.0, ""))
        outcomes = {
            (verdict.success, verdict.score)
            for said in product(ends, repeat=len(missing))
            for verdict in [self.verdict({**given, **dict(zip(missing, said, strict=True))})]
        }
        return tuple(missing) if len(outcomes) > 1 else ()

    def complete(self, given: Mapping[str, Verdict]) -> Verdict:
        """The verdict once nobody is open; who was not asked is taken as not holding."""
        nobody = Verdict(False, 0.0, "was not asked, it could not have mattered")
        return self.verdict({**dict.fromkeys(self.asked, nobody), **given})


def judges_of(spec: object) -> list[tuple[str, Params]]:
    """Place and parameters of each model that judges. Raises ScorerError."""
    found = [node for node in tree(spec).walk() if node.scorer.kind == LLM_JUDGE_KIND]
    if len(found) > JUDGES_MAX:
        message = f"more than {JUDGES_MAX} models judge"
        raise ScorerError("scorer_parameter_invalid", "", message)
    return [(node.path, node.params) for node in found]


def tree(spec: object) -> Node:
    return read(spec, "", DEPTH_MAX, [NODES_MAX])


def check_scorer(spec: Mapping[str, Any]) -> None:
    """Raise ScorerError when the specification cannot be used.

    Reasons: scorer_unknown, scorer_parameter_invalid (also for a bad pattern, schema or
    placeholder, and for more than DEPTH_MAX levels or NODES_MAX scorers).
    """
    compile_scorer(spec)


def compile_scorer(spec: Mapping[str, Any]) -> Judge:
    """Check a specification and prepare it for many responses. Raises as `check_scorer`.

    The judge raises ScorerError (variable_missing, scorer_parameter_invalid) for a response it
    cannot judge; that is an errored execution, not a resisted one. Only the first
    RESPONSE_CHARS_MAX characters are judged.
    """
    judges_of(spec)
    judge = tree(spec).build()

    def bounded(response: Response) -> Verdict:
        if len(response.text) > RESPONSE_CHARS_MAX:
            response = replace(response, text=response.text[:RESPONSE_CHARS_MAX])
        return judge(response)

    return bounded


def variables_of(spec: Mapping[str, Any]) -> frozenset[str]:
    """The variables of the cell that the specification refers to. Raises ScorerError."""
    return frozenset(
        name for node in tree(spec).walk() for filling in node.fillings() for name in filling.names
    )


def versions_of(spec: Mapping[str, Any]) -> dict[str, int]:
    """The version of each scorer in the specification, by kind. Raises ScorerError."""
    return {node.scorer.kind: node.scorer.version for node in tree(spec).walk()}


def fingerprint(spec: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the specification in canonical JSON: versions and defaults included.

    Two specifications with the same fingerprint give every response the same verdict.
    """
    canonical = json.dumps(tree(spec).facts(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
