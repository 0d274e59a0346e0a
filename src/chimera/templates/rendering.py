"""Rendering: templates (language.py) filled with typed values (values.py).

What must stay true: a value is inserted and never read again, so a value that contains `{{x}}`
stays literal; no Python object is reached, only plain JSON by key and number; work and output are
bounded; no error repeats a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chimera.templates.filters import FILTERS, text_of
from chimera.templates.language import (
    NAME,
    Condition,
    Loop,
    Node,
    PartialTag,
    Placeholder,
    SyntaxFault,
    escape,
    walk,
)
from chimera.templates.language import parse as parse_tree
from chimera.templates.values import (
    KINDS,
    RenderError,
    Variable,
    refuse_pattern,
    refuse_schema,
)

__all__ = [
    "OUTPUT_CHARS_MAX",
    "Placeholder",
    "Problem",
    "RenderError",
    "SyntaxFault",
    "Template",
    "Variable",
    "check_template",
    "compile_template",
    "escape",
    "parse",
    "positions_of",
]

OUTPUT_CHARS_MAX = 200_000
# Nodes rendered, and a step more for every so many characters of the value that one looks into.
STEPS_MAX = 200_000
CHARS_PER_STEP = 50


@dataclass(frozen=True)
class Problem:
    """What is wrong with a template.

    `reason` is template_syntax, variable_undeclared, variable_unused, partial_invalid or
    variable_invalid (a bad declaration); `message_index` and `position` (characters) say where, -1
    when it is nowhere.
    """

    reason: str
    variable: str
    message: str
    message_index: int = -1
    position: int = -1


def parse(text: str) -> list[str | Placeholder]:
    """Literals and bare placeholders, where nothing else is allowed. Raises SyntaxFault."""
    plain: list[str | Placeholder] = []
    for node in parse_tree(text):
        if isinstance(node, str) or _is_bare(node):
            assert isinstance(node, str | Placeholder)
            plain.append(node)
        else:
            raise SyntaxFault(max(0, text.find("{{")), "only {{ name }} may stand here")
    return plain


def _is_bare(node: Node) -> bool:
    return isinstance(node, Placeholder) and not (
        node.path or node.filters or node.name.startswith("@")
    )


def positions_of(text: str) -> dict[str, int]:
    """Where each name a text uses stands first. Raises SyntaxFault."""
    found: dict[str, int] = {}
    for node, _in_loop in walk(parse_tree(text)):
        if isinstance(node, Placeholder):
            found.setdefault(node.name, node.position)
    return found


def check_template(
    text_or_messages: str | Sequence[tuple[str, str]],
    variables: Sequence[Variable],
    partials: Mapping[str, frozenset[str]] | None = None,
) -> list[Problem]:
    """Everything wrong with a template: messages in order, then the declarations.

    `partials` are the texts it may include, with the names of the variables each uses. A list with
    nothing but variable_unused still compiles once the partials are expanded.
    """
    messages = (
        [("user", text_or_messages)] if isinstance(text_or_messages, str) else (text_or_messages)
    )
    included = partials or {}
    declared = {variable.name: variable for variable in variables}
    used: set[str] = set()
    problems: list[Problem] = []
    for index, (_, text) in enumerate(messages):
        try:
            nodes = parse_tree(text)
        except SyntaxFault as fault:
            problems.append(Problem("template_syntax", "", str(fault), index, fault.position))
            continue
        for node, in_loop in walk(nodes):
            assert isinstance(node, Placeholder | PartialTag)
            if isinstance(node, PartialTag):
                used |= included.get(node.name, frozenset())
                complaint = ("partial_invalid", "is included and not declared as a partial")
                wrong = None if node.name in included else complaint
            else:
                used.add(node.name)
                wrong = _complaint(node, in_loop, declared)
            if wrong:
                problems.append(Problem(wrong[0], node.name, wrong[1], index, node.position))
    problems += declaration_problems(variables)
    problems += [
        Problem("variable_unused", variable.name, "is declared and never used")
        for variable in variables
        if variable.name not in used
    ]
    return problems


def _complaint(
    node: Placeholder, in_loop: bool, declared: Mapping[str, Variable]
) -> tuple[str, str] | None:
    if node.name.startswith("@") or (in_loop and node.name == "this"):
        return None
    variable = declared.get(node.name)
    if variable is None:
        return "variable_undeclared", "is used and not declared"
    if node.path and variable.kind not in ("json", "list"):
        return "template_syntax", f"has no parts: it is of kind {variable.kind}"
    return None


def declaration_problems(variables: Sequence[Variable]) -> list[Problem]:
    """Names given twice, kinds that do not exist, bounds, choices and defaults that cannot hold."""
    problems: list[Problem] = []
    seen: set[str] = set()
    for variable in variables:
        complaint = declaration_complaint(variable)
        if variable.name in seen:
            complaint = "is declared twice"
        seen.add(variable.name)
        if complaint:
            problems.append(Problem("variable_invalid", variable.name, complaint))
    return problems


def declaration_complaint(variable: Variable) -> str:
    if not NAME.fullmatch(variable.name):
        return "must be a letter or underscore and up to 63 letters, digits or underscores"
    if variable.kind not in KINDS:
        return f"must be of kind {', '.join(KINDS)}"
    if variable.kind == "enum" and not variable.choices:
        return "needs choices"
    if variable.pattern and (why := refuse_pattern(variable)):
        return why
    if variable.json_schema and (why := refuse_schema(variable)):
        return why
    low, high = variable.minimum, variable.maximum
    if low is not None and high is not None and low > high:
        return "has a minimum above its maximum"
    if variable.default is not None:
        try:
            variable.write(variable.default)
        except RenderError as error:
            return f"has a default that {error.message}"
    return ""


class Template:
    """A compiled template. Immutable; safe to share between threads."""

    __slots__ = ("_defaults", "_is_plain", "_messages", "_names", "_output_chars_max", "_variables")

    def __init__(
        self,
        messages: Sequence[tuple[str, Sequence[Node]]],
        variables: Sequence[Variable],
        output_chars_max: int,
    ) -> None:
        self._variables = {variable.name: variable for variable in variables}
        self._output_chars_max = output_chars_max
        self._messages = tuple((role, tuple(nodes)) for role, nodes in messages)
        self._is_plain = all(
            isinstance(node, str) or _is_bare(node) for _, nodes in self._messages for node in nodes
        )
        self._names = frozenset(
            node.name
            for _, nodes in self._messages
            for node, _in_loop in walk(nodes)
            if isinstance(node, Placeholder) and node.name in self._variables
        )
        self._defaults = {
            variable.name: "" if variable.default is None else variable.write(variable.default)
            for variable in variables
            if variable.default is not None or not variable.required
        }

    @property
    def names(self) -> frozenset[str]:
        """The variables the template uses."""
        return self._names

    @property
    def secrets(self) -> frozenset[str]:
        """The variables whose values must not be shown."""
        return frozenset(name for name, variable in self._variables.items() if variable.secret)

    def texts(self, values: Mapping[str, object]) -> dict[str, str]:
        """Every declared variable as the text it is written as. Raises RenderError.

        This is what scorers receive as the variables of a cell. A value of None counts as missing.
        """
        texts = dict(self._defaults)
        for name, value in values.items():
            variable = self._variables.get(name)
            if variable is None:
                raise RenderError("variable_unknown", str(name)[:64], "is not declared")
            if value is not None:
                texts[name] = variable.write(value)
        if len(texts) < len(self._variables):
            missing = next(name for name in self._variables if name not in texts)
            raise RenderError("variable_missing", missing, "is required")
        return texts

    def render(self, values: Mapping[str, object]) -> list[tuple[str, str]]:
        """The messages filled in.

        Raises RenderError: variable_missing, variable_unknown, variable_ill_typed,
        variable_out_of_range, output_too_large (all messages together), render_too_long.
        """
        return self.fill(self.texts(values), values)

    def fill(self, texts: Mapping[str, str], values: Mapping[str, object]) -> list[tuple[str, str]]:
        """The messages filled with what `texts` gave for `values`. Raises RenderError."""
        if self._is_plain:
            return self._fill_plain(texts)
        run = _Run(self._variables, texts, values, self._output_chars_max)
        return [(role, run.message(nodes)) for role, nodes in self._messages]

    def _fill_plain(self, texts: Mapping[str, str]) -> list[tuple[str, str]]:
        filled = [
            (role, [node if isinstance(node, str) else texts[_name(node)] for node in nodes])
            for role, nodes in self._messages
        ]
        # Measured before joining, so that an enormous output is never built.
        if sum([len(part) for _, parts in filled for part in parts]) > self._output_chars_max:
            raise _too_large(self._output_chars_max)
        return [(role, "".join(parts)) for role, parts in filled]


def _name(node: Node) -> str:
    assert isinstance(node, Placeholder)
    return node.name


def _too_large(output_chars_max: int) -> RenderError:
    return RenderError("output_too_large", "", f"more than {output_chars_max} characters")


@dataclass(frozen=True, slots=True)
class _Item:
    """What a loop is at: the item, its place, how many there are, and how large the whole is."""

    value: Any
    index: int
    count: int
    size: int


class _Run:
    """One rendering, and what is left of its bounds."""

    def __init__(
        self,
        variables: Mapping[str, Variable],
        texts: Mapping[str, str],
        values: Mapping[str, object],
        chars_left: int,
    ) -> None:
        self.variables, self.texts, self.values = variables, texts, values
        self.chars_max = self.chars_left = chars_left
        self.steps_left = STEPS_MAX
        self.plain: dict[str, Any] = {}
        self.items: list[_Item] = []
        self.written: list[str] = []

    def message(self, nodes: Sequence[Node]) -> str:
        self.written = []
        self._all(nodes)
        return "".join(self.written)

    def _all(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            self._spend(1)
            match node:
                case str():
                    self._write(node)
                case Placeholder():
                    self._write(self._text(node))
                case Condition():
                    self._all(node.then if self._holds(node) else node.otherwise)
                case Loop():
                    self._loop(node)
                case PartialTag():
                    raise RenderError("partial_invalid", node.name, "is not there")

    def _spend(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise RenderError("render_too_long", "", f"takes more than {STEPS_MAX} steps")

    def _write(self, text: str) -> None:
        self.chars_left -= len(text)
        if self.chars_left < 0:
            raise _too_large(self.chars_max)
        self.written.append(text)

    def _text(self, node: Placeholder) -> str:
        if _is_bare(node) and not (self.items and node.name == "this"):
            return self.texts[node.name]
        value, size = self._value(node)
        self._spend((1 + len(node.filters)) * (size // CHARS_PER_STEP))
        for name, argument in node.filters:
            value = FILTERS[name].apply(value, argument)
            if isinstance(value, str) and len(value) > self.chars_max:
                raise _too_large(self.chars_max)
        return text_of(value)

    def _value(self, node: Placeholder, *, lenient: bool = False) -> tuple[Any, int]:
        """The plain value of a path, and the size in characters of what it was found in."""
        value, size = self._root(node.name)
        for step in node.path:
            if isinstance(value, dict) and step in value:
                value = value[step]
            elif (
                isinstance(value, list)
                and step.isascii()
                and step.isdigit()
                and int(step) < len(value)
            ):
                value = value[int(step)]
            elif lenient:
                return None, size
            else:
                raise RenderError("variable_missing", node.name, f"has no part {step!r}")
        return value, size

    def _root(self, name: str) -> tuple[Any, int]:
        if self.items and (name == "this" or name.startswith("@")):
            item = self.items[-1]
            loops = {
                "this": item.value,
                "@index": item.index,
                "@number": item.index + 1,
                "@first": item.index == 0,
                "@last": item.index + 1 == item.count,
            }
            return loops[name], item.size if name == "this" else 0
        if name not in self.plain:
            variable, value = self.variables[name], self.values.get(name)
            value = variable.default if value is None else value
            self.plain[name] = None if value is None else variable.plain(value)
        return self.plain[name], len(self.texts[name])

    def _holds(self, node: Condition) -> bool:
        value, _size = self._value(node.subject, lenient=True)
        if node.operator:
            # True is 1 in Python, and is not here.
            same = type(value) is type(node.literal) and value == node.literal
            if not isinstance(value, bool) and not isinstance(node.literal, bool | str):
                same = same or value == node.literal
            holds = same if node.operator == "==" else not same
        else:
            holds = bool(value)
        return holds is not node.negated

    def _loop(self, node: Loop) -> None:
        value, size = self._value(node.subject)
        if value is None:
            value = []
        if not isinstance(value, list):
            raise RenderError(
                "variable_ill_typed", node.subject.name, "must be a list to loop over"
            )
        if not value:
            return self._all(node.otherwise)
        for index, item in enumerate(value):
            self._spend(1)
            self.items.append(_Item(item, index, len(value), size))
            self._all(node.body)
            self.items.pop()
        return None


def compile_template(
    messages: Sequence[tuple[str, str]],
    variables: Sequence[Variable],
    output_chars_max: int = OUTPUT_CHARS_MAX,
) -> Template:
    """Prepare a template, its partials expanded, for many renderings.

    `messages` are (role, text) pairs; roles are passed through. Raises RenderError for the first
    problem `check_template` finds, unused variables apart: template_syntax, variable_undeclared,
    partial_invalid, or variable_ill_typed for a bad declaration.
    """
    for problem in check_template(messages, variables):
        if problem.reason == "variable_invalid":
            raise RenderError("variable_ill_typed", problem.variable, problem.message)
        if problem.reason != "variable_unused":
            where = f" (message {problem.message_index})" if problem.message_index >= 0 else ""
            raise RenderError(problem.reason, problem.variable, problem.message + where)
    parsed = [(role, parse_tree(text)) for role, text in messages]
    return Template(parsed, variables, output_chars_max)
