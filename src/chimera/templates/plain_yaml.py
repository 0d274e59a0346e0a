"""YAML as plain data, and plain data as YAML, without loss."""

from __future__ import annotations

from functools import cache
from typing import Any

from chimera.templates.documents import DocumentError

# Line ends to YAML, and characters to us.
_UNFOLDED = "\r\x85\u2028\u2029\ufeff"


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

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()  # type: ignore[no-untyped-call]  # as its stubs have it
                raise yaml.composer.ComposerError(
                    None, None, "anchors and aliases are not read", event.start_mark
                )
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value if isinstance(key.value, str)]
            if len(names) != len(set(names)):
                raise yaml.constructor.ConstructorError(
                    None, None, "a name stands twice", node.start_mark
                )
            return super().construct_mapping(node, deep)

    # Dates stay the text they are.
    Loader.yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader


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
    return Dumper
