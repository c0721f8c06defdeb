"""Whether figures that were computed again are those on record."""

from __future__ import annotations

import math
from typing import Any

CLOSE = 1e-9  # relative
# Versions before the one that writes checksums gave them where no episode ended, too.
OF_A_TARGET = ("env_steps_to_target", "reached")


def same(one: Any, other: Any) -> bool:
    """Whether two trees of figures are alike; JSON has null, and a table too, for what is NaN.

    A table has null, too, where only other rows have a column.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return all(same(one.get(key), other.get(key)) for key in one.keys() | other.keys())
    if _is_nothing(one) or _is_nothing(other):
        return _is_nothing(one) and _is_nothing(other)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(one == other)


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def without_target(tree: Any) -> Any:
    """Return a tree of figures without those of a target return.

    Keys are names, or tuples of which the name is the last.
    """
    if not isinstance(tree, dict):
        return tree
    names = {key: key[-1] if isinstance(key, tuple) else key for key in tree}
    return {
        key: without_target(value) for key, value in tree.items() if names[key] not in OF_A_TARGET
    }
