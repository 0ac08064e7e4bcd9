"""How much a message would become: its items are counted before they are made.

A byte of msgpack can be an empty struct that takes forty in memory, so a bound on bytes bounds nothing. The items of a
message, those in its containers included, follow one another without gaps: one walk over them needs no stack.
"""

from __future__ import annotations

WEIGH_ABOVE_BYTES = 262_144
"""Smaller ones cannot become large: their items are not counted."""
MOST_ITEMS = 1_000_000
"""In one message. Each becomes at most some sixty bytes."""

_EXTRA, _SIZED = 1 << 20, 1 << 24


def _steps() -> list[int]:
    """For each first byte of an item: its size with that byte, marked where more has to be read to know it."""
    steps = [1] * 256
    for code in range(0xA0, 0xC0):  # a short text
        steps[code] = 1 + (code & 0x1F)
    for first, sizes in _AFTER.items():
        for code, size in enumerate(sizes, first):
            steps[code] = size
    return steps


_AFTER = {
    0xC4: (_SIZED + 1, _SIZED + 2, _SIZED + 4),  # bytes
    0xC7: (_SIZED + _EXTRA + 1, _SIZED + _EXTRA + 2, _SIZED + _EXTRA + 4),  # extensions
    0xCA: (5, 9, 2, 3, 5, 9, 2, 3, 5, 9),  # numbers
    0xD4: (3, 4, 6, 10, 18),  # extensions of fixed size
    0xD9: (_SIZED + 1, _SIZED + 2, _SIZED + 4),  # text
    0xDC: (3, 5, 3, 5),  # containers: their items follow
}
"""From these first bytes on."""
_STEPS = _steps()


def is_heavy(body: bytes | bytearray | memoryview, most: int = MOST_ITEMS) -> bool:
    """True when `body` holds more items than a message may. What is no msgpack is for the decoder to say."""
    if len(body) <= WEIGH_ABOVE_BYTES:
        return False
    data = bytes(body) if isinstance(body, memoryview) else body
    steps, at, end, items = _STEPS, 0, len(body), 0
    while at < end:
        items += 1
        if items > most:
            return True
        step = steps[data[at]]
        if step >= _SIZED:
            extra = step & _EXTRA
            width = step & 0xFF
            step = 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "big") + (extra != 0)
        at += step
    return False
