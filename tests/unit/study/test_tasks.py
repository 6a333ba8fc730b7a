"""What of tasks and datasets goes together, and what a task's inputs depend on."""

from __future__ import annotations

from typing import Any

import pytest

import entries
from essential_sparsity.data.tasks import Finetuning
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
TRAINING: dict[str, Any] = {}
WORDS = {"protocol": "perplexity", "metric": "word_perplexity", "window": 8}
PROBE = {"protocol": "knn"}
HARNESS = {"protocol": "lm_eval", "lm_eval_task": "arc_easy"}


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
    found = entries.dataset(**dataset)
    assert found.kind == kind
    task = completed(entries.task(), found)
    assert isinstance(task, Finetuning)
    assert (task.head, task.metric) == (head, metric)
    check_task(task, found, "t")
    own = entries.task(head="mean_pooling", metric="f1")
    assert completed(own, entries.dataset(**CLASSES)) == own, "what is written stays"


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
    found = entries.dataset(**dataset)
    with pytest.raises(UserError) as caught:
        check_task(completed(entries.task(**task), found), found, "the task")
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
    check_dataset(entries.dataset(**CLASSES), "the dataset")
    with pytest.raises(UserError) as caught:
        check_dataset(entries.dataset(**CLASSES | change), "the dataset")
    assert says in caught.value.found


@pytest.mark.parametrize("dataset", [{"source": PATH, "format": "csv"}, {"source": HUB, "format": "files"}])
def test_a_dataset_that_names_nothing_is_refused(dataset: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        check_dataset(entries.dataset(**dataset), "the dataset")


def test_splits_that_a_dataset_may_have() -> None:
    assert entries.dataset(**CLASSES).held_out_splits == {"test"}
    assert entries.dataset(**CLASSES | {"split": {"validation_fraction": 0.1}}).held_out_splits == {
        "test",
        "validation",
    }
    assert entries.dataset(**CLASSES | {"source": PATH}).held_out_splits == set()
    assert entries.dataset(**FOLDER).held_out_splits == {"test", "validation"}
    assert entries.dataset(**KEPT).held_out_splits == set()


@pytest.mark.parametrize(
    ("task", "dataset", "expected"),
    [
        (TRAINING, CLASSES, {"kind": "classes", "max_length": 256}),
        (TRAINING, IMAGES, {"kind": "images"}),
        (PROBE, FOLDER, {"kind": "images"}),
        (WORDS, TEXTS, {"kind": "documents", "window": 8, "windows": None}),
        ({**WORDS, "metric": "perplexity"}, TEXTS, {"kind": "stream", "window": 8, "windows": None}),
        (HARNESS, KEPT, None),
        ({"null_threshold": 0.0}, SPANS, {"kind": "spans", "max_length": 256, "stride": 128, "unanswerable": True}),
        (TRAINING, SPANS, {"kind": "spans", "max_length": 256, "stride": 128, "unanswerable": False}),
    ],
)
def test_inputs_depend_on_what_prepares_them_alone(
    task: dict[str, Any], dataset: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    found = entries.dataset(**dataset)
    assert preparation(completed(entries.task(**task), found), found) == expected
