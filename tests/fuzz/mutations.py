"""Damage as disks, networks and enemies do it: bits, cuts, and lies in the right form."""

from __future__ import annotations

import random

TOKENS = [
    b"", b"\x00" * 8, b"\xff" * 8, b"{", b"}", b"[", b"]", b'"', b"null", b"-1", b"1e999", b"NaN",
    b"99999999999999999999", b"../../../../tmp/x", b"/etc/passwd", b"\n", b"&a [*a]", b"!!python/x",
    b"!!python/object/apply:os.system [id]", b"*", b"? ", b": ", b"- ", b"\xc3\x28", b"true",
    b"extends: x\n", b"<<: *a", b"PK\x03\x04", b"PK\x05\x06", b"PAR1", b"$tensor",
]  # fmt: skip


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Return `content` after one to four kinds of damage."""
    data = bytearray(content)
    for _ in range(draw.randrange(1, 5)):
        place = draw.randrange(len(data) + 1)
        length = min(draw.choice([1, 1, 2, 8, 64, 1024]), len(data) - place)
        kind = draw.randrange(6)
        if kind == 0 and length:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place : place + length] = draw.randbytes(length)
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            data[place:place] = draw.choice(TOKENS)
        elif kind == 4:
            other = draw.randrange(len(data) + 1)
            data[place:place] = data[other : other + length]
        else:
            del data[place:]
    return bytes(data)


def digits_changed(content: bytes, draw: random.Random) -> bytes:
    """Return `content` with a number of its text replaced: what parses, and lies."""
    data = bytearray(content)
    places = [place for place, byte in enumerate(data) if chr(byte).isdigit()]
    for place in draw.sample(places, min(len(places), draw.randrange(1, 4))):
        data[place] = ord(draw.choice("0123456789-."))
    return bytes(data)


def any_damage(content: bytes, draw: random.Random) -> bytes:
    """Return `content`, damaged in one of these ways."""
    return draw.choice([mutated, mutated, digits_changed])(content, draw)
