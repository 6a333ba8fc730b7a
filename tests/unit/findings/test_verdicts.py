"""Statistics of claims against closed forms and brute force, and the verdicts that follow."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import frames
from essential_sparsity.findings.claims import Claim, Group, Of, Part, Region, WeightDifference
from essential_sparsity.findings.estimates import Estimate
from essential_sparsity.findings.evidence import Evidence
from essential_sparsity.findings.ranks import tau_bounds
from essential_sparsity.findings.tables import FINDINGS
from essential_sparsity.findings.values import worst_bounds
from essential_sparsity.findings.variance import components
from essential_sparsity.findings.verdicts import STATISTICS, judge, region_text, verdict
from essential_sparsity.knees.samples import Examples
from essential_sparsity.records import record

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SETTINGS = replace(frames.SETTINGS, draws=400)


# --- the verdict ----------------------------------------------------------------------------------------------------


def holds_at(x: float, holds: Mapping[str, Any]) -> bool:
    if "above" in holds:
        return bool(x > holds["above"])
    if "below" in holds:
        return bool(x < holds["below"])
    return bool(holds["within"][0] <= x <= holds["within"][1])


# Whole numbers meet the edges of regions often.
edge = st.integers(-5, 5).map(float)
regions = st.one_of(
    edge.map(lambda a: {"above": a}),
    edge.map(lambda a: {"below": a}),
    st.tuples(edge, st.integers(1, 4)).map(lambda t: {"within": [t[0], t[0] + t[1]]}),
)


@given(regions, edge, st.integers(0, 6), st.sampled_from(["closed", "below", "above"]))
def test_a_verdict_says_whether_all_or_none_of_the_interval_lies_in_the_region(
    holds: dict[str, Any], low: float, width: int, end: str
) -> None:
    high = low + width
    # Quarters fall inside and outside of every region whose edges are whole.
    points = np.arange(low, high + 0.25, 0.25)
    if end == "above":
        high, points = math.inf, np.append(points, np.arange(high, 20, 0.25))
    if end == "below":
        low, points = -math.inf, np.append(np.arange(-20, low, 0.25), points)
    inside = [holds_at(x, holds) for x in points]
    assert verdict(low, high, Region(**holds)) == (
        "holds" if all(inside) else "undecided" if any(inside) else "does not hold"
    )


@pytest.mark.parametrize("interval", [(None, None), (math.nan, 3.0), (2.5, None)])
def test_without_an_interval_nothing_is_decided(interval: tuple[float | None, float | None]) -> None:
    assert verdict(*interval, Region(above=2)) == "undecided"


def test_regions_in_words() -> None:
    regions = (Region(above=2), Region(below=-0.5), Region(within=[-0.01, 0.01]))
    assert [region_text(r) for r in regions] == [
        "above 2", "below -0.5", "from -0.01 to 0.01",
    ]  # fmt: skip


# --- curves ---------------------------------------------------------------------------------------------------------


def evidence(
    values: Mapping[tuple[str, str], Mapping[float, float]], noise: float = 0.002, seeds: int = 4, dense: float = 0.9,
    tables: Mapping[str, pd.DataFrame] | None = None, drawn: tuple[str, ...] = (),
) -> Evidence:  # fmt: skip
    """The curves of models and methods on one task, with seeds that differ by noise."""
    generator = np.random.default_rng(0)
    rows = []
    for (model, method), curve in values.items():
        for seed in range(seeds):
            shifted = {s: v + noise * generator.normal() for s, v in curve.items()}
            own = dense + noise * generator.normal()
            rows += frames.curve_rows(model, "final", method, frames.GENRE, own, shifted, seed=seed)
    frame = pd.DataFrame(rows).drop_duplicates(["model", "method", "sparsity", "seed"])
    last = dict.fromkeys([model for model, _ in values], "final")
    return Evidence(frame, Examples(), SETTINGS, last, tables or {}, frozenset(drawn))


def bent(knee: float, before: float, after: float, dense: float = 0.9) -> dict[float, float]:
    """A curve of two lines."""
    return {s: dense - before * min(s, knee) - after * max(0.0, s - knee) for s in LEVELS}


def estimate(statistic: str, of: dict[str, Any], known: Evidence) -> Estimate:
    return STATISTICS[statistic](record(Of, of), known)


def part(model: str = "a", method: str = "magnitude-global", rule: str = "tolerance", **other: Any) -> dict[str, Any]:
    models = [model] if isinstance(model, str) else model
    return {
        "models": models, "checkpoint": "last", "method": method, "task": frames.GENRE, "rule": rule, **other,
    }  # fmt: skip


MAGNITUDE, RANDOM = "magnitude-global", "random-global"


def test_the_ratio_of_slopes_is_that_of_the_lines() -> None:
    known = evidence({("a", MAGNITUDE): bent(0.45, 0.1, 0.8)}, noise=0.0)
    assert estimate("slope-ratio", part(rule="two-segment"), known).value == pytest.approx(8.0)
    noisy = estimate(
        "slope-ratio", part(rule="two-segment"), evidence({("a", MAGNITUDE): bent(0.45, 0.1, 0.8)}, noise=0.004)
    )
    assert noisy.low is not None and noisy.high is not None
    assert noisy.low < 8.0 < noisy.high and noisy.low > 1.0


@pytest.mark.parametrize("before", [0.0, -0.05])
def test_a_curve_that_does_not_fall_before_its_knee_has_an_unbounded_ratio(before: float) -> None:
    found = estimate(
        "slope-ratio", part(rule="two-segment"), evidence({("a", MAGNITUDE): bent(0.45, before, 0.8)}, noise=0.0005)
    )
    assert found.high == math.inf
    assert found.low is not None and found.low > 20
    assert verdict(found.low, found.high, Region(above=2)) == "holds"
    assert verdict(found.low, found.high, Region(within=[1, 100])) != "holds"


def test_differences_of_values_are_means_over_levels_or_the_worst() -> None:
    curves = {("a", MAGNITUDE): bent(0.7, 0, 0), ("a", RANDOM): bent(0.7, 0.1, 0)}
    known = evidence(curves, noise=0.0)
    of = {"one": part(), "other": part(method=RANDOM), "levels": [0.2, 0.6], "over": "mean", "relative": "none",
          "pairing": "none"}  # fmt: skip
    assert estimate("value-difference", of, known).value == pytest.approx(0.1 * 0.4)
    assert estimate("value-difference", {**of, "over": "worst"}, known).value == pytest.approx(0.06)
    relative = estimate("value-difference", {**of, "relative": "dense"}, known)
    assert relative.value == pytest.approx(0.1 * 0.4 / 0.9)
    alone = {key: value for key, value in of.items() if key != "other"} | {"one": part(method=RANDOM)}
    assert estimate("value-difference", alone, known).value == pytest.approx(-0.04)


def test_essential_levels_end_at_the_knee_of_the_reference() -> None:
    curves = {("a", MAGNITUDE): bent(0.45, 0.0, 2.0), ("a", RANDOM): bent(0.1, 0.0, 0.5)}
    of = {"one": part(), "other": part(method=RANDOM), "levels": "essential", "over": "mean", "relative": "none",
          "pairing": "none", "reference": part()}  # fmt: skip
    found = estimate("value-difference", of, evidence(curves, noise=0.0))
    # Between the levels 40 and 50 % the tolerance of 2 % is reached at 41.8 %: the levels up to 40 % count.
    assert found.value == pytest.approx(np.mean([0.5 * (s - 0.1) for s in (0.1, 0.2, 0.3, 0.4)]))
    assert any(flag.endswith("41.8 %: 4") for flag in found.flags)


def test_the_worst_level_is_covered() -> None:
    generator = np.random.default_rng(3)
    truth = np.array([0.0, 0.01, -0.012, 0.0, 0.004])
    covered, runs = 0, 300
    for _ in range(runs):
        seen = truth + 0.01 * generator.normal(size=5)
        low, high = worst_bounds(seen, seen + 0.01 * generator.normal(size=(300, 5)), 0.9)
        covered += low <= np.abs(truth).max() <= high
    # It holds wherever the band does, and at times where that does not.
    assert covered / runs >= 0.86


def test_a_censored_knee_decides_nothing_on_the_side_where_it_is_not_known() -> None:
    flat = dict.fromkeys(LEVELS, 0.9)
    known = evidence({("a", MAGNITUDE): flat, ("a", RANDOM): bent(0.45, 0.0, 2.0)}, noise=0.0001)
    found = estimate("knee", part(), known)
    assert (found.low, found.high) == (pytest.approx(0.7, abs=1e-6), 1.0)
    of = {"one": part(), "other": part(method=RANDOM), "pairing": "none"}
    apart = estimate("knee-difference", of, known)
    assert verdict(apart.low, apart.high, Region(above=0.1)) == "holds"
    # It may be as large as the levels cannot show.
    assert verdict(apart.low, apart.high, Region(below=0.3)) == "undecided"
    turned = estimate("knee-difference", {"one": of["other"], "other": of["one"], "pairing": "none"}, known)
    assert verdict(turned.low, turned.high, Region(above=-0.3)) == "undecided"


def test_groups_of_knees_are_compared_by_their_spread() -> None:
    knees = {"a0": 0.3, "a1": 0.34, "a2": 0.35, "b0": 0.5, "b1": 0.51, "b2": 0.56}
    known = evidence({(name, MAGNITUDE): bent(knee, 0.0, 9.0) for name, knee in knees.items()}, noise=0.0, seeds=1)
    of = {"one": part(["b0", "b1", "b2"]), "other": part(["a0", "a1", "a2"]), "pairing": "none"}
    found = estimate("knee-difference", of, known)
    # Read by the tolerance: 2 % of 0.9, on the interpolated curve.
    read = {name: known.knee_units(record(Part, part(name)))[0].value for name in knees}
    expected = stats.ttest_ind(
        [read[n] for n in ("b0", "b1", "b2")], [read[n] for n in ("a0", "a1", "a2")], equal_var=False
    ).confidence_interval(0.95)
    assert (found.low, found.high, found.n_seeds) == (pytest.approx(expected.low), pytest.approx(expected.high), 3)


# --- ranks and variance ---------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=6))
def test_tau_is_kendalls(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array(part, dtype=float) for part in zip(*pairs, strict=True))
    expected = stats.kendalltau(x, y).statistic
    found = tau_bounds(x, y[None], y[None])[:, 0]
    assert found == pytest.approx([expected, expected], nan_ok=True)


def test_the_bounds_of_tau_hold_every_order_of_censored_numbers() -> None:
    x, least, most = np.array([1.0, 2, 3, 4]), np.array([0.1, 0.4, 0.45, 0.7]), np.array([0.1, 0.4, 0.9, 1.0])
    low, high = tau_bounds(x, least[None], most[None])[:, 0]
    taus = [
        stats.kendalltau(x, [0.1, 0.4, third, fourth]).statistic
        for third, fourth in itertools.product(np.linspace(0.45, 0.9, 7), np.linspace(0.71, 1.0, 6))
    ]
    assert (low, high) == pytest.approx((min(taus), max(taus)))


def test_components_are_those_of_the_analysis_of_variance() -> None:
    generator = np.random.default_rng(4)
    a, b, n = 4, 3, 5
    y = generator.normal(size=(a, b, n)) + generator.normal(size=(a, 1, 1)) + generator.normal(size=(1, b, 1))
    cells = [(f"m{i}", f"t{j}", "magnitude") for i, j, _ in itertools.product(range(a), range(b), range(n))]
    found = {name: part[0] for name, part in components(cells, y.reshape(1, -1)).items()}
    grand, rows, columns, means = y.mean(), y.mean(axis=(1, 2)), y.mean(axis=(0, 2)), y.mean(axis=2)
    ms_a = b * n * ((rows - grand) ** 2).sum() / (a - 1)
    ms_b = a * n * ((columns - grand) ** 2).sum() / (b - 1)
    ms_ab = n * ((means - rows[:, None] - columns[None] + grand) ** 2).sum() / ((a - 1) * (b - 1))
    ms_e = ((y - means[:, :, None]) ** 2).sum() / (a * b * (n - 1))
    expected = {
        "model": (ms_a - ms_ab) / (b * n), "task": (ms_b - ms_ab) / (a * n), "interaction": (ms_ab - ms_e) / n,
        "seed": ms_e,
    }  # fmt: skip
    assert found == pytest.approx(expected)


def test_components_of_an_unbalanced_design_are_unbiased() -> None:
    generator = np.random.default_rng(5)
    cells = [(f"m{i}", f"t{j}", "x") for i, j, s in itertools.product(range(5), range(4), range(3)) if (i + j + s) % 3]
    models, tasks = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    draws = 3000
    of_models, of_tasks = 2.0 * generator.normal(size=(draws, 5)), generator.normal(size=(draws, 4))
    y = 0.5 * generator.normal(size=(draws, len(cells)))
    y += of_models[:, [models.index(c[0]) for c in cells]] + of_tasks[:, [tasks.index(c[1]) for c in cells]]
    found = {name: part.mean() for name, part in components(cells, y).items()}
    assert found == pytest.approx({"model": 4.0, "task": 1.0, "interaction": 0.0, "seed": 0.25}, rel=0.08, abs=0.02)


def test_a_factor_that_nothing_tells_apart_has_no_share() -> None:
    cells = [("a", "one", "x"), ("a", "one", "x"), ("b", "two", "x"), ("b", "two", "x")]
    assert not {"model", "task"} & set(components(cells, np.arange(4.0)[None]))


def test_the_share_of_the_method_is_large_where_methods_differ() -> None:
    curves = {
        (model, method): bent(knee, 0.0, 2.0)
        for model in ("a", "b") for method, knee in ((MAGNITUDE, 0.6), (RANDOM, 0.2))
    }  # fmt: skip
    found = estimate("variance-share", {"factor": "method", "rule": "tolerance"}, evidence(curves))
    assert found.value is not None and found.value > 0.95
    assert found.low is not None and found.low > 0.9
    seed = estimate("variance-share", {"factor": "seed", "rule": "tolerance"}, evidence(curves))
    assert seed.high is not None and seed.high < 0.1


# --- tables ---------------------------------------------------------------------------------------------------------


def similarities(values: list[float]) -> pd.DataFrame:
    return pd.DataFrame([
        {"model": "a", "checkpoint": "final", "sparsity": s, "method": RANDOM, "other_method": MAGNITUDE, "seed": i,
         "cosine_corrected": v + s, "cosine": 0.0, "overlap": 0.0, "jaccard": 0.0}
        for i, v in enumerate(values) for s in (0.1, 0.3, 0.5)
    ])  # fmt: skip


def test_similarity_is_averaged_over_levels_with_an_interval_over_seeds() -> None:
    of = {"models": ["a"], "checkpoint": "last", "methods": [MAGNITUDE, RANDOM], "levels": [0.1, 0.3],
          "measure": "cosine_corrected"}  # fmt: skip
    values = [0.1, 0.16, 0.2]

    def found(values: list[float], drawn: tuple[str, ...]) -> Any:
        known = evidence(
            {("a", MAGNITUDE): bent(0.4, 0, 1)}, tables={"similarities": similarities(values)}, drawn=drawn
        )
        return estimate("mask-similarity", of, known)

    expected = stats.ttest_1samp(np.array(values) + 0.2, 0).confidence_interval(0.95)
    assert (found(values, (RANDOM,)).low, found(values, (RANDOM,)).high) == pytest.approx((expected.low, expected.high))
    # Masks without chance are what they are; of one seed of others nothing is known.
    assert (found([0.1], ()).low, found([0.1], ()).high) == pytest.approx((0.3, 0.3))
    assert found([0.1], (RANDOM,)).low is None


@pytest.mark.parametrize(("p", "low"), [(0.01, 0.4), (0.2, 0.0), (math.nan, 0.0)])
def test_a_change_that_may_be_drift_does_not_exclude_that_there_is_none(p: float, low: float) -> None:
    table = pd.DataFrame([
        {"model": "a", "name": "all", "statistic": "hoyer", "change_step": 9, "jump": 0.1, "jump_share": 0.5,
         "ci_low": 0.4, "ci_high": 0.6, "p_value": p, "p_adjusted": p, "flags": "two levels"}
    ])  # fmt: skip
    known = evidence({("a", MAGNITUDE): bent(0.4, 0, 1)}, tables={"changes": table})
    of = {"models": ["a"], "matrix": "all", "column": "hoyer", "alpha": 0.05}
    found = estimate("abrupt-change", of, known)
    assert (found.value, found.low, found.high) == (0.5, low, 0.6)
    assert any(flag.startswith("largest p") for flag in found.flags)
    # A jump too small for the claim is too small, whether drift or not.
    assert verdict(found.low, found.high, Region(above=0.7)) == "does not hold"


def test_weights_are_weighted_by_the_size_of_their_matrix() -> None:
    rows = [
        {"model": m, "checkpoint": "final", "name": f"w{i}", "n": n, "kurtosis": k}
        for m, shift in (("a", 1.0), ("b", 0.0)) for i, (n, k) in enumerate([(10, 1 + shift), (30, 2 + shift)])
    ]  # fmt: skip
    known = evidence({(m, MAGNITUDE): bent(0.4, 0, 1) for m in "ab"}, tables={"weights": pd.DataFrame(rows)})
    one, other = (Group(models=[m], checkpoint="last") for m in "ab")
    assert known.weights_of(one, "kurtosis")[0].value == pytest.approx(2.75)
    of = WeightDifference(one=one, other=other, column="kurtosis", pairing="none")
    found = STATISTICS["weight-statistic-difference"](of, known)
    assert found.value == pytest.approx(1.0)
    assert found.low is None


# --- the table ------------------------------------------------------------------------------------------------------


def test_rows_fit_the_schema_and_say_why_there_is_no_estimate() -> None:
    known = evidence({("a", MAGNITUDE): bent(0.45, 0.0, 2.0)})
    known.evaluations.loc[(known.evaluations["method"] == "dense") & (known.evaluations["seed"] == 2), "flags"] = (
        "dense at chance"
    )
    claims = [
        {"finding": "f", "claim": "c", "statistic": "knee", "of": part(), "holds": {"above": 0.3}},
        {"finding": "f", "claim": "c", "statistic": "knee", "of": part(method="lost"), "holds": {"above": 0.3}},
    ]
    found = FINDINGS.typed(judge([record(Claim, claim) for claim in claims], known, "s", "paper"))
    assert found["verdict"].tolist() == ["holds", "undecided"]
    assert np.isnan(found["estimate"][1]) and "a/final/lost" in found["flags"][1]
    assert found["diverged"][0] == f"a/final on {frames.GENRE}, seed 2"
    assert json.loads(found["of"][0]) == part()
    assert set(found["scale"]) == {"paper"}
