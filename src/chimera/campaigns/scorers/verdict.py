"""What a scorer sees and says: response, verdict, evidence.

What must stay true: a verdict quotes nothing. Evidence is positions in the response, so a canary or
a credential is not copied into the places where verdicts are stored and shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from chimera.campaigns.parameters import Parameter, ParameterError, Params
from chimera.templates.rendering import Placeholder, SyntaxFault, parse

# Longer responses are scored by their beginning; the engine caps what it stores far below.
RESPONSE_CHARS_MAX = 200_000


class ScorerError(ParameterError):
    """Why a scorer cannot be used, or cannot judge this response.

    `reason` is scorer_unknown or scorer_parameter_invalid for a bad specification; when judging,
    variable_missing (a `{{name}}` the cell has no non-empty value for) or scorer_parameter_invalid
    (the value makes a parameter unusable). A response that could not be judged is an error, never
    a failed or a successful attack.
    """


@dataclass(frozen=True, slots=True)
class Response:
    """One answer of a target.

    `prompt` is what was sent, `original_prompt` what it was before techniques. `variables` are the
    cell's values as text. `finish_reason` is the provider's word for why the answer ended. `given`:
    verdicts of single scorers that are known already, by their place in the specification.
    """

    text: str
    prompt: str = ""
    original_prompt: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    finish_reason: str = ""
    given: Mapping[str, Verdict] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the response text: offsets in characters, and what was found there."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement.

    `success`: the condition the scorer names holds. `score`: how far, in [0, 1]. `reason`: one
    sentence. `evidence`: spans of the response, or the verdicts of the operands in their order.
    """

    success: bool
    score: float
    reason: str
    evidence: tuple[Span | Verdict, ...] = ()


Judge = Callable[[Response], Verdict]


def found(reason: str, *spans: Span) -> Verdict:
    return Verdict(True, 1.0, reason, spans)


def absent(reason: str) -> Verdict:
    return Verdict(False, 0.0, reason)


@dataclass(frozen=True)
class Scorer:
    """One kind of scorer.

    `version` is raised whenever a verdict for the same input may change. `prepare` turns complete
    parameters and the operands' judges into a judge; it raises ScorerError for parameters that no
    declaration can describe (a bad pattern). `fillable` names the string parameters in which
    `{{name}}` stands for a variable of the cell.
    """

    kind: str
    title: str
    description: str
    prepare: Callable[[Params, tuple[Judge, ...]], Judge] = field(repr=False)
    parameters: tuple[Parameter, ...] = ()
    fillable: tuple[str, ...] = ()
    operands_min: int = 0
    operands_max: int = 0
    version: int = 1
    source: str = ""


@dataclass(frozen=True)
class Filling:
    """A string parameter that may contain `{{name}}`; the template escape `{{{{` holds here too."""

    parameter: str
    text: str

    @cached_property
    def parts(self) -> tuple[str | Placeholder, ...]:
        """Raises ScorerError(scorer_parameter_invalid) for a malformed placeholder."""
        try:
            return tuple(parse(self.text))
        except SyntaxFault as fault:
            raise ScorerError("scorer_parameter_invalid", self.parameter, str(fault)) from None

    @property
    def names(self) -> frozenset[str]:
        return frozenset(part.name for part in self.parts if isinstance(part, Placeholder))

    @property
    def constant(self) -> bool:
        return not self.names

    def fill(
        self, variables: Mapping[str, str], quote: Callable[[str], str] = lambda value: value
    ) -> str:
        """The text with `quote`d values. Raises ScorerError(variable_missing).

        An empty value is missing too: every response contains the empty text, and a forgotten
        secret must not look like a leaked one.
        """
        filled: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                filled.append(part)
                continue
            value = variables.get(part.name)
            if not value:
                raise ScorerError("variable_missing", part.name, "the cell has no value for this")
            filled.append(quote(value))
        return "".join(filled)
