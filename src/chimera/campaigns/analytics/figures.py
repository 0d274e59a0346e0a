"""Figures: a group of results in counts, a rate with its interval, latency and cost."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from chimera.campaigns.statistics import wilson_interval
from chimera.rows import decimal_text
from chimera.v1.analytics_pb2 import Figures

SUMS = (
    "results",
    "attempts",
    "scored",
    "successes",
    "failed",
    "latency_ms_sum",
    "input_tokens",
    "output_tokens",
)


class Sums:
    """Sums that grow; `figures` says what they mean."""

    def __init__(self) -> None:
        self.values = dict.fromkeys(SUMS, 0)
        self.cost = Decimal(0)

    def add(self, row: Mapping[str, Any]) -> None:
        for name in SUMS:
            self.values[name] += row[name]
        self.cost += row["cost"]

    def figures(self) -> Figures:
        values = dict(self.values)
        latency_ms, scored = values.pop("latency_ms_sum"), values["scored"]
        figures = Figures(**values, cost_usd=decimal_text(self.cost))
        if scored:
            interval = wilson_interval(values["successes"], scored)
            figures.rate = values["successes"] / scored
            figures.low, figures.high = interval.low, interval.high
            figures.latency_ms_avg = latency_ms / scored
        return figures


def figures_of(row: Mapping[str, Any]) -> Figures:
    sums = Sums()
    sums.add(row)
    return sums.figures()
