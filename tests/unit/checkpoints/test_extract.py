"""Checkpoints: whatever the weights were stored in, the extracted folder holds the same model."""

from __future__ import annotations

import json
import pickle
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import families
from essential_sparsity.checkpoints.extract import architecture_class, empty_model, extract
from essential_sparsity.checkpoints.layers import list_matrices
from essential_sparsity.checkpoints.tensors import WeightFiles, file_tensors
from essential_sparsity.errors import UserError
from essential_sparsity.evaluation.perplexity import load_causal

WHERE = "config/models.yaml, m.source"
IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])


def bert() -> nn.Module:
    torch.manual_seed(0)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=16,
        )
    ).eval()  # fmt: skip


def llama(tied: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, tie_word_embeddings=tied,
        )
    ).eval()  # fmt: skip


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model.eval()(input_ids=IDS).logits


def save(model: nn.Module, folder: Path, form: str) -> Path:
    """Save a model as a source would hold it: safetensors or a pickle with its tied tensors."""
    model.save_pretrained(folder)
    if form == "bin":
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def one_file(folder: Path, state: Any, name: str = "pytorch_model.bin") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    torch.save(state, folder / name)
    return folder


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("make", [bert, llama], ids=["bert", "llama"])
def test_the_extracted_model_is_the_same(tmp_path: Path, form: str, make: Any) -> None:
    model = make()
    extract(save(model, tmp_path / "in", form), tmp_path / "out", "float32", WHERE)
    loaded, info = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(logits(loaded), logits(model))
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_tied_tensor_is_stored_once(tmp_path: Path, form: str) -> None:
    extract(save(llama(), tmp_path / "in", form), tmp_path / "out", "float32", WHERE)
    names = families.shapes_of(tmp_path / "out")
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    matrices = list_matrices(empty_model(tmp_path / "out"), names, "m")
    assert sorted(m.name for m in matrices) == sorted(names), "every stored tensor is listed"


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_an_untied_head_is_kept(tmp_path: Path, form: str) -> None:
    model = llama(tied=False)
    extract(save(model, tmp_path / "in", form), tmp_path / "out", "float32", WHERE)
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"], model.lm_head.weight)


def test_parts_of_one_tensor_are_stored_apart(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(4, 3)
    state = {"q": whole[:2], "k": whole[2:], "all": whole}
    extract(one_file(tmp_path / "in", state), tmp_path / "out", "float32", WHERE)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: t.tolist() for name, t in found.items()} == {name: t.tolist() for name, t in state.items()}


def test_shards_are_joined(tmp_path: Path) -> None:
    model = bert()
    model.save_pretrained(tmp_path / "in", max_shard_size="8KB")
    assert len(list((tmp_path / "in").glob("*.safetensors"))) > 1
    extract(tmp_path / "in", tmp_path / "out", "float32", WHERE)
    assert [p.name for p in (tmp_path / "out").glob("*.safetensors")] == ["model.safetensors"]
    assert torch.equal(logits(BertForMaskedLM.from_pretrained(tmp_path / "out")), logits(model))


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_bfloat16_rounds_to_nearest(tmp_path: Path, form: str) -> None:
    model = bert()
    extract(save(model, tmp_path / "in", form), tmp_path / "out", "bfloat16", WHERE)
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert tensor.dtype is torch.bfloat16
        exact = model.state_dict()[name]
        assert bool(((tensor.float() - exact).abs() <= exact.abs() * 2**-8).all()), name
        assert torch.equal(tensor, exact.to(torch.bfloat16))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_a_checkpoint_is_loaded_as_it_is_stored(tmp_path: Path, stored: torch.dtype, asked: str) -> None:
    # The source's configuration says `float16`; unchanged, transformers would cast float32 weights back to it.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(tokenizer_models.WordLevel({"a": 0}, unk_token="a")), unk_token="a"
    )
    tokenizer.save_pretrained(tmp_path / "in")
    llama().to(stored).save_pretrained(tmp_path / "in")
    extract(tmp_path / "in", tmp_path / "out", asked, WHERE)
    dtype = getattr(torch, asked)
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {dtype}
    model = load_causal(tmp_path / "out", torch.device("cpu"), WHERE)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert {p.dtype for p in AutoModel.from_pretrained(tmp_path / "out").parameters()} == {dtype}


