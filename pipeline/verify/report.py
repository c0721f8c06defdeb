"""What a check of a run comes to, line by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

MAX_LINE_CHARACTERS = 500
MAX_NAMED = 10  # of things that are wrong in the same way


@dataclass(slots=True)
class Report:
    """What was found wrong, what is worth knowing, what was looked at and what could not be."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # no problems: what a killed process left, say
    not_checked: list[str] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)

    def take(self, what: str, problems: Iterable[str]) -> None:
        """Add the problems that a check of `what` yields, as they come.

        No bytes on disk may end the command: where a check gives up on them in a way that it does
        not know, that is a problem too.
        """
        with self.safely(what):
            for line in problems:
                self.problems.append(one_line(line))

    @contextmanager
    def safely(self, what: str) -> Iterator[None]:
        """Make a problem of `what` of anything that the block raises."""
        try:
            yield
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self.problems.append(one_line(f"{what}: cannot be read ({reason})"))

    def note(self, line: str) -> None:
        """Add something that is no problem."""
        self.notes.append(one_line(line))

    def skip(self, line: str) -> None:
        """Add something that could not be checked, and why."""
        self.not_checked.append(one_line(line))


def one_line(text: str) -> str:
    """Return `text` as one line that any terminal takes, of a length to read."""
    line = " ".join(text.encode(errors="backslashreplace").decode().split())
    line = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)
    return line if len(line) <= MAX_LINE_CHARACTERS else f"{line[: MAX_LINE_CHARACTERS - 1]}…"


def few(problems: Iterable[str], what: str) -> Iterator[str]:
    """Yield the first MAX_NAMED problems, and how many more `what` has."""
    rest = 0
    for count, line in enumerate(problems):
        if count < MAX_NAMED:
            yield line
        else:
            rest += 1
    if rest:
        yield f"{what}: {rest} more problems like these"


def together(found: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield once what is wrong in the same way with several metrics: (name, what), both texts."""
    names: dict[str, list[str]] = {}
    for name, what in found:
        names.setdefault(what, []).append(name)
    for what, of in names.items():
        rest = len(of) - 1
        yield (
            of[0] + (f" and {rest} more metrics" if rest > 1 else f" and {of[1]}" if rest else ""),
            what,
        )


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers in few words: 3, 5-7 and 12 more."""
    parts: list[tuple[int, int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], number)
        else:
            parts.append((number, number))
    shown = [f"{a}" if a == b else f"{a}-{b}" for a, b in parts[:MAX_NAMED]]
    rest = sum(b - a + 1 for a, b in parts[MAX_NAMED:])
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
