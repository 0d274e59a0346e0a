"""Statistics of campaigns: rates with intervals, and percentiles.

Every rate the product shows comes with its counts and a Wilson interval; a bare rate misleads when
few cells were run. Source: Wilson, Journal of the American Statistical Association 22 (1927), 209.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

Z_95 = 1.959963984540054


class Interval(NamedTuple):
    """A closed interval of rates within [0, 1]."""

    low: float
    high: float


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> Interval:
    """The Wilson score interval of a rate.

    `z` is the standard normal quantile: 1.96 for 95 %, 2.576 for 99 %. No trials give [0, 1]:
    nothing is known. Errored cells are no trials; leave them out of both counts.
    Raises ValueError unless 0 <= successes <= trials and z is finite and not negative.
    """
    if not 0 <= successes <= trials:
        raise ValueError("successes must lie between 0 and trials")
    if not 0 <= z < math.inf:
        raise ValueError("z must be finite and not negative")
    if trials == 0:
        return Interval(0.0, 1.0)
    rate = successes / trials
    spread = z * z / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / trials + spread / (4 * trials)) / (1 + spread)
    # At the ends the bound is exactly 0 or 1 and the rate always lies inside; rounding would lose
    # both by one unit in the last place.
    low = 0.0 if successes == 0 else min(rate, max(0.0, centre - half))
    high = 1.0 if successes == trials else max(rate, min(1.0, centre + half))
    return Interval(low, high)


class Paired(NamedTuple):
    """Pairs of verdicts: how many hold in both, in one alone, in neither."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def pairs(self) -> int:
        return sum(self)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Two-sided p-value of the exact McNemar test: how likely so uneven a split of the pairs that
    differ is, were both directions equally likely.

    Source: McNemar, Psychometrika 12 (1947), 153; exact form by the binomial distribution.
    """
    differing, fewer = only_first + only_second, min(only_first, only_second)
    if differing == 0:
        return 1.0
    half = differing * math.log(2)
    tail = math.fsum(
        math.exp(
            math.lgamma(differing + 1)
            - math.lgamma(count + 1)
            - math.lgamma(differing - count + 1)
            - half
        )
        for count in range(fewer + 1)
    )
    return min(1.0, 2 * tail)


def paired_difference(pairs: Paired, z: float = Z_95) -> tuple[float, Interval]:
    """Rate of the second minus rate of the first, with its interval.

    The interval adds half a pair to each of the four counts, which keeps its coverage with few
    pairs. Source: Agresti, Min, Statistics in Medicine 24 (2005), 729. ValueError without pairs.
    """
    if pairs.pairs == 0:
        raise ValueError("there are no pairs")
    difference = (pairs.only_second - pairs.only_first) / pairs.pairs
    first, second, total = pairs.only_first + 0.5, pairs.only_second + 0.5, pairs.pairs + 2
    centre = (second - first) / total
    half = z * math.sqrt(first + second - (second - first) ** 2 / total) / total
    return difference, Interval(max(-1.0, centre - half), min(1.0, centre + half))


def cohen_kappa(pairs: Paired, z: float = Z_95) -> tuple[float, Interval] | None:
    """Agreement of two judges beyond chance, with its interval; None when chance agreement is
    certain, that is, when both always say the same one thing, and for no pairs.

    Source: Cohen, Educational and Psychological Measurement 20 (1960), 37, with the standard error
    given there.
    """
    total = pairs.pairs
    if total == 0:
        return None
    first = (pairs.both + pairs.only_first) / total
    second = (pairs.both + pairs.only_second) / total
    agreed = (pairs.both + pairs.neither) / total
    chance = first * second + (1 - first) * (1 - second)
    if chance >= 1:
        return None
    kappa = (agreed - chance) / (1 - chance)
    half = z * math.sqrt(agreed * (1 - agreed) / total) / (1 - chance)
    return kappa, Interval(max(-1.0, kappa - half), min(1.0, kappa + half))


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which `share` (0 to 1) of an ascending sequence lies.

    Interpolates linearly between neighbours (as PostgreSQL's percentile_cont). None when empty.
    Raises ValueError when `share` is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError("share must lie between 0 and 1")
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    fraction = place - below
    if fraction == 0 or ordered[below] == ordered[above]:
        return float(ordered[below])
    return ordered[below] * (1 - fraction) + ordered[above] * fraction
