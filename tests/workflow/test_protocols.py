"""Every protocol on one's own data: tables with a column mapping, a folder of images, and files of lm-eval's tasks."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from transformers import AutoTokenizer

import tiny
from essential_sparsity.metrics.registry import compute_metric

LICENCE = {"licence": "MIT"}
LEVELS = {"methods": ["magnitude-global"], "sparsities": [0.5]}


def write_images(folder: Path) -> None:
    """Write dark and bright images, a folder a class within a folder a split."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 12)):
        for name, low in (("dark", 0), ("bright", 150)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(low, low + 100, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


def write_tables(folder: Path) -> None:
    """Write pairs, questions, and items with choices as lm-eval's ARC has them."""
    draw = np.random.default_rng(0)
    pairs, questions, items = [], [], []
    for i in range(80):
        words = draw.choice(tiny.PLOT_WORDS, size=6).tolist()
        same = bool(i % 2)
        pairs.append({"a": " ".join(words), "b": words[0] if same else "film", "same": same, "grade": float(same)})
        answer = {"text": [words[2]], "answer_start": [len(" ".join(words[:2])) + 1]}
        questions.append({"q": "film", "c": " ".join(words), "a": answer})
        choices = {"text": [*words[:3], "boring"], "label": list("ABCD")}
        items.append({"id": str(i), "question": " ".join(words), "choices": choices, "answerKey": "ABCD"[i % 4]})
    pd.DataFrame(pairs).to_json(folder / "pairs.jsonl", orient="records", lines=True)
    pd.DataFrame(questions).to_parquet(folder / "questions.parquet")
    (folder / "arc" / "ARC-Easy").mkdir(parents=True)
    pd.DataFrame(items).to_parquet(folder / "arc" / "ARC-Easy" / "test-00000-of-00001.parquet")


def study(folder: Path) -> dict[str, Any]:
    """Return a study of every protocol."""
    config = tiny.study(folder)
    # A token that ends texts stands before the first of a document.
    tokenizer = AutoTokenizer.from_pretrained(folder / "llama")
    tokenizer.eos_token = "<unk>"
    tokenizer.save_pretrained(folder / "llama")
    write_tables(folder)
    write_images(folder / "images")
    models, datasets, tasks = (config["registries"][kind] for kind in ("models", "datasets", "tasks"))
    models["tiny-vit"] = {
        "source": {
            "kind": "pretrain",
            "recipe": {
                "objective": "masked-image-modelling", "corpus": "tiny-images", "steps": 6, "batch_size": 8,
                "corpus_share": 0.5,
                "checkpoints": 2, "first_checkpoint": 6,
                "architecture": {
                    "model": "vit", "image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2,
                    "num_attention_heads": 2, "intermediate_size": 32,
                },
            },
        },
        **LICENCE,
    }  # fmt: skip
    # As the README shows it: one's own data in five lines.
    datasets["tiny-pairs"] = {
        "source": {"kind": "path", "path": "pairs.jsonl"}, "format": "jsonl", "text": "a", "text_pair": "b",
        "label": "same", "split": {"test_fraction": 0.3, "validation_fraction": 0.2}, **LICENCE,
    }  # fmt: skip
    grades = {key: value for key, value in datasets["tiny-pairs"].items() if key != "label"}
    datasets["tiny-grades"] = {**grades, "score": "grade"}
    datasets["tiny-questions"] = {
        "source": {"kind": "path", "path": "questions.parquet"}, "format": "parquet", "text": "q", "text_pair": "c",
        "answers": "a", "split": {"test_fraction": 0.3}, **LICENCE,
    }  # fmt: skip
    datasets["tiny-images"] = {"source": {"kind": "path", "path": "images"}, "format": "images", **LICENCE}
    datasets["tiny-arc"] = {"source": {"kind": "path", "path": "arc"}, "format": "files", **LICENCE}
    training = {"protocol": "finetune", "epochs": 1, "batch_size": 16, "learning_rate": 0.001, "max_length": 16}
    tasks |= {
        "pairs": {
            "label": "pairs", "dataset": "tiny-pairs", **training, "metric": "f1", "positive": "True",
            "also": ["accuracy", "matthews"], "early_stopping": {"every": 1, "patience": 1},
        },
        "grades": {"label": "grades", "dataset": "tiny-grades", **training, "also": ["spearman"]},
        "questions": {
            "label": "questions", "dataset": "tiny-questions", **training, "also": ["exact_match"], "stride": 4,
        },
        "pictures": {"label": "pictures", "dataset": "tiny-images", **training},
        "probe": {"label": "probe", "dataset": "tiny-images", "protocol": "linear_probe"},
        "neighbours": {"label": "neighbours", "dataset": "tiny-images", "protocol": "knn", "neighbours": 3},
        "masked": {
            "label": "masked", "dataset": "tiny-texts", "protocol": "masked_tokens", "window": 16, "windows": 8,
        },
        "words": {
            "label": "words", "dataset": "tiny-texts", "protocol": "perplexity", "metric": "word_perplexity",
            "window": 32, "windows": 8,
        },
        "arc": {
            "label": "choices", "dataset": "tiny-arc", "protocol": "lm_eval", "lm_eval_task": "arc_easy", "limit": 12,
        },
    }  # fmt: skip
    return config | {
        "study": "protocols",
        "curves": [
            {
                "models": ["tiny-bert"],
                "checkpoints": ["last"],
                **LEVELS,
                "tasks": ["pairs", "grades", "questions", "masked"],
            },
            {"models": ["tiny-vit"], "checkpoints": ["last"], **LEVELS, "tasks": ["pictures", "probe", "neighbours"]},
            {"models": ["tiny-llama"], **LEVELS, "tasks": ["words", "arc"]},
        ],
        "weights": [],
    }


@pytest.fixture(scope="module")
def finished_protocols(make_clone: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The study, run to its end."""
    clone = make_clone(tmp_path_factory.mktemp("protocols"))
    tiny.write_study(study(clone.work), clone.study_file)
    clone.run()
    return clone


def test_every_protocol_gives_a_row_that_its_examples_explain(finished_protocols: Any) -> None:
    results = finished_protocols.work / "results"
    rows = pd.read_parquet(results / "studies/protocols/tables/evaluations.parquet").set_index(["task", "sparsity"])
    metrics = {
        "pairs": "f1", "grades": "pearson", "questions": "squad_f1", "pictures": "accuracy", "probe": "accuracy",
        "neighbours": "accuracy", "masked": "masked_loss", "words": "word_perplexity", "arc": "accuracy",
    }  # fmt: skip
    assert set(rows.index) == {(task, level) for task in metrics for level in (0.0, 0.5)}
    for (task, level), row in rows.iterrows():
        assert row["metric"] == metrics[task]
        path = results / f"evaluations/{row['model']}/{row['checkpoint']}/{row['method']}/{level:.3f}/{task}/0"
        examples = pd.read_parquet(f"{path}.examples.parquet")
        again = compute_metric(row["metric"], examples, task, positive="True").value
        assert again == pytest.approx(row["value"])
        assert row["n"] == examples["n"].sum()
        assert abs(row["realised_sparsity"] - level) < 1e-3
    assert set(json.loads(rows.loc[("pairs", 0.5), "other_metrics"])) == {"accuracy", "matthews"}
    assert set(json.loads(rows.loc[("questions", 0.5), "other_metrics"])) == {"exact_match"}
    assert rows.loc[("arc", 0.0), "chance"] == 0.25
    assert not list((results / "states").rglob("checkpoint-*")), "states of finished trainings are gone"


def test_the_report_of_every_protocol_is_written(finished_protocols: Any) -> None:
    page = (finished_protocols.work / "results/studies/protocols/report.html").read_text()
    for label in ("pairs", "grades", "questions", "pictures", "probe", "neighbours", "masked", "words", "choices"):
        assert label in page


def test_a_damaged_image_is_named_and_nothing_is_left(finished_protocols: Any) -> None:
    clone = finished_protocols
    file = clone.work / "images/test/dark/3.png"
    whole = file.read_bytes()
    # The beginning is that of an image: it passes when the folder is read, and fails when it is decoded.
    file.write_bytes(whole[: len(whole) // 2])
    result = clone.snakemake("results/inputs/tiny-vit/pictures.arrow")
    printed = result.stdout + result.stderr
    file.write_bytes(whole)
    assert result.returncode != 0
    assert "cannot be decoded" in printed and "row " in printed and "To mend:" in printed, printed
    assert "Traceback" not in printed
    assert Image.open(io.BytesIO(whole)).size == (9, 9)
