"""Prunable matrices are those that each architecture's own paper puts into its blocks, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

import families
from essential_sparsity.checkpoints.extract import empty_model
from essential_sparsity.checkpoints.layers import block_prefixes, list_matrices
from essential_sparsity.checkpoints.manifest import OUTSIDE, Matrix, read_manifest, write_manifest
from essential_sparsity.errors import UserError

EMBEDDING, HEAD, ROUTER = "embedding", "outside the transformer blocks", "router of experts"
Shapes = Mapping[str, tuple[int, ...]]
Part = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Stack:
    """Blocks of one kind, as they stand in the files.

    Attributes:
        blocks: Names of the blocks, in the model's order.
        matrices: Every matrix of a block that is pruned, by its name in the block: its shape in the file.
        transposed: Whether these are stored as (inputs, outputs).
        parts: Of matrices that share a parameter of the model: its name in the block, and which part is theirs.
    """

    blocks: list[str]
    matrices: Shapes
    transposed: bool = False
    parts: Mapping[str, tuple[str, Part]] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """What the files of a family hold, written down from the architecture.

    Attributes:
        stacks: The blocks, in the model's order.
        dense: Every tensor of two dimensions or more that stays dense, and why.
        vectors: How many norms, biases and other vectors there are besides.
    """

    stacks: list[Stack]
    dense: Mapping[str, str]
    vectors: int


def blocks(name: str, count: int = 2) -> list[str]:
    return [f"{name}.{i}" for i in range(count)]


def weights(**shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Name the weights of a block's layers; two underscores stand for a dot."""
    return {f"{name.replace('__', '.')}.weight": shape for name, shape in shapes.items()}


_BERT_BLOCK = weights(
    attention__self__query=(16, 16), attention__self__key=(16, 16), attention__self__value=(16, 16),
    attention__output__dense=(16, 16), intermediate__dense=(32, 16), output__dense=(16, 32),
)  # fmt: skip
_VIT_BLOCK = weights(
    attention__attention__query=(16, 16), attention__attention__key=(16, 16), attention__attention__value=(16, 16),
    attention__output__dense=(16, 16), intermediate__dense=(32, 16), output__dense=(16, 32),
)  # fmt: skip
_SMALL_VIT_BLOCK = weights(
    attention__attention__query=(12, 12), attention__attention__key=(12, 12), attention__attention__value=(12, 12),
    attention__output__dense=(12, 12), intermediate__dense=(20, 12), output__dense=(12, 20),
)  # fmt: skip
_ATTENTION = weights(
    self_attn__q_proj=(16, 16), self_attn__k_proj=(8, 16), self_attn__v_proj=(8, 16), self_attn__o_proj=(16, 16)
)
_LLAMA_BLOCK = _ATTENTION | weights(mlp__gate_proj=(32, 16), mlp__up_proj=(32, 16), mlp__down_proj=(16, 32))
# Keys and values as wide as queries.
_FAIR_BLOCK = weights(
    self_attn__q_proj=(16, 16), self_attn__k_proj=(16, 16), self_attn__v_proj=(16, 16), self_attn__out_proj=(16, 16)
)
_T5_ATTENTION = {f"layer.0.SelfAttention.{m}.weight": (16, 16) for m in "qkvo"}
_T5_CROSS = {f"layer.1.EncDecAttention.{m}.weight": (16, 16) for m in "qkvo"}
_LLAMA_DENSE = {"model.embed_tokens.weight": EMBEDDING, "lm_head.weight": HEAD}


def t5_feed_forward(layer: int, name: str = "DenseReluDense") -> Shapes:
    return {f"layer.{layer}.{name}.wi.weight": (32, 16), f"layer.{layer}.{name}.wo.weight": (16, 32)}


def relative_biases(stem: str = "layer.0.SelfAttention.relative_attention_bias.weight") -> dict[str, str]:
    return {f"{side}.block.0.{stem}": EMBEDDING for side in ("encoder", "decoder")}


def expert_matrices(gate: str, up: str, down: str, width: int) -> Shapes:
    """Return four experts' matrices; each name holds a place for the expert's number."""
    shapes = {gate: (width, 16), up: (width, 16), down: (16, width)}
    return {name.format(e): shape for e in range(4) for name, shape in shapes.items()}


