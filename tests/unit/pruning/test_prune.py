"""Pruning a checkpoint: masks are exactly the oracles', whatever the score, the scope, the type and the files."""

from __future__ import annotations

import ast
import itertools
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

import oracles.allocation
import oracles.refinement
import oracles.scores
import oracles.selection
import oracles.updates
import random_layers
from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.checkpoints.tensors import INDEX, WEIGHTS, open_weights
from essential_sparsity.errors import UserError
from essential_sparsity.methods.allocation import ALLOCATIONS
from essential_sparsity.methods.method import Method, check_method
from essential_sparsity.methods.refinement import REFINEMENTS
from essential_sparsity.methods.scores import SCORES
from essential_sparsity.methods.statistics import InputStatistics
from essential_sparsity.methods.updates import UPDATES
from essential_sparsity.planning.digests import CHOICES, PACKAGE, code_digest
from essential_sparsity.pruning.keys import PART
from essential_sparsity.pruning.masks import unpack
from essential_sparsity.pruning.prune import PrunableModel, PrunedMatrix, as_rows, as_stored, measure, prune_levels
from essential_sparsity.pruning.statistics import StatisticsFile, write_statistics

SCRIPTS = Path(__file__).resolve().parents[3] / "workflow" / "scripts"
Array = np.ndarray[Any, np.dtype[Any]]
Masks = dict[str, list[Array]]
FAST = settings(
    deadline=None, max_examples=20, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SAMPLES = 4
LEVELS = (0.0, 0.137, 0.5, 0.9, 0.999)
CALIBRATION = {"calibration": "c", "propagate": "dense"}
# Each has a function of its name in the oracles.
FORMULAS = [name for name, score in SCORES.items() if not score.stochastic]

# Odd shapes, a matrix of one weight, one stored as Conv1D stores it, experts in a stack of either kind, two blocks.
MATRICES = [
    random_layers.matrix("0.query", 17, 24),
    random_layers.matrix("0.up", 24, 31, transposed=True),
    random_layers.matrix("0.gate", 1, 1),
    random_layers.matrix("1.experts", 3, 7, 12, block=1),
    random_layers.matrix("1.down", 2, 20, 9, transposed=True, block=1),
    random_layers.matrix("1.out", 5, 24, block=1),
]


def made_weights(matrices: Sequence[Matrix], dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    return {
        m.name: as_stored(torch.tensor(random_layers.weights(seed + i, m.outputs, m.inputs)), m).to(dtype).contiguous()
        for i, m in enumerate(matrices)
    }


def made_inputs(matrices: Sequence[Matrix], seed: int = 0) -> dict[str, Array]:
    return {m.name: random_layers.activations(seed + i, 60, m.inputs) for i, m in enumerate(matrices)}


class Made:
    """A checkpoint on disk with statistics of its inputs, and the oracles' view of the same numbers."""

    def __init__(
        self, folder: Path, matrices: Sequence[Matrix] = MATRICES, dtype: torch.dtype = torch.float32,
        weights: Mapping[str, Tensor] | None = None, x: Mapping[str, Array] | None = None, shards: int = 1,
    ) -> None:  # fmt: skip
        self.matrices = list(matrices)
        self.weights = dict(weights or made_weights(matrices, dtype))
        self.x = dict(x or made_inputs(matrices))
        folder.mkdir(exist_ok=True)
        if shards == 1:
            save_file(self.weights, folder / WEIGHTS)
        else:
            names = list(self.weights)
            parts = {f"model-{i}.safetensors": names[i::shards] for i in range(shards)}
            for file, members in parts.items():
                save_file({name: self.weights[name] for name in members}, folder / file)
            index = {"weight_map": {name: file for file, members in parts.items() for name in members}}
            (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
        statistics = {name: random_layers.statistics(x, SAMPLES) for name, x in self.x.items()}
        write_statistics(folder / "statistics.safetensors", [statistics], list(statistics))
        self.model = PrunableModel(
            open_weights(folder), self.matrices, torch.device("cpu"), StatisticsFile(folder / "statistics.safetensors")
        )

    def rows(self, name: str) -> Array:
        """A matrix's weights in float64, (outputs, inputs)."""
        m = next(m for m in self.matrices if m.name == name)
        return as_rows(self.weights[name].double(), m).numpy()

    def scores(self, score: str) -> dict[str, Array]:
        """The oracle's scores, (outputs, inputs)."""
        formula = getattr(oracles.scores, score)
        if SCORES[score].needs == "nothing":
            return {m.name: formula(self.rows(m.name)) for m in self.matrices}
        return {m.name: formula(self.rows(m.name), self.x[m.name], SAMPLES) for m in self.matrices}


def stored(found: Array, matrix: Matrix) -> Array:
    """Something of (outputs, inputs), in the order of the stored tensor."""
    return as_stored(torch.tensor(found), matrix).numpy()


def results(
    made: Made, method: Method, levels: Sequence[float] = LEVELS, seed: int = 0, measured: Any = None
) -> dict[str, list[PrunedMatrix]]:
    # As a file hands it on.
    plan = json.loads(json.dumps(measure(made.model, method, seed))) if measured is None else measured
    sparsities = [method.sparsity(s) for s in levels]
    return dict(prune_levels(made.model, method, sparsities, seed, plan))


def masks(made: Made, method: Method, levels: Sequence[float] = LEVELS, seed: int = 0) -> Masks:
    """Keep masks in the shape of the stored tensors."""
    return as_masks(made, results(made, method, levels, seed))


def as_masks(made: Made, found: Mapping[str, Sequence[PrunedMatrix]]) -> Masks:
    assert list(found) == [m.name for m in made.matrices]
    return {m.name: [unpack(r.packed, m.shape).numpy() for r in found[m.name]] for m in made.matrices}


def method_of(score: str, scope: str, **slots: Any) -> Method:
    method = Method(score, scope, **slots)
    if method.calibrated:
        method = Method(**{**method.to_dict(), **CALIBRATION})
    check_method(method, "methods.test")
    return method


def blocks_of_eight(scope: str) -> dict[str, Any]:
    return {"options": {"block_size": 8}} if scope == "column-block" else {}


def expected(made: Made, method: Method, level: float) -> dict[str, Array]:
    """The oracle's masks of a score without update or refinement, in the shape of the stored tensors."""
    scores = made.scores(method.score)
    rows = {m.name: m for m in made.matrices}
    if method.scope == "global":
        # One pool orders its scores in single precision.
        pool = {name: stored(s.astype(np.float32), rows[name]) for name, s in scores.items()}
        return oracles.selection.global_pool(pool, level)
    if method.scope == "layer":
        return {name: oracles.selection.layer(stored(s, rows[name]), level) for name, s in scores.items()}
    if method.group is not None:
        found = {name: oracles.selection.n_of_m(s, *method.group) for name, s in scores.items()}
    elif method.scope == "row":
        found = {name: oracles.selection.row(s, level) for name, s in scores.items()}
    else:
        found = {
            name: oracles.selection.column_block(s, level, method.options["block_size"]) for name, s in scores.items()
        }
    return {name: stored(keep, rows[name]) for name, keep in found.items()}


@pytest.mark.parametrize("score", FORMULAS)
@pytest.mark.parametrize("scope", ["global", "layer", "row", "column-block"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_are_exactly_the_oracles(tmp_path: Path, score: str, scope: str, dtype: torch.dtype) -> None:
    made = Made(tmp_path, dtype=dtype)
    method = method_of(score, scope, **blocks_of_eight(scope))
    found = masks(made, method)
    for i, level in enumerate(LEVELS):
        for name, keep in expected(made, method, level).items():
            np.testing.assert_array_equal(found[name][i], keep, err_msg=f"{name} at {level}")


@pytest.mark.parametrize("score", FORMULAS)
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:4"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_patterns_are_exactly_the_oracles(tmp_path: Path, score: str, pattern: str, dtype: torch.dtype) -> None:
    fitting = [m for m in MATRICES if m.inputs % 4 == 0]
    assert len(fitting) > 3
    made = Made(tmp_path, fitting, dtype)
    method = method_of(score, "row", pattern=pattern)
    found = masks(made, method, [0.5])
    kept = int(pattern[0])
    for m in fitting:
        np.testing.assert_array_equal(found[m.name][0], expected(made, method, 0.5)[m.name])
        in_rows = as_rows(torch.tensor(found[m.name][0]), m)
        assert bool((in_rows.reshape(-1, 4).sum(1) == kept).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_random_masks_count_exactly_are_nested_and_go_by_the_seed(
    tmp_path: Path, dtype: torch.dtype, scope: str
) -> None:
    made, method = Made(tmp_path, dtype=dtype), method_of("random", scope)
    found, again, other = masks(made, method), masks(made, method), masks(made, method, seed=1)
    sizes = {m.name: m.size for m in made.matrices}
    for i, level in enumerate(LEVELS):
        if scope == "layer":
            assert {n: int((~k[i]).sum()) for n, k in found.items()} == {n: round(level * s) for n, s in sizes.items()}
        assert sum(int((~k[i]).sum()) for k in found.values()) == (
            round(level * sum(sizes.values())) if scope == "global" else sum(round(level * s) for s in sizes.values())
        )
    assert all((a == b).all() for name in found for a, b in zip(found[name], again[name], strict=True))
    assert any((a != b).any() for name in found for a, b in zip(found[name], other[name], strict=True))


def test_random_draws_do_not_depend_on_the_other_slots(tmp_path: Path) -> None:
    # Of matrices stored as (inputs, outputs) too: a draw belongs to a weight, in whatever order weights are asked for.
    made = Made(tmp_path)
    plain = masks(made, method_of("random", "layer"), [0.5])
    updated = masks(made, method_of("random", "layer", update="reconstruct"), [0.5])
    refined = masks(made, method_of("random", "layer", refinement="dsnot"), [0.5])
    published = masks(made, method_of("random", "layer", compat="published"), [0.5])
    for m in made.matrices:
        keep = plain[m.name][0]
        np.testing.assert_array_equal(updated[m.name][0], keep)
        in_rows = as_rows(torch.tensor(keep), m).numpy()
        after = oracles.refinement.dsnot(made.rows(m.name), in_rows, made.x[m.name], SAMPLES)
        np.testing.assert_array_equal(refined[m.name][0], stored(after, m))
        # The references remove one more.
        assert not (published[m.name][0] & ~keep).any()


# The references' rules are those of choosing: they are combined with scores, allocations and scopes.
COMBINATIONS = [
    *itertools.product(
        ALLOCATIONS, ["global", "layer", "row", "column-block"], ["unstructured", "2:4"],
        ["none", *REFINEMENTS], ["none", *UPDATES], ["exact"],
    ),
    *itertools.product(
        ALLOCATIONS, ["layer", "row", "column-block"], ["unstructured"], ["none"], ["none"], ["published"]
    ),
]  # fmt: skip


@pytest.mark.parametrize("score", list(SCORES))
def test_every_combination_runs_and_counts_or_is_refused(tmp_path: Path, score: str) -> None:
    matrices = [
        random_layers.matrix("a", 4, 8), random_layers.matrix("b", 8, 6, transposed=True),
        random_layers.matrix("c", 6, 12, block=1),
    ]  # fmt: skip
    made = Made(tmp_path, matrices)
    sizes = {m.name: m.size for m in matrices}
    plans: dict[tuple[str, str, str], Any] = {}
    ran = refused = 0
    for allocation, scope, pattern, refinement, update, compat in COMBINATIONS:
        bare = Method(score, scope, allocation, pattern, refinement, update, compat)
        options = {"block_size": 4} if "block_size" in bare.known_options else {}
        method = Method(**{**bare.to_dict(), **(CALIBRATION if bare.calibrated else {}), "options": options})
        try:
            check_method(method, "m")
        except UserError:
            refused += 1
            continue
        ran += 1
        if (allocation, scope, compat) not in plans:
            plans[allocation, scope, compat] = measure(made.model, method, 0)
        found = results(made, method, [0.5], measured=plans[allocation, scope, compat])
        removed = {m.name: int((~unpack(found[m.name][0].packed, m.shape)).sum()) for m in matrices}
        if compat == "exact":
            # Pools round by themselves; in all no pool is off by more than a half.
            assert abs(sum(removed.values()) - sum(sizes.values()) / 2) <= 12, method
            if scope == "global" or (scope == "layer" and allocation == "uniform") or pattern != "unstructured":
                assert sum(removed.values()) == sum(sizes.values()) // 2, method
        for m in matrices:
            values = found[m.name][0].values
            assert (values is None) == (update == "none"), method
            if values is not None:
                assert values.numel() == m.size - removed[m.name], method
                assert bool(torch.isfinite(values).all()), method
    assert ran > 40
    assert refused > 40


@pytest.mark.parametrize(
    "method",
    [
        Method("magnitude", "global"), Method("random", "layer", "erk"),
        Method("ria", "layer", "magnitude", **CALIBRATION), Method("sparsegpt", "row", "owl", **CALIBRATION),
        Method("multiflow", "layer", "alpha-pruning", **CALIBRATION),
        Method("wanda", "row", refinement="dsnot", update="reconstruct", **CALIBRATION),
        Method("sparsegpt", "column-block", update="sparsegpt", options={"block_size": 4}, **CALIBRATION),
    ],
    ids=lambda method: "-".join(method.entries.values()),
)  # fmt: skip
def test_the_digest_of_a_methods_code_has_all_that_runs(tmp_path: Path, method: Method) -> None:
    shutil.copytree(SCRIPTS, tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    slots = [tmp_path / "scripts" / PACKAGE / module for module in CHOICES]
    made, called = Made(tmp_path / "made"), set[tuple[str, str]]()

    def note(frame: FrameType, event: str, _: Any) -> None:
        # Of a function within a function, the outer one.
        called.add((Path(frame.f_code.co_filename).name, frame.f_code.co_qualname.split(".")[0]))

    sys.setprofile(note)
    try:
        results(made, method, [0.5])
    finally:
        sys.setprofile(None)

    def digest() -> str:
        return code_digest(tmp_path / "scripts" / "prune_weights.py", tmp_path / "scripts", method.entries)

    before, edited = digest(), 0
    for path in slots:
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and (path.name, node.name) in called:
                lines = text.splitlines()
                lines.insert(node.body[0].lineno - 1, "    EDITED = 1")
                path.write_text("\n".join(lines), encoding="utf-8")
                edited += 1
                os.utime(path, (edited, edited))
                assert digest() != before, node.name
        path.write_text(text, encoding="utf-8")
    assert edited


def assert_nested(found: Masks) -> None:
    for keeps in found.values():
        for fewer, more in itertools.pairwise(keeps):
            assert not (more & ~fewer).any()


@pytest.mark.parametrize("allocation", sorted(ALLOCATIONS))
@pytest.mark.parametrize("scope", ["layer", "row"])
def test_levels_are_nested_whatever_the_allocation(tmp_path: Path, allocation: str, scope: str) -> None:
    matrices = [random_layers.matrix(f"{b}.{i}", 9 + 4 * b, 16, block=b) for b in range(3) for i in range(2)]
    made = Made(tmp_path, matrices)
    levels = [i / 20 for i in range(20)]
    assert_nested(masks(made, method_of("wanda", scope, allocation=allocation), levels))


@pytest.mark.parametrize("scope", ["global", "layer", "row", "column-block"])
@pytest.mark.parametrize("score", list(SCORES))
def test_levels_are_nested_and_together_what_they_are_alone(tmp_path: Path, score: str, scope: str) -> None:
    made, method = Made(tmp_path, dtype=torch.bfloat16), method_of(score, scope, **blocks_of_eight(scope))
    levels = [0.0, 0.001, *(i / 10 for i in range(1, 10)), 0.999]
    plan = measure(made.model, method, 0)
    together = as_masks(made, results(made, method, levels, measured=plan))
    assert_nested(together)
    for i, level in list(enumerate(levels))[::4]:
        alone = as_masks(made, results(made, method, [level], measured=plan))
        assert all((alone[name][0] == together[name][i]).all() for name in alone)


@pytest.mark.parametrize(("scope", "shards"), [("global", 3), ("layer", 2), ("layer", 6)])
def test_shards_do_not_show(tmp_path: Path, shards: int, scope: str) -> None:
    weights = {n: torch.round(w * 50) / 50 for n, w in made_weights(MATRICES, torch.bfloat16).items()}  # with ties
    single = Made(tmp_path / "single", weights=weights)
    sharded = Made(tmp_path / "sharded", weights=weights, shards=shards)
    for score in ("magnitude", "random", "ria"):
        method = method_of(score, scope)
        one, many = masks(single, method), masks(sharded, method)
        assert all((a == b).all() for name in one for a, b in zip(one[name], many[name], strict=True))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("score", "scope"), [("magnitude", "global"), ("random", "layer"), ("wanda", "global")])
def test_the_number_of_threads_does_not_matter(tmp_path: Path, score: str, scope: str) -> None:
    matrices = [random_layers.matrix("a", 500, 300), random_layers.matrix("b", 300, 450, transposed=True)]
    assert all(m.size > PART for m in matrices), "the test needs matrices of several parts"
    weights = {n: torch.round(w * 200) / 200 for n, w in made_weights(matrices, torch.float32).items()}
    made = Made(tmp_path, matrices, weights=weights)
    found = []
    for n in (1, 2):
        torch.set_num_threads(n)
        found.append(masks(made, method_of(score, scope), [0.3, 0.7]))
    assert all((a == b).all() for name in found[0] for a, b in zip(found[0][name], found[1][name], strict=True))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_ties_by_the_million_are_counted_exactly(tmp_path: Path, scope: str) -> None:
    # As of weights that were stored in four bits: sixteen values times a scale for every 64.
    draw = torch.Generator().manual_seed(0)
    matrices = [random_layers.matrix("a", 1024, 1024), random_layers.matrix("b", 512, 1024)]
    weights = {}
    for m in matrices:
        codes = torch.randint(-8, 8, (m.size // 64, 64), generator=draw)
        scales = 2.0 ** -torch.randint(3, 6, (m.size // 64, 1), generator=draw)
        weights[m.name] = (codes * scales).reshape(m.shape).to(torch.bfloat16)
    made, levels = Made(tmp_path, matrices, weights=weights, x={"a": np.ones((1, 1))}), [0.2, 0.5, 0.8]
    method = method_of("magnitude", scope)
    found = masks(made, method, levels)
    over = []
    for i, level in enumerate(levels):
        for name, keep in expected(made, method, level).items():
            np.testing.assert_array_equal(found[name][i], keep)
        removed = sum(int((~found[m.name][i]).sum()) for m in matrices)
        assert removed == round(level * 1024 * 1536)
        flat = torch.cat([w.abs().flatten() for w in weights.values()])
        limit = flat.float().kthvalue(removed).values
        over.append(int((flat <= limit).sum()) - removed)
    assert max(over) > 10_000, "a threshold would remove many more"


@pytest.mark.parametrize("scope", ["global", "layer", "row"])
def test_single_weights_and_extreme_levels(tmp_path: Path, scope: str) -> None:
    matrices = [random_layers.matrix(f"m{i}", 1, 1, transposed=i % 2 == 1) for i in range(5)]
    weights = {f"m{i}": torch.tensor([[w]]) for i, w in enumerate([0.3, -0.1, 0.0, 0.5, -0.4])}
    made = Made(tmp_path, matrices, weights=weights)
    found = masks(made, method_of("magnitude", scope), [0.0, 0.001, 0.499, 0.6, 0.999])
    per_level = [[bool(found[m.name][i]) for m in matrices] for i in range(5)]
    assert per_level[:2] == [[True] * 5] * 2
    assert per_level[4] == [False] * 5
    if scope == "global":
        assert per_level[2:4] == [[True, False, False, True, True], [False, False, False, True, True]]
    else:
        assert per_level[2:4] == [[True] * 5, [False] * 5]


@FAST
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    st.sampled_from(DTYPES), st.integers(1, 999), st.integers(0, 2**31), st.sampled_from(["global", "layer"]),
)  # fmt: skip
def test_magnitude_agrees_with_torch_where_no_weights_tie(
    tmp_path: Path, shapes: list[tuple[int, int]], dtype: torch.dtype, level: int, seed: int, scope: str
) -> None:
    n = sum(a * b for a, b in shapes)
    draw = torch.Generator().manual_seed(seed)
    integers = torch.int32 if dtype is torch.float32 else torch.int16
    # Neighbouring values from 1 on, of either sign: the nearest that are not ties.
    size = (torch.tensor(1.0, dtype=dtype).view(integers) + torch.randperm(n, generator=draw)).to(integers).view(dtype)
    flat = size * (torch.randint(0, 2, (n,), generator=draw) * 2 - 1)
    matrices = [random_layers.matrix(f"m{i}", *shape) for i, shape in enumerate(shapes)]
    parts = flat.split([m.size for m in matrices])
    weights = {m.name: p.reshape(m.shape).clone() for m, p in zip(matrices, parts, strict=True)}
    found = masks(Made(tmp_path, matrices, weights=weights), method_of("magnitude", scope), [level / 1000])
    layers = {m.name: nn.Linear(m.inputs, m.outputs, bias=False) for m in matrices}
    for m in matrices:
        layers[m.name].weight.data = weights[m.name].clone()
    if scope == "global":
        prune.global_unstructured([(x, "weight") for x in layers.values()], prune.L1Unstructured, amount=level / 1000)
    else:
        for x in layers.values():
            prune.l1_unstructured(x, "weight", amount=level / 1000)
    for m in matrices:
        np.testing.assert_array_equal(found[m.name][0], layers[m.name].get_buffer("weight_mask").bool().numpy())


# --- SparseGPT, updates, refinements and allocations on a checkpoint ---

FITTING = [m for m in MATRICES if m.inputs % 4 == 0]


def values_of(result: PrunedMatrix, matrix: Matrix) -> Array:
    """The updated weights with zeros where they are removed, (outputs, inputs)."""
    assert result.values is not None
    whole = torch.zeros(matrix.shape, dtype=torch.float64)
    whole[unpack(result.packed, matrix.shape)] = result.values.double()
    return as_rows(whole, matrix).numpy()


def assert_result(result: PrunedMatrix, matrix: Matrix, keep: Array, values: Array) -> None:
    np.testing.assert_array_equal(unpack(result.packed, matrix.shape).numpy(), stored(keep, matrix))
    # Stored in the weights' own type, single precision.
    assert np.abs(values_of(result, matrix) - values).max() <= 1e-6 * np.abs(values).max()


@pytest.mark.parametrize("level", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("compat", ["exact", "published"])
def test_sparsegpt_is_the_paper_s(tmp_path: Path, level: float, compat: str) -> None:
    made = Made(tmp_path)
    method = method_of("sparsegpt", "column-block", update="sparsegpt", compat=compat, options={"block_size": 8})
    found = results(made, method, [level])
    for m in made.matrices:
        keep, values = oracles.updates.sparsegpt(
            made.rows(m.name), made.x[m.name], SAMPLES, level, 8, published=compat == "published"
        )
        assert_result(found[m.name][0], m, keep, values)


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:4"])
def test_sparsegpt_by_pattern_is_the_paper_s(tmp_path: Path, pattern: str) -> None:
    made = Made(tmp_path, FITTING)
    found = results(made, method_of("sparsegpt", "row", update="sparsegpt", pattern=pattern), [0.5])
    for m in FITTING:
        keep, values = oracles.updates.sparsegpt_n_of_m(made.rows(m.name), made.x[m.name], SAMPLES, int(pattern[0]), 4)
        assert_result(found[m.name][0], m, keep, values)


@pytest.mark.parametrize("block_size", [3, 4, 6, 128])
def test_a_block_is_made_to_fit_the_pattern_s_groups(tmp_path: Path, block_size: int) -> None:
    made = Made(tmp_path, FITTING)
    method = method_of("sparsegpt", "row", update="sparsegpt", pattern="2:4", options={"block_size": block_size})
    for m, found in zip(FITTING, results(made, method, [0.5]).values(), strict=True):
        keep, values = oracles.updates.sparsegpt_n_of_m(made.rows(m.name), made.x[m.name], SAMPLES, 2, 4)
        assert_result(found[0], m, keep, values)


@pytest.mark.parametrize("update", sorted(UPDATES))
@pytest.mark.parametrize(("score", "scope"), [("magnitude", "global"), ("wanda", "row"), ("ria", "layer")])
def test_any_mask_may_be_updated(tmp_path: Path, update: str, score: str, scope: str) -> None:
    made, level = Made(tmp_path), 0.5
    method = method_of(score, scope, update=update)
    given_mask = {"sparsegpt": oracles.updates.sparsegpt_given, "reconstruct": oracles.updates.reconstruct}[update]
    found, keeps = results(made, method, [level]), expected(made, method, level)
    for m in made.matrices:
        keep = as_rows(torch.tensor(keeps[m.name]), m).numpy()
        assert_result(found[m.name][0], m, keep, given_mask(made.rows(m.name), keep, made.x[m.name], SAMPLES))


@pytest.mark.parametrize(("score", "scope"), [("magnitude", "global"), ("wanda", "row"), ("sparsegpt", "layer")])
def test_any_mask_may_be_refined(tmp_path: Path, score: str, scope: str) -> None:
    made, level = Made(tmp_path), 0.6
    method = method_of(score, scope, refinement="dsnot")
    found, keeps = masks(made, method, [level]), expected(made, method, level)
    moved = 0
    for m in made.matrices:
        keep = as_rows(torch.tensor(keeps[m.name]), m).numpy()
        after = oracles.refinement.dsnot(made.rows(m.name), keep, made.x[m.name], SAMPLES)
        np.testing.assert_array_equal(found[m.name][0], stored(after, m))
        moved += int((after != keep).sum())
    assert moved > 0


def test_an_update_follows_the_refinement(tmp_path: Path) -> None:
    made, level = Made(tmp_path), 0.6
    found = results(made, method_of("wanda", "row", refinement="dsnot", update="reconstruct"), [level])
    for m in made.matrices:
        w, x = made.rows(m.name), made.x[m.name]
        keep = oracles.selection.row(oracles.scores.wanda(w, x, SAMPLES), level)
        keep = oracles.refinement.dsnot(w, keep, x, SAMPLES)
        assert_result(found[m.name][0], m, keep, oracles.updates.reconstruct(w, keep, x, SAMPLES))


def block_sizes(made: Made) -> list[int]:
    return [sum(m.size for m in made.matrices if m.block == b) for b in (0, 1)]


@pytest.mark.parametrize("level", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("allocation", sorted(ALLOCATIONS))
def test_masks_follow_the_oracles_allocation(tmp_path: Path, allocation: str, level: float) -> None:
    made = Made(tmp_path)
    rows = {m.name: made.rows(m.name) for m in made.matrices}
    blocks = [[m.name for m in made.matrices if m.block == b] for b in (0, 1)]
    wanda = made.scores("wanda")
    # Experts count one by one, though one tensor may hold them.
    experts = {m.name: np.split(rows[m.name], math.prod(m.shape[:-2])) for m in made.matrices}
    if allocation in ("owl", "alpha-pruning"):
        if allocation == "owl":
            shares = [oracles.allocation.outlier_share([wanda[n] for n in names]) for names in blocks]
            per_block = oracles.allocation.owl(shares, block_sizes(made), level)
        else:
            spectra = {n: [oracles.allocation.spectrum(w) for w in experts[n]] for n in rows}
            # One singular value has no tail: its exponent is the smallest that there is.
            exponents = {
                n: [oracles.allocation.power_law_exponent(s) if len(s) > 1 else 1.0 for s in found]
                for n, found in spectra.items()
            }
            means = [float(np.mean([e for n in names for e in exponents[n]])) for names in blocks]
            per_block = oracles.allocation.alpha_pruning(means, block_sizes(made), level)
        sparsities = np.array([per_block[m.block] for m in made.matrices])
    elif allocation == "magnitude":
        in_order = {m.name: stored(rows[m.name], m) for m in made.matrices}
        sparsities = oracles.allocation.magnitude(in_order, level)
    else:
        shapes = [w.shape for m in made.matrices for w in experts[m.name]]
        each = {"uniform": oracles.allocation.uniform, "erk": oracles.allocation.erk}[allocation](shapes, level)
        owners = [m.name for m in made.matrices for _ in experts[m.name]]
        sparsities = np.array([each[owners.index(m.name)] for m in made.matrices])
    found = masks(made, method_of("wanda", "layer", allocation=allocation), [level])
    for m, sparsity in zip(made.matrices, sparsities, strict=True):
        keep = oracles.selection.layer(stored(wanda[m.name], m), float(sparsity))
        np.testing.assert_array_equal(found[m.name][0], keep, err_msg=m.name)


# --- the references' own rules ---


def test_published_wanda_truncates_where_ours_rounds(tmp_path: Path) -> None:
    made = Made(tmp_path, [random_layers.matrix("a", 13, 19)])
    scores = made.scores("wanda")["a"]
    theirs = masks(made, method_of("wanda", "row", compat="published"), [0.4])["a"][0]
    ours = masks(made, method_of("wanda", "row"), [0.4])["a"][0]
    np.testing.assert_array_equal(theirs, oracles.selection.published_row(scores, 0.4))
    assert ((~theirs).sum(1) == 7).all()  # int(7.6)
    assert ((~ours).sum(1) == 8).all()  # round(7.6)


@pytest.mark.parametrize("score", ["magnitude", "sparsegpt", "ria", "multiflow"])
@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.999])
def test_published_layers_are_cut_by_a_threshold(tmp_path: Path, score: str, level: float) -> None:
    matrices = [random_layers.matrix("a", 13, 19), random_layers.matrix("b", 10, 12, transposed=True)]
    made = Made(tmp_path, matrices)
    theirs = masks(made, method_of(score, "layer", compat="published"), [level])
    ours = masks(made, method_of(score, "layer"), [level])
    counted_from = 1 if score == "multiflow" else 0
    for m in matrices:
        keep = oracles.selection.published_threshold(made.scores(score)[m.name], level, counted_from)
        np.testing.assert_array_equal(theirs[m.name][0], stored(keep, m))
        # Without ties: one more than int(s n) where the reference counts from 0, int(s n) where it counts from 1.
        assert int((~theirs[m.name][0]).sum()) == min(int(level * m.size) + 1 - counted_from, m.size)
        assert int((~ours[m.name][0]).sum()) == round(level * m.size)


def test_a_published_threshold_takes_all_ties_and_ours_takes_none_too_many(tmp_path: Path) -> None:
    weights = {"a": torch.tensor([[1.0, 2.0, 2.0, 2.0], [2.0, 3.0, 4.0, 2.0]], dtype=torch.float16)}
    made = Made(tmp_path, [random_layers.matrix("a", 2, 4)], weights=weights)
    theirs = masks(made, method_of("magnitude", "layer", compat="published"), [0.25])["a"][0]
    ours = masks(made, method_of("magnitude", "layer"), [0.25])["a"][0]
    assert theirs.tolist() == [[False, False, False, False], [False, True, True, False]]
    assert ours.tolist() == [[False, False, True, True], [True, True, True, True]]


def test_published_sparsegpt_overshoots_in_every_block_and_ours_in_none(tmp_path: Path) -> None:
    made = Made(tmp_path, [random_layers.matrix("a", 13, 24)])
    slots = {"update": "sparsegpt", "options": {"block_size": 8}}
    theirs = masks(made, method_of("sparsegpt", "column-block", compat="published", **slots), [0.5])["a"][0]
    ours = masks(made, method_of("sparsegpt", "column-block", **slots), [0.5])["a"][0]
    assert [(~theirs[:, a : a + 8]).sum() for a in (0, 8, 16)] == [53] * 3
    assert [(~ours[:, a : a + 8]).sum() for a in (0, 8, 16)] == [52] * 3


def test_published_magnitude_allocation_counts_ties_as_multiflow_does(tmp_path: Path) -> None:
    # Six ones: half of the twelve weights end among them.
    weights = {
        "a": torch.tensor([[0.1, 0.2, 0.3, 1.0], [1.0, 1.0, 2.0, 3.0]]),
        "b": torch.tensor([[1.0, 1.0, 1.0, 5.0]]),
    }
    made = Made(tmp_path, [random_layers.matrix("a", 2, 4), random_layers.matrix("b", 1, 4)], weights=weights)
    counts = {}
    for compat in ("exact", "published"):
        method = method_of("multiflow", "layer", allocation="magnitude", compat=compat)
        removed = measure(made.model, method, 0)["removed"]
        counts[compat] = [removed[name][499] for name in ("a", "b")]
        found = masks(made, method, [0.5])
        assert [int((~found[name][0]).sum()) for name in ("a", "b")] == counts[compat]
    assert counts == {"exact": [6, 0], "published": [6, 3]}


def test_published_owl_and_alpha_pruning_miss_the_target_that_ours_meet(tmp_path: Path) -> None:
    matrices = [random_layers.matrix(f"{b}", 40, 8 * (b + 1), block=b) for b in range(3)]
    weights = {m.name: w.sign() * w.abs() ** (1 + m.block / 3) for m, w in
               zip(matrices, made_weights(matrices, torch.float32).values(), strict=True)}  # fmt: skip
    made = Made(tmp_path, matrices, weights=weights)
    total = sum(m.size for m in matrices)
    for allocation, level, options in (("owl", 0.5, {"owl_range": 0.2}), ("alpha-pruning", 0.9, {"alpha_range": 0.5})):
        share = {}
        for compat in ("exact", "published"):
            method = method_of("magnitude", "layer", allocation=allocation, compat=compat, options=options)
            found = masks(made, method, [level])
            share[compat] = sum(int((~found[m.name][0]).sum()) for m in matrices) / total
        assert abs(share["exact"] - level) <= 1.5 / total
        assert abs(share["published"] - level) > 0.01, allocation


# --- bad input ---


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("scope", ["global", "layer", "row", "column-block"])
@pytest.mark.parametrize("score", FORMULAS)
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, bad: float, scope: str, score: str) -> None:
    weights = made_weights(MATRICES, torch.bfloat16)
    weights["1.experts"][1, 2, 3] = bad
    with pytest.raises(UserError, match=r"matrix 1\.experts.*NaN or infinite"):
        masks(Made(tmp_path, weights=weights), method_of(score, scope), [0.5])


@pytest.mark.parametrize("slots", [{"scope": "column-block"}, {"scope": "row", "pattern": "2:4"}])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_sparsegpt_refuses_weights_that_are_not_finite_by_name(tmp_path: Path, slots: Any, bad: float) -> None:
    weights = made_weights(FITTING, torch.float32)
    weights["1.experts"][1, 2, 11] = bad
    with pytest.raises(UserError, match=r"matrix 1\.experts.*NaN or infinite"):
        results(Made(tmp_path, FITTING, weights=weights), method_of("sparsegpt", update="sparsegpt", **slots), [0.5])


def test_a_weight_that_is_not_finite_is_refused_even_at_a_dead_input(tmp_path: Path) -> None:
    matrices = [random_layers.matrix("a", 3, 4)]
    weights, x = made_weights(matrices, torch.float32), made_inputs(matrices)
    weights["a"][1, 2] = float("nan")
    x["a"][:, 2] = 0.0
    for score in FORMULAS:
        with pytest.raises(UserError, match=r"matrix a\b.*NaN or infinite"):
            masks(Made(tmp_path, matrices, weights=weights, x=x), method_of(score, "layer"), [0.5])


def test_a_row_that_the_pattern_does_not_divide_is_refused_by_name_before_anything_is_made(tmp_path: Path) -> None:
    made = Made(tmp_path, [m for m in MATRICES if m.name in ("0.query", "1.down", "1.out")])
    method = method_of("magnitude", "row", pattern="4:8")
    with pytest.raises(UserError, match=r"matrix 1\.down, pattern 4:8.*rows of 20 weights.*that 8 divides"):
        next(prune_levels(made.model, method, [0.5], 0, {}))


def test_a_matrix_without_statistics_is_refused_by_name(tmp_path: Path) -> None:
    x = made_inputs(MATRICES)
    del x["0.up"]
    for scope in ("global", "layer"):
        with pytest.raises(UserError, match=r"matrix 0\.up.*no statistics of its inputs"):
            masks(Made(tmp_path, x=x), method_of("wanda", scope), [0.5])


def test_a_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    Made(tmp_path, shards=3)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-1\.safetensors' beside it, which holds 0\.up"):
        open_weights(tmp_path)


def spoil(made: Made, folder: Path, name: str, by: float) -> None:
    """Give a matrix statistics whose Hessian has the smallest eigenvalue ``-by`` of its mean diagonal."""
    statistics = {m.name: random_layers.statistics(made.x[m.name], SAMPLES) for m in made.matrices}
    size = next(m.inputs for m in made.matrices if m.name == name)
    spoilt = random_layers.statistics(np.eye(size), 1)
    assert spoilt.gram is not None
    for i in range(0, size - 1, 2):
        # Pairs, so that some kept input goes with a removed one whatever the mask.
        spoilt.gram[i, i + 1] = spoilt.gram[i + 1, i] = 1 + by
    write_statistics(folder / "statistics.safetensors", [{**statistics, name: spoilt}], list(statistics))


SINGULAR = [
    {"score": "sparsegpt", "scope": "column-block", "update": "sparsegpt"},
    {"score": "sparsegpt", "scope": "row", "update": "sparsegpt", "pattern": "2:4"},
    {"score": "magnitude", "scope": "layer", "update": "sparsegpt"},
    {"score": "magnitude", "scope": "global", "update": "sparsegpt"},
    {"score": "sparsegpt", "scope": "layer"},
    {"score": "sparsegpt", "scope": "global"},
    {"score": "sparsegpt", "scope": "row", "update": "reconstruct"},
    {"score": "magnitude", "scope": "row", "update": "reconstruct"},
]


class Forgetful(StatisticsFile):
    """Reads everything anew: threads that compute scores ahead may have read on."""

    def read(self, name: str, device: torch.device) -> InputStatistics:
        self._last.clear()
        return super().read(name, device)


@pytest.mark.parametrize("kind", [StatisticsFile, Forgetful])
@pytest.mark.parametrize("slots", SINGULAR)
def test_a_singular_hessian_is_damped_more_and_that_is_said(
    tmp_path: Path, slots: dict[str, str], kind: type[StatisticsFile]
) -> None:
    made = Made(tmp_path, FITTING)
    spoil(made, tmp_path, "1.experts", 0.05)
    with kind(tmp_path / "statistics.safetensors") as statistics:
        model = PrunableModel(made.model.files, FITTING, made.model.device, statistics)
        method = method_of(**slots)
        found = dict(prune_levels(model, method, [0.5, 0.5], 0, measure(model, method, 0)))
    for name, per_level in found.items():
        for result in per_level:
            if name == "1.experts":
                assert result.note == "singular Hessian of 1.experts: damping 0.1 instead of 0.01."
            else:
                assert result.note == ""


@pytest.mark.parametrize("slots", SINGULAR)
def test_a_hopeless_hessian_is_refused_by_name(tmp_path: Path, slots: dict[str, str]) -> None:
    made = Made(tmp_path, FITTING)
    spoil(made, tmp_path, "1.experts", 3.0)
    with StatisticsFile(tmp_path / "statistics.safetensors") as statistics:
        model = PrunableModel(made.model.files, FITTING, made.model.device, statistics)
        method = method_of(**slots)
        with pytest.raises(UserError, match=r"matrix 1\.experts.*singular Hessian.*calibrate on more text"):
            list(prune_levels(model, method, [0.5], 0, measure(model, method, 0)))


def test_updated_weights_that_their_type_cannot_hold_are_refused_by_name(tmp_path: Path) -> None:
    # Two inputs that are nearly the same: the kept weight takes over the removed one, past float16's largest number.
    matrices = [random_layers.matrix("a", 1, 2)]
    x = np.random.default_rng(0).standard_normal((50, 1)) * [1.0, 1.0] + [[0.0, 1e-3]] * 50
    weights = {"a": torch.tensor([[60000.0, 60001.0]], dtype=torch.float16)}
    made = Made(tmp_path, matrices, weights=weights, x={"a": x})
    with pytest.raises(UserError, match=r"matrix a:.*updated weights that are NaN or infinite"):
        results(made, method_of("magnitude", "layer", update="sparsegpt"), [0.5])


def test_experts_and_transposed_matrices_go_to_rows_and_back() -> None:
    for m in MATRICES:
        whole = torch.arange(m.size).reshape(m.shape)
        rows = as_rows(whole, m)
        assert rows.shape == (m.outputs, m.inputs)
        assert torch.equal(as_stored(rows, m), whole)
        # The first row is what multiplies the inputs to the first output.
        first = whole.reshape(-1, *m.shape[-2:])[0]
        assert torch.equal(rows[0], first[:, 0] if m.transposed else first[0])
