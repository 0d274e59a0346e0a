"""Dry rendering: what a template would say, with every problem at its place. Pure.

What must stay true: it refuses nothing about content or values, it says what is wrong; secret values
are masked before they are filled in, so no filter or loop can show a part of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chimera.templates import rendering
from chimera.templates.content import compiled, content_problems, declared
from chimera.templates.partials import Included, expanded
from chimera.templates.usages import MASK
from chimera.templates.values import RenderError
from chimera.v1.templates_pb2 import (
    DryRenderTemplateResponse,
    PromptMessage,
    RenderProblem,
    TemplateVersion,
    VariableKind,
)

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4


def dry_render(
    version: TemplateVersion, found: Mapping[str, Included], values: Mapping[str, Any]
) -> DryRenderTemplateResponse:
    """found: the version's partials. Raises Invalid(OUTPUT_TOO_LARGE) when these alone are too large."""
    answer = DryRenderTemplateResponse()
    inherited = {name: included.variables for name, included in found.items()}
    problems = content_problems(version.messages, version.variables, inherited)
    for problem in problems:
        answer.problems.append(_problem(problem, version))
        if problem.reason == "variable_unused":
            answer.unused_variables.append(problem.variable)
    if any(problem.reason != "variable_unused" for problem in problems):
        return answer
    whole = expanded(version, found)
    names = {variable.name: variable for variable in whole.variables}
    answer.unknown_values.extend(sorted(values.keys() - names.keys()))
    given = {name: value for name, value in values.items() if name in names and value is not None}
    places = _places(version)
    for variable in declared(whole.variables):
        if variable.required and variable.default is None and variable.name not in given:
            answer.missing_variables.append(variable.name)
            answer.problems.append(
                _placed("VARIABLE_MISSING", variable.name, "is required", version, places)
            )
        elif variable.name in given:
            try:
                variable.write(given[variable.name])
            except RenderError as error:
                answer.problems.append(
                    _placed(error.reason.upper(), variable.name, error.message, version, places)
                )
    answer.problems.extend(
        RenderProblem(
            reason="VARIABLE_UNKNOWN",
            variable=name,
            message="is not declared",
            message_index=-1,
            position=-1,
        )
        for name in answer.unknown_values
    )
    if any(problem.reason != "VARIABLE_UNUSED" for problem in answer.problems):
        return answer
    _render(answer, whole, given)
    return answer


def _render(
    answer: DryRenderTemplateResponse, whole: TemplateVersion, given: Mapping[str, Any]
) -> None:
    masked = TemplateVersion()
    masked.CopyFrom(whole)
    shown = dict(given)
    for variable in masked.variables:
        if variable.secret:
            # Whatever it was, it is text now: its kind, bounds and pattern are of the real value.
            is_list = variable.kind == VariableKind.VARIABLE_KIND_LIST
            bare = type(variable)(
                name=variable.name,
                kind=variable.kind if is_list else VariableKind.VARIABLE_KIND_STRING,
            )
            variable.CopyFrom(bare)
            if variable.name in shown:
                shown[variable.name] = [MASK] if is_list else MASK
    try:
        rendered = compiled(masked).render(shown)
    except RenderError as error:
        answer.problems.add(
            reason=error.reason.upper(),
            variable=error.variable,
            message=error.message,
            message_index=-1,
            position=-1,
        )
        return
    tokens = 0
    for message, (_role, text) in zip(whole.messages, rendered, strict=True):
        answer.messages.append(PromptMessage(role=message.role, text=text))
        tokens += -(-len(text.encode()) // BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE
    answer.token_estimate = tokens


def _places(version: TemplateVersion) -> dict[str, tuple[int, int]]:
    """Where each name stands first: message and position."""
    places: dict[str, tuple[int, int]] = {}
    for index, message in enumerate(version.messages):
        for name, position in rendering.positions_of(message.text).items():
            places.setdefault(name, (index, position))
    return places


def _placed(
    reason: str,
    name: str,
    message: str,
    version: TemplateVersion,
    places: Mapping[str, tuple[int, int]],
) -> RenderProblem:
    index, position = places.get(name, (-1, -1))
    return _problem(rendering.Problem(reason, name, message, index, position), version)


def _problem(problem: rendering.Problem, version: TemplateVersion) -> RenderProblem:
    line = column = 0
    if problem.message_index >= 0 and problem.position >= 0:
        before = version.messages[problem.message_index].text[: problem.position]
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
    reason = problem.reason.upper()
    return RenderProblem(
        reason="VARIABLE_ILL_TYPED" if reason == "VARIABLE_INVALID" else reason,
        variable=problem.variable,
        message=problem.message,
        message_index=problem.message_index,
        position=problem.position,
        line=line,
        column=column,
    )