def expert_parts(gate: str, up: str, down: str, width: int, model: str) -> dict[str, tuple[str, Part]]:
    """Return where experts' matrices lie in the model: gate above up in one parameter, down in another."""
    found: dict[str, tuple[str, Part]] = {}
    for e in range(4):
        found[gate.format(e)] = (f"{model}.gate_up_proj", ((e, e + 1), (0, width), (0, 16)))
        found[up.format(e)] = (f"{model}.gate_up_proj", ((e, e + 1), (width, 2 * width), (0, 16)))
        found[down.format(e)] = (f"{model}.down_proj", ((e, e + 1), (0, 16), (0, width)))
    return found


# Gate, up and down; the braces are the expert's place.
_MIXTRAL = (
    "block_sparse_moe.experts.{}.w1.weight", "block_sparse_moe.experts.{}.w3.weight",
    "block_sparse_moe.experts.{}.w2.weight",
)  # fmt: skip
_QWEN = ("mlp.experts.{}.gate_proj.weight", "mlp.experts.{}.up_proj.weight", "mlp.experts.{}.down_proj.weight")


def vision_embeddings(stem: str, class_name: str, *others: str) -> dict[str, str]:
    tokens = {f"{stem}.{name}": f"not a linear weight ({class_name})" for name in ("cls_token", *others)}
    return {**tokens, f"{stem}.patch_embeddings.projection.weight": "not a linear weight (Conv2d)"}


