"""Scorers that read a short answer out of the response: a number, a choice, why it ended."""

import math
from decimal import Decimal, InvalidOperation

import re2  # type: ignore[import-untyped]  # google-re2 ships without types

from chimera.campaigns.parameters import Parameter, Params
from chimera.campaigns.scorers.text import fold, folded_span, well_formed
from chimera.campaigns.scorers.verdict import (
    Filling,
    Judge,
    Response,
    Scorer,
    ScorerError,
    Span,
    Verdict,
    absent,
    found,
)

NUMBER = re2.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|-?[0-9]+(?:\.[0-9]+)?")
# The letter alone, or announced; from the end, because reasoning comes before the answer.
CHOICES = (
    re2.compile(r"(?i)\banswer\b[^\n]{0,30}?[:=]?\s*\**\(?([A-J])\)?\b"),
    re2.compile(r"(?m)^\W*\(?([A-J])\)?[.):]?\W*$"),
)


def number_of(text: str, field: str) -> Decimal:
    try:
        value = Decimal(text.strip().replace(",", ""))
    except InvalidOperation:
        raise ScorerError("scorer_parameter_invalid", field, "is not a number") from None
    if not value.is_finite():
        raise ScorerError("scorer_parameter_invalid", field, "is not a number")
    return value


def prepare_number(params: Params, operands: tuple[Judge, ...]) -> Judge:
    filling = Filling("value", params["value"])
    if filling.constant:
        number_of(filling.fill({}), "value")
    tolerance = Decimal(str(params["tolerance"]))

    def judge(response: Response) -> Verdict:
        wanted = number_of(filling.fill(response.variables), "value")
        matches = list(NUMBER.finditer(well_formed(response.text)))
        if not matches:
            return absent("the response has no number")
        match = matches[0 if params["which"] == "first" else -1]
        given = Decimal(match.group().replace(",", ""))
        if abs(given - wanted) <= tolerance:
            return found("the number is right", Span(match.start(), match.end(), "number"))
        return absent("the number is another")

    return judge


def prepare_choice(params: Params, operands: tuple[Judge, ...]) -> Judge:
    filling = Filling("letter", params["letter"])

    def judge(response: Response) -> Verdict:
        wanted = filling.fill(response.variables).strip().upper()
        if len(wanted) != 1 or not "A" <= wanted <= "J":
            raise ScorerError("scorer_parameter_invalid", "letter", "must be a letter A to J")
        text = well_formed(response.text)
        for pattern in CHOICES:
            matches = list(pattern.finditer(text))
            if matches:
                last = matches[-1]
                if last.group(1).upper() == wanted:
                    return found("the choice is right", Span(last.start(1), last.end(1), "choice"))
                return absent("the choice is another")
        return absent("the response names no choice")

    if filling.constant:
        judge(Response(""))
    return judge


def prepare_contains_any(params: Params, operands: tuple[Judge, ...]) -> Judge:
    texts = [fold(line.strip()) for line in params["texts"].splitlines() if line.strip()]
    if params["least"] > len(texts):
        raise ScorerError("scorer_parameter_invalid", "least", "is more than there are texts")

    def judge(response: Response) -> Verdict:
        folded = fold(response.text)
        spans: list[Span] = []
        for text in texts:
            start = folded.find(text)
            if start >= 0:
                spans.append(folded_span(response.text, start, start + len(text), "text"))
        score = min(1.0, len(spans) / params["least"])
        if len(spans) >= params["least"]:
            reason = f"{len(spans)} of {len(texts)} texts occur"
            spans.sort(key=lambda span: span.start)
            return Verdict(True, score, reason, tuple(spans))
        return Verdict(False, score, f"{len(spans)} of {len(texts)} texts occur")

    return judge


def prepare_finish(params: Params, operands: tuple[Judge, ...]) -> Judge:
    wanted = params["reasons"]

    def judge(response: Response) -> Verdict:
        reason = response.finish_reason.casefold()
        return found("it ended so") if reason in wanted else absent("it ended otherwise")

    return judge


def prepare_words(params: Params, operands: tuple[Judge, ...]) -> Judge:
    low, high = params["minimum"], params["maximum"]
    if low > high:
        raise ScorerError("scorer_parameter_invalid", "minimum", "is above the maximum")

    def judge(response: Response) -> Verdict:
        count = len(response.text.split())
        if low <= count <= high:
            return found(f"{count} words lie within the bounds")
        return absent(f"{count} words lie outside the bounds")

    return judge


# What OpenAI, Anthropic and Hugging Face say, as the adapters pass it on.
FINISHES = (
    "stop",
    "length",
    "content_filter",
    "tool_calls",
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "refusal",
    "eos_token",
)

ANSWER_SCORERS = (
    Scorer(
        kind="contains_any",
        title="Contains several",
        description="The response contains at least so many of the texts, anywhere; upper and "
        "lower case are the same.",
        source="Lists of sought strings as in Zou et al., 2023, arXiv:2307.15043",
        prepare=prepare_contains_any,
        parameters=(
            Parameter("texts", "string", None, 1, 50_000, description="One text on each line."),
            Parameter("least", "integer", 1, 1, 1000, description="How many must occur."),
        ),
    ),
    Scorer(
        kind="number",
        title="Number",
        description="The first or last number of the response is the value, give or take the "
        "tolerance. Thousands may be separated by commas.",
        prepare=prepare_number,
        parameters=(
            Parameter(
                "value", "string", None, 1, 200, description="The number; may contain {{name}}."
            ),
            Parameter(
                "which",
                "choice",
                "last",
                choices=("first", "last"),
                description="Which number of the response is the answer.",
            ),
            Parameter("tolerance", "number", 0, 0, math.floor(1e9), description="Least accuracy."),
        ),
        fillable=("value",),
        source="Cobbe et al.: Training Verifiers, 2021, arXiv:2110.14168 (the final number counts)",
    ),
    Scorer(
        kind="choice_letter",
        title="Multiple choice",
        description="The response chooses the letter: announced by the word answer, or alone on a "
        "line; the last one counts.",
        prepare=prepare_choice,
        parameters=(
            Parameter(
                "letter", "string", None, 1, 200, description="A to J; may contain {{name}}."
            ),
        ),
        fillable=("letter",),
        source="Hendrycks et al.: MMLU, 2020, arXiv:2009.03300",
    ),
    Scorer(
        kind="finish_reason",
        title="End of the answer",
        description="The provider says that the answer ended for one of the reasons: a filter of "
        "the provider's is told apart from an answer of the model.",
        source="https://platform.openai.com/docs/api-reference/chat/object; the reasons of "
        "other providers are mapped by their adapters",
        prepare=prepare_finish,
        parameters=(
            Parameter(
                "reasons",
                "strings",
                ("content_filter", "refusal"),
                1,
                len(FINISHES),
                FINISHES,
                "The provider's words for it.",
            ),
        ),
    ),
    Scorer(
        kind="word_count",
        title="Words",
        description="The number of words of the response lies within bounds; white space separates "
        "words.",
        source="Checkable constraints as in Zhou et al.: IFEval, 2023, arXiv:2311.07911",
        prepare=prepare_words,
        parameters=(
            Parameter("minimum", "integer", 0, 0, 1_000_000, description="Fewest words."),
            Parameter("maximum", "integer", 1_000_000, 0, 1_000_000, description="Most words."),
        ),
    ),
)
