"""Statistics of a checkpoint's weights: what changes in them over pre-training.

Each matrix is read once. What is counted and summed over its parts adds up exactly, so that the statistics of all
prunable weights together come from the same pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from essential_sparsity.checkpoints.tensors import open_weights
from essential_sparsity.emergence.tables import MEASURED
from essential_sparsity.tables import Row, stack, write_table

# Fixed thresholds of |w|; the paper counts weights near zero at fixed magnitudes, too.
ABSOLUTE_THRESHOLDS = (1e-4, 1e-3, 1e-2, 1e-1)
# In standard deviations of the matrix, and in medians of its |w|. A few large weights raise the standard deviation, and
# with it the share below a tenth of it, without any weight coming nearer to zero; they leave the median where it is.
STD_THRESHOLDS = (0.1,)
MEDIAN_THRESHOLDS = (0.01, 0.1)

# 8 MB as float64: what a sweep holds beside the matrix.
_PART = 1 << 20
# The exponent of a float64 and the first two bits of its mantissa: four bins an octave, told by a shift.
_MANTISSA_BITS = 52
_LEADING_BITS = 2
_SHIFT = _MANTISSA_BITS - _LEADING_BITS
BINS = 1 << (11 + _LEADING_BITS)


class Moments(NamedTuple):
    """Number, mean, and sums of the second to fourth powers of deviations from it, and of |w| and of w squared.

    They are merged by the formulas of Chan, Golub and LeVeque (1979) and Pebay (SAND2008-6212), which lose no digits
    where the mean is large beside the spread.
    """

    n: int = 0
    mean: float = 0.0
    second: float = 0.0
    third: float = 0.0
    fourth: float = 0.0
    magnitude: float = 0.0
    square: float = 0.0

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """Return those of float64 values; of none, zeros."""
        if not values.numel():
            return cls()
        mean = float(values.mean())
        centred = values - mean
        squares = centred * centred
        return cls(
            values.numel(), mean, float(squares.sum()), float((squares * centred).sum()),
            float((squares * squares).sum()), float(values.abs().sum()), float((values * values).sum()),
        )  # fmt: skip

    def merged(self, other: Moments) -> Moments:
        """Return those of both parts together."""
        n = self.n + other.n
        if not n:
            return self
        d, a, b = other.mean - self.mean, self.n / n, other.n / n
        return Moments(
            n,
            self.mean + d * b,
            self.second + other.second + d**2 * a * other.n,
            self.third + other.third + d**3 * a * b * (self.n - other.n) + 3 * d * (a * other.second - b * self.second),
            self.fourth + other.fourth + d**4 * a * b * (self.n**2 - self.n * other.n + other.n**2) / n
            + 6 * d**2 * (a**2 * other.second + b**2 * self.second)
            + 4 * d * (a * other.third - b * self.third),
            self.magnitude + other.magnitude,
            self.square + other.square,
        )  # fmt: skip

    @property
    def std(self) -> float:
        """The population's standard deviation."""
        return math.sqrt(self.second / self.n)

    @property
    def kurtosis(self) -> float:
        """``E[(w - mean)^4] / var^2 - 3`` with population moments: 0 for a normal distribution, and for a constant."""
        # A variance below the rounding of the values is none.
        spread = self.second / self.n > (1e-15 * max(abs(self.mean), math.sqrt(self.square / self.n))) ** 2
        return self.n * self.fourth / self.second**2 - 3.0 if spread and self.second**2 > 0 else 0.0

    @property
    def hoyer(self) -> float:
        """``(sqrt(n) - |w|_1 / |w|_2) / (sqrt(n) - 1)``: 0 for equal magnitudes, 1 for a single non-zero weight.

        Source: Hoyer, Non-negative matrix factorization with sparseness constraints, JMLR 2004. 0.0 for all zeros.
        """
        if self.square == 0.0 or self.n == 1:
            return 0.0
        root = math.sqrt(self.n)
        # Equal magnitudes may come out below 0 by rounding.
        return min(1.0, max(0.0, (root - self.magnitude / math.sqrt(self.square)) / (root - 1.0)))


