"""The language of templates: text with tags, parsed into a tree and written back.

    {{ name }}                  a variable; {{ name.key.0 }} reaches into a JSON value
    {{ name | upper }}          filters of filters.py, one after the other; {{ x | truncate: 20 }}
    {{#if name}} .. {{else}} .. {{/if}}     also {{#if not name}}, {{#if name == "x"}}, {{#if n != 3}}
    {{#each names}} {{ this }} {{ @number }} .. {{else}} .. {{/each}}
    {{> part }}                 another template's text
    {{! a remark }}
    {{{{                        a literal {{

A single `{` and every `}` stand for themselves, so `{"a":{{x}}}` means what it seems to mean. Any
other `{{` is a syntax error, at its place.

What must stay true: a path names keys and numbers of plain JSON and nothing of Python; parsing takes
linear time; nesting is bounded; write(parse(text)) parses to the same tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import orjson

from chimera.templates.filters import FILTERS

DEPTH_MAX = 8
PATH_MAX = 8
FILTERS_MAX = 8
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_WORD = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
_PATH = rf"(?:@[a-z]+|{_WORD}(?:\.[A-Za-z0-9_]{{1,64}})*)"
_TEXT = r'"(?:[^"\\\n]|\\.)*"'
_LITERAL = rf"(?:{_TEXT}|-?[0-9]{{1,15}}(?:\.[0-9]{{1,15}})?|true|false)"
_FILTER = rf"[ \t]*\|[ \t]*[a-z]+(?:[ \t]*:[ \t]*(?:{_TEXT}|[0-9]{{1,6}}))?"
_VALUE = re.compile(rf"\{{\{{[ \t]*({_PATH})((?:{_FILTER})*)[ \t]*\}}\}}")
_ONE_FILTER = re.compile(rf"[ \t]*\|[ \t]*([a-z]+)(?:[ \t]*:[ \t]*({_TEXT}|[0-9]{{1,6}}))?")
_IF = re.compile(
    rf"\{{\{{#if[ \t]+(not[ \t]+)?({_PATH})(?:[ \t]*(==|!=)[ \t]*({_LITERAL}))?[ \t]*\}}\}}"
)
_EACH = re.compile(rf"\{{\{{#each[ \t]+({_PATH})[ \t]*\}}\}}")
_ELSE = re.compile(r"\{\{[ \t]*else[ \t]*\}\}")
_END = re.compile(r"\{\{/(if|each)[ \t]*\}\}")
_PARTIAL = re.compile(rf"\{{\{{>[ \t]*({_WORD})[ \t]*\}}\}}")
_REMARK = re.compile(r"\{\{![^{}]*\}\}")
LOOP_NAMES = ("@index", "@number", "@first", "@last")


@dataclass(frozen=True)
class Placeholder:
    """A place to fill: the variable's name, and where it stands (offset in characters).

    `path` are keys and positions below it; `filters` are (name, argument) pairs, the argument as
    text or whole number or None. The name is `this` or `@index` and its kin inside a loop.
    """

    name: str
    position: int = field(compare=False, default=-1)
    path: tuple[str, ...] = ()
    filters: tuple[tuple[str, str | int | None], ...] = ()


@dataclass(frozen=True)
class Condition:
    """{{#if}}: the value itself (operator empty), or compared with a literal."""

    subject: Placeholder
    negated: bool
    operator: str
    literal: str | int | float | bool | None
    then: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True)
class Loop:
    """{{#each}}: `body` for each item, `otherwise` when there is none."""

    subject: Placeholder
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True)
class PartialTag:
    """{{> name }}: where another template's text goes."""

    name: str
    position: int = field(compare=False, default=-1)


Node = str | Placeholder | Condition | Loop | PartialTag


class SyntaxFault(ValueError):
    """A `{{` that begins no tag, or a tag in the wrong place, at `position` (characters)."""

    def __init__(self, position: int, message: str = "") -> None:
        super().__init__(
            message or f"'{{{{' at character {position} does not begin a placeholder {{{{ name }}}}"
        )
        self.position = position


class _Block:
    """A section that is open while its body is read."""

    def __init__(self, kind: str, match: re.Match[str] | None, position: int) -> None:
        self.kind, self.match, self.position = kind, match, position
        self.branches: list[list[Node]] = [[]]
        self.literal: list[str] = []

    def add(self, node: Node) -> None:
        self.settle()
        self.branches[-1].append(node)

    def settle(self) -> None:
        if text := "".join(self.literal):
            self.branches[-1].append(text)
        self.literal.clear()

    def split(self) -> None:
        self.settle()
        self.branches.append([])

    def node(self) -> Node:
        self.settle()
        assert self.match is not None  # only the root has none, and it is never closed
        then = tuple(self.branches[0])
        otherwise = tuple(self.branches[1]) if len(self.branches) > 1 else ()
        if self.kind == "each":
            return Loop(_placeholder(self.match[1], self.position), then, otherwise)
        subject = _placeholder(self.match[2], self.position)
        literal = _literal(self.match[4], self.position) if self.match[3] else None
        return Condition(
            subject, bool(self.match[1]), self.match[3] or "", literal, then, otherwise
        )


def parse(text: str) -> list[Node]:
    """The text as a tree. Raises SyntaxFault. Linear time."""
    open_blocks = [_Block("", None, 0)]
    start = 0
    while (brace := text.find("{{", start)) >= 0:
        block = open_blocks[-1]
        block.literal.append(text[start:brace])
        if text.startswith("{{{{", brace):
            block.literal.append("{{")
            start = brace + 4
        elif text.startswith("{{{", brace):
            block.literal.append("{")
            start = brace + 1
        else:
            start = _tag(text, brace, open_blocks)
    open_blocks[-1].literal.append(text[start:])
    if len(open_blocks) > 1:
        block = open_blocks[-1]
        raise SyntaxFault(block.position, f"{{{{#{block.kind}}}}} is never closed")
    root = open_blocks[0]
    root.settle()
    return root.branches[0]


