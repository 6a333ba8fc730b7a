"""Fine-tuning with the mask fixed: removed weights stay zero from the first step to the evaluation."""

from __future__ import annotations

import fnmatch
import itertools
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from essential_sparsity.errors import UserError, quoted
from essential_sparsity.loading import check_length, load_model, load_tokenizer
from essential_sparsity.masks import AppliedMasks, Pruning
from essential_sparsity.outcomes import Outcome
from essential_sparsity.progress import progress

_EVAL_BATCH = 128


class MeanPoolingClassifier(nn.Module):
    """An encoder, run by its own forward, with a linear layer on the mean of its last hidden states.

    Args:
        encoder: A transformers model without a head.
        classes: Number of classes.
    """

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.config.hidden_size, classes)  # type: ignore[union-attr,arg-type]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Tensor:
        """Return logits, (batch, classes), for token ids and their mask, both (batch, length)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (batch, length, 1)
        pooled = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)  # (batch, hidden)
        return self.classifier(pooled)  # type: ignore[no-any-return]


class OwnClassifier(nn.Module):
    """A model with its architecture's own classification head, returning bare logits."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return logits, (batch, classes)."""
        return self.encoder(**inputs).logits  # type: ignore[no-any-return]


def mean_pooling(checkpoint: Path, classes: int, where: str) -> nn.Module:
    """Load a checkpoint's encoder under a mean-pooling classifier."""
    from transformers import AutoModel

    # In float32 whatever is stored: AdamW's small steps are lost in half precision.
    encoder = load_model(AutoModel, checkpoint, where, attn_implementation="eager", dtype=torch.float32)
    return MeanPoolingClassifier(encoder, classes)


def sequence_classification(checkpoint: Path, classes: int, where: str) -> nn.Module:
    """Load a checkpoint under its architecture's own classification head, as the paper does."""
    from transformers import AutoModelForSequenceClassification

    model = load_model(AutoModelForSequenceClassification, checkpoint, where, num_labels=classes, dtype=torch.float32)
    return OwnClassifier(model)


HEADS = {"mean_pooling": mean_pooling, "sequence_classification": sequence_classification}


