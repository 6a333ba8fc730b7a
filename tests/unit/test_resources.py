"""What jobs need follows from the sizes of models, which are read off their files or known from the registry."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from essential_sparsity import resources
from essential_sparsity.job_needs import need_of
from essential_sparsity.model_size import ModelSize, counted_size, registered_size, size_of_file
from essential_sparsity.resources import Need
from essential_sparsity.study import Study
from essential_sparsity.validation import load_yaml

SMALL, LARGE = counted_size(100_000_000, 4), counted_size(7_000_000_000, 4)
TASK: dict[str, Any] = {
    "batch_size": 32, "micro_batch": None, "max_length": 128, "train_examples": 1000, "epochs": 3,
    "head": "sequence_classification", "window": 512, "windows": 100, "limit": 100, "shots": None,
    "lm_eval_task": "arc_easy",
}  # fmt: skip
CALIBRATION = {"sequences": 128, "length": 2048, "batch_size": 8, "activations": "memory"}


def bert(**changes: int) -> dict[str, Any]:
    sizes = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    } | changes
    recipe = {"architecture": sizes, "tokenizer": {"vocab_size": 30522}, "sequence_length": 512}
    return {"dtype": "float32", "source": {"kind": "pretrain", "recipe": recipe}}


@pytest.mark.parametrize(
    ("model", "published"),
    # Devlin et al., arXiv 1810.04805, section 3: 110M and 340M.
    [(bert(), 110e6), (bert(hidden_size=1024, num_hidden_layers=24, intermediate_size=4096), 340e6)],
)
def test_a_recipe_says_how_large_its_model_is(model: dict[str, Any], published: float) -> None:
    size = registered_size(model)
    assert size is not None
    assert size.weights == pytest.approx(published, rel=0.03)
    assert size.depth == pytest.approx(model["source"]["recipe"]["architecture"]["num_hidden_layers"], rel=0.1)


def test_a_file_says_how_large_its_model_is(tmp_path: Path) -> None:
    tensors = {"embed": torch.zeros(500, 16), "norm.weight": torch.zeros(16), "norm.bias": torch.zeros(16)}
    tensors |= {f"layers.{i}.up": torch.zeros(64, 16) for i in range(3)} | {"bias": torch.zeros(64)}
    save_file(tensors, tmp_path / "model.safetensors")
    size = size_of_file(tmp_path / "model.safetensors")
    assert (size.weights, size.width, size.vocabulary) == (sum(t.numel() for t in tensors.values()), 16, 500)
    assert size.stored_mb == os.path.getsize(tmp_path / "model.safetensors") / 1e6


@pytest.mark.parametrize("content", [b"", b"\xff" * 4000, (40).to_bytes(8, "little") + b"[]" + b" " * 38, b"\0" * 4000])
def test_a_damaged_file_is_as_large_as_it_is_long(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert size_of_file(tmp_path / "model.safetensors").weights == len(content) // 4


def needs(size: ModelSize) -> Iterator[tuple[str, Need]]:
    yield "plan", resources.pruning_plan(size)
    yield "mask", resources.mask(size)
    yield "measurement", resources.measurement(size)
    yield "calibration", resources.calibration(size, CALIBRATION)
    yield "fine-tuning", resources.fine_tuning(size, TASK, None)
    yield "perplexity", resources.language_model(size, TASK, None)
    yield "benchmark", resources.benchmark(size, TASK)
    yield "probe", resources.representation(size, TASK, None)


def test_larger_models_need_more_of_everything() -> None:
    for (name, small), (_, large) in zip(needs(SMALL), needs(LARGE), strict=True):
        for gpus in (0, 1):
            assert large.mem_mb(gpus) > small.mem_mb(gpus), name
            assert large.duration(gpus) > small.duration(gpus), name
            assert large.runtime(gpus) >= large.duration(gpus) / 60, name
        assert large.gpu_mem_mb() > small.gpu_mem_mb(), name
        assert large.disk_mb() > small.disk_mb(), name


def test_weights_fit_where_they_have_to_be() -> None:
    stored, training = 7e9 * 4 / 1e6, 7e9 * 16 / 1e6  # training: weights, gradients and two moments, four bytes each
    assert resources.language_model(LARGE, TASK, None).mem_mb() > stored
    assert resources.language_model(LARGE, TASK, None).gpu_mem_mb() > stored
    assert resources.fine_tuning(LARGE, TASK, None).gpu_mem_mb() > training
    # Pruning by scores and block by block never has the whole model in memory.
    assert resources.mask(LARGE).mem_mb() < stored / 2
    assert resources.calibration(LARGE, CALIBRATION).mem_mb() < 3 * stored


def test_logits_of_a_batch_count() -> None:
    logits = 512 * 50_000 * 4 / 1e6
    one, two = (resources.language_model(SMALL, {**TASK, "batch_size": n}, None).mem_mb() for n in (1, 2))
    assert two - one >= logits


def test_what_training_keeps_grows_with_the_batch_and_its_rows() -> None:
    base = resources.fine_tuning(SMALL, TASK, None).work_mb
    half = resources.fine_tuning(SMALL, {**TASK, "micro_batch": 16}, None).work_mb
    short = resources.fine_tuning(SMALL, {**TASK, "max_length": 64}, None).work_mb
    assert short <= half < base


def test_several_gpus_take_a_process_each_and_share_the_work() -> None:
    need = resources.fine_tuning(SMALL, {**TASK, "train_examples": 10**7}, None)
    assert need.mem_mb(4) == pytest.approx(4 * need.mem_mb(1), abs=4)
    assert need.duration(4) < need.duration(1) < need.duration(0)


def test_known_inputs_replace_what_is_assumed() -> None:
    assumed = resources.language_model(SMALL, {**TASK, "windows": None}, None)
    known = resources.language_model(SMALL, {**TASK, "windows": None}, 4 * 1000 / 1e6)
    assert known.operations == 2 * 1000 * SMALL.weights < assumed.operations


def test_a_benchmark_takes_as_long_as_its_items_and_the_examples_before_them() -> None:
    def operations(**changes: Any) -> float:
        return resources.benchmark(SMALL, {**TASK, **changes}).operations

    assert operations(limit=200) == 2 * operations(limit=100)
    assert operations(shots=5) == 6 * operations(shots=0) == 6 * operations()
    # Clark et al., arXiv 1803.05457, table 1: 2,376 questions of ARC-Easy in the test set.
    assert operations(limit=None) == operations(limit=10**6) == pytest.approx(23.76 * operations())
    # Hendrycks et al., arXiv 2009.03300, section 3.1: 57 subjects, 14,079 questions of their test sets.
    whole, subject = (operations(limit=None, lm_eval_task=name) for name in ("mmlu", "mmlu_anatomy"))
    assert whole == pytest.approx(57 * subject)
    assert whole / operations() == pytest.approx(140.79, rel=0.01)


SMOLLM2 = {"model": "smollm2-135m-instruct", "checkpoint": "final"}
SPENT = [
    ("llms", "evaluate_benchmark", {**SMOLLM2, "task": "arc-easy-brief"}, 60),
    ("llms", "evaluate_benchmark", {**SMOLLM2, "task": "mmlu-abstract-algebra"}, 24),
    ("llms", "evaluate_language_model", {**SMOLLM2, "task": "plot-perplexity"}, 8),
    ("what-matters", "evaluate_language_model", {**SMOLLM2, "task": "held-out-plot-perplexity"}, 14),
    ("what-matters", "calibrate_model", {**SMOLLM2, "calibration": "film-plots"}, 25),
    ("what-matters", "prune_blocks", {**SMOLLM2, "method": "wanda"}, 39),
    ("what-matters", "prune_blocks", {**SMOLLM2, "method": "sparsegpt"}, 63),
    ("what-matters", "extract_checkpoint", SMOLLM2, 12),
    ("what-matters", "finetune_model", {"model": "bert-mini-reviews", "task": "plot-or-review"}, 5),
    ("what-matters", "pretrain_model", {"model": "bert-mini-reviews"}, 255),
    ("essential-sparsity", "finetune_model", {"model": "all-minilm-l6-v2", "task": "plot-or-review-brief"}, 17),
    ("essential-sparsity", "plan_pruning", {**SMOLLM2, "method": "magnitude-global"}, 8),
    ("data-amount", "pretrain_model", {"model": "bert-mini-all-0"}, 172),
    ("supervision", "pretrain_model", {"model": "vit-mini-digits-masked"}, 20),
    ("supervision", "finetune_model", {"model": "vit-mini-digits-masked", "task": "digits-high"}, 2.4),
]


@pytest.mark.parametrize(("study", "rule", "job", "seconds"), SPENT, ids=lambda value: str(value)[:40])
def test_times_are_of_the_order_of_what_jobs_have_spent(
    study: str, rule: str, job: dict[str, str], seconds: float, root: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """CPU seconds of the desk's jobs on one core; the plan is made before anything is there."""
    file = root / "config" / "studies" / "desk" / f"{study}.yaml"
    planned = Study(load_yaml(file), root, str(file))
    monkeypatch.chdir(tmp_path)
    assert seconds / 2 < need_of(planned, rule, job).duration() < 4 * seconds + 4


