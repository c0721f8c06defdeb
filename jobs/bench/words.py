"""What a benchmark asks of an experiment, as far as its user does not ask for something else."""

from __future__ import annotations

from collections.abc import Iterable


def overridden(words: Iterable[str], overrides: Iterable[str]) -> list[str]:
    """Return `key=value` words, those of `overrides` in place of those of the same key."""
    asked = list(overrides)
    keys = {word.partition("=")[0] for word in asked}
    return [word for word in words if word.partition("=")[0] not in keys] + asked