@dataclass(frozen=True)
class Encoded:
    """Tokenised texts in the order of their length, with their classes as integers."""

    ids: list[int]
    inputs: list[dict[str, list[int]]]
    labels: Tensor

    def batch(self, rows: list[int], pad: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Return the padded inputs, each (rows, length), and the labels, (rows,)."""
        padded = pad([self.inputs[row] for row in rows], return_tensors="pt")
        return dict(padded), self.labels[rows]


def encode(frame: pd.DataFrame, classes: list[str], tokenizer: Any, max_length: int) -> Encoded:
    """Tokenise texts, shortest first."""
    encoded = tokenizer(frame["text"].tolist(), truncation=True, max_length=max_length)
    order = np.argsort([len(ids) for ids in encoded["input_ids"]], kind="stable")
    labels = torch.tensor([classes.index(label) for label in frame["label"]])
    return Encoded(
        frame["id"].to_numpy()[order].tolist(),
        [{key: encoded[key][row] for key in encoded} for row in order],
        labels[torch.from_numpy(order)],
    )


def draw_training_rows(frame: pd.DataFrame, examples: int, seed: int) -> pd.DataFrame:
    """Draw the training rows of a seed, the same for every sparsity; all of them if there are no more."""
    return frame.sample(n=min(examples, len(frame)), random_state=seed)


def bucketed_batches(n: int, batch_size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Yield batches of rows of similar length: neighbours in the order of length, batches in random order.

    The remainder is a smaller batch. The draw depends on the seed and the epoch alone.
    """
    generator = np.random.default_rng([seed, epoch])
    # A shift of the cut points, so that the same rows do not meet in every epoch.
    shift = int(generator.integers(batch_size))
    edges = sorted({0, *range(shift, n, batch_size), n})
    spans = list(itertools.pairwise(edges))
    for i in generator.permutation(len(spans)):
        yield list(range(*spans[i]))


def freeze(model: nn.Module, patterns: list[str], where: str) -> list[str]:
    """Stop the training of the encoder's parameters whose names match a pattern; return their names.

    Raises:
        UserError: A pattern matches nothing, or nothing is left to train.
    """
    frozen = []
    names = dict(model.encoder.named_parameters())  # type: ignore[union-attr]
    for pattern in patterns:
        matched = [name for name in names if fnmatch.fnmatch(name, pattern)]
        if not matched:
            raise UserError(
                where=f"{where}.freeze",
                found=f"the pattern '{pattern}', which matches no parameter",
                expected=f"a pattern for names such as {', '.join(list(names)[:6])}",
                mend="correct the pattern",
            )
        for name in matched:
            names[name].requires_grad_(False)
        frozen += matched
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(
            where=f"{where}.freeze",
            found=f"{quoted(patterns)}, which leave no parameter to train",
            expected="at least one parameter that no pattern matches",
            mend="remove a pattern",
        )
    return frozen


def evaluate_finetuned(
    checkpoint: Path, pruning: Pruning, rows: pd.DataFrame, task: Mapping[str, Any], seed: int,
    device: torch.device, where: str,
) -> tuple[Outcome, float]:  # fmt: skip
    """Fine-tune a masked checkpoint and test it; AdamW, learning rate falling linearly to zero, clipping at 1.

    Args:
        checkpoint: The checkpoint's folder.
        pruning: What is removed of the encoder.
        rows: Columns ``id, text, label, split``.
        task: The registry entry.
        seed: Draws the training rows, their order and the head.
        device: Where to compute.
        where: What is evaluated, for messages.

    Returns:
        The outcome on the split ``test`` and the sparsity counted in the model that was tested.

    Raises:
        UserError: Fewer than two classes, a loss that is not finite, or a pattern that freezes nothing.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    classes = sorted(rows["label"].dropna().unique())
    if len(classes) < 2:
        raise UserError(where, f"{len(classes)} class in the data", "at least two", "correct the dataset's classes")
    tokenizer = load_tokenizer(checkpoint, where)
    if tokenizer.pad_token is None:
        raise UserError(
            where=f"{where}, checkpoint {checkpoint}",
            found="a tokenizer without a pad token",
            expected="one with a pad token, since texts of different length are batched",
            mend="add `pad_token` to the model's tokenizer_config.json",
        )
    train_rows = draw_training_rows(rows[rows["split"] == "train"], task["train_examples"], seed)
    train = encode(train_rows, classes, tokenizer, task["max_length"])
    test = encode(rows[rows["split"] == "test"], classes, tokenizer, task["max_length"])

    torch.manual_seed(seed)
    model = HEADS[task["head"]](checkpoint, len(classes), where).to(device)
    check_length(model.encoder, task["max_length"], "max_length", where)
    freeze(model, task["freeze"], where)
    applied = pruning.apply(model.encoder)  # type: ignore[arg-type]
    _train(model, applied, train, tokenizer.pad, task, seed, where)
    realised = applied.realised_sparsity()
    losses, predictions = _predict(model, test, tokenizer.pad)
    correct = predictions == test.labels
    share = torch.bincount(test.labels, minlength=len(classes)).max() / len(test.labels)
    logging.info("accuracy %.4f on %d rows; majority class %.4f", float(correct.double().mean()), len(correct), share)
    examples = pd.DataFrame(
        {
            "id": test.ids,
            "label": [classes[i] for i in test.labels.tolist()],
            "prediction": [classes[i] for i in predictions.tolist()],
            "loss": losses.double().numpy(),
        }
    )
    return Outcome(float(correct.double().mean()), len(correct), float(share), examples), realised


def _train(
    model: nn.Module, applied: AppliedMasks, data: Encoded, pad: Any, task: Mapping[str, Any], seed: int, where: str
) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        trained, lr=task["learning_rate"], eps=1e-8, weight_decay=task["weight_decay"], fused=True
    )
    plan = [b for e in range(task["epochs"]) for b in bucketed_batches(len(data.labels), task["batch_size"], seed, e)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / len(plan))
    device = trained[0].device
    model.train()
    for batch in progress(plan, "fine-tuning", total=len(plan), unit="steps"):
        inputs, labels = data.batch(batch, pad)
        logits = model(**{key: value.to(device) for key, value in inputs.items()})
        loss = torch.nn.functional.cross_entropy(logits, labels.to(device))
        if not math.isfinite(float(loss.detach())):
            raise UserError(
                where=where,
                found=f"a loss of {float(loss.detach())} in fine-tuning",
                expected="a finite loss",
                mend="lower the task's `learning_rate`, or check the checkpoint's weights",
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        # Before clipping: what is removed has no say in how far the kept weights move.
        applied.hold_gradients()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        applied.hold()
        schedule.step()


@torch.no_grad()
def _predict(model: nn.Module, data: Encoded, pad: Any) -> tuple[Tensor, Tensor]:
    """Return each row's cross-entropy and predicted class."""
    model.eval()
    device = next(model.parameters()).device
    losses, predictions = [], []
    for start in range(0, len(data.labels), _EVAL_BATCH):
        inputs, labels = data.batch(list(range(start, min(start + _EVAL_BATCH, len(data.labels)))), pad)
        logits = model(**{key: value.to(device) for key, value in inputs.items()}).cpu().float()
        losses.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none"))
        predictions.append(logits.argmax(dim=1))
    return torch.cat(losses), torch.cat(predictions)
