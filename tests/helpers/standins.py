"""Stand-ins of what the paper-scale studies ask of the hub: random models of the same architectures, made-up data.

Repositories have the ids, revisions, file layouts and column names that the registries ask for. A model has the class
and the tokenizer's or processor's files of its original, and two blocks of width 16.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import families
from essential_sparsity.sources.kinds import Local, OwnStep, Wheel
from essential_sparsity.study.study import Study
from hub_server import Hub
from tiny import PLOT_WORDS, REVIEW_WORDS

WORDS = [*PLOT_WORDS, *REVIEW_WORDS]
POSITIONS = 256
# Steps that the hub lacks, as of some trajectories some are.
MISSING = {"multiberts-seed-1": "step020000", "pythia-160m": "step000004"}


# --- Models ---


def _wordpiece(folder: Path) -> int:
    """Write BERT's ``vocab.txt`` alone, as the oldest repositories have it; return the number of tokens."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    return len(tokens)


def _byte_level(folder: Path, special: Mapping[str, str], tokenizer_class: str, files: str) -> int:
    """Write a byte-level BPE tokenizer; return the number of tokens.

    Args:
        folder: Where to.
        special: Its special tokens by their role, in the order of their ids.
        tokenizer_class: What its configuration names.
        files: ``tokenizer.json``, or ``merges.txt`` for that and ``vocab.json``, as older repositories have it.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*dict.fromkeys(special.values()), *letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = ["Ġ", *word]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            tokens.append(parts[0])
    tokens, merges = list(dict.fromkeys(tokens)), list(dict.fromkeys(merges))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if files == "merges.txt":
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    else:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(list(special.values()))
        tokenizer.save(str(folder / "tokenizer.json"))
    head = {"tokenizer_class": tokenizer_class, "model_max_length": POSITIONS}
    (folder / "tokenizer_config.json").write_text(json.dumps({**head, **special}))
    return len(tokens)


def write_sentencepiece(folder: Path) -> int:
    """Write the tokenizer of Llama 2, SentencePiece's ``tokenizer.model`` alone; return the number of tokens.

    The file is a message of protocol buffers: pieces with a text, a score and a type, and the kind of model (BPE).
    """
    letters = sorted({letter for word in WORDS for letter in word} | {"▁", "."})
    # Types: 2 the unknown token, 3 control tokens, 6 bytes, 1 what is merged of others.
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((f"<0x{i:02X}>", 6) for i in range(256))]
    pieces += [(letter, 1) for letter in letters]

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 128, "a length of one byte"
        return bytes([number << 3 | 2, len(content)]) + content

    def integer(number: int, value: int) -> bytes:
        return bytes([number << 3, value])

    def piece(text: str, score: float, kind: int) -> bytes:
        return field(1, text.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + integer(3, kind)

    listed = b"".join(field(1, piece(text, -float(i), kind)) for i, (text, kind) in enumerate(pieces))
    # The kind of model, and that unknown letters fall back to bytes: field 35, whose tag takes two bytes.
    trainer = integer(3, 2) + b"\x98\x02\x01"
    (folder / "tokenizer.model").write_bytes(listed + field(2, trainer))
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    head = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({**head, **special}))
    return len(pieces)


def _processor(folder: Path, name: str) -> None:
    settings = {
        "feature_extractor_type": name, "do_resize": True, "size": 8, "resample": 3, "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    if name == "DeiTFeatureExtractor":
        settings |= {"size": 9, "do_center_crop": True, "crop_size": 8}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


_ROBERTA = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
_OPT = {"bos_token": "</s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "</s>"}
_ENDS = {"eos_token": "<|endoftext|>"}
_BOTH_ENDS = {"bos_token": "<|endoftext|>", **_ENDS}
_LLAMA_3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}


def _write_text_model(kind: str, folder: Path) -> dict[str, Any]:
    """Write the tokenizer of a kind of model; return what the model's configuration is given."""
    if kind in ("bert", "multiberts"):
        size = _wordpiece(folder)
    elif kind == "vicuna":
        size = write_sentencepiece(folder)
    else:
        special, tokenizer_class, files = {
            "roberta": (_ROBERTA, "RobertaTokenizer", "merges.txt"),
            "opt": (_OPT, "GPT2Tokenizer", "merges.txt"),
            "opt-350m": (_OPT, "GPT2Tokenizer", "merges.txt"),
            "llama": (_LLAMA_3, "PreTrainedTokenizerFast", "tokenizer.json"),
            "qwen3": ({**_ENDS, "pad_token": "<|endoftext|>"}, "Qwen2Tokenizer", "tokenizer.json"),
            "gpt-neox": (_BOTH_ENDS, "GPTNeoXTokenizer", "tokenizer.json"),
            "olmo2": ({**_ENDS, "pad_token": "<|pad|>"}, "GPT2Tokenizer", "tokenizer.json"),
        }[kind]
        size = _byte_level(folder, special, tokenizer_class, files)
    # RoBERTa counts positions from two.
    return {"vocab_size": size, "max_position_embeddings": POSITIONS + 2 * (kind == "roberta")}


