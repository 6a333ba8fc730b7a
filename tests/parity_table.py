"""Print, as Markdown, how the library agrees with the oracles on layers of a realistic shape.

``python tests/parity_table.py``; fails if float64 differs by more than 1e-6 or in any mask.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "workflow" / "scripts"), str(ROOT / "tests")]

import oracles.allocation  # noqa: E402
import oracles.refinement  # noqa: E402
import oracles.scores  # noqa: E402
import oracles.selection  # noqa: E402
import oracles.updates  # noqa: E402
import random_layers  # noqa: E402
from essential_sparsity.allocation import ALLOCATIONS  # noqa: E402
from essential_sparsity.inputs import InputStatistics  # noqa: E402
from essential_sparsity.keys import keys_of_scores  # noqa: E402
from essential_sparsity.levels import removed_count  # noqa: E402
from essential_sparsity.manifest import Matrix  # noqa: E402
from essential_sparsity.masks import unpack  # noqa: E402
from essential_sparsity.methods import Method  # noqa: E402
from essential_sparsity.pruning import all_cuts, as_rows, choose, prune_matrix  # noqa: E402
from essential_sparsity.scores import SCORES, ScoreContext  # noqa: E402
from essential_sparsity.selection import find_cuts, keep_masks, removed_counts  # noqa: E402

Array = np.ndarray[Any, np.dtype[Any]]
SAMPLES, TOKENS = 8, 2048
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
PATTERNS = ("2:4", "1:4", "4:8")
# Attention's output and the two halves of an MLP, in three blocks.
SHAPES = ((192, 512), (512, 192), (192, 192))
BLOCKS = 3


@dataclass
class Layers:
    """Fixed random layers in a type, with what the oracles take: the same numbers, in float64."""

    dtype: torch.dtype
    matrices: list[Matrix] = field(default_factory=list)
    w: dict[str, Array] = field(default_factory=dict)
    x: dict[str, Array] = field(default_factory=dict)
    statistics: dict[str, InputStatistics] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for block in range(BLOCKS):
            for i, shape in enumerate(SHAPES):
                seed = 10 * block + i
                m = random_layers.matrix(f"{block}.{i}", *shape, block=block)
                self.matrices.append(m)
                # Tails that differ from block to block, for the allocations to find.
                w = random_layers.weights(seed, *shape)
                self.w[m.name] = self._rounded(np.sign(w) * np.abs(w) ** (1 + block / 4))
                self.x[m.name] = self._rounded(random_layers.activations(seed, TOKENS, m.inputs))
                self.statistics[m.name] = random_layers.statistics(self.x[m.name], SAMPLES, self.dtype)

    def _rounded(self, values: Array) -> Array:
        return torch.tensor(values).to(self.dtype).double().numpy()

    def weight(self, matrix: Matrix) -> torch.Tensor:
        return torch.tensor(self.w[matrix.name]).to(self.dtype)

    def inputs(self, matrix: Matrix) -> InputStatistics:
        return self.statistics[matrix.name]

    def removed_by_magnitude(self, matrices: Sequence[Matrix], with_ties: bool) -> dict[str, list[int]]:
        keys = keys_of_scores({m.name: m.size for m in matrices}, lambda name: torch.tensor(np.abs(self.w[name])))
        return removed_counts(keys, list(keys.sizes), all_cuts(keys))


@dataclass
class Row:
    """A line of the table: the largest difference so far, and how many masks were the same, of how many."""

    method: str
    oracle: str
    difference: float | None = None
    equal: int = 0
    masks: int = 0
    # Of the masks that differ.
    weights: int = 0

    def numbers(self, ours: Array, theirs: Array, scale: Array | None = None) -> None:
        """Compare numbers, each relative to itself or to a scale."""
        scale = np.maximum(np.abs(theirs), np.finfo(np.float64).tiny) if scale is None else scale
        self.difference = max(self.difference or 0.0, float((np.abs(ours - theirs) / scale).max()))

    def mask(self, ours: Array, theirs: Array) -> None:
        self.masks += 1
        self.equal += bool((ours == theirs).all())
        self.weights += int((ours != theirs).sum())

    def update(self, keep: Array, expected_keep: Array, values: Array, expected_values: Array) -> None:
        """Compare a mask and, in its equal rows, the updated weights: what one choice changes is not rounding."""
        self.mask(keep, expected_keep)
        same = (keep == expected_keep).all(axis=1)
        self.numbers(values[same], expected_values[same], np.abs(expected_values).max())

    def __str__(self) -> str:
        difference = "" if self.difference is None else f"{self.difference:.1e}"
        masks = f"{self.equal} of {self.masks}" if self.masks else ""
        if self.weights:
            masks += f" ({self.weights} weights differ in all)"
        return f"{self.method} | {self.oracle} | {difference} | {masks}"


def chosen(scores: torch.Tensor, m: Matrix, method: Method, level: float) -> Array:
    """What the library keeps by these scores, within a matrix."""
    (removed,) = choose(scores, m, method, [level])
    return (~removed).numpy()


def expected(scores: Array, method: Method, level: float) -> Array:
    """What the oracle keeps by its own."""
    if method.group is not None:
        return oracles.selection.n_of_m(scores, *method.group)
    by_scope = {
        "layer": oracles.selection.layer, "row": oracles.selection.row, "column-block": oracles.selection.column_block,
    }  # fmt: skip
    return by_scope[method.scope](scores, level)


def score_rows(layers: Layers) -> Iterator[Row]:
    """Scores and the masks by them: every scope, and patterns."""
    for name, score in SCORES.items():
        if score.stochastic:
            continue
        formula: Callable[..., Array] = getattr(oracles.scores, name)
        row = Row(f"score {name}", f"scores.{name}, selection.*")
        ours, theirs = {}, {}
        for m in layers.matrices:
            context = ScoreContext(m.name, inputs=layers.inputs(m))
            ours[m.name] = score.compute(layers.weight(m), context)
            w, x = layers.w[m.name], layers.x[m.name]
            theirs[m.name] = formula(w) if name == "magnitude" else formula(w, x, SAMPLES)
            row.numbers(ours[m.name].double().numpy(), theirs[m.name])
            for scope in ("layer", "row", "column-block"):
                for level in LEVELS:
                    method = Method(name, scope)
                    row.mask(chosen(ours[m.name], m, method, level), expected(theirs[m.name], method, level))
            for pattern in PATTERNS:
                method = Method(name, "row", pattern=pattern)
                row.mask(chosen(ours[m.name], m, method, 0.5), expected(theirs[m.name], method, 0.5))
        sizes = {m.name: m.size for m in layers.matrices}
        keys = keys_of_scores(sizes, lambda matrix, ours=ours: ours[matrix])  # type: ignore[misc]
        cuts = find_cuts(keys, list(sizes), [removed_count(s, sum(sizes.values())) for s in LEVELS])
        found = dict(keep_masks(keys, list(sizes), cuts))
        for i, level in enumerate(LEVELS):
            pool = oracles.selection.global_pool({n: s.astype(np.float32) for n, s in theirs.items()}, level)
            for m in layers.matrices:
                row.mask(unpack(found[m.name][i], m.shape).numpy(), pool[m.name])
        yield row


def allocation_rows(layers: Layers) -> Iterator[Row]:
    """Sparsities of the matrices, and Wanda's masks of those."""
    blocks = [[m for m in layers.matrices if m.block == b] for b in range(BLOCKS)]
    sizes = [sum(m.size for m in members) for members in blocks]
    shapes = [(m.outputs, m.inputs) for m in layers.matrices]
    wanda = {n: oracles.scores.wanda(layers.w[n], layers.x[n], SAMPLES) for n in layers.w}
    ours = {
        m.name: SCORES["wanda"].compute(layers.weight(m), ScoreContext(inputs=layers.inputs(m)))
        for m in layers.matrices
    }
    shares = [oracles.allocation.outlier_share([wanda[m.name] for m in members]) for members in blocks]

    spectra = [[oracles.allocation.spectrum(layers.w[m.name]) for m in members] for members in blocks]

    def exponents(slip: bool) -> list[float]:
        return [float(np.mean([oracles.allocation.power_law_exponent(s, slip) for s in found])) for found in spectra]

    exact, slipped = exponents(slip=False), exponents(slip=True)

    def of_blocks(per_block: Array) -> Array:
        return np.array([per_block[m.block] for m in layers.matrices])

    formulas: list[tuple[str, str, str, Callable[[float], Array]]] = [
        ("uniform", "exact", "uniform", lambda s: oracles.allocation.uniform(shapes, s)),
        ("erk", "exact", "erk", lambda s: oracles.allocation.erk(shapes, s)),
        ("magnitude", "exact", "magnitude", lambda s: oracles.allocation.magnitude(layers.w, s)),
        ("owl", "exact", "owl", lambda s: of_blocks(oracles.allocation.owl(shares, sizes, s))),
        ("owl", "published", "owl_published", lambda s: of_blocks(oracles.allocation.owl_published(shares, s))),
        (
            "alpha-pruning", "exact", "alpha_pruning",
            lambda s: of_blocks(oracles.allocation.alpha_pruning(exact, sizes, s)),
        ),
        (
            "alpha-pruning", "published", "alpha_pruning_published",
            lambda s: np.minimum(of_blocks(oracles.allocation.alpha_pruning_published(slipped, sizes, s)), 1),
        ),
    ]  # fmt: skip
    for name, compat, formula, allocate in formulas:
        allocation = ALLOCATIONS[name]
        options = {"compat": compat}
        measured = {} if allocation.measure is None else allocation.measure(layers.matrices, layers, options)
        row = Row(f"allocation {name}{' (published)' * (compat == 'published')}", f"allocation.{formula}")
        for level in LEVELS:
            divided = allocation.divide(layers.matrices, level, measured, options)
            theirs = allocate(level)
            row.numbers(np.array(list(divided.values())), theirs)
            for m, sparsity in zip(layers.matrices, theirs, strict=True):
                method = Method("wanda", "layer")
                keep = chosen(ours[m.name], m, method, divided[m.name])
                row.mask(keep, oracles.selection.layer(wanda[m.name], float(sparsity)))
        yield row


