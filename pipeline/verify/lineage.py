""".copied.json: which copies elsewhere the folder has part in, by which the newest is known."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.copy_lineage import KNOWN
from pipeline.files import read_object
from pipeline.verify.report import Report
from pipeline.verify.subject import Subject


def check_lineage(subject: Subject, report: Report) -> None:
    """Check the file by itself: the copies are elsewhere, and not looked at."""
    report.take(KNOWN, _problems(subject))


def _problems(subject: Subject) -> Iterator[str]:
    try:
        known = read_object(subject.run.path / KNOWN)
    except FileNotFoundError:  # the run has to do with no copy
        return
    except ValueError as error:
        yield f"{KNOWN}: {error}"
        return
    number = known.get("number")
    if type(number) is not int or number < 0:
        yield f"{KNOWN}: number is {number!r:.40}"
    for key in ("writers", "damaged"):
        names = known.get(key)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            yield f"{KNOWN}: {key} is {names!r:.40}"
