"""The tiny study from end to end: its tables hold what was asked, and its report is there."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import entries
from browser import chromium, needs_chromium
from essential_sparsity.emergence.statistics import measure_checkpoint
from essential_sparsity.pretraining.losses import LOSSES
from essential_sparsity.pruning.masks import read_header, read_masks
from schemas import SCHEMAS


@pytest.fixture(scope="module")
def tables(finished: Any) -> dict[str, pd.DataFrame]:
    folder = finished.work / "results/studies/tiny/tables"
    return {name: pd.read_parquet(folder / f"{name}.parquet") for name in SCHEMAS}


def test_every_table_meets_its_schema(tables: dict[str, pd.DataFrame]) -> None:
    for name, schema in SCHEMAS.items():
        assert len(schema.typed(tables[name])) > 0


def test_evaluations_are_the_product_of_the_axes(tables: dict[str, pd.DataFrame]) -> None:
    rows = tables["evaluations"]
    llama = rows[rows["model"] == "tiny-llama"]
    bert = rows[rows["model"] == "tiny-bert"]
    assert len(llama) == 1 + 2 * 3  # the dense model once, two methods at three levels
    assert len(bert) == 2 * (1 + 2 * 2)  # two seeds: the dense model, two methods at two levels
    assert set(bert["checkpoint"]) == {"step000012"}
    assert set(bert["step"]) == {12}
    assert llama["step"].isna().all()


def test_realised_sparsity_is_the_rounded_target(tables: dict[str, pd.DataFrame]) -> None:
    rows, layers = tables["evaluations"], tables["layers"]
    pruned = layers[layers["pruned"] & (layers["method"] == "magnitude-global") & (layers["sparsity"] == 0.9)]
    sizes = pruned["shape"].map(lambda shape: pd.Series(map(int, shape.split("x"))).prod())
    for model, frame in rows.groupby("model"):
        n = sizes[pruned["model"] == model].sum()
        asked = (frame["sparsity"] * n).round()
        # Layer-wise counts are rounded matrix by matrix.
        slack = frame["scope"].eq("layer") * len(pruned)
        assert ((frame["realised_sparsity"] * n - asked).abs() <= slack + 1e-6).all()


def test_metrics_can_be_recomputed_from_the_examples(finished: Any, tables: dict[str, pd.DataFrame]) -> None:
    for row in tables["evaluations"].itertuples():
        path = f"{row.model}/{row.checkpoint}/{row.method}/{row.sparsity:.3f}/{row.task}/{row.seed}.examples.parquet"
        examples = pd.read_parquet(finished.work / "results/evaluations" / path)
        assert row.value == pytest.approx(accuracy(examples) if row.metric == "accuracy" else perplexity(examples))


def accuracy(examples: pd.DataFrame) -> float:
    return float((examples["label"] == examples["prediction"]).mean())


def perplexity(examples: pd.DataFrame) -> float:
    return float(np.exp(examples["loss"].mean()))


def test_masks_are_nested_and_say_what_they_are(finished: Any) -> None:
    folder = finished.work / "results/masks/tiny-bert/step000012/random-global/1"
    low, high = read_masks(folder / "0.500.safetensors"), read_masks(folder / "0.900.safetensors")
    assert all(bool((low[name] | ~high[name]).all()) for name in low)
    header = read_header(folder / "0.900.safetensors")
    assert (header.model, header.checkpoint, header.seed, header.target) == ("tiny-bert", "step000012", 1, 0.9)


def test_weights_are_measured_at_every_step_that_is_kept(tables: dict[str, pd.DataFrame]) -> None:
    weights, pooled = tables["weights"], tables["trajectories"].set_index("step")
    assert set(weights["step"]) == {0, 3, 4, 6, 9, 12} == set(pooled.index)
    assert weights.groupby("checkpoint").size().eq(12).all()  # six matrices in each of two blocks
    assert (weights.groupby("step")["n"].sum() == pooled["n"]).all()
    assert (tables["histograms"].groupby("step")["n"].sum() == pooled["n"]).all()


def test_a_pretraining_is_measured_as_its_checkpoint_is_stored(finished: Any, tables: dict[str, pd.DataFrame]) -> None:
    stored = finished.work / "results/checkpoints/tiny-bert/step000012/model.safetensors"
    weights = tables["weights"]
    last = weights[weights["step"] == 12]
    again = measure_checkpoint(stored, last["name"], torch.device("cpu")).matrices
    # Far closer than rounding to another type would leave them, yet not by the bit: threads add up in their own order.
    expected = last[list(again.columns)].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, expected, check_dtype=False, rtol=1e-9)


def test_changes_say_that_there_are_too_few_steps(tables: dict[str, pd.DataFrame]) -> None:
    changes = tables["changes"]
    assert set(changes["name"]) == {*tables["weights"]["name"], "all"}
    assert changes["p_value"].isna().all()
    assert changes["flags"].isin(["5 evenly spaced steps, of 20 at least", "constant"]).all()


def test_the_loss_of_pretraining_is_known_at_every_checkpoint(finished: Any) -> None:
    losses = LOSSES.typed(pd.read_parquet(finished.work / "results/studies/tiny/tables/losses.parquet"))
    assert set(losses["model"]) == {"tiny-bert"}
    assert losses.loc[losses["held_out_loss"].notna(), "step"].tolist() == [0, 4, 12]
    assert losses["held_out_accuracy"].isna().all()
    assert "Loss over pre-training" in (finished.work / "results/studies/tiny/report.html").read_text()


def test_every_curve_has_a_knee_or_a_reason_by_every_rule(tables: dict[str, pd.DataFrame]) -> None:
    knees = tables["knees"]
    rules = entries.knees().rules
    assert set(knees["rule"]) == set(rules)
    assert (knees["knee"].notna() | (knees["flags"] != "")).all()
    # Two methods on the Llama (one seed and the mean), two on the BERT (two seeds and the mean), every rule.
    assert len(knees) == (2 * 2 + 2 * 3) * len(rules)


def test_costs_hold_every_job_that_computed(tables: dict[str, pd.DataFrame]) -> None:
    jobs = tables["costs"].groupby("rule").size().to_dict()
    # Masks: 2 methods x 3 levels on the Llama; on the BERT 2 levels by magnitude and 2 levels x 2 seeds at random.
    assert jobs == {
        "prepare_dataset": 2,
        "pretrain_model": 1,
        # The Llama and the last step of the BERT: the others are only measured, all in one job.
        "extract_checkpoint": 2,
        "list_matrices": 2,
        "measure_pretraining": 1,
        # The cuts of the global pools: one on the Llama; on the BERT one by magnitude and two seeds at random.
        "plan_pruning": 1 + 1 + 2,
        "prune_weights": 6 + 2 + 4,
        "prepare_inputs": 2,
        "evaluate_language_model": 7,
        "finetune_model": 10,
    }
    assert (tables["costs"]["seconds"] > 0).all()


def test_every_claim_has_a_verdict(finished: Any, tables: dict[str, pd.DataFrame]) -> None:
    folder = finished.work / "results/studies/tiny"
    findings = pd.read_parquet(folder / "tables/findings.parquet").set_index("statistic")
    assert pd.read_csv(folder / "tables/findings.csv")["verdict"].tolist() == findings["verdict"].tolist()
    compared = findings.loc["value-difference"]
    rows = tables["evaluations"].query("model == 'tiny-bert' and method != 'dense'")
    means = rows.groupby("method")["value"].mean()
    assert compared["estimate"] == pytest.approx(means["magnitude-global"] - means["random-global"])
    # Accuracies differ by less than one and a half, whatever they are.
    assert (compared["verdict"], compared["n_seeds"]) == ("holds", 2)
    assert compared["ci_low"] <= compared["estimate"] <= compared["ci_high"]
    # Four levels are too few for the rule of the slopes.
    assert findings.loc["slope-ratio", "verdict"] == "undecided"
    assert "fewer than 5 levels" in findings.loc["slope-ratio", "flags"]
    # The claims and the sentence that counts them end the run.
    summary = " ".join((folder / "summary.txt").read_text().split())
    assert "Of 2 tests of 1 claim 1 holds and 1 is undecided." in summary
    assert "tiny-finding: Magnitude loses no more than chance does." in summary


def test_every_figure_is_there_for_papers(finished: Any) -> None:
    folder = finished.work / "results/studies/tiny/plots"
    figures = {path.with_suffix("") for path in folder.rglob("*.svg")}
    assert len(figures) == 8
    for figure in figures:
        assert figure.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        assert figure.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_provenance_names_the_source(finished: Any) -> None:
    provenance = json.loads((finished.work / "results/checkpoints/tiny-llama/final/provenance.json").read_text())
    assert provenance["source"] == "path:llama"
    assert provenance["licence"] == "MIT"


def test_the_run_ends_with_the_knees_and_the_place_of_the_report(finished: Any) -> None:
    summary = (finished.work / "results/studies/tiny/summary.txt").read_text()
    assert summary.strip() in finished.log
    assert "results/studies/tiny/report.html" in summary
    assert (finished.work / "results/studies/tiny/report.html").read_text().startswith("<!DOCTYPE html>")


@needs_chromium
def test_a_browser_without_network_shows_the_report(finished: Any, tmp_path: Path) -> None:
    page = finished.work / "results/studies/tiny/report.html"
    shown = " ".join(unescape(re.sub(r"<[^>]+>", " ", chromium(page, tmp_path / "profile", "--dump-dom"))).split())
    summary = (finished.work / "results/studies/tiny/summary.txt").read_text()
    first = " ".join(summary.split("\n\n")[0].split())
    assert first.replace(" %", "%") in shown.replace("\N{NO-BREAK SPACE}", " ").replace(" %", "%")
    markup = re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL)
    sources = re.findall(r"""(?:src|href)=["']([^"']*)""", markup)
    # Two plots for each of two models and tasks, two of the weights, one of the loss and one of a finding.
    assert sum(source.startswith("data:image/svg+xml") for source in sources) == 8
    assert all(source.startswith(("data:", "#")) for source in sources)
