"""Pruning a checkpoint by a method: which weights of each matrix are kept, and what they are changed to.

Weights are read matrix by matrix from the checkpoint's files; no model is built. Methods that need the inputs of the
layers take them from statistics of the dense model; pruning block by block is :mod:`pruning.streaming`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace

import torch
from torch import Tensor

from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.checkpoints.tensors import WeightFiles
from essential_sparsity.errors import UserError
from essential_sparsity.methods.allocation import ALLOCATIONS, Measured
from essential_sparsity.methods.levels import ALL, level_index, removed_count
from essential_sparsity.methods.method import Method
from essential_sparsity.methods.refinement import REFINEMENTS
from essential_sparsity.methods.scores import SCORES, Score, ScoreContext
from essential_sparsity.methods.statistics import DAMPING, InputStatistics, inverse_factor, no_statistics
from essential_sparsity.methods.updates import BLOCK_SIZE, UPDATES, sweep_columns
from essential_sparsity.pruning.bits import Packed
from essential_sparsity.pruning.keys import KeySource, keys_of_files, keys_of_scores
from essential_sparsity.pruning.masks import MaskHeader, MaskWriter, pack, unpack
from essential_sparsity.pruning.selection import (
    NOTHING,
    Cut,
    below_published_threshold,
    find_cuts,
    keep_masks,
    removed_counts,
    smallest,
    smallest_in_groups,
    smallest_of_sorted,
    sorted_rows,
)
from essential_sparsity.pruning.statistics import StatisticsFile

Sparsities = Mapping[str, float]


@dataclass(frozen=True)
class PrunedMatrix:
    """What pruning makes of one matrix.

    Attributes:
        packed: The packed keep mask, in the order of the stored tensor.
        values: The kept weights' new values in that order; None if they stay as they are.
        note: What a reader should know; empty if nothing.
    """

    packed: Packed
    values: Tensor | None = None
    note: str = ""


@dataclass(frozen=True)
class PrunableModel:
    """A checkpoint's prunable matrices, read one at a time.

    Attributes:
        files: The checkpoint's tensors.
        matrices: The manifest's rows of the prunable matrices, in the model's order.
        device: Where scores are computed.
        statistics: Of the inputs in the dense model; None if the method needs none.
    """

    files: WeightFiles
    matrices: Sequence[Matrix]
    device: torch.device
    statistics: StatisticsFile | None = None

    def weight(self, matrix: Matrix) -> Tensor:
        """Return a matrix's weights, (outputs, inputs)."""
        return as_rows(self.files.read(matrix.name).to(self.device), matrix)

    def inputs(self, matrix: Matrix) -> InputStatistics:
        """Return the statistics of a matrix's inputs in the dense model.

        Raises:
            UserError: There are none for this matrix.
        """
        if self.statistics is None:
            raise no_statistics(matrix.name)
        return self.statistics.read(matrix.name, self.device)

    def removed_by(self, score: Score, matrices: Sequence[Matrix], with_ties: bool) -> dict[str, list[int]]:
        """Return how many weights of each matrix a score removes at each of ``levels.ALL``, in one pool of all.

        Args:
            score: One whose scores depend on no other weight.
            matrices: Those of the pool.
            with_ties: Count ``int(s n)`` weights, and all that are as large as the last, as MULTIFLOW's reference does.
        """
        names = [m.name for m in matrices]
        keys = keys_of_files(self.files, names, score, 0, {})
        if not with_ties:
            return removed_counts(keys, names, all_cuts(keys))
        total = sum(keys.sizes.values())
        cuts = find_cuts(keys, names, [int(s * total) for s in ALL])
        return removed_counts(keys, names, [replace(cut, ties=cut.equal) for cut in cuts])


def as_rows(weight: Tensor, matrix: Matrix) -> Tensor:
    """Return a stored tensor as (outputs, inputs), the outputs of all experts one after the other."""
    rows = weight.transpose(-1, -2) if matrix.transposed else weight
    return rows.reshape(-1, matrix.inputs)


