"""Perplexity of causal language models, a token and a word, and the loss of masked ones on masked tokens."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from essential_sparsity.checkpoints.loading import check_length, load_model
from essential_sparsity.checkpoints.remote_code import own_class_name
from essential_sparsity.data.batches import Ints, padded, run_by_length
from essential_sparsity.data.prepared import Prepared
from essential_sparsity.data.tasks import Windows
from essential_sparsity.errors import UserError
from essential_sparsity.evaluation.outcomes import Outcome
from essential_sparsity.metrics.registry import compute_metric

# Where a label is this, nothing is predicted.
_IGNORED = -100


def load_causal(checkpoint: Path, device: torch.device, where: str) -> nn.Module:
    """Load a causal language model.

    Raises:
        UserError: The checkpoint's architecture has no causal head.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    fitting = "a causal language model, which this protocol needs"
    _check_head(checkpoint, "AutoModelForCausalLM", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, fitting, where)
    return load_model(AutoModelForCausalLM, checkpoint, where, dtype="auto").to(device).eval()


def load_masked(checkpoint: Path, device: torch.device, where: str) -> nn.Module:
    """Load a masked language model.

    Raises:
        UserError: The checkpoint's architecture has no head for masked tokens.
    """
    from transformers import AutoModelForMaskedLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    fitting = "a masked language model with its head, which this protocol needs"
    _check_head(checkpoint, "AutoModelForMaskedLM", MODEL_FOR_MASKED_LM_MAPPING_NAMES, fitting, where)
    return load_model(AutoModelForMaskedLM, checkpoint, where, dtype="auto").to(device).eval()


def _check_head(checkpoint: Path, auto_class: str, names: Mapping[str, Any], expected: str, where: str) -> None:
    from essential_sparsity.checkpoints.extract import architecture_class, read_config

    name = architecture_class(checkpoint).__name__
    known = {part for value in names.values() for part in ([value] if isinstance(value, str) else value)}
    if name not in {*known, own_class_name(read_config(checkpoint), auto_class)}:
        raise UserError(
            where=where,
            found=f"the architecture {name}",
            expected=expected,
            mend="pair this model with a task of another protocol, such as finetune",
        )


def _vocabulary_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each row's sum of negative log-likelihoods, (rows,), float64, over the labels that are not ignored.

    Args:
        logits: (rows, length, vocabulary).
        labels: (rows, length).
    """
    # Row by row: the logits of a batch are the largest tensor there is, and are not copied as a whole.
    sums = [
        nn.functional.cross_entropy(row.float(), wanted, ignore_index=_IGNORED, reduction="none").double().sum()
        for row, wanted in zip(logits, labels, strict=True)
    ]
    return torch.stack(sums)


@torch.no_grad()
def causal_losses(model: nn.Module, data: Prepared, batch_size: int, what: str) -> Tensor:
    """Return the sum of negative log-likelihoods (nats) of the predicted tokens of each input, (inputs,), float64.

    Of an input of ``t`` tokens the last ``predicted`` ones are predicted where there is such a column, else all but
    the first, which has no context.

    Args:
        model: A causal language model in eval mode.
        data: Inputs with the column ``input_ids``.
        batch_size: Inputs a forward pass; halved where memory does not suffice.
        what: What is done, for progress and log.
    """
    rows, device = data.ragged("input_ids"), next(model.parameters()).device
    predicted = data.numbers("predicted") if data.has("predicted") else rows.lengths - 1

    def run(chosen: Ints) -> list[Tensor]:
        ids, labels = padded(rows, chosen, 0), padded(rows, chosen, _IGNORED)[:, 1:]
        places = torch.arange(labels.shape[1])
        first = torch.from_numpy(rows.lengths[chosen] - 1 - predicted[chosen])
        labels = labels.masked_fill(places < first[:, None], _IGNORED)
        # What fills up a batch stands behind the texts: no token that counts attends to it.
        logits = model(input_ids=ids[:, :-1].to(device), use_cache=False).logits
        return [_vocabulary_losses(logits, labels.to(device))]

    return run_by_length(rows.lengths, batch_size, run, what)[0]


@torch.no_grad()
def masked_losses(model: nn.Module, data: Prepared, batch_size: int, what: str) -> Tensor:
    """Return the sum of negative log-likelihoods (nats) of the masked tokens of each window, (windows,), float64.

    Args:
        model: A masked language model in eval mode.
        data: Windows of one length with the columns ``input_ids`` and ``labels``.
        batch_size: Windows a forward pass; halved where memory does not suffice.
        what: What is done, for progress and log.
    """
    rows, labels, device = data.ragged("input_ids"), data.ragged("labels"), next(model.parameters()).device

    def run(chosen: Ints) -> list[Tensor]:
        logits = model(input_ids=padded(rows, chosen, 0).to(device)).logits
        return [_vocabulary_losses(logits, padded(labels, chosen, _IGNORED).to(device))]

    return run_by_length(rows.lengths, batch_size, run, what)[0]


def _outcome(examples: pd.DataFrame, metric: str, chance: float, where: str) -> Outcome:
    bad = ~np.isfinite(examples["loss"].to_numpy())
    if bad.any():
        raise UserError(
            where=where,
            found=f"a loss that is NaN or infinite in {int(bad.sum())} of {len(examples)} windows",
            expected="finite losses",
            mend="store the model with `dtype: float32`; if it is, the checkpoint is damaged",
        )
    value = compute_metric(metric, examples, where).value
    logging.info("%s %.4f over %d predictions", metric, value, int(examples["n"].sum()))
    return Outcome(value, int(examples["n"].sum()), chance, examples)


def _examples(ids: Ints, losses: np.ndarray, counts: np.ndarray) -> pd.DataFrame:
    """Return the examples of sums of losses: a row's loss is the mean over its predictions."""
    return pd.DataFrame(
        {"id": ids, "group": "", "label": "", "prediction": "", "score": None, "loss": losses / counts, "n": counts}
    ).astype({"score": float})


