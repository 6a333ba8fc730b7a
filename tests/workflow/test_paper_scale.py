"""The paper-scale studies end to end, on stand-ins of the paper's models and tasks from a hub.

One study that samples them all is run whenever tests are. All eight, shrunk, take minutes and run with ``make
standins``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import standins
import tiny
from essential_sparsity.evaluation.tables import EVALUATIONS
from essential_sparsity.findings.tables import FINDINGS
from essential_sparsity.knees.tables import KNEES
from hub_server import Hub, serving
from small_studies import paper_studies, resolved, sample, shrink, shrink_registries
from standins import MISSING

PAPER = paper_studies()
SMALL = {name: shrink(config) for name, config in PAPER.items()}
SAMPLE = sample(SMALL)
ALL = os.environ.get("STANDINS") == "all"
# All eight take minutes.
pytestmark = pytest.mark.timeout(3600)
RUN: dict[str, dict[str, Any]] = {"sample": SAMPLE, **(SMALL if ALL else {})}


@pytest.fixture(scope="module")
def paper(make_clone: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, set[str]]]]:
    """The studies, run one after the other in one folder, and the messages of the jobs of each."""
    with serving() as hub, pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("paper")
        clone = make_clone(folder)
        shrink_registries(clone.workflow / "config", SMALL.values())
        publish(hub, clone.workflow, folder / "models")
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setenv("HF_HOME", str(folder / "home"))
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
            patch.delenv(name, raising=False)
        jobs = {}
        for name, config in RUN.items():
            tiny.write_study(config, clone.study_file)
            jobs[name] = clone.executed()
        yield clone, jobs


def publish(hub: Hub, root: Path, scratch: Path) -> None:
    """Put what the studies need on the hub."""
    standins.publish_data(hub)
    # All of them: a step that no study that is run evaluates would seem missing.
    standins.publish_models(hub, [resolved(config, root) for config in (SAMPLE, *SMALL.values())], scratch)


def table(clone: Any, study: str, name: str) -> pd.DataFrame:
    """Return a table of a study."""
    return pd.read_parquet(clone.work / f"results/studies/{study}/tables/{name}.parquet")


def shared(jobs: set[str]) -> set[str]:
    """Return the jobs whose results do not belong to one study."""
    return {job for job in jobs if not job.startswith("Plotting")}


@pytest.mark.parametrize("name", PAPER)
def test_a_shrunk_study_asks_the_same_of_less(name: str) -> None:
    whole, small = resolved(PAPER[name]), resolved(SMALL[name])
    assert {(e.model, e.method) for e in small.evaluations} == {(e.model, e.method) for e in whole.evaluations}
    # A level, a task, a seed or a checkpoint fewer, and never another one.
    assert set(small.evaluations) < set(whole.evaluations)
    assert SMALL[name].keys() == PAPER[name].keys()
    asked = {(c.finding, c.claim, c.statistic) for c in whole.claims}
    assert {(c.finding, c.claim, c.statistic) for c in small.claims} == asked


def test_the_sample_has_every_kind_of_model_of_the_studies() -> None:
    small = {e for config in SMALL.values() for e in resolved(config).evaluations}
    sampled = resolved(SAMPLE).evaluations
    assert set(sampled) <= small

    def kinds(models: set[str]) -> set[str]:
        return {standins.kind_of_model(model) for model in models}

    # Both sizes of OPT are of one kind but for a projection, which the sample has.
    assert kinds({e.model for e in sampled}) == kinds({e.model for e in small}) - {"opt"}


def test_every_study_has_its_report_and_a_row_a_curve(paper: Any) -> None:
    clone, _ = paper
    for name, config in RUN.items():
        study = resolved(config, clone.workflow)
        assert (clone.work / f"results/studies/{study.name}/report.html").is_file(), name
        rows = EVALUATIONS.typed(table(clone, study.name, "evaluations"))
        expected = {(e.model, e.checkpoint, e.method, float(e.sparsity), e.task, e.seed) for e in study.evaluations}
        axes = ["model", "checkpoint", "method", "sparsity", "task", "seed"]
        found = set(rows[axes].itertuples(index=False, name=None))
        assert found == {e for e in expected if e[:2] not in MISSING.items()}, name
        pruned = rows[rows["method"] != "dense"]
        # Methods that choose in each row cut one of 16 weights at a whole weight.
        assert (pruned["realised_sparsity"] - pruned["sparsity"]).abs().max() <= 0.5 / 16
        assert not KNEES.typed(table(clone, study.name, "knees")).empty


def test_every_claim_has_a_verdict_or_says_why_not(paper: Any) -> None:
    clone, _ = paper
    estimated = {}
    for name, config in RUN.items():
        rows = FINDINGS.typed(table(clone, config["study"], "findings"))
        assert len(rows) == len(config["findings"]) > 0
        assert set(rows["scale"]) == {"paper"}
        estimated[name] = rows["estimate"].notna().any()
        assert (rows.loc[rows["estimate"].isna(), "flags"] != "").all()
        bounded = rows["ci_low"].notna() & rows["ci_high"].notna()
        assert (rows.loc[rows["verdict"] != "undecided", "estimate"].notna()).all()
        assert (rows.loc[~bounded, "verdict"] == "undecided").all()
        assert (rows.loc[~bounded, "flags"] != "").all()
    # What was never trained is at chance on texts: a study of perplexity and knowledge alone has no knee.
    assert {name for name, found in estimated.items() if not found} <= {"llms"}


def test_missing_steps_are_named(paper: Any) -> None:
    clone, _ = paper
    for config in RUN.values():
        used = {model for entry in config["curves"] for model in entry["models"]} & MISSING.keys()
        summary = (clone.work / f"results/studies/{config['study']}/summary.txt").read_text()
        for model in used:
            assert re.search(rf"The hub lacks 1 of the \d+ steps of {model}", summary)
            steps = json.loads((clone.work / f"results/sources/hub/models/{model}/steps.json").read_text())
            assert list(steps["missing"]) == [MISSING[model]]


def test_a_masked_autoencoder_is_pruned_and_tuned_without_its_decoder(paper: Any) -> None:
    clone, _ = paper
    manifest = json.loads((clone.work / "results/matrices/mae-vit-base.json").read_text())
    pruned = [matrix["name"] for matrix in manifest["matrices"] if matrix["pruned"]]
    # Query, key, value, output and two of the feed-forward layer in each of two blocks.
    assert len(pruned) == 2 * 6
    assert not [name for name in pruned if name.startswith("decoder")]


def test_nothing_that_one_study_has_made_is_made_again(paper: Any) -> None:
    clone, jobs = paper
    done: set[str] = set()
    for name, executed in jobs.items():
        again = shared(executed) & done
        assert not again, f"{name}: {sorted(again)[:5]}"
        done |= shared(executed)
    if not ALL:
        tiny.write_study(SMALL["supervision"], clone.study_file)
        planned = clone.planned()
        assert planned and not shared(planned) & done
        tiny.write_study(SAMPLE, clone.study_file)