def _tag(text: str, brace: int, open_blocks: list[_Block]) -> int:
    """Reads one tag; where the text goes on."""
    block = open_blocks[-1]
    if match := _IF.match(text, brace) or _EACH.match(text, brace):
        kind = "if" if text.startswith("{{#if", brace) else "each"
        if len(open_blocks) > DEPTH_MAX:
            raise SyntaxFault(brace, f"sections are nested over {DEPTH_MAX} deep")
        opened = _Block(kind, match, brace)
        opened.node()  # its names and literal, checked where they stand
        _check_loop_name(_subject_of(opened), open_blocks)
        open_blocks.append(opened)
    elif match := _END.match(text, brace):
        if match[1] != block.kind:
            raise SyntaxFault(brace, f"{{{{/{match[1]}}}}} closes nothing that is open here")
        open_blocks.pop()
        open_blocks[-1].add(block.node())
    elif block.kind and (match := _ELSE.match(text, brace)):
        if len(block.branches) > 1:
            raise SyntaxFault(brace, "there is a second {{else}}")
        block.split()
    elif match := _PARTIAL.match(text, brace):
        block.add(PartialTag(match[1], brace))
    elif match := _VALUE.match(text, brace):
        placeholder = _placeholder(match[1], brace, match[2])
        _check_loop_name(placeholder, open_blocks)
        block.add(placeholder)
    elif match := _REMARK.match(text, brace):
        pass
    else:
        raise SyntaxFault(brace)
    return match.end()


def _subject_of(block: _Block) -> Placeholder:
    node = block.node()
    assert isinstance(node, Condition | Loop)
    return node.subject


def _placeholder(path: str, position: int, filters: str = "") -> Placeholder:
    name, *below = path.split(".")
    if len(below) > PATH_MAX:
        raise SyntaxFault(position, f"a path has at most {PATH_MAX} steps")
    named: list[tuple[str, str | int | None]] = []
    for match in _ONE_FILTER.finditer(filters):
        argument = _argument(match[2], position)
        problem = FILTERS[match[1]].refusal(argument) if match[1] in FILTERS else "is not known"
        if problem:
            raise SyntaxFault(position, f"the filter {match[1]} {problem}")
        named.append((match[1], argument))
    if len(named) > FILTERS_MAX:
        raise SyntaxFault(position, f"a placeholder has at most {FILTERS_MAX} filters")
    return Placeholder(name, position, tuple(below), tuple(named))


def _check_loop_name(placeholder: Placeholder, open_blocks: Sequence[_Block]) -> None:
    name = placeholder.name
    if name.startswith("@"):
        if name not in LOOP_NAMES:
            raise SyntaxFault(placeholder.position, f"{name} is not one of {', '.join(LOOP_NAMES)}")
        if not any(block.kind == "each" for block in open_blocks):
            raise SyntaxFault(placeholder.position, f"{name} stands outside {{{{#each}}}}")


def _argument(text: str | None, position: int) -> str | int | None:
    if text is None:
        return None
    value = _literal(text, position)
    assert isinstance(value, str | int)
    return value


def _literal(text: str, position: int) -> str | int | float | bool:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise SyntaxFault(position, "a literal is written as in JSON") from None
    assert isinstance(value, str | int | float | bool)
    return value


def escape(text: str) -> str:
    """A template that renders to exactly `text`."""
    return text.replace("{{", "{{{{")


def walk(nodes: Sequence[Node], in_loop: bool = False) -> Iterator[tuple[Node, bool]]:
    """Every node that is not text, with whether it stands inside a loop; subjects included."""
    for node in nodes:
        if isinstance(node, Placeholder | PartialTag):
            yield node, in_loop
        elif isinstance(node, Condition):
            yield node.subject, in_loop
            yield from walk(node.then, in_loop)
            yield from walk(node.otherwise, in_loop)
        elif isinstance(node, Loop):
            yield node.subject, in_loop
            yield from walk(node.body, True)
            yield from walk(node.otherwise, in_loop)


def write(nodes: Sequence[Node]) -> str:
    """The text of a tree; neighbouring literals are joined before they are escaped."""
    written: list[str] = []
    literal: list[str] = []
    for node in nodes:
        if isinstance(node, str):
            literal.append(node)
            continue
        written.append(escape("".join(literal)))
        literal.clear()
        written.append(_written(node))
    written.append(escape("".join(literal)))
    return "".join(written)


def _written(node: Placeholder | Condition | Loop | PartialTag) -> str:
    match node:
        case Placeholder():
            return f"{{{{ {_path(node)}{''.join(_filter(*one) for one in node.filters)} }}}}"
        case PartialTag():
            return f"{{{{> {node.name} }}}}"
        case Loop():
            head = f"{{{{#each {_path(node.subject)}}}}}"
            return head + write(node.body) + _else(node.otherwise) + "{{/each}}"
        case Condition():
            literal = orjson.dumps(node.literal).decode() if node.operator else ""
            test = f" {node.operator} {literal}" if node.operator else ""
            head = f"{{{{#if {'not ' if node.negated else ''}{_path(node.subject)}{test}}}}}"
            return head + write(node.then) + _else(node.otherwise) + "{{/if}}"


def _else(nodes: Sequence[Node]) -> str:
    return "{{else}}" + write(nodes) if nodes else ""


def _path(node: Placeholder) -> str:
    return ".".join((node.name, *node.path))


def _filter(name: str, argument: str | int | None) -> str:
    return f" | {name}" + ("" if argument is None else f": {orjson.dumps(argument).decode()}")
