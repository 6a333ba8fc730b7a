"""Tiny random models of many families of transformers, saved as their own authors' checkpoints are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from essential_sparsity.checkpoints.extract import empty_model
from essential_sparsity.checkpoints.layers import list_matrices
from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.checkpoints.tensors import open_weights

VOCABULARY = 50


@dataclass(frozen=True)
class Family:
    """How a tiny model of a family is built.

    Attributes:
        model: The model's class.
        config: The configuration's class.
        settings: What the configuration is given.
    """

    model: str
    config: str
    settings: Mapping[str, Any]


_ENCODER = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 64,
}  # fmt: skip
# One key-value head of width 8.
_DECODER = {**_ENCODER, "num_key_value_heads": 1, "tie_word_embeddings": False}
_VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
_T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
_EXPERTS = {**_DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}

FAMILIES: dict[str, Family] = {
    "bert": Family("BertForMaskedLM", "BertConfig", _ENCODER),
    "roberta": Family("RobertaForMaskedLM", "RobertaConfig", _ENCODER),
    "distilbert": Family(
        "DistilBertForMaskedLM", "DistilBertConfig",
        {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32,
         "max_position_embeddings": 64},
    ),
    "electra": Family("ElectraForPreTraining", "ElectraConfig", {**_ENCODER, "embedding_size": 8}),
    "albert": Family("AlbertForMaskedLM", "AlbertConfig", {**_ENCODER, "embedding_size": 8}),
    "deberta": Family(
        "DebertaForMaskedLM", "DebertaConfig", {**_ENCODER, "relative_attention": True, "pos_att_type": "c2p|p2c"},
    ),
    "opt": Family(
        "OPTForCausalLM", "OPTConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "word_embed_proj_dim": 8, "num_hidden_layers": 2, "ffn_dim": 32,
         "num_attention_heads": 2, "max_position_embeddings": 64},
    ),
    "gpt2": Family(
        "GPT2LMHeadModel", "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    ),
    "gpt-neox": Family("GPTNeoXForCausalLM", "GPTNeoXConfig", _ENCODER),
    "llama": Family("LlamaForCausalLM", "LlamaConfig", _DECODER),
    "llama-tied": Family("LlamaForCausalLM", "LlamaConfig", {**_DECODER, "tie_word_embeddings": True}),
    "olmo2": Family("Olmo2ForCausalLM", "Olmo2Config", _DECODER),
    "mistral": Family("MistralForCausalLM", "MistralConfig", _DECODER),
    "qwen2": Family("Qwen2ForCausalLM", "Qwen2Config", {**_DECODER, "tie_word_embeddings": True}),
    "qwen3": Family("Qwen3ForCausalLM", "Qwen3Config", {**_DECODER, "head_dim": 8}),
    "gemma2": Family(
        "Gemma2ForCausalLM", "Gemma2Config",
        # The first block sees four tokens back, the second all.
        {**_DECODER, "head_dim": 8, "sliding_window": 4, "tie_word_embeddings": True},
    ),
    "mixtral": Family("MixtralForCausalLM", "MixtralConfig", {**_DECODER, "num_local_experts": 4}),
    "qwen2-moe": Family(
        "Qwen2MoeForCausalLM", "Qwen2MoeConfig", {**_EXPERTS, "shared_expert_intermediate_size": 20}
    ),
    "qwen3-moe": Family("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**_EXPERTS, "head_dim": 8}),
    "deepseek-v3": Family(
        "DeepseekV3ForCausalLM", "DeepseekV3Config",
        # A block without experts, then one with experts, whose router has a correction in a buffer.
        {**_DECODER, "num_key_value_heads": 2, "moe_intermediate_size": 12, "n_routed_experts": 4,
         "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "kv_lora_rank": 8, "q_lora_rank": 8,
         "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "first_k_dense_replace": 1},
    ),
    "gpt-oss": Family("GptOssForCausalLM", "GptOssConfig", {**_DECODER, "num_local_experts": 4, "head_dim": 8}),
    "granite-moe": Family("GraniteMoeForCausalLM", "GraniteMoeConfig", {**_DECODER, "num_local_experts": 4}),
    "llama4": Family(
        "Llama4ForCausalLM", "Llama4TextConfig",
        {**_DECODER, "num_local_experts": 4, "head_dim": 8, "intermediate_size_mlp": 20},
    ),
    "phi-moe": Family("PhimoeForCausalLM", "PhimoeConfig", {**_DECODER, "num_local_experts": 4}),
    "switch": Family(
        "SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig",
        {**_T5, "num_decoder_layers": 2, "num_experts": 4, "num_sparse_encoder_layers": 1,
         "num_sparse_decoder_layers": 1, "decoder_start_token_id": 0, "router_jitter_noise": 0.0},
    ),
    "t5": Family("T5ForConditionalGeneration", "T5Config", {**_T5, "decoder_start_token_id": 0}),
    "vit": Family("ViTForImageClassification", "ViTConfig", _VISION),
    "deit": Family("DeiTForImageClassification", "DeiTConfig", _VISION),
    "beit": Family("BeitForImageClassification", "BeitConfig", {**_VISION, "use_relative_position_bias": True}),
    "vit-mae": Family(
        "ViTMAEForPreTraining", "ViTMAEConfig",
        {**_VISION, "decoder_hidden_size": 12, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
         "decoder_intermediate_size": 20},
    ),
    "clip-vision": Family("CLIPVisionModel", "CLIPVisionConfig", _VISION),
}  # fmt: skip


def build(name: str, **changes: Any) -> nn.Module:
    """Build a family's model with random weights, no two tensors alike, so that none can be taken for another.

    Args:
        name: A key of ``FAMILIES``.
        changes: Settings that differ from the family's.
    """
    family = FAMILIES[name]
    # A draw with which every expert is given some token.
    torch.manual_seed(1 + sum(name.encode()))
    config = getattr(transformers, family.config)(**{**family.settings, **changes})
    model: nn.Module = getattr(transformers, family.model)(config).eval()
    with torch.no_grad():
        for tensor in {id(t): t for t in model.state_dict(keep_vars=True).values()}.values():
            if tensor.is_floating_point():
                # Large enough for every block to matter to the next.
                tensor.add_(torch.randn_like(tensor) * 0.2)
    return model


def save(name: str, folder: Path, dtype: torch.dtype = torch.float32, shard: str = "5GB", **changes: Any) -> Path:
    """Save a family's model as transformers does, and return the folder."""
    model: Any = build(name, **changes)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a checkpoint stores."""
    with open_weights(folder) as files:
        return {name: stored.shape for name, stored in files.tensors.items()}


def manifest(folder: Path, **patterns: list[str]) -> list[Matrix]:
    """List the matrices of a checkpoint as the workflow does."""
    return list_matrices(empty_model(folder), shapes_of(folder), folder.name, **patterns)


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """Return every tensor that a checkpoint stores."""
    with open_weights(folder) as files:
        return {name: files.read(name) for name in files.tensors}


def load(folder: Path, name: str) -> Any:
    """Load a checkpoint as its users do, its experts run one by one."""
    model_class = getattr(transformers, FAMILIES[name].model)
    options = {"experts_implementation": "eager"} if "moe" in name or name in _MIXTURES else {}
    return model_class.from_pretrained(folder, **options).eval()


_MIXTURES = ("mixtral", "deepseek-v3")


def token_batches(batches: int, sequences: int, tokens: int, seed: int = 0) -> list[Tensor]:
    """Return batches of random token ids, (sequences, tokens) each; 0 and 1 stand for padding in some families."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(2, VOCABULARY, (sequences, tokens), generator=draw) for _ in range(batches)]