EXPECTED: dict[str, Expected] = {
    "bert": Expected(
        [Stack(blocks("bert.encoder.layer"), _BERT_BLOCK)],
        {
            "bert.embeddings.word_embeddings.weight": EMBEDDING,
            "bert.embeddings.position_embeddings.weight": EMBEDDING,
            "bert.embeddings.token_type_embeddings.weight": EMBEDDING,
            "cls.predictions.transform.dense.weight": HEAD,
        },
        # A block: six biases and two norms; outside: a norm, the head's bias and norm, and the vocabulary's bias.
        vectors=2 * (6 + 4) + 2 + 3 + 1,
    ),
    "roberta": Expected(
        [Stack(blocks("roberta.encoder.layer"), _BERT_BLOCK)],
        {
            "roberta.embeddings.word_embeddings.weight": EMBEDDING,
            "roberta.embeddings.position_embeddings.weight": EMBEDDING,
            "roberta.embeddings.token_type_embeddings.weight": EMBEDDING,
            "lm_head.dense.weight": HEAD,
        },
        vectors=2 * (6 + 4) + 2 + 3 + 1,
    ),
    "distilbert": Expected(
        [
            Stack(
                blocks("distilbert.transformer.layer"),
                weights(
                    attention__q_lin=(16, 16), attention__k_lin=(16, 16), attention__v_lin=(16, 16),
                    attention__out_lin=(16, 16), ffn__lin1=(32, 16), ffn__lin2=(16, 32),
                ),
            )
        ],
        {
            "distilbert.embeddings.word_embeddings.weight": EMBEDDING,
            "distilbert.embeddings.position_embeddings.weight": EMBEDDING,
            "vocab_transform.weight": HEAD,
        },
        vectors=2 * (6 + 4) + 2 + 3 + 1,
    ),
    "electra": Expected(
        [Stack(blocks("electra.encoder.layer"), _BERT_BLOCK)],
        {
            "electra.embeddings.word_embeddings.weight": EMBEDDING,
            "electra.embeddings.position_embeddings.weight": EMBEDDING,
            "electra.embeddings.token_type_embeddings.weight": EMBEDDING,
            "electra.embeddings_project.weight": HEAD,
            "discriminator_predictions.dense.weight": HEAD,
            "discriminator_predictions.dense_prediction.weight": HEAD,
        },
        vectors=2 * (6 + 4) + 2 + 1 + 2,
    ),
    # One block that is run through twice, and stored once.
    "albert": Expected(
        [
            Stack(
                blocks("albert.encoder.albert_layer_groups", 1),
                {
                    f"albert_layers.0.{name}": shape
                    for name, shape in weights(
                        attention__query=(16, 16), attention__key=(16, 16), attention__value=(16, 16),
                        attention__dense=(16, 16), ffn=(32, 16), ffn_output=(16, 32),
                    ).items()
                },
            )
        ],
        {
            "albert.embeddings.word_embeddings.weight": EMBEDDING,
            "albert.embeddings.position_embeddings.weight": EMBEDDING,
            "albert.embeddings.token_type_embeddings.weight": EMBEDDING,
            "albert.encoder.embedding_hidden_mapping_in.weight": HEAD,
            "predictions.dense.weight": HEAD,
        },
        vectors=(6 + 4) + 2 + 1 + 3 + 1,
    ),
    "opt": Expected(
        [Stack(blocks("model.decoder.layers"), {**_FAIR_BLOCK, **weights(fc1=(32, 16), fc2=(16, 32))})],
        {
            "model.decoder.embed_tokens.weight": EMBEDDING,
            "model.decoder.embed_positions.weight": EMBEDDING,
            "model.decoder.project_in.weight": HEAD,
            "model.decoder.project_out.weight": HEAD,
        },
        vectors=2 * (6 + 4) + 2,
    ),
    # Conv1D: (inputs, outputs), with queries, keys and values in one.
    "gpt2": Expected(
        [
            Stack(
                blocks("transformer.h"),
                weights(attn__c_attn=(16, 48), attn__c_proj=(16, 16), mlp__c_fc=(16, 64), mlp__c_proj=(64, 16)),
                transposed=True,
            )
        ],
        {"transformer.wte.weight": EMBEDDING, "transformer.wpe.weight": EMBEDDING},
        vectors=2 * (4 + 4) + 2,
    ),
    "gpt-neox": Expected(
        [
            Stack(
                blocks("gpt_neox.layers"),
                weights(
                    attention__query_key_value=(48, 16), attention__dense=(16, 16), mlp__dense_h_to_4h=(32, 16),
                    mlp__dense_4h_to_h=(16, 32),
                ),
            )
        ],
        {"gpt_neox.embed_in.weight": EMBEDDING, "embed_out.weight": HEAD},
        vectors=2 * (4 + 4) + 2,
    ),
    "llama": Expected([Stack(blocks("model.layers"), _LLAMA_BLOCK)], _LLAMA_DENSE, vectors=2 * 2 + 1),
    "llama-tied": Expected(
        [Stack(blocks("model.layers"), _LLAMA_BLOCK)], {"model.embed_tokens.weight": EMBEDDING}, vectors=2 * 2 + 1
    ),
    "mistral": Expected([Stack(blocks("model.layers"), _LLAMA_BLOCK)], _LLAMA_DENSE, vectors=2 * 2 + 1),
    # Biases of queries, keys and values; a tied head.
    "qwen2": Expected(
        [Stack(blocks("model.layers"), _LLAMA_BLOCK)], {"model.embed_tokens.weight": EMBEDDING}, vectors=2 * (2 + 3) + 1
    ),
    # Norms of queries and of keys.
    "qwen3": Expected([Stack(blocks("model.layers"), _LLAMA_BLOCK)], _LLAMA_DENSE, vectors=2 * (2 + 2) + 1),
    # Four norms a block.
    "gemma2": Expected(
        [Stack(blocks("model.layers"), _LLAMA_BLOCK)], {"model.embed_tokens.weight": EMBEDDING}, vectors=2 * 4 + 1
    ),
    "mixtral": Expected(
        [
            Stack(
                blocks("model.layers"),
                {**_ATTENTION, **expert_matrices(*_MIXTRAL, width=32)},
                parts=expert_parts(*_MIXTRAL, width=32, model="mlp.experts"),
            )
        ],
        {**_LLAMA_DENSE, **{f"model.layers.{i}.block_sparse_moe.gate.weight": ROUTER for i in range(2)}},
        vectors=2 * 2 + 1,
    ),
    # A shared expert, whose gate is a single output.
    "qwen2-moe": Expected(
        [
            Stack(
                blocks("model.layers"),
                {
                    **_ATTENTION,
                    **expert_matrices(*_QWEN, width=12),
                    **weights(
                        mlp__shared_expert__gate_proj=(20, 16), mlp__shared_expert__up_proj=(20, 16),
                        mlp__shared_expert__down_proj=(16, 20),
                    ),
                },
                parts=expert_parts(*_QWEN, width=12, model="mlp.experts"),
            )
        ],
        {
            **_LLAMA_DENSE,
            **{f"model.layers.{i}.mlp.gate.weight": ROUTER for i in range(2)},
            **{f"model.layers.{i}.mlp.shared_expert_gate.weight": ROUTER for i in range(2)},
        },
        vectors=2 * (2 + 3) + 1,
    ),
    "qwen3-moe": Expected(
        [
            Stack(
                blocks("model.layers"),
                {**_ATTENTION, **expert_matrices(*_QWEN, width=12)},
                parts=expert_parts(*_QWEN, width=12, model="mlp.experts"),
            )
        ],
        {**_LLAMA_DENSE, **{f"model.layers.{i}.mlp.gate.weight": ROUTER for i in range(2)}},
        vectors=2 * (2 + 2) + 1,
    ),
    # A router that is a linear layer, and one of another name in the file than in the model.
    "phi-moe": Expected(
        [
            Stack(
                blocks("model.layers"),
                {**_ATTENTION, **expert_matrices(*_MIXTRAL, width=32)},
                parts=expert_parts(*_MIXTRAL, width=32, model="mlp.experts"),
            )
        ],
        {**_LLAMA_DENSE, **{f"model.layers.{i}.block_sparse_moe.gate.weight": ROUTER for i in range(2)}},
        # Norms of two vectors each.
        vectors=2 * 4 + 2,
    ),
    # All experts in one tensor, in the file too; of Llama 4 and gpt-oss as (inputs, outputs).
    "granite-moe": Expected(
        [
            Stack(
                blocks("model.layers"),
                {
                    **_ATTENTION,
                    "block_sparse_moe.input_linear.weight": (4, 64, 16),
                    "block_sparse_moe.output_linear.weight": (4, 16, 32),
                },
            )
        ],
        {**_LLAMA_DENSE, **{f"model.layers.{i}.block_sparse_moe.router.layer.weight": ROUTER for i in range(2)}},
        vectors=2 * 2 + 1,
    ),
    # Experts that are modules of their own, in every second block.
    "switch": Expected(
        [
            Stack(["encoder.block.0"], {**_T5_ATTENTION, **t5_feed_forward(1, "mlp")}),
            Stack(
                ["encoder.block.1"],
                {
                    **_T5_ATTENTION,
                    **{
                        f"layer.1.mlp.experts.expert_{e}.{name}.weight": shape
                        for e in range(4)
                        for name, shape in {"wi": (32, 16), "wo": (16, 32)}.items()
                    },
                },
            ),
            Stack(["decoder.block.0"], {**_T5_ATTENTION, **_T5_CROSS, **t5_feed_forward(2, "mlp")}),
            Stack(
                ["decoder.block.1"],
                {
                    **_T5_ATTENTION,
                    **_T5_CROSS,
                    **{
                        f"layer.2.mlp.experts.expert_{e}.{name}.weight": shape
                        for e in range(4)
                        for name, shape in {"wi": (32, 16), "wo": (16, 32)}.items()
                    },
                },
            ),
        ],
        {
            "shared.weight": EMBEDDING,
            **relative_biases(),
            "encoder.block.1.layer.1.mlp.router.classifier.weight": ROUTER,
            "decoder.block.1.layer.2.mlp.router.classifier.weight": ROUTER,
        },
        vectors=2 * 2 + 2 * 3 + 2,
    ),
    # Encoder blocks, then decoder blocks with a second attention; a table of relative positions in each first block.
    "t5": Expected(
        [
            Stack(blocks("encoder.block"), {**_T5_ATTENTION, **t5_feed_forward(1)}),
            Stack(blocks("decoder.block"), {**_T5_ATTENTION, **_T5_CROSS, **t5_feed_forward(2)}),
        ],
        {"shared.weight": EMBEDDING, **relative_biases()},
        vectors=2 * 2 + 2 * 3 + 2,
    ),
    "vit": Expected(
        [Stack(blocks("vit.encoder.layer"), _VIT_BLOCK)],
        {
            **vision_embeddings("vit.embeddings", "ViTEmbeddings", "position_embeddings"),
            "classifier.weight": HEAD,
        },
        # A block: six biases and two norms; outside: the bias of the patches, the last norm, the classifier's bias.
        vectors=2 * (6 + 4) + 1 + 2 + 1,
    ),
    "deit": Expected(
        [Stack(blocks("deit.encoder.layer"), _VIT_BLOCK)],
        {
            **vision_embeddings("deit.embeddings", "DeiTEmbeddings", "position_embeddings", "distillation_token"),
            "classifier.weight": HEAD,
        },
        vectors=2 * (6 + 4) + 1 + 2 + 1,
    ),
    # Keys have no bias; each block scales its two branches and has a table of relative positions.
    "beit": Expected(
        [Stack(blocks("beit.encoder.layer"), _VIT_BLOCK)],
        {
            **vision_embeddings("beit.embeddings", "BeitEmbeddings"),
            "classifier.weight": HEAD,
            **{
                f"beit.encoder.layer.{i}.attention.attention.relative_position_bias.relative_position_bias_table": (
                    "not a linear weight (BeitRelativePositionBias)"
                )
                for i in range(2)
            },
        },
        vectors=2 * (5 + 4 + 2) + 1 + 2 + 1,
    ),
    "vit-mae": Expected(
        [
            Stack(blocks("vit.encoder.layer"), _VIT_BLOCK),
            Stack(blocks("decoder.decoder_encoder.layer", 1), _SMALL_VIT_BLOCK),
        ],
        {
            **vision_embeddings("vit.embeddings", "ViTMAEEmbeddings", "position_embeddings"),
            "decoder.mask_token": "not a linear weight (ViTMAEDecoder)",
            "decoder.decoder_pos_embed": "not a linear weight (ViTMAEDecoder)",
            "decoder.decoder_embed.weight": HEAD,
            "decoder.decoder_pred.weight": HEAD,
        },
        vectors=3 * (6 + 4) + 1 + 2 + 1 + 2 + 1,
    ),
    # A norm before the blocks and one behind them, and the class token, which is a vector.
    "clip-vision": Expected(
        [Stack(blocks("encoder.layers"), {**_FAIR_BLOCK, **weights(mlp__fc1=(32, 16), mlp__fc2=(16, 32))})],
        {
            "embeddings.patch_embedding.weight": "not a linear weight (Conv2d)",
            "embeddings.position_embedding.weight": EMBEDDING,
        },
        vectors=2 * (6 + 4) + 4 + 1,
    ),
    # A block without experts, then one with experts; queries and keys from a narrow space, each with its norm.
    "deepseek-v3": Expected(
        [
            Stack(
                ["model.layers.0"],
                {
                    **weights(
                        self_attn__q_a_proj=(8, 16), self_attn__q_b_proj=(16, 8), self_attn__o_proj=(16, 16),
                        self_attn__kv_a_proj_with_mqa=(12, 16), self_attn__kv_b_proj=(24, 8),
                        mlp__gate_proj=(32, 16), mlp__up_proj=(32, 16), mlp__down_proj=(16, 32),
                    )
                },
            ),
            Stack(
                ["model.layers.1"],
                {
                    **weights(
                        self_attn__q_a_proj=(8, 16), self_attn__q_b_proj=(16, 8), self_attn__o_proj=(16, 16),
                        self_attn__kv_a_proj_with_mqa=(12, 16), self_attn__kv_b_proj=(24, 8),
                        mlp__shared_experts__gate_proj=(12, 16), mlp__shared_experts__up_proj=(12, 16),
                        mlp__shared_experts__down_proj=(16, 12),
                    ),
                    **expert_matrices(*_QWEN, width=12),
                },
                parts=expert_parts(*_QWEN, width=12, model="mlp.experts"),
            ),
        ],
        {**_LLAMA_DENSE, "model.layers.1.mlp.gate.weight": ROUTER},
        # The router's correction is a buffer.
        vectors=2 * (2 + 2) + 1 + 1,
    ),
}  # fmt: skip

