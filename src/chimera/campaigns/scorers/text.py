"""Scorers that compare the text of the response with given text.

Patterns run on RE2, whose time is linear in the response whatever the pattern is; Python's own
engine can backtrack for ever and cannot be interrupted. Source of the bound: Cox, Regular
Expression Matching in the Wild, 2010, https://swtch.com/~rsc/regexp/regexp3.html
"""

from collections.abc import Callable
from functools import lru_cache

import re2  # type: ignore[import-untyped]  # google-re2 ships without types

from chimera.campaigns.parameters import Parameter, Params
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

PATTERN_CHARS_MAX = 1_000
# Instructions of the compiled pattern. Time is at most proportional to this times the response.
PATTERN_PROGRAM_MAX = 2_000
COMPARED_CHARS_MAX = 5_000

Compare = Callable[[str, str], Verdict]


def fold(text: str) -> str:
    return text.casefold()


def folded_span(text: str, start: int, end: int, label: str) -> Span:
    """Where [start, end) of the case-folded text lies in `text`: folding may change lengths."""
    if len(fold(text)) == len(text):
        return Span(start, end, label)
    offset, first, last = 0, 0, len(text)
    for place, char in enumerate(text):
        if offset <= start:
            first = place
        if offset >= end:
            last = place
            break
        offset += len(fold(char))
    return Span(first, last, label)


def comparing(compare: Callable[[Params], Compare]) -> Callable[[Params, tuple[Judge, ...]], Judge]:
    """A judge that compares the response with the parameter `text`, filled and folded once if it
    is constant."""

    def prepare(params: Params, operands: tuple[Judge, ...]) -> Judge:
        decide = compare(params)
        filling = Filling("text", params["text"])
        fixed = filling.fill({}) if filling.constant else None

        def judge(response: Response) -> Verdict:
            wanted = filling.fill(response.variables) if fixed is None else fixed
            return decide(response.text, wanted)

        return judge

    return prepare


def compare_contains(params: Params) -> Compare:
    def exact(text: str, wanted: str) -> Verdict:
        start = text.find(wanted)
        if start < 0:
            return absent("the text does not occur")
        return found("the text occurs", Span(start, start + len(wanted), "text"))

    def folded(text: str, wanted: str) -> Verdict:
        needle = fold(wanted)
        start = fold(text).find(needle)
        if start < 0:
            return absent("the text does not occur")
        return found("the text occurs", folded_span(text, start, start + len(needle), "text"))

    return exact if params["case_sensitive"] else folded


def compare_starts_with(params: Params) -> Compare:
    def compare(text: str, wanted: str) -> Verdict:
        offset = len(text) - len(text.lstrip())
        if params["case_sensitive"]:
            matches, length = text.startswith(wanted, offset), len(wanted)
        else:
            needle = fold(wanted)
            matches, length = fold(text[offset:]).startswith(needle), len(needle)
        if not matches:
            return absent("the response begins otherwise")
        end = min(offset + length, len(text))
        return found("the response begins with the text", Span(offset, end, "text"))

    return compare


def compare_equals(params: Params) -> Compare:
    def compare(text: str, wanted: str) -> Verdict:
        given, wanted = text.strip(), wanted.strip()
        same = given == wanted if params["case_sensitive"] else fold(given) == fold(wanted)
        if not same:
            return absent("the response is another text")
        return found("the response equals the text", Span(0, len(text), "text"))

    return compare


def compare_similarity(params: Params) -> Compare:
    def compare(text: str, wanted: str) -> Verdict:
        value = similarity(text.strip(), wanted.strip())
        if value >= params["threshold"]:
            return Verdict(True, value, f"similarity {value:.3f} reaches the threshold")
        return Verdict(False, value, f"similarity {value:.3f} is below the threshold")

    return compare


def similarity(left: str, right: str) -> float:
    """1 - Levenshtein distance / length of the longer text; 1.0 for two empty texts.

    What lies beyond COMPARED_CHARS_MAX characters counts as different, so the value of very long
    texts is a lower bound.
    """
    longest = max(len(left), len(right))
    if longest == 0:
        return 1.0
    head, other = left[:COMPARED_CHARS_MAX], right[:COMPARED_CHARS_MAX]
    beyond = max(len(left) - len(head), len(right) - len(other))
    return max(0.0, 1 - (distance(head, other) + beyond) / longest)


