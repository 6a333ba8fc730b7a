"""Statistics of weights, against their formulas in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from essential_sparsity.emergence import checkpoint_statistics, excess_kurtosis, hoyer_sparsity, matrix_statistics
from essential_sparsity.table_schema import write_table
from essential_sparsity.tables import WEIGHTS

shapes = st.tuples(st.integers(1, 8), st.integers(1, 8))


@settings(deadline=None, derandomize=True)
@given(shapes, st.integers(0, 99), st.sampled_from([torch.float32, torch.bfloat16]), st.sampled_from([1e-3, 0.02, 5.0]))
def test_statistics_are_their_formulas(shape: tuple[int, int], seed: int, dtype: torch.dtype, scale: float) -> None:
    weight = (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)
    weight.flatten()[::5] = 0.0
    w = weight.to(torch.float64).numpy()
    found = matrix_statistics(weight)
    assert found["n"] == w.size
    assert found["mean"] == pytest.approx(w.mean(), abs=1e-12)
    assert found["std"] == pytest.approx(w.std())
    assert found["mean_magnitude"] == pytest.approx(np.abs(w).mean())
    assert found["fraction_zero"] == np.mean(w == 0)
    assert found["fraction_below_0.001"] == np.mean(np.abs(w) < 1e-3)
    assert found["fraction_below_0.01"] == np.mean(np.abs(w) < 1e-2)
    assert found["fraction_below_0.1_std"] == pytest.approx(np.mean(np.abs(w) < 0.1 * w.std()))
    if w.std() > 0:
        assert found["kurtosis"] == pytest.approx(((w - w.mean()) ** 4).mean() / w.var() ** 2 - 3, rel=1e-6)


def test_kurtosis_of_known_distributions() -> None:
    draw = np.random.default_rng(0)
    n = 400_000
    # Normal 0, uniform -6/5, Laplace 3; population moments of a coin: -2.
    assert excess_kurtosis(torch.from_numpy(draw.normal(size=n))) == pytest.approx(0.0, abs=0.05)
    assert excess_kurtosis(torch.from_numpy(draw.uniform(size=n))) == pytest.approx(-1.2, abs=0.02)
    assert excess_kurtosis(torch.from_numpy(draw.laplace(size=n))) == pytest.approx(3.0, abs=0.3)
    assert excess_kurtosis(torch.tensor([-1.0, 1.0, -1.0, 1.0])) == -2.0
    assert excess_kurtosis(torch.full((5,), 0.3)) == 0.0


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 400), st.floats(1e-6, 1e3), st.integers(0, 9))
def test_hoyer_is_zero_for_equal_magnitudes_and_one_for_a_single_weight(n: int, size: float, seed: int) -> None:
    signs = torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    equal = hoyer_sparsity(size * signs)
    assert 0.0 <= equal < 1e-6, "rounding must not lead out of [0, 1]: the table would be refused"
    single = torch.zeros(n)
    single[seed % n] = size
    assert hoyer_sparsity(single) == pytest.approx(1.0 if n > 1 else 0.0)


@settings(deadline=None, derandomize=True)
@given(shapes, st.integers(0, 99), st.floats(0.001, 1000))
def test_hoyer_is_its_formula_whatever_the_scale(shape: tuple[int, int], seed: int, scale: float) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    w = weight.to(torch.float64).numpy().ravel()
    root = np.sqrt(w.size)
    expected = 0.0 if w.size == 1 else (root - np.abs(w).sum() / np.sqrt((w**2).sum())) / (root - 1)
    assert hoyer_sparsity(weight) == pytest.approx(expected, abs=1e-9)
    assert hoyer_sparsity(scale * weight) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("weight", [torch.zeros(3, 3), torch.ones(1), torch.full((4, 4), -0.1)])
def test_degenerate_matrices_have_finite_statistics(weight: torch.Tensor) -> None:
    assert np.isfinite(list(matrix_statistics(weight).values())).all()


def test_a_row_for_each_named_matrix(tmp_path: Path) -> None:
    state = {"b": torch.randn(4, 4), "a": torch.full((3, 16), 0.1), "unasked": torch.ones(2)}
    save_file(state, tmp_path / "model.safetensors")
    frame = checkpoint_statistics(tmp_path / "model.safetensors", ["b", "a"], torch.device("cpu"))
    assert frame["name"].tolist() == ["b", "a"]
    assert frame["n"].tolist() == [16, 48]
    table = frame.assign(model="m", checkpoint="final", step=None).reset_index(names="position")
    written = write_table(pd.DataFrame(table), WEIGHTS, tmp_path / "weights.parquet")
    assert written["fraction_below_0.01"].tolist()[1] == 0.0
