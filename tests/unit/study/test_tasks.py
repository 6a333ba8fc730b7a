"""What of tasks and datasets goes together, and what a task's inputs depend on."""

from __future__ import annotations

from typing import Any

import pytest

from essential_sparsity.data.kinds import held_out_splits, kind_of
from essential_sparsity.errors import UserError
from essential_sparsity.study.tasks import check_dataset, check_task, completed, preparation

PATH = {"kind": "path", "path": "x"}
HUB = {"kind": "hub", "repository": "o/n", "files": {"train": ["a"], "test": ["b"]}}
TEXTS = {"source": HUB, "format": "parquet", "text": "t"}
CLASSES = {**TEXTS, "label": "l"}
SCORES = {**TEXTS, "score": "s"}
SPANS = {**TEXTS, "text_pair": "c", "answers": "a"}
IMAGES = {"source": HUB, "format": "parquet", "image": "i", "label": "l"}
FOLDER = {"source": PATH, "format": "images"}
KEPT = {"source": {**HUB, "files": {"all": ["*"]}}, "format": "files"}
TRAINING = {
    "protocol": "finetune", "dataset": "d", "early_stopping": None, "micro_batch": None, "batch_size": 64, "also": [],
    "positive": None, "max_length": 256, "stride": 128, "null_threshold": None,
}  # fmt: skip
WORDS = {"protocol": "perplexity", "dataset": "d", "metric": "word_perplexity", "window": 8, "windows": None}
PROBE = {"protocol": "knn", "dataset": "d", "metric": "accuracy"}
HARNESS = {"protocol": "lm_eval", "dataset": "d", "metric": "accuracy"}


@pytest.mark.parametrize(
    ("dataset", "kind", "head", "metric"),
    [
        (CLASSES, "classes", "sequence_classification", "accuracy"),
        (SCORES, "scores", "sequence_classification", "pearson"),
        (SPANS, "spans", "question_answering", "squad_f1"),
        (IMAGES, "classes", "image_classification", "accuracy"),
        (FOLDER, "classes", "image_classification", "accuracy"),
    ],
)
def test_head_and_metric_follow_from_the_dataset(dataset: dict[str, Any], kind: str, head: str, metric: str) -> None:
    assert kind_of(dataset) == kind
    task = completed(TRAINING, dataset)
    assert (task["head"], task["metric"]) == (head, metric)
    check_task(task, dataset, "t")
    own = completed({**TRAINING, "head": "mean_pooling", "metric": "f1"}, CLASSES)
    assert (own["head"], own["metric"]) == ("mean_pooling", "f1"), "what is written stays"


@pytest.mark.parametrize(
    ("task", "dataset", "says"),
    [
        (TRAINING, TEXTS, "dataset 'd' without label"),
        (TRAINING, {**CLASSES, "source": PATH}, "dataset 'd' without a test split"),
        (TRAINING, KEPT, "format: files"),
        (HARNESS, CLASSES, "format: parquet"),
        (WORDS, IMAGES, "dataset 'd' of images"),
        (PROBE, CLASSES, "dataset 'd' of texts"),
        ({**TRAINING, "head": "question_answering"}, CLASSES, "'question_answering'"),
        ({**TRAINING, "head": "mean_pooling"}, SCORES, "'mean_pooling' for numbers"),
        ({**TRAINING, "metric": "pearson"}, CLASSES, "'pearson', which does not fit"),
        ({**TRAINING, "also": ["squad_f1"]}, CLASSES, "'squad_f1', which does not fit"),
        ({**TRAINING, "metric": "f1"}, CLASSES, "no class that `f1` is of"),
        ({**TRAINING, "early_stopping": {"every": 1, "patience": 1}}, CLASSES, "without the split `validation`"),
        ({**TRAINING, "micro_batch": 5}, CLASSES, "5"),
    ],
)
def test_what_does_not_go_together_is_refused(task: dict[str, Any], dataset: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        check_task(completed(task, dataset), dataset, "the task")
    assert says in caught.value.found
    assert caught.value.where.startswith("the task")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"split": {"test_fraction": 0.5}}, "files for `test` beside"),
        ({"split": {"column": "c"}}, "files for `test` beside"),
        ({"source": PATH, "split": {"column": "c", "test_fraction": 0.5}}, "column"),
        ({"source": PATH, "split": {"seed": 1}}, "seed"),
        ({"source": PATH, "split": {"test_fraction": 0.7, "validation_fraction": 0.4}}, "add up to 1.1"),
        ({"image": "i"}, "both `text` and `image`"),
        ({"score": "s"}, "'label', 'score' at once"),
        ({"format": "files"}, "a column in a dataset with `format: files`"),
        ({"format": "images"}, "a column in a dataset with `format: images`"),
        ({"source": {**HUB, "files": {"all": ["*"]}}}, "`all`"),
    ],
)
def test_keys_of_a_dataset_that_contradict_each_other_are_refused(change: dict[str, Any], says: str) -> None:
    check_dataset(CLASSES, "the dataset")
    with pytest.raises(UserError) as caught:
        check_dataset({**CLASSES, **change}, "the dataset")
    assert says in caught.value.found


@pytest.mark.parametrize("dataset", [{"source": PATH, "format": "csv"}, {"source": HUB, "format": "files"}])
def test_a_dataset_that_names_nothing_is_refused(dataset: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        check_dataset(dataset, "the dataset")


def test_splits_that_a_dataset_may_have() -> None:
    assert held_out_splits(CLASSES) == {"test"}
    assert held_out_splits({**CLASSES, "split": {"validation_fraction": 0.1}}) == {"test", "validation"}
    assert held_out_splits({**CLASSES, "source": PATH}) == set()
    assert held_out_splits(FOLDER) == {"test", "validation"}
    assert held_out_splits(KEPT) == set()


def test_inputs_depend_on_what_prepares_them_alone() -> None:
    assert preparation(completed(TRAINING, CLASSES), CLASSES) == {"kind": "classes", "max_length": 256}
    assert preparation(completed(TRAINING, IMAGES), IMAGES) == {"kind": "images"}
    assert preparation(PROBE, FOLDER) == {"kind": "images"}
    assert preparation(WORDS, TEXTS) == {"kind": "documents", "window": 8, "windows": None}
    assert preparation({**WORDS, "metric": "perplexity"}, TEXTS)["kind"] == "stream"  # type: ignore[index]
    assert preparation(HARNESS, KEPT) is None
    spans = {"kind": "spans", "max_length": 256, "stride": 128, "unanswerable": True}
    assert preparation(completed({**TRAINING, "null_threshold": 0.0}, SPANS), SPANS) == spans
