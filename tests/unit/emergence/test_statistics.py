"""Statistics of weights: against their formulas in NumPy and SciPy, and exact whatever the parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import stats
from torch import Tensor

from essential_sparsity.emergence.statistics import (
    ABSOLUTE_THRESHOLDS,
    MEDIAN_THRESHOLDS,
    Moments,
    bin_edges,
    effective_rank,
    histogram_rows,
    measure_checkpoint,
    no_spectrum,
    singular_values,
    spectrum_statistics,
    stable_rank,
    tally,
    write_measured,
)
from essential_sparsity.emergence.tables import MEASURED

shapes = st.tuples(st.integers(1, 8), st.integers(1, 8))
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
scales = st.sampled_from([1e-3, 0.02, 5.0])
CPU = torch.device("cpu")


def drawn(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32, scale: float = 0.02) -> Tensor:
    weight = (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)
    weight.flatten()[::5] = 0.0
    return weight


def statistics(weight: Tensor) -> dict[str, float]:
    return tally(weight).statistics()


def float64(weight: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return weight.to(torch.float64).numpy().ravel()


@settings(deadline=None, derandomize=True, max_examples=40)
@given(shapes, st.integers(0, 99), dtypes, scales)
def test_statistics_are_their_formulas(shape: tuple[int, int], seed: int, dtype: torch.dtype, scale: float) -> None:
    weight = drawn(shape, seed, dtype, scale)
    w = float64(weight)
    found = statistics(weight)
    assert found["n"] == w.size
    assert found["mean"] == pytest.approx(w.mean(), abs=1e-12)
    assert found["std"] == pytest.approx(w.std())
    assert found["mean_magnitude"] == pytest.approx(np.abs(w).mean())
    assert found["fraction_zero"] == np.mean(w == 0)
    for threshold in ABSOLUTE_THRESHOLDS:
        assert found[f"fraction_below_{threshold:g}"] == np.mean(np.abs(w) < threshold)
    assert found["fraction_below_0.1_std"] == pytest.approx(np.mean(np.abs(w) < 0.1 * w.std()))
    median = np.sort(np.abs(w))[(w.size - 1) // 2]
    for threshold in MEDIAN_THRESHOLDS:
        assert found[f"fraction_below_{threshold:g}_median"] == np.mean(np.abs(w) < threshold * median)
    if w.std() > 0:
        assert found["kurtosis"] == pytest.approx(stats.kurtosis(w), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("threshold", ABSOLUTE_THRESHOLDS)
def test_a_weight_at_a_threshold_is_not_below_it(threshold: float) -> None:
    # None of the thresholds is an edge of a bin.
    weight = torch.tensor([np.nextafter(threshold, 0), threshold, -threshold, 1.0], dtype=torch.float64)
    assert statistics(weight)[f"fraction_below_{threshold:g}"] == 0.25


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 99), dtypes)
def test_parts_change_no_count_and_no_statistic(n: int, part: int, seed: int, dtype: torch.dtype) -> None:
    weight = drawn((n,), seed, dtype)
    whole, parts = tally(weight), tally(weight, part)
    assert (parts.zeros, parts.below, parts.moments.n) == (whole.zeros, whole.below, whole.moments.n)
    assert torch.equal(parts.histogram, whole.histogram)
    assert parts.statistics() == pytest.approx(whole.statistics(), rel=1e-9, abs=1e-12)


def test_merged_moments_lose_no_digits_beside_a_large_mean() -> None:
    # Sums of powers about zero would have no correct digit left.
    values = torch.from_numpy(np.random.default_rng(0).gamma(2.0, size=9000))
    near, far = Moments.of(values), Moments()
    for part in (values + 1e6).split(700):
        far = far.merged(Moments.of(part))
    assert far.std == pytest.approx(near.std, rel=1e-8)
    assert far.kurtosis == pytest.approx(stats.kurtosis(values.numpy()), rel=1e-6)


def test_tallies_of_matrices_add_up_to_that_of_all_weights() -> None:
    matrices = [drawn((30, 7), 0), drawn((11,), 1, torch.bfloat16, 3.0), torch.zeros(5)]
    total = tally(matrices[0]) + tally(matrices[1]) + tally(matrices[2])
    together = tally(torch.cat([m.flatten().to(torch.float64) for m in matrices]))
    assert torch.equal(total.histogram, together.histogram)
    found, expected = total.statistics(), together.statistics()
    own = [name for name in found if name.endswith(("_std", "_median"))]
    for name in own:
        # A threshold of each matrix's own: the shares are means, weighted by size.
        shares = [statistics(m)[name] * m.numel() for m in matrices]
        assert found.pop(name) == pytest.approx(sum(shares) / 226)
        expected.pop(name)
    assert found == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(1, 200), st.integers(0, 99), dtypes, scales)
def test_bins_hold_the_weights_between_their_edges(n: int, seed: int, dtype: torch.dtype, scale: float) -> None:
    weight = drawn((n,), seed, dtype, scale)
    size = np.abs(float64(weight))
    found = tally(weight)
    rows = histogram_rows(found.histogram, found.zeros)
    assert rows["n"].sum() == n
    assert rows.iloc[0].tolist() == [0.0, 0.0, np.sum(size == 0)]
    for row in rows.iloc[1:].itertuples():
        assert row.n == np.sum((size >= row.low) & (size < row.high)) > 0
        assert 1.14 < row.high / row.low < 1.26, "four bins an octave"


def test_an_octave_has_four_bins() -> None:
    places = int(torch.tensor(1.0, dtype=torch.float64).view(torch.int64)) >> 50
    assert bin_edges(places + torch.arange(5)).tolist() == [1.0, 1.25, 1.5, 1.75, 2.0]


def test_kurtosis_of_known_distributions() -> None:
    draw = np.random.default_rng(0)
    n = 400_000

    def kurtosis(values: np.ndarray[Any, Any]) -> float:
        return statistics(torch.from_numpy(values))["kurtosis"]

    # Normal 0, uniform -6/5, Laplace 3; population moments of a coin: -2.
    assert kurtosis(draw.normal(size=n)) == pytest.approx(0.0, abs=0.05)
    assert kurtosis(draw.uniform(size=n)) == pytest.approx(-1.2, abs=0.02)
    assert kurtosis(draw.laplace(size=n)) == pytest.approx(3.0, abs=0.3)
    assert kurtosis(np.array([-1.0, 1.0, -1.0, 1.0])) == -2.0
    assert kurtosis(np.full(5, 0.3)) == 0.0


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(1, 400), st.floats(1e-6, 1e3), st.integers(0, 9))
def test_hoyer_is_zero_for_equal_magnitudes_and_one_for_a_single_weight(n: int, size: float, seed: int) -> None:
    signs = torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    equal = statistics(size * signs)["hoyer"]
    assert 0.0 <= equal < 1e-6, "rounding must not lead out of [0, 1]: the table would be refused"
    single = torch.zeros(n)
    single[seed % n] = size
    assert statistics(single)["hoyer"] == pytest.approx(1.0 if n > 1 else 0.0)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(shapes, st.integers(0, 99), st.floats(0.001, 1000))
def test_hoyer_is_its_formula_whatever_the_scale(shape: tuple[int, int], seed: int, scale: float) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    w = float64(weight)
    root = np.sqrt(w.size)
    expected = 0.0 if w.size == 1 else (root - np.abs(w).sum() / np.sqrt((w**2).sum())) / (root - 1)
    assert statistics(weight)["hoyer"] == pytest.approx(expected, abs=1e-9)
    assert statistics(scale * weight)["hoyer"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("weight", [torch.zeros(3, 3), torch.ones(1, 1), torch.full((4, 4), -0.1)])
def test_degenerate_matrices_have_finite_statistics(weight: Tensor) -> None:
    assert np.isfinite(list(statistics(weight).values())).all()
    assert np.isfinite(list(spectrum_statistics(weight).values())).all()


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 99), dtypes)
def test_ranks_are_those_of_the_singular_values(rows: int, columns: int, seed: int, dtype: torch.dtype) -> None:
    weight = drawn((rows, columns), seed, dtype)
    values = np.linalg.svd(weight.to(torch.float64).numpy(), compute_uv=False)
    np.testing.assert_allclose(
        singular_values(weight).numpy(), np.sort(values)[-min(rows, columns) :], atol=1e-7 * max(values.max(), 1e-30)
    )
    if values.sum() > 0:
        shares = values[values > 0] / values.sum()
        found = spectrum_statistics(weight)
        assert found["effective_rank"] == pytest.approx(np.exp(-np.sum(shares * np.log(shares))), rel=1e-5)
        assert found["stable_rank"] == pytest.approx((values**2).sum() / values.max() ** 2)


def test_ranks_count_equal_singular_values_and_ignore_none() -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))[0][:, :6]
    values = singular_values(torch.from_numpy(rotation @ rotation.T))
    assert effective_rank(values) == pytest.approx(6.0, rel=1e-5)
    assert stable_rank(values) == pytest.approx(6.0)
    assert np.isnan(list(spectrum_statistics(torch.ones(2, 3, 4)).values())).all(), "experts have no one spectrum"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_checkpoint_has_a_row_a_matrix_and_one_for_all(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {"b": drawn((4, 4), 0, dtype), "a": torch.full((3, 16), 0.25, dtype=dtype), "unasked": torch.ones(2)}
    save_file(state, tmp_path / "model.safetensors")
    measured = measure_checkpoint(tmp_path / "model.safetensors", ["b", "a"], CPU)
    paths = {name: tmp_path / f"{name}.parquet" for name in MEASURED}
    write_measured([measured.assign(model="m", checkpoint="final", step=None)], paths)
    matrices, pooled, histograms = (pd.read_parquet(paths[name]) for name in ("matrices", "pooled", "histograms"))
    assert matrices["name"].tolist() == ["b", "a"]
    assert matrices["position"].tolist() == [0, 1]
    assert matrices["n"].tolist() == [16, 48]
    assert matrices["fraction_below_0.1"].tolist()[1] == 0.0
    assert matrices["effective_rank"].tolist()[1] == pytest.approx(1.0, rel=1e-4)
    weights = np.concatenate([float64(state["b"]), float64(state["a"])])
    assert pooled["n"].tolist() == [64] == [histograms["n"].sum()]
    assert pooled["kurtosis"].tolist() == pytest.approx([stats.kurtosis(weights)])


def test_weights_are_measured_as_the_checkpoint_will_store_them(tmp_path: Path) -> None:
    weight = drawn((20, 20), 3)
    save_file({"w": weight}, tmp_path / "model.safetensors")
    found = measure_checkpoint(tmp_path / "model.safetensors", ["w"], CPU, no_spectrum, torch.bfloat16).matrices.iloc[0]
    assert found["mean_magnitude"] == statistics(weight.to(torch.bfloat16))["mean_magnitude"]
    assert found["mean_magnitude"] != statistics(weight)["mean_magnitude"]
    assert np.isnan(found["effective_rank"])
