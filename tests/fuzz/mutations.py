"""Damage as disks, networks and enemies do it, for hypothesis: bits, cuts, lies in the right form.

A damage is a short list of edits, which hypothesis can make simpler when a test fails. Where an
edit is, is a number of which the remainder counts: so the same edits fit content of any length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

TOKENS = [
    b"", b"\x00" * 8, b"\xff" * 8, b"{", b"}", b"[", b"]", b'"', b"null", b"-1", b"1e999", b"NaN",
    b"99999999999999999999", b"../../../../tmp/x", b"/etc/passwd", b"\n", b"&a [*a]", b"!!python/x",
    b"!!python/object/apply:os.system [id]", b"*", b"? ", b": ", b"- ", b"\xc3\x28", b"true",
    b"extends: x\n", b"<<: *a", b"PK\x03\x04", b"PK\x05\x06", b"PAR1", b"$tensor",
]  # fmt: skip

T = TypeVar("T")
Edit = Callable[[bytes], bytes]


def _flip(content: bytes, place: int, bit: int) -> bytes:
    if not content:
        return content
    data = bytearray(content)
    data[place % len(data)] ^= 1 << bit
    return bytes(data)


def _replace(content: bytes, place: int, length: int, by: bytes) -> bytes:
    """Put `by` in place of `length` bytes."""
    start = place % (len(content) + 1)
    return content[:start] + by + content[start + length :]


def _overwrite(content: bytes, place: int, by: bytes) -> bytes:
    return _replace(content, place, len(by), by)[: max(len(content), 1)]


def _repeat(content: bytes, place: int, other: int, length: int) -> bytes:
    """Put a part of the content elsewhere a second time."""
    start = other % (len(content) + 1)
    return _replace(content, place, 0, content[start : start + length])


def _cut(content: bytes, place: int) -> bytes:
    return content[: place % (len(content) + 1)]


def _digit(content: bytes, number: int, by: bytes) -> bytes:
    """Change one digit of the text: what still parses, and lies."""
    places = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    return _replace(content, places[number % len(places)], 1, by) if places else content


PLACES = st.integers(0, 2**31)
LENGTHS = st.sampled_from([1, 1, 2, 8, 64, 1024])


def _edits(function: Callable[..., bytes], **arguments: st.SearchStrategy) -> st.SearchStrategy:
    return st.builds(partial, st.just(function), **arguments)


DIGITS = _edits(_digit, number=PLACES, by=st.sampled_from([bytes([c]) for c in b"0123456789-."]))
ANY = st.one_of(
    _edits(_flip, place=PLACES, bit=st.integers(0, 7)),
    _edits(_overwrite, place=PLACES, by=st.binary(min_size=1, max_size=64)),
    _edits(_replace, place=PLACES, length=LENGTHS, by=st.just(b"")),
    _edits(_replace, place=PLACES, length=st.just(0), by=st.sampled_from(TOKENS)),
    _edits(_repeat, place=PLACES, other=PLACES, length=LENGTHS),
    _edits(_cut, place=PLACES),
)
# One in three changes only digits, of which most leave what can be parsed.
DAMAGES = st.one_of(*[st.lists(edits, min_size=1, max_size=4) for edits in (ANY, ANY, DIGITS)])


class Damage:
    """What one attempt does: damages content, and chooses what is damaged."""

    def __init__(self, edits: Sequence[Edit], choice: int) -> None:
        self._edits = edits
        self._choice = choice

    def __repr__(self) -> str:
        edits = [f"{edit.func.__name__}{edit.keywords}" for edit in self._edits]
        return f"Damage([{', '.join(edits)}], {self._choice})"

    def of(self, content: bytes) -> bytes:
        """Return the content, damaged."""
        return reduce(lambda data, edit: edit(data), self._edits, content)

    def choice(self, among: Sequence[T]) -> T:
        """Return one of the things."""
        return among[self._choice % len(among)]


DAMAGE = st.builds(Damage, DAMAGES, PLACES)


def fuzz(attempt: Callable[[Damage], None], count: int) -> None:
    """Call `attempt` with `count` damages, the same each time; the simplest that fails is shown."""
    _run(given(DAMAGE)(attempt), count)


def fuzz_several(attempt: Callable[[list[Damage]], None], count: int) -> None:
    """As `fuzz`, with one to three damages each time."""
    _run(given(st.lists(DAMAGE, min_size=1, max_size=3))(attempt), count)


def _run(test: Callable[[], None], count: int) -> None:
    settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )(test)()
