"""Partials: other templates' texts inside a version, resolved and pinned.

What must stay true: no template includes itself, by whatever way; the number of texts and their
size are bounded, before anything of that size is made; what a caller may not see is not there.
Expanding happens on the tree, so no brace of one text joins with one of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from chimera.db import Tx
from chimera.faults import Invalid, NotFound, Violation
from chimera.templates import language, rendering
from chimera.templates.content import compiled
from chimera.templates.language import Condition, Loop, Node, PartialTag
from chimera.templates.values import RenderError
from chimera.templates.versions import get_version
from chimera.v1.templates_pb2 import Partial, TemplateVersion, Variable

DEPTH_MAX = 8
TEXTS_MAX = 100


@dataclass(frozen=True)
class Included:
    """A partial as it stands in another text; `size` is its length when written."""

    nodes: tuple[Node, ...]
    size: int
    variables: tuple[Variable, ...]
    pins: tuple[Pin, ...]


@dataclass(frozen=True)
class Pin:
    """Which version a partial meant."""

    name: str
    template_id: str
    version_number: int
    content_hash: str


class _Library:
    """Resolves partials in one transaction; each text is read once."""

    def __init__(self, tx: Tx) -> None:
        self.tx = tx
        self.kept: dict[tuple[str, int, str], Included] = {}

    async def include(self, partial: Partial, path: tuple[str, ...], field: str) -> Included:
        key = (partial.template_id, partial.version_number, partial.label)
        if partial.template_id in path:
            raise _invalid(field, "includes itself, maybe by way of others")
        if key in self.kept:
            return self.kept[key]
        if len(path) > DEPTH_MAX or len(self.kept) >= TEXTS_MAX:
            raise _invalid(field, f"more than {DEPTH_MAX} levels or {TEXTS_MAX} texts of partials")
        try:
            version = await get_version(
                self.tx,
                partial.template_id,
                partial.version_number,
                label=partial.label,
                even_deleted=True,
            )
        except NotFound as fault:
            raise _invalid(
                field, f"there is no such template, version or label ({fault.reason})"
            ) from None
        if len(version.messages) != 1:
            raise _invalid(field, "a partial is a template with exactly one message")
        inside = {
            inner.name: await self.include(inner, (*path, partial.template_id), field)
            for inner in version.partials
        }
        try:
            nodes = tuple(_Expansion(inside).of(language.parse(version.messages[0].text)))
        except _TooLarge:
            raise _invalid(
                field, f"makes more than {rendering.OUTPUT_CHARS_MAX} characters"
            ) from None
        pin = Pin(partial.name, partial.template_id, version.version_number, version.content_hash)
        included = Included(
            nodes,
            len(language.write(nodes)),
            tuple(_merged(version.variables, inside.values())),
            (pin, *pins_of(inside)),
        )
        if included.size > rendering.OUTPUT_CHARS_MAX:
            raise _invalid(field, f"makes more than {rendering.OUTPUT_CHARS_MAX} characters")
        self.kept[key] = included
        return included


async def resolve(
    tx: Tx, partials: Sequence[Partial], template_id: str = ""
) -> dict[str, Included]:
    """The partials by name, as the caller sees them; `template_id` is what includes them.

    Raises Invalid(PARTIAL_INVALID).
    """
    library = _Library(tx)
    path = (template_id,) if template_id else ()
    found: dict[str, Included] = {}
    for place, partial in enumerate(partials):
        if partial.name in found:
            raise _invalid(f"partials[{place}]", "two partials have this name")
        found[partial.name] = await library.include(partial, path, f"partials[{place}]")
    return found


async def expand(tx: Tx, version: TemplateVersion) -> tuple[TemplateVersion, tuple[Pin, ...]]:
    """The version with its partials' texts in their places and their variables beside its own, and
    what was pinned. Raises Invalid(PARTIAL_INVALID, OUTPUT_TOO_LARGE)."""
    if not version.partials:
        return version, ()
    found = await resolve(tx, version.partials, version.template_id)
    return expanded(version, found), pins_of(found)


def pins_of(found: Mapping[str, Included]) -> tuple[Pin, ...]:
    """Each once, by however many ways it is included: the ways can be very many."""
    return tuple(dict.fromkeys(pin for one in found.values() for pin in one.pins))


def check_expanded(version: TemplateVersion, found: Mapping[str, Included]) -> None:
    """Raises Invalid when a version and its partials do not go together."""
    try:
        compiled(expanded(version, found))
    except RenderError as error:
        raise _invalid("partials", f"{error.variable} {error.message}".strip()) from None


def expanded(version: TemplateVersion, found: Mapping[str, Included]) -> TemplateVersion:
    """Raises Invalid(OUTPUT_TOO_LARGE)."""
    whole = TemplateVersion()
    whole.CopyFrom(version)
    expansion = _Expansion(found)
    size_chars = 0
    for message in whole.messages:
        try:
            message.text = language.write(expansion.of(language.parse(message.text)))
        except _TooLarge:
            raise _too_large() from None
        size_chars += len(message.text)
    if size_chars > rendering.OUTPUT_CHARS_MAX:
        raise _too_large()
    del whole.variables[:]
    whole.variables.extend(_merged(version.variables, found.values()))
    del whole.partials[:]
    return whole


def _too_large() -> Invalid:
    most = rendering.OUTPUT_CHARS_MAX
    return Invalid("OUTPUT_TOO_LARGE", f"With its partials it has more than {most} characters.")


class _TooLarge(Exception):
    """What is put in has more characters than any output may have."""


class _Expansion:
    """Puts partials in their places, as long as what is put in stays within bounds."""

    def __init__(self, found: Mapping[str, Included]) -> None:
        self.found = found
        self.chars_left = rendering.OUTPUT_CHARS_MAX

    def of(self, nodes: Iterable[Node]) -> list[Node]:
        expanded: list[Node] = []
        for node in nodes:
            match node:
                case PartialTag(name) if name in self.found:
                    # Every node is written as a character at least, so this bounds them as well.
                    self.chars_left -= self.found[name].size
                    if self.chars_left < 0:
                        raise _TooLarge
                    expanded.extend(self.found[name].nodes)
                case Loop():
                    body, other = tuple(self.of(node.body)), tuple(self.of(node.otherwise))
                    expanded.append(Loop(node.subject, body, other))
                case Condition():
                    then, other = tuple(self.of(node.then)), tuple(self.of(node.otherwise))
                    expanded.append(replace(node, then=then, otherwise=other))
                case _:
                    expanded.append(node)
        return expanded


def _merged(own: Iterable[Variable], found: Iterable[Included]) -> list[Variable]:
    """One's own declarations win, then those of the earlier partial."""
    merged = {variable.name: variable for variable in own}
    for included in found:
        for variable in included.variables:
            merged.setdefault(variable.name, variable)
    return list(merged.values())


def _invalid(field: str, message: str) -> Invalid:
    violation = Violation(field, message, "PARTIAL_INVALID")
    return Invalid("PARTIAL_INVALID", f"{field}: {message}", violations=[violation])