def as_stored(rows: Tensor, matrix: Matrix) -> Tensor:
    """Undo :func:`as_rows`."""
    if not matrix.transposed:
        return rows.reshape(matrix.shape)
    flipped = (*matrix.shape[:-2], matrix.shape[-1], matrix.shape[-2])
    return rows.reshape(flipped).transpose(-1, -2)


def all_cuts(keys: KeySource) -> list[Cut]:
    """Return a pool's cuts at every level that a study may name."""
    total = sum(keys.sizes.values())
    return find_cuts(keys, list(keys.sizes), [removed_count(s, total) for s in ALL])


def global_keys(model: PrunableModel, method: Method, seed: int) -> KeySource:
    """Return the keys of all prunable weights by a method's score."""
    score = SCORES[method.score]
    rows = {m.name: m for m in model.matrices}
    if score.elementwise:
        return keys_of_files(model.files, list(rows), score, seed, method.options)

    # On the CPU whatever the device: a plan's cuts are exact, and a GPU rounds sums in another order.
    on_cpu = replace(model, device=torch.device("cpu"))

    def scores_of(name: str) -> Tensor:
        return as_stored(matrix_scores(on_cpu.weight(rows[name]), rows[name], method, seed, on_cpu), rows[name])

    return keys_of_scores({name: m.size for name, m in rows.items()}, scores_of)


def matrix_scores(weight: Tensor, matrix: Matrix, method: Method, seed: int, model: PrunableModel) -> Tensor:
    """Return a matrix's scores, (outputs, inputs), with statistics of the dense model where the score needs them."""
    score = SCORES[method.score]
    inputs = None if score.needs == "nothing" else model.inputs(matrix)
    return score.compute(weight, ScoreContext(matrix.name, seed, 0, inputs, method.options))


def measure(model: PrunableModel, method: Method, seed: int) -> Measured:
    """Return what all levels of a method share, as plain numbers: the cuts of a global pool, or the allocation's."""
    allocate = ALLOCATIONS[method.allocation].measure
    options = {**method.options, "compat": method.compat}
    found = {} if allocate is None else allocate(model.matrices, model, options)
    if method.scope == "global":
        found["cuts"] = [list(astuple(c)) for c in all_cuts(global_keys(model, method, seed))]
    return found


def divide(matrices: Sequence[Matrix], method: Method, sparsity: float, measured: Measured) -> dict[str, float]:
    """Return the sparsity asked of each matrix; empty where one pool of all divides the budget itself."""
    if method.scope == "global":
        return {}
    options = {**method.options, "compat": method.compat}
    return ALLOCATIONS[method.allocation].divide(matrices, sparsity, measured, options)


def check_groups(matrices: Sequence[Matrix], method: Method) -> None:
    """Check that the pattern's groups fit into the rows of every matrix.

    Raises:
        UserError: Names the first matrix whose rows they do not fit into.
    """
    if method.group is None:
        return
    size = method.group[1]
    for m in matrices:
        if m.inputs % size:
            raise UserError(
                where=f"matrix {m.name}, pattern {method.pattern}",
                found=f"rows of {m.inputs} weights",
                expected=f"a row length that {size} divides",
                mend="exclude the matrix (`exclude` of the model), or choose a pattern that fits",
            )


