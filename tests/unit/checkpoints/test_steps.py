"""Trajectories: which steps there are, where the hub has them, and what a reader must know of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import frames
from essential_sparsity.checkpoints.steps import Trajectory, hub_steps, listed_steps
from essential_sparsity.errors import UserError
from essential_sparsity.records import record
from essential_sparsity.report.words.trajectory import change_notes, missing_notes, outlier_notes, outliers, same_notes

WHERE = "config/models.yaml, m.source.trajectory"


def places(**trajectory: Any) -> dict[str, tuple[str, str]]:
    found = hub_steps(record(Trajectory, {"revision": "main", **trajectory}), WHERE)
    return {name: (place.repository, place.revision) for name, place in found.items()}


@pytest.mark.parametrize(
    ("steps", "listed"),
    [
        ([3, 1, 3], [1, 3]),
        ({"from": 1000, "to": 3500, "every": 1000}, [1000, 2000, 3000]),
        ({"powers_of_two_to": 8}, [0, 1, 2, 4, 8]),
        ({"powers_of_two_to": 9}, [0, 1, 2, 4, 8]),
        ({"powers_of_two_to": 2, "from": 2, "to": 6, "every": 4}, [0, 1, 2, 6]),
    ],
)
def test_steps_are_listed_or_follow_a_rule(steps: Any, listed: list[int]) -> None:
    assert listed_steps(steps) == listed


def test_pythia_has_154_steps() -> None:
    # Its card: step0, ten log-spaced checkpoints to 512, and 143 evenly spaced ones from 1000 to 143000.
    found = places(
        repository="EleutherAI/pythia-70m", revision="step{step}",
        steps={"from": 1000, "to": 143000, "every": 1000, "powers_of_two_to": 512},
    )  # fmt: skip
    assert len(found) == 154
    assert found["step000512"] == ("EleutherAI/pythia-70m", "step512")
    assert list(found)[-1] == "step143000"


def test_one_repository_a_step_and_the_end_apart() -> None:
    found = places(
        repository="google/multiberts-seed_0-step_{thousands}k", steps=[0, 20000, 2000000],
        final={"repository": "google/multiberts-seed_0", "revision": "main"},
    )  # fmt: skip
    assert found == {
        "step000000": ("google/multiberts-seed_0-step_0k", "main"),
        "step020000": ("google/multiberts-seed_0-step_20k", "main"),
        "step2000000": ("google/multiberts-seed_0-step_2000k", "main"),
        "final": ("google/multiberts-seed_0", "main"),
    }


@pytest.mark.parametrize("key", [1000, "1000"])
def test_revisions_that_no_format_names_are_listed(key: object) -> None:
    found = places(repository="org/olmo", revisions={key: "stage1-step1000-tokens3B"})
    assert found == {"step001000": ("org/olmo", "stage1-step1000-tokens3B")}


@pytest.mark.parametrize(
    ("trajectory", "says"),
    [
        ({"repository": "org/m", "steps": [1, 2]}, r"'org/m' at 'main' for every step"),
        ({"repository": "org/m-{thousands}k", "steps": [1500]}, r"trajectory\.steps: found step 1500"),
        ({"repository": "org/m-{step}", "steps": {"from": 5, "to": 4, "every": 1}}, "no step"),
    ],
)
def test_steps_that_cannot_be_told_apart_are_refused(trajectory: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        places(**trajectory)


def test_missing_steps_are_named() -> None:
    lookups = {
        "whole": {"found": {"step000000": "c"}, "missing": {}},
        "m": {"found": {"step000000": "c"}, "missing": {"final": "r", "step002000": "r"}},
    }
    assert missing_notes(lookups) == [
        "The hub lacks 2 of the 3 steps of m, which are left out: step 2,000, final."
    ]  # fmt: skip
    many = {"m": {"found": {}, "missing": {f"step{i:06d}": "" for i in range(20)}}}
    assert missing_notes(many)[0].endswith("step 7 and 12 more.")


def test_checkpoints_of_the_same_bytes_are_named() -> None:
    digests = {("m", "final"): "a", ("m", "step004000"): "a", ("m", "step000000"): "b", ("other", "final"): "a"}
    rows = [{"model": m, "checkpoint": c, "weights_sha256": d * 64} for (m, c), d in digests.items()]
    (note,) = same_notes(rows)
    assert note.startswith("step 4,000, final of m have the same weights (SHA-256 aaaaaaaaaaaa)")


def norms(values: list[float]) -> pd.Series:
    return pd.Series(values, index=[f"step{i:06d}" for i in range(len(values))])


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 4, 8, 16, 32],  # grows
        [10, 5, 2, 1, 0.5, 0.2],  # shrinks
        [1, 3, 5, 5.2, 5.1, 4.9, 4.5],  # a peak that training passes
        [1, 100, 1, 1],  # too few to tell
        [1.0] * 6,
    ],
)
def test_training_is_no_outlier(values: list[float]) -> None:
    assert outliers(norms(values)) == {}


@pytest.mark.parametrize(("factor", "where"), [(2.0, 3), (0.5, 3), (0.0, 2), (1.2, 4)])
def test_a_step_off_its_neighbours_is_found_and_they_are_not(factor: float, where: int) -> None:
    values = np.linspace(10, 11, 7)
    values[where] *= factor
    assert list(outliers(norms(list(values)))) == [f"step{where:06d}"]


def test_an_outlier_is_named_with_its_model() -> None:
    rows = [
        {"model": "m", "checkpoint": f"step{i:06d}", "n": 100, "mean": 0.0, "std": 3.0 if i == 3 else 1.0}
        for i in range(6)
        for _ in range(2)
    ]
    (note,) = outlier_notes(pd.DataFrame(rows))
    assert note.startswith("m, step 3, stands out: the norm of its prunable weights is 3 times")
    assert outlier_notes(pd.DataFrame(columns=["model", "checkpoint", "n", "mean", "std"])) == []


def test_a_sentence_says_what_jumps_and_what_does_not() -> None:
    changes = frames.changes()
    (note,) = change_notes(changes)
    matrices = changes[changes["name"] != "all"]
    abrupt = int((matrices["p_adjusted"] < 0.05).sum())
    assert f"{abrupt} of {len(matrices)} trajectories" in note
    assert "kurtosis at step 144" in note
    (none,) = change_notes(changes.assign(p_adjusted=1.0))
    assert "no statistic of all prunable weights together jumps" in none
    assert f"0 of {len(matrices)}" in none
    assert change_notes(changes.assign(p_adjusted=np.nan)) == [], "nothing was tested"