@dataclass(frozen=True)
class Tally:
    """What is known of some weights; of two sets of weights it adds up.

    Attributes:
        moments: Their moments.
        zeros: How many are exactly zero.
        below: How many lie below each of the absolute thresholds.
        below_own: How many lie below each of the thresholds of their own matrix: those of std, then of the median.
        histogram: Number of weights by |w|, int64 of length ``BINS``: see :func:`bin_edges`.
    """

    moments: Moments
    zeros: int
    below: tuple[int, ...]
    below_own: tuple[int, ...]
    histogram: Tensor

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.moments.merged(other.moments), self.zeros + other.zeros, _summed(self.below, other.below),
            _summed(self.below_own, other.below_own), self.histogram + other.histogram,
        )  # fmt: skip

    def statistics(self) -> dict[str, float]:
        """Return the statistics by their names in the table of weights; fractions are of the number of weights."""
        n = self.moments.n
        fractions = dict(zip(_FRACTIONS, (*self.below, *self.below_own), strict=True))
        return {
            "n": n,
            "mean": self.moments.mean,
            "std": self.moments.std,
            "mean_magnitude": self.moments.magnitude / n,
            "fraction_zero": self.zeros / n,
            **{name: count / n for name, count in fractions.items()},
            "kurtosis": self.moments.kurtosis,
            "hoyer": self.moments.hoyer,
        }


_FRACTIONS = (
    *(f"fraction_below_{t:g}" for t in ABSOLUTE_THRESHOLDS),
    *(f"fraction_below_{t:g}_std" for t in STD_THRESHOLDS),
    *(f"fraction_below_{t:g}_median" for t in MEDIAN_THRESHOLDS),
)


def _summed(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(add, a, b))


def tally(weight: Tensor, part: int = _PART) -> Tally:
    """Count and sum the weights of a matrix, in parts of ``part`` values.

    A second sweep over the same memory counts what lies below the matrix's own standard deviation and median, which
    the first one finds. Counts are exact whatever the parts.
    """
    parts = _parts(weight, part)
    first = reduce(add, map(_counted, parts()))
    median = _median(first.histogram, parts)
    limits = [t * first.moments.std for t in STD_THRESHOLDS] + [t * median for t in MEDIAN_THRESHOLDS]
    own = reduce(_summed, (_below(values.abs(), limits) for values in parts()))
    return Tally(first.moments, first.zeros, first.below, own, first.histogram)


def _parts(weight: Tensor, part: int) -> Callable[[], Iterator[Tensor]]:
    flat = weight.reshape(-1)
    return lambda: (values.to(torch.float64) for values in flat.split(part))


def _counted(values: Tensor) -> Tally:
    size = values.abs()
    histogram = torch.bincount(size.view(torch.int64) >> _SHIFT, minlength=BINS).cpu()
    zeros = values.numel() - int(torch.count_nonzero(values))
    own = (0,) * (len(STD_THRESHOLDS) + len(MEDIAN_THRESHOLDS))
    return Tally(Moments.of(values), zeros, _below(size, ABSOLUTE_THRESHOLDS), own, histogram)


def _below(size: Tensor, limits: Iterable[float]) -> tuple[int, ...]:
    return tuple(int(torch.count_nonzero(size < limit)) for limit in limits)


def _median(histogram: Tensor, parts: Callable[[], Iterator[Tensor]]) -> float:
    """Return the lower median of |w|: the histogram says in which bin it lies, and the values of that bin which."""
    cumulative = histogram.cumsum(0)
    rank = (int(cumulative[-1]) + 1) // 2
    place = int(torch.searchsorted(cumulative, rank))
    inside = []
    for values in parts():
        size = values.abs()
        inside.append(size[(size.view(torch.int64) >> _SHIFT) == place])
    return float(torch.cat(inside).kthvalue(rank - int(cumulative[place]) + int(histogram[place])).values)


def bin_edges(places: Tensor) -> Tensor:
    """Return the lower edges of bins as float64: four an octave, so that bin ``b`` ends where ``b + 1`` begins."""
    return torch.bitwise_left_shift(places.to(torch.int64), _SHIFT).view(torch.float64)


def histogram_rows(histogram: Tensor, zeros: int) -> pd.DataFrame:
    """Return ``low, high, n`` of a histogram of |w|, a row a bin that holds a weight; zeros have a row of their own."""
    counts = histogram.clone()
    # Zero shares its bin with numbers below the smallest normal one.
    counts[0] -= zeros
    places = counts.nonzero().flatten()
    rows = pd.DataFrame({
        "low": bin_edges(places).numpy(), "high": bin_edges(places + 1).numpy(), "n": counts[places].numpy(),
    })  # fmt: skip
    return pd.concat([pd.DataFrame({"low": [0.0], "high": [0.0], "n": [zeros]}), rows], ignore_index=True)