class Registries:
    """What :func:`need_of` asks of a study."""

    def __init__(self, model: dict[str, Any]) -> None:
        self.models = {"m": {"dtype": "float32", **model}}

    def checkpoints_of(self, model: str) -> list[str]:
        assert model == "m"
        return ["final"]


def test_an_unknown_size_is_asked_for_again_once_the_checkpoint_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study: Any = Registries({"source": {"kind": "hub", "repository": "a/b"}})
    checkpoint = Path("results/checkpoints/m/final/model.safetensors")
    with pytest.raises(FileNotFoundError) as error:
        need_of(study, "prune_weights", {"model": "m", "checkpoint": "final"})
    assert error.value.filename == str(checkpoint)
    checkpoint.parent.mkdir(parents=True)
    save_file({"w": torch.zeros(1000, 1000)}, checkpoint)
    assert need_of(study, "prune_weights", {"model": "m", "checkpoint": "final"}).input_mb == pytest.approx(4, rel=0.01)


def test_the_registry_entry_serves_until_the_file_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study: Any = Registries({"source": {"kind": "hub", "repository": "a/b"}, "parameters": 10**9})
    need = need_of(study, "prune_weights", {"model": "m", "checkpoint": "final"})
    assert need.input_mb == pytest.approx(4000)


def test_a_local_model_is_as_large_as_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("local").mkdir()
    save_file({"w": torch.zeros(1000, 500)}, "local/model.safetensors")
    Path("local/README.md").write_text("x" * 10_000)
    study: Any = Registries({"source": {"kind": "path", "path": "local"}})
    need = need_of(study, "prune_weights", {"model": "m", "checkpoint": "final"})
    assert need.input_mb == pytest.approx(2, rel=0.01)


def test_bounds_of_the_check(tmp_path: Path) -> None:
    from check_resources import compared, out_of_bounds

    cost = {"seconds": 1.0, "cpu_seconds": 1.0, "read_mb": 0.0, "written_mb": 0.0, "planned_seconds": 60.0}
    pairs = {"fits": (900, 600), "under": (590, 600), "twice": (1300, 600), "light": (500, 50), "heavy": (900, 50)}
    for name, (given, used) in pairs.items():
        (tmp_path / "rule").mkdir(exist_ok=True)
        (tmp_path / "rule" / f"{name}.json").write_text(json.dumps({**cost, "planned_mb": given, "max_rss_mb": used}))
    assert set(out_of_bounds(compared(tmp_path))["job"]) == {"under", "twice", "heavy"}
