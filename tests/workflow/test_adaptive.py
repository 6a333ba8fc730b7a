"""A study whose levels are placed: rounds until the knee is bracketed, resumed, repeated and given a larger budget."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from essential_sparsity.knees.tables import LEVELS

CURVE = "results/studies/tiny/levels/tiny-llama/final/magnitude-layer/tiny-perplexity"
TABLES = "results/studies/tiny/tables"
KNEES = f"{TABLES}/knees.parquet"


def learn(folder: Path, texts: Path) -> None:
    """Train the blocks of the random Llama for a second, so that they have something to lose."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, tokenizer = LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer(text)["input_ids"][:12] for text in pd.read_csv(texts)["text"]])
    optimiser = torch.optim.AdamW(model.model.layers.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    model.save_pretrained(folder)


def adapt(config: dict[str, Any]) -> None:
    """Leave one curve, whose levels are placed."""
    adaptive = {"tolerance": 0.005, "start": [0.8], "budget": 4, "per_round": 1, "width": 0.02}
    config["curves"] = [{**config["curves"][0], "methods": ["magnitude-layer"], "sparsities": {"adaptive": adaptive}}]
    config.update(weights=[], knees={"rules": ["tolerance"], "tolerance": 0.005})


def evaluated(jobs: set[str]) -> set[str]:
    """Return the sparsities of the evaluations among some jobs."""
    return {found[1] for job in jobs if (found := re.search(r"Language modelling .* at (0\.\d+) on", job))}


def placed_after(jobs: set[str]) -> set[int]:
    """Return the rounds after which levels were placed."""
    return {int(found[1]) for job in jobs if (found := re.search(r"Placing levels .* after round (\d+)", job))}


def known(work: Path) -> list[float]:
    """Return the levels of the table of evaluations."""
    return sorted(pd.read_parquet(work / TABLES / "evaluations.parquet")["sparsity"])


@pytest.fixture(scope="module")
def adaptive(make_clone: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    clone = make_clone(tmp_path_factory.mktemp("adaptive"))
    learn(clone.work / "llama", clone.work / "texts.csv")
    clone.configure(adapt)
    return clone


def test_levels_are_placed_round_by_round(adaptive: Any) -> None:
    # As if it were cut off after the first round.
    first = adaptive.executed(f"{CURVE}/1.json")
    assert evaluated(first) == {"0.000", "0.800"}
    rest = adaptive.executed(KNEES)
    assert not evaluated(first) & evaluated(rest), "nothing is evaluated twice"
    assert (placed_after(first), placed_after(rest)) == ({1}, {2, 3})

    levels = LEVELS.typed(pd.read_parquet(adaptive.work / TABLES / "levels.parquet"))
    assert known(adaptive.work) == [0.0, *sorted(levels["sparsity"])]
    assert levels["round"].tolist() == [1, 2, 3]
    assert set(levels["reason"]) == {"budget spent"}
    (knee,) = pd.read_parquet(adaptive.work / KNEES).query("seed.isna()")["knee"]
    assert levels["low"].iloc[0] <= knee <= levels["high"].iloc[0]

    again = adaptive.run("--dry-run", KNEES)
    assert "Nothing to be done" in again
    assert "Adaptive: at most 4 evaluations in 3 rounds for 1 curve (4 levels each)." in again

    # A curve that is new in a finished study.
    adaptive.configure(lambda config: config["curves"][0].update(methods=["magnitude-layer", "random-layer"]))
    planned = adaptive.planned(KNEES)
    assert {job for job in planned if job.startswith("Placing")} == {
        "Placing levels of tiny-llama, final, random-layer on tiny-perplexity, after round 1"
    }
    assert evaluated(planned) == {"0.800"}
    adaptive.configure(lambda config: config["curves"][0].update(methods=["magnitude-layer"]))

    # A larger budget goes on from there; a wider bracket is there already.
    before = known(adaptive.work)
    adaptive.configure(lambda config: config["curves"][0]["sparsities"]["adaptive"].update(budget=5))
    more = adaptive.executed(KNEES)
    assert len(evaluated(more)) == 1
    assert placed_after(more) == {1, 2, 3, 4}
    assert not [job for job in more if job.startswith(("Extracting", "Preparing", "Listing"))]
    assert set(before) < set(known(adaptive.work))
    adaptive.configure(lambda config: config["curves"][0]["sparsities"]["adaptive"].update(width=0.5))
    planned = adaptive.planned(KNEES)
    assert 1 in placed_after(planned)
    assert not evaluated(planned)

    # Another study places levels of its own, and evaluates none of those that are there.
    adaptive.configure(lambda config: config.update(study="another"))
    planned = adaptive.planned(KNEES.replace("tiny", "another", 1))
    assert placed_after(planned) == {1}
    assert not evaluated(planned)
