"""Change points: found where a level shifts, and no more often than by chance where a course is smooth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import ruptures
from numpy.typing import NDArray

from essential_sparsity.checkpoints.steps import LEAST_STEPS, MOST_STEPS, even_steps
from essential_sparsity.emergence.changes import MARGIN, SmoothDrift, find_changes
from essential_sparsity.emergence.tables import CHANGES

Floats = NDArray[np.float64]
STEPS = list(range(0, 2000, 50))
TIME = np.array(STEPS) / STEPS[-1]
# What a statistic of weights may do in a pre-training without anything abrupt.
COURSES: dict[str, Callable[[Floats], Floats]] = {
    "linear": lambda t: t,
    "exponential approach": lambda t: 1 - np.exp(-t / 0.1),
    "logistic": lambda t: 1 / (1 + np.exp(-(t - 0.5) / 0.08)),
    "power law": lambda t: (1 + 40 * t) ** -0.5,
}


@pytest.fixture(scope="module")
def drift() -> SmoothDrift:
    return SmoothDrift(STEPS)


def noise(n: int, deviation: float, correlation: float, seed: int) -> Floats:
    innovations = np.random.default_rng(seed).normal(size=n) * deviation
    values = np.zeros(n)
    values[0] = innovations[0]
    for i in range(1, n):
        values[i] = correlation * values[i - 1] + np.sqrt(1 - correlation**2) * innovations[i]
    return values


def table(values: Floats, steps: list[int], statistic: str = "kurtosis", **axes: str) -> pd.DataFrame:
    """Return rows of a table of weights in which one statistic takes the values and all others are constant."""
    columns = dict.fromkeys(
        ("fraction_below_0.001", "fraction_below_0.01", "fraction_below_0.1_std", "fraction_below_0.1_median",
         "kurtosis", "hoyer", "effective_rank"), 0.5,
    )  # fmt: skip
    rows = {"model": "m", "name": "a", "position": 0, "step": steps, **columns, statistic: values, **axes}
    return pd.DataFrame(rows)


def changes(values: Floats, steps: list[int] = STEPS) -> pd.DataFrame:
    rows = table(values, steps)
    found = find_changes(rows, rows.drop(columns=["name", "position", "effective_rank"]))
    return found[found["statistic"] == "kurtosis"].set_index("name")


@pytest.mark.parametrize("course", COURSES.values(), ids=COURSES)
def test_a_smooth_course_jumps_no_more_often_than_by_chance(
    drift: SmoothDrift, course: Callable[[Floats], Floats]
) -> None:
    p_values = [
        drift.largest_change(course(TIME) + noise(len(TIME), deviation, correlation, seed), 99, seed).p_value
        for deviation in (1e-4, 0.02) for correlation in (0.0, 0.7) for seed in range(4)
    ]  # fmt: skip
    # Four of 16 or more have a chance of 0.7 % at the level of 5 %; benchmarks/change_points.py measures the level.
    assert np.sum(np.array(p_values) <= 0.05) <= 3


@pytest.mark.parametrize("course", COURSES.values(), ids=COURSES)
@pytest.mark.parametrize("place", [8, 30])
def test_a_jump_is_found_where_it_is(drift: SmoothDrift, course: Callable[[Floats], Floats], place: int) -> None:
    values = course(TIME) - 0.4 * (np.arange(len(TIME)) >= place) + noise(len(TIME), 0.01, 0.5, place)
    found = drift.largest_change(values, 199)
    assert found.place == place
    assert found.p_value <= 0.01
    assert found.low < -0.4 < found.high
    assert found.jump == pytest.approx(-0.4, abs=0.08)


def test_the_place_is_that_of_ruptures_once_the_drift_is_known(drift: SmoothDrift) -> None:
    # At the least-squares fit of drift and step no other place explains more of what is left without the drift.
    values = 3 * TIME + (np.arange(len(TIME)) >= 17) + noise(len(TIME), 0.15, 0.0, 5)
    found = drift.largest_change(values, 19)
    design = np.column_stack([np.ones(len(TIME)), TIME, np.arange(len(TIME)) >= found.place])
    slope = np.linalg.lstsq(design, values, rcond=None)[0][1]
    search = ruptures.Dynp(model="l2", min_size=MARGIN, jump=1).fit(values - slope * TIME)
    assert search.predict(n_bkps=1) == [found.place, len(TIME)]


def test_a_kink_is_no_jump(drift: SmoothDrift) -> None:
    for deviation in (1e-4, 0.01):
        found = drift.largest_change(np.maximum(0.0, TIME - 0.4) + noise(len(TIME), deviation, 0.0, 1), 99)
        assert found.p_value > 0.05


def test_a_stray_value_is_no_jump() -> None:
    values = TIME + noise(len(TIME), 0.005, 0.0, 2)
    values[20] += 0.3
    found = changes(values)
    assert (found["p_value"] == 1.0).all()
    assert found["flags"].str.contains("stray").all()


def test_a_row_has_the_step_the_share_and_an_adjusted_p_value() -> None:
    values = 10.0 + 2.0 * (np.array(STEPS) >= 700) + noise(len(STEPS), 0.02, 0.3, 0)
    found = changes(values)
    CHANGES.typed(found.reset_index())
    assert found["change_step"].tolist() == [700, 700]
    assert found["jump"].tolist() == pytest.approx([2.0, 2.0], abs=0.1)
    assert found["jump_share"].tolist() == pytest.approx([2.0 / np.ptp(values)] * 2, rel=0.05)
    assert (found["p_adjusted"] <= 0.05).all()
    assert (found["flags"] == "").all()


def test_nothing_depends_on_the_order_of_rows_or_on_other_models() -> None:
    values = np.sin(3 * TIME) + noise(len(STEPS), 0.02, 0.3, 0)
    rows = table(values, STEPS)
    pooled = rows.drop(columns=["name", "position", "effective_rank"])
    other = pd.concat([rows, table(values[::-1], STEPS, model="z")]).sample(frac=1, random_state=0)
    first = find_changes(rows, pooled)
    again = find_changes(other, pooled)
    pd.testing.assert_frame_equal(first, again[again["model"] == "m"].reset_index(drop=True))


@pytest.mark.parametrize(
    ("values", "steps", "flag"),
    [
        (np.ones(len(STEPS)), STEPS, "constant"),
        (np.append(TIME[:-1], np.nan), STEPS, "missing values"),
        (TIME[: LEAST_STEPS - 1], STEPS[: LEAST_STEPS - 1], f"{LEAST_STEPS - 1} evenly spaced steps"),
        # However many they are: between log-spaced steps everything seems to jump.
        (np.arange(25.0), [0, *(2**i for i in range(24))], "3 evenly spaced steps"),
    ],
)
def test_what_cannot_be_judged_says_why(values: Floats, steps: list[int], flag: str) -> None:
    found = changes(values, steps)
    assert found["flags"].str.startswith(flag).all()
    assert found[["change_step", "jump", "jump_share", "ci_low", "p_value", "p_adjusted"]].isna().all(axis=None)


def test_one_checkpoint_is_no_trajectory() -> None:
    assert find_changes(table(np.ones(1), [0]), table(np.ones(1), [0]).drop(columns=["name", "position"])).empty
    empty = table(np.ones(1), [0]).iloc[:0]
    assert find_changes(empty, empty.drop(columns=["name", "position"])).columns.tolist() == list(CHANGES.columns)


def test_the_longest_even_run_of_steps_is_taken() -> None:
    pythia = [0, *(2**i for i in range(10)), *range(1000, 144_000, 1000)]
    assert even_steps(pythia) == list(range(0, 144_000, 1000))
    assert even_steps([0, 50, 99, 100, 150, 196, 200]) == [0, 50, 100, 150, 200]
    assert even_steps([0, 1, 2, 100, 200, 300, 400, 700]) == [0, 100, 200, 300, 400]
    assert even_steps([7]) == [7]
    thinned = even_steps(range(0, 10_000, 10))
    assert 0 < len(thinned) <= MOST_STEPS
    assert len(set(np.diff(thinned))) == 1
