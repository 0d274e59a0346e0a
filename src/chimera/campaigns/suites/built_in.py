"""The suites of techniques that come with the product.

A suite that changes gets the next version number: tests/unit/campaigns/test_suites.py keeps the hash of
each, so that no two sets of chains ever have the same name and number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from chimera.campaigns.techniques import Step
from chimera.campaigns.techniques.ciphers import CIPHERS
from chimera.campaigns.techniques.encodings import ENCODINGS
from chimera.campaigns.techniques.framings import FRAMINGS
from chimera.campaigns.techniques.noise import NOISE
from chimera.campaigns.techniques.obfuscations import OBFUSCATIONS
from chimera.campaigns.techniques.scripts import SCRIPTS
from chimera.campaigns.techniques.technique import Technique

Chain = tuple[Step, ...]


@dataclass(frozen=True)
class BuiltIn:
    """A suite; each chain is called after its steps."""

    name: str
    title: str
    description: str
    version: int
    chains: tuple[Chain, ...]


def _one_each(techniques: Iterable[Technique]) -> tuple[Chain, ...]:
    """Every technique by itself with its defaults, behind the plain prompt they are compared with."""
    return _alone("plain", *sorted(technique.name for technique in techniques))


def _alone(*names: str) -> tuple[Chain, ...]:
    return tuple((Step(name),) for name in names)


def _chained(*chains: tuple[str, ...]) -> tuple[Chain, ...]:
    return tuple(tuple(Step(name) for name in chain) for chain in chains)


BUILT_IN_SUITES: Mapping[str, BuiltIn] = MappingProxyType(
    {
        suite.name: suite
        for suite in (
            BuiltIn(
                "smoke",
                "Smoke",
                "A handful of cheap techniques that every model reads: shows in minutes that"
                " targets, scorer and budget are set up well.",
                1,
                _alone("plain", "base64", "rot13", "leetspeak"),
            ),
            BuiltIn(
                "encodings",
                "Encodings",
                "The prompt in encodings that lose nothing, each by itself.",
                1,
                _one_each(ENCODINGS),
            ),
            BuiltIn(
                "ciphers",
                "Ciphers",
                "Classical ciphers with their usual keys, each by itself.",
                1,
                _one_each(CIPHERS),
            ),
            BuiltIn(
                "scripts",
                "Scripts",
                "Other alphabets and look-alike characters, each by itself.",
                1,
                _one_each(SCRIPTS),
            ),
            BuiltIn(
                "obfuscations",
                "Obfuscations",
                "What people type to get past filters of words, and noise, each by itself.",
                1,
                _one_each((*OBFUSCATIONS, *NOISE)),
            ),
            BuiltIn(
                "framings",
                "Framings",
                "The prompt inside another text: stories, roles, documents, each by itself.",
                1,
                _one_each(FRAMINGS),
            ),
            BuiltIn(
                "layered",
                "Layered",
                "Pairs of techniques on top of each other, which undo filters made for one.",
                1,
                _chained(
                    ("plain",),
                    ("leetspeak", "base64"),
                    ("rot13", "base64"),
                    ("reversed", "hex"),
                    ("base64", "role_play"),
                ),
            ),
        )
    }
)
