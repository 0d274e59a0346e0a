"""HTML as nodes. What must stay true: text given as `str` can only ever become text.

Tags and attributes are closed sets, so that no script, style, event handler or address can come in
by a name either; the page's one style sheet and policy are written by `document`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from html import escape

_TAGS = frozenset({
    "a", "abbr", "article", "b", "bdi", "body", "br", "caption", "code", "dd", "div", "dl",
    "dt", "figcaption", "figure", "footer", "h1", "h2", "h3", "header", "html", "li", "main",
    "nav", "ol", "p", "pre", "section", "small", "span", "strong", "table", "tbody", "td", "th",
    "thead", "tr", "ul", "svg", "g", "line", "path", "rect", "text", "circle", "title", "desc",
})  # fmt: skip
_ATTRIBUTES = frozenset({
    "aria-hidden", "aria-label", "aria-labelledby", "class", "colspan", "cx", "cy", "d",
    "datetime", "dir", "height", "href", "id", "r", "role", "rowspan", "scope", "tabindex",
    "text-anchor", "title", "viewBox", "width", "x", "x1", "x2", "y", "y1", "y2",
    "preserveAspectRatio", "rx",
})  # fmt: skip
_VOID = frozenset({"br"})
# Directions and joiners change how the rest of a line looks; controls are not allowed in HTML.
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U000e0000-\U000e0fff]+"
)
# Letters, at least one of them not ASCII.
_MIXED_WORD = re.compile(r"[A-Za-z]*[^\W\d_A-Za-z][^\W\d_]*")


class Node:
    """One element; `str` is its HTML."""

    __slots__ = ("_html",)

    def __init__(self, html: str) -> None:
        self._html = html

    def __str__(self) -> str:
        return self._html


def h(tag: str, *children: Node | str | Iterable[Node | str] | None, **attributes: object) -> Node:
    """An element. Attribute names are written as in Python (`class_`, `aria_label`, `text_anchor`);
    None leaves one out. ValueError for a tag or attribute that is not on the lists, and for an
    address that leaves the page."""
    if tag not in _TAGS:
        raise ValueError(f"<{tag}> is not used in reports")
    shown = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID:
        return Node(f"<{tag}{shown}>")
    return Node(f"<{tag}{shown}>{''.join(_html(children))}</{tag}>")


def _attribute(name: str, value: object) -> str:
    if value is None:
        return ""
    name = name.rstrip("_")
    name = name if name == "viewBox" or name == "preserveAspectRatio" else name.replace("_", "-")
    if name not in _ATTRIBUTES:
        raise ValueError(f"{name}= is not used in reports")
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    if name == "href" and not text.startswith("#"):
        raise ValueError("a report links only to itself")
    return f' {name}="{escape(_printable(text))}"'


def _html(children: Iterable[Node | str | Iterable[Node | str] | None]) -> Iterator[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Node):
            yield str(child)
        elif isinstance(child, str):
            yield escape(_printable(child))
        else:
            yield from _html(child)


def _printable(text: str) -> str:
    """Without what HTML forbids or what would reorder the text around it."""
    return _INVISIBLE.sub("\ufffd", text)


def foreign(text: str, characters_max: int) -> list[Node | str]:
    """Text of models and attackers: shortened; what cannot be seen is named in its place, and
    letters of another alphabet in a Latin word are marked."""
    rest = len(text) - characters_max
    shown: list[Node | str] = []
    at = 0
    for found in _INVISIBLE.finditer(text[:characters_max]):
        shown += _marked(text[at : found.start()])
        shown.append(_named(found[0]))
        at = found.end()
    shown += _marked(text[at:characters_max])
    if rest > 0:
        shown.append(h("span", f"… {rest:,} characters more", class_="more"))
    return shown


def _marked(text: str) -> list[Node | str]:
    shown: list[Node | str] = []
    at = 0
    for word in _MIXED_WORD.finditer(text):
        if not re.search("[A-Za-z]", word[0]):
            continue
        for place, letter in enumerate(word[0], word.start()):
            name = unicodedata.name(letter, "").lower()
            if letter.isascii() or name.startswith("latin"):
                continue
            shown += [text[at:place], h("span", letter, class_="alike", title=name)]
            at = place + 1
    return [*shown, text[at:]]


def _named(run: str) -> Node:
    tags = "".join(chr(ord(c) - 0xE0000) for c in run if 0xE0020 <= ord(c) <= 0xE007E)
    if tags:
        return h("span", f"{len(run)} tag characters: {tags}", class_="unseen")
    if len(run) == 1:
        name = unicodedata.name(run, "control").lower()
        return h("span", f"U+{ord(run):04X}", class_="unseen", title=name)
    return h("span", f"{len(run)} unseen from U+{ord(run[0]):04X}", class_="unseen")


def document(title: str, style: str, body: Iterable[Node]) -> str:
    """The page. `style` is the report's own sheet, allowed by its hash; nothing else is."""
    if "</" in style:
        raise ValueError("the style sheet would end its element")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(_printable(title))}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        + "\n".join(_html(body))
        + "\n</body>\n</html>\n"
    )