# A stack of its own for experts, since their attention is stored the other way round.
_STACKED_EXPERTS: dict[str, tuple[Shapes, dict[str, str]]] = {
    "gpt-oss": (
        {"mlp.experts.gate_up_proj": (4, 16, 64), "mlp.experts.down_proj": (4, 32, 16)},
        {
            "mlp.router.weight": ROUTER,
            "mlp.experts.gate_up_proj_bias": "not a linear weight (GptOssExperts)",
            "mlp.experts.down_proj_bias": "not a linear weight (GptOssExperts)",
        },
    ),
    "llama4": (
        {"feed_forward.experts.gate_up_proj": (4, 16, 64), "feed_forward.experts.down_proj": (4, 32, 16)},
        {"feed_forward.router.weight": ROUTER},
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_tensor_of_a_family_is_listed_as_its_architecture_has_it(
    checkpoints: Callable[..., Path], name: str
) -> None:
    rows = families.manifest(checkpoints(name))
    expected = EXPECTED[name]
    shapes = families.shapes_of(checkpoints(name))
    assert sorted(m.name for m in rows) == sorted(shapes), "every stored tensor has exactly one row"
    assert all(m.shape == shapes[m.name] for m in rows)
    found = {m.name: m for m in rows}

    pruned = {}
    number = 0
    for stack in expected.stacks:
        for block in stack.blocks:
            for leaf, shape in stack.matrices.items():
                m = found[f"{block}.{leaf}"]
                pruned[m.name] = m
                assert (m.shape, m.block, m.transposed) == (shape, number, stack.transposed), m.name
                assert (m.inputs, m.outputs) == inputs_and_outputs(shape, stack.transposed), m.name
                assert ("expert" in m.reason) == (leaf in stack.parts or len(shape) == 3), m.name
                assert_part(m, stack.parts.get(leaf))
            number += 1
    assert {m.name for m in rows if m.pruned} == pruned.keys()

    dense = {m.name: m.reason for m in rows if not m.pruned and len(m.shape) > 1}
    assert dense.keys() == expected.dense.keys()
    for tensor, reason in expected.dense.items():
        assert reason in dense[tensor], tensor
    vectors = [m for m in rows if not m.pruned and len(m.shape) < 2]
    assert len(vectors) == expected.vectors
    assert {m.reason for m in vectors} == {"norm, bias or other vector"}


def inputs_and_outputs(shape: tuple[int, ...], transposed: bool) -> tuple[int, int]:
    inputs = shape[-2] if transposed else shape[-1]
    return inputs, math.prod(shape) // inputs


def assert_part(m: Matrix, part: tuple[str, Part] | None) -> None:
    if part is None:
        assert m.part == ()
    else:
        assert m.parameter.endswith(f".{m.block}.{part[0]}")
        assert m.part == part[1]


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_stand_in_the_order_of_the_model(checkpoints: Callable[..., Path], name: str) -> None:
    rows = families.manifest(checkpoints(name))
    order = list(empty_model(checkpoints(name)).state_dict())
    assert [order.index(m.parameter) for m in rows] == sorted(order.index(m.parameter) for m in rows)
    numbers = [m.block for m in rows if m.pruned]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("name", _STACKED_EXPERTS)
def test_experts_that_take_their_inputs_by_rows_are_transposed(checkpoints: Callable[..., Path], name: str) -> None:
    experts, dense = _STACKED_EXPERTS[name]
    found = {m.name: m for m in families.manifest(checkpoints(name))}
    assert found.keys() == families.shapes_of(checkpoints(name)).keys()
    asked: set[str] = set()
    for block in range(2):
        for leaf, shape in {**_ATTENTION, **experts}.items():
            m = found[f"model.layers.{block}.{leaf}"]
            asked.add(m.name)
            assert (m.pruned, m.shape, m.block, m.part) == (True, shape, block, ())
            assert m.transposed == (leaf in experts)
        for leaf, reason in dense.items():
            assert found[f"model.layers.{block}.{leaf}"].reason == reason
    # Gate and up take in the model's width, down takes in the experts' own.
    assert [found[f"model.layers.0.{leaf}"].inputs for leaf in experts] == [16, 32]
    others = {n for n, m in found.items() if m.pruned} - asked
    assert others == {n for n in found if "shared_expert" in n}
    assert len(others) == (6 if name == "llama4" else 0)


def test_a_model_without_its_head_has_the_same_matrices(tmp_path: Path, checkpoints: Callable[..., Path]) -> None:
    families.build("bert").bert.save_pretrained(tmp_path)  # type: ignore[union-attr,operator]
    bare = families.manifest(tmp_path)
    whole = families.manifest(checkpoints("bert"))
    assert [f"bert.{m.name}" for m in bare if m.pruned] == [m.name for m in whole if m.pruned]
    assert not any(m.name.startswith("pooler") and m.pruned for m in bare)


def test_a_tied_head_that_is_stored_under_its_own_name_stays_dense(checkpoints: Callable[..., Path]) -> None:
    shapes = families.shapes_of(checkpoints("llama-tied"))
    shapes["lm_head.weight"] = shapes.pop("model.embed_tokens.weight")
    rows = list_matrices(empty_model(checkpoints("llama-tied")), shapes, "llama")
    found = {m.name: m for m in rows}
    assert not found["lm_head.weight"].pruned
    assert sum(m.pruned for m in rows) == 14


def test_a_tensor_that_the_model_does_not_have_stays_dense(checkpoints: Callable[..., Path]) -> None:
    shapes = {**families.shapes_of(checkpoints("llama")), "model.layers.0.self_attn.extra_proj.weight": (16, 16)}
    rows = list_matrices(empty_model(checkpoints("llama")), shapes, "llama", include=["*embed_tokens*", "*proj*"])
    (extra,) = [m for m in rows if "extra" in m.name]
    assert (extra.pruned, extra.reason, extra.block) == (False, "not a tensor of the model", OUTSIDE)
    with pytest.raises(UserError, match="matches no matrix"):
        list_matrices(empty_model(checkpoints("llama")), shapes, "llama", include=["*extra_proj*"])


def test_patterns_override(checkpoints: Callable[..., Path]) -> None:
    default = families.manifest(checkpoints("vit"))
    rows = families.manifest(
        checkpoints("vit"), include=["classifier.weight"], exclude=["*.layer.0.*", "vit.layers.1.attention.k_proj.*"]
    )
    for before, after in zip(default, rows, strict=True):
        assert (before.name, before.shape, before.block) == (after.name, after.shape, after.block)
        if after.name == "classifier.weight":
            assert (after.pruned, after.reason) == (True, "included by 'classifier.weight'")
        elif after.name.startswith("vit.encoder.layer.0."):
            assert (after.pruned, after.reason) == (False, "excluded by '*.layer.0.*'")
        elif after.name.startswith("vit.encoder.layer.1.attention.attention.key."):
            # By its name in the model, which is another one than in the file.
            assert (after.pruned, after.reason) == (False, "excluded by 'vit.layers.1.attention.k_proj.*'")
        else:
            assert (before.pruned, before.reason) == (after.pruned, after.reason)


def test_a_tensor_that_is_both_included_and_excluded_stays_dense(checkpoints: Callable[..., Path]) -> None:
    rows = families.manifest(checkpoints("llama"), include=["*q_proj*", "lm_head.*"], exclude=["*.0.*", "lm_head.*"])
    found = {m.name: m for m in rows}
    assert not found["lm_head.weight"].pruned
    assert not found["model.layers.0.self_attn.q_proj.weight"].pruned
    assert found["model.layers.1.self_attn.q_proj.weight"].reason == "included by '*q_proj*'"


def test_vectors_and_convolutions_are_never_included(checkpoints: Callable[..., Path]) -> None:
    rows = families.manifest(checkpoints("vit"), include=["*"])
    assert {len(m.shape) for m in rows if m.pruned} == {2}
    assert all(m.pruned == (len(m.shape) == 2) for m in rows)


def test_stacked_experts_can_be_named_by_a_pattern(checkpoints: Callable[..., Path]) -> None:
    experts = [m for m in families.manifest(checkpoints("gpt-oss"), include=["*.gate_up_proj"]) if len(m.shape) == 3]
    assert {m.reason for m in experts} == {"included by '*.gate_up_proj'", "expert weight in a transformer block"}
    rows = families.manifest(checkpoints("gpt-oss"), exclude=["*.experts.*"])
    assert {len(m.shape) for m in rows if m.pruned} == {2}


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_an_unknown_pattern_is_refused_by_name_with_a_hint(checkpoints: Callable[..., Path], key: str) -> None:
    misspelt = "model.layers.0.self_attn.q_prj.weight"
    with pytest.raises(UserError) as caught:
        families.manifest(checkpoints("llama"), **{key: ["model.layers.*", misspelt]})
    error = caught.value
    assert error.where == f"llama, key {key}"
    assert f"'{misspelt}'" in error.found
    assert "matches no matrix" in error.found
    assert error.mend == f"write 'model.layers.0.self_attn.q_proj.weight' instead of '{misspelt}'"


def test_a_pattern_that_matches_vectors_only_is_refused(checkpoints: Callable[..., Path]) -> None:
    for key in ("include", "exclude"):
        with pytest.raises(UserError, match=r"'\*\.input_layernorm\.weight', which matches no matrix"):
            families.manifest(checkpoints("llama"), **{key: ["*.input_layernorm.weight"]})


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("llama", "model.layers.1.mlp.up_proj.weight"),
        ("gpt2", "transformer.h.0.attn.c_attn.weight"),
        ("t5", "decoder.block.1.layer.1.EncDecAttention.k.weight"),
        ("granite-moe", "model.layers.0.block_sparse_moe.input_linear.weight"),
    ],
)
def test_a_missing_matrix_is_refused_by_name(checkpoints: Callable[..., Path], name: str, lost: str) -> None:
    model, shapes = empty_model(checkpoints(name)), families.shapes_of(checkpoints(name))
    (parameter,) = [m.parameter for m in families.manifest(checkpoints(name)) if m.name == lost]
    del shapes[lost]
    with pytest.raises(UserError, match="no weights for 1 tensor") as caught:
        list_matrices(model, shapes, "mine")
    assert parameter in str(caught.value)