def prune_levels(
    model: PrunableModel, method: Method, sparsities: Sequence[float], seed: int, measured: Measured
) -> Iterator[tuple[str, list[PrunedMatrix]]]:
    """Yield, for each matrix, what pruning makes of it at each level; all levels share the reading and the scores.

    Args:
        model: The checkpoint, with statistics of the inputs if the method needs them.
        method: What to prune by.
        sparsities: The levels, exact, in [0, 1).
        seed: Of a random score.
        measured: What :func:`measure` returned.

    Raises:
        UserError: Weights that are not finite, a pattern that does not fit, or no statistics of a matrix's inputs.
    """
    check_groups(model.matrices, method)
    if method.scope == "global":
        yield from _prune_global(model, method, sparsities, seed, measured)
        return
    targets = [divide(model.matrices, method, s, measured) for s in sparsities]
    for m in model.matrices:
        asked = [target[m.name] for target in targets]
        if (
            SCORES[method.score].elementwise
            and method.scope == "layer"
            and method.needs == "nothing"
            and not published(method)
        ):
            yield m.name, _prune_layer(model, m, method, asked, seed)
            continue
        weight = model.weight(m)
        inputs = None if method.needs == "nothing" else model.inputs(m)
        yield m.name, prune_matrix(weight, m, method, asked, seed, inputs)


def published(method: Method) -> bool:
    """Say whether the references' own rules of counting and of ties apply."""
    return method.compat == "published"


def _prune_global(
    model: PrunableModel, method: Method, sparsities: Sequence[float], seed: int, measured: Measured
) -> Iterator[tuple[str, list[PrunedMatrix]]]:
    keys = global_keys(model, method, seed)
    cuts = [Cut(*measured["cuts"][level_index(s)]) if s else NOTHING for s in sparsities]
    rows = {m.name: m for m in model.matrices}
    for name, masks in keep_masks(keys, list(rows), cuts):
        yield name, [_finish(mask, rows[name], model, method) for mask in masks]


def _finish(mask: Packed, matrix: Matrix, model: PrunableModel, method: Method) -> PrunedMatrix:
    """Refine and update after a choice that was made on packed bits."""
    inputs = None if method.needs == "nothing" else model.inputs(matrix)
    if method.refinement == "none" and method.update == "none":
        return PrunedMatrix(mask, None, _damping_note(matrix, method, inputs))
    keep = as_rows(unpack(mask, matrix.shape).to(model.device), matrix)
    return refine_and_update(model.weight(matrix), keep, matrix, method, inputs)


def _prune_layer(
    model: PrunableModel, matrix: Matrix, method: Method, sparsities: Sequence[float], seed: int
) -> list[PrunedMatrix]:
    """Prune one matrix by an elementwise score, on its stored values."""
    keys = keys_of_files(model.files, [matrix.name], SCORES[method.score], seed, method.options)
    cuts = find_cuts(keys, [matrix.name], [removed_count(s, matrix.size) for s in sparsities])
    ((_, masks),) = keep_masks(keys, [matrix.name], cuts)
    return [PrunedMatrix(mask) for mask in masks]


def prune_matrix(
    weight: Tensor, matrix: Matrix, method: Method, sparsities: Sequence[float], seed: int,
    inputs: InputStatistics | None,
) -> list[PrunedMatrix]:  # fmt: skip
    """Prune one matrix to each of some sparsities of its own.

    Args:
        weight: (outputs, inputs).
        matrix: The manifest's row.
        method: Any whose scope lies within a matrix.
        sparsities: Asked of this matrix.
        seed: Of a random score.
        inputs: Statistics of the matrix's inputs, if the method needs them.
    """
    if method.adaptive:
        return [_sweep(weight, matrix, method, s, _needed(inputs, matrix)) for s in sparsities]
    score, context = SCORES[method.score], ScoreContext(matrix.name, seed, 0, inputs, method.options)
    if score.elementwise:
        # Draws go by the order of the stored tensor, in which they are also made part by part.
        scores = as_rows(score.compute(as_stored(weight, matrix), context), matrix)
    else:
        scores = score.compute(weight, context)
    check_scores(scores, matrix.name)
    chosen = choose(scores, matrix, method, sparsities)
    return [refine_and_update(weight, ~removed, matrix, method, inputs) for removed in chosen]


