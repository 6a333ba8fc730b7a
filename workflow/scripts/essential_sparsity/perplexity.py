"""Token perplexity, as the pruning papers count it: one stream of text, windows that do not overlap."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from essential_sparsity.errors import UserError
from essential_sparsity.loading import check_length, load_model, load_tokenizer
from essential_sparsity.outcomes import Outcome
from essential_sparsity.progress import progress
from essential_sparsity.remote_code import own_class_name

# Beyond this, exp() overflows a float64.
_LARGEST_EXPONENT = 709.0


def token_windows(texts: list[str], tokenizer: Any, window: int, windows: int, where: str) -> Tensor:
    """Return the first windows of the stream of texts, joined by blank lines.

    Returns:
        Token ids, (windows, window).

    Raises:
        UserError: The texts are too short.
    """
    stream: list[int] = []
    for text in texts:
        # Text by text, and only as far as needed: the tokenizer warns of, and is slow on, one very long text.
        stream += tokenizer(text + "\n\n", add_special_tokens=False)["input_ids"]
        if len(stream) >= window * windows:
            return torch.tensor(stream[: window * windows]).reshape(windows, window)
    raise UserError(
        where=where,
        found=f"{len(stream)} tokens in {len(texts)} texts",
        expected=f"{windows} windows of {window} tokens, {window * windows} in all",
        mend="lower `windows` or `window`, or use a longer text",
    )


@torch.no_grad()
def window_losses(model: nn.Module, windows: Tensor, batch_size: int) -> Tensor:
    """Return the mean negative log-likelihood (nats a token) of each window.

    The first token of a window has no context and is not predicted: a window of ``t`` tokens has ``t - 1`` predictions.

    Args:
        model: A causal language model.
        windows: Token ids, (windows, window).
        batch_size: Windows a forward pass.
    """
    device = next(model.parameters()).device
    losses: list[Tensor] = []
    batches = windows.split(batch_size)
    for batch in progress(batches, "perplexity", total=len(batches), unit="batches"):
        ids = batch.to(device)
        logits = model(input_ids=ids, use_cache=False).logits  # (batch, window, vocabulary)
        # Window by window: the logits of a batch are the largest tensor there is, and are not copied as a whole.
        nll = [torch.nn.functional.cross_entropy(row[:-1].float(), i[1:]) for row, i in zip(logits, ids, strict=True)]
        losses.append(torch.stack(nll).double().cpu())
    return torch.cat(losses)


def load_causal(checkpoint: Path, device: torch.device, where: str) -> tuple[nn.Module, Any]:
    """Load a causal language model and its tokenizer.

    Raises:
        UserError: The checkpoint's architecture has no causal head.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from essential_sparsity.checkpoints import architecture_class, read_config

    name = architecture_class(checkpoint).__name__
    own = own_class_name(read_config(checkpoint), "AutoModelForCausalLM")
    if name not in {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), own}:
        raise UserError(
            where=where,
            found=f"the architecture {name}",
            expected="a causal language model, which the protocol perplexity needs",
            mend="pair this model with a task of another protocol, such as finetune",
        )
    model = load_model(AutoModelForCausalLM, checkpoint, where, dtype="auto")
    return model.to(device).eval(), load_tokenizer(checkpoint, where)


def evaluate_perplexity(
    model: nn.Module, tokenizer: Any, texts: pd.DataFrame, task: Mapping[str, Any], where: str
) -> Outcome:
    """Evaluate token perplexity.

    Args:
        model: A causal language model in eval mode.
        tokenizer: Its tokenizer.
        texts: Columns ``text``, read as one stream, and ``split``: of a dataset with a split, ``test`` is read.
        task: ``window``, ``windows`` and ``batch_size``.
        where: What is evaluated, for messages.

    Returns:
        The perplexity, with each window's mean loss as an example.

    Raises:
        UserError: Too little text, or a loss that is not finite.
    """
    check_length(model, task["window"], "window", where)
    held_out = texts[texts["split"] == "test"]
    chosen = held_out if len(held_out) else texts
    windows = token_windows(chosen["text"].tolist(), tokenizer, task["window"], task["windows"], where)
    losses = window_losses(model, windows, task["batch_size"])
    if not bool(torch.isfinite(losses).all()):
        raise UserError(
            where=where,
            found=f"a loss that is NaN or infinite in {int((~torch.isfinite(losses)).sum())} of {len(losses)} windows",
            expected="finite losses",
            mend="store the model with `dtype: float32`; if it is, the checkpoint is damaged",
        )
    mean = float(losses.mean())
    value = math.exp(mean) if mean < _LARGEST_EXPONENT else math.inf
    logging.info("perplexity %.3f (%.4f nats a token) over %d tokens", value, mean, windows.numel())
    return Outcome(
        value=value,
        n=windows.shape[0] * (windows.shape[1] - 1),
        # A model that knows nothing spreads its belief evenly over the vocabulary.
        chance=float(len(tokenizer)),
        examples=pd.DataFrame({"id": range(len(losses)), "label": "", "prediction": "", "loss": losses.numpy()}),
    )
