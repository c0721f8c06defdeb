"""Whether the checkpoints are of the run that config.yaml says, and all of one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.resumable import fixed_differences
from pipeline.verify.report import Report
from pipeline.verify.subject import Sound

if TYPE_CHECKING:
    from pipeline.config import Experiment

Differences = dict[str, tuple[Any, Any]]  # by key: in config.yaml, in a checkpoint


def check_origin(
    found: Sequence[Sound], experiment: Experiment | None, report: Report
) -> tuple[tuple[Sound, ...], frozenset[str]]:
    """Return the checkpoints that are of the run, and keys of config.yaml that none bears out.

    What all checkpoints have otherwise is put down to config.yaml, else to the checkpoint.
    """
    if experiment is None or not found:
        return tuple(found), frozenset()
    differing = [_differences(one, experiment) for one in found]
    shared = {key: of for key, of in differing[0].items() if all(key in d for d in differing)}
    report.take("config.yaml", _config_problems(shared))
    of_run: list[Sound] = []
    for one, differences in zip(reversed(found), reversed(differing), strict=True):
        own = {key: of for key, of in differences.items() if key not in shared}
        wrong = _what_is_foreign(own, one.data, of_run[0].data if of_run else "")
        if wrong:
            report.take("checkpoints", [f"checkpoints/step-{one.step:06d}: {wrong}"])
        else:
            of_run.append(one)
    return tuple(reversed(of_run)), frozenset(shared)


def _differences(one: Sound, experiment: Experiment) -> Differences:
    differences = fixed_differences(experiment, one.experiment)
    return {key: (here, there) for key, here, there in differences}


def _config_problems(shared: Differences) -> Iterator[str]:
    if shared:
        key, (here, there) = next(iter(shared.items()))
        yield (
            f"config.yaml: {key} is {here!r:.80}, and {there!r:.80} in the checkpoints"
            f"{_more(shared)}"
        )


def _what_is_foreign(own: Differences, data: str, data_of_run: str) -> str:
    """Return what says that a checkpoint is of another run; empty if nothing does."""
    if own:
        key, (here, there) = next(iter(own.items()))
        return (
            f"is of another run: its {key} is {there!r:.80}, and {here!r:.80} in config.yaml"
            f"{_more(own)}"
        )
    if data and data_of_run and data != data_of_run:
        return "is of another run: its data are not those of the newest checkpoint"
    return ""


def _more(differences: Differences) -> str:
    rest = len(differences) - 1
    return f"; {rest} more keys differ" if rest > 1 else "; one more key differs" if rest else ""
