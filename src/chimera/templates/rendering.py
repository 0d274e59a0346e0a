"""Rendering: `{{ name }}` placeholders filled with typed values, and nothing else.

Syntax. `{{ name }}` (spaces and tabs inside are free) stands for a variable; a name is an ASCII
letter or underscore and up to 63 more letters, digits or underscores. `{{{{` stands for a literal
`{{`; a single `{` and every `}` stand for themselves, so `{"a":{{x}}}` means what it seems to mean.
Any other `{{` is a syntax error. There is no logic, no attribute access, no filter.

What must stay true: a value is inserted and never read again, so a value that contains `{{x}}`
stays literal; time is linear in the output; the output is bounded; no error repeats a value.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chimera.templates.values import KINDS, RenderError, Variable

__all__ = [
    "OUTPUT_CHARS_MAX",
    "Placeholder",
    "Problem",
    "RenderError",
    "Template",
    "Variable",
    "check_template",
    "compile_template",
    "escape",
    "parse",
]

OUTPUT_CHARS_MAX = 200_000
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
PLACEHOLDER = re.compile(r"\{\{[ \t]*([A-Za-z_][A-Za-z0-9_]{0,63})[ \t]*\}\}")


@dataclass(frozen=True)
class Placeholder:
    """A place to fill: the variable's name, and where it stands (offset in characters)."""

    name: str
    position: int


@dataclass(frozen=True)
class Problem:
    """What is wrong with a template.

    `reason` is template_syntax, variable_undeclared, variable_unused or variable_invalid (a bad
    declaration); `message_index` and `position` (characters) say where, -1 when it is nowhere.
    """

    reason: str
    variable: str
    message: str
    message_index: int = -1
    position: int = -1


class SyntaxFault(ValueError):
    """A `{{` that is neither a placeholder nor an escape, at `position` (characters)."""

    def __init__(self, position: int) -> None:
        super().__init__(
            f"'{{{{' at character {position} does not begin a placeholder {{{{ name }}}}"
        )
        self.position = position


def parse(text: str) -> list[str | Placeholder]:
    """Split a text into literals and placeholders. Raises SyntaxFault. Linear time."""
    parts: list[str | Placeholder] = []
    literal: list[str] = []
    start = 0
    while (brace := text.find("{{", start)) >= 0:
        literal.append(text[start:brace])
        if text.startswith("{{{{", brace):
            literal.append("{{")
            start = brace + 4
        elif text.startswith("{{{", brace):
            literal.append("{")
            start = brace + 1
        elif match := PLACEHOLDER.match(text, brace):
            if before := "".join(literal):
                parts.append(before)
            literal.clear()
            parts.append(Placeholder(match[1], brace))
            start = match.end()
        else:
            raise SyntaxFault(brace)
    literal.append(text[start:])
    if rest := "".join(literal):
        parts.append(rest)
    return parts


def escape(text: str) -> str:
    """A template that renders to exactly `text`."""
    return text.replace("{{", "{{{{")


def check_template(
    text_or_messages: str | Sequence[tuple[str, str]], variables: Sequence[Variable]
) -> list[Problem]:
    """Everything wrong with a template: messages in order, then the declarations.

    A list with nothing but variable_unused still compiles.
    """
    messages = (
        [("user", text_or_messages)] if isinstance(text_or_messages, str) else (text_or_messages)
    )
    declared = {variable.name for variable in variables}
    used: set[str] = set()
    problems: list[Problem] = []
    for index, (_, text) in enumerate(messages):
        try:
            parts = parse(text)
        except SyntaxFault as fault:
            problems.append(Problem("template_syntax", "", str(fault), index, fault.position))
            continue
        for part in parts:
            if isinstance(part, Placeholder):
                used.add(part.name)
                if part.name not in declared:
                    problems.append(
                        Problem(
                            "variable_undeclared",
                            part.name,
                            "is used and not declared",
                            index,
                            part.position,
                        )
                    )
    problems += declaration_problems(variables)
    problems += [
        Problem("variable_unused", variable.name, "is declared and never used")
        for variable in variables
        if variable.name not in used
    ]
    return problems


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

    __slots__ = ("_defaults", "_messages", "_names", "_output_chars_max", "_variables")

    def __init__(
        self,
        messages: Sequence[tuple[str, Sequence[str | Placeholder]]],
        variables: Sequence[Variable],
        output_chars_max: int,
    ) -> None:
        self._variables = {variable.name: variable for variable in variables}
        self._output_chars_max = output_chars_max
        # A part is a literal text and None, or empty text and the name to fill in.
        self._messages = tuple(
            (
                role,
                tuple(
                    ("", part.name) if isinstance(part, Placeholder) else (part, None)
                    for part in parts
                ),
            )
            for role, parts in messages
        )
        self._names = frozenset(
            name for _, parts in self._messages for _, name in parts if name is not None
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
        """The messages with their placeholders filled.

        Raises RenderError: variable_missing, variable_unknown, variable_ill_typed,
        variable_out_of_range, output_too_large (all messages together).
        """
        return self.fill(self.texts(values))

    def fill(self, texts: Mapping[str, str]) -> list[tuple[str, str]]:
        """The messages filled with what `texts` gave. Raises RenderError(output_too_large)."""
        filled = [
            (role, [text if name is None else texts[name] for text, name in parts])
            for role, parts in self._messages
        ]
        # Measured before joining, so that an enormous output is never built.
        if sum([len(part) for _, parts in filled for part in parts]) > self._output_chars_max:
            raise RenderError(
                "output_too_large", "", f"more than {self._output_chars_max} characters"
            )
        return [(role, "".join(parts)) for role, parts in filled]


def compile_template(
    messages: Sequence[tuple[str, str]],
    variables: Sequence[Variable],
    output_chars_max: int = OUTPUT_CHARS_MAX,
) -> Template:
    """Prepare a template for many renderings.

    `messages` are (role, text) pairs; roles are passed through. Raises RenderError for the first
    problem `check_template` finds, unused variables apart: template_syntax, variable_undeclared,
    or variable_ill_typed for a bad declaration.
    """
    for problem in check_template(messages, variables):
        if problem.reason == "variable_invalid":
            raise RenderError("variable_ill_typed", problem.variable, problem.message)
        if problem.reason != "variable_unused":
            where = f" (message {problem.message_index})" if problem.message_index >= 0 else ""
            raise RenderError(problem.reason, problem.variable, problem.message + where)
    return Template([(role, parse(text)) for role, text in messages], variables, output_chars_max)