# By the registry's name: what is written, and the family that it is of.
_KINDS = {
    "bert-base": "bert", "bert-large": "bert", "opt-125m": "opt", "opt-350m": "opt-350m", "opt-1-3b": "opt",
    "vit-base": "vit", "vit-large": "vit", "dino-vit-base": "dino", "mae-vit-base": "mae", "deit-base": "deit",
    "vicuna-7b": "vicuna", "llama-3-1-8b": "llama", "qwen3-8b": "qwen3", "multiberts": "multiberts",
    "pythia-160m": "gpt-neox", "olmo-2-1b": "olmo2", "roberta": "roberta",
}  # fmt: skip
_FAMILIES = {
    "multiberts": "bert", "opt-350m": "opt", "vicuna": "llama", "dino": "vit", "mae": "vit-mae", "deit": "vit",
}  # fmt: skip
_IMAGES = {"vit": "ViTFeatureExtractor", "dino": "ViTFeatureExtractor", "mae": "ViTFeatureExtractor",
           "deit": "DeiTFeatureExtractor"}  # fmt: skip
# Where models of one family differ: OPT-350M projects its embeddings, and normalises after its layers.
_CHANGES: dict[str, dict[str, Any]] = {"opt": {"word_embed_proj_dim": 16}, "opt-350m": {"do_layer_norm_before": False}}
# Names of tensors that are published otherwise than transformers 5 writes them.
_NAMES = {
    "bert": {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"},
    "mae": {"decoder_encoder.layer.": "decoder_layers."},
}
# Those whose originals have no safetensors.
_PICKLED = ("multiberts", "roberta", "opt", "opt-350m", "vicuna", "mae")


def kind_of_model(name: str) -> str:
    """Return the kind of a model of the registry, by which stand-ins differ."""
    return _KINDS[next(known for known in _KINDS if name.startswith(known))]


def write_model(name: str, folder: Path, seed: int) -> None:
    """Write the stand-in of a model of the registry, in the files that its original has.

    Args:
        name: Its name in ``config/models.yaml``.
        folder: Where to; it is made.
        seed: Of what tells the steps of a trajectory and the models of a family apart.
    """
    folder.mkdir(parents=True)
    kind = kind_of_model(name)
    if kind in _IMAGES:
        _processor(folder, _IMAGES[kind])
        changes = {}
    else:
        changes = _write_text_model(kind, folder)
    model: Any = families.build(_FAMILIES.get(kind, kind), **changes, **_CHANGES.get(kind, {}))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(0.5).add_(torch.randn(tensor.shape, generator=draw) * 0.05 * (1 + seed % 7))
    # Both are published without a head.
    model = model.vit if kind in ("vit", "dino") else model
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder)
    _publish_weights(kind, folder)


def _publish_weights(kind: str, folder: Path) -> None:
    """Bring the weights that transformers saved to the files and names under which the originals are published."""
    file = folder / "model.safetensors"
    state = load_file(file)
    for old, new in _NAMES.get(kind, {}).items():
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    file.unlink()
    if kind not in _PICKLED:
        save_file(state, file, metadata={"format": "pt"})
    elif kind != "vicuna":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        places = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(state)}
        for shard in sorted(set(places.values())):
            torch.save({n: tensor for n, tensor in state.items() if places[n] == shard}, folder / shard)
        index = {"metadata": {}, "weight_map": places}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


# --- Data ---


def _sentence(draw: np.random.Generator, words: int = 8) -> str:
    return " ".join(draw.choice(WORDS, size=words))


def _labelled(draw: np.random.Generator, rows: int, texts: Iterable[str], classes: int) -> pd.DataFrame:
    """Return rows of texts whose first word tells the class."""
    labels = np.arange(rows) % classes
    columns = {name: [f"{WORDS[label]} {_sentence(draw)}" for label in labels] for name in texts}
    return pd.DataFrame({**columns, "label": labels, "idx": np.arange(rows)})


_GLUE = {
    "sst2": (["sentence"], 2), "cola": (["sentence"], 2), "mrpc": (["sentence1", "sentence2"], 2),
    "qqp": (["question1", "question2"], 2), "mnli": (["premise", "hypothesis"], 3),
    "qnli": (["question", "sentence"], 2), "rte": (["sentence1", "sentence2"], 2),
    "wnli": (["sentence1", "sentence2"], 2), "stsb": (["sentence1", "sentence2"], 6),
}  # fmt: skip


def _glue(draw: np.random.Generator) -> Iterator[tuple[str, pd.DataFrame]]:
    for task, (texts, classes) in _GLUE.items():
        splits = ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]
        for split, rows in (("train", 48), *((s, 24) for s in splits)):
            found = _labelled(draw, rows, texts, classes)
            yield f"{task}/{split}", found.astype({"label": "float32"}) if task == "stsb" else found


