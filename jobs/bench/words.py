"""What a benchmark asks of an experiment, as far as its user does not ask for something else."""

from __future__ import annotations

from collections.abc import Iterable

SHORT = {"meta.steps": "meta.num_steps"}


def overridden(words: Iterable[str], overrides: Iterable[str]) -> list[str]:
    """Return `key=value` words, those of `overrides` in place of those of the same key."""
    asked = list(overrides)
    keys = {_key(word) for word in asked}
    return [word for word in words if _key(word) not in keys] + asked


def _key(word: str) -> str:
    key = word.partition("=")[0]
    return SHORT.get(key, key)