def test_integers_stay_integers(tmp_path: Path) -> None:
    state = {"w": torch.ones(2), "position_ids": torch.arange(1000)}
    extract(one_file(tmp_path / "in", state), tmp_path / "out", "bfloat16", WHERE)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(found["position_ids"], torch.arange(1000))
    assert found["w"].dtype is torch.bfloat16


def test_extracting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    save(bert(), tmp_path / "in", "bin")
    for name in ("a", "b"):
        extract(tmp_path / "in", tmp_path / name, "float32", WHERE)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    save(bert(), tmp_path / "in", "safetensors")
    (tmp_path / "in" / "vocab.txt").write_text("[PAD]\nword\n")
    (tmp_path / "in" / "README.md").write_text("not needed")
    extract(tmp_path / "in", tmp_path / "out", "float32", WHERE)
    assert (tmp_path / "out" / "vocab.txt").read_text() == "[PAD]\nword\n"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]


def refused(folder: Path, destination: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        extract(folder, destination, "float32", WHERE)
    assert caught.value.where.startswith(WHERE)
    assert not (destination / "model.safetensors").exists(), "nothing half-written"
    return caught.value


class Trap:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.marker, "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, writer: str) -> None:
    marker = tmp_path / "was-run"
    folder = one_file(tmp_path / "in", {"w": torch.ones(2), "trap": Trap(str(marker))})
    if writer == "pickle":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"trap": Trap(str(marker))}))
    error = refused(folder, tmp_path / "out")
    assert "pytorch_model.bin" in error.where
    assert "a pickle of tensors only" in error.expected
    assert not marker.exists()
    # The trap does work: the test would notice.
    pickle.loads(pickle.dumps(Trap(str(marker)))).close()
    assert marker.exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, bad: float, dtype: str) -> None:
    model = bert()
    name = "bert.encoder.layer.1.output.dense.weight"
    with torch.no_grad():
        model.get_parameter(name)[3, 4:6] = bad
    save(model, tmp_path / "in", "safetensors")
    with pytest.raises(UserError) as caught:
        extract(tmp_path / "in", tmp_path / "out", dtype, WHERE)
    assert caught.value.where == f"{WHERE}, matrix {name}"
    assert caught.value.found == "2 NaN or infinite values of 512"
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated"])
def test_an_unreadable_file_is_named(tmp_path: Path, form: str, damage: str) -> None:
    folder = save(bert(), tmp_path / "in", form)
    file = folder / ("model.safetensors" if form == "safetensors" else "pytorch_model.bin")
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "garbage": b"\x07not weights" * 9, "truncated": whole[: len(whole) // 2]}[damage])
    error = refused(folder, tmp_path / "out")
    assert file.name in error.where
    assert "cannot be read" in error.found


def test_a_missing_shard_is_named_with_a_matrix_that_it_holds(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "in", max_shard_size="8KB")
    lost = sorted((tmp_path / "in").glob("*.safetensors"))[1]
    held = load_file(lost)
    lost.unlink()
    error = refused(tmp_path / "in", tmp_path / "out")
    assert error.where == f"{WHERE}, file model.safetensors.index.json"
    assert f"'{lost.name}'" in error.found
    assert any(name in error.found for name in held)


def test_shards_become_one_file_and_are_read_a_tensor_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bert()
    model.save_pretrained(tmp_path / "in", max_shard_size="8KB")
    assert len(list((tmp_path / "in").glob("*.safetensors"))) > 2
    alive: list[weakref.ref[Tensor]] = []
    read = WeightFiles.read

    def watched(files: WeightFiles, name: str) -> Tensor:
        assert not [tensor for ref in alive[:-1] if (tensor := ref()) is not None], "earlier tensors are held"
        tensor = read(files, name)
        alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(WeightFiles, "read", watched)
    extract(tmp_path / "in", tmp_path / "out", "float32", WHERE)
    assert len(alive) > 20
    assert torch.equal(logits(BertForMaskedLM.from_pretrained(tmp_path / "out")), logits(model))


def test_tensors_of_every_width_are_stored_at_multiples_of_it(tmp_path: Path) -> None:
    # A byte, a half and whole numbers together: libraries that map the file need them aligned.
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "config.json").write_text('{"model_type": "bert"}')
    tensors = {
        "a.flags": torch.tensor([True, False, True]), "b.weight": torch.ones(3), "c.ids": torch.arange(5),
        "d.codes": torch.arange(3, dtype=torch.int16),
    }  # fmt: skip
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    extract(tmp_path / "in", tmp_path / "out", "bfloat16", WHERE)
    for name, stored in file_tensors(tmp_path / "out" / "model.safetensors").items():
        assert stored.begin % stored.dtype.itemsize == 0, name
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {n: t.tolist() for n, t in found.items()} == {n: t.tolist() for n, t in tensors.items()}


