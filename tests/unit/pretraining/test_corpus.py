"""Shares of a corpus: nested, drawn by the seed, of the training rows alone, with one vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from essential_sparsity.errors import UserError
from essential_sparsity.pretraining.corpus import WITHHELD, withhold
from essential_sparsity.study.validation import validate
from pictures import pictures
from trainings import trained

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
BASE: dict[str, Any] = {
    "steps": 4, "batch_size": 8, "learning_rate": 0.01, "weight_decay": 0.01, "warmup": 0.1, "dropout": 0.0,
    "checkpoints": 2, "first_checkpoint": 4, "log_every": 5, "seed": 3,
}  # fmt: skip
IMAGES = {
    **BASE, "objective": "masked-image-modelling", "mask_ratio": 0.5, "augment": {"flip": True, "crop_padding": 1},
    "architecture": {**SIZES, "model": "vit", "image_size": 8, "patch_size": 4},
}  # fmt: skip
TEXTS = {
    **BASE, "objective": "causal-language-modelling", "architecture": SIZES, "sequence_length": 8,
    "tokenizer": {"vocab_size": 300, "min_frequency": 1},
}  # fmt: skip


def splits(rows: int, seed: int) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    return pd.DataFrame({"id": range(rows), "split": draw.choice(["train", "train", "validation", "test"], size=rows)})


def seen(corpus: pd.DataFrame, share: float, seed: int) -> set[int]:
    kept = withhold(corpus, share, seed)
    return set(kept.loc[kept["split"] == "train", "id"])


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(1, 200), st.integers(0, 5), st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5))
def test_smaller_shares_lie_within_larger_ones(rows: int, seed: int, shares: list[float]) -> None:
    corpus = splits(rows, seed)
    train = set(corpus.loc[corpus["split"] == "train", "id"])
    found = [seen(corpus, share, seed) for share in sorted(shares)]
    for share, smaller, larger in zip(sorted(shares), found, [*found[1:], train], strict=True):
        assert smaller <= larger
        assert abs(len(smaller) - share * len(train)) <= 0.5


def test_held_out_rows_and_the_order_stay() -> None:
    corpus = splits(100, 0)
    found = withhold(corpus, 0.25, 0)
    assert found["id"].tolist() == corpus["id"].tolist()
    other = corpus["split"] != "train"
    assert found.loc[other, "split"].tolist() == corpus.loc[other, "split"].tolist()
    assert set(found.loc[~other, "split"]) == {"train", WITHHELD}
    pd.testing.assert_frame_equal(withhold(corpus, 1.0, 0), corpus, check_dtype=False)


def test_the_seed_draws_the_share() -> None:
    corpus = splits(200, 0)
    assert seen(corpus, 0.5, 0) == seen(corpus, 0.5, 0)
    assert seen(corpus, 0.5, 0) != seen(corpus, 0.5, 1)


def test_a_share_is_trained_on_as_if_the_others_were_not_there(tmp_path: Path) -> None:
    corpus = pictures()
    found = trained(corpus, {**IMAGES, "corpus_share": 0.5}, tmp_path / "share")
    kept = withhold(corpus, 0.5, IMAGES["seed"])["split"] != WITHHELD
    assert found == trained(corpus[kept], IMAGES, tmp_path / "rows")
    whole = trained(corpus, IMAGES, tmp_path / "whole")
    assert whole == trained(corpus, {**IMAGES, "corpus_share": 1.0}, tmp_path / "one")
    assert whole["step000004.safetensors"] != found["step000004.safetensors"]


def test_all_shares_have_the_vocabulary_of_the_whole(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("aeinorst"), size=5)) for _ in range(60)]
    texts = [" ".join(draw.choice(words, size=6)) for _ in range(60)]
    corpus = pd.DataFrame({"text": texts, "split": ["test" if i % 5 == 0 else "train" for i in range(60)]})
    whole, share = (
        trained(corpus, {**TEXTS, "corpus_share": part}, tmp_path / str(part)) for part in (1.0, 0.5)
    )  # fmt: skip
    assert whole["tokenizer.json"] == share["tokenizer.json"]
    assert whole["step000000.safetensors"] == share["step000000.safetensors"]
    assert whole["step000004.safetensors"] != share["step000004.safetensors"]
    losses = [pd.read_parquet(tmp_path / part / "loss.parquet")["held_out_loss"].iloc[0] for part in ("1.0", "0.5")]
    assert losses[0] == losses[1], "the same held-out texts before the first step"


# --- The registry ---


def checked(root: Path, **changes: Any) -> dict[str, Any]:
    asked = {"corpus": "texts", "steps": 9, "architecture": dict(SIZES), **changes}
    source: dict[str, Any] = {"kind": "pretrain", "recipe": asked}
    validate(source, root / "workflow" / "schemas" / "source.schema.yaml", "models.yaml")
    return source["recipe"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_is_above_zero_and_at_most_all(root: Path, share: float) -> None:
    with pytest.raises(UserError, match=r"corpus_share: found .*; expected a number"):
        checked(root, corpus_share=share)


def test_a_recipe_without_a_share_stays_as_it_was(root: Path) -> None:
    assert "corpus_share" not in checked(root), "trainings of before keep their parameters"
    assert checked(root, corpus_share=0.25)["corpus_share"] == 0.25
