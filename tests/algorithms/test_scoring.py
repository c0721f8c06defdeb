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
