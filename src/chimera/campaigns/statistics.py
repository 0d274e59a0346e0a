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