@pytest.mark.parametrize("expert", [0, 2, 3])
@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("mixtral", ["w1"]),
        ("mixtral", ["w2"]),
        ("mixtral", ["w1", "w3"]),
        ("mixtral", ["w1", "w2", "w3"]),
        ("qwen3-moe", ["up_proj"]),
        ("deepseek-v3", ["gate_proj", "up_proj", "down_proj"]),
    ],
)
def test_a_missing_expert_is_refused_by_name(
    checkpoints: Callable[..., Path], name: str, lost: list[str], expert: int
) -> None:
    shapes = families.shapes_of(checkpoints(name))
    gone = [n for n in shapes if ".layers.1." in n and f".experts.{expert}." in n and n.split(".")[-2] in lost]
    assert len(gone) == len(lost)
    left = {n: shape for n, shape in shapes.items() if n not in gone}
    with pytest.raises(UserError, match=r"model mine .*layers\.1\.mlp\.experts\.(gate_up|down)_proj"):
        list_matrices(empty_model(checkpoints(name)), left, "mine")


def test_a_truncated_matrix_is_refused_by_name(checkpoints: Callable[..., Path]) -> None:
    shapes = {**families.shapes_of(checkpoints("llama")), "model.layers.0.mlp.up_proj.weight": (31, 16)}
    with pytest.raises(UserError, match=r"model\.layers\.0\.mlp\.up_proj\.weight"):
        list_matrices(empty_model(checkpoints("llama")), shapes, "mine")


