"""Techniques: the registry, and chains of techniques applied to a prompt.

What must stay true: a chain's output depends only on its steps, the text and the seed. Each step
draws from a random stream of its own, derived from (seed, position, technique name), so changing
one step does not change what the others draw. No text longer than OUTPUT_CHARS_MAX leaves a step.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from chimera.campaigns.parameters import Parameter, Params, is_well_formed
from chimera.campaigns.techniques.ciphers import CIPHERS
from chimera.campaigns.techniques.encodings import ENCODINGS
from chimera.campaigns.techniques.framings import FRAMINGS
from chimera.campaigns.techniques.noise import NOISE
from chimera.campaigns.techniques.obfuscations import OBFUSCATIONS
from chimera.campaigns.techniques.scripts import SCRIPTS
from chimera.campaigns.techniques.technique import Technique, TechniqueError

__all__ = [
    "OUTPUT_CHARS_MAX",
    "STEPS_MAX",
    "TECHNIQUES",
    "Chain",
    "Parameter",
    "Step",
    "Technique",
    "TechniqueError",
    "apply_chain",
    "check_chain",
    "compile_chain",
    "fingerprint",
    "invert_chain",
]

STEPS_MAX = 8
OUTPUT_CHARS_MAX = 200_000

PLAIN = Technique(
    name="plain",
    title="Plain",
    description="Sends the prompt as it is: the baseline every other technique is compared with.",
    source="Control condition of every comparison",
    transform=lambda text, params, rng: text,
    restore=lambda text, params: text,
)

TECHNIQUES: Mapping[str, Technique] = MappingProxyType(
    {
        technique.name: technique
        for technique in (PLAIN, *ENCODINGS, *CIPHERS, *SCRIPTS, *OBFUSCATIONS, *NOISE, *FRAMINGS)
    }
)

# Handed to techniques that declare they draw nothing; building a stream costs more than they do.
UNDRAWN = random.Random(0)


@dataclass(frozen=True)
class Step:
    """One technique of a chain with its parameters, as plain data."""

    technique: str
    params: Mapping[str, object] = field(default_factory=dict)


class Chain:
    """A checked chain with its defaults filled in. Immutable; safe to share between threads."""

    __slots__ = ("steps",)

    def __init__(self, steps: Iterable[tuple[Technique, Params]]) -> None:
        self.steps = tuple(
            (technique, params, f"/{position}/{technique.name}".encode())
            for position, (technique, params) in enumerate(steps)
        )

    def apply(self, text: str, seed: int) -> str:
        """Transform `text`, first step first.

        Raises TechniqueError: text_ill_formed for a lone surrogate, output_too_large when the
        text or the output of a step is longer than OUTPUT_CHARS_MAX characters.
        """
        if not is_well_formed(text):
            raise TechniqueError("text_ill_formed", "text", "the text has a lone surrogate")
        refuse_large(text, "text")
        for position, (technique, params, place) in enumerate(self.steps):
            rng = stream(seed, place) if technique.seeded else UNDRAWN
            text = technique.transform(text, params, rng)
            if len(text) > OUTPUT_CHARS_MAX:
                refuse_large(text, f"steps[{position}]")
        return text

    def invert(self, text: str) -> str:
        """Undo `apply`, last step first. Raises TechniqueError(not_invertible)."""
        for technique, params, _ in reversed(self.steps):
            text = technique.invert(text, params)
        return text


def refuse_large(text: str, where: str) -> None:
    if len(text) > OUTPUT_CHARS_MAX:
        raise TechniqueError("output_too_large", where, f"more than {OUTPUT_CHARS_MAX} characters")


def stream(seed: int, place: bytes) -> random.Random:
    """The random stream of one step: seeded with SHA-256 of the seed, its position and its name."""
    digest = hashlib.sha256(b"%d" % seed + place).digest()
    return random.Random(int.from_bytes(digest, "big"))


def compile_chain(steps: Sequence[Step]) -> Chain:
    """Check a chain and prepare it for many texts. Raises TechniqueError as `check_chain`."""
    if len(steps) > STEPS_MAX:
        raise TechniqueError(
            "technique_parameter_invalid", "steps", f"at most {STEPS_MAX} steps in a chain"
        )
    compiled: list[tuple[Technique, Params]] = []
    for position, step in enumerate(steps):
        technique = TECHNIQUES.get(step.technique)
        if technique is None:
            where = f"steps[{position}].technique"
            raise TechniqueError("technique_unknown", where, "there is no such technique")
        compiled.append((technique, technique.complete(step.params, f"steps[{position}].params")))
    return Chain(compiled)


def check_chain(steps: Sequence[Step]) -> None:
    """Raise TechniqueError when the chain cannot be used.

    Reasons: technique_unknown; technique_parameter_invalid for an unknown, ill-typed or
    out-of-range parameter and for a chain of more than STEPS_MAX steps. An empty chain is valid
    and leaves the text as it is.
    """
    compile_chain(steps)


def apply_chain(steps: Sequence[Step], text: str, seed: int) -> str:
    """Transform one text. Raises TechniqueError as `check_chain` and `Chain.apply`."""
    return compile_chain(steps).apply(text, seed)


def invert_chain(steps: Sequence[Step], text: str) -> str:
    """The text `apply_chain` was given, whatever the seed. Raises TechniqueError."""
    return compile_chain(steps).invert(text)


def fingerprint(steps: Sequence[Step]) -> str:
    """SHA-256 (hex) of the chain: names, versions and complete parameters in canonical JSON.

    Two chains with the same fingerprint turn the same text and seed into the same output.
    """
    facts = [
        [technique.name, technique.version, dict(params)]
        for technique, params, _ in compile_chain(steps).steps
    ]
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
