"""One bit a weight, eight to a byte, the first in the highest bit: counting them, and comparing numbers bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np

Packed = np.ndarray[Any, np.dtype[np.uint8]]


def count_ones(packed: Packed) -> int:
    """Return how many bits are 1: the weights that a packed mask keeps, as what pads its last byte is 0."""
    # By words of eight bytes: an eighth of the counts to add up.
    whole = len(packed) // 8 * 8
    words, rest = packed[:whole].view(np.uint64), packed[whole:]
    return int(np.bitwise_count(words).sum(dtype=np.int64)) + int(np.bitwise_count(rest).sum(dtype=np.int64))


class BitPlanes:
    """Small numbers taken apart into packed planes, one for each of their bits: many comparisons share few packings.

    Comparing packed bits with a bound is one operation on an eighth of a byte a number and bit; bounds whose lower
    bits are the same share those operations too.

    Args:
        numbers: (n,), uint8.
        largest: No number exceeds it.
    """

    def __init__(self, numbers: Packed, largest: int) -> None:
        self._planes = [np.packbits(numbers & np.uint8(1 << i)) for i in range(largest.bit_length())]
        self._found: dict[tuple[int, int], Packed] = {}

    def at_least(self, bound: int, out: Packed) -> None:
        """Write where the numbers are at least ``bound``, from 1 to the largest, packed."""
        self._compare(len(self._planes), bound, out)

    def _compare(self, bits: int, bound: int, out: Packed | None = None) -> Packed:
        """Compare only the lowest bits, one of which is 1 in the bound."""
        plane, top = self._planes[bits - 1], 1 << (bits - 1)
        rest = bound & (top - 1)
        combine = np.bitwise_and if bound & top else np.bitwise_or
        return combine(plane, self._lower(bits - 1, rest) if rest else plane, out=out)

    def _lower(self, bits: int, bound: int) -> Packed:
        """As :meth:`_compare`, once for all bounds whose lowest bits are these."""
        if (bits, bound) not in self._found:
            self._found[bits, bound] = self._compare(bits, bound)
        return self._found[bits, bound]
