"""Packed bits against plain NumPy."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from essential_sparsity.pruning.bits import BitPlanes, count_ones

NUMBERS = st.lists(st.integers(0, 255), min_size=1, max_size=200).map(lambda found: np.array(found, dtype=np.uint8))


@settings(deadline=None, derandomize=True)
@given(NUMBERS)
def test_ones_are_counted_in_any_number_of_bytes(numbers: np.ndarray) -> None:
    assert count_ones(numbers) == int(np.unpackbits(numbers).sum())


@settings(deadline=None, derandomize=True)
@given(NUMBERS, st.integers(0, 255))
def test_comparisons_of_bit_planes_are_those_of_numbers(numbers: np.ndarray, beyond: int) -> None:
    largest = max(int(numbers.max()), beyond, 1)
    planes = BitPlanes(numbers, largest)
    # Up and down: what one bound leaves behind must not mislead another.
    for bound in [*range(1, largest + 1), *range(largest, 0, -1)]:
        expected = np.packbits(numbers >= bound)
        found = np.full_like(expected, 0x55)
        planes.at_least(bound, out=found)
        np.testing.assert_array_equal(found, expected, err_msg=str(bound))