def check_scores(scores: Tensor, name: str) -> None:
    """Check that scores are finite and not negative.

    Raises:
        UserError: Names the matrix.
    """
    low, high = scores.aminmax()
    if not (float(low) >= 0 and float(high) < torch.inf):
        raise UserError(
            where=f"matrix {name}",
            found="a score that is negative, NaN or infinite",
            expected="finite weights and inputs, whose scores are finite and not negative",
            mend="use a checkpoint with finite weights, in `dtype: float32`",
        )


def choose(scores: Tensor, matrix: Matrix, method: Method, sparsities: Sequence[float]) -> Iterator[Tensor]:
    """Yield, for each sparsity, which weights are removed, (outputs, inputs) boolean.

    Args:
        scores: (outputs, inputs).
        matrix: The manifest's row.
        method: Its scope lies within a matrix.
        sparsities: Asked of this matrix.
    """
    columns = scores.shape[1]
    if method.group is not None:
        once = smallest_in_groups(scores, *method.group)
        yield from (once for _ in sparsities)
    elif method.scope == "row":
        ascending = sorted_rows(scores)
        for s in sparsities:
            yield smallest_of_sorted(scores, ascending, row_count(s, columns, method))
    elif method.scope == "layer":
        # In the order of the stored tensor, by which ties are broken.
        flat = as_stored(scores, matrix).reshape(1, -1)
        for s in sparsities:
            removed = choose_in_pool(flat, s, method)
            yield as_rows(removed.reshape(matrix.shape), matrix)
    else:
        width = block_size(method)
        for s in sparsities:
            parts = scores.split(width, dim=1)
            yield torch.cat([choose_in_pool(p.reshape(1, -1), s, method).reshape(p.shape) for p in parts], dim=1)


def row_count(sparsity: float, columns: int, method: Method) -> int:
    """Return how many weights of a row go: ``round(s n)``, or ``int(s n)`` as Wanda counts."""
    return int(sparsity * columns) if published(method) else removed_count(sparsity, columns)


def choose_in_pool(pool: Tensor, sparsity: float, method: Method) -> Tensor:
    """Return which of a pool's scores, (1, n), are removed."""
    if published(method):
        return below_published_threshold(pool, sparsity, SCORES[method.score].published_from)
    return smallest(pool, removed_count(sparsity, pool.shape[1]))


