"""Loading: nothing is filled in at random unnoticed, and what cannot be loaded is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2Model,
    ViTMAEModel,
)

import families
import standins
import tiny
from essential_sparsity.checkpoints.extract import empty_model, read_config
from essential_sparsity.checkpoints.files import checkpoint_folder
from essential_sparsity.checkpoints.layers import list_matrices
from essential_sparsity.checkpoints.loading import check_length, load_model, load_tokenizer
from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.errors import UserError
from essential_sparsity.evaluation.evaluate import check_mask_is_of
from essential_sparsity.pruning.masks import AppliedMasks, MaskHeader


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    tiny.write_llama(tmp_path)
    return tmp_path


def drop(folder: Path, part: str) -> None:
    path = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if part not in name}
    save_file(kept, path, metadata={"format": "pt"})


def test_what_a_job_reads_of_a_checkpoint_is_one_folder_to_transformers(llama: Path, tmp_path: Path) -> None:
    place = tmp_path / "results" / "final"
    inputs = {"weights": "model.safetensors", "companions": "companions", "provenance": "provenance.json"}
    (place / "companions").mkdir(parents=True)
    (place / "provenance.json").write_text("{}")
    for path in [path for path in llama.iterdir() if path.is_file()]:
        path.rename(place / ("" if path.name == "model.safetensors" else "companions") / path.name)
    with checkpoint_folder({name: str(place / part) for name, part in inputs.items()}) as folder:
        assert folder.name == "final"
        assert isinstance(load_model(AutoModelForCausalLM, folder, "here"), nn.Module)
        assert len(load_tokenizer(folder, "here")) == 22
    assert not folder.exists()


def test_a_whole_checkpoint_is_loaded(llama: Path) -> None:
    model = load_model(AutoModelForCausalLM, llama, "evaluation")
    state = load_file(llama / "model.safetensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items() if name in state)


def test_a_missing_shard_is_refused_instead_of_filled_in(llama: Path) -> None:
    drop(llama, "layers.1.mlp")
    with pytest.raises(UserError, match=r"no weights for 3 tensors of the model \(model\.layers\.1\.mlp"):
        load_model(AutoModelForCausalLM, llama, "evaluation")
    with pytest.raises(UserError, match="no weights for 3"):
        list_matrices(empty_model(llama), families.shapes_of(llama), "tiny")


def test_a_missing_expert_is_refused_instead_of_filled_in(tmp_path: Path) -> None:
    families.save("mixtral", tmp_path)
    load_model(AutoModelForCausalLM, tmp_path, "evaluation")
    drop(tmp_path, "layers.1.block_sparse_moe.experts.2.")
    with pytest.raises(UserError, match="AutoModelForCausalLM cannot load it"):
        load_model(AutoModelForCausalLM, tmp_path, "evaluation")


def test_a_new_head_may_start_at_random(llama: Path) -> None:
    model = load_model(AutoModelForSequenceClassification, llama, "evaluation", num_labels=3)
    assert model.score.weight.shape[0] == 3  # type: ignore[union-attr,index]


def test_of_a_masked_autoencoder_the_encoder_sees_every_patch(tmp_path: Path) -> None:
    families.save("vit-mae", tmp_path)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = load_model(AutoModel, tmp_path, "evaluation").eval()(images).last_hidden_state
        # Its own encoder, that keeps all four patches, in their order.
        whole = ViTMAEModel.from_pretrained(tmp_path, mask_ratio=0.0).eval()
        expected = whole(images, noise=torch.arange(4.0).expand(2, 4)).last_hidden_state
    torch.testing.assert_close(found, expected)


def test_a_masked_autoencoder_gets_a_head_for_the_classes(tmp_path: Path) -> None:
    families.save("vit-mae", tmp_path)
    names = {0: "cat", 1: "dog", 2: "horse"}
    options = {"id2label": names, "label2id": {name: i for i, name in names.items()}, "ignore_mismatched_sizes": True}
    model = load_model(AutoModelForImageClassification, tmp_path, "evaluation", dtype=torch.float32, **options)
    assert model(torch.zeros(1, 3, 8, 8)).logits.shape == (1, 3)
    assert model.config.id2label == names  # type: ignore[union-attr]
    stored = families.stored_tensors(tmp_path)["vit.layernorm.weight"]
    assert torch.equal(model.get_parameter("vit.layernorm.weight"), stored)


def test_a_tokenizer_of_sentencepiece_alone_is_loaded(tmp_path: Path) -> None:
    size = standins.write_sentencepiece(tmp_path)
    tokenizer = load_tokenizer(tmp_path, "evaluation")
    assert len(tokenizer) == size
    # The first token begins a text; a letter that was never seen is a byte.
    assert tokenizer.convert_ids_to_tokens(tokenizer("film 9")["input_ids"]) == [
        *["<s>", "▁", "f", "i", "l", "m", "▁", "<0x39>"]
    ]


def test_a_class_that_does_not_fit_is_named(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)).save_pretrained(
        tmp_path
    )
    with pytest.raises(UserError, match="AutoModelForCausalLM cannot load it"):
        load_model(AutoModelForCausalLM, tmp_path, "evaluation")


def test_a_checkpoint_saved_without_its_head_is_listed_under_its_own_names(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=8, n_layer=2, n_head=2, n_positions=16, vocab_size=32)
    GPT2Model(config).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text().replace("GPT2Model", "GPT2LMHeadModel")
    (tmp_path / "config.json").write_text(text)
    stored = families.shapes_of(tmp_path)
    matrices = list_matrices(empty_model(tmp_path), stored, "gpt2")
    assert sum(m.pruned for m in matrices) == 2 * 4
    assert {m.name for m in matrices} == stored.keys()
    assert {m.name: f"transformer.{m.name}" for m in matrices} == {m.name: m.parameter for m in matrices}


def test_a_missing_tokenizer_is_named(llama: Path) -> None:
    for path in llama.glob("token*"):
        path.unlink()
    with pytest.raises(UserError, match="no tokenizer that can be loaded"):
        load_tokenizer(llama, "evaluation")


def test_a_broken_configuration_is_named(llama: Path) -> None:
    (llama / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: found a configuration"):
        read_config(llama)
    (llama / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(UserError, match="no-such-model"):
        read_config(llama)


def test_sequences_longer_than_the_model_are_refused(llama: Path) -> None:
    model = load_model(AutoModelForCausalLM, llama, "evaluation")
    check_length(model, 64, "window", "evaluation")
    with pytest.raises(UserError, match="key window: found 65 tokens; expected at most 64"):
        check_length(model, 65, "window", "evaluation")


def test_removed_weights_have_no_say_in_the_clipping_of_gradients() -> None:
    layer = nn.Linear(2, 1, bias=False)
    rows = {"weight": Matrix("weight", (1, 2), True, "linear", parameter="weight")}
    masks = AppliedMasks(layer, {"weight": torch.tensor([[True, False]])}, rows)
    masks.hold()
    layer.weight.grad = torch.tensor([[0.5, 1000.0]])
    masks.hold_gradients()
    norm = nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    assert float(norm) == 0.5
    assert layer.weight.grad.tolist() == [[0.5, 0.0]]


def test_a_mask_of_something_else_is_refused() -> None:
    method = {"score": "magnitude", "allocation": "uniform", "scope": "global", "pattern": "unstructured"}
    axes = {"model": "a", "checkpoint": "final", "method": "m", "sparsity": "0.300", "task": "t", "seed": "0"}
    header = MaskHeader("a", "final", method, 0, 0.3, 0.3)
    check_mask_is_of(header, axes, method, Path("mask"))
    for other in ({"model": "b"}, {"checkpoint": "step000001"}, {"sparsity": "0.400"}):
        with pytest.raises(UserError, match="found a mask of"):
            check_mask_is_of(header, {**axes, **other}, method, Path("mask"))