def distance(left: str, right: str) -> int:
    """Levenshtein distance, a column of the table at a time in the bits of two integers.

    Source: Hyyrö, A Bit-Vector Algorithm for Computing Levenshtein and Damerau Edit Distances,
    2003. O(len(right) * len(left) / 64).
    """
    if not left or not right:
        return len(left) + len(right)
    places: dict[str, int] = {}
    for place, char in enumerate(left):
        places[char] = places.get(char, 0) | 1 << place
    mask, last = (1 << len(left)) - 1, 1 << (len(left) - 1)
    rises, falls, steps = mask, 0, len(left)
    for char in right:
        equal = places.get(char, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        across_up = falls | (~(diagonal | rises) & mask)
        across_down = rises & diagonal
        steps += bool(across_up & last) - bool(across_down & last)
        across_up = (across_up << 1 | 1) & mask
        across_down = (across_down << 1) & mask
        rises = across_down | (~(diagonal | across_up) & mask)
        falls = across_up & diagonal
    return steps


@lru_cache(maxsize=512)
def compile_pattern(pattern: str, case_sensitive: bool) -> re2._Regexp:
    """A pattern with bounded cost. Raises ScorerError(scorer_parameter_invalid)."""
    options = re2.Options()
    options.case_sensitive = case_sensitive
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error:
        message = "is not a pattern RE2 accepts (no back-references, no look-around)"
        raise ScorerError("scorer_parameter_invalid", "pattern", message) from None
    if compiled.programsize > PATTERN_PROGRAM_MAX:
        message = f"compiles to more than {PATTERN_PROGRAM_MAX} instructions"
        raise ScorerError("scorer_parameter_invalid", "pattern", message)
    return compiled


def well_formed(text: str) -> str:
    """The text with lone surrogates, which RE2 cannot read, replaced one for one."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def prepare_regex(params: Params, operands: tuple[Judge, ...]) -> Judge:
    filling, case_sensitive = Filling("pattern", params["pattern"]), params["case_sensitive"]
    # With variables the pattern is compiled with letters in their place, to see that it is valid.
    trial = filling.fill(dict.fromkeys(filling.names, "x"), re2.escape)
    fixed = compile_pattern(trial, case_sensitive)

    def judge(response: Response) -> Verdict:
        pattern = fixed
        if not filling.constant:
            filled = filling.fill(response.variables, re2.escape)
            pattern = compile_pattern(filled, case_sensitive)
        match = pattern.search(well_formed(response.text))
        if match is None:
            return absent("the pattern does not match")
        return found("the pattern matches", Span(match.start(), match.end(), "pattern"))

    return judge


def prepare_length(params: Params, operands: tuple[Judge, ...]) -> Judge:
    low, high = params["minimum"], params["maximum"]
    if low > high:
        raise ScorerError("scorer_parameter_invalid", "minimum", "is above the maximum")

    def judge(response: Response) -> Verdict:
        length = len(response.text)
        if low <= length <= high:
            return found(f"{length} characters lie within the bounds")
        return absent(f"{length} characters lie outside the bounds")

    return judge


def text_parameter(maximum: int = 10_000) -> Parameter:
    return Parameter(
        "text", "string", None, 1, maximum, description="The text; may contain {{name}}."
    )


def case_parameter(default: bool) -> Parameter:
    return Parameter(
        "case_sensitive", "boolean", default, description="Whether A and a are different."
    )


TEXT_SCORERS = (
    Scorer(
        kind="contains",
        title="Contains",
        description="The response contains the text, anywhere.",
        source="Sought strings as in Zou et al.: Universal and Transferable Adversarial "
        "Attacks, 2023, arXiv:2307.15043",
        prepare=comparing(compare_contains),
        parameters=(text_parameter(), case_parameter(False)),
        fillable=("text",),
    ),
    Scorer(
        kind="starts_with",
        title="Starts with",
        description="The response begins with the text; white space before it does not matter.",
        source="Target prefixes as in Zou et al.: Universal and Transferable Adversarial "
        "Attacks, 2023, arXiv:2307.15043",
        prepare=comparing(compare_starts_with),
        parameters=(text_parameter(), case_parameter(False)),
        fillable=("text",),
    ),
    Scorer(
        kind="equals",
        title="Equals",
        description="The response is the text; white space around it does not matter.",
        source="Exact match as in Rajpurkar et al.: SQuAD, 2016, arXiv:1606.05250",
        prepare=comparing(compare_equals),
        parameters=(text_parameter(), case_parameter(False)),
        fillable=("text",),
    ),
    Scorer(
        kind="levenshtein_similarity",
        title="Similarity",
        description="The response is like the text: 1 - edit distance / length of the longer one "
        "reaches the threshold. Beyond 5,000 characters everything counts as different.",
        prepare=comparing(compare_similarity),
        parameters=(
            text_parameter(COMPARED_CHARS_MAX),
            Parameter("threshold", "number", 0.8, 0, 1, description="Least similarity."),
        ),
        fillable=("text",),
        source="Levenshtein, 1966; Hyyrö, 2003",
    ),
    Scorer(
        kind="regex",
        title="Pattern",
        description="An RE2 pattern matches somewhere in the response. Values put in for {{name}} "
        "are taken literally.",
        prepare=prepare_regex,
        parameters=(
            Parameter(
                "pattern",
                "string",
                None,
                1,
                PATTERN_CHARS_MAX,
                description="RE2 syntax; may contain {{name}}.",
            ),
            case_parameter(True),
        ),
        fillable=("pattern",),
        source="https://github.com/google/re2/wiki/Syntax",
    ),
    Scorer(
        kind="length",
        title="Length",
        description="The number of characters of the response lies within bounds.",
        source="Checkable constraints as in Zhou et al.: IFEval, 2023, arXiv:2311.07911",
        prepare=prepare_length,
        parameters=(
            Parameter("minimum", "integer", 0, 0, 10_000_000, description="Fewest characters."),
            Parameter(
                "maximum", "integer", 10_000_000, 0, 10_000_000, description="Most characters."
            ),
        ),
    ),
)
