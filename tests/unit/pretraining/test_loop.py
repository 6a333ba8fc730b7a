"""Pre-training: the recipe alone decides the weights, whether or not it was cut off."""

from __future__ import annotations

import copy
import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM

import tiny
from essential_sparsity.checkpoints.steps import checkpoint_steps, step_name, step_of
from essential_sparsity.errors import UserError
from essential_sparsity.files import read_json, sha256_of
from essential_sparsity.planning.digests import code_digest
from essential_sparsity.pretraining import masked_text as pretraining_text
from essential_sparsity.pretraining.loop import INDEX, learning_rate_factor
from trainings import RECIPE, WHERE, acting_in, corpus, killed_in, states_of, trained


def recipe(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RECIPE), **changes}


def train(folder: Path, code: str = "code", rows: pd.DataFrame | None = None, **changes: Any) -> dict[str, bytes]:
    return trained(corpus() if rows is None else rows, recipe(**changes), folder, code)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a training that nothing interrupted."""
    return train(tmp_path_factory.mktemp("whole"))


def test_two_trainings_give_the_same_bytes(whole: dict[str, bytes], tmp_path: Path) -> None:
    assert train(tmp_path) == whole


def test_a_training_writes_its_checkpoints_and_no_state(whole: dict[str, bytes]) -> None:
    steps = checkpoint_steps(12, 3, 4)
    assert steps == [0, 4, 12]
    assert {n for n in whole if n.endswith(".safetensors")} == {f"{step_name(s)}.safetensors" for s in steps}
    assert {"index.json", "loss.parquet", "config.json", "tokenizer.json"} <= set(whole)


@pytest.mark.parametrize("step", [0, 4, 9, 11])
def test_a_training_that_was_cut_off_ends_in_the_same_bytes(whole: dict[str, bytes], tmp_path: Path, step: int) -> None:
    for at in (step // 2, step):
        with killed_in(at):
            train(tmp_path)
    assert not (tmp_path / "index.json").exists(), "the index says that a training is complete"
    with acting_in() as taken:
        assert train(tmp_path) == whole
    assert taken == list(range(step - step % 2, 12)), "it goes on from the last state, one for a tenth of the steps"
    assert not states_of(tmp_path).exists()


@pytest.mark.parametrize("step", [2, 5])
def test_a_training_that_is_told_to_end_loses_no_step(whole: dict[str, bytes], tmp_path: Path, step: int) -> None:
    says = rf"SIGTERM\) after step {step + 1} of 12.*goes on from there"
    with acting_in(step, lambda: signal.raise_signal(signal.SIGTERM)) as before, pytest.raises(UserError, match=says):
        train(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with acting_in() as after:
        assert train(tmp_path) == whole
    assert before + after == list(range(12)), "no step is taken twice"


@pytest.mark.parametrize(
    "arguments",
    [{"code": "another"}, {"learning_rate": 0.02}, {"rows": corpus(seed=1)}],
    ids=lambda given: next(iter(given)),
)
def test_another_training_is_not_continued(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with killed_in(9):
        train(tmp_path / "cut")
    with acting_in() as taken:
        found = train(tmp_path / "cut", **arguments)
    assert taken == list(range(12)), "from the beginning"
    assert found == train(tmp_path / "anew", **arguments)


@pytest.mark.parametrize("script", ["pretrain_model.py", "finetune_model.py"])
def test_an_edited_lock_or_message_throws_no_state_away(tmp_path: Path, script: str) -> None:
    scripts = shutil.copytree(tiny.ROOT / "workflow" / "scripts", tmp_path / "scripts")
    before = code_digest(scripts / script, scripts)
    package = scripts / "essential_sparsity"
    for file in [*(package / "run").glob("*.py"), package / "errors.py"]:
        file.write_text(file.read_text() + "\nEDITED = 1\n")
    assert code_digest(scripts / script, scripts) == before, "it is what states are known by"
    (package / "training" / "trainer.py").write_text("EDITED = 1\n")
    assert code_digest(scripts / script, scripts) != before


@pytest.mark.parametrize(
    ("file", "content"),
    [("trainer_state.json", None), ("trainer_state.json", b"{"), ("optimizer.pt", b""), ("pytorch_model.bin", b"PK")],
)
def test_a_training_whose_state_was_not_written_to_its_end_starts_anew(
    whole: dict[str, bytes], tmp_path: Path, file: str, content: bytes | None
) -> None:
    with killed_in(9):
        train(tmp_path)
    damaged = states_of(tmp_path) / "trainer" / "checkpoint-8" / file
    damaged.unlink() if content is None else damaged.write_bytes(content)
    with acting_in() as taken:
        assert train(tmp_path) == whole
    assert taken == list(range(12))


def test_checkpoints_of_an_earlier_recipe_are_removed(tmp_path: Path, whole: dict[str, bytes]) -> None:
    train(tmp_path, checkpoints=4)
    assert train(tmp_path) == whole


def test_the_index_lists_what_is_there(whole: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    index = read_json(tmp_path / "index.json")
    assert list(index["steps"]) == ["step000000", "step000004", "step000012"]
    for entry in index["steps"].values():
        assert sha256_of(tmp_path / entry["file"]) == entry["sha256"]
    assert set(index["files"]) <= set(whole)
    assert {"config.json", "tokenizer.json"} <= set(index["files"])


def test_a_step_is_a_checkpoint_that_transformers_loads(whole: dict[str, bytes], tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes(whole[name])
    (tmp_path / "model.safetensors").write_bytes(whole["step000012.safetensors"])
    model, info = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(model, BertForMaskedLM)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == model.config.vocab_size
    ids = tokenizer("The hero", "a storm")
    assert tokenizer.convert_ids_to_tokens(ids["input_ids"])[0] == "[CLS]"
    assert ids["token_type_ids"][-1] == 1, "the second text of a pair has segment 1"


def test_step_zero_is_untrained_and_the_last_is_not(whole: dict[str, bytes], tmp_path: Path) -> None:
    states = []
    for name in ("step000000", "step000012"):
        (tmp_path / name).write_bytes(whole[f"{name}.safetensors"])
        states.append(load_file(tmp_path / name))
    assert states[0].keys() == states[1].keys()
    query = "bert.encoder.layer.0.attention.self.query.weight"
    # BERT's initialisation: a normal distribution with standard deviation 0.02.
    assert float(states[0][query].std()) == pytest.approx(0.02, rel=0.2)
    assert not torch.equal(states[0][query], states[1][query])


def test_the_seed_matters(whole: dict[str, bytes], tmp_path: Path) -> None:
    other = train(tmp_path, seed=1)
    for name in ("step000000.safetensors", "step000012.safetensors"):
        assert other[name] != whole[name]


def test_a_small_corpus_has_fewer_words_than_the_recipe_allows(tmp_path: Path) -> None:
    # The held-out loss must draw its random words from the tokenizer that there is.
    train(tmp_path, tokenizer={"vocab_size": 5000, "min_frequency": 1}, steps=2)
    losses = pd.read_parquet(tmp_path / "loss.parquet")["held_out_loss"].dropna()
    assert len(losses) >= 2
    assert np.isfinite(losses).all()


def test_the_loss_falls_on_a_corpus_that_can_be_learnt(tmp_path: Path) -> None:
    sentence = "one two three four five six seven eight nine ten"  # each word says which are its neighbours
    rows = pd.DataFrame({"text": [sentence] * 60, "split": ["train"] * 50 + ["test"] * 10})
    train(tmp_path, rows=rows, steps=150, dropout=0.0, checkpoints=2)
    loss = pd.read_parquet(tmp_path / "loss.parquet")
    held_out = loss.set_index("step")["held_out_loss"].dropna()
    vocabulary = read_json(tmp_path / "config.json")["vocab_size"]
    assert held_out.loc[0] == pytest.approx(math.log(vocabulary), rel=0.05), "untrained is an even guess"
    assert held_out.loc[150] < 0.5 * held_out.loc[0]
    assert loss["loss"].dropna().iloc[-1] < 0.5 * loss["loss"].dropna().iloc[0]


def test_the_loss_curve_has_a_row_a_logged_step(whole: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "loss.parquet").write_bytes(whole["loss.parquet"])
    loss = pd.read_parquet(tmp_path / "loss.parquet")
    assert loss["step"].tolist() == [0, 4, 5, 10, 12]
    assert loss.set_index("step")["held_out_loss"].notna().to_dict() == {
        0: True,
        4: True,
        5: False,
        10: False,
        12: True,
    }
    assert loss.set_index("step")["loss"].notna().to_dict() == {0: False, 4: True, 5: True, 10: True, 12: True}


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining_text, "masked_loss", lambda model, *_: model.cls.predictions.bias.sum() * math.nan)
    with pytest.raises(UserError, match=rf"{WHERE}, training step 0: found a loss of nan.*learning_rate"):
        train(tmp_path)
    assert not (tmp_path / "index.json").exists()


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{WHERE}\.corpus: found \d sequences of 12 tokens.*batch of 8"):
        train(tmp_path, rows=corpus(5))
    assert not (tmp_path / "index.json").exists()


def test_training_sees_only_its_split(tmp_path: Path, whole: dict[str, bytes]) -> None:
    rows = corpus()
    rows.loc[rows["split"] == "test", "text"] = "the hero travels again and again to a village"
    found = train(tmp_path, rows=rows)
    for name in ("step000012.safetensors", "tokenizer.json"):
        assert found[name] == whole[name], "texts of the test split leave no trace in the weights"
    assert found["loss.parquet"] != whole["loss.parquet"]


def test_a_tiny_batch_without_a_masked_position_is_no_divergence(tmp_path: Path) -> None:
    train(tmp_path, batch_size=1, mask_probability=0.02, steps=30, sequence_length=8)
    assert np.isfinite(pd.read_parquet(tmp_path / "loss.parquet")["loss"].dropna()).all()


# --- Parts ---


@settings(deadline=None, derandomize=True)
@given(st.integers(2, 20_000), st.integers(2, 12), st.integers(1, 500))
def test_checkpoints_are_spaced_in_the_logarithm(steps: int, checkpoints: int, first: int) -> None:
    kept = checkpoint_steps(steps, checkpoints, first)
    assert kept[0] == 0
    assert kept[-1] == steps
    assert kept == sorted(set(kept))
    assert len(kept) <= checkpoints
    inner = [math.log(s) for s in kept[1:]]
    if len(kept) == checkpoints > 3 and first >= 50:  # where rounding to whole steps is small
        np.testing.assert_allclose(np.diff(inner), (math.log(steps) - math.log(first)) / (checkpoints - 2), atol=0.02)
        assert kept[1] == first


def test_weights_for_measuring_leave_the_training_and_its_loss_curve_as_they_are(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
    found = train(tmp_path, checkpoint_every=5)
    assert set(found) == set(whole) | {"step000005.safetensors", "step000010.safetensors"}
    assert {name: data for name, data in found.items() if name in whole and name != INDEX} == {
        name: data for name, data in whole.items() if name != INDEX
    }
    assert len(json.loads(found[INDEX])["steps"]) == 5


def test_steps_for_measuring_are_kept_when_a_training_goes_on(tmp_path: Path) -> None:
    with killed_in(10):
        train(tmp_path / "cut", checkpoint_every=5)
    assert train(tmp_path / "cut", checkpoint_every=5) == train(tmp_path / "whole", checkpoint_every=5)


def test_two_checkpoints_are_the_first_and_the_last() -> None:
    assert checkpoint_steps(3000, 2, 50) == [0, 3000]
    assert checkpoint_steps(10, 8, 50) == [0, 10]


@pytest.mark.parametrize("step", [0, 7, 3000, 999_999])
def test_a_step_is_read_from_its_name(step: int) -> None:
    assert step_of(step_name(step)) == step
    assert len(step_name(step)) == len("step000000")
    assert step_of("final") is None


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0.1), (1000, 0.06), (10, 0.0), (5, 1.0), (1, 0.5)])
def test_the_learning_rate_rises_and_falls_linearly(steps: int, warmup: float) -> None:
    factors = np.array([learning_rate_factor(s, steps, warmup) for s in range(steps)])
    ramp = max(1, round(warmup * steps))
    assert factors.max() == 1.0
    assert (factors > 0).all(), "no step is lost"
    np.testing.assert_allclose(factors[:ramp], np.arange(1, ramp + 1) / ramp)
    np.testing.assert_allclose(np.diff(factors[ramp:], n=2), 0, atol=1e-12)
    assert (np.diff(factors[ramp:]) < 0).all()
