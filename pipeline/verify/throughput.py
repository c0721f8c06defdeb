"""summary.json's `throughput`: of the last process that took outer steps, against the counters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pipeline.verify.alike import same
from pipeline.verify.subject import Sound

COUNTED = ("inner_steps", "env_steps")
SECONDS = "seconds"  # older versions gave the quotients alone
NAME = "summary.json: throughput"


def throughput_problems(summary: dict[str, Any], newest: Sound) -> Iterator[str]:
    """Yield figures that are no quotient of the steps and seconds beside them, or more than all.

    A run of no steps has no throughput.
    """
    said = summary.get("throughput", {})
    rates = {f"{name}_per_s": name for name in COUNTED}
    known = (*rates, *COUNTED, SECONDS)
    if not isinstance(said, dict) or any(not _is_positive(said.get(key, 1)) for key in known):
        yield f"{NAME} is {said!r:.80}"
        return
    seconds = said.get(SECONDS)
    for rate, name in rates.items():
        taken, in_all = said.get(name), getattr(newest.counters, name)
        if rate not in said:
            if in_all and "throughput" in summary and (taken is not None or name == "inner_steps"):
                yield f"{NAME} has no {rate}"
        elif seconds is None:
            continue
        elif taken is None or not same(said[rate], taken / seconds):
            yield f"{NAME}.{rate} is {said[rate]!r:.40}, of {taken} steps in {seconds} s"
        elif taken > in_all:
            yield f"{NAME}.{name} is {taken}, of {in_all} in the whole run"
    if seconds is not None and _is_of_one_process(said, newest):
        at_least = newest.counters.train_s
        if seconds < at_least and not math.isclose(seconds, at_least):
            yield f"{NAME}.{SECONDS} is {seconds}, and the outer steps alone took {at_least}"


def _is_of_one_process(said: dict[str, Any], newest: Sound) -> bool:
    """Whether one process took all steps; a task that was dropped may have taken none."""
    counters = newest.counters
    return said.get("inner_steps") == counters.inner_steps and not counters.dropped


def _is_positive(number: Any) -> bool:
    return type(number) in (int, float) and 0 < number < math.inf
