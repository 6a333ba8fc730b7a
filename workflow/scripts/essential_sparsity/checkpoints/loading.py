"""Loading checkpoints through transformers, with messages for people and nothing filled in at random unnoticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

# First of all: what it leaves out comes with the first model.
from essential_sparsity.checkpoints.extract import read_config
from essential_sparsity.checkpoints.layers import block_prefixes, missing_weights
from essential_sparsity.checkpoints.remote_code import is_trusted
from essential_sparsity.errors import UserError, first_line

# Architectures that drop parts of their input at random and have no heads, by what their encoder is without that. A
# masked autoencoder's is a ViT with tensors of the same names (arXiv 2111.06377).
_PLAIN_ENCODERS = {"vit_mae": "vit"}


def load_model(auto_class: Any, checkpoint: Path, where: str, **options: Any) -> nn.Module:
    """Load a checkpoint under one of transformers' auto classes.

    A new head may start at random; the transformer blocks, and everything in a model without a new head, may not. Of a
    masked autoencoder the encoder is loaded, which sees all patches.

    Args:
        auto_class: Such as ``AutoModel``.
        checkpoint: The checkpoint's folder.
        where: What is evaluated, for messages.
        options: What ``from_pretrained`` takes besides.

    Raises:
        UserError: The class does not fit the checkpoint, or weights of the blocks are missing.
    """
    options = _without_masking(read_config(checkpoint), options)
    try:
        model, report = auto_class.from_pretrained(
            checkpoint, output_loading_info=True, trust_remote_code=is_trusted(checkpoint), **options
        )
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise UserError(
            where=where,
            found=f"that {auto_class.__name__} cannot load it ({first_line(error)})",
            expected="a checkpoint whose architecture fits the task's protocol",
            mend="pair this model with a task of another protocol, or correct its config.json",
        ) from error
    inside = tuple(f"{prefix}." for prefix in block_prefixes(model))
    lost = sorted(name for name in report["missing_keys"] if name.startswith(inside))
    if lost:
        raise missing_weights(where, lost)
    loaded: nn.Module = model
    return loaded


def _without_masking(config: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that load a plain encoder in place of one that masks its input; of others, the same."""
    from transformers import AutoConfig

    plain = _PLAIN_ENCODERS.get(config.model_type)
    if plain is None:
        return options
    own = AutoConfig.for_model(plain)
    shared = {key: value for key, value in config.to_dict().items() if hasattr(own, key) and key != "model_type"}
    # What belongs to a configuration is set there: beside one, from_pretrained takes it for the model's own.
    settings = {key: value for key, value in options.items() if hasattr(own, key) and key != "dtype"}
    others = {key: value for key, value in options.items() if key not in settings}
    return {**others, "config": AutoConfig.for_model(plain, **{**shared, **settings})}


def load_tokenizer(checkpoint: Path, where: str) -> Any:
    """Load a checkpoint's tokenizer.

    Raises:
        UserError: There is none beside the weights, or transformers cannot read it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=is_trusted(checkpoint))
    except (ValueError, KeyError, OSError, TypeError, AttributeError) as error:
        raise UserError(
            where=where,
            found=f"no tokenizer that can be loaded ({first_line(error)})",
            expected="the tokenizer's files beside the weights",
            mend="put tokenizer.json and tokenizer_config.json into the model's folder",
        ) from error


def check_length(model: Any, length: int, key: str, where: str) -> None:
    """Check that a model has a position for every token of a sequence.

    Raises:
        UserError: It has fewer.
    """
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if positions is not None and length > positions:
        raise UserError(
            where=f"{where}, key {key}",
            found=f"{length} tokens",
            expected=f"at most {positions}, the positions of the model",
            mend=f"write `{key}: {positions}` or less",
        )