def evaluate_stream(model: nn.Module, data: Prepared, task: Windows, where: str) -> Outcome:
    """Evaluate token perplexity, as the pruning papers count it: windows that do not overlap, the mean over all tokens.

    Args:
        model: A causal language model in eval mode.
        data: What :func:`data.tokens.prepare_stream` made.
        task: Its windows and batches.
        where: What is evaluated, for messages.

    Returns:
        The perplexity, with each window's mean loss as an example.

    Raises:
        UserError: A window that is too long for the model, or a loss that is not finite.
    """
    check_length(model, task.window, "window", where)
    losses = causal_losses(model, data, task.batch_size, "perplexity").numpy()
    examples = _examples(data.numbers("id"), losses, data.ragged("input_ids").lengths - 1)
    # A model that knows nothing spreads its belief evenly over the vocabulary.
    return _outcome(examples, "perplexity", float(data.about["vocabulary"]), where)


def evaluate_documents(model: nn.Module, data: Prepared, task: Windows, where: str) -> Outcome:
    """Evaluate word perplexity: the exponential of the loss of all tokens, divided by the number of words.

    Args:
        model: A causal language model in eval mode.
        data: What :func:`data.tokens.prepare_documents` made.
        task: Its windows and batches.
        where: What is evaluated, for messages.

    Returns:
        The word perplexity, with each document's mean loss a word as an example.

    Raises:
        UserError: A window that is too long for the model, or a loss that is not finite.
    """
    check_length(model, task.window, "window", where)
    losses = causal_losses(model, data, task.batch_size, "word perplexity").numpy()
    parts = pd.DataFrame(
        {"id": data.numbers("id"), "loss": losses, "n": data.numbers("words"), "tokens": data.numbers("predicted")}
    )
    whole = parts.groupby("id", sort=True).sum()
    examples = _examples(whole.index.to_numpy(), whole["loss"].to_numpy(), whole["n"].to_numpy())
    tokens_a_word = float(whole["tokens"].sum() / whole["n"].sum())
    chance = math.exp(min(math.log(data.about["vocabulary"]) * tokens_a_word, 700.0))
    return _outcome(examples, "word_perplexity", chance, where)


def evaluate_masked(model: nn.Module, data: Prepared, task: Windows, where: str) -> Outcome:
    """Evaluate the mean loss of masked tokens, in nats.

    Args:
        model: A masked language model in eval mode.
        data: What :func:`data.tokens.prepare_masked` made.
        task: Its windows and batches.
        where: What is evaluated, for messages.

    Returns:
        The loss, with each window's mean loss as an example.

    Raises:
        UserError: A window that is too long for the model, or a loss that is not finite.
    """
    check_length(model, task.window, "window", where)
    losses = masked_losses(model, data, task.batch_size, "masked tokens").numpy()
    labels = data.ragged("labels")
    counts = np.add.reduceat((labels.values != _IGNORED).astype(np.int64), labels.offsets[:-1])
    examples = _examples(data.numbers("id"), losses, counts)
    return _outcome(examples, "masked_loss", math.log(data.about["vocabulary"]), where)


# By protocol and metric: how the model is loaded, and what is computed.
LANGUAGE_MODELLING: dict[
    tuple[str, str],
    tuple[Callable[[Path, torch.device, str], nn.Module], Callable[[nn.Module, Prepared, Windows, str], Outcome]],
] = {
    ("perplexity", "perplexity"): (load_causal, evaluate_stream),
    ("perplexity", "word_perplexity"): (load_causal, evaluate_documents),
    ("masked_tokens", "masked_loss"): (load_masked, evaluate_masked),
}
