"""Iterative pruning and comparisons of masks through the workflow: a chain of rounds, resumed, and made longer."""

from __future__ import annotations

import re
import shutil
from typing import Any

import pandas as pd
import pytest

from essential_sparsity.pruning.masks import read_header, read_masks
from essential_sparsity.pruning.tables import SIMILARITIES

TICKET = "tiny-ticket"
MASKS = f"results/masks/tiny-bert/step000012/{TICKET}/0"
TABLES = "results/studies/tiny/tables"


def lottery(levels: list[float]) -> Any:
    """Return what adds a method with rounds to the tiny study, evaluated at its last level, and compares its masks."""

    def change(config: dict[str, Any]) -> None:
        rounds = {"task": "tiny-kind", "levels": levels}
        method = {"label": "ticket", "score": "magnitude", "scope": "global", "rounds": rounds}
        config["registries"]["methods"] = {TICKET: method}
        curve = {**config["curves"][1], "methods": [TICKET], "sparsities": [0.5, levels[-1]], "seeds": [0]}
        config["curves"] = [*config["curves"][:2], curve]
        config["similarities"] = [{"models": ["tiny-bert"], "methods": [TICKET, "magnitude-global", "random-global"]}]

    return change


@pytest.fixture(scope="module")
def extended(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The finished study, with a method of two rounds whose chain was cut off after the first, run to its end."""
    target = tmp_path_factory.mktemp("lottery") / "copy"
    shutil.copytree(finished.workflow.parent, target, symlinks=True)
    clone = type(finished)(target / finished.workflow.name, target / finished.work.name)
    clone.configure(lottery([0.5, 0.9]))
    clone.run(f"{MASKS}/0.500.safetensors")
    clone.jobs = clone.executed()
    return clone


def rounds(jobs: set[str]) -> set[str]:
    """Return the levels of the rounds among jobs."""
    return {found[1] for job in jobs if (found := re.match(rf"Training .* pruning it to (\S+) by {TICKET}", job))}


def test_a_chain_goes_on_where_it_was_cut_off(extended: Any) -> None:
    assert rounds(extended.jobs) == {"0.900"}
    assert extended.planned() == set()


def test_masks_of_rounds_are_nested_and_say_what_they_are(extended: Any) -> None:
    low, high = (read_masks(extended.work / MASKS / f"{level}.safetensors") for level in ("0.500", "0.900"))
    assert all(bool((low[name] | ~high[name]).all()) for name in low)
    one_shot = read_masks(extended.work / "results/masks/tiny-bert/step000012/magnitude-global/0/0.500.safetensors")
    assert any(not low[name].equal(one_shot[name]) for name in low), "trained weights rank otherwise"
    header = read_header(extended.work / MASKS / "0.500.safetensors")
    assert header.method["rounds"] == {"task": "tiny-kind", "levels": [0.5]}, "later levels have no say in it"
    size = sum(mask.numel() for mask in low.values())
    assert sum(header.removed.values()) == round(0.5 * size)


def test_tables_hold_the_rounds_and_their_costs(extended: Any) -> None:
    rows = pd.read_parquet(extended.work / TABLES / "evaluations.parquet")
    own = rows[rows["method"] == TICKET].set_index("sparsity")
    assert own["rounds"].to_dict() == {
        0.5: '{"levels":[0.5],"task":"tiny-kind"}', 0.9: '{"levels":[0.5,0.9],"task":"tiny-kind"}',
    }  # fmt: skip
    assert rows.loc[rows["method"] != TICKET, "rounds"].isna().all()
    costs = pd.read_parquet(extended.work / TABLES / "costs.parquet")
    assert (
        costs.loc[costs["rule"] == "prune_iteratively", "job"].str.endswith(("0.500", "0.900")).tolist() == [True] * 2
    )


def test_similarities_are_those_of_the_sets_of_kept_weights(extended: Any) -> None:
    table = SIMILARITIES.typed(pd.read_parquet(extended.work / TABLES / "similarities.parquet"))
    # Two levels: tickets of seed 0 with each of the others, and magnitude with both seeds of random masks.
    assert len(table) == 2 * (1 + 1 + 2)
    folder = extended.work / "results/masks/tiny-bert/step000012"
    for row in table.itertuples():
        kept = []
        for method in (row.method, row.other_method):
            seed = 0 if method == "magnitude-global" else row.seed
            masks = read_masks(folder / f"{method}/{seed}/{row.sparsity:.3f}.safetensors")
            kept.append({(n, *at) for n, keep in masks.items() for at in keep.nonzero().tolist()})
        one, other = kept
        cosine = len(one & other) / (len(one) * len(other)) ** 0.5
        assert row.cosine == pytest.approx(cosine)
        assert row.cosine_corrected == pytest.approx((cosine - (1 - row.sparsity)) / row.sparsity, abs=1e-3)
        assert row.jaccard == pytest.approx(len(one & other) / len(one | other))
        assert row.overlap == pytest.approx(len(one & other) / min(len(one), len(other)))


def test_the_report_shows_the_figure(extended: Any) -> None:
    assert (extended.work / "results/studies/tiny/plots/similarities/tiny-bert.pdf").read_bytes().startswith(b"%PDF")
    page = (extended.work / "results/studies/tiny/report.html").read_text()
    assert 'id="similarities"' in page and 'alt="Similarity of masks, tiny-bert"' in page


def test_a_level_more_runs_its_round_alone_and_what_follows(extended: Any) -> None:
    try:
        extended.configure(lottery([0.5, 0.9, 0.95]))
        later = extended.planned()
        extended.configure(lottery([0.3, 0.5, 0.9]))
        earlier = extended.planned()
    finally:
        extended.configure(lottery([0.5, 0.9]))
    assert rounds(later) == {"0.950"}
    assert {job for job in later if job.startswith("Fine-tuning")} == {
        f"Fine-tuning tiny-bert, step000012, {TICKET} at 0.950 on tiny-kind, seed 0"
    }
    assert rounds(earlier) == {"0.300", "0.500", "0.900"}, "every round stands on those before it"
