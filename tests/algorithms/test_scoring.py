"""Scores against known values and an independent simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.scoring import (
    area_under_curve,
    area_under_returns,
    confidence_interval_95,
    env_steps_to_target,
    last_known,
    student_t_quantile_975,
)

# Two-sided 5 % points as statistical tables print them.
TABLE = {
    1: 12.706205,
    2: 4.302653,
    3: 3.182446,
    4: 2.776445,
    5: 2.570582,
    9: 2.262157,
    10: 2.228139,
    19: 2.093024,
    30: 2.042272,
    99: 1.984217,
    120: 1.979930,
    1000: 1.962339,
}


@pytest.mark.parametrize(("degrees", "expected"), TABLE.items())
def test_t_quantile_is_that_of_the_tables(degrees, expected):
    assert student_t_quantile_975(degrees) == pytest.approx(expected, abs=1e-6)


def test_t_quantile_approaches_the_normal_quantile_from_above():
    assert student_t_quantile_975(100_000) == pytest.approx(1.959963985, abs=3e-5)
    assert student_t_quantile_975(100_000) > 1.959963985


def test_interval_worked_by_hand():
    """1, 2, 3, 4, 5: mean 3, s² = 2.5, so the half width is t_4 · sqrt(1/2)."""
    mean, half_width = confidence_interval_95([1, 2, 3, 4, 5])
    assert mean == 3
    assert half_width == pytest.approx(TABLE[4] * math.sqrt(0.5), rel=1e-6)


def test_interval_covers_the_true_mean_19_times_in_20():
    draws = np.random.default_rng(0).normal(2.0, 3.0, size=(4000, 6))
    intervals = [confidence_interval_95(row) for row in draws]
    covered = [abs(mean - 2.0) <= half_width for mean, half_width in intervals]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_one_value_has_no_spread_and_none_is_refused():
    mean, half_width = confidence_interval_95([0.25])
    assert mean == 0.25
    assert math.isnan(half_width)
    with pytest.raises(ValueError, match="at least one value"):
        confidence_interval_95([])


def test_area_under_the_curve_is_the_mean_error_over_the_steps():
    assert area_under_curve([1.0, 0.5, 0.0]) == 0.5
    assert area_under_curve(np.array([0.2], dtype=np.float32)) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="at least one step"):
        area_under_curve([])


def test_gaps_of_a_return_curve_take_the_return_before_and_first_ones_the_first():
    nan = float("nan")
    assert last_known([nan, 3.0, nan, nan, 5.0, nan]).tolist() == [3, 3, 3, 3, 5, 5]
    assert last_known([nan, nan], otherwise=7.0).tolist() == [7, 7]
    assert np.isnan(last_known([nan])).all()


@given(
    widths=st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any),
    seed=st.integers(0, 99),
)
def test_area_under_returns_is_the_mean_over_single_env_steps(widths, seed):
    returns = np.random.default_rng(seed).normal(size=len(widths))
    every_step = [r for r, width in zip(returns, widths, strict=True) for _ in range(width)]
    area = area_under_returns(np.cumsum(widths), returns)
    assert area == pytest.approx(sum(every_step) / len(every_step))


def test_an_empty_return_curve_has_no_area():
    with pytest.raises(ValueError, match="at least one step"):
        area_under_returns([], [])


def env_steps_to_target_as_told(env_steps, returns, target, num_ends):
    """The definition, step by step."""
    latest = []
    for steps, value in zip(env_steps, returns, strict=True):
        if math.isnan(value):
            continue
        latest = [*latest, value][-num_ends:]
        if sum(latest) >= target * len(latest):
            return steps, True
    return env_steps[-1], False


curves = st.lists(
    st.tuples(st.integers(0, 50), st.one_of(st.just(math.nan), st.integers(-30, 30).map(float))),
    min_size=1,
    max_size=30,
).map(lambda points: (np.cumsum([width for width, _ in points]), [value for _, value in points]))


@given(curve=curves, target=st.integers(-30, 30), num_ends=st.integers(1, 7))
def test_target_is_reached_when_the_mean_of_the_latest_ends_is_that_high(curve, target, num_ends):
    told = env_steps_to_target_as_told(*curve, target, num_ends)
    assert env_steps_to_target(*curve, target, num_ends) == told


@given(curve=curves, more=curves, targets=st.tuples(st.integers(-30, 30), st.integers(0, 20)))
def test_a_higher_target_takes_no_fewer_steps_and_a_longer_curve_no_more(curve, more, targets):
    (steps, returns), (low, raised) = curve, targets
    easy, hard = (env_steps_to_target(steps, returns, low + r) for r in (0, raised))
    assert easy[0] <= hard[0]
    assert easy[1] >= hard[1]
    longer = np.concatenate([steps, steps[-1] + more[0]])
    if easy[1]:
        assert env_steps_to_target(longer, returns + more[1], low) == easy


def test_one_lucky_return_is_not_enough_but_first_ones_need_not_wait():
    steps = np.arange(100, 700, 100)
    assert env_steps_to_target(steps, [10, 10, 10, 200, 10, 10], 100) == (600, False)
    assert env_steps_to_target(steps, [math.nan, math.nan, 500, math.nan, 9, 9], 475) == (300, True)
    assert env_steps_to_target(steps, [math.nan] * 6, -99) == (600, False)


def test_a_target_of_no_curve_or_no_ends_is_refused():
    with pytest.raises(ValueError, match="at least one step"):
        env_steps_to_target([], [], 1.0)
    with pytest.raises(ValueError, match="num_ends"):
        env_steps_to_target([1], [1.0], 1.0, num_ends=0)
