"""What a meta-test reports: area under a learning curve, time to a target, intervals."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

LATEST_ENDS = 5  # points of a return curve whose mean has to reach a target


def area_under_curve(errors: ArrayLike) -> float:
    """Return the area under a training-error curve: the mean of `errors` [K] over the steps.

    As in table 1 of Flennerhag et al. (2019), arXiv:1812.01054, the area of errors between 0
    and 1 is again between 0 and 1, and lower is better. Raises ValueError for an empty curve.
    """
    curve = np.asarray(errors, dtype=np.float64)
    if curve.size == 0:
        raise ValueError("a learning curve needs at least one step")
    return float(curve.mean())


def last_known(returns: ArrayLike, otherwise: float = math.nan) -> NDArray[np.float64]:
    """Return a curve [K] of episodes' returns without its gaps: float64 [K].

    Steps in which no episode ended (NaN) get the return before; those before the first end get
    the first, or `otherwise` if there is none at all.
    """
    curve = np.asarray(returns, dtype=np.float64)
    (known,) = np.isfinite(curve).nonzero()
    if known.size == 0:
        return np.full_like(curve, otherwise)
    before = np.searchsorted(known, np.arange(len(curve)), side="right") - 1
    filled: NDArray[np.float64] = curve[known[before.clip(min=0)]]
    return filled


def area_under_returns(env_steps: ArrayLike, returns: ArrayLike) -> float:
    """Return the area under a curve of returns: its mean over env steps; higher is better.

    Args:
        env_steps: [K], env steps taken up to the end of each inner step.
        returns: [K], of the latest episodes at the end of each.

    Raises:
        ValueError: The curve is empty.
    """
    steps = np.asarray(env_steps, dtype=np.float64)
    if steps.size == 0:
        raise ValueError("a learning curve needs at least one step")
    widths = np.diff(steps, prepend=0.0)
    return float(np.average(np.asarray(returns, dtype=np.float64), weights=widths))


def env_steps_to_target(
    env_steps: ArrayLike, returns: ArrayLike, target: float, num_ends: int = LATEST_ENDS
) -> tuple[float, bool]:
    """Return how many env steps it took to reach `target`, and whether it was reached.

    It is at the end of the first inner step where the mean of the latest returns is at least
    `target`: of the last `num_ends` inner steps in which episodes ended, or of as many as there
    are. One lucky rollout among bad ones is not enough, but whose first episodes reach the target
    need not wait for more. A return counts when its episodes end, never before. A curve that does
    not reach the target is censored: it gives all its env steps, and False.

    Args:
        env_steps: [K], env steps taken up to the end of each inner step.
        returns: [K], mean return of the episodes that ended in each; NaN where none did.
        target: The return to reach.
        num_ends: At most so many returns are averaged.

    Raises:
        ValueError: The curve is empty, or `num_ends` is below 1.
    """
    steps, curve = np.asarray(env_steps), np.asarray(returns, dtype=np.float64)
    if steps.size == 0:
        raise ValueError("a learning curve needs at least one step")
    if num_ends < 1:
        raise ValueError(f"num_ends: expected at least 1, got {num_ends}")
    is_known = np.isfinite(curve)
    known = curve[is_known]
    sums, counts = np.zeros_like(known), np.zeros_like(known)
    # Each mean is summed anew: the rounding of a running sum could miss a target by a hair.
    for back in range(min(num_ends, known.size)):
        sums[back:] += known[: known.size - back]
        counts[back:] += 1
    (reached,) = (sums >= target * counts).nonzero()
    if reached.size == 0:
        return float(steps[-1]), False
    return float(steps[is_known][reached[0]]), True


def confidence_interval_95(values: ArrayLike) -> tuple[float, float]:
    """Return the mean of `values` [n] and the half width of its 95 % confidence interval.

    Values are one for each task and are taken as independent draws: t·s/√n with Student's t of
    n − 1 degrees of freedom. The half width of a single value is NaN: it says nothing of the
    spread. Raises ValueError for no value.
    """
    draws = np.asarray(values, dtype=np.float64)
    if draws.size == 0:
        raise ValueError("a confidence interval needs at least one value")
    mean = float(draws.mean())
    if draws.size == 1:
        return mean, math.nan
    standard_error = float(draws.std(ddof=1)) / math.sqrt(draws.size)
    return mean, student_t_quantile_975(draws.size - 1) * standard_error


@lru_cache
def student_t_quantile_975(degrees: int) -> float:
    """Return t with P(|T| ≤ t) = 0.95 for Student's T of `degrees` ≥ 1 degrees of freedom."""
    low, high = 1.9, 13.0  # the quantile falls from 12.71 (one degree) to 1.96 (infinitely many)
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if _within(middle, degrees) < 0.95:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _within(t: float, degrees: int) -> float:
    """Return P(|T| ≤ t): the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2
    term = cosine if is_odd else 1.0
    terms = []
    for power in range(2 + is_odd, degrees + 1, 2):
        terms.append(term)
        term *= cosine**2 * (power - 1) / power
    total = sine * math.fsum(terms)
    return 2 / math.pi * (angle + total) if is_odd else total
