"""A study whose models and texts come from a hub: downloaded once, steps that are missing named, offline from cache."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tiny
from hub_server import SIGNATURE, Hub, serving

REPORT = "results/studies/hub/report.html"


def hub_study(folder: Path, hub: Hub) -> dict[str, Any]:
    """Put the tiny model, its steps but one, and the texts on the hub; return a study of them."""
    config = tiny.study(folder)
    texts = pd.read_csv(folder / "texts.csv")
    parts = {"train": texts[texts.index % 4 > 0], "test": texts[texts.index % 4 == 0]}
    hub.add("org/texts", {f"{name}.csv": part.to_csv(index=False).encode() for name, part in parts.items()},
            kind="datasets")  # fmt: skip
    hub.add_folder("org/llama", folder / "llama")
    files = {p.name: p.read_bytes() for p in (folder / "llama").iterdir()}
    for step in (0, 2):
        # Another commit, and the same weights: as public suites have it.
        hub.add("org/steps", {**files, "README.md": b"Step %d" % step}, f"step{step}")
    shutil.rmtree(folder / "llama")
    (folder / "texts.csv").unlink()
    trajectory = {"repository": "org/steps", "revision": "step{step}", "steps": {"powers_of_two_to": 2}}
    axes = {"methods": ["magnitude-global"], "sparsities": [0.5], "tasks": ["hub-perplexity"]}
    return {
        "study": "hub",
        "curves": [{"models": ["hub-steps"], "checkpoints": ["all"], **axes}],
        "weights": [{"models": ["hub-llama"]}],
        "registries": {
            "models": {
                "hub-llama": {"licence": "MIT", "source": {"kind": "hub", "repository": "org/llama"}},
                "hub-steps": {"licence": "MIT", "source": {"kind": "hub", "trajectory": trajectory}},
            },
            "datasets": {
                "hub-texts": {
                    "source": {
                        "kind": "hub", "repository": "org/texts",
                        "files": {"train": ["train.csv"], "test": ["t*t.csv"]},
                    },
                    "licence": "MIT", "format": "csv", "text": "text",
                }
            },
            "tasks": {"hub-perplexity": {**config["registries"]["tasks"]["tiny-perplexity"], "dataset": "hub-texts"}},
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished_hub(make_clone: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Hub, str]]:
    """The study from the hub, run to its end as a user with a token would, and what the run printed."""
    with serving() as hub, pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("hub")
        clone = make_clone(folder)
        tiny.write_study(hub_study(clone.work, hub), clone.study_file)
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setenv("HF_HOME", str(folder / "home"))
        patch.setenv("HF_TOKEN", hub.token)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
            patch.delenv(name, raising=False)
        hub.gated.add("org/llama")
        yield clone, hub, clone.run()


def test_models_and_texts_come_from_the_hub(finished_hub: tuple[Any, Hub, str]) -> None:
    clone, hub, _ = finished_hub
    assert (clone.work / REPORT).is_file()
    path = clone.work / "results/checkpoints/hub-llama/final/provenance.json"
    provenance = json.loads(path.read_text())
    assert provenance["source"] == "hub:org/llama"
    assert provenance["revision"] == hub.revisions["models", "org/llama", "main"]
    rows = pd.read_parquet(clone.work / "results/datasets/hub-texts.parquet")
    assert rows["split"].value_counts().to_dict() == {"train": 180, "test": 60}


def test_a_missing_step_is_named_and_the_others_go_on(finished_hub: tuple[Any, Hub, str]) -> None:
    clone, _, _ = finished_hub
    steps = json.loads((clone.work / "results/sources/hub/models/hub-steps/steps.json").read_text())
    assert list(steps["missing"]) == ["step000001"]
    rows = pd.read_parquet(clone.work / "results/studies/hub/tables/evaluations.parquet")
    assert set(rows.loc[rows["model"] == "hub-steps", "checkpoint"]) == {"step000000", "step000002"}
    summary = (clone.work / "results/studies/hub/summary.txt").read_text()
    assert "The hub lacks 1 of the 3 steps of hub-steps, which are left out: step 1." in summary
    log = (clone.work / "results/logs/find_steps/hub-steps.log").read_text()
    assert "step000001: found 'step1', which 'org/steps' does not have" in log


def test_steps_whose_weights_are_the_same_are_flagged(finished_hub: tuple[Any, Hub, str]) -> None:
    clone, hub, _ = finished_hub
    assert hub.revisions["models", "org/steps", "step0"] != hub.revisions["models", "org/steps", "step2"]
    tables = clone.work / "results/studies/hub/tables"
    for table in ("evaluations", "knees"):
        rows = pd.read_parquet(tables / f"{table}.parquet").set_index("checkpoint")
        assert rows.loc["step000000", "flags"].str.contains("same weights as step 2").all()
        assert rows.loc["step000002", "flags"].str.contains("same weights as step 0").all()
    for name in ("summary.txt", "report.html"):
        text = " ".join((clone.work / "results/studies/hub" / name).read_text().split())
        assert "step 0, step 2 of hub-steps have the same weights (SHA-256 " in text


def test_a_second_run_has_nothing_to_do(finished_hub: tuple[Any, Hub, str]) -> None:
    clone, hub, _ = finished_hub
    asked = len(hub.requests)
    assert "Nothing to be done" in clone.run()
    assert len(hub.requests) == asked


def test_levels_are_placed_for_the_steps_that_the_hub_has(finished_hub: tuple[Any, Hub, str], tmp_path: Path) -> None:
    clone, _, _ = finished_hub
    copy = type(clone)(clone.workflow, tmp_path / "work")
    shutil.copytree(clone.work, copy.work)
    adaptive = {"adaptive": {"start": [0.5], "budget": 3}}
    copy.configure(lambda config: config["curves"][0].update(sparsities=adaptive))
    jobs = copy.planned()
    assert {job for job in jobs if job.startswith(("Placing", "Language", "Pruning"))} == {
        f"Placing levels of hub-steps, {step}, magnitude-global on hub-perplexity, after round 1"
        for step in ("step000000", "step000002")
    }


def test_a_token_is_nowhere_below_the_working_directory(finished_hub: tuple[Any, Hub, str]) -> None:
    clone, hub, printed = finished_hub
    assert any(r.token for r in hub.requests), "it was sent"
    files = [p for p in clone.work.rglob("*") if p.is_file()]
    assert len(files) > 50
    for secret in (hub.token, SIGNATURE):
        assert secret not in printed
        assert not [p for p in files if secret.encode() in p.read_bytes()]


def test_offline_the_cache_serves(
    finished_hub: tuple[Any, Hub, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone, hub, _ = finished_hub
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.requests)
    copy = type(clone)(clone.workflow, tmp_path / "work")
    copy.work.mkdir()
    shutil.copy(clone.study_file, copy.study_file)
    targets = [
        "results/matrices/hub-llama.json", "results/matrices/hub-steps.json", "results/datasets/hub-texts.parquet",
    ]  # fmt: skip
    copy.run(*targets)
    assert all((copy.work / target).is_file() for target in targets)
    assert len(hub.requests) == asked


def test_a_missing_repository_stops_with_a_message_and_the_run_goes_on_after_the_mend(
    finished_hub: tuple[Any, Hub, str], tmp_path: Path
) -> None:
    clone, _, _ = finished_hub
    copy = type(clone)(clone.workflow, tmp_path / "work")
    copy.work.mkdir()
    shutil.copy(clone.study_file, copy.study_file)
    copy.configure(lambda c: c["registries"]["models"]["hub-llama"]["source"].update(repository="org/lama"))
    target = "results/sources/hub/models/hub-llama/final/index.json"
    result = copy.snakemake(target)
    printed = result.stdout + result.stderr
    assert result.returncode != 0
    assert re.search(
        r"registries\.models\.hub-llama\.source\.repository: found 'org/lama', but the hub has no", printed
    )
    assert "Traceback" not in printed
    copy.configure(lambda c: c["registries"]["models"]["hub-llama"]["source"].update(repository="org/llama"))
    copy.run(target)