def _squad(draw: np.random.Generator) -> Iterator[tuple[str, pd.DataFrame]]:
    for split, rows in (("train", 32), ("validation", 16)):
        records = []
        for i in range(rows):
            words = _sentence(draw, 12).split()
            answer = {"text": [words[3]], "answer_start": np.array([len(" ".join(words[:3])) + 1], dtype=np.int32)}
            records.append({"id": f"{i}", "title": "t", "context": " ".join(words), "question": words[2],
                            "answers": answer})  # fmt: skip
        yield f"plain_text/{split}", pd.DataFrame(records)


def _images(draw: np.random.Generator, image: str, label: str, classes: int, splits: Mapping[str, str],
            ) -> Iterator[tuple[str, pd.DataFrame]]:  # fmt: skip
    for split, folder in splits.items():
        records = []
        for i in range(3 * classes if classes > 10 else 48):
            pixels = draw.integers(0, 100, (12, 10, 3)) + 150 * (i % classes) // classes
            content = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(content, "PNG")
            records.append({image: {"bytes": content.getvalue(), "path": None}, label: i % classes})
        yield f"{folder}/{split}", pd.DataFrame(records)


def _wikitext(draw: np.random.Generator) -> Iterator[tuple[str, pd.DataFrame]]:
    for split, rows in (("train", 60), ("test", 60)):
        yield (
            f"wikitext-2-raw-v1/{split}",
            pd.DataFrame({"text": [f" {_sentence(draw, 12)} . \n" for _ in range(rows)]}),
        )


def _mmlu(draw: np.random.Generator) -> Iterator[tuple[str, pd.DataFrame]]:
    for split, rows in (("test", 8), ("dev", 5)):
        yield f"abstract_algebra/{split}", pd.DataFrame(
            {"question": _sentence(draw), "subject": "abstract_algebra",
             "choices": [_sentence(draw, 2) for _ in range(4)], "answer": i % 4} for i in range(rows)
        )  # fmt: skip


def _arc(draw: np.random.Generator) -> Iterator[tuple[str, pd.DataFrame]]:
    for part in ("ARC-Challenge", "ARC-Easy"):
        for split in ("train", "validation", "test"):
            yield f"{part}/{split}", pd.DataFrame(
                {"id": str(i), "question": _sentence(draw), "answerKey": "ABCD"[i % 4],
                 "choices": {"text": [_sentence(draw, 2) for _ in range(4)], "label": list("ABCD")}} for i in range(8)
            )  # fmt: skip


def _tables(draw: np.random.Generator) -> dict[str, Iterator[tuple[str, pd.DataFrame]]]:
    plain, data = "plain_text", "data"
    return {
        "nyu-mll/glue": _glue(draw),
        "rajpurkar/squad": _squad(draw),
        "uoft-cs/cifar10": _images(draw, "img", "label", 10, {"train": plain, "test": plain}),
        "uoft-cs/cifar100": _images(draw, "img", "fine_label", 100, {"train": "cifar100", "test": "cifar100"}),
        "zh-plus/tiny-imagenet": _images(draw, "image", "label", 20, {"train": data, "valid": data}),
        "nelorth/oxford-flowers": _images(draw, "image", "label", 20, {"train": data, "test": data}),
        "Salesforce/wikitext": _wikitext(draw),
        "cais/mmlu": _mmlu(draw),
        "allenai/ai2_arc": _arc(draw),
    }


def _c4(draw: np.random.Generator) -> dict[str, bytes]:
    files = {}
    for name, rows in (("en/c4-train.00000-of-01024.json.gz", 40), ("en/c4-validation.00000-of-00008.json.gz", 20)):
        content = io.BytesIO()
        table = pd.DataFrame({"text": [_sentence(draw, 60) for _ in range(rows)], "url": "u", "timestamp": "t"})
        table.to_json(content, orient="records", lines=True, compression="gzip")
        files[name] = content.getvalue()
    return files


# --- The hub ---


def publish_data(hub: Hub) -> None:
    """Put made-up data of all datasets that the paper-scale studies name on the hub."""
    draw = np.random.default_rng(0)
    for repository, tables in _tables(draw).items():
        files = {}
        for place, table in tables:
            content = io.BytesIO()
            table.to_parquet(content, index=False)
            files[f"{place}-00000-of-00001.parquet"] = content.getvalue()
        hub.add(repository, files, kind="datasets")
    hub.add("allenai/c4", _c4(draw), kind="datasets")


def publish_models(hub: Hub, studies: Iterable[Study], scratch: Path) -> None:
    """Put stand-ins of the models of some studies on the hub, but for the steps of ``MISSING``.

    Args:
        hub: The hub.
        studies: As they will be run: of a trajectory only the steps that they name are made.
        scratch: A folder that may be filled.
    """
    wanted = sorted({pair for study in studies for pair in study.used_checkpoints()})
    known = next(iter(studies))
    for seed, (name, checkpoint) in enumerate(wanted):
        if MISSING.get(name) == checkpoint:
            continue
        source = known.source(name, checkpoint)
        assert not isinstance(source, Wheel | Local | OwnStep), f"{name} is not of the hub"
        folder = scratch / f"{name}-{checkpoint}"
        write_model(name, folder, seed)
        hub.add_folder(source.repository, folder, source.revision)