def test_blocks_within_blocks_are_not_counted_again(checkpoints: Callable[..., Path]) -> None:
    t5 = block_prefixes(empty_model(checkpoints("t5")))
    assert t5 == [f"{part}.block.{i}" for part in ("encoder", "decoder") for i in range(2)]
    assert block_prefixes(empty_model(checkpoints("albert"))) == ["albert.encoder.albert_layer_groups.0"]


def test_a_list_of_heads_is_no_stack_of_blocks() -> None:
    layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)])
    model = nn.ModuleDict({"layers": layers, "heads": nn.ModuleList([nn.Linear(4, 9), nn.Linear(4, 9)])})
    rows = list_matrices(model, {name: tuple(p.shape) for name, p in model.named_parameters()}, "mine")
    assert [m.name for m in rows if m.pruned] == ["layers.0.0.weight", "layers.1.0.weight"]
    assert [m.reason for m in rows if m.name.startswith("heads") and len(m.shape) == 2] == [
        "linear weight outside the transformer blocks (head, pooler or projection)"
    ] * 2


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)),  # linear layers, but no stack of blocks
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
        nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)]),  # a stack without linear layers
        nn.ModuleDict({"heads": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])}),
    ],
    ids=["perceptron", "convolution", "norms", "heads"],
)
def test_an_architecture_without_prunable_layers_is_refused(model: nn.Module) -> None:
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    with pytest.raises(UserError, match=r"model mine .*none of them a linear weight.*choose a transformer"):
        list_matrices(model, shapes, "mine")


def test_the_type_of_the_weights_does_not_matter(tmp_path: Path, checkpoints: Callable[..., Path]) -> None:
    families.save("mixtral", tmp_path, torch.bfloat16)
    assert families.manifest(tmp_path) == families.manifest(checkpoints("mixtral"))


def test_shards_do_not_matter(tmp_path: Path, checkpoints: Callable[..., Path]) -> None:
    families.save("mixtral", tmp_path, shard="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert families.manifest(tmp_path) == families.manifest(checkpoints("mixtral"))


@pytest.mark.parametrize("name", ["bert", "gpt2", "mixtral"])
def test_a_manifest_is_read_as_it_was_written(tmp_path: Path, checkpoints: Callable[..., Path], name: str) -> None:
    matrices = families.manifest(checkpoints(name))
    write_manifest(matrices, tmp_path / "m.json")
    assert read_manifest(tmp_path / "m.json") == matrices
