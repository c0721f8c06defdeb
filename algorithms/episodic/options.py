"""Checks of the options of learners of episodes; each error begins with the option's name."""

from __future__ import annotations

import math


def check_positive(name: str, value: float) -> None:
    """Raise TypeError or ValueError, naming the option, unless `value` is positive and finite."""
    _check_number(name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a positive finite number, got {value!r}")


def check_share(name: str, value: float) -> None:
    """Raise TypeError or ValueError, naming the option, unless `value` is from 0 to 1."""
    _check_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected 0 to 1, got {value!r}")


def check_count(name: str, value: int, at_least: int = 1) -> None:
    """Raise TypeError or ValueError, naming the option, unless `value` is whole and not less."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name}: expected {at_least} or more, got {value}")


def check_switch(name: str, value: bool) -> None:
    """Raise TypeError, naming the option, unless `value` is true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected true or false, got {value!r}")


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {value!r}")