@pytest.mark.parametrize("state", [torch.ones(3), [torch.ones(2)], {"state_dict": {"w": torch.ones(2)}}, {"step": 3}])
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, state: Any) -> None:
    error = refused(one_file(tmp_path / "in", state), tmp_path / "out")
    assert "not a mapping of names to tensors" in error.found


@pytest.mark.parametrize("files", [[], ["README.md", "weights.h5"]])
def test_a_folder_without_weights_says_what_is_there(tmp_path: Path, files: list[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("x")
    error = refused(folder, tmp_path / "out")
    assert ("README.md, weights.h5" if files else "no files at all") in error.found
    assert ".safetensors" in error.expected


def test_weights_without_a_configuration_are_refused(tmp_path: Path) -> None:
    folder = save(bert(), tmp_path / "in", "safetensors")
    (folder / "config.json").unlink()
    assert "without a config.json" in refused(folder, tmp_path / "out").found


@pytest.mark.parametrize("names", [None, [], ["NoSuchModel"]])
def test_a_configuration_without_a_known_class_is_refused(tmp_path: Path, names: list[str] | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": names}))
    with pytest.raises(UserError, match=r"config\.json, key architectures.*BertForMaskedLM"):
        architecture_class(tmp_path)


def test_the_first_known_class_is_taken(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "bert", "architectures": ["MyOwn", "BertForMaskedLM"]})
    )
    assert architecture_class(tmp_path) is BertForMaskedLM


def test_an_empty_model_takes_no_memory(tmp_path: Path) -> None:
    save(bert(), tmp_path, "safetensors")
    model = empty_model(tmp_path)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert set(families.shapes_of(tmp_path)) <= set(model.state_dict())


# --- GGUF ---


def _permuted(weight: Tensor, heads: int) -> np.ndarray:
    """Reorder the rows of queries and keys as llama.cpp's conversion does (pairs of the rotary embedding)."""
    w = weight.detach().numpy()
    return w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def write_gguf(model: nn.Module, path: Path) -> dict[str, np.ndarray]:
    """Write a Llama as GGUF, its feed-forward weights quantised (Q8_0); return those as they are dequantised."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: config.vocab_size - 2]
    pair = alphabet[:2]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*alphabet, "".join(pair), "<|endoftext|>"])
    writer.add_token_types([1] * (len(alphabet) + 1) + [3])
    writer.add_token_merges([" ".join(pair)])
    writer.add_bos_token_id(config.vocab_size - 1)
    writer.add_eos_token_id(config.vocab_size - 1)
    state = model.state_dict()
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    dequantised = {}
    names = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for i in range(config.num_hidden_layers):
        for short, long in names.items():
            name = f"model.layers.{i}.{long}.weight"
            w = _permuted(state[name], heads[short]) if short in heads else state[name].numpy()
            if short.startswith("ffn_") and w.ndim == 2:
                kind = gguf.GGMLQuantizationType.Q8_0
                packed = gguf.quantize(w, kind)
                dequantised[name] = gguf.dequantize(packed, kind)
                writer.add_tensor(f"blk.{i}.{short}.weight", packed, raw_dtype=kind)
            else:
                writer.add_tensor(f"blk.{i}.{short}.weight", w)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return dequantised


@pytest.fixture(scope="module")
def gguf_model() -> nn.Module:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True, rms_norm_eps=1e-5,
        )
    ).eval()  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gguf_is_dequantised_once(tmp_path: Path, gguf_model: nn.Module, dtype: str) -> None:
    (tmp_path / "in").mkdir()
    dequantised = write_gguf(gguf_model, tmp_path / "in" / "toy.Q8_0.gguf")
    extract(tmp_path / "in", tmp_path / "out", dtype, WHERE)
    found = load_file(tmp_path / "out" / "model.safetensors")
    expected = {n: t for n, t in gguf_model.state_dict().items() if n != "lm_head.weight"}
    expected |= {name: torch.from_numpy(w) for name, w in dequantised.items()}
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name].to(getattr(torch, dtype))), name


def test_an_extracted_gguf_is_an_ordinary_checkpoint(tmp_path: Path, gguf_model: nn.Module) -> None:
    (tmp_path / "in").mkdir()
    dequantised = write_gguf(gguf_model, tmp_path / "in" / "toy.gguf")
    extract(tmp_path / "in", tmp_path / "out", "float32", WHERE)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["architectures"] == ["LlamaForCausalLM"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    reference = LlamaForCausalLM(gguf_model.config)
    reference.load_state_dict({**gguf_model.state_dict(), **{n: torch.from_numpy(w) for n, w in dequantised.items()}})
    torch.testing.assert_close(logits(loaded), logits(reference))
    loaded.save_pretrained(tmp_path / "again")  # refused for a model that counts as quantised
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("!", add_special_tokens=False).input_ids == [0], "the first byte of the alphabet"
    assert tokenizer('!"', add_special_tokens=False).input_ids == [62], "the merge"
    assert sum(m.pruned for m in families.manifest(tmp_path / "out"))


def test_a_gguf_is_read_once(tmp_path: Path, gguf_model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf

    (tmp_path / "in").mkdir()
    write_gguf(gguf_model, tmp_path / "in" / "toy.gguf")
    reads, reader, read = [], gguf.GGUFReader, gguf.GGUFReader.__init__
    monkeypatch.setattr(reader, "__init__", lambda self, path, *more: reads.append(path) or read(self, path, *more))
    extract(tmp_path / "in", tmp_path / "out", "float32", WHERE)
    assert len(reads) == 1
    assert gguf.GGUFReader is reader, "nothing is kept for a file that is written anew"


@pytest.mark.parametrize("damage", ["garbage", "truncated"])
def test_an_unreadable_gguf_is_named(tmp_path: Path, gguf_model: nn.Module, damage: str) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "toy.gguf"
    write_gguf(gguf_model, file)
    file.write_bytes(b"not gguf" * 9 if damage == "garbage" else file.read_bytes()[:-500])
    error = refused(tmp_path / "in", tmp_path / "out")
    assert "toy.gguf" in error.where
    assert "cannot be read" in error.found


def test_safetensors_come_before_a_pickle(tmp_path: Path) -> None:
    # A folder that holds both holds the same weights twice; the pickle is not even opened.
    folder = save(bert(), tmp_path / "in", "safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    extract(folder, tmp_path / "out", "float32", WHERE)
    assert torch.equal(logits(BertForMaskedLM.from_pretrained(tmp_path / "out")), logits(bert()))


def test_the_source_is_left_as_it_was(tmp_path: Path) -> None:
    folder = save(bert(), tmp_path / "in", "safetensors")
    (tmp_path / "links").mkdir()
    for file in folder.iterdir():  # as a `path` source links them
        (tmp_path / "links" / file.name).symlink_to(file)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    extract(tmp_path / "links", tmp_path / "out", "bfloat16", WHERE)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert not any(p.is_symlink() for p in (tmp_path / "out").iterdir())


def test_double_precision_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "config.json").write_text("{}")
    save_file({"w": torch.tensor([1e300], dtype=torch.float64)}, tmp_path / "in" / "model.safetensors")
    assert "1 NaN or infinite values" in refused(tmp_path / "in", tmp_path / "out").found
