"""What is built in, as callers see it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from chimera.campaigns.parameters import Parameter
from chimera.campaigns.scorers import SCORERS
from chimera.campaigns.techniques import TECHNIQUES
from chimera.v1.campaigns_pb2 import ScorerKind, Technique, TechniqueParameter


@cache
def techniques() -> list[Technique]:
    """By name."""
    return [
        Technique(
            name=technique.name,
            title=technique.title,
            description=technique.description,
            source=technique.source,
            reversible=technique.reversible,
            parameters=_parameters(technique.parameters),
        )
        for technique in sorted(TECHNIQUES.values(), key=lambda technique: technique.name)
    ]


@cache
def scorer_kinds() -> list[ScorerKind]:
    """By name."""
    return [
        ScorerKind(
            name=scorer.kind,
            title=scorer.title,
            description=scorer.description,
            source=scorer.source,
            version=scorer.version,
            parameters=_parameters(scorer.parameters),
        )
        for scorer in sorted(SCORERS.values(), key=lambda scorer: scorer.kind)
    ]


def _parameters(parameters: Iterable[Parameter]) -> list[TechniqueParameter]:
    return [
        TechniqueParameter(
            name=parameter.name,
            kind=parameter.kind,
            default=ParseDict(parameter.default, Value()),
            minimum=parameter.minimum,
            maximum=parameter.maximum,
            choices=list(parameter.choices),
            description=parameter.description,
        )
        for parameter in parameters
    ]
