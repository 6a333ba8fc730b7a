"""A study that runs in a minute: random models and made-up texts in local files, the same workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]

PLOT_WORDS = ["hero", "village", "travels", "finds", "war", "daughter", "secret", "train", "storm", "returns"]
REVIEW_WORDS = ["film", "boring", "brilliant", "acting", "script", "dull", "clever", "scenes", "camera", "funny"]


def write_texts(path: Path, rows: int = 240) -> None:
    """Write texts of two kinds about twelve films, told apart by their words."""
    draw = np.random.default_rng(0)
    kinds = [("plot", PLOT_WORDS), ("review", REVIEW_WORDS)]
    records = []
    for i in range(rows):
        kind, words = kinds[i % 2]
        text = " ".join(draw.choice(words, size=12)) + "."
        records.append({"kind": kind, "text": text, "film": f"film {i % 12}"})
    pd.DataFrame(records).to_csv(path, index=False)


def write_llama(folder: Path) -> None:
    """Write a random Llama of two layers and its word-level tokenizer."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", ".", *PLOT_WORDS, *REVIEW_WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def study(folder: Path) -> dict[str, Any]:
    """Write the study's data below ``folder`` and return its configuration; paths in it are relative to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_texts(folder / "texts.csv")
    write_llama(folder / "llama")
    texts = {"source": {"kind": "path", "path": "texts.csv"}, "licence": "MIT", "format": "csv", "text": "text"}
    return {
        "study": "tiny",
        "title": "A tiny study",
        "curves": [
            {
                "models": ["tiny-llama"],
                "methods": ["magnitude-global", "magnitude-layer"],
                "sparsities": [0.3, 0.6, 0.9],
                "tasks": ["tiny-perplexity"],
            },
            {
                "models": ["tiny-bert"],
                "checkpoints": ["last"],
                "methods": ["magnitude-global", "random-global"],
                "sparsities": [0.5, 0.9],
                "tasks": ["tiny-kind"],
                "seeds": [0, 1],
            },
        ],
        "weights": [{"models": ["tiny-bert"]}],
        "registries": {
            "models": {
                "tiny-llama": {"source": {"kind": "path", "path": "llama"}, "licence": "MIT"},
                "tiny-bert": {
                    "source": {
                        "kind": "pretrain",
                        "recipe": {
                            "corpus": "tiny-texts",
                            "architecture": {
                                "hidden_size": 16,
                                "num_hidden_layers": 2,
                                "num_attention_heads": 2,
                                "intermediate_size": 32,
                            },
                            "tokenizer": {"vocab_size": 80},
                            "sequence_length": 16,
                            "batch_size": 8,
                            "steps": 12,
                            "checkpoints": 3,
                            "first_checkpoint": 4,
                            "checkpoint_every": 3,
                        },
                    },
                    "licence": "MIT",
                },
            },
            "datasets": {
                "tiny-texts": {**texts, "split": {"group": "film", "test_fraction": 0.25}},
                "tiny-kinds": {**texts, "label": "kind", "split": {"group": "film", "test_fraction": 0.25}},
            },
            "tasks": {
                "tiny-perplexity": {
                    "label": "tiny texts",
                    "protocol": "perplexity",
                    "dataset": "tiny-texts",
                    "window": 16,
                    "windows": 8,
                },
                "tiny-kind": {
                    "label": "plot or review",
                    "protocol": "finetune",
                    "dataset": "tiny-kinds",
                    "head": "mean_pooling",
                    "freeze": ["embeddings.*"],
                    "epochs": 1,
                    "batch_size": 16,
                    "max_length": 16,
                    "learning_rate": 0.01,
                },
            },
        },
    }


def findings() -> list[dict[str, Any]]:
    """Return claims for the tiny study: one that compares two curves, one about a curve of too few levels."""
    return [
        {
            "finding": "tiny-finding",
            "claim": "Magnitude loses no more than chance does.",
            "statistic": "value-difference",
            "of": {
                "one": {"models": ["tiny-bert"], "method": "magnitude-global", "task": "tiny-kind"},
                "other": {"models": ["tiny-bert"], "method": "random-global", "task": "tiny-kind"},
                "levels": [0.5, 0.9],
            },
            "holds": {"above": -1.5},
        },
        {
            "finding": "tiny-finding",
            "claim": "Magnitude loses no more than chance does.",
            "statistic": "slope-ratio",
            "of": {"models": ["tiny-llama"], "method": "magnitude-global", "task": "tiny-perplexity"},
            "holds": {"above": 2},
        },
    ]


def write_study(config: dict[str, Any], file: Path) -> None:
    """Write a study file."""
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
