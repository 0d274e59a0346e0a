"""What a technique is: a named, versioned, seeded transformation of a prompt.

What must stay true: the same text, parameters and random stream give the same characters in every
process and on every supported Python version. So transformations use only `rng.random()` (the one
method whose stream Python guarantees), never `hash()`, and touch letters by explicit ASCII tables
rather than by the Unicode database of the interpreter.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from chimera.campaigns.parameters import Parameter, ParameterError, Params, checked

Transform = Callable[[str, Params, random.Random], str]
Restore = Callable[[str, Params], str]


class TechniqueError(ParameterError):
    """Why a technique or chain cannot be used.

    `reason` is one of technique_unknown, technique_parameter_invalid, output_too_large,
    text_ill_formed (a lone surrogate), not_invertible.
    """


@dataclass(frozen=True)
class Technique:
    """One technique.

    `version` is raised whenever the output for the same input changes. `seeded` says whether the
    random stream is used at all. `restore` is the exact inverse of `transform` for every
    well-formed text, whatever the seed was, or None when information is lost.
    """

    name: str
    title: str
    description: str
    source: str
    transform: Transform = field(repr=False)
    restore: Restore | None = field(default=None, repr=False)
    parameters: tuple[Parameter, ...] = ()
    version: int = 1
    seeded: bool = False

    @property
    def reversible(self) -> bool:
        return self.restore is not None

    def apply(self, text: str, params: Params, rng: random.Random) -> str:
        """Transform `text`. Raises TechniqueError for bad parameters."""
        return self.transform(text, self.complete(params, "params"), rng)

    def invert(self, text: str, params: Params) -> str:
        """Undo `apply` called with the same parameters.

        Raises TechniqueError(not_invertible) when the technique loses information or when `text`
        is not something `apply` can have produced.
        """
        complete = self.complete(params, "params")
        if self.restore is None:
            raise TechniqueError("not_invertible", "technique", f"{self.name} loses information")
        try:
            return self.restore(text, complete)
        except (ValueError, LookupError, OverflowError) as error:
            raise TechniqueError(
                "not_invertible", "text", f"this is not the output of {self.name}"
            ) from error

    def complete(self, params: object, path: str) -> Params:
        """The parameters with defaults filled in. Raises TechniqueError."""
        reason = "technique_parameter_invalid"
        return checked(self.parameters, params, path, reason, TechniqueError)


def instruct_parameter(default: bool = True) -> Parameter:
    """The parameter by which a technique tells the model how to read what follows."""
    return Parameter(
        "instruct",
        "boolean",
        default,
        description="Put a sentence in front that tells the model how to read the text.",
    )


def with_instruction(sentence: str, encoded: str, params: Params) -> str:
    return f"{sentence}\n\n{encoded}" if params["instruct"] else encoded


def without_instruction(sentence: str, text: str, params: Params) -> str:
    return without_frame(f"{sentence}\n\n", text, "") if params["instruct"] else text


def without_frame(before: str, text: str, after: str) -> str:
    """`text` without what was put before and after it. ValueError when it is not there."""
    framed = len(text) >= len(before) + len(after)
    if not (framed and text.startswith(before) and text.endswith(after)):
        raise ValueError("frame not found")
    return text[len(before) : len(text) - len(after)]


def pick(rng: random.Random, count: int) -> int:
    """A number in [0, count), from the part of the random stream that never changes."""
    return int(rng.random() * count)
