"""YAML as plain data, and plain data as YAML, without loss.

Plain scalars mean what the core schema of YAML 1.2 says (https://yaml.org/spec/1.2.2/#103-core-schema),
as they do to the tools whose files are read here: `no` and `on` are texts, `12:30` is no number.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from chimera.templates.documents import DocumentError

# Line ends to YAML, and characters to us.
_UNFOLDED = "\r\x85\u2028\u2029\ufeff"
_CORE = (
    ("null", r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z",
        list("-+0123456789."),
    ),
)


def plain_yaml(text: str) -> Any:
    """YAML as plain data: no anchors (they can grow without bound), no tags, no dates.

    Raises DocumentError.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except yaml.MarkedYAMLError as error:
        at = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise DocumentError(f"it is not YAML that is read here: {error.problem}{at}") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise DocumentError("it is not YAML that is read here") from None


@cache
def _loader() -> Any:
    import yaml
    from yaml._yaml import CParser
    from yaml.composer import Composer, ComposerError
    from yaml.constructor import ConstructorError, SafeConstructor
    from yaml.resolver import Resolver

    class Loader(Composer, CParser, SafeConstructor, Resolver):
        """libyaml parses, which is several times faster; nodes are made here."""

        def __init__(self, stream: str) -> None:
            CParser.__init__(self, stream)
            Composer.__init__(self)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

        def compose_node(self, parent: Any, index: Any) -> Any:
            event: Any = self.peek_event()
            if isinstance(event, yaml.AliasEvent):
                refused = "anchors and aliases are not read"
            elif getattr(event, "tag", None) is not None:
                refused = "tags are not read"
            else:
                refused = ""
            if refused:
                mark: Any = event.start_mark
                raise ComposerError(None, None, refused, mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value if isinstance(key.value, str)]
            if len(names) != len(set(names)):
                raise ConstructorError(None, None, "a name stands twice", node.start_mark)
            return super().construct_mapping(node, deep)

        def construct_scalar(self, node: Any) -> Any:
            value: Any = super().construct_scalar(node)
            if any("\ud800" <= char <= "\udfff" for char in value):
                raise ConstructorError(None, None, "half a character", node.start_mark)
            return value

        def construct_number(self, node: Any) -> int:
            text: str = self.construct_scalar(node)
            bases = {"0o": 8, "0x": 16}
            return int(text[2:], bases[text[:2]]) if text[:2] in bases else int(text)

    Loader.yaml_implicit_resolvers = {}
    _add_core(Loader)
    constructed: Any = Loader
    constructed.add_constructor("tag:yaml.org,2002:int", constructed.construct_number)
    return Loader


def _add_core(kind: Any) -> None:
    for name, form, first in _CORE:
        kind.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(form), first)


def yaml_text(value: Any) -> str:
    """Reads back as the same value."""
    import yaml

    return str(yaml.dump(value, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=2**30))


@cache
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Texts of several lines as blocks where YAML can; no anchors."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        if not value.isprintable() and any(char in value for char in _UNFOLDED):
            style = '"'  # which escapes them; elsewhere a reader folds them into spaces
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    # A text that either version of YAML would take for something else stands in quotes.
    _add_core(Dumper)
    return Dumper