def matrix_rows(layers: Layers) -> Iterator[Row]:
    """What is done to one matrix: SparseGPT's choice, refinement and updates."""
    m = layers.matrices[0]
    w, x, weight = layers.w[m.name], layers.x[m.name], layers.weight(m)

    def ours(level: float, **slots: Any) -> tuple[Array, Array]:
        (found,) = prune_matrix(weight, m, Method(**slots), [level], 0, layers.inputs(m))
        keep = unpack(found.packed, m.shape)
        values = torch.zeros(m.shape, dtype=torch.float64)
        if found.values is not None:
            values[keep] = found.values.double()
        return as_rows(keep, m).numpy(), as_rows(values, m).numpy()

    sgpt = {"score": "sparsegpt", "update": "sparsegpt"}
    for compat in ("exact", "published"):
        row = Row(f"SparseGPT{' (published)' * (compat == 'published')}", "updates.sparsegpt")
        for level in LEVELS[1::2]:
            keep, values = ours(level, **sgpt, scope="column-block", compat=compat)
            expected_keep, expected_values = oracles.updates.sparsegpt(
                w, x, SAMPLES, level, published=compat == "published"
            )
            row.update(keep, expected_keep, values, expected_values)
        yield row
    row = Row(f"SparseGPT {', '.join(PATTERNS)}", "updates.sparsegpt_n_of_m")
    for pattern in PATTERNS:
        kept, size = map(int, pattern.split(":"))
        keep, values = ours(0.5, **sgpt, scope="row", pattern=pattern)
        expected_keep, expected_values = oracles.updates.sparsegpt_n_of_m(w, x, SAMPLES, kept, size)
        row.update(keep, expected_keep, values, expected_values)
    yield row
    scores: Mapping[str, Array] = {"magnitude": np.abs(w), "wanda": oracles.scores.wanda(w, x, SAMPLES)}
    row = Row("refinement dsnot", "refinement.dsnot")
    for name, score in scores.items():
        for level in LEVELS:
            keep, _ = ours(level, score=name, scope="row", refinement="dsnot")
            start = oracles.selection.row(score, level)
            row.mask(keep, oracles.refinement.dsnot(w, start, x, SAMPLES))
    yield row
    for update, formula in (
        ("sparsegpt", oracles.updates.sparsegpt_given), ("reconstruct", oracles.updates.reconstruct),
    ):  # fmt: skip
        row = Row(f"update {update}", f"updates.{formula.__name__}")
        for level in LEVELS[1::2]:
            keep, values = ours(level, score="wanda", scope="row", update=update)
            start = oracles.selection.row(scores["wanda"], level)
            row.update(keep, start, values, formula(w, start, x, SAMPLES))
        yield row


def main() -> int:
    """Print the table."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    print(
        f"{BLOCKS} blocks of {len(SHAPES)} matrices ({', '.join(f'{a} x {b}' for a, b in SHAPES)}), "
        f"{TOKENS} correlated tokens of {SAMPLES} sequences; levels {', '.join(map(str, LEVELS))}.\n"
        "The oracles compute in float64 on the same numbers. Differences of scores and sparsities are relative to\n"
        "each number, those of updated weights, in rows whose masks are equal, to the largest.\n"
    )
    print("| Computed in | Method | Oracle | Largest relative difference | Equal masks |")
    print("|---|---|---|---|---|")
    worst = 0
    for dtype in (torch.float64, torch.float32):
        layers = Layers(dtype)
        for rows in (score_rows, allocation_rows, matrix_rows):
            for row in rows(layers):
                print(f"| {str(dtype).removeprefix('torch.')} | {row} |", flush=True)
                worst += dtype is torch.float64 and (row.weights > 0 or (row.difference or 0.0) > 1e-6)
    return min(worst, 1)


if __name__ == "__main__":
    sys.exit(main())
