"""Wilson intervals and percentiles against their definitions, worked out the long way."""

import statistics
from fractions import Fraction
from math import inf, nan, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.campaigns.statistics import Z_95, percentile, wilson_interval

COUNTS = st.integers(0, 2_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def outside(rate: float, successes: int, trials: int, z: float) -> bool:
    """Whether a score test of `rate` rejects: the Wilson interval is what it does not reject."""
    exact = Fraction(rate)
    distance = (Fraction(successes, trials) - exact) ** 2
    return distance * trials > Fraction(z) ** 2 * exact * (1 - exact)


@given(COUNTS, st.floats(0.1, 5))
def test_the_interval_is_what_the_score_test_does_not_reject(counts, z):
    """Just inside a bound the test accepts, just outside it rejects."""
    successes, trials = counts
    low, high = wilson_interval(successes, trials, z)
    assert 0 <= low <= high <= 1
    if trials == 0:
        assert (low, high) == (0, 1)
        return
    nudge = 1e-9
    for bound, outward in ((low, -nudge), (high, nudge)):
        if 1e-6 < bound < 1 - 1e-6:
            assert outside(bound + outward, successes, trials, z)
            assert not outside(bound - outward, successes, trials, z) or high - low < 3 * nudge


@given(COUNTS)
def test_the_interval_holds_the_rate_and_mirrors(counts):
    """Failures are as uncertain as successes; the observed rate is always inside."""
    successes, trials = counts
    low, high = wilson_interval(successes, trials)
    mirrored = wilson_interval(trials - successes, trials)
    assert low == pytest.approx(1 - mirrored.high, abs=1e-12)
    assert high == pytest.approx(1 - mirrored.low, abs=1e-12)
    if trials:
        assert low <= successes / trials <= high
    if successes == 0:
        assert low == 0
    if successes == trials:
        assert high == 1


def test_known_intervals():
    """Worked by hand: 0 of 10 has the upper bound z² / (n + z²); 8 of 10 by the quadratic."""
    square = Z_95**2
    assert wilson_interval(0, 10).high == pytest.approx(square / (10 + square))
    root = sqrt(square**2 + 4 * 10 * square * 0.8 * 0.2)
    assert wilson_interval(8, 10).low == pytest.approx((16 + square - root) / (2 * (10 + square)))
    assert wilson_interval(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson_interval(3, 4, z=0) == (0.75, 0.75)


@pytest.mark.parametrize("arguments", [(-1, 3), (4, 3), (1, 3, -1), (1, 3, inf), (1, 3, nan)])
def test_impossible_counts_are_refused(arguments):
    with pytest.raises(ValueError, match="must"):
        wilson_interval(*arguments)


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=50), st.integers(2, 20))
def test_percentiles_agree_with_the_inclusive_quantiles(values, parts):
    """The standard library cuts the same sample into the same quantiles."""
    ordered = sorted(values)
    cuts = statistics.quantiles(ordered, n=parts, method="inclusive")
    for number, cut in enumerate(cuts, start=1):
        assert percentile(ordered, number / parts) == pytest.approx(cut, rel=1e-6, abs=1e-4)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.floats(0, 1))
def test_percentiles_stay_within_the_sample(values, share):
    """From the least to the greatest value, which are shares 0 and 1."""
    ordered = sorted(values)
    assert ordered[0] <= percentile(ordered, share) <= ordered[-1]
    assert percentile(ordered, 0) == ordered[0]
    assert percentile(ordered, 1) == ordered[-1]


def test_percentiles_of_nothing_and_beyond():
    """An empty sample has none; a share outside [0, 1] is a mistake of the caller."""
    assert percentile([], 0.5) is None
    with pytest.raises(ValueError, match="share"):
        percentile([1.0], 1.5)
