"""Reading promptfoo configurations: prompts, variables and tests become templates, rows and scorers,
and what has no counterpart is said. Pure.

The format is described at https://www.promptfoo.dev/docs/configuration/reference/ and
https://www.promptfoo.dev/docs/configuration/expected-outputs/ (read November 2026). Prompts are
Nunjucks there; `{{ name }}` means the same here, everything else of Nunjucks is not carried over.
An assertion says what a good answer is, a scorer what a successful attack is: the scorer of a test
holds when its assertions fail.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import re2  # type: ignore[import-untyped]  # google-re2 ships without types

from chimera.faults import Invalid
from chimera.templates import language
from chimera.templates.documents import DocumentError
from chimera.templates.plain_yaml import plain_yaml
from chimera.v1.templates_pb2 import MessageRole, PromptMessage, Variable, VariableKind

ROWS_MAX = 10_000
PROMPTS_MAX = 200
# A list of a variable repeats the others, and defaultTest its assertions: what comes out may be many
# times what went in.
ROWS_CHARS_MAX = 50_000_000
SCORERS_CHARS_MAX = 1_000_000
ASSERTIONS_MAX = 100
UNMAPPED_MAX = 1_000
_SCHEMA_DEPTH_MAX = 16
_NUNJUCKS = re.compile(r"\{%|\{#")
_ROLES = {
    "system": MessageRole.MESSAGE_ROLE_SYSTEM,
    "developer": MessageRole.MESSAGE_ROLE_SYSTEM,
    "user": MessageRole.MESSAGE_ROLE_USER,
    "assistant": MessageRole.MESSAGE_ROLE_ASSISTANT,
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
# What is read and means nothing for a library of prompts.
_KNOWN = {"description", "prompts", "tests", "defaultTest", "scenarios"}
_OF_TEST = {"description", "vars", "assert", "metadata"}

Scorer = dict[str, Any]


@dataclass(frozen=True)
class PromptPlan:
    """A prompt as a template."""

    title: str
    messages: tuple[PromptMessage, ...]
    names: frozenset[str]


@dataclass
class PromptfooPlan:
    """What a configuration becomes. `scorers` are by row number, from 1."""

    title: str
    prompts: list[PromptPlan] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    scorers: dict[int, Scorer] = field(default_factory=dict)
    # What is said of a default is said once.
    unmapped: dict[tuple[str, str, str], None] = field(default_factory=dict)
    default_scorers: list[Scorer] = field(default_factory=list)
    rows_chars: int = 0
    scorers_chars: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.rows) >= ROWS_MAX or self.rows_chars > ROWS_CHARS_MAX

    def leave_rows(self, where: str) -> None:
        said = f"more than {ROWS_MAX} rows or {ROWS_CHARS_MAX} characters of them"
        self.leave("rows", where, said)

    def leave(self, place: str, what: str, why: str) -> None:
        if len(self.unmapped) < UNMAPPED_MAX:
            self.unmapped[place, what[:200], why] = None
        else:
            self.unmapped["...", "", f"more than {UNMAPPED_MAX} things have no counterpart"] = None

    def score(self, where: str, scorer: Scorer) -> None:
        """The scorer of the newest row."""
        if self.scorers_chars <= SCORERS_CHARS_MAX:
            self.scorers_chars += len(str(scorer))
        if self.scorers_chars > SCORERS_CHARS_MAX:
            return self.leave(
                "scorers", where, f"all of them have more than {SCORERS_CHARS_MAX} characters"
            )
        self.scorers[len(self.rows)] = scorer
        return None

    def variables(self, names: Iterable[str]) -> list[Variable]:
        """Declarations for a prompt, as the rows have them."""
        return [
            Variable(
                name=name,
                kind=_kind([row[name] for row in self.rows if name in row]),
                required=bool(self.rows) and all(name in row for row in self.rows),
            )
            for name in sorted(names)
        ]


def read_promptfoo(text: str, title: str = "") -> PromptfooPlan:
    """Raises Invalid(IMPORT_UNREADABLE) for what is no configuration at all."""
    try:
        config = _with_text_names(plain_yaml(text))
    except DocumentError as error:
        raise Invalid("IMPORT_UNREADABLE", str(error)) from None
    if not isinstance(config, dict) or "prompts" not in config:
        raise Invalid("IMPORT_UNREADABLE", "A promptfoo configuration is an object with prompts.")
    described = config.get("description")
    plan = PromptfooPlan(title or (str(described)[:150] if described else "promptfoo"))
    _read_prompts(plan, config["prompts"])
    default = config.get("defaultTest") or {}
    if not isinstance(default, dict):
        plan.leave("defaultTest", str(default), "lies in another file; paste it into this one")
        default = {}
    for name in default.keys() - _OF_TEST:
        plan.leave(f"defaultTest.{name}", name, "has no counterpart")
    plan.default_scorers = _assertions(plan, "defaultTest", default)
    _read_tests(plan, config.get("tests"), default)
    _read_scenarios(plan, config.get("scenarios"), default)
    for name in config.keys() - _KNOWN:
        plan.leave(str(name), str(name), _why_not(str(name)))
    return plan


def _with_text_names(value: Any) -> Any:
    """As JSON would have it: names are texts."""
    if isinstance(value, dict):
        return {
            name if isinstance(name, str) else orjson.dumps(name, default=str).decode(): (
                _with_text_names(item)
            )
            for name, item in value.items()
        }
    return [_with_text_names(item) for item in value] if isinstance(value, list) else value


def _why_not(name: str) -> str:
    if name in ("providers", "targets"):
        return "targets are chosen in a campaign"
    if name in ("evaluateOptions", "commandLineOptions"):
        return "repetitions and limits are set in a campaign"
    return "has no counterpart"


# --- prompts -------------------------------------------------------------------------------------


def _read_prompts(plan: PromptfooPlan, prompts: Any) -> None:
    listed = prompts if isinstance(prompts, list) else [prompts]
    for place, prompt in enumerate(listed[:PROMPTS_MAX]):
        where = f"prompts[{place}]"
        label = ""
        if isinstance(prompt, dict):
            label = str(prompt.get("label") or prompt.get("id") or "")[:100]
            raw = prompt.get("raw")
            prompt = raw if raw is not None else prompt.get("id")
        if not isinstance(prompt, str) or not prompt.strip():
            plan.leave(where, type(prompt).__name__, "is not a text")
        elif prompt.startswith(("file://", "exec:")) or re.fullmatch(
            r"\S+\.(txt|json|ya?ml|js|ts|py|md|csv|j2)(:\w+)?", prompt
        ):
            plan.leave(where, prompt, "lies in another file; paste its text into this one")
        else:
            _read_prompt(plan, where, prompt, label or f"prompt {place + 1}")
    if len(listed) > PROMPTS_MAX:
        plan.leave("prompts", f"{len(listed)} prompts", f"only the first {PROMPTS_MAX} are read")


def _read_prompt(plan: PromptfooPlan, where: str, text: str, label: str) -> None:
    messages: list[PromptMessage] = []
    for role, said in _chat(text) or [("user", text)]:
        if role not in _ROLES:
            return plan.leave(where, role, "is a role that templates do not have")
        if not said or _NUNJUCKS.search(said):
            return plan.leave(
                where, label, "uses Nunjucks blocks; write them as {{#if}} or {{#each}}"
            )
        messages.append(PromptMessage(role=_ROLES[role], text=said))
    names: set[str] = set()
    for message in messages:
        try:
            nodes = language.parse(message.text)
        except language.SyntaxFault as fault:
            return plan.leave(where, label, f"is not a template here: {fault}")
        for node, _in_loop in language.walk(nodes):
            if not isinstance(node, language.Placeholder) or node.path or node.filters:
                return plan.leave(where, label, "does more than insert variables")
            names.add(node.name)
    plan.prompts.append(
        PromptPlan(f"{plan.title}: {label}"[:200], tuple(messages), frozenset(names))
    )
    return None


def _chat(text: str) -> list[tuple[str, str]]:
    """The messages of a prompt that is a chat written as JSON; empty when it is plain text."""
    if not text.lstrip().startswith("["):
        return []
    try:
        plain = orjson.loads(text)
    except orjson.JSONDecodeError:
        return []
    if not isinstance(plain, list) or not all(
        isinstance(item, dict) and isinstance(item.get("content"), str) for item in plain
    ):
        return []
    return [(str(item.get("role")), item["content"]) for item in plain]


# --- tests ---------------------------------------------------------------------------------------


def _read_tests(plan: PromptfooPlan, tests: Any, default: Mapping[str, Any]) -> None:
    if tests is None:
        return
    if not isinstance(tests, list):
        return plan.leave("tests", str(tests), "lies in another file; import that as a dataset")
    for place, test in enumerate(tests):
        where = f"tests[{place}]"
        if plan.is_full:
            return plan.leave_rows(where)
        if isinstance(test, dict):
            _read_test(plan, where, test, default)
        else:
            plan.leave(where, str(test), "lies in another file; import that as a dataset")


def _read_scenarios(plan: PromptfooPlan, scenarios: Any, default: Mapping[str, Any]) -> None:
    if scenarios is not None and not isinstance(scenarios, list):
        return plan.leave("scenarios", str(scenarios), "lies in another file")
    for place, scenario in enumerate(scenarios or []):
        where = f"scenarios[{place}]"
        configs = scenario.get("config") if isinstance(scenario, dict) else None
        tests = scenario.get("tests") if isinstance(scenario, dict) else None
        if not isinstance(configs, list) or not isinstance(tests, list):
            plan.leave(where, "scenario", "needs config and tests in this file")
            continue
        for config, (number, test) in itertools.product(configs, enumerate(tests)):
            if plan.is_full:
                return plan.leave_rows(where)
            if isinstance(config, dict) and isinstance(test, dict):
                both = {**config, **test, "vars": {**_vars(config), **_vars(test)}}
                _read_test(plan, f"{where}.tests[{number}]", both, default)
    return None


def _vars(test: Mapping[str, Any]) -> dict[str, Any]:
    found = test.get("vars")
    return found if isinstance(found, dict) else {}


def _read_test(
    plan: PromptfooPlan, where: str, test: Mapping[str, Any], default: Mapping[str, Any]
) -> None:
    for name in test.keys() - _OF_TEST:
        plan.leave(f"{where}.{name}", str(name), "has no counterpart")
    if test.get("vars") is not None and not isinstance(test["vars"], dict):
        return plan.leave(f"{where}.vars", str(test["vars"]), "lies in another file")
    values = {**_vars(default), **_vars(test)}
    for name, value in list(values.items()):
        if not isinstance(name, str) or not _NAME.match(name):
            plan.leave(f"{where}.vars", str(name), "is no name of a variable here")
            del values[name]
        elif isinstance(value, str) and value.startswith("file://"):
            plan.leave(f"{where}.vars.{name}", value, "lies in another file")
            del values[name]
    # The scorer that holds when these assertions do not; None when none could be carried over.
    mapped = [*plan.default_scorers, *_assertions(plan, where, test)]
    scorer = _negated(_together("all", mapped)) if mapped else None
    # A list of texts stands for one test for each of them; any other list is a value.
    choices = [
        [
            (item, len(str(item)))
            for item in (
                value
                if isinstance(value, list) and value and isinstance(value[0], str)
                else [value]
            )
        ]
        for value in values.values()
    ]
    for combination in itertools.product(*choices):
        if plan.is_full:
            return plan.leave_rows(where)
        plan.rows_chars += sum(len(name) for name in values) + sum(size for _, size in combination)
        plan.rows.append({name: item for name, (item, _) in zip(values, combination, strict=True)})
        if scorer is not None:
            plan.score(where, scorer)
    return None


def _assertions(plan: PromptfooPlan, where: str, source: Mapping[str, Any]) -> list[Scorer]:
    """Those of a test, or of a set of assertions, that could be carried over."""
    asserted = source.get("assert")
    if asserted is not None and not isinstance(asserted, list):
        plan.leave(f"{where}.assert", str(asserted), "is not a list of assertions")
        return []
    listed = asserted or []
    if len(listed) > ASSERTIONS_MAX:
        said = f"only the first {ASSERTIONS_MAX} are read"
        plan.leave(f"{where}.assert", f"{len(listed)} assertions", said)
    return [
        scorer
        for place, one in enumerate(listed[:ASSERTIONS_MAX])
        if (scorer := _assertion(plan, f"{where}.assert[{place}]", one)) is not None
    ]


def _together(kind: str, operands: list[Scorer]) -> Scorer:
    return operands[0] if len(operands) == 1 else {"kind": kind, "params": {}, "operands": operands}


def _negated(scorer: Scorer) -> Scorer:
    if scorer["kind"] == "not":
        inner: Scorer = scorer["operands"][0]
        return inner
    return {"kind": "not", "params": {}, "operands": [scorer]}


def _assertion(plan: PromptfooPlan, where: str, one: Any) -> Scorer | None:
    kind = str(one.get("type", "")) if isinstance(one, dict) else ""
    for name in ("threshold", "weight", "transform", "provider"):
        if isinstance(one, dict) and name in one:
            plan.leave(
                f"{where}.{name}", name, "has no counterpart; the assertion counts without it"
            )
    if kind == "assert-set":
        inside = _assertions(plan, where, one)
        return _together("all", inside) if inside else None
    scorer = _simple(kind.removeprefix("not-"), one.get("value") if kind else None)
    if scorer is None:
        plan.leave(where, kind or "assertion", "has no scorer here")
        return None
    return _negated(scorer) if kind.startswith("not-") else scorer


def _simple(kind: str, value: Any) -> Scorer | None:
    """One assertion without its not-. Values keep their {{ names }}, which scorers fill in too."""
    texts = [str(item) for item in value] if isinstance(value, list) else []
    match kind:
        case "equals" if isinstance(value, str | int | float):
            return _text("equals", str(value), True)
        case "contains" | "icontains" if isinstance(value, str | int | float):
            return _text("contains", str(value), kind == "contains")
        case "starts-with" if isinstance(value, str):
            return _text("starts_with", value, True)
        case "contains-all" | "icontains-all" if texts:
            return _together("all", [_text("contains", t, kind[0] == "c") for t in texts])
        case "contains-any" | "icontains-any" if texts:
            return _together("any", [_text("contains", t, kind[0] == "c") for t in texts])
        case "regex" if isinstance(value, str) and _is_re2(value):
            params = {"pattern": value, "case_sensitive": True}
            return {"kind": "regex", "params": params, "operands": []}
        case "is-json" if value is None or (isinstance(value, dict) and _fits(value)):
            return {"kind": "json_schema", "params": {"schema": value or {}}, "operands": []}
        case "is-refusal":
            return {"kind": "refusal", "params": {}, "operands": []}
    return None


def _text(kind: str, text: str, case_sensitive: bool) -> Scorer:
    return {
        "kind": kind,
        "params": {"text": text, "case_sensitive": case_sensitive},
        "operands": [],
    }


def _fits(value: Any, depth: int = _SCHEMA_DEPTH_MAX) -> bool:
    """Whether a message can carry it: not nested too deep, and no number that a double is not."""
    if isinstance(value, dict):
        return depth > 0 and all(_fits(item, depth - 1) for item in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_fits(item, depth - 1) for item in value)
    return not isinstance(value, int | float) or abs(value) < 2**63


def _is_re2(pattern: str) -> bool:
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error:
        return False
    return len(pattern) <= 1000


def _kind(values: Sequence[Any]) -> VariableKind:
    kinds = {
        str: VariableKind.VARIABLE_KIND_STRING,
        bool: VariableKind.VARIABLE_KIND_BOOLEAN,
        int: VariableKind.VARIABLE_KIND_INTEGER,
        float: VariableKind.VARIABLE_KIND_NUMBER,
    }
    types = {type(value) for value in values} or {str}
    if types == {int, float}:
        return VariableKind.VARIABLE_KIND_NUMBER
    return (
        kinds.get(types.pop(), VariableKind.VARIABLE_KIND_JSON)
        if len(types) == 1
        else (VariableKind.VARIABLE_KIND_JSON)
    )