def block_size(method: Method) -> int:
    """Return how many columns SparseGPT treats at a time: a multiple of the pattern's group."""
    size = int(method.options.get("block_size", BLOCK_SIZE))
    return size if method.group is None else max(1, size // method.group[1]) * method.group[1]


def _needed(inputs: InputStatistics | None, matrix: Matrix) -> InputStatistics:
    if inputs is None:
        raise no_statistics(matrix.name)
    return inputs


def _sweep(weight: Tensor, matrix: Matrix, method: Method, sparsity: float, inputs: InputStatistics) -> PrunedMatrix:
    """Choose and update in turns, as SparseGPT does: by blocks of columns, or by groups of a pattern."""
    factor = inverse_factor(inputs, matrix.name, method.options)
    diagonal = factor.factor.diagonal()
    width = block_size(method)

    def keep(columns: Tensor, start: int, stop: int) -> Tensor:
        scores = (columns / diagonal[start:stop]).square()
        check_scores(scores, matrix.name)
        if method.group is not None:
            return ~smallest_in_groups(scores, *method.group)
        return ~choose_in_pool(scores.reshape(1, -1), sparsity, method).reshape(scores.shape)

    step = width if method.group is None else method.group[1]
    kept, updated = sweep_columns(weight, factor, keep, step, width)
    return _result(kept, updated, matrix, _damping_note(matrix, method, inputs))


def refine_and_update(
    weight: Tensor, keep: Tensor, matrix: Matrix, method: Method, inputs: InputStatistics | None
) -> PrunedMatrix:
    """Apply a method's refinement and update to a mask that its score has chosen; all (outputs, inputs)."""
    if method.refinement != "none":
        keep = REFINEMENTS[method.refinement].apply(weight, keep, _needed(inputs, matrix), method.options)
    if method.update == "none":
        return _result(keep, None, matrix, _damping_note(matrix, method, inputs))
    updated = UPDATES[method.update].apply(weight, keep, _needed(inputs, matrix), matrix.name, method.options)
    return _result(keep, updated, matrix, _damping_note(matrix, method, inputs))


def _damping_note(matrix: Matrix, method: Method, inputs: InputStatistics | None) -> str:
    """Say that the factor of the Hessian, if one was made, took more damping than was asked."""
    asked = float(method.options.get("damping", DAMPING))
    # A score may have asked for the factor long before: the statistics of other inputs were read since.
    if inputs is None or inputs.damping.taken is None or inputs.damping.taken <= asked:
        return ""
    return f"singular Hessian of {matrix.name}: damping {inputs.damping.taken:g} instead of {asked:g}."


def _result(keep: Tensor, updated: Tensor | None, matrix: Matrix, note: str) -> PrunedMatrix:
    stored = as_stored(keep, matrix)
    if updated is None:
        return PrunedMatrix(pack(stored), None, note)
    values = as_stored(updated, matrix)
    if not bool(torch.isfinite(values).all()):
        raise UserError(
            where=f"matrix {matrix.name}",
            found="updated weights that are NaN or infinite",
            expected="finite weights",
            mend="raise the method's option `damping`, or store the model with `dtype: float32`",
        )
    return PrunedMatrix(pack(stored), values[stored], note)


def mask_header(
    axes: Mapping[str, str], method: Method, matrices: Sequence[Matrix], sparsity: float, targets: Sparsities
) -> MaskHeader:
    """Return what a mask's file says before its weights are counted.

    Args:
        axes: ``model, checkpoint, seed`` as they stand in the path.
        method: What is pruned by.
        matrices: The prunable ones.
        sparsity: Asked of them all, exactly.
        targets: Asked of each; empty where one pool of all divides the budget.
    """
    return MaskHeader(
        axes["model"], axes["checkpoint"], method.to_dict(), int(axes["seed"]), sparsity,
        shapes={m.name: list(m.shape) for m in matrices}, targets=dict(targets), updated=method.update != "none",
    )  # fmt: skip


def put_matrix(writer: MaskWriter, name: str, result: PrunedMatrix) -> None:
    """Append what pruning made of a matrix to a mask's file."""
    writer.put(name, result.packed, result.values)
    if result.note:
        writer.header.notes.append(result.note)


def expected_count(method: Method, matrix: Matrix, sparsity: float) -> int:
    """Return how many weights of a matrix an exact method removes, within whose matrices the pools lie.

    Args:
        method: Its scope is not global.
        matrix: The manifest's row.
        sparsity: Asked of this matrix.
    """
    if method.group is not None:
        kept, size = method.group
        return matrix.size // size * (size - kept)
    if method.scope == "layer":
        return removed_count(sparsity, matrix.size)
    if method.scope == "row":
        return matrix.outputs * removed_count(sparsity, matrix.inputs)
    width = block_size(method)
    widths = [min(width, matrix.inputs - start) for start in range(0, matrix.inputs, width)]
    return sum(removed_count(sparsity, matrix.outputs * n) for n in widths)


def check_counts(header: MaskHeader, method: Method, matrices: Sequence[Matrix]) -> None:
    """Check that masks remove exactly what was asked, before their file appears.

    Raises:
        RuntimeError: They do not: a defect, never to be written.
    """
    if published(method):
        return
    if method.scope == "global":
        found, asked = sum(header.removed.values()), removed_count(header.target, sum(m.size for m in matrices))
        wrong = [] if found == asked else [f"all: {found} of {asked}"]
    else:
        counts = {m.name: expected_count(method, m, header.targets[m.name]) for m in matrices}
        wrong = [f"{name}: {header.removed[name]} of {n}" for name, n in counts.items() if header.removed[name] != n]
    if wrong:
        raise RuntimeError(f"masks remove another number of weights than asked ({', '.join(wrong[:3])})")