def singular_values(matrix: Tensor) -> Tensor:
    """Return the singular values of a matrix, ascending, as float64.

    They are the roots of the eigenvalues of the smaller Gram matrix, summed up in float64 from parts of the longer
    side: those below 1e-8 of the largest are lost in rounding, where they weigh nothing in a rank below.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    side = tall.shape[1]
    gram = torch.zeros(side, side, dtype=torch.float64, device=matrix.device)
    for rows in tall.split(max(1, _PART // side)):
        part = rows.to(torch.float64)
        gram.addmm_(part.T, part)
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp_min(0.0).sqrt()


def effective_rank(values: Tensor) -> float:
    """Return ``exp(-sum p log p)`` of ``p``, the singular values by their sum; 0.0 for a matrix of zeros.

    Source: Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.
    """
    total = values.sum()
    return float(torch.special.entr(values / total).sum().exp()) if total > 0 else 0.0


def stable_rank(values: Tensor) -> float:
    """Return the sum of the squared singular values by the largest of them; 0.0 for a matrix of zeros."""
    squares = values**2
    return float(squares.sum() / squares.max()) if squares.max() > 0 else 0.0


def spectrum_statistics(weight: Tensor) -> dict[str, float]:
    """Return the ranks of a matrix; NaN for a tensor of other than two dimensions."""
    if weight.ndim != 2:
        return dict(NO_SPECTRUM)
    values = singular_values(weight)
    return {"effective_rank": effective_rank(values), "stable_rank": stable_rank(values)}


NO_SPECTRUM: Mapping[str, float] = {"effective_rank": math.nan, "stable_rank": math.nan}


def no_spectrum(weight: Tensor) -> dict[str, float]:
    """Return ranks that were not computed."""
    return dict(NO_SPECTRUM)


# By the registry's `spectra`.
SPECTRA: Mapping[bool, Callable[[Tensor], dict[str, float]]] = {True: spectrum_statistics, False: no_spectrum}


class Measured(NamedTuple):
    """What a checkpoint's weights are described by.

    Attributes:
        matrices: A row of statistics a matrix, with its ``name``.
        pooled: One row: the statistics of all of them together.
        histograms: ``low, high, n``: their |w|, together.
    """

    matrices: pd.DataFrame
    pooled: pd.DataFrame
    histograms: pd.DataFrame

    def assign(self, **axes: Any) -> Measured:
        """Return the same with further columns in all tables."""
        return Measured(*(frame.assign(**axes) for frame in self))


def measure_checkpoint(
    weights: Path,
    names: Iterable[str],
    device: torch.device,
    spectrum: Callable[[Tensor], dict[str, float]] = spectrum_statistics,
    dtype: torch.dtype | None = None,
) -> Measured:
    """Return the statistics of the named matrices of a checkpoint; each is read once, and one at a time is in memory.

    Args:
        weights: Its safetensors, or the index of its shards.
        names: The prunable matrices.
        device: Where to compute.
        spectrum: What to say of singular values, whose cost grows with the cube of a matrix's smaller side.
        dtype: What to round weights to before they are measured; None for as they are stored.

    Raises:
        ValueError: There are no matrices.
    """
    rows: list[Row] = []
    total: Tally | None = None
    with open_weights(weights) as files:
        for position, name in enumerate(names):
            stored = files.read(name)
            weight = (stored if dtype is None else stored.to(dtype)).to(device)
            found = tally(weight)
            rows.append({"position": position, "name": name, **found.statistics(), **spectrum(weight)})
            total = found if total is None else total + found
    if total is None:
        raise ValueError(f"{weights}: no matrix to measure")
    return Measured(
        pd.DataFrame(rows), pd.DataFrame([total.statistics()]), histogram_rows(total.histogram, total.zeros)
    )


def write_measured(measured: Sequence[Measured], paths: Mapping[str, Path]) -> None:
    """Write the measurements of some checkpoints, with their axes, as tables: one file for each of ``MEASURED``."""
    for name, schema in MEASURED.items():
        write_table(stack((getattr(found, name) for found in measured), schema), schema, paths[name])
