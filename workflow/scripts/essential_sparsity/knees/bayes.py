"""The rule ``bayes``: a comparison of shapes, some of which have no knee."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from essential_sparsity.inference import Floats
from essential_sparsity.knees.readings import CODES, LEFT, RIGHT, Readings, Settings, is_flat, nothing

# From this probability on, odds of four to one, a curve is said to have a knee.
LEAST_PROBABILITY = 0.8

# Half of the prior is on shapes without a joint. Two joints serve curves that end on a floor, and fit noise easily.
PRIOR = {"flat": 1 / 8, "line": 1 / 8, "parabola": 1 / 8, "power": 1 / 8, "one joint": 0.4, "two joints": 0.1}

# Powers of the sparsity that have no plateau: a cubic has lost a twentieth of its fall at 37 % of the range.
_EXPONENTS = np.linspace(1.0, 3.0, 33)

# A joint is a knee only if the segment after it falls by this share of the curve's range: noise around a level is none.
_LEAST_FALL = 0.05

# Priors on axes scaled to [0, 1]: heights are uniform over twice the curve's range; the variance of the noise is
# inverse gamma, as if one residual of 1 % of the range had been seen.
_WIDTH, _NOISE, _SEEN = 2.0, 0.01, 1.0

# Joints are placed in the middle of so many cells of equal width; for pairs of joints, of so many.
_CELLS, _PAIR_CELLS = 192, 24


@dataclass(frozen=True)
class _Shape:
    """A family of shapes that are linear in heights: everything that does not depend on the scores.

    Attributes:
        basis: Orthonormal bases of what the designs span, of shape (levels, designs * heights).
        constant: The logarithm of the marginal likelihood but for the term with residuals, of shape (designs,).
        exponent: What the residual's logarithm is multiplied by in the marginal likelihood.
        heights: How many heights a shape has.
        joints: For each joint in turn, its cell, of shape (designs,); empty for shapes without a joint.
        slopes: The slopes of the segments as linear maps of the scores, each of shape (levels, designs).
        widths: The widths of the segments, each of shape (designs,).
    """

    basis: Floats
    constant: Floats
    exponent: float
    heights: int
    joints: tuple[np.ndarray[tuple[int, ...], np.dtype[np.intp]], ...] = ()
    slopes: tuple[Floats, ...] = ()
    widths: tuple[Floats, ...] = ()

    def log_likelihood(self, heights: Floats) -> Floats:
        """Return the logarithm of the marginal likelihood, of shape (draws, designs)."""
        projected = (heights @ self.basis).reshape(len(heights), -1, self.heights)
        residual = (heights**2).sum(axis=1, keepdims=True) - np.einsum("dmk,dmk->dm", projected, projected)
        likelihood: Floats = self.constant - self.exponent * np.log(np.maximum(residual, 0.0) + _SEEN * _NOISE**2)
        return likelihood


def read_bayes(sparsity: Floats, scores: Floats, settings: Settings, chance: float | None) -> Readings:
    """Return the posterior median of the knee where a curve probably has one.

    Six shapes are compared by their marginal likelihood: flat, a line, a parabola, a power of the sparsity between the
    first and the third, a line with one joint, and one with two. A shape is given by its heights at sparsity 0, at the
    last level and at its joints (of the parabola, in the middle); joints and exponents are uniform over a grid. With k
    heights, n levels, the design B, whose rows weight the heights at a level, and the residual sum of squares RSS of
    the best fit, the marginal likelihood at given joints or exponent is

    ``(2 pi)^(k/2) 2^-k |B'B|^(-1/2) Gamma(e) (2 / (RSS + 0.01^2))^e``,  ``e = (n - k + 1) / 2``,

    the exact integral over heights and noise but that heights are not cut off at their bounds. The prior of each
    shape is :data:`PRIOR`. A joint is a knee if the segment after it falls faster than the one before it, and by a
    twentieth of the range or more; the probability of a knee is that of the shapes with such a joint, and the knee is
    the first of them. Comparing shapes with and without a joint follows Tiwari et al., Bayesian model selection for
    join point regression, JRSS C 2005; the threshold of four to one is Kass and Raftery's *positive* evidence, Bayes
    factors, JASA 1995.

    Censored to the left, at the first level, where the median lies before it; to the right, at the last but one level,
    where it lies after that.

    Fails: stairs of several cliffs look like a line; a smooth curve that bends more than a cubic does is given a knee;
    noise of a twenty-fifth of the range hides nearly every other bend in its first half, which then looks like a power;
    the levels are taken to be equally noisy.
    """
    found = nothing(len(scores))
    density = _posterior(sparsity, scores)[1]
    probable = density.sum(axis=1) >= LEAST_PROBABILITY
    found.knee[probable] = _median(density[probable]) * sparsity[-1]
    found.censored[found.knee < sparsity[1]] = CODES[LEFT]
    found.censored[found.knee > sparsity[-2]] = CODES[RIGHT]
    return Readings(np.clip(found.knee, sparsity[1], sparsity[-2]), found.censored)


def explain_bayes(
    sparsity: Floats, score: Floats, settings: Settings, chance: float | None, knee: float | None
) -> tuple[str, ...]:
    """Say how probable a knee is that is not probable enough, and which shape is the most probable."""
    if knee is not None:
        return ()
    if is_flat(score[None])[0]:
        return ("flat curve",)
    shapes, density = _posterior(sparsity, score[None])
    likeliest = max(shapes, key=lambda name: float(shapes[name][0]))
    return (f"a knee has a probability of {100 * float(density.sum()):.0f} % (likeliest shape: {likeliest})",)


def _posterior(sparsity: Floats, scores: Floats) -> tuple[dict[str, Floats], Floats]:
    """Return the probability of each shape, of shape (draws,), and that of the knee in each cell, (draws, cells)."""
    level = is_flat(scores)
    span = np.where(level, 1.0, np.ptp(scores, axis=1))
    heights = (scores - scores.min(axis=1, keepdims=True)) / span[:, None] - 0.5
    shapes = _shapes(tuple(float(s) for s in sparsity))
    logs = {name: math.log(PRIOR[name]) + shape.log_likelihood(heights) for name, shape in shapes.items()}
    top = np.max([log.max(axis=1) for log in logs.values()], axis=0)[:, None]
    # The prior of a shape is spread evenly over its designs.
    weights = {name: np.exp(log - top) / log.shape[1] for name, log in logs.items()}
    total = sum(weight.sum(axis=1) for weight in weights.values())
    density = np.zeros((len(scores), _CELLS))
    for name, shape in shapes.items():
        taken = np.zeros(weights[name].shape, dtype=bool)
        slopes = [heights @ slope for slope in shape.slopes]
        for joint, before, after, width in zip(shape.joints, slopes[:-1], slopes[1:], shape.widths[1:], strict=True):
            knee = (after < -_LEAST_FALL / width) & (after < before) & ~taken
            taken |= knee
            cells = _CELLS if len(shape.joints) == 1 else _PAIR_CELLS
            mass = np.where(knee, weights[name], 0.0) @ (joint[:, None] == np.arange(cells))
            density += np.repeat(mass, _CELLS // cells, axis=1) * cells / _CELLS
    density = np.where(level[:, None], 0.0, density / total[:, None])
    return {name: weight.sum(axis=1) / total for name, weight in weights.items()}, density


def _median(density: Floats) -> Floats:
    """Return the medians of distributions over cells of [0, 1], linear within a cell."""
    sums = np.cumsum(density, axis=1)
    half = sums[:, -1] / 2
    # The first cell whose sum reaches the half has a density above 0.
    cell = (sums < half[:, None]).sum(axis=1)
    draws = np.arange(len(density))
    median: Floats = (cell + 1 - (sums[draws, cell] - half) / density[draws, cell]) / _CELLS
    return median


@lru_cache(maxsize=16)
def _shapes(sparsity: tuple[float, ...]) -> dict[str, _Shape]:
    """Return what the shapes need on a grid of levels; the grid is scaled to [0, 1] first."""
    levels = np.array(sparsity) / sparsity[-1]
    middles = (np.arange(_CELLS) + 0.5) / _CELLS
    pair_middles = (np.arange(_PAIR_CELLS) + 0.5) / _PAIR_CELLS
    pairs = np.stack(np.triu_indices(_PAIR_CELLS, 1), axis=1)
    parabola = np.stack([(1 - levels) * (1 - 2 * levels), 4 * levels * (1 - levels), levels * (2 * levels - 1)], axis=1)
    power = levels ** _EXPONENTS[:, None]
    return {
        "flat": _smooth(np.ones((1, len(levels), 1))),
        "line": _smooth(np.stack([1 - levels, levels], axis=1)[None]),
        "parabola": _smooth(parabola[None]),
        "power": _smooth(np.stack([1 - power, power], axis=2)),
        "one joint": _joined(levels, middles[:, None], np.arange(_CELLS)[:, None]),
        "two joints": _joined(levels, pair_middles[pairs], pairs),
    }


def _smooth(design: Floats) -> _Shape:
    """Return a shape without a joint from its designs, of shape (designs, levels, heights)."""
    basis, triangle = np.linalg.qr(design)
    return _Shape(*_constants(basis, triangle))


def _joined(levels: Floats, joints: Floats, cells: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> _Shape:
    """Return the shape with joints, of shape (designs, joints), without those that the levels do not determine."""
    nodes = np.concatenate([np.zeros((len(joints), 1)), joints, np.ones((len(joints), 1))], axis=1)
    widths = np.diff(nodes, axis=1)
    # Between two nodes the height is weighted linearly: a hat function of each node.
    share = np.clip((levels[None, :, None] - nodes[:, None, :-1]) / widths[:, None, :], 0.0, 1.0)
    zero, one = np.zeros_like(share[:, :, :1]), np.ones_like(share[:, :, :1])
    design = np.concatenate([one, share], axis=2) - np.concatenate([share, zero], axis=2)
    basis, triangle = np.linalg.qr(design)
    known = np.abs(np.einsum("dkk->dk", triangle)).min(axis=1) > 1e-6
    basis, triangle, widths = basis[known], triangle[known], widths[known]
    heights = np.linalg.solve(triangle, basis.transpose(0, 2, 1))
    slopes = np.diff(heights, axis=1) / widths[:, :, None]
    return _Shape(
        *_constants(basis, triangle),
        joints=tuple(cells[known].T),
        slopes=tuple(np.ascontiguousarray(slopes[:, k].T) for k in range(slopes.shape[1])),
        widths=tuple(widths.T),
    )


def _constants(basis: Floats, triangle: Floats) -> tuple[Floats, Floats, float, int]:
    """Return the first fields of a shape from the QR factors of its designs."""
    designs, levels, heights = basis.shape
    exponent = (levels - heights + _SEEN) / 2
    determinant = np.log(np.abs(np.einsum("dkk->dk", triangle))).sum(axis=1)
    constant = heights * (0.5 * math.log(2 * math.pi) - math.log(_WIDTH)) + math.lgamma(exponent)
    flat = np.ascontiguousarray(basis.transpose(1, 0, 2).reshape(levels, designs * heights))
    return flat, constant + exponent * math.log(2.0) - determinant, exponent, heights
