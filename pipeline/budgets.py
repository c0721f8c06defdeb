"""Budgets of meta-training, `meta.max_…`: how much of each is used, which ends it, what is more.

Configurations and counts are plain mappings, as in config.yaml and summary.json, so that a listing
of runs can do without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Budget(NamedTuple):
    """What a run may use of something, and what it has used."""

    used: float
    most: float  # 0: no limit

    def more(self) -> str:
        """Return a limit to go on with: twice what there was, or what was used."""
        most = 2 * self.most if 2 * self.most > self.used else 2 * self.used
        return f"{most:.6g}" if isinstance(most, float) else str(most)


def budgets(meta: Mapping[str, Any], counts: Mapping[str, Any]) -> dict[str, Budget]:
    """Return the budgets by key of the configuration: limits are of `meta`, what is used, counts.

    Either may be of before there were budgets, and not say.
    """
    used = {
        "max_hours": counts.get("train_s", 0) / 3600,
        "max_inner_steps": counts.get("inner_steps", 0),
        "max_env_steps": counts.get("env_steps", 0),
    }
    return {f"meta.{key}": Budget(count, meta.get(key, 0)) for key, count in used.items()}


def spent(meta: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    """Return the key of the budget that is used up; empty if none is."""
    of_run = budgets(meta, counts).items()
    return next((key for key, budget in of_run if 0 < budget.most <= budget.used), "")
